/* libraft's state machine over the one of the configuration.
 *
 * An entry is checked whole before the first of its commands is applied; one that does not pass
 * ends the program (consensus_fail), as does a snapshot.
 *
 * Snapshots. Happy path: libraft asks (machine_snapshot, on the loop): a cheap view is taken ->
 * libraft hands it to the disk (machine_snapshot_put): it is held back while a thread of the pool
 * encodes and hashes it -> on the loop again the view is released and the bytes go to raft_uv ->
 * libraft is done with them (machine_snapshot_finalize). The detour is there because libraft 0.22
 * calls its fsm's snapshot_async on the loop's thread. An encoder that fails is fatal; a put that
 * never reached raft_uv is given back as cancelled after raft_close.
 *
 * Bytes: header of 32 (magic, version, flags, length, index, XXH64 of index and body), the body,
 * zeros up to a multiple of 8.
 */
#include "raft/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "raft/bytes.h"
#include "sys/clock.h"

#include <assert.h>
#include <inttypes.h>
#include <xxhash.h>

#define SNAPSHOT_MAGIC   0x53584c42u /* "BLXS" */
#define SNAPSHOT_VERSION 1
#define SNAPSHOT_HEADER  32u

static void apply_commands(struct consensus *c, struct entry_reader *reader, struct batch *batch)
{
	const struct consensus_fsm *fsm = &c->config.fsm;
	const uint8_t *command;
	size_t n;

	for (size_t i = 0; entry_next(reader, &command, &n); i++) {
		struct command_result result = {0};

		fsm->apply(fsm->data, command, n, &result);
		if (batch != NULL && i < batch->n)
			batch->proposals[i].result = result;
	}
}

/* Never returns an error: libraft would assert on some of its paths. `failed` says it instead. */
static int machine_apply(struct raft_fsm *raft_fsm, const struct raft_buffer *buf, void **result)
{
	struct consensus *c = raft_fsm->data;
	const struct consensus_fsm *fsm = &c->config.fsm;
	uint64_t index = raft_last_applied(&c->raft) + 1;
	struct consensus_stamp stamp;
	struct entry_header header;
	struct entry_reader reader;
	struct blix_error err;
	struct batch *batch;

	*result = NULL;
	if (c->failed)
		return 0;
	if (entry_read(buf->base, buf->len, &header, &reader, &err) < 0) {
		(void)blix_wrap(&err, "apply log entry %" PRIu64, index);
		consensus_fail(c, &err);
		return 0;
	}
	stamp = (struct consensus_stamp){header.elapsed_ms, header.wall_ms};
	batch = propose_find(c, &header);
	/* The time since an own stamp was counted from when it was made. */
	if (batch == NULL && index > c->disk_index)
		c->stamped_ms = clock_boot_ms();
	fsm->begin(fsm->data, index, &stamp);
	apply_commands(c, &reader, batch);
	fsm->end(fsm->data);
	if (batch != NULL)
		batch->applied = true;
	return 0;
}

static int machine_snapshot(struct raft_fsm *raft_fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
	struct consensus *c = raft_fsm->data;
	struct snapshot_task *task = &c->snapshot;

	if (c->failed || c->life != LIFE_RUNNING)
		return RAFT_BUSY;
	assert(task->bufs == NULL && task->view == NULL);
	task->bufs = xcalloc(2, sizeof(*task->bufs));
	task->view = c->config.fsm.snapshot_view(c->config.fsm.data);
	task->index = raft_last_applied(&c->raft);
	*bufs = task->bufs;
	*n_bufs = 2;
	return 0;
}

static uint64_t snapshot_hash(uint64_t index, const void *body, size_t n)
{
	return XXH64(body, n, index);
}

static int body_pad(struct buf *body)
{
	static const char zeros[8];

	return buf_add(body, zeros, (8 - body->len % 8) % 8);
}

/* Pool. Touches the view and the task's own members, which the loop leaves alone meanwhile. */
static void encode_work(uv_work_t *work)
{
	struct consensus *c = work->data;
	struct snapshot_task *task = &c->snapshot;
	uint8_t *header = task->bufs[0].base;
	size_t n;

	task->status = c->config.fsm.snapshot_encode(task->view, &task->body);
	if (task->status == 0 && buf_failed(&task->body))
		task->status = -BLIX_E_TOOBIG;
	n = task->body.len;
	if (task->status == 0)
		task->status = body_pad(&task->body);
	if (task->status < 0)
		return;
	put_u32(header, SNAPSHOT_MAGIC);
	put_u16(header + 4, SNAPSHOT_VERSION);
	put_u16(header + 6, 0);
	put_u64(header + 8, n);
	put_u64(header + 16, task->index);
	put_u64(header + 24, snapshot_hash(task->index, task->body.data, n));
}

static void view_release(struct consensus *c)
{
	void *view = take(c->snapshot.view);

	if (view != NULL)
		c->config.fsm.snapshot_release(c->config.fsm.data, view);
}

static void after_encode(uv_work_t *work, int status)
{
	struct consensus *c = work->data;
	struct snapshot_task *task = &c->snapshot;
	struct raft_io_snapshot_put *put = task->put;
	struct blix_error err;

	task->encoding = false;
	view_release(c);
	if (c->life == LIFE_CLOSING || status != 0) {
		consensus_arm(c);
		return;
	}
	if (task->status < 0) {
		(void)blix_fail(&err, (enum blix_code) - task->status,
		                "encode snapshot at %" PRIu64, task->index);
		consensus_fail(c, &err);
		return;
	}
	task->bufs[1] = (struct raft_buffer){.base = task->body.data, .len = task->body.len};
	task->put = NULL;
	if (c->inner.snapshot_put(&c->io, task->trailing, put, task->snapshot, task->put_cb) != 0) {
		task->put = put;
		(void)blix_fail(&err, BLIX_E_IO, "store snapshot at %" PRIu64 ": %s", task->index,
		                c->io.errmsg);
		consensus_fail(c, &err);
	}
}

int machine_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
	struct consensus *c = ((struct raft *)io->data)->data;
	struct snapshot_task *task = &c->snapshot;

	if (task->bufs == NULL || snapshot->bufs != task->bufs)
		return c->inner.snapshot_put(io, trailing, req, snapshot, cb);
	task->bufs[0] = (struct raft_buffer){
		.base = xcalloc(1, SNAPSHOT_HEADER),
		.len = SNAPSHOT_HEADER,
	};
	buf_init(&task->body, LIMIT_SNAPSHOT);
	task->trailing = trailing;
	task->put = req;
	task->snapshot = snapshot;
	task->put_cb = cb;
	task->work.data = c;
	if (uv_queue_work(c->config.loop, &task->work, encode_work, after_encode) != 0)
		return RAFT_NOMEM;
	task->encoding = true;
	return 0;
}

static int machine_snapshot_finalize(struct raft_fsm *raft_fsm, struct raft_buffer *bufs[],
                                     unsigned *n_bufs)
{
	struct consensus *c = raft_fsm->data;
	struct snapshot_task *task = &c->snapshot;

	assert(!task->encoding && *bufs == task->bufs);
	view_release(c);
	free(task->bufs[0].base);
	buf_done(&task->body);
	free(take(task->bufs));
	task->put = NULL;
	*bufs = NULL;
	*n_bufs = 0;
	return 0;
}

static int snapshot_read(struct consensus *c, const struct raft_buffer *buf, struct blix_error *err)
{
	const uint8_t *p = buf->base;
	uint64_t n;
	uint64_t index;

	if (buf->len < SNAPSHOT_HEADER || get_u32(p) != SNAPSHOT_MAGIC)
		return blix_fail(err, BLIX_E_CORRUPT, "it is not blix's");
	if (get_u16(p + 4) != SNAPSHOT_VERSION || get_u16(p + 6) != 0)
		return blix_fail(err, BLIX_E_CORRUPT,
		                 "it has version %u, this program reads version %u: a newer blixd "
		                 "wrote it",
		                 get_u16(p + 4), SNAPSHOT_VERSION);
	n = get_u64(p + 8);
	index = get_u64(p + 16);
	if (n > buf->len - SNAPSHOT_HEADER || buf->len - SNAPSHOT_HEADER - n >= 8)
		return blix_fail(err, BLIX_E_CORRUPT, "it has %zu bytes, its header says %" PRIu64,
		                 buf->len - SNAPSHOT_HEADER, n);
	if (get_u64(p + 24) != snapshot_hash(index, p + SNAPSHOT_HEADER, n))
		return blix_fail(err, BLIX_E_CORRUPT, "it fails its checksum");
	return c->config.fsm.restore(c->config.fsm.data, p + SNAPSHOT_HEADER, n, index, err);
}

/* As with apply, `failed` carries the error; the buffer is ours in any case then. */
static int machine_restore(struct raft_fsm *raft_fsm, struct raft_buffer *buf)
{
	struct consensus *c = raft_fsm->data;
	struct blix_error err;

	if (!c->failed && snapshot_read(c, buf, &err) < 0) {
		(void)blix_wrap(&err, "restore snapshot");
		consensus_fail(c, &err);
	}
	if (c->life == LIFE_RUNNING)
		c->stamped_ms = clock_boot_ms();
	raft_free(buf->base);
	return 0;
}

bool machine_busy(struct consensus *c)
{
	if (c->snapshot.encoding)
		(void)uv_cancel((uv_req_t *)&c->snapshot.work);
	return c->snapshot.encoding;
}

void machine_cancel(struct consensus *c)
{
	struct raft_io_snapshot_put *put = take(c->snapshot.put);

	if (put != NULL)
		c->snapshot.put_cb(put, RAFT_CANCELED);
}

void machine_init(struct consensus *c)
{
	c->fsm = (struct raft_fsm){
		.version = 3,
		.data = c,
		.apply = machine_apply,
		.snapshot = machine_snapshot,
		.snapshot_finalize = machine_snapshot_finalize,
		.restore = machine_restore,
	};
}
