/* A blixd that is of no cluster yet: it waits on its Unix socket for root to say which.
 *
 * Every route of the API answers `not-joined`, but GET /v1/version, POST /v1/node/init, which makes
 * a cluster of this node, and POST /v1/node/join, which has a cluster take it in. When one of them
 * is done, its answer has left and `joined` is called: the caller closes the lobby, reads the
 * identity (config_finish) and opens the daemon in its place.
 */
#ifndef BLIX_NODE_LOBBY_H
#define BLIX_NODE_LOBBY_H

#include "node/config.h"

#include <uv.h>

struct lobby;

/* `config` is finished and without identity; it stays the caller's and must outlive the lobby. */
int lobby_open(uv_loop_t *loop, const struct config *config, void (*joined)(void *data), void *data,
               struct lobby **ret, struct blix_error *err);
void lobby_close(struct lobby *lobby, void (*cb)(void *data), void *data);

#endif
