/* The life of one child on the loop: polls on its pidfd and its two pipes, one timer.
 *
 * Happy path: pipes are read as they fill; the pidfd turns readable; the child is reaped; both
 * pipes give end of file; the four handles close; the last close hands out the result and frees
 * all. The timer serves three ends in turn: the deadline, the grace after it, the drain after the
 * exit.
 */
#include "exec/spawn.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK      65536
#define CHUNKS_MAX 16 /* reads per wake-up: a flood must not starve the loop */

struct stream {
	struct child *child;
	uv_poll_t poll;
	int fd;
	bool ended;
	struct tail *tail;
};

struct child {
	uv_poll_t exit;
	uv_timer_t timer;
	struct stream out, err;
	pid_t pid;
	int pidfd;
	bool exited;
	bool killing; /* the group was sent SIGTERM */
	bool finished;
	unsigned open; /* handles not closed yet */
	uint64_t started_ms;
	struct child_result result;
	child_cb cb;
	void *data;
};

static void child_closed(struct child *child)
{
	if (--child->open > 0)
		return;
	tail_end(&child->result.out);
	tail_end(&child->result.err);
	child->result.elapsed_ms = clock_boot_ms() - child->started_ms;
	child->cb(child->data, &child->result);
	tail_done(&child->result.out);
	tail_done(&child->result.err);
	free(child);
}

static void stream_closed(uv_handle_t *handle)
{
	struct stream *stream = handle->data;

	child_closed(stream->child);
}

static void handle_closed(uv_handle_t *handle)
{
	child_closed(handle->data);
}

static void stream_close(struct stream *stream)
{
	uv_close((uv_handle_t *)&stream->poll, stream_closed);
	(void)close(stream->fd);
}

static void child_finish(struct child *child)
{
	if (child->finished)
		return;
	child->finished = true;
	stream_close(&child->out);
	stream_close(&child->err);
	uv_close((uv_handle_t *)&child->exit, handle_closed);
	(void)close(child->pidfd);
	uv_close((uv_handle_t *)&child->timer, handle_closed);
}

static void stream_read(struct stream *stream)
{
	char chunk[CHUNK];

	for (unsigned i = 0; i < CHUNKS_MAX && !stream->ended; i++) {
		ssize_t n = read(stream->fd, chunk, sizeof(chunk));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0)
			stream->ended = true;
		else
			tail_add(stream->tail, chunk, (size_t)n);
	}
	if (stream->ended)
		(void)uv_poll_stop(&stream->poll);
}

static void child_settle(struct child *child)
{
	if (child->exited && child->out.ended && child->err.ended)
		child_finish(child);
}

static void on_output(uv_poll_t *poll, int status, int events)
{
	struct stream *stream = poll->data;

	(void)status;
	(void)events;
	stream_read(stream);
	child_settle(stream->child);
}

static void on_drained(uv_timer_t *timer)
{
	child_finish(timer->data);
}

static void on_kill(uv_timer_t *timer)
{
	struct child *child = timer->data;

	(void)kill(-child->pid, SIGKILL);
}

/* Only before the child is reaped: until then its id, and so its group's, cannot be another's. */
static void child_end(struct child *child)
{
	if (child->exited || child->killing)
		return;
	child->killing = true;
	(void)kill(-child->pid, SIGTERM);
	(void)uv_timer_start(&child->timer, on_kill, CHILD_KILL_MS, 0);
}

static void on_deadline(uv_timer_t *timer)
{
	struct child *child = timer->data;

	child->result.timed_out = true;
	child_end(child);
}

static void on_exit_ready(uv_poll_t *poll, int status, int events)
{
	struct child *child = poll->data;
	siginfo_t info = {0};

	(void)status;
	(void)events;
	if (waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
	    info.si_pid == 0)
		return;
	/* What an ended group left behind dies with it, while the zombie still holds the id. */
	if (child->killing)
		(void)kill(-child->pid, SIGKILL);
	(void)waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED | WNOHANG);
	child->exited = true;
	child->result.exit_code = info.si_code == CLD_EXITED ? info.si_status : -1;
	child->result.signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
	(void)uv_poll_stop(&child->exit);
	stream_read(&child->out);
	stream_read(&child->err);
	(void)uv_timer_start(&child->timer, on_drained, CHILD_DRAIN_MS, 0);
	child_settle(child);
}

static void stream_init(struct stream *stream, struct child *child, uv_loop_t *loop, int fd,
                        struct tail *tail)
{
	stream->child = child;
	stream->fd = fd;
	stream->tail = tail;
	stream->poll.data = stream;
	if (uv_poll_init(loop, &stream->poll, fd) != 0)
		abort(); /* a pipe can always be polled */
	(void)uv_poll_start(&stream->poll, UV_READABLE, on_output);
}

int child_start(uv_loop_t *loop, const struct child_options *options, child_cb cb, void *data,
                struct child **ret, struct blix_error *err)
{
	size_t output_max = options->output_max != 0 ? options->output_max : LIMIT_CHILD_OUTPUT;
	struct spawned spawned = {0};
	struct child *child;
	int rc = spawn_child(options, &spawned, err);

	if (rc < 0)
		return rc;
	child = xcalloc(1, sizeof(*child));
	child->pid = spawned.pid;
	child->pidfd = spawned.pidfd;
	child->cb = cb;
	child->data = data;
	child->open = 4;
	child->started_ms = clock_boot_ms();
	tail_init(&child->result.out, output_max);
	tail_init(&child->result.err, output_max);
	stream_init(&child->out, child, loop, spawned.out, &child->result.out);
	stream_init(&child->err, child, loop, spawned.err, &child->result.err);
	child->exit.data = child;
	if (uv_poll_init(loop, &child->exit, child->pidfd) != 0)
		abort(); /* so can a pidfd */
	(void)uv_poll_start(&child->exit, UV_READABLE, on_exit_ready);
	(void)uv_timer_init(loop, &child->timer);
	child->timer.data = child;
	if (options->deadline_ms != 0)
		(void)uv_timer_start(&child->timer, on_deadline, options->deadline_ms, 0);
	*ret = child;
	return 0;
}

void child_cancel(struct child *child)
{
	child->result.cancelled = true;
	child_end(child);
}

bool child_ok(const struct child_result *result)
{
	return result->exit_code == 0 && !result->timed_out && !result->cancelled;
}

void child_describe(const struct child_result *result, char *out, size_t n)
{
	if (result->cancelled)
		(void)snprintf(out, n, "was cancelled");
	else if (result->timed_out)
		(void)snprintf(out, n, "did not end within its deadline");
	else if (result->signal != 0)
		(void)snprintf(out, n, "was killed by signal %d", result->signal);
	else
		(void)snprintf(out, n, "exited with code %d", result->exit_code);
}
