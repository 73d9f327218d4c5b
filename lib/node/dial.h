/* A connection to the daemon of another node, over TLS: a descriptor of plain bytes, with the node
 * at its other end that was asked for, or nothing. */
#ifndef BLIX_NODE_DIAL_H
#define BLIX_NODE_DIAL_H

#include "tls/credentials.h"

#include <uv.h>

struct dial;

/* The descriptor (non-blocking) is the callee's; -1: it cannot be reached, or is somebody else.
 * Once, later, unless it is cancelled. */
typedef void (*dial_cb)(void *data, int fd);

/* `address` is HOST:PORT, `name` the DNS name that the certificate there must be for. The
 * credentials may go afterwards. */
int dial_start(uv_loop_t *loop, const struct tls_credentials *credentials, const char *address,
               const char *name, dial_cb cb, void *data, struct dial **ret, struct blix_error *err);
/* Before cb was called; the dial is gone then. */
void dial_cancel(struct dial *dial);

#endif
