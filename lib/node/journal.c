/* Appending, syncing and rewriting the journal's file: see journal.h.
 *
 * The table belongs to the loop's thread. A write owns its bytes and the descriptor while it runs
 * on the pool; its end is handled on the loop, which then begins the next one if somebody waits. */
#include "node/journal.h"

#include "base/alloc.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/queue.h>
#include <unistd.h>

#define LAZY_MS 1000 /* a DONE waits for company this long */

struct request {
	node_journal_cb cb;
	void *data;
	uint64_t first, last; /* serials */
	TAILQ_ENTRY(request) entry;
};

TAILQ_HEAD(request_list, request);

struct node_journal {
	uv_loop_t *loop;
	char *path;
	struct journal table;
	struct request_list waiting, writing;
	uv_timer_t lazy;
	uv_work_t work;
	bool working;
	bool rewrite; /* the file does not hold what it should: the next write makes a new one */
	bool failed;  /* the last write did; for the log */
	int fd;       /* -1 while the file is to be made */
	off_t offset;
	struct buf bytes; /* of the write under way */
	struct blix_error err;
	void (*close_cb)(void *data);
	void *close_data;
};

static void flush(struct node_journal *j);

static int append(struct node_journal *j)
{
	const char *p = j->bytes.data;
	size_t left = j->bytes.len;

	while (left > 0) {
		ssize_t n = pwrite(j->fd, p, left, j->offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return blix_fail_sys(&j->err, errno, "write %s", j->path);
		p += n;
		left -= (size_t)n;
		j->offset += n;
	}
	crash_point("journal-written");
	if (fdatasync(j->fd) < 0)
		return blix_fail_sys(&j->err, errno, "sync %s", j->path);
	crash_point("journal-synced");
	return 0;
}

static int replace(struct node_journal *j)
{
	int rc;

	if (j->fd >= 0)
		(void)close(j->fd);
	j->fd = -1;
	rc = file_write(j->path, j->bytes.data, j->bytes.len, 0600, &j->err);
	if (rc < 0)
		return rc;
	j->fd = open(j->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (j->fd < 0)
		return blix_fail_sys(&j->err, errno, "open %s", j->path);
	j->offset = (off_t)j->bytes.len;
	return 0;
}

/* On the pool. */
static void work_write(uv_work_t *work)
{
	struct node_journal *j = work->data;

	if (buf_failed(&j->bytes))
		(void)blix_fail(&j->err, BLIX_E_NOMEM, "the journal is too long");
	else if (j->rewrite)
		(void)replace(j);
	else
		(void)append(j);
}

static void note_outcome(struct node_journal *j)
{
	bool failed = j->err.code != BLIX_OK;

	if (failed) {
		(void)blix_wrap(&j->err, "the node's journal cannot be written");
		blix_reason(&j->err, "journal-failed");
		blix_hint(&j->err, "nothing is done to the VM without it; free space in the state "
		                   "directory and it goes on by itself");
	}
	if (failed && !j->failed)
		log_error(LOG_ERR, "journal.failed", &j->err, "path=%s", j->path);
	else if (!failed && j->failed)
		log_event(LOG_NOTICE, "journal.recovered", "path=%s", j->path);
	j->failed = j->rewrite = failed;
}

static void lazy_closed(uv_handle_t *handle)
{
	struct node_journal *j = handle->data;
	void (*cb)(void *data) = j->close_cb;
	void *data = j->close_data;

	if (j->fd >= 0)
		(void)close(j->fd);
	journal_free(&j->table);
	buf_done(&j->bytes);
	free(j->path);
	free(j);
	cb(data);
}

static void close_if_idle(struct node_journal *j)
{
	if (j->close_cb != NULL && !j->working)
		uv_close((uv_handle_t *)&j->lazy, lazy_closed);
}

static void on_written(uv_work_t *work, int status)
{
	struct node_journal *j = work->data;
	struct request_list ended;
	struct blix_error err;
	struct request *request;

	if (status < 0)
		(void)blix_fail(&j->err, BLIX_E_INTERNAL, "no thread to write it");
	note_outcome(j);
	err = j->err;
	j->working = false;
	TAILQ_INIT(&ended);
	TAILQ_CONCAT(&ended, &j->writing, entry);
	while ((request = TAILQ_FIRST(&ended)) != NULL) {
		TAILQ_REMOVE(&ended, request, entry);
		for (uint64_t serial = request->first;
		     err.code != BLIX_OK && serial <= request->last; serial++)
			journal_drop(&j->table, serial);
		crash_point("journal-after-intent");
		request->cb(request->data, err.code != BLIX_OK ? &err : NULL);
		free(request);
	}
	/* Those who came meanwhile are served also when this one failed: with a new file. */
	if (!TAILQ_EMPTY(&j->waiting) || (j->close_cb != NULL && !j->failed))
		flush(j);
	close_if_idle(j);
}

static void flush(struct node_journal *j)
{
	if (j->working)
		return;
	j->rewrite = j->rewrite || j->fd < 0 || journal_is_long(&j->table);
	buf_clear(&j->bytes);
	if (j->rewrite)
		journal_rewrite(&j->table, &j->bytes);
	else if (!journal_frame(&j->table, &j->bytes))
		return;
	(void)uv_timer_stop(&j->lazy);
	TAILQ_CONCAT(&j->writing, &j->waiting, entry);
	j->err.code = BLIX_OK;
	j->working = true;
	j->work.data = j;
	if (uv_queue_work(j->loop, &j->work, work_write, on_written) != 0)
		abort(); /* only for a missing callback */
}

static void on_lazy(uv_timer_t *timer)
{
	flush(timer->data);
}

void node_journal_intend(struct node_journal *j, struct journal_intent *intents, size_t n,
                         node_journal_cb cb, void *data)
{
	struct request *request = xcalloc(1, sizeof(*request));

	assert(n > 0 && j->close_cb == NULL);
	crash_point("journal-before-intent");
	for (size_t i = 0; i < n; i++)
		intents[i].serial = journal_intend(&j->table, &intents[i]);
	*request = (struct request){
		.cb = cb, .data = data, .first = intents[0].serial, .last = intents[n - 1].serial};
	TAILQ_INSERT_TAIL(&j->waiting, request, entry);
	flush(j);
}

void node_journal_settle(struct node_journal *j, uint64_t serial, enum journal_result result)
{
	if (journal_find(&j->table, serial) == NULL)
		return;
	crash_point(journal_step_name(journal_find(&j->table, serial)->step));
	journal_settle(&j->table, serial, result);
	if (!uv_is_active((uv_handle_t *)&j->lazy))
		(void)uv_timer_start(&j->lazy, on_lazy, LAZY_MS, 0);
}

const struct journal *node_journal_table(const struct node_journal *j)
{
	return &j->table;
}

static int read_file(struct node_journal *j, struct blix_error *err)
{
	cleanup(buf_done) struct buf bytes;
	size_t kept = 0;
	int rc;

	buf_init(&bytes, LIMIT_JOURNAL);
	rc = file_read_at(AT_FDCWD, j->path, &bytes, err);
	if (rc == -BLIX_E_NOTFOUND)
		return 0;
	if (rc == 0)
		rc = journal_replay(&j->table, (const uint8_t *)bytes.data, bytes.len, &kept, err);
	if (rc < 0) {
		(void)blix_wrap(err, "%s", j->path);
		blix_hint(err, "see 'the journal is damaged' in blix's operations.md");
		return rc;
	}
	j->rewrite = kept < bytes.len || j->table.old;
	if (kept < bytes.len)
		log_event(LOG_NOTICE, "journal.torn", "path=%s bytes=%zu", j->path,
		          bytes.len - kept);
	j->fd = open(j->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (j->fd < 0)
		return blix_fail_sys(err, errno, "open %s", j->path);
	j->offset = (off_t)kept;
	return 0;
}

int node_journal_open(uv_loop_t *loop, const char *path, struct node_journal **ret,
                      struct blix_error *err)
{
	struct node_journal *j = xcalloc(1, sizeof(*j));
	int rc;

	j->loop = loop;
	j->path = xstrdup(path);
	j->fd = -1;
	journal_init(&j->table);
	buf_init(&j->bytes, LIMIT_JOURNAL);
	TAILQ_INIT(&j->waiting);
	TAILQ_INIT(&j->writing);
	rc = read_file(j, err);
	if (rc < 0) {
		if (j->fd >= 0)
			(void)close(j->fd);
		journal_free(&j->table);
		buf_done(&j->bytes);
		free(j->path);
		free(j);
		return rc;
	}
	(void)uv_timer_init(loop, &j->lazy);
	j->lazy.data = j;
	*ret = j;
	return 0;
}

void node_journal_close(struct node_journal *j, void (*cb)(void *data), void *data)
{
	assert(j->close_cb == NULL && TAILQ_EMPTY(&j->waiting));
	j->close_cb = cb;
	j->close_data = data;
	if (j->table.pending.len > 0)
		flush(j);
	close_if_idle(j);
}
