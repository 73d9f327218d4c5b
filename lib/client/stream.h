/* The client's end of a stream of blixd: one connection of its own that speaks base/frame.h.
 *
 * client_stream_open() blocks until the daemon has accepted, calling the client's tick; what it
 * refuses comes back as the error that it names. Afterwards nothing blocks: the owner polls
 * client_stream_fd() for what client_stream_events() says, and calls read, next, write.
 */
#ifndef BLIX_CLIENT_STREAM_H
#define BLIX_CLIENT_STREAM_H

#include "base/frame.h"
#include "client/client.h"

struct client_stream;

/* `body` may be NULL. */
int client_stream_open(struct client *client, const char *path, const cJSON *body,
                       struct client_stream **ret, struct blix_error *err);
void client_stream_close(struct client_stream *stream); /* NULL is fine */
int client_stream_fd(const struct client_stream *stream);
/* POLLIN, and POLLOUT while something waits to be written. */
short client_stream_events(const struct client_stream *stream);
/* After poll: reads and writes what goes. -BLIX_E_UNAVAILABLE when the connection ended. */
int client_stream_turn(struct client_stream *stream, struct blix_error *err);
/* 1 and the next frame, valid until the next call; 0: none yet; -BLIX_E_CORRUPT. Credit is kept
 * here and never returned. */
int client_stream_next(struct client_stream *stream, struct frame *ret, struct blix_error *err);
/* n bytes of STDOUT or STDERR have been written away. */
void client_stream_consumed(struct client_stream *stream, size_t n);
/* Bytes of STDIN that may be sent now. */
size_t client_stream_room(const struct client_stream *stream);
void client_stream_input(struct client_stream *stream, const char *data, size_t n);
void client_stream_end_input(struct client_stream *stream);
void client_stream_signal(struct client_stream *stream, int number);
void client_stream_resize(struct client_stream *stream, uint16_t rows, uint16_t columns);

#endif
