/* Group commit and barriers.
 *
 * Happy path of a command: consensus_propose copies it into the last queued batch -> in the check
 * phase of the loop's turn the batch is stamped, sealed and given to libraft as one entry -> the
 * machine applies it and leaves each result in the batch (propose_find) -> libraft's callback
 * delivers them.
 *
 * Up to BATCHES_MAX batches are in flight, so that one slow fsync does not hold the next write up.
 * A batch that libraft never took is answered NOLEADER or DISKFULL, for sure not done; one that it
 * took and gave up is UNKNOWN. Whether the disks have room is judged here, by member_quorum_short:
 * libraft's own judgement looks at segments that are not allocated yet right after an election, and
 * asserts when it finds itself short then.
 */
#include "raft/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"

#include <assert.h>

#define BATCHES_MAX 4

static void refuse(struct consensus *c, consensus_propose_cb cb, void *data, int status)
{
	struct refusal *refusal = xcalloc(1, sizeof(*refusal));

	refusal->cb = cb;
	refusal->data = data;
	refusal->status = status;
	STAILQ_INSERT_TAIL(&c->refusals, refusal, entry);
	consensus_arm(c);
}

static struct batch *batch_new(struct consensus *c)
{
	struct batch *batch = xcalloc(1, sizeof(*batch));

	batch->c = c;
	batch->sequence = c->sequence++;
	batch->req.data = batch;
	entry_init(&batch->bytes);
	TAILQ_INSERT_TAIL(&c->queued, batch, entry);
	return batch;
}

/* Answers all proposals and frees the batch. The callbacks may propose again. */
static void batch_finish(struct batch *batch, int status)
{
	struct consensus *c = batch->c;

	assert(status != 0 || batch->applied);
	c->n_proposals -= batch->n;
	for (size_t i = 0; i < batch->n; i++) {
		struct proposal *p = &batch->proposals[i];

		p->cb(p->data, status, status == 0 ? &p->result : NULL);
	}
	entry_done(&batch->bytes);
	free(batch->proposals);
	free(batch);
}

static void batch_add(struct batch *batch, const void *command, size_t n, consensus_propose_cb cb,
                      void *data)
{
	if (batch->n == batch->size) {
		batch->size = batch->size == 0 ? 8 : batch->size * 2;
		batch->proposals =
			xreallocarray(batch->proposals, batch->size, sizeof(*batch->proposals));
	}
	batch->proposals[batch->n++] = (struct proposal){.cb = cb, .data = data};
	entry_add(&batch->bytes, command, n);
}

static bool no_room(const struct consensus *c)
{
	return c->is_short || member_quorum_short(c);
}

static int admit(const struct consensus *c, size_t n)
{
	if (n > LIMIT_COMMAND)
		return -BLIX_E_TOOBIG;
	if (c->life != LIFE_RUNNING || c->failed || c->role != CONSENSUS_LEADER)
		return -BLIX_E_NOLEADER;
	if (no_room(c))
		return -BLIX_E_DISKFULL;
	if (c->n_proposals >= LIMIT_PROPOSALS || c->n_queued_bytes + n > LIMIT_PROPOSED)
		return -BLIX_E_BUSY;
	return 0;
}

void consensus_propose(struct consensus *c, const void *command, size_t n, consensus_propose_cb cb,
                       void *data)
{
	struct batch *batch = TAILQ_LAST(&c->queued, batches);
	int rc = admit(c, n);

	assert(n > 0);
	if (rc < 0) {
		refuse(c, cb, data, rc);
		return;
	}
	if (batch == NULL || batch->bytes.len + 4 + n > LIMIT_BATCH)
		batch = batch_new(c);
	batch_add(batch, command, n, cb, data);
	c->n_proposals++;
	c->n_queued_bytes += n;
	consensus_arm(c);
}

static void on_applied(struct raft_apply *req, int status, void *result)
{
	struct batch *batch = req->data;
	struct consensus *c = batch->c;

	(void)result;
	TAILQ_REMOVE(&c->inflight, batch, entry);
	c->n_inflight--;
	/* After a fatal error entries are passed over: what became of them is not known. */
	if (status != 0 || !batch->applied)
		status = -BLIX_E_UNKNOWN;
	if (!TAILQ_EMPTY(&c->queued))
		consensus_arm(c);
	batch_finish(batch, status);
}

/* The entries of former leaders that are still to be applied bring their own elapsed time. */
static bool caught_up(struct consensus *c)
{
	return raft_last_applied(&c->raft) >= c->lead_index;
}

static int batch_submit(struct batch *batch)
{
	struct consensus *c = batch->c;
	uint64_t now = clock_boot_ms();
	bool timed = caught_up(c);
	struct entry_header header = {
		.elapsed_ms = !timed               ? 0
	                      : c->stamped_ms == 0 ? CONSENSUS_ELAPSED_UNKNOWN
	                                           : now - c->stamped_ms,
		.wall_ms = clock_wall_ms(),
		.proposer = c->config.id,
		.sequence = batch->sequence,
	};
	struct raft_buffer buf = {
		.len = entry_seal(&batch->bytes, &header),
		.base = batch->bytes.data,
	};
	int rc = raft_apply(&c->raft, &batch->req, &buf, 1, on_applied);

	if (rc != 0)
		return rc;
	batch->bytes = (struct entry_builder){0};
	if (timed)
		c->stamped_ms = now;
	return 0;
}

void propose_refuse_queued(struct consensus *c, int status)
{
	struct batches queued = TAILQ_HEAD_INITIALIZER(queued);
	struct batch *batch;

	TAILQ_CONCAT(&queued, &c->queued, entry);
	c->n_queued_bytes = 0;
	while ((batch = TAILQ_FIRST(&queued)) != NULL) {
		TAILQ_REMOVE(&queued, batch, entry);
		batch_finish(batch, status);
	}
}

static void readers_answer(struct readers *readers, int status)
{
	struct readers own = STAILQ_HEAD_INITIALIZER(own);
	struct reader *reader;

	STAILQ_CONCAT(&own, readers);
	while ((reader = STAILQ_FIRST(&own)) != NULL) {
		STAILQ_REMOVE_HEAD(&own, entry);
		reader->cb(reader->data, status);
		free(reader);
	}
}

/* The first batch may be libraft's by now: it is left to it, and its outcome is open. */
static void first_batch_lost(struct consensus *c)
{
	struct batch *batch = TAILQ_FIRST(&c->queued);

	if (batch == NULL)
		return;
	TAILQ_REMOVE(&c->queued, batch, entry);
	batch->bytes = (struct entry_builder){0};
	batch_finish(batch, -BLIX_E_UNKNOWN);
}

/* libraft refused a batch or a barrier. */
static void submit_failed(struct consensus *c, int rc)
{
	struct blix_error err;

	if (rc == RAFT_NOTLEADER) {
		propose_refuse_queued(c, -BLIX_E_NOLEADER);
		readers_answer(&c->waiting, -BLIX_E_NOLEADER);
		return;
	}
	first_batch_lost(c);
	(void)blix_fail(&err, BLIX_E_IO, "propose: %s: %s", raft_strerror(rc), c->raft.errmsg);
	consensus_fail(c, &err);
}

static void submit_batches(struct consensus *c)
{
	if (!TAILQ_EMPTY(&c->queued) && no_room(c))
		propose_refuse_queued(c, -BLIX_E_DISKFULL);
	while (c->n_inflight < BATCHES_MAX && !TAILQ_EMPTY(&c->queued) && !machine_holds(c)) {
		struct batch *batch = TAILQ_FIRST(&c->queued);
		size_t n = batch->bytes.len - ENTRY_HEADER - 4 * batch->n;
		int rc = batch_submit(batch);

		if (rc != 0) {
			submit_failed(c, rc);
			return;
		}
		TAILQ_REMOVE(&c->queued, batch, entry);
		TAILQ_INSERT_TAIL(&c->inflight, batch, entry);
		c->n_inflight++;
		c->n_queued_bytes -= n;
	}
}

struct batch *propose_find(struct consensus *c, const struct entry_header *header)
{
	struct batch *batch;

	if (header->proposer != c->config.id)
		return NULL;
	for (batch = TAILQ_FIRST(&c->inflight); batch != NULL; batch = TAILQ_NEXT(batch, entry)) {
		if (batch->sequence == header->sequence)
			return batch;
	}
	return NULL;
}

/* A read changes nothing: when the barrier is lost it was, for sure, not done. */
static void on_barrier(struct raft_barrier *req, int status)
{
	struct consensus *c = req->data;

	c->barrier_inflight = false;
	if (!STAILQ_EMPTY(&c->waiting))
		consensus_arm(c);
	readers_answer(&c->reading, status == 0 && !c->failed ? 0 : -BLIX_E_NOLEADER);
}

static void submit_barrier(struct consensus *c)
{
	int rc;

	if (c->barrier_inflight || STAILQ_EMPTY(&c->waiting))
		return;
	rc = raft_barrier(&c->raft, &c->barrier, on_barrier);
	if (rc != 0) {
		submit_failed(c, rc);
		return;
	}
	c->barrier_inflight = true;
	STAILQ_CONCAT(&c->reading, &c->waiting);
}

void consensus_barrier(struct consensus *c, void (*cb)(void *data, int status), void *data)
{
	struct reader *reader = xcalloc(1, sizeof(*reader));

	reader->cb = cb;
	reader->data = data;
	STAILQ_INSERT_TAIL(&c->waiting, reader, entry);
	consensus_arm(c);
}

void propose_submit(struct consensus *c)
{
	if (c->life != LIFE_RUNNING || c->failed || c->role != CONSENSUS_LEADER) {
		propose_refuse_queued(c, -BLIX_E_NOLEADER);
		readers_answer(&c->waiting, -BLIX_E_NOLEADER);
		return;
	}
	c->barrier.data = c;
	submit_batches(c);
	submit_barrier(c);
}

void propose_deliver(struct consensus *c)
{
	struct refusals own = STAILQ_HEAD_INITIALIZER(own);
	struct refusal *refusal;

	STAILQ_CONCAT(&own, &c->refusals);
	while ((refusal = STAILQ_FIRST(&own)) != NULL) {
		STAILQ_REMOVE_HEAD(&own, entry);
		refusal->cb(refusal->data, refusal->status, NULL);
		free(refusal);
	}
}
