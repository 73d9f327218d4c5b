/* lib/http over TLS: who gets in and as whom, and that waiting, streaming, upgrades, deadlines and
 * limits are what they are over a Unix socket (test_http.c). Server and clients share one loop;
 * fetch plays the good client, sessions of GnuTLS over non-blocking sockets all others. */
#include "curl/fetch.h"
#include "http/server.h"
#include "sys/wire.h"
#include "tls/credentials.h"

#include "certificates.h"

#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define GUARD_MS     30000
#define STREAM_BYTES (10u << 20)
#define SERVER_NAME  "n1." CLUSTER ".blix"

enum { ADMIN, VIEWER, SERVER, WORKER, EXPIRED, OTHER_CA, OTHER_CLUSTER, N_CERTIFICATES };
static const char *const names[N_CERTIFICATES] = {"admin",   "viewer",   "server",       "worker",
                                                  "expired", "other-ca", "other-cluster"};

/* Made once: keys cost time. */
static struct tls_pem cas[3], own, renewed, certificates[N_CERTIFICATES];

struct fixture {
	uv_loop_t loop;
	uv_timer_t guard;
	char dir[64];
	char path[96], address[32];
	unsigned port;
	struct tls_credentials *credentials;
	struct http_server *server;
	struct fetch_pool *pool;
	bool server_closed, pool_closed;
	struct http_request *waiting;
	unsigned waits, cancelled;
	unsigned produced, stream_done;
	/* an upgraded connection */
	struct http_upgrade *upgrade;
	struct wire *wire;
	size_t read;
	bool wrong, ended;
};

static void handle_who(struct http_request *request, void *data)
{
	const struct http_peer *peer = http_peer(request);
	char who[HTTP_PEER_TEXT];
	char *text;

	(void)data;
	http_peer_text(peer, who);
	text = xasprintf("%s %s %s", who, tls_role_text(peer->identity.role), peer->address);
	http_answer(request, 200, "text/plain", text, strlen(text));
}

static void handle_echo(struct http_request *request, void *data)
{
	size_t n;
	const char *body = http_body(request, &n);

	(void)data;
	http_answer(request, 200, "text/plain", xstrndup(body, n), n);
}

static void on_cancelled(void *data)
{
	struct fixture *f = data;

	f->cancelled++;
	f->waiting = NULL;
}

static void handle_wait(struct http_request *request, void *data)
{
	struct fixture *f = data;

	f->waits++;
	f->waiting = request;
	http_on_cancel(request, on_cancelled, f);
}

static char byte_at(size_t i)
{
	return (char)('a' + i % 23);
}

static int produce(void *data, struct buf *out)
{
	struct fixture *f = data;
	size_t n = 64u << 10;
	char *room = buf_room(out, n);

	for (size_t i = 0; i < n; i++)
		room[i] = byte_at(f->produced + i);
	buf_grew(out, n);
	f->produced += (unsigned)n;
	return f->produced < STREAM_BYTES;
}

static void on_stream_done(void *data)
{
	((struct fixture *)data)->stream_done++;
}

static void handle_stream(struct http_request *request, void *data)
{
	http_answer_stream(request, 200, "text/plain", produce, on_stream_done, data);
}

static void handle_redirect(struct http_request *request, void *data)
{
	(void)data;
	http_answer_header(request, "Location", "file:///etc/passwd");
	http_answer(request, 302, NULL, NULL, 0);
}

static void wire_read(void *data, const char *bytes, size_t n)
{
	struct fixture *f = data;

	for (size_t i = 0; i < n; i++)
		f->wrong = f->wrong || bytes[i] != byte_at(f->read + i);
	f->read += n;
}

static void wire_ended(void *data, int status)
{
	(void)status;
	((struct fixture *)data)->ended = true;
}

static const struct wire_events events = {wire_read, NULL, wire_ended};

static void on_taken(void *data, struct http_upgrade *upgrade, int fd, const char *bytes, size_t n)
{
	struct fixture *f = data;

	assert_true(fd >= 0);
	f->upgrade = upgrade;
	assert_int_equal(wire_open(&f->loop, fd, &events, f, &f->wire, NULL), 0);
	wire_read(f, bytes, n);
	wire_resume(f->wire);
}

static void handle_upgrade(struct http_request *request, void *data)
{
	assert_true(http_wants_upgrade(request, "test"));
	http_answer_upgrade(request, "test", on_taken, data);
}

static const struct http_route routes[] = {
	{.method = "GET", .path = "/who", .handler = handle_who},
	{.method = "POST", .path = "/echo", .handler = handle_echo, .body_max = LIMIT_BODY},
	{.method = "GET", .path = "/wait", .handler = handle_wait},
	{.method = "GET", .path = "/stream", .handler = handle_stream},
	{.method = "GET", .path = "/redirect", .handler = handle_redirect},
	{.method = "POST", .path = "/upgrade", .handler = handle_upgrade},
};

static void on_guard(uv_timer_t *guard)
{
	(void)guard;
	fail_msg("nothing happened for %d ms", GUARD_MS);
}

static void wait_true(struct fixture *f, const bool *condition)
{
	while (!*condition)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
}

static void wait_connections(struct fixture *f, size_t n)
{
	while (http_server_connections(f->server) != n)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
}

static void pool_as(struct fixture *f, int who)
{
	cleanup(freep) char *ca = xasprintf("%s/%s.ca", f->dir, names[who]);
	cleanup(freep) char *cert = xasprintf("%s/%s.cert", f->dir, names[who]);
	cleanup(freep) char *key = xasprintf("%s/%s.key", f->dir, names[who]);

	fetch_pool_tls(f->pool, &(struct fetch_tls){ca, cert, key});
}

static const struct tls_pem *ca_of(int who)
{
	return &cas[who == OTHER_CA ? 1 : who == OTHER_CLUSTER ? 2 : 0];
}

static struct fixture *fixture_open(const struct http_config *changes)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct http_config config = {.socket_path = f->path,
	                             .mode = 0600,
	                             .group = (gid_t)-1,
	                             .routes = routes,
	                             .n = array_size(routes),
	                             .data = f};
	struct blix_error err = {0};

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/blix-tls-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	if (changes != NULL) {
		config.connections_max = changes->connections_max;
		config.receive_ms = changes->receive_ms;
		config.idle_ms = changes->idle_ms;
	}
	for (int i = 0; i < N_CERTIFICATES; i++)
		write_files(f->dir, names[i], ca_of(i), &certificates[i]);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	(void)uv_timer_init(&f->loop, &f->guard);
	(void)uv_timer_start(&f->guard, on_guard, GUARD_MS, 0);
	assert_int_equal(credentials_open(&cas[0].cert, &own, &f->credentials, &err), 0);
	assert_int_equal(http_server_open(&f->loop, &config, &f->server, &err), 0);
	if (http_server_listen(f->server, "127.0.0.1:0", f->credentials, &f->port, &err) < 0)
		fail_msg("%s", err.text);
	(void)snprintf(f->address, sizeof(f->address), "127.0.0.1:%u", f->port);
	assert_int_equal(fetch_pool_open(&f->loop, &f->pool, &err), 0);
	pool_as(f, ADMIN);
	return f;
}

static void server_is_closed(void *data)
{
	((struct fixture *)data)->server_closed = true;
}

static void pool_is_closed(void *data)
{
	((struct fixture *)data)->pool_closed = true;
}

static void fixture_close(struct fixture *f)
{
	if (f->server != NULL)
		http_server_close(f->server, server_is_closed, f);
	fetch_pool_close(f->pool, pool_is_closed, f);
	wait_true(f, &f->server_closed);
	wait_true(f, &f->pool_closed);
	uv_close((uv_handle_t *)&f->guard, NULL);
	(void)uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	credentials_free(f->credentials);
	for (int i = 0; i < N_CERTIFICATES; i++)
		remove_files(f->dir, names[i]);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
}

struct answer {
	bool done;
	int status, http_status;
	size_t n;
	char *body;
};

static void on_answer(void *data, int status, int http_status, struct buf *body, const char *type)
{
	struct answer *a = data;

	(void)type;
	a->done = true;
	a->status = status;
	a->http_status = http_status;
	a->n = body->len;
	a->body = buf_take(body);
}

static struct fetch *ask(struct fixture *f, const char *method, const char *path,
                         const char *server_name, const char *body, struct answer *a)
{
	struct fetch_options options = {.address = f->address,
	                                .server_name = server_name,
	                                .method = method,
	                                .path = path,
	                                .body = body,
	                                .n = body != NULL ? strlen(body) : 0};
	struct fetch *fetch = NULL;
	struct blix_error err = {0};

	memset(a, 0, sizeof(*a));
	if (fetch_start(f->pool, &options, on_answer, a, &fetch, &err) < 0)
		fail_msg("%s", err.text);
	return fetch;
}

/* The body must be this; NULL: no request may reach the server. */
static void wants(struct fixture *f, const char *server_name, const char *body)
{
	struct answer a;

	(void)ask(f, "GET", "/who", server_name, NULL, &a);
	wait_true(f, &a.done);
	assert_int_equal(a.status, body != NULL ? 0 : -(int)BLIX_E_UNAVAILABLE);
	if (body != NULL)
		assert_string_equal(a.body, body);
	free(a.body);
}

/* A client that may say anything. */
struct raw {
	struct fixture *f;
	uv_poll_t poll;
	int fd;
	gnutls_session_t session; /* NULL: it speaks no TLS */
	gnutls_certificate_credentials_t credentials;
	bool shaken; /* the handshake is done */
	bool ended, closed, found;
	size_t got;
	struct buf in;
	const char *wanted;
};

static void raw_take(struct raw *raw, const char *piece, ssize_t n)
{
	if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
		return;
	if (n <= 0) {
		raw->ended = true;
		(void)uv_poll_stop(&raw->poll);
		return;
	}
	raw->got += (size_t)n;
	(void)buf_add(&raw->in, piece, (size_t)n);
	raw->found = raw->wanted != NULL && raw->in.data != NULL &&
	             memmem(raw->in.data, raw->in.len, raw->wanted, strlen(raw->wanted)) != NULL;
}

static ssize_t raw_receive(struct raw *raw, char *piece, size_t n)
{
	ssize_t got;
	int rc;

	if (raw->session == NULL) {
		got = recv(raw->fd, piece, n, MSG_DONTWAIT);
		return got < 0 && errno == EAGAIN ? GNUTLS_E_AGAIN : got;
	}
	if (!raw->shaken) {
		rc = gnutls_handshake(raw->session);
		if (rc < 0)
			return gnutls_error_is_fatal(rc) ? -1 : GNUTLS_E_AGAIN;
		raw->shaken = true;
	}
	return gnutls_record_recv(raw->session, piece, n);
}

static void raw_event(uv_poll_t *poll, int status, int happened)
{
	struct raw *raw = poll->data;
	char piece[16384];
	ssize_t n;

	(void)status;
	(void)happened;
	do {
		n = raw_receive(raw, piece, sizeof(piece));
		raw_take(raw, piece, n);
	} while (n > 0 && !raw->ended);
}

static void raw_connect(struct fixture *f, struct raw *raw)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
	                              .sin_port = htons((uint16_t)f->port),
	                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	int on = 1;

	memset(raw, 0, sizeof(*raw));
	raw->f = f;
	buf_init(&raw->in, 64u << 20);
	raw->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(raw->fd >= 0);
	(void)setsockopt(raw->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)connect(raw->fd, (struct sockaddr *)&address, sizeof(address));
	assert_int_equal(uv_poll_init(&f->loop, &raw->poll, raw->fd), 0);
	raw->poll.data = raw;
	(void)uv_poll_start(&raw->poll, UV_READABLE, raw_event);
}

static void raw_tls(struct raw *raw, const struct tls_pem *pem, const char *priorities)
{
	gnutls_datum_t cert, key;

	assert_int_equal(
		gnutls_init(&raw->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL), 0);
	assert_int_equal(gnutls_priority_set_direct(raw->session, priorities, NULL), 0);
	assert_int_equal(gnutls_certificate_allocate_credentials(&raw->credentials), 0);
	if (pem != NULL) {
		cert = (gnutls_datum_t){(unsigned char *)pem->cert.data, (unsigned)pem->cert.len};
		key = (gnutls_datum_t){(unsigned char *)pem->key.data, (unsigned)pem->key.len};
		assert_int_equal(gnutls_certificate_set_x509_key_mem(raw->credentials, &cert, &key,
		                                                     GNUTLS_X509_FMT_PEM),
		                 0);
	}
	assert_int_equal(
		gnutls_credentials_set(raw->session, GNUTLS_CRD_CERTIFICATE, raw->credentials), 0);
	gnutls_transport_set_int(raw->session, raw->fd);
}

/* With the certificate `pem` (NULL: none); returns when the handshake is done or has failed. */
static void raw_open(struct fixture *f, struct raw *raw, const struct tls_pem *pem)
{
	raw_connect(f, raw);
	raw_tls(raw, pem, TLS_PRIORITIES);
	while (!raw->shaken && !raw->ended) {
		raw_event(&raw->poll, 0, 0);
		if (!raw->shaken && !raw->ended)
			(void)uv_run(&f->loop, UV_RUN_ONCE);
	}
}

static void raw_send_bytes(struct raw *raw, const char *bytes, size_t n)
{
	ssize_t r;

	while (n > 0) {
		r = raw->session != NULL ? gnutls_record_send(raw->session, bytes, n)
		                         : send(raw->fd, bytes, n, MSG_NOSIGNAL);
		if (r == GNUTLS_E_AGAIN || (raw->session == NULL && r < 0 && errno == EAGAIN)) {
			(void)uv_run(&raw->f->loop, UV_RUN_NOWAIT);
			continue;
		}
		if (r <= 0)
			return; /* the other end has gone: its own words say why */
		bytes += r;
		n -= (size_t)r;
	}
}

static void raw_send(struct raw *raw, const char *text)
{
	raw_send_bytes(raw, text, strlen(text));
}

static void raw_expect(struct raw *raw, const char *wanted)
{
	raw->wanted = wanted;
	raw->found = raw->in.data != NULL && strstr(raw->in.data, wanted) != NULL;
	while (!raw->found && !raw->ended)
		(void)uv_run(&raw->f->loop, UV_RUN_ONCE);
	if (!raw->found)
		fail_msg("wanted \"%s\", got \"%.200s\"", wanted, raw->in.data ? raw->in.data : "");
}

static void raw_is_closed(uv_handle_t *handle)
{
	((struct raw *)handle->data)->closed = true;
}

static void raw_close(struct raw *raw)
{
	uv_close((uv_handle_t *)&raw->poll, raw_is_closed);
	(void)close(raw->fd);
	wait_true(raw->f, &raw->closed);
	if (raw->session != NULL) {
		gnutls_deinit(raw->session);
		gnutls_certificate_free_credentials(raw->credentials);
	}
	buf_done(&raw->in);
}

static void round_trip(void **state)
{
	struct fixture *f = fixture_open(NULL);
	char *body = xcalloc(LIMIT_BODY + 1, 1);
	struct answer a;

	(void)state;
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1");
	memset(body, 'x', LIMIT_BODY);
	(void)ask(f, "POST", "/echo", SERVER_NAME, body, &a);
	wait_true(f, &a.done);
	assert_int_equal(a.http_status, 200);
	assert_int_equal(a.n, LIMIT_BODY);
	free(a.body);
	free(body);
	/* Both came over one connection. */
	assert_int_equal(http_server_connections(f->server), 1);
	fixture_close(f);
}

static void who_gets_in(void **state)
{
	static const struct {
		int who; /* -1: no certificate */
		const char *answer;
	} cases[] = {
		{ADMIN, "user:admin admin 127.0.0.1"},
		{VIEWER, "user:viewer viewer 127.0.0.1"},
		{SERVER, "node:2  127.0.0.1"},
		{WORKER, "node:3  127.0.0.1"},
		{-1, "anyone  127.0.0.1"},
		{EXPIRED, NULL},
		{OTHER_CA, NULL},
		{OTHER_CLUSTER, NULL},
	};
	struct fixture *f = fixture_open(NULL);
	struct raw raw;

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		raw_open(f, &raw, cases[i].who < 0 ? NULL : &certificates[cases[i].who]);
		raw_send(&raw, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
		if (cases[i].answer != NULL)
			raw_expect(&raw, cases[i].answer);
		else
			wait_true(f, &raw.ended);
		if (cases[i].answer == NULL)
			assert_int_equal(raw.got, 0);
		raw_close(&raw);
	}
	wait_connections(f, 0);
	fixture_close(f);
}

/* Clients that speak no TLS, too old a TLS, or half of it. */
static void no_tls(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw;

	(void)state;
	raw_connect(f, &raw);
	raw_send(&raw, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
	wait_true(f, &raw.ended);
	raw_close(&raw);
	raw_connect(f, &raw);
	raw_tls(&raw, &certificates[ADMIN], "NORMAL:-VERS-ALL:+VERS-TLS1.2");
	raw_event(&raw.poll, 0, 0);
	wait_true(f, &raw.ended);
	assert_false(raw.shaken);
	raw_close(&raw);
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1");
	fixture_close(f);
}

/* How long the loop would sleep now; only the guard lets it sleep for long. */
static uint64_t sleep_ms(struct fixture *f)
{
	for (unsigned turns = 0; uv_backend_timeout(&f->loop) == 0; turns++) {
		assert_true(turns < 1000);
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	}
	uv_update_time(&f->loop);
	return (uint64_t)uv_backend_timeout(&f->loop);
}

static void half_a_handshake(struct fixture *f, struct raw *raw)
{
	raw_connect(f, raw);
	raw_send_bytes(raw, "\x16\x03\x01\x02\x00\x01\x00", 7);
	wait_connections(f, 1);
	for (unsigned i = 0; i < 10; i++)
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
}

/* Half a handshake costs nothing while it waits for the other half. */
static void half_handshake(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw;

	(void)state;
	half_a_handshake(f, &raw);
	assert_true(sleep_ms(f) > LIMIT_HTTP_RECEIVE / 2);
	raw_close(&raw);
	wait_connections(f, 0);
	half_a_handshake(f, &raw);
	http_server_close(f->server, server_is_closed, f);
	f->server = NULL;
	wait_true(f, &f->server_closed);
	wait_true(f, &raw.ended);
	raw_close(&raw);
	fixture_close(f);
}

/* What a client of ours believes: its own CA, and the name it asked for. */
static void whom_we_believe(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct answer a;

	(void)state;
	wants(f, "n2." CLUSTER ".blix", NULL);
	wants(f, "n1." ELSE ".blix", NULL);
	wants(f, "127.0.0.1", NULL);
	pool_as(f, OTHER_CA);
	wants(f, SERVER_NAME, NULL);
	pool_as(f, OTHER_CLUSTER);
	wants(f, SERVER_NAME, NULL);
	pool_as(f, EXPIRED); /* the server refuses us: nothing was answered, so it is unknown */
	(void)ask(f, "GET", "/who", SERVER_NAME, NULL, &a);
	wait_true(f, &a.done);
	assert_true(a.status == -(int)BLIX_E_UNAVAILABLE || a.status == -(int)BLIX_E_UNKNOWN);
	free(a.body);
	pool_as(f, ADMIN);
	(void)ask(f, "GET", "/redirect", SERVER_NAME, NULL, &a);
	wait_true(f, &a.done);
	assert_int_equal(a.http_status, 302);
	assert_int_equal(a.n, 0);
	free(a.body);
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1");
	fixture_close(f);
}

/* An expired server. */
static void expired_server(void **state)
{
	struct tls_identity who = a_node(TLS_SERVER, 1);
	struct fixture *f = fixture_open(NULL);
	struct tls_pem old;

	(void)state;
	who.not_after_ms = clock_wall_ms() - DAY_MS;
	certificate(&cas[0], who, &old);
	assert_int_equal(credentials_replace(f->credentials, &cas[0].cert, &old, NULL), 0);
	wants(f, SERVER_NAME, NULL);
	tls_pem_done(&old);
	fixture_close(f);
}

static void on_trap(uv_poll_t *poll, int status, int happened)
{
	(void)status;
	(void)happened;
	*(bool *)poll->data = true;
}

/* Variables that tell curl to go elsewhere: whoever listens there must not hear of it. */
static void environment(void **state)
{
	static const char *const variables[] = {"http_proxy", "https_proxy", "HTTPS_PROXY",
	                                        "ALL_PROXY", "all_proxy"};
	struct sockaddr_in address = {.sin_family = AF_INET,
	                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct fixture *f = fixture_open(NULL);
	int trap = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cleanup(freep) char *curlrc = xasprintf("%s/.curlrc", f->dir);
	cleanup(freep) char *netrc = xasprintf("%s/.netrc", f->dir);
	cleanup(freep) char *proxy = NULL;
	cleanup(freep) char *home = getenv("HOME") != NULL ? xstrdup(getenv("HOME")) : NULL;
	socklen_t n = sizeof(address);
	bool caught = false;
	uv_poll_t poll;

	(void)state;
	assert_int_equal(bind(trap, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(trap, 8), 0);
	assert_int_equal(getsockname(trap, (struct sockaddr *)&address, &n), 0);
	assert_int_equal(uv_poll_init(&f->loop, &poll, trap), 0);
	poll.data = &caught;
	(void)uv_poll_start(&poll, UV_READABLE, on_trap);
	proxy = xasprintf("http://127.0.0.1:%u", ntohs(address.sin_port));
	for (size_t i = 0; i < array_size(variables); i++)
		(void)setenv(variables[i], proxy, 1);
	(void)setenv("CURL_HOME", f->dir, 1);
	(void)setenv("HOME", f->dir, 1);
	assert_int_equal(file_write(curlrc, "insecure\nproxy = x\n", 19, 0600, NULL), 0);
	assert_int_equal(file_write(netrc, "default login a password b\n", 27, 0600, NULL), 0);
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1");
	pool_as(f, OTHER_CA);
	wants(f, SERVER_NAME, NULL);
	assert_false(caught);
	for (size_t i = 0; i < array_size(variables); i++)
		(void)unsetenv(variables[i]);
	(void)unsetenv("CURL_HOME");
	if (home != NULL)
		(void)setenv("HOME", home, 1);
	(void)unlink(curlrc);
	(void)unlink(netrc);
	uv_close((uv_handle_t *)&poll, NULL);
	(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	(void)close(trap);
	fixture_close(f);
}

/* New certificates on both sides: who is connected stays so, who comes sees the new. */
static void rotation(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw, second;

	(void)state;
	raw_open(f, &raw, &certificates[VIEWER]);
	raw_send(&raw, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_expect(&raw, "user:viewer");
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1");
	assert_int_equal(credentials_replace(f->credentials, &cas[0].cert, &renewed, NULL), 0);
	/* Our own files: those of the admin become the viewer's. */
	write_files(f->dir, names[ADMIN], &cas[0], &certificates[VIEWER]);
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1");
	wants(f, "n9." CLUSTER ".blix", "user:viewer viewer 127.0.0.1");
	raw_send(&raw, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
	while (f->waiting == NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	http_answer(f->waiting, 200, "text/plain", xstrdup("late"), 4);
	raw_expect(&raw, "late");
	raw_open(f, &second, &certificates[WORKER]);
	raw_send(&second, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_expect(&second, "node:3");
	raw_close(&second);
	raw_close(&raw);
	fixture_close(f);
}

static void long_poll(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct answer a;
	struct fetch *fetch;
	struct raw raw;

	(void)state;
	(void)ask(f, "GET", "/wait", SERVER_NAME, NULL, &a);
	while (f->waits < 1)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1"); /* others are served meanwhile */
	http_answer(f->waiting, 200, "text/plain", xstrdup("late"), 4);
	wait_true(f, &a.done);
	assert_string_equal(a.body, "late");
	free(a.body);
	/* A client that goes while it waits. */
	fetch = ask(f, "GET", "/wait", SERVER_NAME, NULL, &a);
	while (f->waits < 2)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_int_equal(f->cancelled, 0);
	fetch_cancel(fetch);
	while (f->cancelled < 1)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	/* One that leaves a second request unread behind. */
	raw_open(f, &raw, &certificates[VIEWER]);
	raw_send(&raw, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET /who HTTP/1.1\r\nHost: x\r\n\r\n");
	while (f->waits < 3)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	http_answer(f->waiting, 200, "text/plain", xstrdup("first"), 5);
	raw_expect(&raw, "user:viewer");
	raw_send(&raw, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
	while (f->waits < 4)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	raw_close(&raw);
	while (f->cancelled < 2)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	fixture_close(f);
}

static void many_waiting(void **state)
{
	enum { ALL = 50 };
	struct fixture *f = fixture_open(NULL);
	struct answer *answers = xcalloc(ALL, sizeof(*answers));

	(void)state;
	for (size_t i = 0; i < ALL; i++)
		(void)ask(f, "GET", "/wait", SERVER_NAME, NULL, &answers[i]);
	while (f->waits < ALL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	http_server_close(f->server, server_is_closed, f);
	f->server = NULL;
	wait_true(f, &f->server_closed);
	assert_int_equal(f->cancelled, ALL);
	for (size_t i = 0; i < ALL; i++) {
		wait_true(f, &answers[i].done);
		assert_int_equal(answers[i].http_status, 503);
		free(answers[i].body);
	}
	free(answers);
	fixture_close(f);
}

static void streams(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct fetch *fetch;
	struct answer a;

	(void)state;
	(void)ask(f, "GET", "/stream", SERVER_NAME, NULL, &a);
	wait_true(f, &a.done);
	assert_int_equal(a.status, 0);
	assert_int_equal(a.n, STREAM_BYTES);
	for (size_t i = 0; i < a.n; i += 4099)
		assert_int_equal(a.body[i], byte_at(i));
	free(a.body);
	f->produced = 0;
	fetch = ask(f, "GET", "/stream", SERVER_NAME, NULL, &a);
	while (f->produced == 0)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	fetch_cancel(fetch);
	while (f->stream_done < 2)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_true(f->produced < STREAM_BYTES);
	fixture_close(f);
}

/* One that says nothing, one in the middle of its handshake, of its headers, of its body, one that
 * takes nothing of its answer, one that has asked once. */
static void slow_clients(void **state)
{
	const struct http_config changes = {.receive_ms = 300, .idle_ms = 1000};
	struct fixture *f = fixture_open(&changes);
	struct raw silent, half, headers, body, idle;

	(void)state;
	raw_connect(f, &silent);
	raw_connect(f, &half);
	raw_send_bytes(&half, "\x16\x03\x01\x02\x00\x01\x00", 7);
	raw_open(f, &headers, &certificates[VIEWER]);
	raw_send(&headers, "GET /who HTTP/1.1\r\nHost:");
	raw_open(f, &body, &certificates[VIEWER]);
	raw_send(&body, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
	raw_open(f, &idle, &certificates[VIEWER]);
	raw_send(&idle, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_expect(&idle, "user:viewer");
	wait_true(f, &silent.ended);
	wait_true(f, &half.ended);
	wait_true(f, &headers.ended);
	wait_true(f, &body.ended);
	assert_false(idle.ended);
	wait_true(f, &idle.ended);
	wait_connections(f, 0);
	raw_close(&silent);
	raw_close(&half);
	raw_close(&headers);
	raw_close(&body);
	raw_close(&idle);
	fixture_close(f);
}

static void too_many(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw *raws = xcalloc(LIMIT_HTTP_USER + 1, sizeof(*raws));
	struct raw more;

	(void)state;
	for (size_t i = 0; i <= LIMIT_HTTP_USER; i++) {
		raw_open(f, &raws[i], &certificates[VIEWER]);
		raw_send(&raws[i], "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
		raw_expect(&raws[i], i < LIMIT_HTTP_USER ? "user:viewer viewer" : " 429 ");
	}
	/* Others come in, admins as often as they like. */
	raw_open(f, &more, &certificates[WORKER]);
	raw_send(&more, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_expect(&more, "node:3");
	raw_close(&more);
	for (size_t i = 0; i <= LIMIT_HTTP_USER; i++)
		raw_close(&raws[i]);
	wait_connections(f, 0);
	for (size_t i = 0; i <= LIMIT_HTTP_USER; i++) {
		raw_open(f, &raws[i], &certificates[ADMIN]);
		raw_send(&raws[i], "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
		raw_expect(&raws[i], "user:admin");
	}
	for (size_t i = 0; i <= LIMIT_HTTP_USER; i++)
		raw_close(&raws[i]);
	wait_connections(f, 0);
	/* One address that does not say who it is. */
	for (size_t i = 0; i < LIMIT_HTTP_USER; i++)
		raw_connect(f, &raws[i]);
	wait_connections(f, LIMIT_HTTP_USER);
	raw_connect(f, &more);
	wait_true(f, &more.ended);
	raw_close(&more);
	for (size_t i = 0; i < LIMIT_HTTP_USER; i++)
		raw_close(&raws[i]);
	free(raws);
	fixture_close(f);
}

#define UPGRADE                                                                                    \
	"POST /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: test\r\n"            \
	"Content-Length: 0\r\n\r\n"

static void wire_is_closed(void *data)
{
	struct fixture *f = data;

	http_upgrade_close(f->upgrade);
	f->upgrade = NULL;
}

static void upgrade_close(struct fixture *f)
{
	wire_close(f->wire, wire_is_closed, f);
	while (f->upgrade != NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	f->read = 0;
	f->ended = false;
}

static void upgraded(struct fixture *f, struct raw *raw)
{
	raw_open(f, raw, &certificates[VIEWER]);
	raw_send(raw, UPGRADE);
	raw_expect(raw, " 101 ");
	while (f->upgrade == NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
}

/* Much both ways; then the client ends, and the server hears of it behind the last byte. */
static void upgrade_client_ends(void **state)
{
	enum { MUCH = 4u << 20 };
	struct fixture *f = fixture_open(NULL);
	char *much = xcalloc(MUCH, 1);
	struct raw raw;

	(void)state;
	for (size_t i = 0; i < MUCH; i++)
		much[i] = byte_at(i);
	for (int how = 0; how < 2; how++) {
		upgraded(f, &raw);
		raw_send_bytes(&raw, much, MUCH);
		if (how == 0)
			(void)gnutls_bye(raw.session, GNUTLS_SHUT_WR);
		(void)shutdown(raw.fd, SHUT_WR);
		wait_true(f, &f->ended);
		assert_int_equal(f->read, MUCH);
		assert_false(f->wrong);
		upgrade_close(f);
		raw_close(&raw);
		wait_connections(f, 0);
	}
	free(much);
	fixture_close(f);
}

/* The reader is slow: it is told of the end only when it has read all. */
static void upgrade_slow_reader(void **state)
{
	enum { SOME = 300000 };
	struct fixture *f = fixture_open(NULL);
	char *much = xcalloc(SOME, 1);
	struct raw raw;

	(void)state;
	for (size_t i = 0; i < SOME; i++)
		much[i] = byte_at(i);
	upgraded(f, &raw);
	wire_pause(f->wire);
	raw_send_bytes(&raw, much, SOME);
	(void)gnutls_bye(raw.session, GNUTLS_SHUT_WR);
	(void)shutdown(raw.fd, SHUT_WR);
	for (int i = 0; i < 100; i++)
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	assert_false(f->ended);
	wire_resume(f->wire);
	wait_true(f, &f->ended);
	assert_int_equal(f->read, SOME);
	assert_false(f->wrong);
	upgrade_close(f);
	raw_close(&raw);
	free(much);
	fixture_close(f);
}

/* What the server has written leaves, then the connection ends. */
static void upgrade_server_ends(void **state)
{
	struct fixture *f = fixture_open(NULL);
	static char much[900000];
	struct raw raw;
	size_t before;

	(void)state;
	for (size_t i = 0; i < sizeof(much); i++)
		much[i] = byte_at(i);
	upgraded(f, &raw);
	before = raw.got;
	assert_int_equal(wire_write(f->wire, much, sizeof(much), NULL), 0);
	upgrade_close(f);
	wait_true(f, &raw.ended);
	assert_int_equal(raw.got - before, sizeof(much));
	assert_int_equal(memcmp(raw.in.data + raw.in.len - sizeof(much), much, sizeof(much)), 0);
	raw_close(&raw);
	wait_connections(f, 0);
	fixture_close(f);
}

/* A client that takes none of the last bytes is let go of. */
static void upgrade_nobody_reads(void **state)
{
	const struct http_config changes = {.receive_ms = 500};
	struct fixture *f = fixture_open(&changes);
	static char much[1000000];
	struct raw raw;

	(void)state;
	upgraded(f, &raw);
	(void)uv_poll_stop(&raw.poll);
	for (unsigned i = 0; i < 8 && !wire_full(f->wire); i++)
		(void)wire_write(f->wire, much, sizeof(much), NULL);
	upgrade_close(f);
	wait_connections(f, 0);
	raw_close(&raw);
	fixture_close(f);
}

/* The server closes under an upgraded connection, whose reader sees the end. */
static void upgrade_server_closes(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw;

	(void)state;
	upgraded(f, &raw);
	http_server_close(f->server, server_is_closed, f);
	f->server = NULL;
	wait_true(f, &f->server_closed);
	wait_true(f, &f->ended);
	upgrade_close(f);
	wait_true(f, &raw.ended);
	raw_close(&raw);
	fixture_close(f);
}

static size_t resident_kib(void)
{
	cleanup(buf_done) struct buf text;
	const char *at;

	buf_init(&text, LIMIT_FILE);
	assert_int_equal(file_read("/proc/self/status", &text, NULL), 0);
	at = strstr(text.data, "VmRSS:");
	assert_non_null(at);
	return strtoul(at + 6, NULL, 10);
}

/* Client and server are one process here: both ends together must stay under what the server alone
 * may take. */
static void thousand_idle(void **state)
{
	enum { ALL = 1000 };
	struct fixture *f = fixture_open(NULL);
	struct raw *raws = xcalloc(ALL, sizeof(*raws));
	struct rlimit files;
	size_t before, after;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	if (files.rlim_cur < 2 * ALL + 100)
		skip();
	wants(f, SERVER_NAME, "user:admin admin 127.0.0.1");
	before = resident_kib();
	for (size_t i = 0; i < ALL - 1; i++) {
		raw_open(f, &raws[i], &certificates[ADMIN]);
		raw_send(&raws[i], "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
		raw_expect(&raws[i], "user:admin");
	}
	assert_int_equal(http_server_connections(f->server), ALL);
	after = resident_kib();
	print_message("%d idle connections: %zu KiB each for both ends\n", ALL,
	              (after - before) / ALL);
#ifndef __SANITIZE_ADDRESS__
	assert_true(after - before < 2u * 64 * 1024);
#endif
	for (size_t i = 0; i < ALL - 1; i++)
		raw_close(&raws[i]);
	free(raws);
	fixture_close(f);
}

static int make_all(void **state)
{
	struct tls_identity expired = a_user("expired", TLS_ADMIN);

	(void)state;
	expired.not_after_ms = clock_wall_ms() - DAY_MS;
	authority(CLUSTER, &cas[0]);
	authority(CLUSTER, &cas[1]);
	authority(ELSE, &cas[2]);
	certificate(&cas[0], a_node(TLS_SERVER, 1), &own);
	certificate(&cas[0], a_node(TLS_SERVER, 9), &renewed);
	certificate(&cas[0], a_user("admin", TLS_ADMIN), &certificates[ADMIN]);
	certificate(&cas[0], a_user("viewer", TLS_VIEWER), &certificates[VIEWER]);
	certificate(&cas[0], a_node(TLS_SERVER, 2), &certificates[SERVER]);
	certificate(&cas[0], a_node(TLS_WORKER, 3), &certificates[WORKER]);
	certificate(&cas[0], expired, &certificates[EXPIRED]);
	certificate(&cas[1], a_user("admin", TLS_ADMIN), &certificates[OTHER_CA]);
	certificate(&cas[2], a_user("admin", TLS_ADMIN), &certificates[OTHER_CLUSTER]);
	return 0;
}

static int forget_all(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_size(cas); i++)
		tls_pem_done(&cas[i]);
	for (size_t i = 0; i < array_size(certificates); i++)
		tls_pem_done(&certificates[i]);
	tls_pem_done(&own);
	tls_pem_done(&renewed);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(who_gets_in),
		cmocka_unit_test(no_tls),
		cmocka_unit_test(half_handshake),
		cmocka_unit_test(whom_we_believe),
		cmocka_unit_test(expired_server),
		cmocka_unit_test(environment),
		cmocka_unit_test(rotation),
		cmocka_unit_test(long_poll),
		cmocka_unit_test(many_waiting),
		cmocka_unit_test(streams),
		cmocka_unit_test(slow_clients),
		cmocka_unit_test(too_many),
		cmocka_unit_test(upgrade_client_ends),
		cmocka_unit_test(upgrade_slow_reader),
		cmocka_unit_test(upgrade_server_ends),
		cmocka_unit_test(upgrade_nobody_reads),
		cmocka_unit_test(upgrade_server_closes),
		cmocka_unit_test(thousand_idle),
	};

	return cmocka_run_group_tests_name("http over TLS", tests, make_all, forget_all);
}
