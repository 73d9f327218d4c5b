/* A byte stream on the loop: one end of a connected Unix socket, read as the owner takes it and
 * written through a bounded queue.
 *
 * The owner stops reading one side while the other side's queue is full, so no reader, however
 * slow, makes the daemon hold more than LIMIT_WIRE_QUEUE and one read.
 */
#ifndef BLIX_SYS_WIRE_H
#define BLIX_SYS_WIRE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#define WIRE_READ (64u << 10) /* the most that read() gets at once */

struct wire;

/* Any call on the wire is allowed in each, wire_close() too; none comes after wire_close(). */
struct wire_events {
	/* n > 0 bytes; never while paused. */
	void (*read)(void *data, const char *bytes, size_t n);
	/* The queue is empty again after a wire_write() that left it full. May be NULL. */
	void (*drained)(void *data);
	/* Once: the other end writes no more (0), or the connection broke (-BLIX_E_x). */
	void (*ended)(void *data, int status);
};

/* Takes the descriptor, also when it fails. Reading begins with wire_resume(). */
int wire_open(uv_loop_t *loop, int fd, const struct wire_events *events, void *data,
              struct wire **ret, struct blix_error *err);
/* Connects to a Unix socket first, which never waits: -BLIX_E_NOTFOUND or -BLIX_E_UNAVAILABLE when
 * nobody listens there. */
int wire_connect(uv_loop_t *loop, const char *path, const struct wire_events *events, void *data,
                 struct wire **ret, struct blix_error *err);
/* Copies what the socket does not take at once. -BLIX_E_BUSY, and nothing is written, when the
 * queue would pass LIMIT_WIRE_QUEUE; after the connection broke bytes are dropped. */
int wire_write(struct wire *wire, const void *bytes, size_t n, struct blix_error *err);
/* More than half of the queue is used: write no more until drained(). */
bool wire_full(const struct wire *wire);
void wire_pause(struct wire *wire);
void wire_resume(struct wire *wire);
/* What is queued, then the end of this direction. */
void wire_end(struct wire *wire);
/* What is queued still leaves, for LIMIT_WIRE_LINGER ms at most; then the descriptor is closed and
 * closed(), which may be NULL, is called, later than this. */
void wire_close(struct wire *wire, void (*closed)(void *data), void *data);

#endif
