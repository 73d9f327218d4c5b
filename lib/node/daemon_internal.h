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

struct read; /* read.c */
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
	int lock_fd; /* one daemon per state directory */
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
	struct round *round; /* duties.c: the leader's commands under way, NULL none */

	struct metrics *metrics;
	struct node_facts facts;
	bool registering;

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
/* How long a peer may be silent before its node is Offline. */
uint64_t duties_grace_ms(const struct config *config);
/* False when this server cannot tell that it is current; *ret_age_ms: since it last could. */
bool daemon_is_current(const struct daemon *d, uint64_t *ret_age_ms);

/* api.c */
extern const struct http_route api_routes[];
extern const size_t api_n_routes;
int api_allow(void *data, const struct http_request *request, const struct http_route *route,
              struct blix_error *err);

/* secure.c: certificates and TCP, where this node has them; after the API and the fetch pool. */
int daemon_secure(struct daemon *d, struct blix_error *err);
int api_body_file(void *data, struct http_request *request, uint64_t n, int *ret_fd,
                  struct blix_error *err);
/* Which state an answer was made from: headers Blix-Revision and Blix-Staleness-Ms. */
void api_answering(void *data, struct http_request *request, const struct http_route *route);

const struct config_server *daemon_server(const struct daemon *d, uint64_t id);

#endif
