/* Plaintext of a hosted session: see tunnel.h.
 *
 * Happy path: an event on either socket runs both pumps, each of which moves one record as far as
 * it goes; then each socket is watched for what its pumps still want. When the caller's end was
 * closed and its last bytes have left, ended(). Any error of the session ends both ways. */
#include "tls/tunnel.h"

#include "tls/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECORD 16384 /* the plaintext of one */

struct pump {
	char bytes[RECORD];
	size_t n, done;
	bool ended; /* its source gives no more */
};

struct tls_tunnel {
	struct tls_hosted *hosted;
	uv_poll_t outer, inner;
	int fd;               /* our end of the pair */
	struct pump in, out;  /* from the client, to it */
	bool shut;            /* the caller was told of the client's end */
	bool finishing, over; /* nothing is written any more; ended() is due or was called */
	void (*ended)(void *data);
	void *data;
	unsigned open;
	void (*freed)(void *data);
	void *freed_data;
};

static bool is_again(ssize_t n)
{
	return n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED;
}

/* 0, or -1: the connection is broken. */
static int fill_in(struct tls_tunnel *t)
{
	ssize_t n;

	if (t->in.n > 0 || t->in.ended)
		return 0;
	n = tls_hosted_read(t->hosted, t->in.bytes, RECORD);
	if (is_again(n))
		return 0;
	/* A client that is killed says no goodbye: its end is an end all the same. */
	if (n < 0 && n != GNUTLS_E_PREMATURE_TERMINATION)
		return -1;
	t->in.ended = n <= 0;
	t->in.n = n > 0 ? (size_t)n : 0;
	t->in.done = 0;
	return 0;
}

/* True: something moved. */
static bool drain_in(struct tls_tunnel *t)
{
	ssize_t n;

	if (t->in.n == 0)
		return false;
	n = send(t->fd, t->in.bytes + t->in.done, t->in.n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	/* The caller reads no more: what comes is dropped, as on a closed socket. */
	if (n < 0)
		n = (ssize_t)t->in.n;
	t->in.done += (size_t)n;
	t->in.n -= (size_t)n;
	return true;
}

static void fill_out(struct tls_tunnel *t)
{
	ssize_t n;

	if (t->out.n > 0 || t->out.ended)
		return;
	n = recv(t->fd, t->out.bytes, RECORD, MSG_DONTWAIT);
	if (n > 0) {
		t->out.n = (size_t)n;
		t->out.done = 0;
	} else if (n == 0 || t->finishing || (errno != EAGAIN && errno != EINTR)) {
		t->out.ended = true;
	}
}

/* 1: something moved; 0; -1: the connection is broken. */
static int drain_out(struct tls_tunnel *t)
{
	ssize_t n;

	if (t->out.n == 0)
		return 0;
	n = gnutls_record_send(t->hosted->session, t->out.bytes + t->out.done, t->out.n);
	if (is_again(n))
		return 0;
	if (n <= 0)
		return -1;
	t->out.done += (size_t)n;
	t->out.n -= (size_t)n;
	return 1;
}

static void tunnel_over(struct tls_tunnel *t)
{
	t->over = true;
	(void)uv_poll_stop(&t->outer);
	(void)uv_poll_stop(&t->inner);
	t->ended(t->data);
}

static void on_event(uv_poll_t *poll, int status, int events);

static void watch(struct tls_tunnel *t)
{
	int outer = 0, inner = 0;

	if (t->in.n > 0)
		inner |= UV_WRITABLE;
	else if (!t->in.ended)
		outer |= UV_READABLE;
	if (t->out.n > 0)
		outer |= UV_WRITABLE;
	else if (!t->out.ended)
		inner |= UV_READABLE;
	if (outer != 0)
		(void)uv_poll_start(&t->outer, outer, on_event);
	else
		(void)uv_poll_stop(&t->outer);
	if (inner != 0)
		(void)uv_poll_start(&t->inner, inner, on_event);
	else
		(void)uv_poll_stop(&t->inner);
}

/* One record each way; what GnuTLS has read already wakes nobody, so that is gone through. */
static void pump_both(struct tls_tunnel *t)
{
	bool moved;
	int sent;

	do {
		if (fill_in(t) < 0)
			goto broken;
		moved = drain_in(t) && tls_hosted_pending(t->hosted) > 0;
	} while (moved);
	if (t->in.ended && t->in.n == 0 && !t->shut) {
		t->shut = true;
		(void)shutdown(t->fd, SHUT_WR);
	}
	fill_out(t);
	sent = drain_out(t);
	if (sent > 0)
		fill_out(t);
	if (sent < 0 || (t->out.ended && t->out.n == 0))
		goto broken;
	watch(t);
	return;
broken:
	tunnel_over(t);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	pump_both(poll->data);
}

int tls_tunnel_open(uv_loop_t *loop, struct tls_hosted *hosted, void (*ended)(void *data),
                    void *data, int *ret_fd, struct tls_tunnel **ret, struct blix_error *err)
{
	struct tls_tunnel *t;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return blix_fail_sys(err, errno, "make a socket pair");
	t = xcalloc(1, sizeof(*t));
	t->hosted = hosted;
	t->fd = pair[0];
	t->ended = ended;
	t->data = data;
	if (uv_poll_init(loop, &t->outer, hosted->fd) < 0) {
		(void)close(pair[0]);
		(void)close(pair[1]);
		free(t);
		return blix_fail(err, BLIX_E_INTERNAL, "watch a socket");
	}
	(void)uv_poll_init(loop, &t->inner, t->fd); /* a new descriptor of our own cannot fail */
	t->outer.data = t->inner.data = t;
	hosted->taken = true;
	/* What is decrypted already must not fall to the library. */
	if (tls_hosted_pending(hosted) > 0)
		(void)fill_in(t);
	(void)uv_poll_start(&t->inner, UV_READABLE | UV_WRITABLE, on_event);
	*ret_fd = pair[1];
	*ret = t;
	return 0;
}

void tls_tunnel_finish(struct tls_tunnel *tunnel)
{
	tunnel->finishing = true;
	/* An event of its own: nothing may be called back from here. */
	if (!tunnel->over)
		(void)uv_poll_start(&tunnel->inner, UV_READABLE | UV_WRITABLE, on_event);
}

static void on_closed(uv_handle_t *handle)
{
	struct tls_tunnel *t = handle->data;
	void (*freed)(void *data) = t->freed;
	void *data = t->freed_data;

	if (--t->open > 0)
		return;
	free(t);
	if (freed != NULL)
		freed(data);
}

void tls_tunnel_free(struct tls_tunnel *tunnel, void (*freed)(void *data), void *data)
{
	tunnel->over = true;
	tunnel->open = 2;
	tunnel->freed = freed;
	tunnel->freed_data = data;
	tunnel->hosted = NULL;
	uv_close((uv_handle_t *)&tunnel->outer, on_closed);
	uv_close((uv_handle_t *)&tunnel->inner, on_closed);
	(void)close(tunnel->fd);
}
