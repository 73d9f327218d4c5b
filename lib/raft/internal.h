/* What the files of this folder share: the consensus object and the calls between its parts.
 *
 * consensus.c  life, roles, errors, and the turn: where queued work and callbacks happen
 * propose.c    batches of proposals, and barriers
 * member.c     who is a member, changes of that, and the transfer of leadership
 * machine.c    libraft's state machine: apply, snapshot, restore
 * disk.c       what libraft does to the disk, and how full that is
 * segment.c    a look at the log before libraft loads it
 * recover.c    directories made, or mended, offline
 * entry.c      the bytes of a log entry
 * bound.c      the bound file
 * reserve.c    the reserve file
 * peer.c       connections between servers
 * secure.c     those of them that are TCP with TLS
 */
#ifndef BLIX_RAFT_INTERNAL_H
#define BLIX_RAFT_INTERNAL_H

#include "raft/bound.h"
#include "raft/consensus.h"
#include "raft/entry.h"
#include "raft/peer.h"
#include "raft/reserve.h"

#include <raft.h>
#include <raft/uv.h>
#include <sys/queue.h>

struct proposal {
	consensus_propose_cb cb;
	void *data;
	struct command_result result;
};

/* Proposals that share one log entry. */
struct batch {
	TAILQ_ENTRY(batch) entry;
	struct raft_apply req;
	struct consensus *c;
	struct entry_builder bytes;
	struct proposal *proposals;
	size_t n;
	size_t size;
	uint64_t sequence;
	bool applied;
};

struct refusal {
	STAILQ_ENTRY(refusal) entry;
	consensus_propose_cb cb;
	void *data;
	int status;
};

struct reader {
	STAILQ_ENTRY(reader) entry;
	void (*cb)(void *data, int status);
	void *data;
};

/* A change of the members, waiting or under way, or the outcome of one, or of a transfer. */
struct change {
	STAILQ_ENTRY(change) entry;
	struct consensus_change what;
	char *address;
	void (*cb)(void *data, int status);
	void *data;
	int status;
};

TAILQ_HEAD(batches, batch);
STAILQ_HEAD(refusals, refusal);
STAILQ_HEAD(readers, reader);
STAILQ_HEAD(changes, change);

/* A server that was heard of, member or not. Kept until the consensus is closed. */
struct known {
	struct peer peer;
	uint64_t seen_ms; /* BOOTTIME; 0: not yet */
	bool is_short;
};

/* Members and what happens to them. */
struct membership {
	struct known **known;
	size_t n_known;
	struct changes queued;
	unsigned n_queued;
	struct change *running;
	struct raft_change req;
	struct raft_transfer transfer;
	bool transferring;
	struct change *transfer_outcome; /* NULL: nobody asked */
	uint64_t handed_ms;              /* when leadership was last offered for lack of space */
	struct changes done;
};

/* A log write that libraft has not heard of again. */
struct disk_write {
	TAILQ_ENTRY(disk_write) entry;
	struct raft_io_append req;
	struct raft_io_append *outer;
	struct consensus *c;
	unsigned n_ticks; /* while it was the oldest */
};
TAILQ_HEAD(disk_writes, disk_write);

/* What the pool does every second. */
struct disk_job {
	uv_work_t work;
	uint64_t started_ms;
	uint64_t synced_ms;
	bool sync;
	bool busy;
	int status;
	struct blix_error error;
};

/* Entries applied since a snapshot was last begun. */
struct log_tail {
	uint64_t bytes;
	uint64_t n;
	uint32_t last[512]; /* sizes of the last ones, by number modulo */
};

struct snapshot_task {
	uv_work_t work;
	void *view;
	struct raft_buffer *bufs; /* header and body; while not NULL a snapshot is being taken */
	uint64_t index;
	uint64_t hash;
	struct buf body;
	int status;
	bool encoding;
	unsigned n_ticks;      /* since it was begun */
	uint64_t stored_bytes; /* of the last one */
	/* what libraft asked for, until it is passed on */
	unsigned trailing;
	struct raft_io_snapshot_put *put;
	/* the same for raft_uv, and whose it is */
	struct raft_io_snapshot_put inner_put;
	struct raft_io_snapshot_put *outer_put;
	const struct raft_snapshot *snapshot;
	raft_io_snapshot_put_cb put_cb;
};

enum consensus_life { LIFE_OPEN, LIFE_RUNNING, LIFE_CLOSING };

struct consensus {
	struct consensus_config config;
	char *dir;
	char *cluster;
	char *address;                    /* NULL: listens nowhere */
	struct consensus_member *members; /* of the configuration */
	struct membership membership;
	int lock_fd;

	enum consensus_life life;
	bool io_open;   /* raft_uv_init succeeded */
	bool raft_open; /* raft_init succeeded */
	bool raft_closing;
	bool failed; /* fatal: nothing is applied or answered any more */
	bool starting;
	struct blix_error error;

	struct raft raft;
	struct raft_io io;
	struct raft_io inner; /* raft_uv's own functions */
	struct raft_fsm fsm;
	struct peer_transport transport;
	raft_io_tick_cb tick_cb;
	raft_io_recv_cb recv_cb;
	struct disk_writes disk_writes;
	struct bound bound;
	uint64_t bound_index; /* what the file said at the start */
	struct reserve reserve;
	struct disk_job disk_job;
	bool is_short; /* of disk space */

	/* Queued work runs in the check phase; the idle handle keeps poll from sleeping first. */
	uv_idle_t idle;
	uv_check_t check;
	unsigned n_handles;

	void (*role_cb)(void *data, enum consensus_role role, uint64_t leader_id);
	void *role_data;
	enum consensus_role role;
	uint64_t leader_id;
	uint64_t told_leader; /* by hearsay; 0: nobody */
	uint64_t lead_index;  /* the last index when this server began to lead */

	struct batches queued;
	struct batches inflight;
	struct refusals refusals;
	unsigned n_inflight;
	size_t n_proposals; /* queued and in flight */
	size_t n_queued_bytes;
	uint64_t sequence;
	uint64_t stamped_ms; /* BOOTTIME of the last stamp made since the start, own or applied; 0:
	                        none */
	uint64_t disk_index; /* the last index found on disk at the start */

	struct readers waiting;
	struct readers reading;
	struct raft_barrier barrier;
	bool barrier_inflight;

	struct snapshot_task snapshot;
	struct log_tail tail;

	void (*close_cb)(void *data);
	void *close_data;
};

/* consensus.c */
void consensus_arm(struct consensus *c);
void consensus_fail(struct consensus *c, const struct blix_error *err);
enum blix_code consensus_code(int raft_rc);
struct bound_identity consensus_identity(const struct consensus *c);
/* Everything but raft_start and what comes before raft_bootstrap or raft_recover. */
int consensus_prepare(struct consensus *c, bool any_incarnation, bool *ret_found,
                      struct blix_error *err);
int consensus_failed(struct consensus *c, int raft_rc, const char *what, struct blix_error *err);

/* disk.c */
void disk_wrap(struct consensus *c);
int disk_open(struct consensus *c, bool any_incarnation, bool *ret_found, struct blix_error *err);
/* Loads the log as a start does, and forgets it again. A code of libraft's. */
int disk_check(struct consensus *c, uint64_t *ret_last);
void disk_load_free(struct raft_snapshot *snapshot, struct raft_entry *entries, size_t n);
/* Once libraft has started. */
int disk_start(struct consensus *c, struct blix_error *err);
void disk_tick(struct consensus *c);
/* The log will end at `index`. A code of libraft's. */
int disk_lower(struct consensus *c, uint64_t index);
/* Whether raft_close must wait for the thread pool. */
bool disk_busy(struct consensus *c);
void disk_done(struct consensus *c);

/* member.c */
void member_init(struct consensus *c);
void member_done(struct consensus *c);
const struct peer *member_find(void *data, uint64_t id, const char *address);
/* Before libraft gets it. */
void member_heard(struct consensus *c, struct raft_message *message);
/* Once per turn: begins the next change, tells what became of others. */
void member_turn(struct consensus *c);
/* Whether there is still somebody to tell. */
bool member_pending(const struct consensus *c);
void member_tick(struct consensus *c);
/* Whether so many voters are short of space that nothing can be committed. */
bool member_quorum_short(const struct consensus *c);
bool member_is_member(const struct consensus *c);

/* propose.c */
void propose_submit(struct consensus *c);
void propose_refuse_queued(struct consensus *c, int status);
void propose_deliver(struct consensus *c);
struct batch *propose_find(struct consensus *c, const struct entry_header *header);

/* machine.c */
#define MACHINE_SNAPSHOT_HEADER 32u
void machine_init(struct consensus *c);
/* Whether the log has grown as much as it may before the snapshot under way is done. */
bool machine_holds(const struct consensus *c);
int machine_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                         raft_io_snapshot_get_cb cb);
/* The whole of a snapshot's file: a header, and `body` with what pads it. */
void machine_snapshot_seal(uint8_t *header, uint64_t index, const void *body, size_t n);
int machine_snapshot_check(const struct raft_buffer *buf, struct blix_error *err);
int machine_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb);
/* Whether raft_close must wait for the thread pool. */
bool machine_busy(struct consensus *c);
/* After raft_close: gives back the snapshot that never reached the disk. */
void machine_cancel(struct consensus *c);

#endif
