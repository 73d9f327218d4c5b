/* The values of secrets on this node: sealed (sys/seal.h) at stateDir/secrets/UID/NAME, under the
 * node's own key stateDir/secrets.key. They are never logged and never leave the node but into
 * their guest. */
#ifndef BLIX_NODE_SECRET_H
#define BLIX_NODE_SECRET_H

#include "node/executor.h"

/* Keeps a value of a VM that is placed here; its guest gets it at once when it runs, else its start
 * goes on when none is missing any more. -BLIX_E_UNAVAILABLE, reason `not-placed`: this node does
 * not know of the VM (yet). */
int secret_put(struct node_executor *e, uint64_t uid, const char *name, const void *data, size_t n,
               struct blix_error *err);

#endif
