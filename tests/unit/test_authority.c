/* The CA of a cluster: what it signs says who somebody is, and nothing else does. */
#include "base/alloc.h"
#include "sys/file.h"
#include "sys/seal.h"
#include "tls/authority.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#define NOW_MS  1800000000000ULL
#define DAY_MS  86400000ULL
#define CLUSTER "00112233445566778899aabbccddeeff"
#define OTHER   "ff112233445566778899aabbccddeeff"

struct world {
	struct tls_pem ca;
	struct buf key, request;
};

static void world_init(struct world *w)
{
	assert_int_equal(authority_make(CLUSTER, NOW_MS, &w->ca, NULL), 0);
	assert_int_equal(tls_key_make(&w->key, NULL), 0);
	assert_int_equal(tls_request_make(&w->key, &w->request, NULL), 0);
}

static void world_done(struct world *w)
{
	tls_pem_done(&w->ca);
	seal_wipe(&w->key);
	buf_done(&w->request);
}

static struct tls_identity node(enum tls_kind kind, uint64_t id, const char *name)
{
	struct tls_identity who = {.kind = kind, .node = id};

	(void)snprintf(who.name, sizeof(who.name), "%s", name);
	return who;
}

static struct tls_identity user(enum tls_role role, const char *name)
{
	struct tls_identity who = {.kind = TLS_USER, .role = role};

	(void)snprintf(who.name, sizeof(who.name), "%s", name);
	return who;
}

static void issue(struct world *w, struct tls_identity *who, struct buf *ret)
{
	struct blix_error err;

	if (authority_issue(&w->ca, &w->request, NOW_MS, who, ret, &err) != 0)
		fail_msg("issue: %s", err.text);
}

static void round_trip(struct world *w, struct tls_identity who)
{
	struct tls_identity read;
	struct buf cert;

	issue(w, &who, &cert);
	assert_string_equal(who.cluster, CLUSTER);
	assert_int_equal(strlen(who.serial), 32);
	assert_int_equal(authority_check(&w->ca.cert, &cert, NOW_MS, &read, NULL), 0);
	assert_string_equal(read.cluster, CLUSTER);
	assert_int_equal(read.kind, who.kind);
	assert_int_equal(read.node, who.node);
	assert_string_equal(read.name, who.name);
	assert_int_equal(read.role, who.role);
	assert_string_equal(read.serial, who.serial);
	assert_int_equal(read.not_after_ms, who.not_after_ms);
	buf_done(&cert);
}

static void identities(void **state)
{
	struct tls_identity first = node(TLS_SERVER, 1, "n1");
	struct tls_identity second = node(TLS_SERVER, 1, "n1");
	struct buf cert;
	struct world w;

	(void)state;
	world_init(&w);
	round_trip(&w, node(TLS_SERVER, 1, "n1"));
	round_trip(&w, node(TLS_WORKER, TLS_NODE, "rack-4-slot-17"));
	round_trip(&w, user(TLS_VIEWER, "eve"));
	round_trip(&w, user(TLS_OPERATOR, "otto"));
	round_trip(&w, user(TLS_ADMIN, "ada"));
	issue(&w, &first, &cert);
	buf_done(&cert);
	issue(&w, &second, &cert);
	buf_done(&cert);
	assert_string_not_equal(first.serial, second.serial);
	assert_int_equal(first.not_after_ms, NOW_MS + 365 * DAY_MS);
	world_done(&w);
}

static void subjects_refused(void **state)
{
	const struct tls_identity bad[] = {
		node(TLS_SERVER, 0, "n1"),
		node(TLS_WORKER, TLS_NODE + 1, "n1"),
		node(TLS_SERVER, 1, "N1"),
		node(TLS_SERVER, 1, ""),
		node(TLS_SERVER, 1, "a.b"),
		user(TLS_NO_ROLE, "eve"),
		{.kind = TLS_USER, .node = 1, .role = TLS_ADMIN, .name = "eve"},
		{.kind = TLS_SERVER, .node = 1, .role = TLS_ADMIN, .name = "n1"},
	};
	struct world w;
	struct buf cert;

	(void)state;
	world_init(&w);
	for (size_t i = 0; i < array_size(bad); i++) {
		struct tls_identity who = bad[i];

		assert_true(authority_issue(&w.ca, &w.request, NOW_MS, &who, &cert, NULL) < 0);
	}
	world_done(&w);
}

static void check(const struct buf *ca, const struct buf *cert, uint64_t now_ms, const char *reason)
{
	struct tls_identity read = {.node = 7};
	struct blix_error err;

	assert_int_equal(authority_check(ca, cert, now_ms, &read, &err), -BLIX_E_DENIED);
	assert_string_equal(blix_error_reason(&err), reason);
	assert_int_equal(read.node, 7);
}

static void dates(void **state)
{
	struct tls_identity who = node(TLS_WORKER, 5, "n5");
	struct tls_identity read;
	struct world w;
	struct buf cert;

	(void)state;
	world_init(&w);
	who.not_after_ms = NOW_MS + DAY_MS;
	issue(&w, &who, &cert);
	assert_int_equal(who.not_after_ms, NOW_MS + DAY_MS);
	check(&w.ca.cert, &cert, NOW_MS + DAY_MS + 1000, "certificate-expired");
	assert_int_equal(authority_check(&w.ca.cert, &cert, NOW_MS + DAY_MS, &read, NULL), 0);
	/* A clock that is a day behind the CA's. */
	assert_int_equal(authority_check(&w.ca.cert, &cert, NOW_MS - DAY_MS, &read, NULL), 0);
	check(&w.ca.cert, &cert, NOW_MS - 3 * DAY_MS, "certificate-early");
	buf_done(&cert);
	/* Nothing outlives the CA. */
	who = node(TLS_WORKER, 5, "n5");
	who.not_after_ms = NOW_MS + 40 * 365 * DAY_MS;
	issue(&w, &who, &cert);
	assert_int_equal(who.not_after_ms, NOW_MS + 30 * 365 * DAY_MS);
	buf_done(&cert);
	world_done(&w);
}

static void other_authorities(void **state)
{
	struct tls_identity who = node(TLS_SERVER, 1, "n1");
	struct tls_pem same_name, other, mixed;
	struct blix_error err;
	struct world w;
	struct buf cert;

	(void)state;
	world_init(&w);
	assert_int_equal(authority_make(CLUSTER, NOW_MS, &same_name, NULL), 0);
	assert_int_equal(authority_make(OTHER, NOW_MS, &other, NULL), 0);
	issue(&w, &who, &cert);
	check(&other.cert, &cert, NOW_MS, "other-cluster");
	check(&same_name.cert, &cert, NOW_MS, "other-ca");
	buf_done(&cert);
	/* The CA's own certificate is nobody's. */
	check(&w.ca.cert, &w.ca.cert, NOW_MS, "certificate-form");
	/* A key of another CA does not sign for this one. */
	tls_pem_init(&mixed);
	assert_int_equal(buf_add(&mixed.cert, w.ca.cert.data, w.ca.cert.len), 0);
	assert_int_equal(buf_add(&mixed.key, same_name.key.data, same_name.key.len), 0);
	assert_true(authority_issue(&mixed, &w.request, NOW_MS, &who, &cert, &err) < 0);
	/* A certificate is no CA, and a text is no certificate. */
	issue(&w, &who, &cert);
	assert_int_equal(authority_check(&cert, &cert, NOW_MS, &who, &err), -BLIX_E_INVALID);
	assert_int_equal(authority_check(&w.ca.cert, &w.key, NOW_MS, &who, &err), -BLIX_E_INVALID);
	buf_done(&cert);
	tls_pem_done(&mixed);
	tls_pem_done(&same_name);
	tls_pem_done(&other);
	world_done(&w);
}

/* What only a CA gone wrong would sign, each with one thing that our own never does. */
struct strange {
	const char *organization, *name, *unit, *dns, *dns2;
	unsigned n_serial;
};

static void sign_strange(struct world *w, const struct strange *s, struct buf *ret)
{
	static const unsigned char serial[20] = {1, 2, 3, 4, 5, 6, 7, 8};
	gnutls_x509_crt_t ca, crt;
	gnutls_x509_privkey_t key;
	gnutls_datum_t text = {(unsigned char *)w->ca.cert.data, (unsigned)w->ca.cert.len};

	assert_int_equal(gnutls_x509_crt_init(&ca), 0);
	assert_int_equal(gnutls_x509_crt_import(ca, &text, GNUTLS_X509_FMT_PEM), 0);
	assert_int_equal(gnutls_x509_privkey_init(&key), 0);
	text = (gnutls_datum_t){(unsigned char *)w->ca.key.data, (unsigned)w->ca.key.len};
	assert_int_equal(gnutls_x509_privkey_import(key, &text, GNUTLS_X509_FMT_PEM), 0);
	assert_int_equal(gnutls_x509_crt_init(&crt), 0);
	(void)gnutls_x509_crt_set_version(crt, 3);
	(void)gnutls_x509_crt_set_key(crt, key);
	(void)gnutls_x509_crt_set_serial(crt, serial, s->n_serial);
	(void)gnutls_x509_crt_set_activation_time(crt, (time_t)(NOW_MS / 1000 - 60));
	(void)gnutls_x509_crt_set_expiration_time(crt, (time_t)(NOW_MS / 1000 + 60));
	(void)gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_ORGANIZATION_NAME, 0,
	                                    s->organization, (unsigned)strlen(s->organization));
	(void)gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, s->name,
	                                    (unsigned)strlen(s->name));
	if (s->unit != NULL)
		(void)gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME,
		                                    0, s->unit, (unsigned)strlen(s->unit));
	if (s->dns != NULL)
		(void)gnutls_x509_crt_set_subject_alt_name(
			crt, GNUTLS_SAN_DNSNAME, s->dns, (unsigned)strlen(s->dns), GNUTLS_FSAN_SET);
	if (s->dns2 != NULL)
		(void)gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, s->dns2,
		                                           (unsigned)strlen(s->dns2),
		                                           GNUTLS_FSAN_APPEND);
	assert_int_equal(gnutls_x509_crt_sign2(crt, ca, key, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &text), 0);
	buf_init(ret, LIMIT_PEM);
	assert_int_equal(buf_add(ret, text.data, text.size), 0);
	gnutls_free(text.data);
	gnutls_x509_crt_deinit(crt);
	gnutls_x509_crt_deinit(ca);
	gnutls_x509_privkey_deinit(key);
}

static void strange_forms(void **state)
{
	static const struct strange bad[] = {
		{"blix:king", "n1", NULL, "n1." CLUSTER ".blix", NULL, 16},
		{"blix:server", "n1", "admin", "n1." CLUSTER ".blix", NULL, 16},
		{"blix:server", "n1", NULL, NULL, NULL, 16},
		{"blix:server", "n1", NULL, "n1." OTHER ".blix", NULL, 16},
		{"blix:server", "n1", NULL, "n0." CLUSTER ".blix", NULL, 16},
		{"blix:server", "n1", NULL, "n01." CLUSTER ".blix", NULL, 16},
		{"blix:server", "n1", NULL, "n4503599627370496." CLUSTER ".blix", NULL, 16},
		{"blix:server", "n1", NULL, "*." CLUSTER ".blix", NULL, 16},
		{"blix:server", "n1", NULL, "n1." CLUSTER ".blix.org", NULL, 16},
		{"blix:server", "n1", NULL, "n1." CLUSTER ".blix", "n2." CLUSTER ".blix", 16},
		{"blix:server", "n1", NULL, "n1." CLUSTER ".blix", NULL, 8},
		{"blix:server", "n1", NULL, "n1." CLUSTER ".blix", NULL, 20},
		{"blix:server", "n 1", NULL, "n1." CLUSTER ".blix", NULL, 16},
		{"blix:user", "eve", NULL, NULL, NULL, 16},
		{"blix:user", "eve", "emperor", NULL, NULL, 16},
	};
	static const struct strange good = {"blix:server",         "n1", NULL,
	                                    "n1." CLUSTER ".blix", NULL, 16};
	struct tls_identity read;
	struct world w;
	struct buf cert;

	(void)state;
	world_init(&w);
	sign_strange(&w, &good, &cert);
	assert_int_equal(authority_check(&w.ca.cert, &cert, NOW_MS, &read, NULL), 0);
	buf_done(&cert);
	for (size_t i = 0; i < array_size(bad); i++) {
		sign_strange(&w, &bad[i], &cert);
		check(&w.ca.cert, &cert, NOW_MS, "certificate-form");
		buf_done(&cert);
	}
	world_done(&w);
}

/* A request of another kind of key, with a name in it or not. */
static void request_of(gnutls_pk_algorithm_t algorithm, unsigned bits, const char *name,
                       struct buf *ret)
{
	gnutls_x509_privkey_t key;
	gnutls_x509_crq_t crq;
	gnutls_datum_t text;

	assert_int_equal(gnutls_x509_privkey_init(&key), 0);
	assert_int_equal(gnutls_x509_privkey_generate(key, algorithm, bits, 0), 0);
	assert_int_equal(gnutls_x509_crq_init(&crq), 0);
	(void)gnutls_x509_crq_set_version(crq, 1);
	if (name != NULL) {
		(void)gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, name,
		                                    (unsigned)strlen(name));
		(void)gnutls_x509_crq_set_subject_alt_name(crq, GNUTLS_SAN_DNSNAME, name,
		                                           (unsigned)strlen(name), GNUTLS_FSAN_SET);
	}
	assert_int_equal(gnutls_x509_crq_set_key(crq, key), 0);
	assert_int_equal(gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &text), 0);
	buf_init(ret, LIMIT_PEM);
	assert_int_equal(buf_add(ret, text.data, text.size), 0);
	gnutls_free(text.data);
	gnutls_x509_crq_deinit(crq);
	gnutls_x509_privkey_deinit(key);
}

static void refuse_request(struct world *w, const struct buf *request)
{
	struct tls_identity who = node(TLS_SERVER, 1, "n1");
	char hash[TLS_HASH];
	struct buf cert;

	assert_int_equal(authority_issue(&w->ca, request, NOW_MS, &who, &cert, NULL),
	                 -BLIX_E_INVALID);
	assert_int_equal(tls_request_hash(request, hash, NULL), -BLIX_E_INVALID);
}

static void requests(void **state)
{
	struct tls_identity who = node(TLS_WORKER, 9, "n9");
	struct tls_identity read;
	char first[TLS_HASH], second[TLS_HASH];
	gnutls_datum_t der, text;
	struct buf request, cert;
	struct world w;

	(void)state;
	world_init(&w);
	/* Names in a request count for nothing. */
	request_of(GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), "root",
	           &request);
	assert_int_equal(authority_issue(&w.ca, &request, NOW_MS, &who, &cert, NULL), 0);
	assert_int_equal(authority_check(&w.ca.cert, &cert, NOW_MS, &read, NULL), 0);
	assert_string_equal(read.name, "n9");
	assert_int_equal(tls_request_hash(&request, second, NULL), 0);
	buf_done(&request);
	buf_done(&cert);
	/* The same key is the same joiner. */
	assert_int_equal(tls_request_hash(&w.request, first, NULL), 0);
	assert_string_not_equal(first, second);
	assert_int_equal(tls_request_make(&w.key, &request, NULL), 0);
	assert_int_equal(tls_request_hash(&request, second, NULL), 0);
	assert_string_equal(first, second);
	buf_done(&request);
	request_of(GNUTLS_PK_RSA, 2048, NULL, &request);
	refuse_request(&w, &request);
	buf_done(&request);
	request_of(GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP384R1), NULL,
	           &request);
	refuse_request(&w, &request);
	buf_done(&request);
	refuse_request(&w, &w.key);
	buf_init(&request, 64);
	refuse_request(&w, &request);
	buf_done(&request);
	/* A signature that was changed: the last byte of the request. */
	text = (gnutls_datum_t){(unsigned char *)w.request.data, (unsigned)w.request.len};
	assert_int_equal(gnutls_pem_base64_decode2("NEW CERTIFICATE REQUEST", &text, &der), 0);
	der.data[der.size - 1] ^= 1;
	assert_int_equal(gnutls_pem_base64_encode2("NEW CERTIFICATE REQUEST", &der, &text), 0);
	buf_init(&request, LIMIT_PEM);
	assert_int_equal(buf_add(&request, text.data, text.size), 0);
	refuse_request(&w, &request);
	buf_done(&request);
	gnutls_free(der.data);
	gnutls_free(text.data);
	world_done(&w);
}

static void names(void **state)
{
	struct blix_error err;
	struct tls_pem ca, again;
	char id[TLS_CLUSTER], id2[TLS_CLUSTER], print[TLS_HASH], print2[TLS_HASH], dns[TLS_DNS];
	enum tls_role role;

	(void)state;
	assert_int_equal(tls_cluster_make(id, NULL), 0);
	assert_int_equal(tls_cluster_make(id2, NULL), 0);
	assert_true(tls_cluster_valid(id));
	assert_string_not_equal(id, id2);
	assert_false(tls_cluster_valid(""));
	assert_false(tls_cluster_valid(CLUSTER "0"));
	assert_false(tls_cluster_valid("0011223344556677 899aabbccddeeff"));
	assert_int_equal(authority_make("one", NOW_MS, &ca, &err), -BLIX_E_SPEC);
	tls_dns_name(TLS_NODE, CLUSTER, dns);
	assert_string_equal(dns, "n4503599627370495." CLUSTER ".blix");
	assert_true(tls_role_find("operator", &role));
	assert_int_equal(role, TLS_OPERATOR);
	assert_false(tls_role_find("", &role));
	assert_int_equal(authority_make(id, NOW_MS, &ca, NULL), 0);
	assert_int_equal(authority_make(id, NOW_MS, &again, NULL), 0);
	assert_int_equal(authority_fingerprint(&ca.cert, print, NULL), 0);
	assert_int_equal(authority_fingerprint(&again.cert, print2, NULL), 0);
	assert_int_equal(strlen(print), 64);
	assert_string_not_equal(print, print2);
	tls_pem_done(&ca);
	tls_pem_done(&again);
}

static void files(void **state)
{
	char dir[] = "/tmp/blix.XXXXXX";
	cleanup(freep) char *path = NULL;
	struct buf read;
	struct stat st;
	struct world w;

	(void)state;
	world_init(&w);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(tls_file_read(dir, TLS_FILE_CA, &read, NULL), -BLIX_E_NOTFOUND);
	assert_int_equal(tls_file_write(dir, TLS_FILE_CA, &w.ca.cert, NULL), 0);
	assert_int_equal(tls_file_write(dir, TLS_FILE_NODE_KEY, &w.key, NULL), 0);
	assert_int_equal(tls_file_read(dir, TLS_FILE_CA, &read, NULL), 0);
	assert_string_equal(read.data, w.ca.cert.data);
	buf_done(&read);
	assert_int_equal(tls_file_read(dir, TLS_FILE_NODE_KEY, &read, NULL), 0);
	assert_string_equal(read.data, w.key.data);
	seal_wipe(&read);
	path = tls_file_path(dir, TLS_FILE_NODE_KEY);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(chmod(path, 0640), 0);
	assert_int_equal(tls_file_read(dir, TLS_FILE_NODE_KEY, &read, NULL), -BLIX_E_DENIED);
	*strrchr(path, '/') = '\0';
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(file_remove_tree(dir, NULL), 0);
	world_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identities),    cmocka_unit_test(subjects_refused),
		cmocka_unit_test(dates),         cmocka_unit_test(other_authorities),
		cmocka_unit_test(strange_forms), cmocka_unit_test(requests),
		cmocka_unit_test(names),         cmocka_unit_test(files),
	};

	return cmocka_run_group_tests_name("authority", tests, NULL, NULL);
}
