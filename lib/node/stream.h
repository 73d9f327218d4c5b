/* Streams: bytes both ways between a client and something of a VM, as long as it takes.
 *
 * POST /v1/vms/NAME/{console,...} with `Upgrade: blix-stream/1`. What can be refused is refused by
 * an ordinary error answer; after the 101 both sides speak the frames of base/frame.h on stream 1.
 * A VM of another node is reached through that node's daemon, whose bytes are passed on as they are
 * (stream_relay.c); a VM of this node is served from here, whatever the log is doing.
 *
 * A struct stream is the client's end. What it is joined to is a far end: a table of calls and its
 * own state. Data towards the client is bounded by the client's credit, data from it by what the
 * far end has taken; control frames are few or bounded by the wire's queue.
 */
#ifndef BLIX_NODE_STREAM_H
#define BLIX_NODE_STREAM_H

#include "base/frame.h"
#include "http/server.h"
#include "node/daemon_internal.h"

#define STREAM_ID 1 /* the client's only one */

struct stream;

struct stream_far {
	/* A frame of the client, in its window: STDIN, EOF, RESIZE, SIGNAL or CLOSE. */
	void (*frame)(void *far, const struct frame *frame);
	/* The client has room for more, or its wire has. May be NULL. */
	void (*room)(void *far);
	/* The client has gone, or the daemon closes: free everything. Not after stream_finish(). */
	void (*gone)(void *far);
	/* CREDIT is the far end's matter: it gets the client's as a frame and sends its own. */
	bool passes_credit;
};

/* Joins a request, which has not been answered, to a far end. NULL, and the request is answered,
 * when there are too many streams. The far end then calls stream_accept() or stream_refuse(). */
struct stream *stream_open(struct daemon *d, struct http_request *request,
                           const struct stream_far *far, void *data);
/* Answers 101; frames may be sent at once. */
void stream_accept(struct stream *stream);
/* Answers with the error and frees the stream, not the far end. */
void stream_refuse(struct stream *stream, const struct blix_error *err);
/* Bytes of STDOUT and STDERR that may be sent now; 0 while the wire is full. */
size_t stream_room(const struct stream *stream);
/* False when sending the frame would overrun the client's window. */
bool stream_may_send(const struct stream *stream, const struct frame *frame);
void stream_send(struct stream *stream, enum frame_type type, const void *data, size_t n);
/* n bytes of STDIN have left for good. */
void stream_consumed(struct stream *stream, size_t n);
/* No more frames will come from the client's wire until stream_resume(). */
void stream_pause(struct stream *stream);
void stream_resume(struct stream *stream);
/* Sends CLOSE after what waits, and frees the stream, not the far end. */
void stream_finish(struct stream *stream);

/* The object a stream is asked for, on this node: NULL, and the request is answered or sent on. */
const struct vm *stream_vm(struct daemon *d, struct http_request *request, const char *what);
/* True, and *err says so, when the state knows that the VM does not run. */
bool stream_is_down(const struct daemon *d, const char *name, struct blix_error *err);
/* The JSON object of the request's body, an empty one when there is none; -BLIX_E_INVALID. */
int stream_body(const struct http_request *request, const char *const *keys, cJSON **ret,
                struct blix_error *err);

/* stream_relay.c: to the daemon of the VM's node; answers the request in the end. */
void relay_start(struct daemon *d, struct http_request *request, const struct config_server *server,
                 const char *path);

/* At shutdown: what is joined is taken apart. */
void streams_close(struct daemon *d);

/* Between stream.c and stream_relay.c: all that must end with the daemon. */
struct stream_link {
	struct stream_link *next, **at;
	void (*cut)(struct stream_link *link);
};
/* False, and the request is answered, past LIMIT_STREAMS. */
bool stream_link(struct daemon *d, struct http_request *request, struct stream_link *link,
                 void (*cut)(struct stream_link *link));
void stream_unlink(struct daemon *d, struct stream_link *link);

/* The routes. */
void vm_exec_handle(struct http_request *request, void *data);
void vm_copy_handle(struct http_request *request, void *data);
void vm_console_handle(struct http_request *request, void *data);

#endif
