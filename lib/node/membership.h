/* This node's own place in the cluster, and what a server signs for others. */
#ifndef BLIX_NODE_MEMBERSHIP_H
#define BLIX_NODE_MEMBERSHIP_H

#include "node/daemon_internal.h"

/* With the CA's key, which servers hold: `who` as for authority_issue(). -BLIX_E_REFUSED: this node
 * does not hold it. */
int membership_sign(const struct daemon *d, const struct buf *request, struct tls_identity *who,
                    struct buf *ret_cert, struct blix_error *err);

#endif
