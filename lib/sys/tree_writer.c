/* The writing half of tree.h. A file is written under a name of its own beside its place and
 * renamed when it is whole; the mode and time of a new directory are set at the end, since a
 * directory without the write bit could not be filled. */
#include "sys/tree.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "sys/file.h"
#include "sys/tree_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PART ".blix-part" /* one copy at a time writes into a directory entry */

struct made {
	char *path;
	mode_t mode;
	int64_t mtime;
};

struct entry {
	enum tree_type type;
	mode_t mode;
	int64_t mtime;
	uint64_t left; /* bytes that are still to come */
	char *path;    /* below `above`, with the destination's own name */
};

struct tree_writer {
	int above;         /* the directory of the destination */
	char *base;        /* its name there */
	struct buf head;   /* of the entry that is coming */
	struct entry now;  /* path NULL: none */
	struct buf target; /* of a link */
	int parent;        /* of `now`, while it is a file */
	char *name, *part; /* there */
	int fd;
	bool first, ended;
	struct made *made;
	size_t n_made, size_made;
	struct tree_counts counts;
};

static int writer_place(struct tree_writer *w, const char *path, const char *name,
                        struct blix_error *err)
{
	cleanup(freep) char *whole = NULL;
	cleanup(freep) char *dir = NULL;
	struct stat st;

	if (name[0] != '\0' && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		whole = xasprintf("%s/%s", path, name);
	else
		whole = xstrdup(path);
	dir = xstrdup(whole);
	w->base = xstrdup(basename(whole));
	if (strcmp(w->base, "/") == 0 || strcmp(w->base, ".") == 0 || strcmp(w->base, "..") == 0)
		return blix_fail(err, BLIX_E_REFUSED, "%s: name the copy itself", path);
	w->above = open(dirname(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return w->above >= 0 ? 0 : blix_fail_sys(err, errno, "%s", dir);
}

int tree_writer_open(const char *path, const char *name, struct tree_writer **ret,
                     struct blix_error *err)
{
	struct tree_writer *w;
	int rc;

	if (path[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
	    strcmp(name, "..") == 0)
		return blix_fail(err, BLIX_E_INVALID, "no place for a copy: '%s', '%s'", path,
		                 name);
	w = xcalloc(1, sizeof(*w));
	w->above = w->parent = w->fd = -1;
	w->first = true;
	buf_init(&w->head, TREE_HEADER + LIMIT_TREE_PATH);
	buf_init(&w->target, LIMIT_TREE_PATH);
	rc = writer_place(w, path, name, err);
	if (rc < 0) {
		tree_writer_free(w);
		return rc;
	}
	*ret = w;
	return 0;
}

static void writer_settle(struct tree_writer *w)
{
	if (w->part != NULL && w->fd >= 0)
		(void)unlinkat(w->parent, w->part, 0);
	closep(&w->fd);
	closep(&w->parent);
	w->fd = w->parent = -1;
	free(take(w->name));
	free(take(w->part));
	free(take(w->now.path));
}

void tree_writer_free(struct tree_writer *w)
{
	if (w == NULL)
		return;
	writer_settle(w);
	for (size_t i = 0; i < w->n_made; i++)
		free(w->made[i].path);
	free(w->made);
	closep(&w->above);
	buf_done(&w->head);
	buf_done(&w->target);
	free(w->base);
	free(w);
}

static int path_check(const char *path, size_t n, bool first, struct blix_error *err)
{
	if ((n == 0) != first || memchr(path, '\0', n) != NULL)
		return blix_fail(err, BLIX_E_CORRUPT, "a copy with a bad path");
	for (size_t at = 0; at < n;) {
		const char *slash = memchr(path + at, '/', n - at);
		size_t part = slash == NULL ? n - at : (size_t)(slash - path) - at;
		bool dots = part <= 2 && memcmp(path + at, "..", part) == 0;

		if (part == 0 || dots || at + part + 1 == n)
			return blix_fail(err, BLIX_E_CORRUPT, "a copy with a path that leads out");
		at += part + 1;
	}
	return 0;
}

/* A directory below `above`, reached through no symbolic link. */
static int open_below(const struct tree_writer *w, const char *path, struct blix_error *err)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	long fd = syscall(SYS_openat2, w->above, path, &how, sizeof(how));

	return fd >= 0 ? (int)fd : blix_fail_sys(err, errno, "%s", path);
}

/* Opens the directory that holds the entry and splits its path. */
static int writer_enter(struct tree_writer *w, struct blix_error *err)
{
	cleanup(freep) char *dir = xstrdup(w->now.path);
	cleanup(freep) char *name = xstrdup(w->now.path);
	int fd = open_below(w, dirname(dir), err);

	if (fd < 0)
		return fd;
	w->parent = fd;
	w->name = xstrdup(basename(name));
	w->part = xasprintf("%.200s" PART, w->name);
	return 0;
}

static int writer_directory(struct tree_writer *w, struct blix_error *err)
{
	struct stat st;

	if (mkdirat(w->parent, w->name, 0700) < 0) {
		if (errno != EEXIST || fstatat(w->parent, w->name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISDIR(st.st_mode))
			return blix_fail_sys(err, errno, "%s", w->now.path);
		return 0; /* one that was there keeps its mode */
	}
	if (w->n_made == LIMIT_TREE_DIRECTORIES)
		return blix_fail(err, BLIX_E_TOOBIG, "more than %u directories in one copy",
		                 LIMIT_TREE_DIRECTORIES);
	if (w->n_made == w->size_made) {
		w->size_made = w->size_made == 0 ? 16 : 2 * w->size_made;
		w->made = xreallocarray(w->made, w->size_made, sizeof(*w->made));
	}
	w->made[w->n_made++] = (struct made){xstrdup(w->now.path), w->now.mode, w->now.mtime};
	return 0;
}

static int writer_open_part(struct tree_writer *w, struct blix_error *err)
{
	(void)unlinkat(w->parent, w->part, 0);
	w->fd = openat(w->parent, w->part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
	               0600);
	return w->fd >= 0 ? 0 : blix_fail_sys(err, errno, "%s", w->now.path);
}

/* The entry is complete: it takes its place. */
static int writer_finish(struct tree_writer *w, struct blix_error *err)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = w->now.mtime}};
	int rc = 0;

	if (w->now.type == TREE_FILE) {
		rc = fchmod(w->fd, w->now.mode);
		if (rc == 0)
			rc = futimens(w->fd, times);
	} else if (w->now.type == TREE_LINK) {
		(void)unlinkat(w->parent, w->part, 0);
		rc = symlinkat(w->target.data == NULL ? "" : w->target.data, w->parent, w->part);
	}
	if (rc == 0 && w->now.type != TREE_DIRECTORY)
		rc = renameat(w->parent, w->part, w->parent, w->name);
	if (rc < 0)
		return blix_fail_sys(err, errno, "%s", w->now.path);
	w->counts.files++;
	free(take(w->part));
	writer_settle(w);
	buf_clear(&w->target);
	return 0;
}

static int writer_begin(struct tree_writer *w, struct blix_error *err)
{
	int rc = writer_enter(w, err);

	if (rc == 0 && w->now.type == TREE_DIRECTORY)
		rc = writer_directory(w, err);
	else if (rc == 0 && w->now.type == TREE_FILE)
		rc = writer_open_part(w, err);
	return rc == 0 && w->now.left == 0 ? writer_finish(w, err) : rc;
}

/* The head is complete. */
static int writer_head(struct tree_writer *w, struct blix_error *err)
{
	const char *head = w->head.data;
	const char *path = head + TREE_HEADER;
	size_t n = (size_t)tree_get(head + 21, 2);
	int rc;

	if (head[0] == TREE_END) {
		w->ended = true;
		return 0;
	}
	w->now.type = (enum tree_type)head[0];
	w->now.mode = (mode_t)tree_get(head + 1, 4) & 0777;
	w->now.mtime = (int64_t)tree_get(head + 5, 8);
	w->now.left = tree_get(head + 13, 8);
	rc = path_check(path, n, w->first, err);
	if (rc < 0)
		return rc;
	if ((w->now.type == TREE_DIRECTORY && w->now.left != 0) ||
	    (w->now.type == TREE_LINK && w->now.left >= LIMIT_TREE_PATH))
		return blix_fail(err, BLIX_E_CORRUPT, "a copy with a bad size");
	w->now.path = n == 0 ? xstrdup(w->base) : xasprintf("%s/%.*s", w->base, (int)n, path);
	w->first = false;
	buf_clear(&w->head);
	return writer_begin(w, err);
}

/* Takes what is missing of a head; returns how much, or an error. */
static int writer_take_head(struct tree_writer *w, const char *data, size_t n, size_t *ret_n,
                            struct blix_error *err)
{
	size_t need = TREE_HEADER;

	if (w->head.len >= TREE_HEADER)
		need += (size_t)tree_get(w->head.data + 21, 2);
	need -= w->head.len;
	n = n < need ? n : need;
	(void)buf_add(&w->head, data, n);
	*ret_n = n;
	if (w->head.len < TREE_HEADER)
		return 0;
	if (w->head.data[0] < TREE_DIRECTORY || w->head.data[0] > TREE_END ||
	    tree_get(w->head.data + 21, 2) >= LIMIT_TREE_PATH)
		return blix_fail(err, BLIX_E_CORRUPT, "this is no copy of files");
	if (w->head.len < TREE_HEADER + (size_t)tree_get(w->head.data + 21, 2))
		return 0;
	return writer_head(w, err);
}

static int writer_take_contents(struct tree_writer *w, const char *data, size_t n, size_t *ret_n,
                                struct blix_error *err)
{
	ssize_t put = (ssize_t)(n < w->now.left ? n : (size_t)w->now.left);

	if (w->now.type == TREE_LINK) {
		(void)buf_add(&w->target, data, (size_t)put);
	} else {
		put = TEMP_FAILURE_RETRY(write(w->fd, data, (size_t)put));
		if (put < 0)
			return blix_fail_sys(err, errno, "%s", w->now.path);
		w->counts.bytes += (uint64_t)put;
	}
	w->now.left -= (uint64_t)put;
	*ret_n = (size_t)put;
	return w->now.left == 0 ? writer_finish(w, err) : 0;
}

int tree_writer_write(struct tree_writer *w, const void *data, size_t n, struct blix_error *err)
{
	const char *at = data;
	int rc = 0;

	while (rc == 0 && n > 0) {
		size_t used = 0;

		if (w->ended)
			return blix_fail(err, BLIX_E_CORRUPT, "a copy that goes on after its end");
		rc = (w->now.path != NULL ? writer_take_contents : writer_take_head)(w, at, n,
		                                                                     &used, err);
		at += used;
		n -= used;
	}
	return rc;
}

int tree_writer_end(struct tree_writer *w, struct tree_counts *ret, struct blix_error *err)
{
	if (!w->ended)
		return blix_fail(err, BLIX_E_CORRUPT, "the copy was cut off");
	for (size_t i = w->n_made; i-- > 0;) {
		const struct made *made = &w->made[i];
		struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = made->mtime}};
		cleanup(closep) int fd = open_below(w, made->path, err);

		if (fd < 0)
			return -(int)BLIX_E_IO;
		if (futimens(fd, times) < 0 || fchmod(fd, made->mode) < 0)
			return blix_fail_sys(err, errno, "%s", made->path);
	}
	*ret = w->counts;
	return 0;
}
