/* The replicated log: commands go in at the leader, and come out on every server in one order.
 *
 * A program opens one consensus on its loop, sets its callbacks, starts it and proposes. Proposals
 * of one loop turn travel as one log entry, each with its own result. A cluster of one server is
 * the same thing with a list of one: it leads as soon as it has started.
 *
 * Who is a member is said by the log: the first configuration is what its first server, or each of
 * them, was opened with, and the leader changes it (consensus_change). A server that is to join is
 * opened without members and an empty directory; it waits until a leader has added it.
 *
 * Everything happens on the loop's thread, but for snapshot_encode. Callbacks may call any function
 * below, consensus_close included, except where noted. The program must ignore SIGPIPE.
 *
 * A failure of the disk, or a log that this binary cannot read, is final: `fatal` is called and the
 * program must exit; its supervisor starts it again. A disk that fills up is none: the server is
 * read-only until there is room again (`space`). A log that has lost what it once had (reason
 * "log-behind"), or that is another server's ("other-log"), is refused at the start.
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

/* What a member does for the log. A spare is only listed: nobody sends it anything. */
enum consensus_vote { CONSENSUS_SPARE, CONSENSUS_STANDBY, CONSENSUS_VOTER };

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
	const char *dir;      /* of the log; made 0700 when absent */
	const char *cluster;  /* up to 64 bytes; a peer of another cluster is refused */
	uint64_t id;          /* this server */
	uint64_t incarnation; /* of the cluster: raised when it is restored from a backup */
	/* The first configuration, all voters, this server among them; a directory that has a log
	 * keeps the log's. n_members 0: a leader will add this server. */
	const struct consensus_member *members;
	size_t n_members;
	/* Where this server listens. NULL: at its member's address, or, if that is the only one,
	 * nowhere, and then nobody can join it. */
	const char *address;
	/* Where server `id` listens now, copied at once; NULL when only the log, or the list of
	 * members above, knows. May be NULL itself. `data` is fsm.data. */
	const char *(*find_address)(void *data, uint64_t id);
	unsigned election_timeout_ms; /* 0: 1000 */
	unsigned heartbeat_ms;        /* 0: a tenth of the election timeout */
	unsigned snapshot_threshold;  /* entries between snapshots; 0: 1024 */
	unsigned snapshot_trailing;   /* entries kept behind a snapshot; 0: 512 */
	uint64_t reserve_bytes;       /* kept back on the disk; 0: LIMIT_LOG_RESERVE */
	struct consensus_fsm fsm;
	/* For addresses HOST:PORT, of this cluster; they outlive the consensus, and may be
	 * replaced. NULL: Unix sockets alone. */
	const struct tls_credentials *credentials;
	/* Whether a server is refused whose certificate is good: it is on the deny list. `data` is
	 * fsm.data; may be NULL. */
	bool (*denied)(void *data, const struct tls_identity *peer);
	/* The disk has become too full to write commands, or has room again. May be NULL. */
	void (*space)(void *data, bool is_short, uint64_t free_bytes);
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
	bool is_member; /* and no spare */
	bool is_short;  /* of disk space: read-only */
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
 *   -BLIX_E_DISKFULL  this server or a majority lacks disk space: definitely not done
 *   -BLIX_E_UNKNOWN   leadership was lost on the way: it may or may not happen */
typedef void (*consensus_propose_cb)(void *data, int status, const struct command_result *result);

/* Copies the command (n > 0). cb is called exactly once and never inside the call, whatever the
 * outcome. Callbacks of one server come in the order of the log. */
void consensus_propose(struct consensus *c, const void *command, size_t n, consensus_propose_cb cb,
                       void *data);
/* cb(0) once this server, still the leader, has applied everything that was committed before the
 * call; -BLIX_E_NOLEADER otherwise. At most one is in flight: those that wait share the next. */
void consensus_barrier(struct consensus *c, void (*cb)(void *data, int status), void *data);

enum consensus_change_kind {
	CONSENSUS_ADD,        /* as a spare */
	CONSENSUS_TO_STANDBY, /* gets the log, has no vote */
	CONSENSUS_TO_VOTER,   /* once it has caught up */
	CONSENSUS_TO_SPARE,
	CONSENSUS_REMOVE, /* nobody tells the one that is removed */
};

struct consensus_change {
	enum consensus_change_kind kind;
	uint64_t id;
	const char *address; /* of ADD */
};

/* Changes the members, on the leader, one after the other. cb is called exactly once, never inside
 * the call. What is already so is done. A leader may take away its own vote: it steps down then.
 *   0                 done
 *   -BLIX_E_NOLEADER  not the leader: definitely not done
 *   -BLIX_E_BUSY      too many wait: definitely not done
 *   -BLIX_E_DISKFULL  as with proposals: definitely not done
 *   -BLIX_E_NOTFOUND  no such member: definitely not done
 *   -BLIX_E_EXISTS    the address is another member's: definitely not done
 *   -BLIX_E_REFUSED   nobody would be left to vote, or this server listens nowhere
 *   -BLIX_E_TIMEOUT   the server did not catch up in time: it has no vote, and may be asked again
 *   -BLIX_E_UNKNOWN   leadership was lost on the way: it may or may not happen */
void consensus_change(struct consensus *c, const struct consensus_change *change,
                      void (*cb)(void *data, int status), void *data);
/* Hands leadership to voter `id`, or, 0, to the one that suits best. cb as above:
 *   0                 the other leads
 *   -BLIX_E_NOLEADER  not the leader here
 *   -BLIX_E_BUSY      another transfer is under way
 *   -BLIX_E_NOTFOUND  no such voter
 *   -BLIX_E_TIMEOUT   this server still leads
 *   -BLIX_E_UNKNOWN   a third one leads, or nobody yet */
void consensus_transfer(struct consensus *c, uint64_t id, void (*cb)(void *data, int status),
                        void *data);

struct consensus_peer {
	uint64_t id;
	const char *address; /* until the next call of any function here */
	enum consensus_vote vote;
	bool seen; /* since the start */
	uint64_t seen_ms_ago;
	bool is_short; /* of disk space, as a leader hears it */
};

/* The members by the log, committed or not, this server included: fills up to n, returns how many
 * there are. */
size_t consensus_members(struct consensus *c, struct consensus_peer *ret, size_t n);
/* Somebody has told who leads: a spare, or a server that was not added yet, hears it from nobody
 * else. What the log's own messages say later counts more. */
void consensus_tell_leader(struct consensus *c, uint64_t id);

/* Called after every change of the role or of the known leader. */
void consensus_on_role(struct consensus *c,
                       void (*cb)(void *data, enum consensus_role role, uint64_t leader_id),
                       void *data);
void consensus_status(struct consensus *c, struct consensus_status *ret);
/* How long ago the last message of peer `id` came in (BOOTTIME); false: none since the start. */
bool consensus_peer_seen(const struct consensus *c, uint64_t id, uint64_t *ret_age_ms);
/* The deny list has changed: connections of servers that are on it by now are ended. */
void consensus_recheck_peers(struct consensus *c);

/* Offline, with a loop of their own; `config` as for consensus_open, of which loop, members and the
 * callbacks are not looked at. Both leave a directory whose only member is this server.
 *
 * A majority is lost for good: appends such a configuration to the log of a survivor. What that
 * log holds and nobody may have acknowledged becomes committed; what it does not hold is lost.
 * Of several survivors the one with the greatest *ret_index is to be taken. */
int consensus_recover(const struct consensus_config *config, uint64_t *ret_index,
                      struct blix_error *err);
/* A new directory whose state is what snapshot_encode once wrote, as of log entry `index` (> 0). */
int consensus_seed(const struct consensus_config *config, const void *bytes, size_t n,
                   uint64_t index, struct blix_error *err);

#endif
