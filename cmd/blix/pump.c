/* The pump: see pump.h. One ppoll() over stdin and the stream; what goes out is written before the
 * next frame is looked at, so that a reader of ours that is slow leaves the guest's window closed
 * and nothing piles up here. Signals are seen while it is waited for. */
#include "pump.h"

#include "core/object_json.h"
#include "terminal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

struct run {
	struct pump *pump;
	bool input; /* stdin has not ended */
	bool ended;
	enum pump_end end;
	int code;
	cJSON *exit;
	struct blix_error *err;
	sigset_t mask; /* with which to wait */
};

static void run_end(struct run *run, enum pump_end end, int code)
{
	run->ended = true;
	run->end = end;
	run->code = code;
}

static void signals_turn(struct run *run);

/* Waits for our reader, and for signals. A pipe that is ready takes PIPE_BUF without blocking. */
static void write_out(struct run *run, int fd, const struct frame *frame)
{
	for (size_t done = 0; done < frame->len;) {
		struct pollfd ready = {.fd = fd, .events = POLLOUT};
		size_t left = frame->len - done;
		ssize_t n;

		if (ppoll(&ready, 1, NULL, &run->mask) < 0) {
			signals_turn(run);
			if (run->ended)
				return;
			continue;
		}
		n = write(fd, frame->data + done, left < PIPE_BUF ? left : PIPE_BUF);
		if (n > 0) {
			done += (size_t)n;
		} else if (errno == EPIPE) {
			run_end(run, PUMP_SIGNAL, SIGPIPE);
			return;
		} else if (errno != EINTR) {
			(void)blix_fail_sys(run->err, errno, "write to standard %s",
			                    fd == STDOUT_FILENO ? "output" : "error");
			run_end(run, PUMP_LOST, 0);
			return;
		}
	}
	client_stream_consumed(run->pump->stream, frame->len);
}

static void frame_take(struct run *run, const struct frame *frame)
{
	cJSON *tree = NULL;

	if (frame->type == FRAME_STDOUT)
		write_out(run, STDOUT_FILENO, frame);
	else if (frame->type == FRAME_STDERR)
		write_out(run, STDERR_FILENO, frame);
	else if (frame->type == FRAME_CLOSE)
		run_end(run, PUMP_CLOSED, 0);
	if (frame->type != FRAME_EXIT && frame->type != FRAME_ERROR)
		return;
	(void)json_parse(frame->data, frame->len, &json_limits_request, &tree, NULL);
	if (frame->type == FRAME_ERROR) {
		error_parse(tree, 500, run->err);
		cJSON_Delete(tree);
		run_end(run, PUMP_LOST, 0);
	} else {
		run->exit = tree;
		run_end(run, PUMP_EXIT, 0);
	}
}

static void stream_turn(struct run *run)
{
	struct client_stream *stream = run->pump->stream;
	struct blix_error lost = {0};
	struct frame frame;
	int turned = client_stream_turn(stream, &lost), rc = 0;

	/* The last words may have come with the end of the connection. */
	while (!run->ended && (rc = client_stream_next(stream, &frame, run->err)) == 1)
		frame_take(run, &frame);
	if (run->ended)
		return;
	if (rc == 0 && turned < 0)
		*run->err = lost;
	if (rc < 0 || turned < 0)
		run_end(run, PUMP_LOST, 0);
}

static void input_turn(struct run *run)
{
	struct pump *pump = run->pump;
	char bytes[16384];
	size_t room = client_stream_room(pump->stream);
	ssize_t n = read(STDIN_FILENO, bytes, room < sizeof(bytes) ? room : sizeof(bytes));
	const char *escape =
		n > 0 && pump->escape != 0 ? memchr(bytes, pump->escape, (size_t)n) : NULL;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (escape != NULL)
		n = escape - bytes;
	if (n > 0)
		client_stream_input(pump->stream, bytes, (size_t)n);
	if (escape != NULL) {
		run_end(run, PUMP_ESCAPED, 0);
	} else if (n <= 0) {
		run->input = false;
		client_stream_end_input(pump->stream);
	}
}

static void signals_turn(struct run *run)
{
	struct pump *pump = run->pump;
	uint16_t rows, columns;
	int number;

	while ((number = signals_next()) != 0) {
		if (number == SIGWINCH) {
			if (pump->raw && terminal_size(&rows, &columns))
				client_stream_resize(pump->stream, rows, columns);
		} else if (pump->forward) {
			client_stream_signal(pump->stream, number);
		} else {
			run_end(run, PUMP_SIGNAL, number);
		}
	}
}

static void poll_turn(struct run *run)
{
	struct client_stream *stream = run->pump->stream;
	bool input = run->input && client_stream_room(stream) > 0;
	struct pollfd fds[] = {
		{.fd = client_stream_fd(stream), .events = client_stream_events(stream)},
		{.fd = input ? STDIN_FILENO : -1, .events = POLLIN}};

	if (ppoll(fds, array_size(fds), NULL, &run->mask) < 0) {
		signals_turn(run);
		return;
	}
	if (fds[0].revents != 0)
		stream_turn(run);
	if (fds[1].revents != 0 && !run->ended)
		input_turn(run);
}

enum pump_end pump_run(struct pump *pump, int *ret_code, cJSON **ret_exit, struct blix_error *err)
{
	struct run run = {.pump = pump, .input = pump->input, .err = err};

	signals_catch(&run.mask);
	if (pump->raw && terminal_raw(err) < 0)
		return PUMP_LOST;
	/* The frames that came with the answer wait in the reader. */
	for (stream_turn(&run); !run.ended;)
		poll_turn(&run);
	terminal_restore();
	(void)sigprocmask(SIG_SETMASK, &run.mask, NULL);
	pump->end = run.end;
	pump->signal = run.end == PUMP_SIGNAL ? run.code : 0;
	*ret_code = run.code;
	*ret_exit = run.exit;
	return run.end;
}
