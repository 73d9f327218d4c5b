/* A lower bound of what a log must hold: whose directory it is, and an index that was on its disk.
 *
 * libraft takes damage at the end of its log for a write that a crash tore, and cuts it off without
 * a word. A server that forgets what it has acknowledged may help to elect a leader that lacks it,
 * and a committed command is lost. So this small file says how far the log once reached, and a log
 * that ends before that is refused. A bound that lags behind is still true, it only finds less.
 *
 * Happy path: bound_read before the log is loaded -> bound_open after -> bound_note as entries
 * reach the disk (memory only) -> bound_store now and then, from the pool -> bound_done. Before the
 * log is cut on purpose, bound_lower: the file must never say more than the log holds.
 *
 * Failure: a file that is not whole, of another form or another directory is refused. It is
 * overwritten in place, in one sector, which a disk writes whole or not at all.
 */
#ifndef BLIX_RAFT_BOUND_H
#define BLIX_RAFT_BOUND_H

#include "base/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct bound_identity {
	const char *cluster; /* up to 64 bytes */
	uint64_t id;
	uint64_t incarnation;
};

struct bound {
	int fd; /* -1: not open */
	pthread_mutex_t lock;
	struct bound_identity identity; /* cluster stays its owner's */
	uint64_t index;                 /* what is known now */
	uint64_t stored;                /* what the file says */
	bool synced;                    /* the disk says it too */
};

/* *ret_found false: there is none, and *ret_index is 0. The incarnation may be a lower one than
 * `identity` says when any_incarnation is set. */
int bound_read(const char *path, const struct bound_identity *identity, bool any_incarnation,
               bool *ret_found, uint64_t *ret_index, struct blix_error *err);
/* Whole and durable, in place of what may be there. */
int bound_write(const char *path, const struct bound_identity *identity, uint64_t index,
                struct blix_error *err);
/* Opens the file, made if need be, whose index is taken as `index`. */
int bound_open(struct bound *b, const char *path, const struct bound_identity *identity,
               uint64_t index, struct blix_error *err);
/* For any b that is zeroed but for fd -1, or open. */
void bound_done(struct bound *b);

/* Entries up to `index` are on the disk. */
void bound_note(struct bound *b, uint64_t index);
/* Writes what was noted, if it is news; `sync` has it durable. Any thread. A full disk is no
 * error: the bound lags. */
int bound_store(struct bound *b, bool sync, struct blix_error *err);
/* Durable before it returns: the log is about to end at `index`, or before. */
int bound_lower(struct bound *b, uint64_t index, struct blix_error *err);

#endif
