/* Bytes that come on the loop, into a file, without the loop ever waiting for the disk: they are
 * written by libuv's pool, in blocks, and summed up there.
 *
 * Happy path: sink_open() takes a descriptor; sink_write() until it says that it is full, then
 * again after `drained`; sink_end() writes what is left, syncs, and tells the size and the SHA-256
 * of all; sink_free(). A write that fails (a full disk) is told at the end: until then bytes are
 * taken and dropped. */
#ifndef BLIX_SYS_SINK_H
#define BLIX_SYS_SINK_H

#include "sys/source.h"

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define SINK_BLOCK (256u << 10)
#define SINK_PIECE (64u << 10) /* the most of one sink_write() */

struct sink;

struct sink_result {
	int sys; /* errno of what failed, 0: all is on the disk */
	uint64_t size;
	struct source_name name;
};

/* Takes fd, which is closed by sink_free() unless it was given away. `drained` comes from the loop,
 * once after each time that sink_write() said false. */
struct sink *sink_open(uv_loop_t *loop, int fd, void (*drained)(void *data), void *data);
/* Takes all n bytes. False: no more before `drained`. */
bool sink_write(struct sink *sink, const void *bytes, size_t n);
/* sink_write() said false, and `drained` is still to come. */
bool sink_is_full(const struct sink *sink);
/* Nothing may be written after it. cb comes once, from the loop, never from here. */
void sink_end(struct sink *sink, void (*cb)(void *data, const struct sink_result *result),
              void *data);
/* The descriptor is the caller's from here on. */
int sink_take(struct sink *sink);
/* At any time, also from its callbacks: none comes any more. NULL is fine. */
void sink_free(struct sink *sink);

#endif
