/* The pump of a TLS session: see session.h.
 *
 * Two halves, each with one buffer: `out` goes from the plain end into records, `in` from records
 * to the plain end. A half moves until its source is empty, its sink is full, or it has had its
 * turn; then session_watch() asks the loop for just what is waited for. Level-triggered polls make
 * that enough: GnuTLS reads no byte of the socket beyond the record that it returns.
 *
 * An end travels like a byte: of the plain end as close_notify, of the other side as shutdown() of
 * the plain end. When the owner has closed the plain end (POLLHUP), what comes in is thrown away,
 * so that the last bytes that went out are not lost to a reset, until the other side ends or the
 * linger timer does.
 *
 * Every failure goes to session_fail(), which keeps the first error, closes the handles and tells
 * the owner in the last close callback.
 */
#include "tls/session.h"

#include "sys/clock.h"
#include "sys/file.h"
#include "tls/internal.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#define RECORD (16u << 10)
#define TURNS  16u /* records of a half before others get the loop */

#define REFUSED_MS 1000u /* for an alert to be read */

enum session_life { LIFE_HANDSHAKE, LIFE_OPEN, LIFE_REFUSED, LIFE_CLOSING };

struct half {
	char bytes[RECORD];
	size_t at;
	size_t n;    /* bytes from `at` on that wait for the sink */
	bool ended;  /* the source has */
	bool passed; /* and the sink knows */
	bool full;   /* the sink takes no more now */
};

struct tls_session {
	struct tls_session_config config;
	const struct tls_session_events *events;
	void *data;
	char expect[TLS_DNS];
	char pin[TLS_HASH];
	struct tls_set *set;
	gnutls_session_t gnutls;
	int net;   /* the socket */
	int plain; /* our end of the pair; -1 before the handshake is done */
	uv_poll_t net_poll;
	uv_poll_t plain_poll;
	uv_timer_t timer;
	int net_waits; /* for which events */
	int plain_waits;
	unsigned n_handles;
	enum session_life life;
	bool left; /* the owner has closed the plain end */
	bool known;
	struct tls_identity peer;
	struct half in;
	struct half out;
	int status;
	struct blix_error error;
};

static void session_watch(struct tls_session *s);

static void session_free(struct tls_session *s)
{
	if (s->gnutls != NULL)
		gnutls_deinit(s->gnutls);
	tls_set_drop(s->set);
	closep(&s->net);
	closep(&s->plain);
	explicit_bzero(&s->in, sizeof(s->in));
	explicit_bzero(&s->out, sizeof(s->out));
	free(s);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct tls_session *s = handle->data;

	if (--s->n_handles > 0)
		return;
	/* Both ends are told before the owner is. */
	closep(&s->net);
	closep(&s->plain);
	s->net = s->plain = -1;
	s->events->closed(s->data, s->status, s->status < 0 ? &s->error : NULL);
	session_free(s);
}

static void session_end(struct tls_session *s, int status)
{
	if (s->life == LIFE_CLOSING)
		return;
	s->life = LIFE_CLOSING;
	s->status = status;
	uv_close((uv_handle_t *)&s->net_poll, on_handle_closed);
	uv_close((uv_handle_t *)&s->timer, on_handle_closed);
	if (s->plain >= 0)
		uv_close((uv_handle_t *)&s->plain_poll, on_handle_closed);
}

/* s->error is filled. One who has left is not told how it went on. */
static void session_fail(struct tls_session *s)
{
	session_end(s, s->left ? 0 : -(int)s->error.code);
}

static void fail_sys(struct tls_session *s, int sys, const char *what)
{
	(void)blix_fail(&s->error, BLIX_E_UNAVAILABLE, "%s: %s", what, strerrordesc_np(sys));
	session_fail(s);
}

/* What GnuTLS said was fatal. */
static void note_tls(struct tls_session *s, int rc)
{
	const char *alert;

	if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED) {
		alert = gnutls_alert_get_name(gnutls_alert_get(s->gnutls));
		(void)blix_fail(&s->error, BLIX_E_DENIED, "the other end refused: %s",
		                alert != NULL ? alert : "unknown alert");
		blix_reason(&s->error, "refused-by-peer");
	} else if (rc == GNUTLS_E_CERTIFICATE_REQUIRED || rc == GNUTLS_E_NO_CERTIFICATE_FOUND) {
		(void)blix_fail(&s->error, BLIX_E_DENIED, "the other end shows no certificate");
		blix_reason(&s->error, "no-certificate");
	} else {
		(void)tls_fail(&s->error, BLIX_E_UNAVAILABLE, rc, "TLS");
	}
}

static void fail_tls(struct tls_session *s, int rc)
{
	note_tls(s, rc);
	session_fail(s);
}

static bool is_transient(int rc)
{
	return rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED;
}

/* From the socket to the plain end. False: the session is closing. */
static bool in_read(struct tls_session *s)
{
	ssize_t n = gnutls_record_recv(s->gnutls, s->in.bytes, sizeof(s->in.bytes));

	if (n > 0) {
		s->in.at = 0;
		s->in.n = s->left ? 0 : (size_t)n;
		return true;
	}
	if (n == 0)
		s->in.ended = true;
	else if (gnutls_error_is_fatal((int)n) != 0)
		fail_tls(s, (int)n);
	return s->life == LIFE_OPEN;
}

static bool in_write(struct tls_session *s)
{
	ssize_t n = send(s->plain, s->in.bytes + s->in.at, s->in.n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n >= 0) {
		s->in.at += (size_t)n;
		s->in.n -= (size_t)n;
	} else if (errno == EAGAIN) {
		s->in.full = true;
	} else if (errno == EPIPE || errno == ECONNRESET) {
		s->in.n = 0; /* session_move() sees that the owner has left */
	} else if (errno != EINTR) {
		fail_sys(s, errno, "write the plain end");
	}
	return s->life == LIFE_OPEN;
}

static bool in_move(struct tls_session *s)
{
	for (unsigned i = 0; i < TURNS; i++) {
		if (s->in.n == 0 && !s->in.ended && !in_read(s))
			return false;
		if (s->in.n == 0)
			break;
		if (!in_write(s))
			return false;
		if (s->in.full)
			break;
	}
	if (s->in.ended && s->in.n == 0 && !s->in.passed) {
		s->in.passed = true;
		(void)shutdown(s->plain, SHUT_WR);
	}
	return true;
}

/* From the plain end to the socket. False: the session is closing. */
static bool out_read(struct tls_session *s)
{
	ssize_t n = recv(s->plain, s->out.bytes, sizeof(s->out.bytes), MSG_DONTWAIT);

	if (n > 0) {
		s->out.at = 0;
		s->out.n = (size_t)n;
	} else if (n == 0 || errno == ECONNRESET) {
		s->out.ended = true;
	} else if (errno != EAGAIN && errno != EINTR) {
		fail_sys(s, errno, "read the plain end");
	}
	return s->life == LIFE_OPEN;
}

static bool out_write(struct tls_session *s)
{
	ssize_t n = gnutls_record_send(s->gnutls, s->out.bytes + s->out.at, s->out.n);

	if (n >= 0) {
		s->out.at += (size_t)n;
		s->out.n -= (size_t)n;
	} else if (is_transient((int)n)) {
		s->out.full = true;
	} else {
		fail_tls(s, (int)n);
	}
	return s->life == LIFE_OPEN;
}

static bool out_pass_end(struct tls_session *s)
{
	int rc = gnutls_bye(s->gnutls, GNUTLS_SHUT_WR);

	if (rc == 0)
		s->out.passed = true;
	else if (!is_transient(rc))
		fail_tls(s, rc);
	return s->life == LIFE_OPEN;
}

static bool out_move(struct tls_session *s)
{
	s->out.full = false;
	for (unsigned i = 0; i < TURNS; i++) {
		if (s->out.n == 0 && !s->out.ended && !out_read(s))
			return false;
		if (s->out.n == 0)
			break;
		if (!out_write(s))
			return false;
		if (s->out.full)
			break;
	}
	return !s->out.ended || s->out.n > 0 || s->out.passed || out_pass_end(s);
}

static void session_move(struct tls_session *s)
{
	s->in.full = false;
	if (!in_move(s) || !out_move(s))
		return;
	if (s->in.passed && s->out.passed)
		session_end(s, 0);
	else
		session_watch(s);
}

static void on_linger(uv_timer_t *timer)
{
	session_end(timer->data, 0);
}

/* The owner has closed the plain end, and does not only write no more. */
static void notice_left(struct tls_session *s)
{
	struct pollfd fd = {.fd = s->plain};

	if (s->left || poll(&fd, 1, 0) != 1 || (fd.revents & POLLHUP) == 0)
		return;
	s->left = true;
	s->in.n = 0;
	(void)uv_timer_start(&s->timer, on_linger, LIMIT_WIRE_LINGER, 0);
}

static void on_plain(uv_poll_t *handle, int status, int events)
{
	struct tls_session *s = handle->data;

	(void)events;
	if (s->life != LIFE_OPEN)
		return;
	if (status < 0) {
		fail_sys(s, -status, "watch the plain end");
		return;
	}
	notice_left(s);
	session_move(s);
}

/* A refused one reads the alert only if nothing of its own is left unread here. */
static void refused_drain(struct tls_session *s)
{
	for (unsigned i = 0; i < TURNS; i++) {
		ssize_t n = recv(s->net, s->in.bytes, sizeof(s->in.bytes), MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			session_fail(s);
			return;
		}
	}
}

static void on_refused_long(uv_timer_t *timer)
{
	session_fail(timer->data);
}

static void session_refuse(struct tls_session *s, int rc)
{
	if (s->error.code == BLIX_OK)
		note_tls(s, rc);
	(void)gnutls_alert_send_appropriate(s->gnutls, rc);
	(void)shutdown(s->net, SHUT_WR);
	s->life = LIFE_REFUSED;
	(void)uv_timer_start(&s->timer, on_refused_long, REFUSED_MS, 0);
	session_watch(s);
}

/* Who the other end is, for a client that knows a fingerprint alone: the CA is shown after it. */
static int judge_pinned(struct tls_session *s, struct tls_identity *ret)
{
	cleanup(crt_done) gnutls_x509_crt_t crt = NULL, ca = NULL;
	char hash[TLS_HASH];
	int rc = tls_peer_crt(s->gnutls, 0, &crt, &s->error);

	if (rc == 0)
		rc = tls_peer_crt(s->gnutls, 1, &ca, &s->error);
	if (rc == 0)
		rc = tls_crt_hash(ca, hash, &s->error);
	if (rc == 0 && strcmp(hash, s->pin) != 0) {
		rc = blix_fail(&s->error, BLIX_E_DENIED, "the CA is not the one that was named");
		blix_reason(&s->error, "other-ca");
	}
	return rc < 0 ? rc : tls_judge(ca, crt, clock_wall_ms(), ret, &s->error);
}

static int judge(struct tls_session *s, struct tls_identity *ret)
{
	char dns[TLS_DNS];
	int rc = s->pin[0] != '\0' ? judge_pinned(s, ret)
	                           : tls_set_peer(s->set, s->gnutls, ret, &s->error);

	if (rc < 0)
		return rc;
	tls_dns_name(ret->node, ret->cluster, dns);
	if (!s->config.server &&
	    (ret->kind == TLS_USER || (s->expect[0] != '\0' && strcmp(s->expect, dns) != 0))) {
		rc = blix_fail(&s->error, BLIX_E_DENIED, "the other end is %s %s, not %s",
		               tls_kind_text(ret->kind), ret->name,
		               s->expect[0] != '\0' ? s->expect : "a node");
		blix_reason(&s->error, "other-node");
	} else if (s->events->denied != NULL && s->events->denied(s->data, ret)) {
		rc = blix_fail(&s->error, BLIX_E_DENIED,
		               "the certificate of %s is on the deny list", ret->name);
		blix_reason(&s->error, "certificate-denied");
	}
	return rc;
}

/* GnuTLS asks this in the middle of its handshake, also about one without a certificate. */
static int on_verify(gnutls_session_t gnutls)
{
	struct tls_session *s = gnutls_session_get_ptr(gnutls);
	struct tls_identity peer;
	unsigned n = 0;

	if (gnutls_certificate_get_peers(gnutls, &n) == NULL && s->config.anonymous)
		return 0;
	if (judge(s, &peer) < 0)
		return GNUTLS_E_CERTIFICATE_ERROR;
	s->peer = peer;
	s->known = true;
	return 0;
}

static void session_opened(struct tls_session *s)
{
	int pair[2];

	(void)uv_timer_stop(&s->timer);
	if (!s->known && !s->config.anonymous) {
		session_refuse(s, GNUTLS_E_NO_CERTIFICATE_FOUND);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		fail_sys(s, errno, "make a socket pair");
		return;
	}
	s->plain = pair[0];
	if (uv_poll_init(s->config.loop, &s->plain_poll, s->plain) < 0)
		abort(); /* a new descriptor of a kind that polls take */
	s->plain_poll.data = s;
	s->n_handles++;
	s->life = LIFE_OPEN;
	session_watch(s);
	s->events->opened(s->data, pair[1], s->known ? &s->peer : NULL);
}

static void session_shake_hands(struct tls_session *s)
{
	int rc;

	do
		rc = gnutls_handshake(s->gnutls);
	while (rc < 0 && !is_transient(rc) && gnutls_error_is_fatal(rc) == 0);
	if (is_transient(rc))
		session_watch(s);
	else if (rc < 0)
		session_refuse(s, rc);
	else
		session_opened(s);
}

static void fail_connection(struct tls_session *s)
{
	int sys = 0;
	socklen_t n = sizeof(sys);

	if (getsockopt(s->net, SOL_SOCKET, SO_ERROR, &sys, &n) < 0 || sys == 0)
		sys = ECONNRESET;
	if (s->life == LIFE_REFUSED)
		session_fail(s);
	else
		fail_sys(s, sys, "connection");
}

static void on_net(uv_poll_t *handle, int status, int events)
{
	struct tls_session *s = handle->data;

	(void)events;
	if (status < 0) {
		fail_connection(s);
		return;
	}
	switch (s->life) {
	case LIFE_HANDSHAKE:
		session_shake_hands(s);
		break;
	case LIFE_OPEN:
		session_move(s);
		break;
	case LIFE_REFUSED:
		refused_drain(s);
		break;
	case LIFE_CLOSING:
		break;
	}
}

static int net_events(const struct tls_session *s)
{
	int events = 0;

	if (s->life == LIFE_HANDSHAKE)
		return gnutls_record_get_direction(s->gnutls) == 0 ? UV_READABLE : UV_WRITABLE;
	if (s->life == LIFE_REFUSED)
		return UV_READABLE;
	if (s->in.n == 0 && !s->in.ended)
		events |= UV_READABLE;
	if (s->out.n > 0 || (s->out.ended && !s->out.passed))
		events |= UV_WRITABLE;
	return events;
}

static int plain_events(const struct tls_session *s)
{
	int events = 0;

	if (s->out.n == 0 && !s->out.ended)
		events |= UV_READABLE;
	if (s->in.n > 0)
		events |= UV_WRITABLE;
	/* A hang-up is told to whoever waits for anything at all, and this never comes. */
	return events == 0 && !s->left ? UV_PRIORITIZED : events;
}

static void watch(uv_poll_t *handle, int *now, int events, uv_poll_cb cb)
{
	if (*now == events)
		return;
	*now = events;
	if (events == 0)
		(void)uv_poll_stop(handle);
	else
		(void)uv_poll_start(handle, events, cb);
}

static void session_watch(struct tls_session *s)
{
	watch(&s->net_poll, &s->net_waits, net_events(s), on_net);
	if (s->life == LIFE_OPEN)
		watch(&s->plain_poll, &s->plain_waits, plain_events(s), on_plain);
}

static void on_deadline(uv_timer_t *timer)
{
	struct tls_session *s = timer->data;

	(void)blix_fail(&s->error, BLIX_E_TIMEOUT, "no TLS session within %u ms",
	                s->config.deadline_ms);
	session_fail(s);
}

static int session_prepare(struct tls_session *s, struct blix_error *err)
{
	const struct tls_session_config *config = &s->config;
	int rc = gnutls_init(&s->gnutls, (config->server ? GNUTLS_SERVER : GNUTLS_CLIENT) |
	                                         GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL |
	                                         GNUTLS_NO_TICKETS);

	if (rc == 0)
		rc = gnutls_priority_set_direct(s->gnutls, TLS_PRIORITIES, NULL);
	if (rc == 0)
		rc = gnutls_credentials_set(s->gnutls, GNUTLS_CRD_CERTIFICATE, s->set->gnutls);
	if (rc < 0)
		return tls_fail(err, BLIX_E_INTERNAL, rc, "make a TLS session");
	if (config->server)
		gnutls_certificate_server_set_request(
			s->gnutls, config->anonymous ? GNUTLS_CERT_REQUEST : GNUTLS_CERT_REQUIRE);
	gnutls_session_set_ptr(s->gnutls, s);
	gnutls_session_set_verify_function(s->gnutls, on_verify);
	gnutls_transport_set_int(s->gnutls, s->net);
	/* Not of a Unix socket, where it is not needed. */
	(void)setsockopt(s->net, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	rc = uv_poll_init(config->loop, &s->net_poll, s->net);
	return rc < 0 ? blix_fail_sys(err, -rc, "watch a socket") : 0;
}

static void config_copy(struct tls_session *s, const struct tls_session_config *config)
{
	s->config = *config;
	s->config.credentials = NULL; /* they may be gone before the session is */
	if (config->deadline_ms == 0)
		s->config.deadline_ms = LIMIT_TLS_HANDSHAKE;
	if (config->expect != NULL)
		(void)snprintf(s->expect, sizeof(s->expect), "%s", config->expect);
	if (config->pin != NULL)
		(void)snprintf(s->pin, sizeof(s->pin), "%s", config->pin);
}

int tls_session_open(const struct tls_session_config *config, int fd,
                     const struct tls_session_events *events, void *data, struct tls_session **ret,
                     struct blix_error *err)
{
	struct tls_session *s = xcalloc(1, sizeof(*s));
	int rc = 0;

	assert((config->credentials != NULL) != (config->pin != NULL));
	assert(config->server ? config->pin == NULL && config->expect == NULL : !config->anonymous);
	s->net = fd;
	s->plain = -1;
	s->events = events;
	s->data = data;
	config_copy(s, config);
	if (config->credentials != NULL)
		s->set = tls_set_hold(config->credentials);
	else
		rc = tls_set_bare(&s->set, err);
	if (rc == 0)
		rc = session_prepare(s, err);
	if (rc < 0) {
		session_free(s);
		return rc;
	}
	(void)uv_timer_init(config->loop, &s->timer);
	s->net_poll.data = s->timer.data = s;
	s->n_handles = 2;
	/* A client begins when its socket is connected; a server waits a turn too. */
	watch(&s->net_poll, &s->net_waits, UV_WRITABLE, on_net);
	(void)uv_timer_start(&s->timer, on_deadline, s->config.deadline_ms, 0);
	*ret = s;
	return 0;
}

void tls_session_close(struct tls_session *s)
{
	session_end(s, 0);
}
