/* The reading half of tree.h: fts walks, each entry becomes a head in `head`, and the contents of a
 * file follow straight from its descriptor. A file that shrinks meanwhile fails the copy, since its
 * size was already said; what is added meanwhile is left out. */
#include "sys/tree.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "sys/file.h"
#include "sys/tree_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

struct tree_reader {
	FTS *walk;
	char *path;
	size_t n_root; /* length of the root's path in what fts says */
	struct buf head;
	size_t head_read;
	int fd; /* of the file being read, -1 none */
	char *fd_path;
	uint64_t left; /* of it */
	bool ended;
	struct tree_counts counts;
};

int tree_reader_open(const char *path, struct tree_reader **ret, struct blix_error *err)
{
	struct tree_reader *r;
	struct stat st;
	char *paths[2];

	if (stat(path, &st) < 0)
		return blix_fail_sys(err, errno, "%s", path);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return blix_fail(err, BLIX_E_REFUSED, "%s is neither a file nor a directory", path);
	r = xcalloc(1, sizeof(*r));
	r->fd = -1;
	r->path = realpath(path, NULL);
	buf_init(&r->head, TREE_HEADER + 2 * PATH_MAX);
	paths[0] = r->path;
	paths[1] = NULL;
	if (r->path != NULL)
		r->walk = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	if (r->path == NULL || r->walk == NULL) {
		int rc = blix_fail_sys(err, errno, "%s", path);

		tree_reader_free(r);
		return rc;
	}
	r->n_root = strcmp(r->path, "/") == 0 ? 0 : strlen(r->path);
	*ret = r;
	return 0;
}

const struct tree_counts *tree_reader_counts(const struct tree_reader *r)
{
	return &r->counts;
}

void tree_reader_free(struct tree_reader *r)
{
	if (r == NULL)
		return;
	if (r->walk != NULL) {
		/* Until the first fts_read(), glibc's fts_close() forgets what fts_open() made. */
		(void)fts_read(r->walk);
		(void)fts_close(r->walk);
	}
	closep(&r->fd);
	buf_done(&r->head);
	free(r->fd_path);
	free(r->path);
	free(r);
}

static int reader_say(struct tree_reader *r, enum tree_type type, const struct stat *st,
                      const char *path, uint64_t size, struct blix_error *err)
{
	unsigned char head[TREE_HEADER] = {(unsigned char)type};
	size_t n = strlen(path);

	if (n >= LIMIT_TREE_PATH)
		return blix_fail(err, BLIX_E_TOOBIG, "%s: the path is too long", path);
	if (st != NULL) {
		tree_put(head + 1, 4, st->st_mode & 07777);
		tree_put(head + 5, 8, (uint64_t)st->st_mtim.tv_sec);
	}
	tree_put(head + 13, 8, size);
	tree_put(head + 21, 2, n);
	(void)buf_add(&r->head, head, sizeof(head));
	(void)buf_add(&r->head, path, n);
	r->counts.files += type != TREE_END;
	return 0;
}

static int reader_file(struct tree_reader *r, const char *at, const char *path,
                       struct blix_error *err)
{
	struct stat st;
	int rc;

	r->fd = open(at, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (r->fd < 0 || fstat(r->fd, &st) < 0)
		return blix_fail_sys(err, errno, "%s", at);
	if (!S_ISREG(st.st_mode))
		return blix_fail(err, BLIX_E_IO, "%s changed while it was copied", at);
	xreplace(&r->fd_path, at);
	r->left = (uint64_t)st.st_size;
	r->counts.bytes += r->left;
	rc = reader_say(r, TREE_FILE, &st, path, r->left, err);
	return rc;
}

static int reader_link(struct tree_reader *r, const FTSENT *entry, const char *path,
                       struct blix_error *err)
{
	char target[LIMIT_TREE_PATH];
	ssize_t n = readlink(entry->fts_accpath, target, sizeof(target));
	int rc;

	if (n < 0)
		return blix_fail_sys(err, errno, "%s", entry->fts_path);
	if (n == (ssize_t)sizeof(target))
		return blix_fail(err, BLIX_E_TOOBIG, "%s: the link is too long", entry->fts_path);
	rc = reader_say(r, TREE_LINK, entry->fts_statp, path, (uint64_t)n, err);
	(void)buf_add(&r->head, target, (size_t)n);
	return rc;
}

/* The head of the next entry. */
static int reader_next(struct tree_reader *r, struct blix_error *err)
{
	const FTSENT *entry;
	const char *path;

	buf_clear(&r->head);
	r->head_read = 0;
	errno = 0;
	entry = fts_read(r->walk);
	if (entry == NULL) {
		if (errno != 0)
			return blix_fail_sys(err, errno, "%s", r->path);
		r->ended = true;
		return reader_say(r, TREE_END, NULL, "", 0, err);
	}
	path = entry->fts_path + r->n_root;
	while (*path == '/')
		path++;
	switch (entry->fts_info) {
	case FTS_D:
		return reader_say(r, TREE_DIRECTORY, entry->fts_statp, path, 0, err);
	case FTS_F:
		return reader_file(r, entry->fts_accpath, path, err);
	case FTS_SL:
	case FTS_SLNONE:
		return reader_link(r, entry, path, err);
	case FTS_DP:
		return 0;
	case FTS_DEFAULT:
		r->counts.skipped++;
		return 0;
	default:
		return blix_fail_sys(err, entry->fts_errno, "%s", entry->fts_path);
	}
}

static int reader_contents(struct tree_reader *r, char *data, size_t n, size_t *ret_n,
                           struct blix_error *err)
{
	ssize_t got = 0;

	if (r->left > 0) {
		got = TEMP_FAILURE_RETRY(read(r->fd, data, n < r->left ? n : (size_t)r->left));
		if (got < 0)
			return blix_fail_sys(err, errno, "%s", r->fd_path);
		if (got == 0)
			return blix_fail(err, BLIX_E_IO, "%s shrank while it was copied",
			                 r->fd_path);
	}
	r->left -= (uint64_t)got;
	*ret_n += (size_t)got;
	if (r->left == 0) {
		closep(&r->fd);
		r->fd = -1;
	}
	return 0;
}

int tree_reader_read(struct tree_reader *r, char *data, size_t n, size_t *ret_n,
                     struct blix_error *err)
{
	size_t done = 0;
	int rc = 0;

	while (rc == 0 && done < n) {
		size_t head = r->head.len - r->head_read;

		if (head > 0) {
			head = head < n - done ? head : n - done;
			memcpy(data + done, r->head.data + r->head_read, head);
			r->head_read += head;
			done += head;
		} else if (r->fd >= 0) {
			rc = reader_contents(r, data + done, n - done, &done, err);
		} else if (r->ended) {
			break;
		} else {
			rc = reader_next(r, err);
		}
	}
	if (rc == 0)
		*ret_n = done;
	return rc;
}
