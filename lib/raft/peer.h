/* Connections between the servers of a cluster as libraft's transport: over Unix sockets, or, where
 * an address is HOST:PORT, over TLS (secure.h).
 *
 * Both sides introduce themselves: the one that connects first, then the other. Refused are another
 * cluster, a server that is not the one that was called, over a Unix socket a process of another
 * user than root or our own, and over TLS whoever is not the server that its certificate says. Only
 * after that does libraft get the stream. Who is a member is the log's to say, and a log may be
 * behind: a server that ours does not know yet may be the one that brings it up to date.
 */
#ifndef BLIX_RAFT_PEER_H
#define BLIX_RAFT_PEER_H

#include "base/error.h"
#include "base/parse.h"
#include "raft/consensus.h"
#include "raft/secure.h"

#include <raft.h>
#include <raft/uv.h>
#include <sys/queue.h>

#define PEER_CLUSTER 64u               /* bytes of a cluster id */
#define PEER_SOCKET  107u              /* bytes of a socket path: sun_path less its NUL */
#define PEER_ADDRESS (PARSE_HOST + 7u) /* [HOST]:PORT is longer */
#define PEER_HEADER  24u
#define PEER_HELLO   (PEER_HEADER + PEER_CLUSTER + PEER_ADDRESS)

struct peer_link;

struct peer {
	uint64_t id;
	char *address; /* where to call it now */
	char *logged;  /* the address that libraft knows it by */
};

struct peer_transport {
	struct raft_uv_transport base;
	uv_loop_t *loop;
	uint64_t id;
	/* These two stay their owner's. */
	const char *address; /* own; NULL: nobody is listened to */
	const char *cluster;
	/* The record of server `id`; `address` is what libraft or the server itself says of it.
	 * NULL: there can be no such server. A record lives as long as the transport, its strings
	 * until the next call. */
	const struct peer *(*find)(void *data, uint64_t id, const char *address);
	void *find_data;
	/* May be NULL: Unix sockets alone. */
	const struct tls_credentials *credentials;
	bool (*denied)(void *data, const struct tls_identity *peer);
	void *denied_data;
	struct secure *secure; /* NULL: not running, or there are no credentials */
	uv_pipe_t listener;
	bool listening;
	bool closing;
	unsigned n_incoming;
	LIST_HEAD(peer_links, peer_link) links;
	raft_uv_accept_cb accept_cb;
	raft_uv_transport_close_cb close_cb;
	struct blix_error error; /* why listening failed */
};

/* t is zeroed but for loop, id, address, cluster, find and what is for TLS, which the caller has
 * set. */
void peer_init(struct peer_transport *t);

#endif
