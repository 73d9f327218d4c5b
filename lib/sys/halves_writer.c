/* The writer of a console log: see halves.h. A full disk drops output and nothing else: a guest's
 * serial port must never block on the log, and its keeper never die of it. */
#include "sys/halves.h"

#include "base/alloc.h"
#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int writer_reopen(struct halves_writer *w)
{
	struct stat st;
	int fd = openat(w->dirfd, w->name,
	                O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY |
	                        O_CLOEXEC,
	                0640);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		(void)close(fd);
		return -EINVAL;
	}
	w->fd = fd;
	w->size = (uint64_t)st.st_size;
	half_mark(fd, w->start, w->run);
	return 0;
}

int halves_writer_open(struct halves_writer *w, const char *path, uint64_t max,
                       struct blix_error *err)
{
	const char *slash = strrchr(path, '/');
	cleanup(freep) char *dir =
		slash == NULL ? xstrdup(".") : xstrndup(path, (size_t)(slash - path) + 1);
	struct halves found;
	int rc;

	w->fd = -1;
	w->half = max / 2;
	w->name = xstrdup(slash == NULL ? path : slash + 1);
	w->name_old = xasprintf("%s.1", w->name);
	w->dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (w->dirfd < 0)
		return blix_fail_sys(err, errno, "open directory of %s", path);
	halves_open(w->dirfd, w->name, &found);
	w->start = found.now.start;
	w->run = found.now.run;
	halves_close(&found);
	rc = writer_reopen(w);
	if (rc < 0 && rc != -ENOSPC && rc != -EDQUOT)
		return blix_fail_sys(err, -rc, "open %s", path);
	return 0;
}

void halves_writer_done(struct halves_writer *w)
{
	free(w->name);
	free(w->name_old);
	if (w->fd >= 0)
		(void)close(w->fd);
	if (w->dirfd >= 0)
		(void)close(w->dirfd);
}

static void writer_rotate(struct halves_writer *w)
{
	(void)close(w->fd);
	w->fd = -1;
	w->start += w->size;
	if (renameat(w->dirfd, w->name, w->dirfd, w->name_old) < 0)
		(void)unlinkat(w->dirfd, w->name, 0);
}

static void writer_append(struct halves_writer *w, const char *data, size_t n)
{
	if (w->fd >= 0 && w->size + n > w->half)
		writer_rotate(w);
	if (w->fd < 0 && writer_reopen(w) < 0)
		return;
	while (n > 0) {
		ssize_t done = write(w->fd, data, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return;
		w->size += (uint64_t)done;
		data += done;
		n -= (size_t)done;
	}
}

void halves_writer_write(struct halves_writer *w, const char *data, size_t n)
{
	while (n > 0) {
		size_t part = n < w->half ? n : (size_t)w->half;

		writer_append(w, data, part);
		data += part;
		n -= part;
	}
}
