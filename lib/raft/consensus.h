/* The replicated log: commands go in at the leader, and come out on every server in one order.
 *
 * A program opens one consensus on its loop, sets its callbacks, starts it and proposes. Proposals
 * of one loop turn travel as one log entry, each with its own result. A cluster of one server is
 * the same thing with a list of one: it listens nowhere and leads as soon as it has started.
 *
 * Everything happens on the loop's thread, but for snapshot_encode. Callbacks may call any function
 * below, consensus_close included, except where noted. The program must ignore SIGPIPE.
 *
 * A failure of the disk, or a log that this binary cannot read, is final: `fatal` is called and the
 * program must exit; its supervisor starts it again.
 */
#ifndef BLIX_RAFT_CONSENSUS_H
#define BLIX_RAFT_CONSENSUS_H

#include "base/buf.h"
#include "base/error.h"
#include "core/result.h"
#include "tls/credentials.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct consensus;

struct consensus_member {
	uint64_t id; /* never 0, never given to another directory */
	char *name;
	char *address; /* where its consensus listens: a Unix socket's path, or HOST:PORT */
};

/* A leader that has seen no entry made since it started, as after a restart of the whole cluster,
 * cannot tell how long ago the last one was. */
#define CONSENSUS_ELAPSED_UNKNOWN UINT64_MAX

/* What the leader's clocks said when it made a log entry. */
struct consensus_stamp {
	uint64_t elapsed_ms; /* BOOTTIME since its last stamp, or since it applied another's */
	uint64_t wall_ms;
};

struct consensus_fsm {
	void *data;
	/* Once per log entry, before its commands. Several commands share an index. */
	void (*begin)(void *data, uint64_t index, const struct consensus_stamp *stamp);
	/* Every command in order. The bytes are the log's: copy what is kept. Fills *ret. */
	void (*apply)(void *data, const uint8_t *command, size_t n, struct command_result *ret);
	/* After the entry; the callbacks of its proposals follow later in the loop's turn. */
	void (*end)(void *data);
	/* A cheap view of the state as it is now, which later applies leave alone. */
	void *(*snapshot_view)(void *data);
	/* On a thread of the pool: appends the bytes of the view, and reads nothing else. */
	int (*snapshot_encode)(const void *view, struct buf *out);
	void (*snapshot_release)(void *data, void *view);
	/* Replaces the state by what snapshot_encode wrote. */
	int (*restore)(void *data, const uint8_t *bytes, size_t n, uint64_t index,
	               struct blix_error *err);
};

struct consensus_config {
	uv_loop_t *loop;
	const char *dir;     /* of the log; made 0700 when absent */
	const char *cluster; /* up to 64 bytes; a peer of another cluster is refused */
	uint64_t id;         /* this server, one of the members */
	const struct consensus_member *members;
	size_t n_members;
	unsigned election_timeout_ms; /* 0: 1000 */
	unsigned heartbeat_ms;        /* 0: a tenth of the election timeout */
	unsigned snapshot_threshold;  /* entries between snapshots; 0: 1024 */
	unsigned snapshot_trailing;   /* entries kept behind a snapshot; 0: 512 */
	struct consensus_fsm fsm;
	/* For addresses HOST:PORT, of this cluster; they outlive the consensus, and may be
	 * replaced. NULL: Unix sockets alone. */
	const struct tls_credentials *credentials;
	/* Whether a server is refused whose certificate is good: it is on the deny list. `data` is
	 * fsm.data; may be NULL. */
	bool (*denied)(void *data, const struct tls_identity *peer);
	/* Called at most once, possibly inside one of the calls below or of the fsm's. Nothing is
	 * applied or answered after it. It must not call consensus_close; libraft may abort the
	 * process once it returns. `data` is fsm.data. */
	void (*fatal)(void *data, const struct blix_error *err);
};

enum consensus_role { CONSENSUS_FOLLOWER, CONSENSUS_CANDIDATE, CONSENSUS_LEADER };

struct consensus_status {
	enum consensus_role role;
	uint64_t id;
	uint64_t leader_id; /* 0: none is known */
	uint64_t term;
	uint64_t commit_index;
	uint64_t applied_index;
	uint64_t last_index;
	size_t n_members;
	size_t n_voters;
};

/* Copies the configuration; touches nothing outside. */
int consensus_open(const struct consensus_config *config, struct consensus **ret,
                   struct blix_error *err);
/* Locks the directory, writes the first configuration when it is new, loads, restores, listens.
 * Synchronous. When it fails, consensus_close is still the caller's to call. */
int consensus_start(struct consensus *c, struct blix_error *err);
/* Answers everything pending, stops, frees, then calls cb. Later proposals and barriers are
 * answered too, as long as they come before cb. */
void consensus_close(struct consensus *c, void (*cb)(void *data), void *data);

/* 0: applied, *result is valid until the callback returns. Otherwise result is NULL and status is
 *   -BLIX_E_NOLEADER  not the leader, or closing: definitely not done
 *   -BLIX_E_BUSY      too much is waiting: definitely not done
 *   -BLIX_E_TOOBIG    longer than LIMIT_COMMAND: definitely not done
 *   -BLIX_E_DISKFULL  a majority lacks disk space: definitely not done
 *   -BLIX_E_UNKNOWN   leadership was lost on the way: it may or may not happen */
typedef void (*consensus_propose_cb)(void *data, int status, const struct command_result *result);

/* Copies the command (n > 0). cb is called exactly once and never inside the call, whatever the
 * outcome. Callbacks of one server come in the order of the log. */
void consensus_propose(struct consensus *c, const void *command, size_t n, consensus_propose_cb cb,
                       void *data);
/* cb(0) once this server, still the leader, has applied everything that was committed before the
 * call; -BLIX_E_NOLEADER otherwise. At most one is in flight: those that wait share the next. */
void consensus_barrier(struct consensus *c, void (*cb)(void *data, int status), void *data);

/* Called after every change of the role or of the known leader. */
void consensus_on_role(struct consensus *c,
                       void (*cb)(void *data, enum consensus_role role, uint64_t leader_id),
                       void *data);
void consensus_status(struct consensus *c, struct consensus_status *ret);
/* How long ago the last message of peer `id` came in (BOOTTIME); false: none since the start. */
bool consensus_peer_seen(const struct consensus *c, uint64_t id, uint64_t *ret_age_ms);
/* The deny list has changed: connections of servers that are on it by now are ended. */
void consensus_recheck_peers(struct consensus *c);

#endif
