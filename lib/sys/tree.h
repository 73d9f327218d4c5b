/* A file or a tree of files as one stream of bytes, for copies into and out of a guest: the form is
 * in docs/guest-contract.md. The reader walks a path and yields the bytes; the writer takes them in
 * whatever pieces they come and makes the files.
 *
 * The writer trusts nothing in the stream: paths stay below the destination, no symbolic link is
 * followed on the way, only the permission bits of a mode are taken, so that no setuid file comes
 * out of a guest. A file appears whole or not at all. After a failure both are only to be freed.
 */
#ifndef BLIX_SYS_TREE_H
#define BLIX_SYS_TREE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct tree_counts {
	uint64_t files;   /* and links and directories */
	uint64_t bytes;   /* of file contents */
	uint64_t skipped; /* sockets, pipes and devices, which are not copied */
};

struct tree_reader;
struct tree_writer;

/* A link as `path` itself is followed, one inside the tree is copied as a link. */
int tree_reader_open(const char *path, struct tree_reader **ret, struct blix_error *err);
/* Up to n bytes; *ret_n is 0 only at the end. */
int tree_reader_read(struct tree_reader *r, char *data, size_t n, size_t *ret_n,
                     struct blix_error *err);
const struct tree_counts *tree_reader_counts(const struct tree_reader *r);
void tree_reader_free(struct tree_reader *r);

/* To `path`; when that is a directory and `name` is not "", to `path`/`name`. The directory above
 * must exist. */
int tree_writer_open(const char *path, const char *name, struct tree_writer **ret,
                     struct blix_error *err);
int tree_writer_write(struct tree_writer *w, const void *data, size_t n, struct blix_error *err);
/* After the last bytes: -BLIX_E_CORRUPT when the end mark has not come. */
int tree_writer_end(struct tree_writer *w, struct tree_counts *ret, struct blix_error *err);
void tree_writer_free(struct tree_writer *w);

#endif
