/* Calls and a listener on TCP with TLS: see secure.h.
 *
 * Happy path of a call: numeric host, or one that the pool resolves -> connect under way -> a
 * session of tls/session.h, which expects the node's own name -> the plain end is handed over. Of
 * an accepted connection: session -> the other end is a server -> handed over. The secure_call
 * stays until its session is gone, which happens when the plain end was closed, or the connection
 * broke.
 *
 * Strangers may connect, and say nothing: of those whose handshake is not done, WAITING_MAX stay,
 * the oldest goes first. One name is resolved at a time, so that a name server that is away keeps
 * one thread of the pool and not all; calls beyond that fail, and are made again by libraft.
 */
#include "raft/secure.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"
#include "sys/file.h"
#include "tls/session.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/socket.h>

#define CONNECT_MS  2000 /* until the handshake is done */
#define UNACKED_MS  2000 /* what a silent network costs before a new connection is tried */
#define KEEPALIVE_S 2
#define BACKLOG     64
#define WAITING_MAX 64u

struct secure_call {
	TAILQ_ENTRY(secure_call) entry;
	struct secure *s;
	struct tls_session *session; /* NULL: not yet, or not any more */
	uv_getaddrinfo_t resolve;
	bool resolving;
	bool incoming;
	bool shook; /* the handshake is done */
	char dns[TLS_DNS];
	struct tls_identity peer; /* once it is */
	secure_cb cb;             /* NULL: called, or cancelled */
	void *data;
};

TAILQ_HEAD(secure_calls, secure_call);

struct secure {
	struct secure_config config;
	struct secure_calls calls; /* oldest first */
	unsigned n_waiting;        /* incoming, handshake not done */
	unsigned n_attempts;       /* picks one of several addresses of a name */
	bool resolving;
	uv_tcp_t listener;
	unsigned n_handles; /* the listener, and accepted ones whose descriptor was copied */
	bool listening;
	secure_cb accept_cb;
	void *accept_data;
	bool closing;
	void (*close_cb)(void *data);
	void *close_data;
};

bool secure_address(const char *address)
{
	return address[0] != '/';
}

struct secure *secure_open(const struct secure_config *config)
{
	struct secure *s = xcalloc(1, sizeof(*s));

	s->config = *config;
	TAILQ_INIT(&s->calls);
	return s;
}

static void maybe_closed(struct secure *s)
{
	void (*cb)(void *data) = s->close_cb;
	void *data = s->close_data;

	if (!s->closing || s->n_handles > 0 || !TAILQ_EMPTY(&s->calls))
		return;
	free(s);
	cb(data);
}

static void call_free(struct secure_call *call)
{
	struct secure *s = call->s;

	TAILQ_REMOVE(&s->calls, call, entry);
	free(call);
	maybe_closed(s);
}

static struct secure_call *call_new(struct secure *s)
{
	struct secure_call *call = xcalloc(1, sizeof(*call));

	call->s = s;
	TAILQ_INSERT_TAIL(&s->calls, call, entry);
	return call;
}

static void call_tell(struct secure_call *call, int fd, uint64_t id)
{
	secure_cb cb = take(call->cb);

	if (cb != NULL)
		cb(call->data, fd, id);
	else
		closep(&fd);
}

static bool on_denied(void *data, const struct tls_identity *peer)
{
	struct secure_call *call = data;
	const struct secure_config *config = &call->s->config;

	return peer->kind != TLS_SERVER ||
	       (config->denied != NULL && config->denied(config->data, peer));
}

static void on_opened(void *data, int fd, const struct tls_identity *peer)
{
	struct secure_call *call = data;

	call->shook = true;
	call->peer = *peer;
	if (call->incoming)
		call->s->n_waiting--;
	call_tell(call, fd, peer->node);
}

static void on_closed(void *data, int status, const struct blix_error *err)
{
	struct secure_call *call = data;

	(void)status;
	(void)err;
	call->session = NULL;
	if (call->incoming && !call->shook)
		call->s->n_waiting--;
	call->incoming = false; /* nobody is told of one that did not get through */
	if (!call->shook)
		call_tell(call, -1, 0);
	call_free(call);
}

static const struct tls_session_events session_events = {
	.denied = on_denied,
	.opened = on_opened,
	.closed = on_closed,
};

static void socket_prepare(int fd)
{
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned){UNACKED_MS}, sizeof(int));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){KEEPALIVE_S}, sizeof(int));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){KEEPALIVE_S}, sizeof(int));
}

static int call_shake_hands(struct secure_call *call, int fd)
{
	const struct secure *s = call->s;
	struct tls_session_config config = {
		.loop = s->config.loop,
		.server = call->incoming,
		.credentials = s->config.credentials,
		.expect = call->incoming ? NULL : call->dns,
		.deadline_ms = CONNECT_MS,
	};

	socket_prepare(fd);
	return tls_session_open(&config, fd, &session_events, call, &call->session, NULL);
}

static int call_connect(struct secure_call *call, const struct sockaddr *address, socklen_t n)
{
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	if (connect(fd, address, n) < 0 && errno != EINPROGRESS) {
		(void)close(fd);
		return -1;
	}
	return call_shake_hands(call, fd);
}

/* Each attempt takes the next of the addresses that a name has. */
static const struct addrinfo *pick(struct secure *s, const struct addrinfo *found)
{
	const struct addrinfo *each = found;
	unsigned n = 0;

	for (; each != NULL; each = each->ai_next)
		n++;
	each = found;
	for (unsigned i = n == 0 ? 0 : s->n_attempts++ % n; i > 0; i--)
		each = each->ai_next;
	return each;
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
	struct secure_call *call = request->data;
	const struct addrinfo *address = pick(call->s, found);
	bool wanted = call->cb != NULL && !call->s->closing && status == 0 && address != NULL;

	call->resolving = false;
	call->s->resolving = false;
	if (!wanted || call_connect(call, address->ai_addr, address->ai_addrlen) < 0) {
		call_tell(call, -1, 0);
		uv_freeaddrinfo(found);
		call_free(call);
		return;
	}
	uv_freeaddrinfo(found);
}

static int call_resolve(struct secure_call *call, const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct secure *s = call->s;

	if (s->resolving)
		return -1;
	call->resolve.data = call;
	if (uv_getaddrinfo(s->config.loop, &call->resolve, on_resolved, host, port, &hints) < 0)
		return -1;
	call->resolving = true;
	s->resolving = true;
	return 0;
}

/* Without asking anybody: *ret is the caller's, freeaddrinfo(). */
static bool numeric(const char *host, const char *port, struct addrinfo **ret)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
	                         .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};

	return getaddrinfo(host, port, &hints, ret) == 0;
}

static int address_split(const char *address, char host[PARSE_HOST], char port[8],
                         struct blix_error *err)
{
	uint16_t number = 0;
	int rc = parse_address(address, host, &number, err);

	if (rc < 0)
		return rc;
	(void)snprintf(port, 8, "%u", number);
	return 0;
}

struct secure_call *secure_connect(struct secure *s, const char *address, uint64_t id, secure_cb cb,
                                   void *data)
{
	struct secure_call *call;
	struct addrinfo *found = NULL;
	char host[PARSE_HOST], port[8];
	int rc;

	if (s->closing || address_split(address, host, port, NULL) < 0)
		return NULL;
	call = call_new(s);
	tls_dns_name(id, credentials_own(s->config.credentials)->cluster, call->dns);
	call->cb = cb;
	call->data = data;
	if (numeric(host, port, &found)) {
		rc = call_connect(call, found->ai_addr, found->ai_addrlen);
		freeaddrinfo(found);
	} else {
		rc = call_resolve(call, host, port);
	}
	if (rc == 0)
		return call;
	call_free(call);
	return NULL;
}

void secure_cancel(struct secure_call *call)
{
	call->cb = NULL;
	if (call->session != NULL)
		tls_session_close(call->session);
	else if (call->resolving)
		(void)uv_cancel((uv_req_t *)&call->resolve);
}

static void drop_oldest(struct secure *s)
{
	struct secure_call *call;

	TAILQ_FOREACH(call, &s->calls, entry)
	{
		if (call->incoming && !call->shook && call->session != NULL && call->cb != NULL) {
			secure_cancel(call);
			return;
		}
	}
}

static void accept_one(struct secure *s, int fd)
{
	struct secure_call *call = call_new(s);

	call->incoming = true;
	call->cb = s->accept_cb;
	call->data = s->accept_data;
	if (call_shake_hands(call, fd) < 0) {
		call_free(call);
		return;
	}
	if (++s->n_waiting > WAITING_MAX)
		drop_oldest(s);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct secure *s = handle->data;

	if (handle != (uv_handle_t *)&s->listener)
		free(handle);
	s->n_handles--;
	maybe_closed(s);
}

/* libuv accepts, as it knows what to do when descriptors run out; the session wants the plain
 * descriptor. */
static void on_incoming(uv_stream_t *listener, int status)
{
	struct secure *s = listener->data;
	uv_tcp_t *tcp;
	uv_os_fd_t fd;

	if (status != 0 || s->closing)
		return;
	tcp = xcalloc(1, sizeof(*tcp));
	(void)uv_tcp_init(s->config.loop, tcp);
	tcp->data = s;
	s->n_handles++;
	if (uv_accept(listener, (uv_stream_t *)tcp) == 0 &&
	    uv_fileno((uv_handle_t *)tcp, &fd) == 0) {
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (fd >= 0)
			accept_one(s, fd);
	}
	uv_close((uv_handle_t *)tcp, on_handle_closed);
}

/* On all addresses of the host, IPv6 and IPv4, or IPv4 where there is no IPv6. */
static int bind_all(struct secure *s, uint16_t port)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
	int rc = uv_tcp_bind(&s->listener, (struct sockaddr *)&six, 0);

	return rc == UV_EAFNOSUPPORT ? uv_tcp_bind(&s->listener, (struct sockaddr *)&four, 0) : rc;
}

int secure_listen(struct secure *s, const char *address, secure_cb cb, void *data,
                  struct blix_error *err)
{
	struct addrinfo *found = NULL;
	char host[PARSE_HOST], port[8];
	uint16_t number = 0;
	int rc = address_split(address, host, port, err);

	if (rc < 0)
		return rc;
	(void)parse_address(address, host, &number, NULL);
	s->accept_cb = cb;
	s->accept_data = data;
	(void)uv_tcp_init(s->config.loop, &s->listener);
	s->listener.data = s;
	s->listening = true;
	s->n_handles++;
	if (host[0] != '\0' && numeric(host, port, &found)) {
		rc = uv_tcp_bind(&s->listener, found->ai_addr, 0);
		freeaddrinfo(found);
	} else {
		rc = bind_all(s, number);
	}
	if (rc == 0)
		rc = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_incoming);
	return rc == 0 ? 0 : blix_fail_sys(err, -rc, "listen on %s", address);
}

void secure_recheck(struct secure *s)
{
	struct secure_call *call;

	TAILQ_FOREACH(call, &s->calls, entry)
	{
		if (call->shook && call->session != NULL && on_denied(call, &call->peer))
			tls_session_close(call->session);
	}
}

void secure_close(struct secure *s, void (*cb)(void *data), void *data)
{
	struct secure_call *call;

	s->closing = true;
	s->close_cb = cb;
	s->close_data = data;
	TAILQ_FOREACH(call, &s->calls, entry)
	secure_cancel(call);
	if (s->listening)
		uv_close((uv_handle_t *)&s->listener, on_handle_closed);
	maybe_closed(s);
}
