/* Two halves of a console log: see halves.h. */
#include "sys/halves.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MARK "user.blix.console" /* "START RUN" */

void half_mark(int fd, uint64_t start, uint64_t run)
{
	char text[48];

	(void)snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64, start, run);
	(void)fsetxattr(fd, MARK, text, strlen(text), 0);
}

static bool mark_read(struct half *half)
{
	char text[48];
	ssize_t n = fgetxattr(half->fd, MARK, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	return n > 0 && sscanf(text, "%" SCNu64 " %" SCNu64, &half->start, &half->run) == 2;
}

static void half_open(int dirfd, const char *name, struct half *ret)
{
	int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	cleanup(closep) int fd = openat(dirfd, name, flags);
	struct stat st;

	*ret = (struct half){.fd = -1};
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	ret->fd = fd;
	ret->size = (uint64_t)st.st_size;
	fd = -1;
}

/* The newer half first: when they move in between, both are the same, and that is harmless. */
void halves_open(int dirfd, const char *name, struct halves *ret)
{
	cleanup(freep) char *before = xasprintf("%s.1", name);

	half_open(dirfd, name, &ret->now);
	half_open(dirfd, before, &ret->before);
	if (ret->before.fd >= 0)
		(void)mark_read(&ret->before);
	if (ret->now.fd < 0 || !mark_read(&ret->now))
		ret->now.start = ret->now.run = ret->before.start + ret->before.size;
}

void halves_close(struct halves *halves)
{
	if (halves->now.fd >= 0)
		(void)close(halves->now.fd);
	if (halves->before.fd >= 0)
		(void)close(halves->before.fd);
}

uint64_t halves_end(const struct halves *halves)
{
	return halves->now.start + halves->now.size;
}

uint64_t halves_run(const struct halves *halves)
{
	const struct half *now = &halves->now, *before = &halves->before;
	uint64_t oldest = before->fd >= 0 ? before->start : now->start;

	return now->run > oldest ? now->run : oldest;
}

static size_t half_read(const struct half *half, uint64_t position, char *bytes, size_t n)
{
	ssize_t got = pread(half->fd, bytes, n, (off_t)(position - half->start));

	return got > 0 ? (size_t)got : 0;
}

size_t halves_read(const struct halves *halves, uint64_t *position, char *bytes, size_t n)
{
	const struct half *now = &halves->now, *before = &halves->before;

	if (*position > halves_end(halves))
		*position = halves_run(halves);
	if (before->fd >= 0 && *position < before->start + before->size) {
		if (*position < before->start)
			*position = before->start;
		if (*position < now->start)
			return half_read(before, *position, bytes, n);
	}
	if (*position < now->start)
		*position = now->start;
	return now->fd >= 0 ? half_read(now, *position, bytes, n) : 0;
}
