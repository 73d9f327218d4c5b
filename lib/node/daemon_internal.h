/* Between the files of the daemon only. */
#ifndef BLIX_NODE_DAEMON_INTERNAL_H
#define BLIX_NODE_DAEMON_INTERNAL_H

#include "core/leader.h"
#include "core/state.h"
#include "curl/fetch.h"
#include "http/server.h"
#include "node/daemon.h"
#include "node/executor.h"
#include "node/metrics.h"
#include "node/probe.h"
#include "node/share.h"
#include "raft/consensus.h"
#include "sys/stall.h"

#include <sys/queue.h>

struct join_guard;    /* api_join.c */
struct member_change; /* duties.c */
struct read;          /* read.c */
STAILQ_HEAD(reads, read);
struct round;
struct sources;
struct stream_link; /* stream.h */
struct watcher;     /* watch.c: a connection that watches */
struct changes;     /* change.h */
LIST_HEAD(watchers, watcher);
struct wait; /* wait.c: a request that waits for the state */

struct daemon {
	uv_loop_t *loop;
	const struct config *config;
	const struct supervisor *supervisor;
	void (*fatal)(const struct blix_error *err);
	int lock_fd;                   /* one daemon per state directory */
	struct node_identity identity; /* as it is on the disk, where config->identity is */
	struct config_server *found;   /* book.c */
	struct state *state;
	struct consensus *consensus;
	struct http_server *http;
	struct fetch_pool *fetch;
	struct tls_credentials *credentials; /* NULL: no certificates, so no TCP */
	struct sources *sources;
	struct node_executor *executor;
	struct probe *probe;

	enum consensus_role role;
	uint64_t leader_id;      /* 0: none known */
	uint64_t leader_lost_ms; /* boot clock when it became unknown */

	struct leader leader;
	struct leader_actions *actions;
	struct round *round;          /* duties.c: the leader's commands under way, NULL none */
	struct member_change *change; /* and the change of members, NULL none */

	struct metrics *metrics;
	struct node_facts facts;
	bool registering;
	bool founding; /* membership.c: the cluster's first command is under way */
	bool left;     /* this node was removed, and that was logged */
	bool asking_left;
	size_t ask_next; /* of the state's nodes, whether it was removed */
	bool renewing;

	struct join_guard *guards; /* NULL: nobody tried yet */

	struct reads reads_waiting; /* for the next barrier */
	struct reads reads_asked;   /* for the one under way */
	bool asking;

	struct shares proposing; /* mutations of the API that wait for their answer */

	struct changes *changes;
	struct watchers watchers;
	size_t n_watches; /* of all of them */

	struct wait *waits;
	uv_timer_t wait_timer; /* the earliest deadline among the waits */
	uv_check_t turn;       /* after the turn's I/O: what changed is told once */
	bool changed;
	uv_timer_t tick;
	struct stall stall;

	struct stream_link *streams;
	unsigned n_streams;

	bool closing;
	unsigned open_handles;
	void (*close_cb)(void *data);
	void *close_data;
};

/* propose.c: a command goes to the leader, wherever it is, once. cb fires exactly once, never
 * inside the call, with the statuses of consensus.h; on success the local state is at the result's
 * revision or later, unless that took longer than a few seconds. */
typedef consensus_propose_cb daemon_propose_cb;
void daemon_propose(struct daemon *d, const struct command *command, daemon_propose_cb cb,
                    void *data);
/* The words for a propose status. */
int daemon_propose_error(const struct daemon *d, int status, struct blix_error *err);
/* POST /v1/internal/propose */
void propose_handle(struct http_request *request, void *data);

/* wait.c: calls cb once, when ready() says so after a change of the state, or at the deadline, or
 * (cancelled = true, the request is gone) when the client went away. `request` may be NULL. */
struct wait_options {
	bool (*ready)(const struct daemon *d, const void *data);
	void (*cb)(struct daemon *d, void *data, bool cancelled);
	void *data;
	struct http_request *request;
	uint64_t deadline_ms; /* from now */
};
void daemon_wait(struct daemon *d, const struct wait_options *options);
void daemon_wake_waits(struct daemon *d);
void daemon_wait_deadlines(uv_timer_t *timer);
/* Ends all that wait, at shutdown; requests are answered by the server's close. */
void daemon_drop_waits(struct daemon *d);

/* duties.c: the leader's rounds, this node's own facts. */
void duties_tick(struct daemon *d);
void duties_changed(struct daemon *d);
void duties_role(struct daemon *d);

/* membership.c: what this node does about its own place in the cluster. */
void membership_tick(struct daemon *d);
void membership_changed(struct daemon *d);
/* Signs a new certificate for this node's key and takes it; cb as of daemon_propose, result's uid
 * the node. -BLIX_E_REFUSED: this node cannot sign. */
int membership_renew(struct daemon *d, void (*cb)(void *data, int status), void *data,
                     struct blix_error *err);

/* How long a peer may be silent before its node is Offline. */
uint64_t duties_grace_ms(const struct config *config);
/* False when this server cannot tell that it is current; *ret_age_ms: since it last could. */
bool daemon_is_current(const struct daemon *d, uint64_t *ret_age_ms);

/* api.c */
extern const struct http_route api_routes[];
extern const size_t api_n_routes;
int api_allow(void *data, const struct http_request *request, const struct http_route *route,
              struct blix_error *err);

/* secure.c: certificates, where this node has them; before the consensus, after the fetch pool. */
int daemon_credentials(struct daemon *d, struct blix_error *err);
/* The addresses of TCP; after the API. */
int daemon_secure(struct daemon *d, struct blix_error *err);
int api_body_file(void *data, struct http_request *request, uint64_t n, int *ret_fd,
                  struct blix_error *err);
/* Which state an answer was made from: headers Blix-Revision and Blix-Staleness-Ms. */
void api_answering(void *data, struct http_request *request, const struct http_route *route);

#endif
