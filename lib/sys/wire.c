/* The wire: see wire.h. A uv_pipe_t with a queue that is counted, and a timer for the last bytes.
 *
 * Happy path: send() takes all; what it leaves is copied into one uv_write(). wire_close()
 * shuts down once the queue is empty and closes both handles; the struct goes with the second. */
#include "sys/wire.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/file.h"

#include <assert.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

struct wire {
	uv_pipe_t pipe;
	uv_timer_t linger;
	uv_shutdown_t shutdown;
	const struct wire_events *events;
	void *data;
	int fd; /* the pipe's */
	size_t queued;
	bool was_full; /* drained() is owed */
	bool reading;
	bool ended;   /* ended() was called */
	bool broken;  /* nothing can be written */
	bool ending;  /* wire_end() */
	bool closing; /* the owner has let go */
	void (*closed)(void *data);
	void *closed_data;
	unsigned handles;
	char in[WIRE_READ];
};

struct wire_piece {
	uv_write_t request;
	size_t n;
	char bytes[];
};

static void on_closed(uv_handle_t *handle)
{
	struct wire *wire = handle->data;

	if (--wire->handles > 0)
		return;
	if (wire->closed != NULL)
		wire->closed(wire->closed_data);
	free(wire);
}

static void wire_free(struct wire *wire)
{
	if (uv_is_closing((uv_handle_t *)&wire->pipe))
		return;
	wire->broken = true;
	uv_close((uv_handle_t *)&wire->pipe, on_closed);
	uv_close((uv_handle_t *)&wire->linger, on_closed);
}

static void wire_break(struct wire *wire, int status)
{
	wire->broken = true;
	wire_pause(wire);
	if (wire->closing) {
		wire_free(wire);
	} else if (!wire->ended) {
		wire->ended = true;
		wire->events->ended(wire->data, status);
	}
}

int wire_open(uv_loop_t *loop, int fd, const struct wire_events *events, void *data,
              struct wire **ret, struct blix_error *err)
{
	struct wire *wire = xcalloc(1, sizeof(*wire));
	int rc;

	wire->events = events;
	wire->data = data;
	wire->fd = fd;
	wire->pipe.data = wire->linger.data = wire->shutdown.data = wire;
	wire->handles = 2;
	(void)uv_pipe_init(loop, &wire->pipe, 0);
	(void)uv_timer_init(loop, &wire->linger);
	rc = uv_pipe_open(&wire->pipe, fd);
	if (rc < 0) {
		(void)close(fd);
		wire_free(wire);
		return blix_fail_sys(err, -rc, "watch a socket");
	}
	*ret = wire;
	return 0;
}

static int connect_failed(const char *path, int sys, struct blix_error *err)
{
	if (sys != ECONNREFUSED && sys != EAGAIN)
		return blix_fail_sys(err, sys, "connect %s", path);
	return blix_fail(err, BLIX_E_UNAVAILABLE, "nobody answers at %s", path);
}

int wire_connect(uv_loop_t *loop, const char *path, const struct wire_events *events, void *data,
                 struct wire **ret, struct blix_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t n = strlen(path);
	int fd, sys;

	if (n == 0 || n >= sizeof(address.sun_path))
		return blix_fail(err, BLIX_E_INVALID, "socket path \"%s\" must have 1 to %zu bytes",
		                 path, sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, n);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return blix_fail_sys(err, errno, "make a socket");
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		sys = errno;
		(void)close(fd);
		return connect_failed(path, sys, err);
	}
	return wire_open(loop, fd, events, data, ret, err);
}

static void shut_down(struct wire *wire);

static void on_written(uv_write_t *request, int status)
{
	struct wire *wire = request->data;
	struct wire_piece *piece = container_of(request, struct wire_piece, request);

	wire->queued -= piece->n;
	free(piece);
	if (uv_is_closing((uv_handle_t *)&wire->pipe))
		return;
	if (status < 0) {
		wire_break(wire, -(int)BLIX_E_IO);
		return;
	}
	if (wire->queued > 0 || !wire->was_full)
		return;
	wire->was_full = false;
	if (!wire->closing && wire->events->drained != NULL)
		wire->events->drained(wire->data);
}

static int write_rest(struct wire *wire, const char *bytes, size_t n)
{
	struct wire_piece *piece = malloc(sizeof(*piece) + n);
	uv_buf_t buf;
	int rc;

	if (piece == NULL)
		return UV_ENOMEM;
	memcpy(piece->bytes, bytes, n);
	piece->n = n;
	piece->request.data = wire;
	buf = uv_buf_init(piece->bytes, (unsigned)n);
	rc = uv_write(&piece->request, (uv_stream_t *)&wire->pipe, &buf, 1, on_written);
	if (rc < 0) {
		free(piece);
		return rc;
	}
	wire->queued += n;
	wire->was_full = wire->was_full || wire_full(wire);
	return 0;
}

int wire_write(struct wire *wire, const void *bytes, size_t n, struct blix_error *err)
{
	const char *from = bytes;
	ssize_t sent = 0;

	assert(!wire->ending && !wire->closing);
	if (wire->broken || n == 0)
		return 0;
	if (n > LIMIT_WIRE_QUEUE - wire->queued)
		return blix_fail(err, BLIX_E_BUSY, "the reader is too slow");
	if (wire->queued == 0)
		sent = send(wire->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent > 0) {
		from += sent;
		n -= (size_t)sent;
	}
	/* What broke shows itself to the reader, or in the callback of the write. */
	if (n > 0 && write_rest(wire, from, n) < 0)
		wire->broken = true;
	return 0;
}

bool wire_full(const struct wire *wire)
{
	return wire->queued > LIMIT_WIRE_QUEUE / 2;
}

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *ret)
{
	struct wire *wire = handle->data;

	(void)wanted;
	*ret = uv_buf_init(wire->in, sizeof(wire->in));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct wire *wire = stream->data;

	if (n > 0)
		wire->events->read(wire->data, buf->base, (size_t)n);
	if (n >= 0)
		return;
	wire_pause(wire);
	if (n == UV_EOF && !wire->ended) {
		wire->ended = true;
		wire->events->ended(wire->data, 0);
	} else if (n != UV_EOF) {
		wire_break(wire, -(int)BLIX_E_IO);
	}
}

void wire_pause(struct wire *wire)
{
	if (wire->reading)
		(void)uv_read_stop((uv_stream_t *)&wire->pipe);
	wire->reading = false;
}

void wire_resume(struct wire *wire)
{
	if (wire->reading || wire->ended || wire->broken || wire->closing)
		return;
	wire->reading = uv_read_start((uv_stream_t *)&wire->pipe, on_alloc, on_read) == 0;
}

static void on_shut_down(uv_shutdown_t *request, int status)
{
	struct wire *wire = request->data;

	(void)status;
	if (wire->closing)
		wire_free(wire);
}

/* libuv shuts down when its queue is empty. */
static void shut_down(struct wire *wire)
{
	if (wire->ending)
		return;
	wire->ending = true;
	if (uv_shutdown(&wire->shutdown, (uv_stream_t *)&wire->pipe, on_shut_down) < 0)
		wire->broken = true;
}

void wire_end(struct wire *wire)
{
	if (!wire->broken)
		shut_down(wire);
}

static void on_linger(uv_timer_t *timer)
{
	wire_free(timer->data);
}

void wire_close(struct wire *wire, void (*closed)(void *data), void *data)
{
	assert(!wire->closing);
	wire->closed = closed;
	wire->closed_data = data;
	wire_pause(wire);
	wire->closing = true;
	if (!wire->broken && wire->queued > 0) {
		shut_down(wire);
		(void)uv_timer_start(&wire->linger, on_linger, LIMIT_WIRE_LINGER, 0);
	}
	if (wire->broken || wire->queued == 0)
		wire_free(wire);
}
