/* A file that is written by the pool: see sink.h. Two buffers: one fills on the loop while the
 * other is written; when both are full the writer has to wait. One piece of work is under way at
 * most. */
#include "sys/sink.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "sys/crash.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <unistd.h>

struct sink {
	uv_loop_t *loop;
	uv_work_t work;
	int fd;
	struct buf filling, writing;
	crypto_hash_sha256_state sha;
	struct sink_result result;
	bool busy;   /* the pool has `writing` */
	bool full;   /* `drained` is owed */
	bool ending; /* all was given */
	bool syncing;
	bool freed;
	void (*drained)(void *data);
	void *drained_data;
	void (*ended)(void *data, const struct sink_result *result);
	void *ended_data;
};

struct sink *sink_open(uv_loop_t *loop, int fd, void (*drained)(void *data), void *data)
{
	struct sink *sink = xcalloc(1, sizeof(*sink));

	sink->loop = loop;
	sink->fd = fd;
	sink->work.data = sink;
	sink->drained = drained;
	sink->drained_data = data;
	buf_init(&sink->filling, 2 * SINK_BLOCK + SINK_PIECE);
	buf_init(&sink->writing, 2 * SINK_BLOCK + SINK_PIECE);
	(void)crypto_hash_sha256_init(&sink->sha);
	return sink;
}

static void destroy(struct sink *sink)
{
	if (sink->fd >= 0)
		(void)close(sink->fd);
	buf_done(&sink->filling);
	buf_done(&sink->writing);
	free(sink);
}

/* In the pool. */
static void work_write(uv_work_t *work)
{
	struct sink *sink = work->data;
	const char *at = sink->writing.data;
	size_t left = sink->writing.len;

	if (left > 0)
		(void)crypto_hash_sha256_update(&sink->sha, (const unsigned char *)at, left);
	while (left > 0 && sink->result.sys == 0) {
		ssize_t n = write(sink->fd, at, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			sink->result.sys = errno;
		at += n > 0 ? n : 0;
		left -= n > 0 ? (size_t)n : 0;
	}
	crash_point("sink-written");
	if (sink->syncing && sink->result.sys == 0 && fsync(sink->fd) < 0)
		sink->result.sys = errno;
}

static void on_written(uv_work_t *work, int status);

static void pump(struct sink *sink)
{
	struct buf filled = sink->filling;

	if (sink->busy || (sink->filling.len < SINK_BLOCK && !sink->ending))
		return;
	sink->filling = sink->writing;
	sink->writing = filled;
	buf_clear(&sink->filling);
	sink->result.size += sink->writing.len;
	sink->syncing = sink->ending;
	sink->busy = true;
	if (uv_queue_work(sink->loop, &sink->work, work_write, on_written) != 0)
		abort(); /* only without a function to call */
}

static void on_written(uv_work_t *work, int status)
{
	struct sink *sink = work->data;
	bool full = sink->full;

	(void)status;
	sink->busy = false;
	if (sink->freed) {
		destroy(sink);
		return;
	}
	buf_clear(&sink->writing);
	sink->full = false;
	if (sink->syncing) {
		struct sink_result result = sink->result;

		(void)crypto_hash_sha256_final(&sink->sha, result.name.hash);
		sink->ended(sink->ended_data, &result); /* may free it */
		return;
	}
	pump(sink);
	if (full)
		sink->drained(sink->drained_data);
}

bool sink_write(struct sink *sink, const void *bytes, size_t n)
{
	assert(!sink->ending && n <= SINK_PIECE);
	if (buf_add(&sink->filling, bytes, n) < 0)
		abort(); /* its cap is above what it may be given; memory of our own */
	pump(sink);
	sink->full = sink->filling.len >= SINK_BLOCK;
	return !sink->full;
}

bool sink_is_full(const struct sink *sink)
{
	return sink->full;
}

void sink_end(struct sink *sink, void (*cb)(void *data, const struct sink_result *result),
              void *data)
{
	assert(!sink->ending);
	sink->ending = true;
	sink->ended = cb;
	sink->ended_data = data;
	pump(sink);
}

int sink_take(struct sink *sink)
{
	int fd = sink->fd;

	assert(!sink->busy);
	sink->fd = -1;
	return fd;
}

void sink_free(struct sink *sink)
{
	if (sink == NULL)
		return;
	sink->freed = true;
	if (!sink->busy)
		destroy(sink);
}
