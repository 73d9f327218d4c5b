/* TLS sessions as pumps: two of them, joined by a loopback connection, on one loop. */
#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "tls/session.h"
#include "tls_world.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <uv.h>

#define DEADLINE_MS 30000
#define BIG         (8u << 20)

/* One owner: what its session told it, what it sends and what it got. */
struct end {
	struct tls_session *session;
	int fd; /* -1: not opened, or closed by us */
	unsigned n_opened;
	unsigned n_closed;
	bool anonymous;
	struct tls_identity peer;
	int status;
	char reason[40];
	const char *deny; /* a serial */
	bool close_at_once;
	size_t to_send; /* bytes of the pattern */
	size_t sent;
	size_t got;
	bool wrong; /* a byte that is not the pattern's */
	bool ended;
};

struct world {
	uv_loop_t loop;
	struct tls_pem ca;
	struct tls_pem other;
	struct end server;
	struct end client;
	int net[2]; /* the sockets, while they are ours */
};

static char pattern(size_t at)
{
	return (char)(at * 31 + (at >> 8) * 7 + (at >> 16));
}

static bool on_denied(void *data, const struct tls_identity *peer)
{
	const struct end *e = data;

	return e->deny != NULL && strcmp(e->deny, peer->serial) == 0;
}

static void on_opened(void *data, int fd, const struct tls_identity *peer)
{
	struct end *e = data;

	assert_int_equal(e->n_opened + e->n_closed, 0);
	e->n_opened++;
	e->fd = fd;
	e->anonymous = peer == NULL;
	if (peer != NULL)
		e->peer = *peer;
	if (e->close_at_once)
		tls_session_close(e->session);
}

static void on_closed(void *data, int status, const struct blix_error *err)
{
	struct end *e = data;

	assert_int_equal(e->n_closed, 0);
	assert_true((status == 0) == (err == NULL));
	e->n_closed++;
	e->status = status;
	e->session = NULL;
	if (err != NULL)
		(void)snprintf(e->reason, sizeof(e->reason), "%s", blix_error_reason(err));
}

static const struct tls_session_events events = {on_denied, on_opened, on_closed};

static void on_wake(uv_timer_t *timer)
{
	(void)timer;
}

/* Runs the loop until the condition holds; the timer only bounds a failing test. */
#define wait_for(w, condition)                                                                     \
	do {                                                                                       \
		uv_timer_t wake_;                                                                  \
		uint64_t since_ = clock_boot_ms();                                                 \
		assert_int_equal(uv_timer_init(&(w)->loop, &wake_), 0);                            \
		assert_int_equal(uv_timer_start(&wake_, on_wake, 5, 5), 0);                        \
		while (!(condition) && clock_boot_ms() - since_ < DEADLINE_MS)                     \
			(void)uv_run(&(w)->loop, UV_RUN_ONCE);                                     \
		uv_close((uv_handle_t *)&wake_, NULL);                                             \
		(void)uv_run(&(w)->loop, UV_RUN_NOWAIT);                                           \
		if (!(condition))                                                                  \
			fail_msg("never came true: %s", #condition);                               \
	} while (0)

static void connect_pair(int ret[2])
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t n = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
	ret[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(ret[1], (struct sockaddr *)&address, sizeof(address)), 0);
	ret[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(ret[0] >= 0);
	(void)close(listener);
}

static void world_init(struct world *w)
{
	memset(w, 0, sizeof(*w));
	assert_int_equal(uv_loop_init(&w->loop), 0);
	tls_world_ca(TLS_WORLD, &w->ca);
	tls_world_ca(TLS_OTHER, &w->other);
	w->server.fd = w->client.fd = w->net[0] = w->net[1] = -1;
}

/* Takes the credentials. */
static void open_end(struct world *w, struct end *e, struct tls_session_config config, int fd,
                     struct tls_credentials *c)
{
	struct blix_error err;

	config.loop = &w->loop;
	config.credentials = c;
	if (tls_session_open(&config, fd, &events, e, &e->session, &err) != 0)
		fail_msg("open: %s", err.text);
	assert_int_equal(e->n_opened + e->n_closed, 0);
	credentials_free(c);
}

static void open_both(struct world *w, struct tls_session_config server, struct tls_credentials *sc,
                      struct tls_session_config client, struct tls_credentials *cc)
{
	connect_pair(w->net);
	server.server = true;
	open_end(w, &w->server, server, w->net[0], sc);
	open_end(w, &w->client, client, w->net[1], cc);
	w->net[0] = w->net[1] = -1;
}

static void open_good(struct world *w)
{
	open_both(w, (struct tls_session_config){0}, tls_world_node(&w->ca, TLS_SERVER, 1),
	          (struct tls_session_config){0}, tls_world_node(&w->ca, TLS_WORKER, 2));
	wait_for(w, w->server.n_opened == 1 && w->client.n_opened == 1);
}

/* Sends and takes what goes at once. Returns true. */
static bool move(struct end *e)
{
	static char bytes[65536];
	ssize_t n;

	if (e->fd < 0)
		return true;
	while (e->sent < e->to_send) {
		size_t want =
			e->to_send - e->sent < sizeof(bytes) ? e->to_send - e->sent : sizeof(bytes);

		for (size_t i = 0; i < want; i++)
			bytes[i] = pattern(e->sent + i);
		n = send(e->fd, bytes, want, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n <= 0)
			break;
		e->sent += (size_t)n;
	}
	return true;
}

static bool receive(struct end *e)
{
	static char bytes[65536];
	ssize_t n;

	while (e->fd >= 0 && !e->ended &&
	       (n = recv(e->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) >= 0) {
		e->ended = n == 0;
		for (ssize_t i = 0; i < n; i++)
			e->wrong = e->wrong || bytes[i] != pattern(e->got + (size_t)i);
		e->got += (size_t)n;
	}
	return true;
}

static void leave(struct end *e)
{
	closep(&e->fd);
	e->fd = -1;
}

static void world_done(struct world *w)
{
	struct end *ends[] = {&w->server, &w->client};

	for (size_t i = 0; i < array_size(ends); i++) {
		leave(ends[i]);
		closep(&w->net[i]);
		if (ends[i]->session != NULL)
			tls_session_close(ends[i]->session);
	}
	wait_for(w, w->server.session == NULL && w->client.session == NULL);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	tls_pem_done(&w->ca);
	tls_pem_done(&w->other);
}

static void both_ways(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w);
	assert_int_equal(w.server.peer.kind, TLS_WORKER);
	assert_int_equal(w.server.peer.node, 2);
	assert_int_equal(w.client.peer.kind, TLS_SERVER);
	assert_string_equal(w.client.peer.cluster, TLS_WORLD);
	w.server.to_send = w.client.to_send = BIG;
	wait_for(&w, move(&w.server) && move(&w.client) && receive(&w.server) &&
	                     receive(&w.client) && w.server.got == BIG && w.client.got == BIG);
	assert_false(w.server.wrong || w.client.wrong);
	leave(&w.client);
	wait_for(&w, receive(&w.server) && w.server.ended);
	assert_int_equal(w.client.n_closed, 0); /* the other still may write */
	leave(&w.server);
	wait_for(&w, w.server.n_closed == 1 && w.client.n_closed == 1);
	assert_int_equal(w.server.status, 0);
	assert_int_equal(w.client.status, 0);
	world_done(&w);
}

/* A reader that does not read stops the writer, long before BIG; one that goes on gets it all. */
static void slow_reader(void **state)
{
	struct world w;
	size_t before;
	unsigned still = 0;

	(void)state;
	world_init(&w);
	open_good(&w);
	w.client.to_send = 8 * BIG;
	for (before = 1; still < 20; before = w.client.sent) {
		(void)move(&w.client);
		(void)uv_run(&w.loop, UV_RUN_NOWAIT);
		still = w.client.sent == before ? still + 1 : 0;
	}
	assert_true(w.client.sent > 0);
	assert_true(w.client.sent < 8 * BIG);
	/* The other direction is not held up by this one. */
	w.server.to_send = 1000;
	wait_for(&w, move(&w.server) && receive(&w.client) && w.client.got == 1000);
	wait_for(&w, move(&w.client) && receive(&w.server) && w.server.got == 8 * BIG);
	assert_false(w.server.wrong || w.client.wrong);
	world_done(&w);
}

static void half_close(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w);
	w.client.to_send = 100000;
	wait_for(&w, move(&w.client) && receive(&w.server) && w.client.sent == 100000);
	assert_int_equal(shutdown(w.client.fd, SHUT_WR), 0);
	wait_for(&w, receive(&w.server) && w.server.ended);
	assert_int_equal(w.server.got, 100000);
	w.server.to_send = BIG;
	wait_for(&w, move(&w.server) && receive(&w.client) && w.client.got == BIG);
	assert_false(w.client.ended);
	assert_int_equal(w.client.n_closed + w.server.n_closed, 0);
	assert_int_equal(shutdown(w.server.fd, SHUT_WR), 0);
	wait_for(&w, receive(&w.client) && w.client.ended);
	wait_for(&w, w.client.n_closed == 1 && w.server.n_closed == 1);
	assert_int_equal(w.client.status, 0);
	assert_int_equal(w.server.status, 0);
	assert_false(w.server.wrong || w.client.wrong);
	world_done(&w);
}

/* One end writes and closes at once, and so does the other, who has not read: nothing that was
 * written before is lost on the way to who reads. */
static void last_bytes(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w);
	w.server.to_send = w.client.to_send = 60000;
	assert_true(move(&w.server) && move(&w.client));
	assert_int_equal(w.client.sent, 60000);
	leave(&w.client);
	wait_for(&w, receive(&w.server) && w.server.ended);
	assert_int_equal(w.server.got, 60000);
	assert_false(w.server.wrong);
	leave(&w.server);
	wait_for(&w, w.server.n_closed == 1 && w.client.n_closed == 1);
	assert_int_equal(w.client.status, 0);
	world_done(&w);
}

/* A client of GnuTLS's own that takes any server: what it shows is the server's to judge. */
struct raw {
	gnutls_session_t gnutls;
	gnutls_certificate_credentials_t credentials;
	int fd;
	bool shook;
	bool refused; /* by an alert */
	bool ended;
};

static void raw_open(struct raw *r, int fd, const struct tls_pem *own, const char *priorities)
{
	gnutls_datum_t cert, key;

	*r = (struct raw){.fd = fd};
	assert_int_equal(gnutls_init(&r->gnutls, GNUTLS_CLIENT | GNUTLS_NONBLOCK), 0);
	assert_int_equal(gnutls_priority_set_direct(r->gnutls, priorities, NULL), 0);
	assert_int_equal(gnutls_certificate_allocate_credentials(&r->credentials), 0);
	if (own != NULL) {
		cert = (gnutls_datum_t){(unsigned char *)own->cert.data, (unsigned)own->cert.len};
		key = (gnutls_datum_t){(unsigned char *)own->key.data, (unsigned)own->key.len};
		assert_int_equal(gnutls_certificate_set_x509_key_mem(r->credentials, &cert, &key,
		                                                     GNUTLS_X509_FMT_PEM),
		                 0);
	}
	(void)gnutls_credentials_set(r->gnutls, GNUTLS_CRD_CERTIFICATE, r->credentials);
	gnutls_transport_set_int(r->gnutls, fd);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* Shakes hands, says something, and listens for what the server makes of it. Returns true. */
static bool raw_move(struct raw *r)
{
	char byte;
	ssize_t rc;

	if (r->ended)
		return true;
	if (!r->shook) {
		rc = gnutls_handshake(r->gnutls);
		if (rc == 0) {
			r->shook = true;
			(void)gnutls_record_send(r->gnutls, "secret", 6);
		}
	} else {
		rc = gnutls_record_recv(r->gnutls, &byte, 1);
	}
	r->refused = r->refused || rc == GNUTLS_E_FATAL_ALERT_RECEIVED;
	r->ended = (rc < 0 && gnutls_error_is_fatal((int)rc) != 0) || (rc == 0 && !r->shook);
	return true;
}

static void raw_close(struct raw *r)
{
	gnutls_deinit(r->gnutls);
	gnutls_certificate_free_credentials(r->credentials);
	(void)close(r->fd);
}

/* The server refuses whoever shows `own`, and says so; nothing that was sent comes through. */
static void server_refuses(struct world *w, const struct tls_pem *own, bool anonymous,
                           const char *reason)
{
	struct tls_session_config config = {.server = true, .anonymous = anonymous};
	struct raw raw;
	int net[2];

	w->server = (struct end){.fd = -1, .deny = w->server.deny};
	connect_pair(net);
	open_end(w, &w->server, config, net[0], tls_world_node(&w->ca, TLS_SERVER, 1));
	raw_open(&raw, net[1], own, TLS_PRIORITIES);
	wait_for(w, raw_move(&raw) && raw.ended);
	assert_true(raw.refused);
	raw_close(&raw);
	wait_for(w, w->server.n_closed == 1);
	assert_int_equal(w->server.n_opened, 0);
	assert_int_equal(w->server.status, -BLIX_E_DENIED);
	assert_string_equal(w->server.reason, reason);
}

static void clients_refused(void **state)
{
	struct tls_identity who = {.kind = TLS_WORKER, .node = 2, .name = "n2"};
	struct tls_pem own, fake;
	struct tls_identity read;
	struct world w;

	(void)state;
	world_init(&w);
	server_refuses(&w, NULL, false, "no-certificate");
	tls_world_issue(&w.other, who, &own);
	server_refuses(&w, &own, false, "other-cluster");
	server_refuses(&w, &own, true, "other-cluster");
	tls_pem_done(&own);
	/* Another CA that calls itself by the same name. */
	tls_world_ca(TLS_WORLD, &fake);
	tls_world_issue(&fake, who, &own);
	server_refuses(&w, &own, false, "other-ca");
	tls_pem_done(&own);
	tls_pem_done(&fake);
	who.not_after_ms = clock_wall_ms() - 5000;
	tls_world_issue(&w.ca, who, &own);
	server_refuses(&w, &own, false, "certificate-expired");
	tls_pem_done(&own);
	who.not_after_ms = 0;
	tls_world_issue(&w.ca, who, &own);
	assert_int_equal(authority_check(&w.ca.cert, &own.cert, clock_wall_ms(), &read, NULL), 0);
	w.server.deny = read.serial;
	server_refuses(&w, &own, false, "certificate-denied");
	tls_pem_done(&own);
	world_done(&w);
}

/* The client refuses the server that shows `shown` before it has sent anything of its own. */
static void client_refuses(struct world *w, struct tls_credentials *shown,
                           struct tls_session_config config, struct tls_credentials *own,
                           const char *reason)
{
	w->server = w->client = (struct end){.fd = -1};
	open_both(w, (struct tls_session_config){.anonymous = true}, shown, config, own);
	wait_for(w, w->server.n_closed == 1 && w->client.n_closed == 1);
	assert_int_equal(w->client.n_opened + w->server.n_opened, 0);
	assert_int_equal(w->client.status, -BLIX_E_DENIED);
	assert_string_equal(w->client.reason, reason);
	assert_int_equal(w->server.status, -BLIX_E_DENIED);
	assert_string_equal(w->server.reason, "refused-by-peer");
}

static void servers_refused(void **state)
{
	struct tls_identity old = {.kind = TLS_SERVER, .node = 1, .name = "n1"};
	struct tls_identity user = {.kind = TLS_USER, .role = TLS_ADMIN, .name = "eve"};
	struct tls_session_config any = {0};
	char dns[TLS_DNS];
	struct world w;

	(void)state;
	world_init(&w);
	old.not_after_ms = clock_wall_ms() - 5000;
	client_refuses(&w, tls_world_node(&w.other, TLS_SERVER, 1), any,
	               tls_world_node(&w.ca, TLS_SERVER, 2), "other-cluster");
	client_refuses(&w, tls_world_credentials(&w.ca, old), any,
	               tls_world_node(&w.ca, TLS_SERVER, 2), "certificate-expired");
	client_refuses(&w, tls_world_credentials(&w.ca, user), any,
	               tls_world_node(&w.ca, TLS_SERVER, 2), "other-node");
	/* The right cluster, and not the node that was called. */
	tls_dns_name(3, TLS_WORLD, dns);
	client_refuses(&w, tls_world_node(&w.ca, TLS_SERVER, 1),
	               (struct tls_session_config){.expect = dns},
	               tls_world_node(&w.ca, TLS_SERVER, 2), "other-node");
	world_done(&w);
}

static void expected_node(void **state)
{
	char dns[TLS_DNS];
	struct world w;

	(void)state;
	world_init(&w);
	tls_dns_name(1, TLS_WORLD, dns);
	open_both(&w, (struct tls_session_config){0}, tls_world_node(&w.ca, TLS_SERVER, 1),
	          (struct tls_session_config){.expect = dns}, tls_world_node(&w.ca, TLS_WORKER, 2));
	wait_for(&w, w.server.n_opened == 1 && w.client.n_opened == 1);
	assert_int_equal(w.client.peer.node, 1);
	world_done(&w);
}

/* A joiner knows a fingerprint alone, and shows nothing. */
static void pinned(void **state)
{
	char pin[TLS_HASH];
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(authority_fingerprint(&w.other.cert, pin, NULL), 0);
	client_refuses(&w, tls_world_node(&w.ca, TLS_SERVER, 1),
	               (struct tls_session_config){.pin = pin}, NULL, "other-ca");
	assert_int_equal(authority_fingerprint(&w.ca.cert, pin, NULL), 0);
	w.server = w.client = (struct end){.fd = -1};
	open_both(&w, (struct tls_session_config){.anonymous = true},
	          tls_world_node(&w.ca, TLS_SERVER, 1), (struct tls_session_config){.pin = pin},
	          NULL);
	wait_for(&w, w.server.n_opened == 1 && w.client.n_opened == 1);
	assert_true(w.server.anonymous);
	assert_false(w.client.anonymous);
	assert_int_equal(w.client.peer.node, 1);
	w.client.to_send = 1000;
	wait_for(&w, move(&w.client) && receive(&w.server) && w.server.got == 1000);
	world_done(&w);
}

static void no_older_version(void **state)
{
	struct tls_session_config config = {.server = true, .anonymous = true};
	struct world w;
	struct raw raw;
	int net[2];

	(void)state;
	world_init(&w);
	connect_pair(net);
	open_end(&w, &w.server, config, net[0], tls_world_node(&w.ca, TLS_SERVER, 1));
	raw_open(&raw, net[1], NULL, "NORMAL:-VERS-ALL:+VERS-TLS1.2");
	wait_for(&w, raw_move(&raw) && raw.ended);
	assert_true(raw.refused);
	assert_false(raw.shook);
	raw_close(&raw);
	wait_for(&w, w.server.n_closed == 1);
	assert_int_equal(w.server.status, -BLIX_E_UNAVAILABLE);
	world_done(&w);
}

/* What says nothing, or something else, is let go of within the deadline. */
static void no_handshake(void **state)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: blix\r\n\r\n";
	struct tls_session_config config = {.server = true, .deadline_ms = 50};
	struct world w;

	(void)state;
	world_init(&w);
	connect_pair(w.net);
	open_end(&w, &w.server, config, w.net[0], tls_world_node(&w.ca, TLS_SERVER, 1));
	w.net[0] = -1;
	wait_for(&w, w.server.n_closed == 1);
	assert_int_equal(w.server.status, -BLIX_E_TIMEOUT);
	closep(&w.net[1]);
	w.server = (struct end){.fd = -1};
	config.deadline_ms = 0;
	connect_pair(w.net);
	open_end(&w, &w.server, config, w.net[0], tls_world_node(&w.ca, TLS_SERVER, 1));
	w.net[0] = -1;
	assert_int_equal(send(w.net[1], request, strlen(request), 0), strlen(request));
	assert_int_equal(shutdown(w.net[1], SHUT_WR), 0);
	wait_for(&w, w.server.n_closed == 1);
	assert_int_equal(w.server.status, -BLIX_E_UNAVAILABLE);
	closep(&w.net[1]);
	w.net[1] = -1;
	world_done(&w);
}

/* The socket's connect is still under way when the session takes it. */
static void nobody_listens(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t n = sizeof(address);
	struct world w;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	(void)state;
	world_init(&w);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
	(void)connect(fd, (struct sockaddr *)&address, sizeof(address));
	open_end(&w, &w.client, (struct tls_session_config){0}, fd,
	         tls_world_node(&w.ca, TLS_SERVER, 1));
	wait_for(&w, w.client.n_closed == 1);
	assert_int_equal(w.client.status, -BLIX_E_UNAVAILABLE);
	(void)close(listener);
	world_done(&w);
}

/* A connection that ends without a word of TLS is no end: who reads sees one, the status does not.
 */
static void cut_off(void **state)
{
	struct world w;
	int net;

	(void)state;
	world_init(&w);
	connect_pair(w.net);
	net = dup(w.net[1]);
	open_end(&w, &w.server, (struct tls_session_config){.server = true}, w.net[0],
	         tls_world_node(&w.ca, TLS_SERVER, 1));
	open_end(&w, &w.client, (struct tls_session_config){0}, w.net[1],
	         tls_world_node(&w.ca, TLS_WORKER, 2));
	w.net[0] = w.net[1] = -1;
	wait_for(&w, w.server.n_opened == 1 && w.client.n_opened == 1);
	w.client.to_send = 1000;
	wait_for(&w, move(&w.client) && receive(&w.server) && w.server.got == 1000);
	assert_int_equal(shutdown(net, SHUT_RDWR), 0);
	(void)close(net);
	wait_for(&w, w.server.n_closed == 1 && w.client.n_closed == 1);
	assert_int_equal(w.server.status, -BLIX_E_UNAVAILABLE);
	assert_int_equal(w.client.status, -BLIX_E_UNAVAILABLE);
	assert_true(receive(&w.server) && w.server.ended);
	world_done(&w);
}

static void close_in_any_state(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	w.server.close_at_once = true;
	open_both(&w, (struct tls_session_config){0}, tls_world_node(&w.ca, TLS_SERVER, 1),
	          (struct tls_session_config){0}, tls_world_node(&w.ca, TLS_WORKER, 2));
	wait_for(&w, w.server.n_closed == 1 && w.client.n_closed == 1);
	assert_int_equal(w.server.n_opened, 1);
	assert_int_equal(w.server.status, 0);
	leave(&w.server);
	leave(&w.client);
	w.server = w.client = (struct end){.fd = -1};
	open_both(&w, (struct tls_session_config){0}, tls_world_node(&w.ca, TLS_SERVER, 1),
	          (struct tls_session_config){0}, tls_world_node(&w.ca, TLS_WORKER, 2));
	tls_session_close(w.client.session);
	tls_session_close(w.client.session);
	wait_for(&w, w.server.n_closed == 1 && w.client.n_closed == 1);
	assert_int_equal(w.client.n_opened, 0);
	assert_int_equal(w.client.status, 0);
	world_done(&w);
}

/* Credentials are replaced, and then gone, while a session of the old ones goes on. */
static void replaced(void **state)
{
	struct tls_session_config config = {.server = true};
	struct tls_identity who = {.kind = TLS_SERVER, .node = 1, .name = "n1"};
	struct tls_credentials *c;
	char serial[TLS_SERIAL];
	struct tls_pem own;
	struct world w;

	(void)state;
	world_init(&w);
	c = tls_world_credentials(&w.ca, who);
	(void)snprintf(serial, sizeof(serial), "%s", credentials_own(c)->serial);
	connect_pair(w.net);
	config.loop = &w.loop;
	config.credentials = c;
	assert_int_equal(
		tls_session_open(&config, w.net[0], &events, &w.server, &w.server.session, NULL),
		0);
	open_end(&w, &w.client, (struct tls_session_config){0}, w.net[1],
	         tls_world_node(&w.ca, TLS_WORKER, 2));
	w.net[0] = w.net[1] = -1;
	tls_world_issue(&w.ca, who, &own);
	assert_int_equal(credentials_replace(c, &w.ca.cert, &own, NULL), 0);
	tls_pem_done(&own);
	wait_for(&w, w.server.n_opened == 1 && w.client.n_opened == 1);
	assert_string_equal(w.client.peer.serial, serial);
	(void)snprintf(serial, sizeof(serial), "%s", credentials_own(c)->serial);
	leave(&w.client);
	leave(&w.server);
	wait_for(&w, w.server.n_closed == 1 && w.client.n_closed == 1);
	w.server = w.client = (struct end){.fd = -1};
	open_both(&w, (struct tls_session_config){0}, c, (struct tls_session_config){0},
	          tls_world_node(&w.ca, TLS_WORKER, 2));
	wait_for(&w, w.server.n_opened == 1 && w.client.n_opened == 1);
	assert_string_equal(w.client.peer.serial, serial);
	world_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ways),          cmocka_unit_test(slow_reader),
		cmocka_unit_test(half_close),         cmocka_unit_test(last_bytes),
		cmocka_unit_test(clients_refused),    cmocka_unit_test(servers_refused),
		cmocka_unit_test(expected_node),      cmocka_unit_test(pinned),
		cmocka_unit_test(no_older_version),   cmocka_unit_test(no_handshake),
		cmocka_unit_test(nobody_listens),     cmocka_unit_test(cut_off),
		cmocka_unit_test(close_in_any_state), cmocka_unit_test(replaced),
	};

	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
