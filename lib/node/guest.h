/* The agents inside the guests of this node: one connection per running VM, over which any number
 * of streams (base/frame.h, docs/guest-contract.md) go to whoever opened them.
 *
 * A connection is kept while its VM runs and made again when it breaks, every second while no agent
 * answers. Streams die with their connection. All calls are the loop's; no callback fires inside a
 * call.
 */
#ifndef BLIX_NODE_GUEST_H
#define BLIX_NODE_GUEST_H

#include "base/frame.h"

#include <uv.h>

struct guest_pool;
struct guest_stream;

struct guest_stream_ops {
	/* OPENED, STDOUT, STDERR, EOF, CREDIT, EXIT or ERROR, as the agent sent it, but for
	 * `stream`. Bytes are only taken back (CREDIT) when the receiver of the stream says so. */
	void (*frame)(void *data, const struct frame *f);
	/* The last call. err NULL: the agent ended the stream, and said how in EXIT or ERROR;
	 * otherwise what broke it (reason `agent-lost`). */
	void (*ended)(void *data, const struct blix_error *err);
};

/* Opens a stream to the agent of the VM `uid`; `request` is the JSON of OPEN. -BLIX_E_UNAVAILABLE
 * (reason `no-agent`) when none is connected, -BLIX_E_BUSY at LIMIT_GUEST_STREAMS. */
int guest_open(struct guest_pool *pool, uint64_t uid, const char *request,
               const struct guest_stream_ops *ops, void *data, struct guest_stream **ret,
               struct blix_error *err);
/* STDIN, EOF, CREDIT, RESIZE or SIGNAL. -BLIX_E_CORRUPT when it breaks the rules of the stream, as
 * more bytes than the window allows: close it then. */
int guest_send(struct guest_stream *s, enum frame_type type, const void *data, size_t n,
               struct blix_error *err);
/* Ends it from this side, which ends what runs in the guest; nothing is called any more. Also after
 * `ended`, where it only frees. NULL is nothing. */
void guest_close(struct guest_stream *s);

#endif
