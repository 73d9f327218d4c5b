/* Whole-file helpers: see file.h. */
#include "sys/file.h"

#include "base/alloc.h"
#include "sys/crash.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

static int read_all(int fd, const char *name, struct buf *out, struct blix_error *err)
{
	for (;;) {
		char *room =
			buf_room(out, out->cap - out->len < 65536 ? out->cap - out->len : 65536);
		ssize_t n;
		char more;

		if (room == NULL)
			return blix_fail(err, BLIX_E_NOMEM, "read %s: out of memory", name);
		n = out->cap == out->len
		            ? read(fd, &more, 1)
		            : read(fd, room,
		                   out->cap - out->len < 65536 ? out->cap - out->len : 65536);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return blix_fail_sys(err, errno, "read %s", name);
		if (n == 0)
			return 0;
		if (out->cap == out->len)
			return blix_fail(err, BLIX_E_TOOBIG, "%s is larger than %zu bytes", name,
			                 out->cap);
		buf_grew(out, (size_t)n);
	}
}

int file_read_at(int dirfd, const char *name, struct buf *out, struct blix_error *err)
{
	cleanup(closep) int fd = -1;
	struct stat st;

	fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return blix_fail_sys(err, errno, "open %s", name);
	if (fstat(fd, &st) < 0)
		return blix_fail_sys(err, errno, "stat %s", name);
	if (!S_ISREG(st.st_mode))
		return blix_fail(err, BLIX_E_INVALID, "%s is not a regular file", name);
	return read_all(fd, name, out, err);
}

int file_read(const char *path, struct buf *out, struct blix_error *err)
{
	cleanup(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return blix_fail_sys(err, errno, "open %s", path);
	return read_all(fd, path, out, err);
}

static int sync_parent(const char *path, struct blix_error *err)
{
	cleanup(freep) char *parent = xstrdup(path);
	char *slash = strrchr(parent, '/');
	cleanup(closep) int fd = -1;

	if (slash != NULL)
		slash[slash == parent ? 1 : 0] = '\0';
	fd = open(slash != NULL ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return blix_fail_sys(err, errno, "sync directory of %s", path);
	crash_point("file-directory-synced");
	return 0;
}

static int write_all(int fd, const char *data, size_t n, bool durable)
{
	while (n > 0) {
		ssize_t done = write(fd, data, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		data += done;
		n -= (size_t)done;
	}
	return durable && fsync(fd) < 0 ? -errno : 0;
}

static int replace(const char *path, const void *data, size_t n, mode_t mode, bool durable,
                   struct blix_error *err)
{
	cleanup(freep) char *tmp = xasprintf("%s.tmp", path);
	cleanup(closep) int fd = -1;
	int rc;

	(void)unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return blix_fail_sys(err, errno, "create %s", tmp);
	rc = write_all(fd, data, n, durable);
	crash_point("file-written");
	if (rc == 0 && rename(tmp, path) < 0)
		rc = -errno;
	crash_point("file-renamed");
	if (rc < 0) {
		(void)unlink(tmp);
		return blix_fail_sys(err, -rc, "write %s", path);
	}
	return durable ? sync_parent(path, err) : 0;
}

int file_write(const char *path, const void *data, size_t n, mode_t mode, struct blix_error *err)
{
	return replace(path, data, n, mode, true, err);
}

int file_put(const char *path, const void *data, size_t n, mode_t mode, struct blix_error *err)
{
	return replace(path, data, n, mode, false, err);
}

int file_make_dirs(const char *path, mode_t mode, struct blix_error *err)
{
	cleanup(freep) char *copy = xstrdup(path);
	struct stat st;

	for (char *p = copy + 1; *p != '\0'; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return blix_fail_sys(err, errno, "create directory %s", copy);
		*p = '/';
	}
	if (mkdir(copy, mode) < 0 && errno != EEXIST)
		return blix_fail_sys(err, errno, "create directory %s", path);
	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return blix_fail(err, BLIX_E_IO, "%s is not a directory", path);
	return 0;
}

int file_remove_tree(const char *path, struct blix_error *err)
{
	char *roots[] = {(char *)(uintptr_t)path, NULL};
	FTS *fts;
	FTSENT *entry;
	int sys = 0;

	fts = fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
	if (fts == NULL)
		return blix_fail_sys(err, errno, "remove %s", path);
	while (sys == 0 && (entry = fts_read(fts)) != NULL) {
		if (entry->fts_info == FTS_D)
			continue;
		if (entry->fts_info == FTS_ERR || entry->fts_info == FTS_DNR)
			sys = entry->fts_errno;
		else if (entry->fts_info == FTS_NS)
			sys = entry->fts_errno == ENOENT ? 0 : entry->fts_errno;
		else if (remove(entry->fts_accpath) < 0 && errno != ENOENT)
			sys = errno;
	}
	(void)fts_close(fts);
	return sys == 0 ? 0 : blix_fail_sys(err, sys, "remove %s", path);
}

int file_link(const char *target, const char *path, struct blix_error *err)
{
	cleanup(freep) char *tmp = xasprintf("%s.tmp", path);

	(void)unlink(tmp);
	if (symlink(target, tmp) < 0)
		return blix_fail_sys(err, errno, "link %s", tmp);
	crash_point("file-linked");
	if (rename(tmp, path) < 0) {
		int sys = errno;

		(void)unlink(tmp);
		return blix_fail_sys(err, sys, "link %s", path);
	}
	crash_point("file-link-renamed");
	return 0;
}

int file_read_link(const char *path, char *out, size_t n, struct blix_error *err)
{
	ssize_t got = readlink(path, out, n);

	if (got < 0)
		return blix_fail_sys(err, errno, "read link %s", path);
	if ((size_t)got >= n)
		return blix_fail(err, BLIX_E_TOOBIG, "link %s is too long", path);
	out[got] = '\0';
	return 0;
}

bool file_exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

int file_lock(const char *path, int *ret_fd, struct blix_error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	cleanup(closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return blix_fail_sys(err, errno, "open %s", path);
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
		if (errno == EAGAIN || errno == EACCES)
			return blix_fail(err, BLIX_E_BUSY, "%s is held by another process", path);
		return blix_fail_sys(err, errno, "lock %s", path);
	}
	*ret_fd = fd;
	fd = -1;
	return 0;
}
