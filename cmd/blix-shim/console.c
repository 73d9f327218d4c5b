/* The console log. It never holds more than its maximum: when FILE has half of it, FILE becomes
 * FILE.1 (replacing the one before) and a new FILE begins, which says where it stands in the whole
 * (sys/halves.h). A full disk drops output and nothing
 * else: the guest's serial port must never block on the log, and the program never die of it. */
#include "shim.h"

#include "base/alloc.h"
#include "sys/halves.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int console_reopen(struct console *c)
{
	struct stat st;
	int fd = openat(c->dirfd, c->name,
	                O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY |
	                        O_CLOEXEC,
	                0640);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		(void)close(fd);
		return -EINVAL;
	}
	c->fd = fd;
	c->size = (uint64_t)st.st_size;
	half_mark(fd, c->start, c->run);
	return 0;
}

int console_open(struct console *c, const char *path, uint64_t max, struct blix_error *err)
{
	const char *slash = strrchr(path, '/');
	cleanup(freep) char *dir =
		slash == NULL ? xstrdup(".") : xstrndup(path, (size_t)(slash - path) + 1);
	struct halves found;
	int rc;

	c->fd = -1;
	c->half = max / 2;
	c->name = xstrdup(slash == NULL ? path : slash + 1);
	c->name_old = xasprintf("%s.1", c->name);
	c->dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (c->dirfd < 0)
		return blix_fail_sys(err, errno, "open directory of %s", path);
	halves_open(c->dirfd, c->name, &found);
	c->start = found.now.start;
	c->run = found.now.run;
	halves_close(&found);
	rc = console_reopen(c);
	if (rc < 0 && rc != -ENOSPC && rc != -EDQUOT)
		return blix_fail_sys(err, -rc, "open %s", path);
	return 0;
}

void console_done(struct console *c)
{
	free(c->name);
	free(c->name_old);
	if (c->fd >= 0)
		(void)close(c->fd);
	if (c->dirfd >= 0)
		(void)close(c->dirfd);
}

static void console_rotate(struct console *c)
{
	(void)close(c->fd);
	c->fd = -1;
	c->start += c->size;
	if (renameat(c->dirfd, c->name, c->dirfd, c->name_old) < 0)
		(void)unlinkat(c->dirfd, c->name, 0);
}

static void console_append(struct console *c, const char *data, size_t n)
{
	if (c->fd >= 0 && c->size + n > c->half)
		console_rotate(c);
	if (c->fd < 0 && console_reopen(c) < 0)
		return;
	while (n > 0) {
		ssize_t done = write(c->fd, data, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return;
		c->size += (uint64_t)done;
		data += done;
		n -= (size_t)done;
	}
}

void console_write(struct console *c, const char *data, size_t n)
{
	while (n > 0) {
		size_t part = n < c->half ? n : (size_t)c->half;

		console_append(c, data, part);
		data += part;
		n -= part;
	}
}
