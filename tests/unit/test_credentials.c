/* What a node shows and checks by: handshakes of GnuTLS over a socket pair, both ends in turn. */
#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/seal.h"
#include "tls/credentials.h"
#include "tls_world.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/socket.h>

/* A server with a new key, certified until `until_ms` (0: a year). */
static void node_make(const struct tls_pem *ca, uint64_t id, uint64_t until_ms, struct tls_pem *ret)
{
	struct tls_identity who = {
		.kind = TLS_SERVER, .node = id, .name = "n", .not_after_ms = until_ms};

	tls_world_issue(ca, who, ret);
}

static struct tls_credentials *credentials(const struct tls_pem *ca, const struct tls_pem *own)
{
	struct tls_credentials *c;
	struct blix_error err;

	if (credentials_open(&ca->cert, own, &c, &err) != 0)
		fail_msg("open: %s", err.text);
	return c;
}

static int on_retrieve(gnutls_session_t session, const gnutls_datum_t *names, int n_names,
                       const gnutls_pk_algorithm_t *algorithms, int n_algorithms,
                       gnutls_pcert_st **ret_certs, unsigned *ret_n, gnutls_privkey_t *ret_key)
{
	(void)names, (void)n_names, (void)algorithms, (void)n_algorithms;
	credentials_show(gnutls_session_get_ptr(session), ret_certs, ret_n, ret_key);
	return 0;
}

struct end {
	gnutls_session_t session;
	gnutls_certificate_credentials_t gnutls;
	int fd;
};

static void end_open(struct end *e, unsigned flags, struct tls_credentials *c, int fd)
{
	assert_int_equal(gnutls_init(&e->session, flags | GNUTLS_NONBLOCK), 0);
	assert_int_equal(gnutls_priority_set_direct(e->session, TLS_PRIORITIES, NULL), 0);
	assert_int_equal(gnutls_certificate_allocate_credentials(&e->gnutls), 0);
	if (c != NULL)
		gnutls_certificate_set_retrieve_function2(e->gnutls, on_retrieve);
	assert_int_equal(gnutls_credentials_set(e->session, GNUTLS_CRD_CERTIFICATE, e->gnutls), 0);
	gnutls_session_set_ptr(e->session, c);
	gnutls_transport_set_int(e->session, fd);
	e->fd = fd;
	if (flags == GNUTLS_SERVER)
		gnutls_certificate_server_set_request(e->session, GNUTLS_CERT_REQUEST);
}

static void end_close(struct end *e)
{
	gnutls_deinit(e->session);
	gnutls_certificate_free_credentials(e->gnutls);
	(void)close(e->fd);
}

/* Both ends in turn until both are done. Between their steps `midway` may change something. */
static void shake_hands(struct end *server, struct end *client)
{
	int a = GNUTLS_E_AGAIN;
	int b = GNUTLS_E_AGAIN;

	for (unsigned i = 0; i < 100 && (a != 0 || b != 0); i++) {
		if (b != 0)
			b = gnutls_handshake(client->session);
		if (a != 0)
			a = gnutls_handshake(server->session);
		assert_true(a == 0 || a == GNUTLS_E_AGAIN);
		assert_true(b == 0 || b == GNUTLS_E_AGAIN);
	}
	assert_int_equal(a, 0);
	assert_int_equal(b, 0);
	assert_int_equal(gnutls_protocol_get_version(client->session), GNUTLS_TLS1_3);
}

/* What the server end makes of the client's certificate, and the client of the server's. */
static void meet(struct tls_credentials *server, struct tls_credentials *client, int *ret_server,
                 int *ret_client, struct tls_identity *ret_seen)
{
	struct end s, c;
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	end_open(&s, GNUTLS_SERVER, server, fd[0]);
	end_open(&c, GNUTLS_CLIENT, client, fd[1]);
	shake_hands(&s, &c);
	*ret_server = credentials_peer(server, s.session, ret_seen, NULL);
	if (client != NULL)
		*ret_client = credentials_peer(client, c.session, ret_seen, NULL);
	end_close(&s);
	end_close(&c);
}

static void peers(void **state)
{
	struct tls_pem ca, other, n1, n2, n3, old;
	struct tls_credentials *c1, *c2, *c3, *expired;
	struct tls_identity seen;
	int a = 1, b = 1;

	(void)state;
	tls_world_ca(TLS_WORLD, &ca);
	tls_world_ca(TLS_OTHER, &other);
	node_make(&ca, 1, 0, &n1);
	node_make(&ca, 2, 0, &n2);
	node_make(&other, 3, 0, &n3);
	node_make(&ca, 4, clock_wall_ms() - 2000, &old);
	c1 = credentials(&ca, &n1);
	c2 = credentials(&ca, &n2);
	c3 = credentials(&other, &n3);
	expired = credentials(&ca, &old);
	assert_int_equal(credentials_own(c2)->node, 2);
	meet(c1, c2, &a, &b, &seen);
	assert_int_equal(a, 0);
	assert_int_equal(b, 0);
	assert_int_equal(seen.node, 1);
	meet(c1, c3, &a, &b, &seen);
	assert_int_equal(a, -BLIX_E_DENIED);
	assert_int_equal(b, -BLIX_E_DENIED);
	meet(c1, expired, &a, &b, &seen);
	assert_int_equal(a, -BLIX_E_DENIED);
	assert_int_equal(b, 0);
	meet(c1, NULL, &a, &b, &seen);
	assert_int_equal(a, -BLIX_E_NOTFOUND);
	credentials_free(c1);
	credentials_free(c2);
	credentials_free(c3);
	credentials_free(expired);
	tls_pem_done(&ca);
	tls_pem_done(&other);
	tls_pem_done(&n1);
	tls_pem_done(&n2);
	tls_pem_done(&n3);
	tls_pem_done(&old);
}

static void only_pairs(void **state)
{
	struct tls_pem ca, other, n1, n2, mixed;
	struct tls_credentials *c;

	(void)state;
	tls_world_ca(TLS_WORLD, &ca);
	tls_world_ca(TLS_OTHER, &other);
	node_make(&ca, 1, 0, &n1);
	node_make(&other, 2, 0, &n2);
	assert_int_equal(credentials_open(&ca.cert, &n2, &c, NULL), -BLIX_E_DENIED);
	assert_int_equal(credentials_open(&n1.cert, &n1, &c, NULL), -BLIX_E_INVALID);
	tls_pem_init(&mixed);
	assert_int_equal(buf_add(&mixed.cert, n1.cert.data, n1.cert.len), 0);
	assert_int_equal(buf_add(&mixed.key, n2.key.data, n2.key.len), 0);
	assert_int_equal(credentials_open(&ca.cert, &mixed, &c, NULL), -BLIX_E_INVALID);
	tls_pem_done(&mixed);
	/* Another cluster's never take the place of these. */
	c = credentials(&ca, &n1);
	assert_int_equal(credentials_replace(c, &other.cert, &n2, NULL), -BLIX_E_REFUSED);
	assert_int_equal(credentials_own(c)->node, 1);
	credentials_free(c);
	tls_pem_done(&ca);
	tls_pem_done(&other);
	tls_pem_done(&n1);
	tls_pem_done(&n2);
}

static void write_files(const char *dir, const struct tls_pem *ca, const struct tls_pem *own)
{
	assert_int_equal(tls_file_write(dir, TLS_FILE_CA, &ca->cert, NULL), 0);
	assert_int_equal(tls_file_write(dir, TLS_FILE_NODE, &own->cert, NULL), 0);
	assert_int_equal(tls_file_write(dir, TLS_FILE_NODE_KEY, &own->key, NULL), 0);
}

/* A handshake that had begun goes on with what it began with; the next shows the new. */
static void rotation(void **state)
{
	char dir[] = "/tmp/blix.XXXXXX";
	struct tls_pem ca, first, second, other;
	struct tls_credentials *c, *peer;
	struct tls_identity seen;
	char serial[TLS_SERIAL];
	struct end s, e;
	int fd[2];
	int a = 1, b = 1;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(credentials_load(dir, &c, NULL), -BLIX_E_NOTFOUND);
	tls_world_ca(TLS_WORLD, &ca);
	node_make(&ca, 1, 0, &first);
	node_make(&ca, 1, 0, &second);
	node_make(&ca, 2, 0, &other);
	write_files(dir, &ca, &first);
	assert_int_equal(credentials_load(dir, &c, NULL), 0);
	(void)snprintf(serial, sizeof(serial), "%s", credentials_own(c)->serial);
	peer = credentials(&ca, &other);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	end_open(&s, GNUTLS_SERVER, c, fd[0]);
	end_open(&e, GNUTLS_CLIENT, peer, fd[1]);
	assert_int_equal(gnutls_handshake(e.session), GNUTLS_E_AGAIN);
	assert_int_equal(gnutls_handshake(s.session), GNUTLS_E_AGAIN);
	write_files(dir, &ca, &second);
	assert_int_equal(credentials_reload(c, dir, NULL), 0);
	assert_string_not_equal(credentials_own(c)->serial, serial);
	shake_hands(&s, &e);
	assert_int_equal(credentials_peer(peer, e.session, &seen, NULL), 0);
	assert_string_equal(seen.serial, serial);
	end_close(&s);
	end_close(&e);
	meet(c, peer, &a, &b, &seen);
	assert_int_equal(b, 0);
	assert_string_equal(seen.serial, credentials_own(c)->serial);
	/* What cannot be taken changes nothing. */
	assert_int_equal(tls_file_write(dir, TLS_FILE_NODE, &other.cert, NULL), 0);
	assert_int_equal(credentials_reload(c, dir, NULL), -BLIX_E_INVALID);
	assert_string_equal(seen.serial, credentials_own(c)->serial);
	credentials_free(c);
	credentials_free(peer);
	tls_pem_done(&ca);
	tls_pem_done(&first);
	tls_pem_done(&second);
	tls_pem_done(&other);
	assert_int_equal(file_remove_tree(dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(peers),
		cmocka_unit_test(only_pairs),
		cmocka_unit_test(rotation),
	};

	return cmocka_run_group_tests_name("credentials", tests, NULL, NULL);
}
