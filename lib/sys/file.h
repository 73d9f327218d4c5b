/* Files whole: read with a cap, written so that a crash leaves the old or the new, removed as
 * trees. Paths are absolute or relative to the working directory; a symlink as the last part is
 * refused by file_read and by file_remove_tree, which never leaves the tree it was given. */
#ifndef BLIX_SYS_FILE_H
#define BLIX_SYS_FILE_H

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>
#include <unistd.h>

static inline void closep(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
}

/* Appends the file to *out, whose cap bounds it (-BLIX_E_TOOBIG beyond). */
int file_read(const char *path, struct buf *out, struct blix_error *err);
/* The same, never following a symlink in the last part nor reading anything but a regular file. */
int file_read_at(int dirfd, const char *name, struct buf *out, struct blix_error *err);
/* Writes PATH by way of PATH.tmp: write, fsync, rename, fsync of the directory. */
int file_write(const char *path, const void *data, size_t n, mode_t mode, struct blix_error *err);
/* The same without fsync, for what can be made again: readers see the old or the new, a crash of
 * the host may lose both. */
int file_put(const char *path, const void *data, size_t n, mode_t mode, struct blix_error *err);
/* mkdir -p; existing directories keep their mode. */
int file_make_dirs(const char *path, mode_t mode, struct blix_error *err);
/* rm -rf of a tree, without crossing mounts or following links; absent is success. */
int file_remove_tree(const char *path, struct blix_error *err);
/* Replaces the symlink at `path` by one to `target`, atomically. */
int file_link(const char *target, const char *path, struct blix_error *err);
/* readlink into out (n bytes); -BLIX_E_NOTFOUND when absent. */
int file_read_link(const char *path, char *out, size_t n, struct blix_error *err);
bool file_exists(const char *path);
/* Takes an exclusive OFD lock on `path` (created 0600) or fails with -BLIX_E_BUSY. *ret_fd holds
 * it. */
int file_lock(const char *path, int *ret_fd, struct blix_error *err);

#endif
