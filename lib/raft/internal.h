/* What the files of this folder share: the consensus object and the calls between its parts.
 *
 * consensus.c  life, roles, errors, and the turn: where queued work and callbacks happen
 * propose.c    batches of proposals, and barriers
 * machine.c    libraft's state machine: apply, snapshot, restore
 * entry.c      the bytes of a log entry
 * peer.c       connections between servers
 * secure.c     those of them that are TCP with TLS
 */
#ifndef BLIX_RAFT_INTERNAL_H
#define BLIX_RAFT_INTERNAL_H

#include "raft/consensus.h"
#include "raft/entry.h"
#include "raft/peer.h"

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

TAILQ_HEAD(batches, batch);
STAILQ_HEAD(refusals, refusal);
STAILQ_HEAD(readers, reader);

/* A log write that libraft has not heard of again. */
struct disk_write {
	TAILQ_ENTRY(disk_write) entry;
	struct raft_io_append req;
	struct raft_io_append *outer;
	struct consensus *c;
	unsigned n_ticks; /* while it was the oldest */
};
TAILQ_HEAD(disk_writes, disk_write);

struct snapshot_task {
	uv_work_t work;
	void *view;
	struct raft_buffer *bufs; /* header and body; while not NULL a snapshot is being taken */
	uint64_t index;
	uint64_t hash;
	struct buf body;
	int status;
	bool encoding;
	/* what libraft asked for, until it is passed on */
	unsigned trailing;
	struct raft_io_snapshot_put *put;
	const struct raft_snapshot *snapshot;
	raft_io_snapshot_put_cb put_cb;
};

enum consensus_life { LIFE_OPEN, LIFE_RUNNING, LIFE_CLOSING };

struct consensus {
	struct consensus_config config;
	char *dir;
	char *cluster;
	struct consensus_member *members;
	uint64_t *seen_ms; /* per member */
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

	/* Queued work runs in the check phase; the idle handle keeps poll from sleeping first. */
	uv_idle_t idle;
	uv_check_t check;
	unsigned n_handles;

	void (*role_cb)(void *data, enum consensus_role role, uint64_t leader_id);
	void *role_data;
	enum consensus_role role;
	uint64_t leader_id;
	uint64_t lead_index; /* the last index when this server began to lead */

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
	uint64_t no_room_since_ms;

	struct readers waiting;
	struct readers reading;
	struct raft_barrier barrier;
	bool barrier_inflight;

	struct snapshot_task snapshot;

	void (*close_cb)(void *data);
	void *close_data;
};

/* consensus.c */
void consensus_arm(struct consensus *c);
void consensus_fail(struct consensus *c, const struct blix_error *err);

/* propose.c */
void propose_submit(struct consensus *c);
void propose_refuse_queued(struct consensus *c, int status);
void propose_deliver(struct consensus *c);
struct batch *propose_find(struct consensus *c, const struct entry_header *header);

/* machine.c */
void machine_init(struct consensus *c);
int machine_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb);
/* Whether raft_close must wait for the thread pool. */
bool machine_busy(struct consensus *c);
/* After raft_close: gives back the snapshot that never reached the disk. */
void machine_cancel(struct consensus *c);

#endif
