/* One log entry: a batch of commands with the stamp of its leader, checked whole before any command
 * of it is applied.
 *
 * Little endian. Header of 48 bytes: magic, version, flags (0), count, checksum of all that
 * follows it, elapsed_ms, wall_ms, proposer, sequence. Then `count` times a u32 length and the
 * bytes; at last zeros up to a multiple of 8, which libraft demands.
 */
#ifndef BLIX_RAFT_ENTRY_H
#define BLIX_RAFT_ENTRY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENTRY_HEADER 48u

struct entry_header {
	uint32_t count;
	uint64_t elapsed_ms;
	uint64_t wall_ms;
	uint64_t proposer;
	uint64_t sequence;
};

/* `data` comes from raft_malloc: libraft takes it over. */
struct entry_builder {
	uint8_t *data;
	size_t len;
	size_t size;
	uint32_t count;
};

void entry_init(struct entry_builder *b);
void entry_done(struct entry_builder *b);
void entry_add(struct entry_builder *b, const void *command, size_t n);
/* Writes the header (its count is b's) and the padding; returns the length with the padding. May be
 * called again, and more may be added after it. */
size_t entry_seal(struct entry_builder *b, const struct entry_header *header);

struct entry_reader {
	const uint8_t *next;
	uint32_t left;
};

/* Fails with -BLIX_E_CORRUPT on anything but an entry as above, of this version. */
int entry_read(const void *data, size_t n, struct entry_header *ret,
               struct entry_reader *ret_reader, struct blix_error *err);
bool entry_next(struct entry_reader *r, const uint8_t **ret_command, size_t *ret_n);

#endif
