/* Space kept back on the log's disk, so that a full one is noticed before a write fails.
 *
 * A file of `size` bytes that holds nothing. When less than `need` is free beside it, it is given
 * back and the disk is short: its server writes no more commands, and what is under way, a term or
 * a bound has room. Once `need` is free again beside a new one, it is taken again and all is well.
 *
 * Happy path: reserve_open -> reserve_check every second, on the pool -> reserve_done. Failure: a
 * disk that cannot be asked is an I/O error. Where space cannot be allocated ahead (some network
 * file systems), only `need` counts.
 */
#ifndef BLIX_RAFT_RESERVE_H
#define BLIX_RAFT_RESERVE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct reserve {
	char *path; /* NULL: not open */
	char *dir;
	uint64_t size;
	uint64_t need;
	bool is_short;
	uint64_t free_bytes; /* as last seen, less what is held */
};

int reserve_open(struct reserve *r, const char *dir, uint64_t size, uint64_t need,
                 struct blix_error *err);
/* Frees; the file stays, for the next life of the directory. */
void reserve_done(struct reserve *r);
int reserve_check(struct reserve *r, struct blix_error *err);

#endif
