/* Where the servers of the cluster are: by the configuration's list, or, in a cluster made by `blix
 * node init`, by what each node says of itself in the state. */
#ifndef BLIX_NODE_BOOK_H
#define BLIX_NODE_BOOK_H

#include "node/daemon_internal.h"

/* The daemon of node `id`: name, and where its API is reached. NULL: unknown. Until the next call.
 */
const struct config_server *daemon_server(const struct daemon *d, uint64_t id);
/* The ids of the servers, members of the log: fills up to n, returns how many there are. */
size_t daemon_servers(const struct daemon *d, uint64_t *ret, size_t n);
/* struct consensus_config.find_address and .denied, with the daemon as data. */
const char *book_raft(void *data, uint64_t id);
bool book_denied(void *data, const struct tls_identity *peer);
void book_clear(struct config_server *found);

#endif
