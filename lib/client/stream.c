/* Streams of the client: see stream.h.
 *
 * Happy path: each endpoint is tried once, from the current one on; the request goes out whole, the
 * head of the answer is read byte by byte of nothing more than it, frames follow. How it fails: no
 * daemon answers, the daemon refuses (its error object), the connection ends, a torn frame. */
#include "client/stream.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "base/upgrade.h"
#include "client/client_internal.h"
#include "core/object_json.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "tls/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONNECT_MS 5000
#define ACCEPT_MS  40000 /* a little more than a daemon waits for another */
#define TICK_MS    250
#define READ_MAX   (64u << 10)
#define OUT_MAX    (2u * LIMIT_FRAME_WINDOW)
#define ID         1 /* of the only stream */

struct client_stream {
	int fd;
	struct tls_direct *tls; /* NULL: a Unix socket */
	struct frame_reader reader;
	struct frame_window window;
	struct buf out;
};

/* Waits for `events`; ends early by the tick. */
static int stream_wait(const struct client *client, int fd, short events, uint64_t until_ms,
                       struct blix_error *err)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};

	for (;;) {
		int n = poll(&poll_fd, 1, TICK_MS);

		if (n > 0)
			return 0;
		if (client_interrupted(client, err))
			return -(int)BLIX_E_TIMEOUT;
		if (clock_boot_ms() >= until_ms)
			return blix_fail(err, BLIX_E_TIMEOUT, "blixd did not answer in time");
	}
}

static int connect_unix(const char *path, int *ret_fd, struct blix_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	cleanup(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return blix_fail_sys(err, errno, "make a socket");
	memcpy(address.sun_path, path, strlen(path)); /* the client has checked its length */
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return client_connect_error(path, errno, err);
	*ret_fd = fd;
	fd = -1;
	return 0;
}

/* One address of a host: waits for the connection without blocking longer than a tick. */
static int connect_address(const struct client *client, const struct addrinfo *to, int *ret_fd,
                           uint64_t until_ms, struct blix_error *err)
{
	cleanup(closep) int fd = socket(
		to->ai_family, to->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, to->ai_protocol);
	socklen_t n = sizeof(int);
	int sys = 0, on = 1, rc;

	if (fd < 0)
		return blix_fail_sys(err, errno, "make a socket");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, to->ai_addr, to->ai_addrlen) < 0 && errno != EINPROGRESS)
		return client_connect_error(client_endpoint(client), errno, err);
	rc = stream_wait(client, fd, POLLOUT, until_ms, err);
	if (rc < 0)
		return rc;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &sys, &n) < 0 || sys != 0)
		return client_connect_error(client_endpoint(client), sys, err);
	*ret_fd = fd;
	fd = -1;
	return 0;
}

static int connect_host(const struct client *client, int *ret_fd, struct blix_error *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	uint64_t until_ms = clock_boot_ms() + CONNECT_MS;
	struct addrinfo *found = NULL;
	char host[PARSE_HOST], service[8];
	uint16_t port = 0;
	int rc = parse_address(client_endpoint(client), host, &port, err);

	if (rc < 0)
		return rc;
	(void)snprintf(service, sizeof(service), "%u", (unsigned)port);
	if (getaddrinfo(host, service, &hints, &found) != 0)
		return blix_fail(err, BLIX_E_UNAVAILABLE, "no address of %s is known", host);
	rc = -(int)BLIX_E_UNAVAILABLE;
	for (const struct addrinfo *to = found; to != NULL && rc < 0; to = to->ai_next)
		rc = connect_address(client, to, ret_fd, until_ms, err);
	freeaddrinfo(found);
	return rc;
}

static int shake_hands(const struct client *client, struct client_stream *stream,
                       struct blix_error *err)
{
	uint64_t until_ms = clock_boot_ms() + CONNECT_MS;
	int rc = tls_direct_open(client_credentials(client), stream->fd, &stream->tls, err);

	while (rc == 0) {
		rc = tls_direct_shake(stream->tls, err);
		if (rc == 0)
			rc = stream_wait(client, stream->fd, tls_direct_events(stream->tls),
			                 until_ms, err);
	}
	return rc < 0 ? blix_wrap(err, "%s", client_endpoint(client)) : 0;
}

static int stream_connect(const struct client *client, struct client_stream *stream,
                          struct blix_error *err)
{
	const char *endpoint = client_endpoint(client);
	int rc;

	if (client_is_unix(endpoint))
		return connect_unix(endpoint, &stream->fd, err);
	rc = connect_host(client, &stream->fd, err);
	return rc < 0 ? rc : shake_hands(client, stream, err);
}

/* Like recv() and send() that do not wait. */
static ssize_t stream_recv(struct client_stream *stream, void *bytes, size_t n)
{
	return stream->tls != NULL ? tls_direct_read(stream->tls, bytes, n)
	                           : recv(stream->fd, bytes, n, MSG_DONTWAIT);
}

static ssize_t stream_send(struct client_stream *stream, const void *bytes, size_t n)
{
	return stream->tls != NULL ? tls_direct_write(stream->tls, bytes, n)
	                           : send(stream->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int send_all(const struct client *client, struct client_stream *stream,
                    const struct buf *ask, uint64_t until_ms, struct blix_error *err)
{
	for (size_t done = 0; done < ask->len;) {
		ssize_t n = stream_send(stream, ask->data + done, ask->len - done);
		int rc;

		if (n > 0)
			done += (size_t)n;
		else if (errno != EAGAIN && errno != EINTR)
			return blix_fail(err, BLIX_E_UNAVAILABLE, "blixd ended the connection");
		else if ((rc = stream_wait(client, stream->fd, POLLOUT, until_ms, err)) < 0)
			return rc;
	}
	return 0;
}

static int read_some(const struct client *client, struct client_stream *stream, struct buf *in,
                     uint64_t until_ms, struct blix_error *err)
{
	char *room = buf_room(in, READ_MAX);
	ssize_t n;

	if (room == NULL)
		return blix_fail(err, BLIX_E_INTERNAL, "the daemon's answer is too long");
	n = stream_recv(stream, room, READ_MAX);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return blix_fail(err, BLIX_E_UNAVAILABLE, "blixd ended the connection");
	if (n < 0)
		return stream_wait(client, stream->fd, POLLIN, until_ms, err);
	buf_grew(in, (size_t)n);
	return 0;
}

/* Reads the answer; what came behind a 101 are frames. */
static int read_answer(const struct client *client, struct client_stream *stream, uint64_t until_ms,
                       struct blix_error *err)
{
	cleanup(buf_done) struct buf in;
	cleanup(json_freep) cJSON *tree = NULL;
	struct upgrade_head head = {0};
	int rc;

	buf_init(&in, 2u * LIMIT_BODY);
	do {
		rc = read_some(client, stream, &in, until_ms, err);
		if (rc == 0 && in.len > 0 && head.n == 0)
			rc = upgrade_read(in.data, in.len, &head, err);
		if (rc < 0)
			return rc;
	} while (head.n == 0 || (head.status != 101 && in.len - head.n < head.content_length));
	if (head.status == 101)
		return frame_reader_feed(&stream->reader, in.data + head.n, in.len - head.n, err);
	(void)json_parse(in.data + head.n, head.content_length, &json_limits_request, &tree, NULL);
	error_parse(tree, head.status, err);
	return -(int)err->code;
}

static int stream_ask(struct client *client, struct client_stream *stream, const char *path,
                      const char *body, struct blix_error *err)
{
	uint64_t until_ms = clock_boot_ms() + ACCEPT_MS;
	cleanup(buf_done) struct buf ask;
	int rc;

	buf_init(&ask, LIMIT_BODY);
	if (upgrade_ask(&ask, path, NULL, body) < 0)
		return blix_fail(err, BLIX_E_TOOBIG, "the request is too large");
	rc = send_all(client, stream, &ask, until_ms, err);
	return rc < 0 ? rc : read_answer(client, stream, until_ms, err);
}

static void stream_disconnect(struct client_stream *stream)
{
	tls_direct_free(stream->tls);
	stream->tls = NULL;
	closep(&stream->fd);
	stream->fd = -1;
}

int client_stream_open(struct client *client, const char *path, const cJSON *body,
                       struct client_stream **ret, struct blix_error *err)
{
	cleanup(freep) char *text = body != NULL ? json_text(body) : xstrdup("{}");
	struct client_stream *stream = xcalloc(1, sizeof(*stream));
	int rc = 0;

	stream->fd = -1;
	frame_reader_init(&stream->reader);
	frame_window_init(&stream->window);
	buf_init(&stream->out, OUT_MAX + FRAME_WHOLE);
	for (size_t i = 0; i < client_endpoints(client) && stream->fd < 0; i++) {
		rc = stream_connect(client, stream, err);
		if (rc < 0) {
			stream_disconnect(stream);
			client_next_endpoint(client);
		}
	}
	if (rc == 0)
		rc = stream_ask(client, stream, path, text, err);
	if (rc < 0)
		client_stream_close(stream);
	else
		*ret = stream;
	return rc;
}

void client_stream_close(struct client_stream *stream)
{
	if (stream == NULL)
		return;
	stream_disconnect(stream);
	frame_reader_done(&stream->reader);
	buf_done(&stream->out);
	free(stream);
}

int client_stream_fd(const struct client_stream *stream)
{
	return stream->fd;
}

short client_stream_events(const struct client_stream *stream)
{
	return stream->out.len > 0 ? POLLIN | POLLOUT : POLLIN;
}

static int stream_lost(struct blix_error *err)
{
	(void)blix_fail(err, BLIX_E_UNAVAILABLE, "the connection to blixd was lost");
	blix_reason(err, "stream-lost");
	return -(int)BLIX_E_UNAVAILABLE;
}

/* That nothing can be written is no failure yet: the last words of the other end may wait. */
static void stream_flush(struct client_stream *stream)
{
	ssize_t n;

	if (stream->out.len == 0)
		return;
	n = stream_send(stream, stream->out.data, stream->out.len);
	if (n > 0)
		buf_consume(&stream->out, (size_t)n);
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		buf_clear(&stream->out);
}

/* All that has come is read: TLS may have more of it in memory than the socket shows. */
int client_stream_turn(struct client_stream *stream, struct blix_error *err)
{
	static char bytes[READ_MAX];
	ssize_t n;
	int rc;

	do {
		n = stream_recv(stream, bytes, sizeof(bytes));
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return stream_lost(err);
		rc = n > 0 ? frame_reader_feed(&stream->reader, bytes, (size_t)n, err) : 0;
	} while (rc == 0 && n > 0 && stream->tls != NULL);
	stream_flush(stream);
	return rc;
}

int client_stream_next(struct client_stream *stream, struct frame *ret, struct blix_error *err)
{
	int rc;

	while ((rc = frame_reader_next(&stream->reader, ret, err)) == 1) {
		if (ret->type == FRAME_STDOUT || ret->type == FRAME_STDERR)
			rc = frame_window_receive(&stream->window, ret->len, err);
		if (ret->type != FRAME_CREDIT)
			return rc < 0 ? rc : 1;
		rc = frame_window_credit(&stream->window, frame_credit(ret), err);
		if (rc < 0)
			return rc;
	}
	return rc;
}

void client_stream_consumed(struct client_stream *stream, size_t n)
{
	uint32_t credit = frame_window_consume(&stream->window, n);

	if (credit > 0)
		(void)frame_put_credit(&stream->out, ID, credit);
}

size_t client_stream_room(const struct client_stream *stream)
{
	size_t room = stream->window.may_send;

	if (stream->out.len > LIMIT_FRAME_WINDOW)
		return 0;
	return room < LIMIT_FRAME ? room : LIMIT_FRAME;
}

void client_stream_input(struct client_stream *stream, const char *data, size_t n)
{
	frame_window_send(&stream->window, n);
	(void)frame_put(&stream->out, ID, FRAME_STDIN, data, n);
}

void client_stream_end_input(struct client_stream *stream)
{
	(void)frame_put_byte(&stream->out, ID, FRAME_EOF, 0);
}

void client_stream_signal(struct client_stream *stream, int number)
{
	(void)frame_put_byte(&stream->out, ID, FRAME_SIGNAL, (uint8_t)number);
}

void client_stream_resize(struct client_stream *stream, uint16_t rows, uint16_t columns)
{
	(void)frame_put_size(&stream->out, ID, rows, columns);
}
