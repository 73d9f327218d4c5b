/* Who this node is in its cluster: STATE/identity.json, written when it made the cluster or joined
 * it, and its certificates beside it (tls/authority.h).
 *
 * The file is written last, so that a node that has one has all the rest. A node without one is of
 * no cluster yet (lobby.h). It outlives the configuration, which must not contradict it.
 */
#ifndef BLIX_NODE_IDENTITY_H
#define BLIX_NODE_IDENTITY_H

#include "tls/token.h"

#define IDENTITY_PORT 7443

/* What the node's raft directory holds. */
enum node_identity_log {
	IDENTITY_LOG_FIRST, /* nothing, or the beginning of the cluster: this node made it */
	IDENTITY_LOG_NONE,  /* nothing: the leader sends everything */
	IDENTITY_LOG_KEPT,  /* what this node has promised others: without it, it may not go on */
};

struct node_identity {
	char cluster[TLS_CLUSTER];
	uint64_t node;
	char name[LIMIT_NAME + 1];
	enum tls_kind kind; /* TLS_SERVER or TLS_WORKER */
	uint64_t incarnation;
	enum node_identity_log log;
	char zone[LIMIT_NAME + 1];    /* that it was made with; "" none */
	char listen[JOIN_ADDRESS];    /* of the API; HOST may be empty: all addresses */
	char advertise[JOIN_ADDRESS]; /* where others reach it */
};

/* -BLIX_E_NOTFOUND: this node is of no cluster yet. */
int node_identity_read(const char *state_dir, struct node_identity *ret, struct blix_error *err);
/* Replaces it, synced. */
int node_identity_write(const char *state_dir, const struct node_identity *identity,
                        struct blix_error *err);
/* Reads what the identity says of the log anew and writes IDENTITY_LOG_KEPT, unless it is there. */
int node_identity_keep_log(const char *state_dir, struct node_identity *identity,
                           struct blix_error *err);

/* Servers hear each other one port above the API: the same host, the next port. */
int node_identity_raft_address(const char *address, char ret[JOIN_ADDRESS], struct blix_error *err);
/* Checks and completes where a node listens and is reached: `listen` "" is :7443; `advertise` "" is
 * the listening host, or, where that is all of them, the first address of the host that is not
 * loopback. Both become HOST:PORT. */
int node_identity_addresses(struct node_identity *identity, const char *listen,
                            const char *advertise, struct blix_error *err);

/* Makes a cluster, whose only member is this node: `identity` has name, zone and addresses, the
 * rest is filled. Everything is on the disk afterwards. */
int node_identity_found(const char *state_dir, struct node_identity *identity,
                        struct blix_error *err);

#endif
