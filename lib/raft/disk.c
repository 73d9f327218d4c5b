/* What libraft does to the disk, seen through raft_uv's functions, which are wrapped; and the two
 * files of our own beside the log, the bound and the reserve.
 *
 * Happy path: disk_open reads the bound -> libraft loads, and disk_wrap's on_load compares -> the
 * bound is opened -> each entry that reaches the disk raises it in memory -> every DISK_TICK_MS a
 * thread of the pool writes it down and looks how much is free. Nothing of this waits on the loop,
 * but for a bound that must be lowered before the log is cut, which an election may bring.
 *
 * Failure: an error of the disk is seen before libraft, which would assert on some, and told once
 * (consensus_fail). raft_uv tries a failed write again without a word; it leaves a message behind,
 * which is looked for at each tick, long before: what a failed fsync has lost, no second one brings
 * back. A write or a snapshot that is not done in time counts as failed too, unless the disk is
 * only full: those go on by themselves when there is room. What a full disk means for proposals is
 * in propose.c, for leadership in member.c.
 */
#include "raft/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "raft/segment.h"
#include "sys/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#define DISK_STALL_MS     10000u
#define SNAPSHOT_STALL_MS 300000u
#define DISK_TICK_MS      1000u
#define BOUND_SYNC_MS     5000u

static struct consensus *consensus_of(struct raft_io *io)
{
	struct raft *raft = io->data;

	return raft->data;
}

static int disk_result(struct consensus *c, int rc, const char *what)
{
	struct blix_error err;

	if (rc != 0 && rc != RAFT_CANCELED) {
		(void)blix_fail(&err, consensus_code(rc), "raft log in %s: %s: %s", c->dir, what,
		                c->io.errmsg[0] != '\0' ? c->io.errmsg : raft_strerror(rc));
		consensus_fail(c, &err);
	}
	return rc;
}

static int on_set_term(struct raft_io *io, raft_term term)
{
	struct consensus *c = consensus_of(io);

	return disk_result(c, c->inner.set_term(io, term), "store term");
}

static int on_set_vote(struct raft_io *io, raft_id id)
{
	struct consensus *c = consensus_of(io);

	return disk_result(c, c->inner.set_vote(io, id), "store vote");
}

int disk_lower(struct consensus *c, uint64_t index)
{
	struct blix_error err;

	if (bound_lower(&c->bound, index, &err) == 0)
		return 0;
	consensus_fail(c, &err);
	return RAFT_IOERR;
}

/* libraft calls it before each append, mostly for what was never written. */
static int on_truncate(struct raft_io *io, raft_index index)
{
	struct consensus *c = consensus_of(io);
	int rc = disk_lower(c, index - 1);

	return rc != 0 ? rc : disk_result(c, c->inner.truncate(io, index), "truncate");
}

static void on_appended(struct raft_io_append *req, int status)
{
	struct disk_write *write = req->data;
	struct raft_io_append *outer = write->outer;
	struct consensus *c = write->c;

	TAILQ_REMOVE(&c->disk_writes, write, entry);
	free(write);
	outer->cb(outer, status);
	if (status == 0)
		bound_note(&c->bound, c->raft.last_stored);
}

static int on_append(struct raft_io *io, struct raft_io_append *req,
                     const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
	struct consensus *c = consensus_of(io);
	struct disk_write *write = xcalloc(1, sizeof(*write));
	int rc;

	req->cb = cb;
	write->c = c;
	write->outer = req;
	write->req.data = write;
	TAILQ_INSERT_TAIL(&c->disk_writes, write, entry);
	rc = c->inner.append(io, &write->req, entries, n, on_appended);
	if (rc != 0) {
		TAILQ_REMOVE(&c->disk_writes, write, entry);
		free(write);
	}
	return disk_result(c, rc, "append");
}

/* Others hear of a short disk by what libraft tells them of its capacity. */
static int on_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                   raft_io_send_cb cb)
{
	struct consensus *c = consensus_of(io);
	struct raft_message copy = *message;

	if (copy.type == RAFT_APPEND_ENTRIES_RESULT)
		copy.append_entries_result.capacity = !c->is_short;
	else if (copy.type == RAFT_REQUEST_VOTE_RESULT)
		copy.request_vote_result.capacity = !c->is_short;
	return c->inner.send(io, req, &copy, cb);
}

void disk_load_free(struct raft_snapshot *snapshot, struct raft_entry *entries, size_t n)
{
	void *batch = NULL;

	for (size_t i = 0; i < n; i++) {
		if (entries[i].batch != batch)
			raft_free(entries[i].batch);
		batch = entries[i].batch;
	}
	raft_free(entries);
	if (snapshot == NULL)
		return;
	raft_configuration_close(&snapshot->configuration);
	for (unsigned i = 0; i < snapshot->n_bufs; i++)
		raft_free(snapshot->bufs[i].base);
	raft_free(snapshot->bufs);
	raft_free(snapshot);
}

/* "snapshot-TERM-INDEX-TIMESTAMP.meta" */
static bool parse_meta(const char *name, uint64_t *ret_term, uint64_t *ret_index)
{
	char *end;

	if (strncmp(name, "snapshot-", 9) != 0)
		return false;
	*ret_term = strtoull(name + 9, &end, 10);
	if (*end != '-')
		return false;
	*ret_index = strtoull(end + 1, &end, 10);
	if (*end != '-')
		return false;
	(void)strtoull(end + 1, &end, 10);
	return strcmp(end, ".meta") == 0;
}

/* Four bytes of it are under no checksum, and are always 0. */
static bool meta_is_clean(const char *dir, const char *name)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint32_t word = 1;

	if (fd < 0)
		return false;
	if (pread(fd, &word, sizeof(word), 12) != (ssize_t)sizeof(word))
		word = 1;
	(void)close(fd);
	return word == 0;
}

/* libraft takes an older snapshot when it cannot read the newest. What is behind that one is then
 * missing, or is not: damage is told in any case. */
static int check_snapshot(struct consensus *c, const struct raft_snapshot *loaded)
{
	uint64_t term = 0, index = 0, t, i;
	struct blix_error err;
	uv_dirent_t entry;
	bool clean = true;
	uv_fs_t req;

	if (uv_fs_scandir(NULL, &req, c->dir, 0, NULL) < 0)
		return RAFT_IOERR;
	while (uv_fs_scandir_next(&req, &entry) == 0) {
		if (!parse_meta(entry.name, &t, &i) || t < term || (t == term && i < index))
			continue;
		term = t;
		index = i;
		clean = meta_is_clean(c->dir, entry.name);
	}
	uv_fs_req_cleanup(&req);
	if (index == 0)
		return 0;
	if (!clean || loaded == NULL || loaded->index != index)
		(void)blix_fail(&err, BLIX_E_CORRUPT, "what describes it is damaged");
	else if (machine_snapshot_check(&loaded->bufs[0], &err) == 0)
		return 0;
	(void)blix_wrap(&err, "snapshot %" PRIu64 " in %s", index, c->dir);
	consensus_fail(c, &err);
	return RAFT_CORRUPT;
}

static int check_bound(struct consensus *c, uint64_t last)
{
	struct blix_error err;

	if (last >= c->bound_index)
		return 0;
	(void)blix_fail(&err, BLIX_E_CORRUPT,
	                "raft log in %s ends at entry %" PRIu64 ", and entry %" PRIu64
	                " was on its disk",
	                c->dir, last, c->bound_index);
	blix_reason(&err, "log-behind");
	blix_hint(&err, "the disk has lost what this server acknowledged: remove it from the "
	                "cluster and let it join again, as a new one");
	consensus_fail(c, &err);
	return RAFT_CORRUPT;
}

static int on_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                   struct raft_snapshot **snapshot, raft_index *start_index,
                   struct raft_entry *entries[], size_t *n_entries)
{
	struct consensus *c = consensus_of(io);
	struct blix_error err;
	int rc;

	if (segments_check(c->dir, &err) < 0) {
		consensus_fail(c, &err);
		return RAFT_CORRUPT;
	}
	rc = c->inner.load(io, term, voted_for, snapshot, start_index, entries, n_entries);
	if (rc != 0)
		return rc;
	rc = check_snapshot(c, *snapshot);
	if (rc == 0)
		rc = check_bound(c, *start_index + *n_entries - 1);
	if (rc != 0)
		disk_load_free(take(*snapshot), take(*entries), *n_entries);
	return rc;
}

int disk_check(struct consensus *c, uint64_t *ret_last)
{
	struct raft_snapshot *snapshot = NULL;
	struct raft_entry *entries = NULL;
	raft_index start = 1;
	raft_term term;
	raft_id vote;
	size_t n = 0;
	int rc = c->io.load(&c->io, &term, &vote, &snapshot, &start, &entries, &n);

	if (rc != 0)
		return rc;
	*ret_last = start + n - 1;
	disk_load_free(snapshot, entries, n);
	return 0;
}

void disk_wrap(struct consensus *c)
{
	c->inner = c->io;
	c->io.load = on_load;
	c->io.send = on_send;
	c->io.append = on_append;
	c->io.truncate = on_truncate;
	c->io.set_term = on_set_term;
	c->io.set_vote = on_set_vote;
	c->io.snapshot_put = machine_snapshot_put;
	c->io.snapshot_get = machine_snapshot_get;
}

int disk_open(struct consensus *c, bool any_incarnation, bool *ret_found, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/bound", c->dir);
	const struct bound_identity identity = consensus_identity(c);

	return bound_read(path, &identity, any_incarnation, ret_found, &c->bound_index, err);
}

int disk_start(struct consensus *c, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/bound", c->dir);
	const struct bound_identity identity = consensus_identity(c);
	int rc = bound_open(&c->bound, path, &identity, c->bound_index, err);

	if (rc == 0)
		rc = reserve_open(&c->reserve, c->dir, c->config.reserve_bytes, LIMIT_LOG_ROOM,
		                  err);
	if (rc < 0)
		return rc;
	bound_note(&c->bound, c->raft.last_stored);
	c->is_short = c->reserve.is_short;
	/* Loading may have left a message that is no error; see disk_tick. */
	c->io.errmsg[0] = '\0';
	return 0;
}

void disk_done(struct consensus *c)
{
	struct blix_error ignored;

	(void)bound_store(&c->bound, true, &ignored);
	bound_done(&c->bound);
	reserve_done(&c->reserve);
}

static void job_work(uv_work_t *work)
{
	struct consensus *c = work->data;
	struct disk_job *job = &c->disk_job;

	job->status = bound_store(&c->bound, job->sync, &job->error);
	if (job->status == 0)
		job->status = reserve_check(&c->reserve, &job->error);
}

static void after_job(uv_work_t *work, int status)
{
	struct consensus *c = work->data;
	struct disk_job *job = &c->disk_job;

	job->busy = false;
	if (c->life != LIFE_RUNNING) {
		consensus_arm(c);
		return;
	}
	if (status != 0)
		return;
	if (job->status < 0) {
		(void)blix_wrap(&job->error, "raft log in %s", c->dir);
		consensus_fail(c, &job->error);
		return;
	}
	if (c->is_short == c->reserve.is_short)
		return;
	c->is_short = c->reserve.is_short;
	if (c->config.space != NULL)
		c->config.space(c->config.fsm.data, c->is_short, c->reserve.free_bytes);
	consensus_arm(c);
}

static void start_job(struct consensus *c)
{
	struct disk_job *job = &c->disk_job;
	uint64_t now = clock_boot_ms();

	if (job->busy || c->failed || now - job->started_ms < DISK_TICK_MS)
		return;
	job->started_ms = now;
	job->sync = now - job->synced_ms >= BOUND_SYNC_MS;
	if (job->sync)
		job->synced_ms = now;
	c->reserve.need = LIMIT_LOG_ROOM + c->snapshot.stored_bytes;
	job->work.data = c;
	job->busy = uv_queue_work(c->config.loop, &job->work, job_work, after_job) == 0;
}

bool disk_busy(struct consensus *c)
{
	if (c->disk_job.busy)
		(void)uv_cancel((uv_req_t *)&c->disk_job.work);
	return c->disk_job.busy;
}

static void stalled(struct consensus *c, const char *what, unsigned ms)
{
	struct blix_error err;

	(void)blix_fail(&err, BLIX_E_IO, "raft log in %s: a %s is not done after %u s%s%s", c->dir,
	                what, ms / 1000, c->io.errmsg[0] != '\0' ? ": " : "", c->io.errmsg);
	consensus_fail(c, &err);
}

/* Counts ticks, not time: a suspended machine or a stalled loop is not the disk's fault. */
void disk_tick(struct consensus *c)
{
	struct disk_write *write = TAILQ_FIRST(&c->disk_writes);

	start_job(c);
	if (write != NULL && c->io.errmsg[0] != '\0')
		(void)disk_result(c, RAFT_IOERR, "write");
	if (c->is_short)
		return;
	if (write != NULL && ++write->n_ticks >= DISK_STALL_MS / c->config.heartbeat_ms)
		stalled(c, "write", DISK_STALL_MS);
	if (c->snapshot.put != NULL || c->snapshot.bufs != NULL)
		c->snapshot.n_ticks++;
	else
		c->snapshot.n_ticks = 0;
	if (c->snapshot.n_ticks >= SNAPSHOT_STALL_MS / c->config.heartbeat_ms)
		stalled(c, "snapshot", SNAPSHOT_STALL_MS);
}
