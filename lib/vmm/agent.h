/* The agent inside one running guest (docs/guest-contract.md), over the Unix socket that its
 * hypervisor listens on. Many streams share the connection; each goes to whoever opened it.
 *
 * A guest that has only the loader of the wrapper flake asks for the agent first, and is given this
 * node's own (agent_program.h).
 *
 * The connection is made, and made again when it breaks or the guest is silent, until it is closed.
 * `changed` tells of the agent's coming, going and each new word about itself. All calls are the
 * loop's; no callback fires inside a call. */
#ifndef BLIX_VMM_AGENT_H
#define BLIX_VMM_AGENT_H

#include "base/frame.h"

#include <stdbool.h>
#include <uv.h>

#define AGENT_ADDRESSES 16

struct agent;
struct agent_program;
struct agent_stream;

/* What the agent said last. */
struct agent_info {
	bool present; /* it is connected; else the rest is empty */
	bool ready;
	bool identity; /* it was told who it is, in this boot */
	char version[32], boot_id[40], hostname[65], machine_id[40];
	char addresses[AGENT_ADDRESSES][46];
	unsigned n_addresses;
	/* These stay when it goes. */
	unsigned loads;    /* how often the guest was given the agent */
	char problem[256]; /* why it could not be, the last time that it asked; "" */
};

struct agent_config {
	uv_loop_t *loop;
	const char *path;              /* of the socket; may not be there yet; copied */
	unsigned vsock_port;           /* the socket leads to all of the guest's ports; 0: to one */
	struct agent_program *program; /* lives longer; NULL: none to load */
	void (*changed)(void *data, const struct agent_info *info);
	void *data;
};

struct agent_stream_ops {
	/* What the agent sent, but for `stream`: OPENED, STDOUT, STDERR, EOF, CREDIT, EXIT, ERROR.
	 * Nothing is taken back by itself: the owner sends CREDIT. */
	void (*frame)(void *data, const struct frame *f);
	/* The last call. err NULL: the agent said EXIT or ERROR before; else the connection broke
	 * (UNAVAILABLE, reason `agent-lost`). */
	void (*ended)(void *data, const struct blix_error *err);
};

struct agent *agent_open(const struct agent_config *config);
const struct agent_info *agent_info(const struct agent *a);
/* `ended` is called for each stream before cb. */
void agent_close(struct agent *a, void (*cb)(void *data), void *data);

/* -BLIX_E_UNAVAILABLE, reason `no-agent`, when none is connected; -BLIX_E_BUSY at
 * LIMIT_GUEST_STREAMS. */
int agent_stream_open(struct agent *a, const char *request, const struct agent_stream_ops *ops,
                      void *data, struct agent_stream **ret, struct blix_error *err);
/* STDIN, EOF, CREDIT, RESIZE or SIGNAL; -BLIX_E_CORRUPT when that breaks a rule of the stream.
 * Nothing happens after `ended`. */
int agent_stream_send(struct agent_stream *s, enum frame_type type, const void *data, size_t n,
                      struct blix_error *err);
/* Also after `ended`, where it only frees. NULL is nothing. */
void agent_stream_close(struct agent_stream *s);

#endif
