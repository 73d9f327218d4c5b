/* libraft's state machine over the one of the configuration.
 *
 * An entry is checked whole before the first of its commands is applied; one that does not pass
 * ends the program (consensus_fail), as does a snapshot.
 *
 * Snapshots. Happy path: libraft asks (machine_snapshot, on the loop): a cheap view is taken ->
 * libraft hands it to the disk (machine_snapshot_put): it is held back while a thread of the pool
 * encodes and hashes it -> on the loop again the view is released and the bytes go to raft_uv ->
 * libraft is done with them (machine_snapshot_finalize). The detour is there because libraft 0.22
 * calls its fsm's snapshot_async on the loop's thread. An encoder or a put that fails is fatal; a
 * put that raft_uv never took, or gave up, is given back as cancelled after raft_close.
 *
 * libraft counts entries between snapshots; what fills a disk is bytes. So the sizes of what is
 * applied are added up here: LIMIT_LOG_TAIL brings the next snapshot on, it keeps no more behind it
 * than LIMIT_LOG_TRAIL, and while one is under way a leader proposes no more than the same again.
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
#define SNAPSHOT_HEADER  MACHINE_SNAPSHOT_HEADER

static void tail_add(struct consensus *c, size_t n)
{
	struct log_tail *tail = &c->tail;

	tail->last[tail->n++ % array_size(tail->last)] = (uint32_t)n;
	tail->bytes += n;
	if (tail->bytes >= LIMIT_LOG_TAIL)
		raft_set_snapshot_threshold(&c->raft, 1);
}

/* A snapshot begins: how many entries are to be kept behind it. Never 0, which would mean another
 * thing to raft_uv. */
static void tail_cut(struct consensus *c)
{
	struct log_tail *tail = &c->tail;
	uint64_t most = tail->n < array_size(tail->last) ? tail->n : array_size(tail->last);
	uint64_t bytes = 0;
	unsigned n = 0;

	if (most > c->config.snapshot_trailing)
		most = c->config.snapshot_trailing;
	while (n < most && bytes <= LIMIT_LOG_TRAIL)
		bytes += tail->last[(tail->n - ++n) % array_size(tail->last)];
	raft_set_snapshot_trailing(&c->raft, n > 0 ? n : 1);
	raft_set_snapshot_threshold(&c->raft, c->config.snapshot_threshold);
	tail->bytes = 0;
}

bool machine_holds(const struct consensus *c)
{
	return c->snapshot.bufs != NULL && c->tail.bytes >= LIMIT_LOG_TAIL;
}

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
	tail_add(c, buf->len);
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
	tail_cut(c);
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

void machine_snapshot_seal(uint8_t *header, uint64_t index, const void *body, size_t n)
{
	put_u32(header, SNAPSHOT_MAGIC);
	put_u16(header + 4, SNAPSHOT_VERSION);
	put_u16(header + 6, 0);
	put_u64(header + 8, n);
	put_u64(header + 16, index);
	put_u64(header + 24, snapshot_hash(index, body, n));
}

/* Pool. Touches the view and the task's own members, which the loop leaves alone meanwhile. */
static void encode_work(uv_work_t *work)
{
	struct consensus *c = work->data;
	struct snapshot_task *task = &c->snapshot;
	size_t n;

	task->status = c->config.fsm.snapshot_encode(task->view, &task->body);
	if (task->status == 0 && buf_failed(&task->body))
		task->status = -BLIX_E_TOOBIG;
	n = task->body.len;
	if (task->status == 0)
		task->status = body_pad(&task->body);
	if (task->status < 0)
		return;
	machine_snapshot_seal(task->bufs[0].base, task->index, task->body.data, n);
}

static void view_release(struct consensus *c)
{
	void *view = take(c->snapshot.view);

	if (view != NULL)
		c->config.fsm.snapshot_release(c->config.fsm.data, view);
}

static void snapshot_failed(struct consensus *c)
{
	struct blix_error err;

	(void)blix_fail(&err, BLIX_E_IO, "store snapshot at %" PRIu64 ": %s", c->snapshot.index,
	                c->io.errmsg[0] != '\0' ? c->io.errmsg : "input/output error");
	consensus_fail(c, &err);
}

/* libraft would assert on a failure; machine_cancel tells it later. */
static void on_put(struct raft_io_snapshot_put *put, int status)
{
	struct consensus *c = container_of(put, struct consensus, snapshot.inner_put);
	struct snapshot_task *task = &c->snapshot;

	if (status != 0 && status != RAFT_CANCELED) {
		task->put = task->outer_put;
		snapshot_failed(c);
		return;
	}
	if (status == 0)
		task->stored_bytes = task->bufs[0].len + task->bufs[1].len;
	task->put_cb(task->outer_put, status);
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
	task->outer_put = put;
	if (c->inner.snapshot_put(&c->io, task->trailing, &task->inner_put, task->snapshot,
	                          on_put) != 0) {
		task->put = put;
		snapshot_failed(c);
	}
}

int machine_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
	struct consensus *c = ((struct raft *)io->data)->data;
	struct snapshot_task *task = &c->snapshot;

	int rc;

	/* Another's, which takes the place of the whole log. */
	if (task->bufs == NULL || snapshot->bufs != task->bufs) {
		rc = disk_lower(c, snapshot->index);
		return rc != 0 ? rc : c->inner.snapshot_put(io, trailing, req, snapshot, cb);
	}
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
	consensus_arm(c);
	return 0;
}

static bool is_zero(const uint8_t *p, size_t n)
{
	while (n > 0 && p[n - 1] == 0)
		n--;
	return n == 0;
}

/* Every bit of the file is under the checksum, or compared with what it must be. */
static int snapshot_check(const struct raft_buffer *buf, uint64_t *ret_n, uint64_t *ret_index,
                          struct blix_error *err)
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
	if (n > buf->len - SNAPSHOT_HEADER || buf->len - SNAPSHOT_HEADER - n >= 8 ||
	    !is_zero(p + SNAPSHOT_HEADER + n, buf->len - SNAPSHOT_HEADER - n))
		return blix_fail(err, BLIX_E_CORRUPT, "it has %zu bytes, its header says %" PRIu64,
		                 buf->len - SNAPSHOT_HEADER, n);
	if (get_u64(p + 24) != snapshot_hash(index, p + SNAPSHOT_HEADER, n))
		return blix_fail(err, BLIX_E_CORRUPT, "it fails its checksum");
	*ret_n = n;
	*ret_index = index;
	return 0;
}

int machine_snapshot_check(const struct raft_buffer *buf, struct blix_error *err)
{
	uint64_t n, index;

	return snapshot_check(buf, &n, &index, err);
}

static int snapshot_read(struct consensus *c, const struct raft_buffer *buf, struct blix_error *err)
{
	const uint8_t *p = buf->base;
	uint64_t n = 0;
	uint64_t index = 0;
	int rc = snapshot_check(buf, &n, &index, err);

	if (rc < 0)
		return rc;
	c->snapshot.stored_bytes = buf->len;
	return c->config.fsm.restore(c->config.fsm.data, p + SNAPSHOT_HEADER, n, index, err);
}

struct snapshot_get {
	struct raft_io_snapshot_get inner;
	struct raft_io_snapshot_get *outer;
	struct consensus *c;
};

/* What is damaged here must not be sent to others, who would end themselves for it. libraft has no
 * way out at this place: told of a failure it frees what it never set, and while it closes it sends
 * on a transport that is gone. So its request, which it put into `data`, is freed for it; the
 * snapshot is asked for again when it was not received for a while. */
static void on_got(struct raft_io_snapshot_get *req, struct raft_snapshot *snapshot, int status)
{
	struct snapshot_get *get = container_of(req, struct snapshot_get, inner);
	struct raft_io_snapshot_get *outer = get->outer;
	struct consensus *c = get->c;
	struct blix_error err;
	bool damaged = status == 0 && machine_snapshot_check(&snapshot->bufs[0], &err) < 0;

	free(get);
	if (status == 0 && !damaged && c->life == LIFE_RUNNING) {
		outer->cb(outer, snapshot, 0);
		return;
	}
	if (status == 0)
		disk_load_free(snapshot, NULL, 0);
	else
		raft_free(snapshot);
	raft_free(outer->data);
	if (damaged && c->life == LIFE_RUNNING) {
		(void)blix_wrap(&err, "read snapshot in %s", c->dir);
		consensus_fail(c, &err);
	}
}

int machine_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                         raft_io_snapshot_get_cb cb)
{
	struct consensus *c = ((struct raft *)io->data)->data;
	struct snapshot_get *get = xcalloc(1, sizeof(*get));
	int rc;

	req->cb = cb;
	get->outer = req;
	get->c = c;
	rc = c->inner.snapshot_get(io, &get->inner, on_got);
	if (rc != 0)
		free(get);
	return rc;
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
