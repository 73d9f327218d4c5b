/* Connections between the servers of a cluster, over Unix sockets, as libraft's transport.
 *
 * Both sides introduce themselves: the one that connects first, then the other. Refused are another
 * cluster, a server that is not on the list or not the one that was called, and a process of
 * another user than root or our own. Only after that does libraft get the stream.
 */
#ifndef BLIX_RAFT_PEER_H
#define BLIX_RAFT_PEER_H

#include "base/error.h"
#include "raft/consensus.h"

#include <raft.h>
#include <raft/uv.h>
#include <sys/queue.h>

#define PEER_CLUSTER 64u  /* bytes of a cluster id */
#define PEER_ADDRESS 107u /* bytes of a socket path: sun_path less its NUL */
#define PEER_HEADER  24u
#define PEER_HELLO   (PEER_HEADER + PEER_CLUSTER + PEER_ADDRESS)

struct peer_link;

struct peer_transport {
	struct raft_uv_transport base;
	uv_loop_t *loop;
	uint64_t id;
	/* These three stay their owner's. */
	const char *address; /* own */
	const char *cluster;
	const struct consensus_member *members;
	size_t n_members;
	uv_pipe_t listener;
	bool listening;
	bool closing;
	unsigned n_incoming;
	LIST_HEAD(peer_links, peer_link) links;
	raft_uv_accept_cb accept_cb;
	raft_uv_transport_close_cb close_cb;
	struct blix_error error; /* why listening failed */
};

/* t is zeroed but for loop, id, address, cluster and members, which the caller has set. */
void peer_init(struct peer_transport *t);

#endif
