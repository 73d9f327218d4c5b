/* The CA, the requests that it takes and the certificates that it signs: see authority.h.
 *
 * Happy path of a node: tls_key_make and tls_request_make there -> authority_issue at a server,
 * which holds the CA's key -> tls_file_write there. GnuTLS does the work; every object of it ends
 * with its scope, which also wipes keys.
 *
 * GnuTLS fails at making things only without memory or random bytes: -BLIX_E_INTERNAL with its own
 * words. What comes from outside is the request alone.
 */
#include "tls/authority.h"

#include "base/parse.h"
#include "sys/file.h"
#include "sys/seal.h"
#include "tls/internal.h"

#include <assert.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <sys/stat.h>

#define SECOND_MS   1000u
#define DAY_S       86400u
#define BACKDATED_S (2 * DAY_S)
#define LIFE_S      (365 * DAY_S)
#define CA_LIFE_S   (30ull * 365 * DAY_S)

static void crq_done(gnutls_x509_crq_t *crq)
{
	if (*crq != NULL)
		gnutls_x509_crq_deinit(*crq);
}

static void public_done(gnutls_pubkey_t *key)
{
	if (*key != NULL)
		gnutls_pubkey_deinit(*key);
}

static int internal(struct blix_error *err, int rc, const char *what)
{
	return tls_fail(err, BLIX_E_INTERNAL, rc, what);
}

void tls_pem_init(struct tls_pem *pem)
{
	buf_init(&pem->cert, LIMIT_PEM);
	buf_init(&pem->key, LIMIT_PEM);
}

void tls_pem_done(struct tls_pem *pem)
{
	buf_done(&pem->cert);
	seal_wipe(&pem->key);
}

/* What GnuTLS gave, into a new buffer; it is wiped there, as it may be a key. */
static void adopt(gnutls_datum_t *from, struct buf *ret)
{
	assert(from->data != NULL);
	buf_init(ret, LIMIT_PEM);
	(void)buf_add(ret, from->data, from->size);
	explicit_bzero(from->data, from->size);
	gnutls_free(from->data);
	from->data = NULL;
}

static gnutls_datum_t view(const struct buf *b)
{
	return (gnutls_datum_t){(unsigned char *)b->data, (unsigned)b->len};
}

int tls_crt_read(const struct buf *pem, const char *what, gnutls_x509_crt_t *ret,
                 struct blix_error *err)
{
	cleanup(crt_done) gnutls_x509_crt_t crt = NULL;
	gnutls_datum_t text = view(pem);
	int rc = gnutls_x509_crt_init(&crt);

	if (rc < 0)
		return internal(err, rc, "make a certificate");
	rc = text.data == NULL ? GNUTLS_E_BASE64_DECODING_ERROR
	                       : gnutls_x509_crt_import(crt, &text, GNUTLS_X509_FMT_PEM);
	if (rc < 0)
		return tls_fail(err, BLIX_E_INVALID, rc, what);
	*ret = take(crt);
	return 0;
}

int tls_key_read(const struct buf *pem, const char *what, gnutls_x509_privkey_t *ret,
                 struct blix_error *err)
{
	cleanup(key_done) gnutls_x509_privkey_t key = NULL;
	gnutls_datum_t text = view(pem);
	int rc = gnutls_x509_privkey_init(&key);

	if (rc < 0)
		return internal(err, rc, "make a key");
	rc = text.data == NULL ? GNUTLS_E_BASE64_DECODING_ERROR
	                       : gnutls_x509_privkey_import(key, &text, GNUTLS_X509_FMT_PEM);
	if (rc < 0)
		return tls_fail(err, BLIX_E_INVALID, rc, what);
	*ret = take(key);
	return 0;
}

static int request_read(const struct buf *pem, gnutls_x509_crq_t *ret, struct blix_error *err)
{
	cleanup(crq_done) gnutls_x509_crq_t crq = NULL;
	gnutls_datum_t text = view(pem);
	int rc = gnutls_x509_crq_init(&crq);

	if (rc < 0)
		return internal(err, rc, "make a request");
	rc = text.data == NULL ? GNUTLS_E_BASE64_DECODING_ERROR
	                       : gnutls_x509_crq_import(crq, &text, GNUTLS_X509_FMT_PEM);
	if (rc < 0)
		return tls_fail(err, BLIX_E_INVALID, rc, "certificate request");
	*ret = take(crq);
	return 0;
}

/* The public key of a request, whose maker has proved to hold the other half. */
static int request_key(const struct buf *request, gnutls_pubkey_t *ret, struct blix_error *err)
{
	cleanup(crq_done) gnutls_x509_crq_t crq = NULL;
	cleanup(public_done) gnutls_pubkey_t key = NULL;
	gnutls_ecc_curve_t curve = GNUTLS_ECC_CURVE_INVALID;
	int rc = request_read(request, &crq, err);

	if (rc < 0)
		return rc;
	rc = gnutls_x509_crq_verify(crq, 0);
	if (rc < 0)
		return tls_fail(err, BLIX_E_INVALID, rc, "signature of the certificate request");
	rc = gnutls_pubkey_init(&key);
	if (rc == 0)
		rc = gnutls_pubkey_import_x509_crq(key, crq, 0);
	if (rc < 0)
		return tls_fail(err, BLIX_E_INVALID, rc, "key of the certificate request");
	if (gnutls_pubkey_get_pk_algorithm(key, NULL) != GNUTLS_PK_ECDSA ||
	    gnutls_pubkey_export_ecc_raw2(key, &curve, NULL, NULL, 0) < 0 ||
	    curve != GNUTLS_ECC_CURVE_SECP256R1)
		return blix_fail(err, BLIX_E_INVALID,
		                 "key of the certificate request is not ECDSA on P-256");
	*ret = take(key);
	return 0;
}

int tls_cluster_make(char ret[TLS_CLUSTER], struct blix_error *err)
{
	unsigned char id[(TLS_CLUSTER - 1) / 2];
	int rc = gnutls_rnd(GNUTLS_RND_NONCE, id, sizeof(id));

	if (rc < 0)
		return internal(err, rc, "random bytes");
	for (size_t i = 0; i < sizeof(id); i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", id[i]);
	return 0;
}

static int key_make(gnutls_x509_privkey_t *ret, struct blix_error *err)
{
	cleanup(key_done) gnutls_x509_privkey_t key = NULL;
	int rc = gnutls_x509_privkey_init(&key);

	if (rc == 0)
		rc = gnutls_x509_privkey_generate(
			key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	if (rc < 0)
		return internal(err, rc, "make a key");
	*ret = take(key);
	return 0;
}

static int key_write(gnutls_x509_privkey_t key, struct buf *ret, struct blix_error *err)
{
	gnutls_datum_t text = {0};
	int rc = gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &text);

	if (rc < 0)
		return internal(err, rc, "encode a key");
	adopt(&text, ret);
	return 0;
}

int tls_key_make(struct buf *ret_key, struct blix_error *err)
{
	cleanup(key_done) gnutls_x509_privkey_t key = NULL;
	int rc = key_make(&key, err);

	return rc < 0 ? rc : key_write(key, ret_key, err);
}

int tls_request_make(const struct buf *key, struct buf *ret_request, struct blix_error *err)
{
	cleanup(key_done) gnutls_x509_privkey_t own = NULL;
	cleanup(crq_done) gnutls_x509_crq_t crq = NULL;
	gnutls_datum_t text = {0};
	int rc = tls_key_read(key, "key", &own, err);

	if (rc < 0)
		return rc;
	rc = gnutls_x509_crq_init(&crq);
	if (rc == 0)
		rc = gnutls_x509_crq_set_version(crq, 1);
	if (rc == 0)
		rc = gnutls_x509_crq_set_key(crq, own);
	if (rc == 0)
		rc = gnutls_x509_crq_sign2(crq, own, GNUTLS_DIG_SHA256, 0);
	if (rc == 0)
		rc = gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &text);
	if (rc < 0)
		return internal(err, rc, "make a certificate request");
	adopt(&text, ret_request);
	return 0;
}

int tls_request_hash(const struct buf *request, char ret[TLS_HASH], struct blix_error *err)
{
	cleanup(public_done) gnutls_pubkey_t key = NULL;
	unsigned char digest[(TLS_HASH - 1) / 2];
	size_t n = sizeof(digest);
	int rc = request_key(request, &key, err);

	if (rc < 0)
		return rc;
	rc = gnutls_pubkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, digest, &n);
	if (rc < 0 || n != sizeof(digest))
		return internal(err, rc, "hash a public key");
	for (size_t i = 0; i < n; i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", digest[i]);
	return 0;
}

int authority_fingerprint(const struct buf *ca, char ret[TLS_HASH], struct blix_error *err)
{
	cleanup(crt_done) gnutls_x509_crt_t crt = NULL;
	int rc = tls_crt_read(ca, "CA certificate", &crt, err);

	return rc < 0 ? rc : tls_crt_hash(crt, ret, err);
}

static int add_name(gnutls_x509_crt_t crt, const char *oid, const char *value)
{
	return gnutls_x509_crt_set_dn_by_oid(crt, oid, 0, value, (unsigned)strlen(value));
}

/* A positive number of 16 bytes, so that it is neither shortened nor made longer. */
static int add_serial(gnutls_x509_crt_t crt)
{
	unsigned char serial[(TLS_SERIAL - 1) / 2];
	int rc = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));

	serial[0] = (unsigned char)((serial[0] & 0x3fu) | 0x40u);
	return rc < 0 ? rc : gnutls_x509_crt_set_serial(crt, serial, sizeof(serial));
}

static int add_key_id(gnutls_x509_crt_t crt, gnutls_x509_crt_t issuer)
{
	unsigned char id[64];
	size_t n = sizeof(id);
	int rc = gnutls_x509_crt_get_key_id(crt, 0, id, &n);

	if (rc == 0)
		rc = gnutls_x509_crt_set_subject_key_id(crt, id, n);
	n = sizeof(id);
	if (rc == 0)
		rc = gnutls_x509_crt_get_key_id(issuer, 0, id, &n);
	return rc < 0 ? rc : gnutls_x509_crt_set_authority_key_id(crt, id, n);
}

static int add_dates(gnutls_x509_crt_t crt, uint64_t now_ms, uint64_t until_s)
{
	uint64_t now = now_ms / SECOND_MS;
	uint64_t from = now > BACKDATED_S ? now - BACKDATED_S : 0;
	int rc = gnutls_x509_crt_set_activation_time(crt, (time_t)from);

	return rc < 0 ? rc : gnutls_x509_crt_set_expiration_time(crt, (time_t)until_s);
}

static int sign(gnutls_x509_crt_t crt, gnutls_x509_crt_t issuer, gnutls_x509_privkey_t key,
                struct buf *ret, struct blix_error *err)
{
	gnutls_datum_t text = {0};
	int rc = add_key_id(crt, issuer);

	if (rc == 0)
		rc = gnutls_x509_crt_sign2(crt, issuer, key, GNUTLS_DIG_SHA256, 0);
	if (rc == 0)
		rc = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &text);
	if (rc < 0)
		return internal(err, rc, "sign a certificate");
	adopt(&text, ret);
	return 0;
}

int authority_make(const char *cluster, uint64_t now_ms, struct tls_pem *ret,
                   struct blix_error *err)
{
	cleanup(key_done) gnutls_x509_privkey_t key = NULL;
	cleanup(crt_done) gnutls_x509_crt_t crt = NULL;
	struct tls_pem made;
	int rc;

	if (!tls_cluster_valid(cluster))
		return blix_fail(err, BLIX_E_SPEC, "cluster id \"%.64s\" is not 32 hex digits",
		                 cluster);
	rc = key_make(&key, err);
	if (rc < 0)
		return rc;
	rc = gnutls_x509_crt_init(&crt);
	if (rc == 0)
		rc = gnutls_x509_crt_set_version(crt, 3);
	if (rc == 0)
		rc = gnutls_x509_crt_set_key(crt, key);
	if (rc == 0)
		rc = add_name(crt, GNUTLS_OID_X520_ORGANIZATION_NAME, ORGANIZATION_CA);
	if (rc == 0)
		rc = add_name(crt, GNUTLS_OID_X520_COMMON_NAME, cluster);
	if (rc == 0)
		rc = add_serial(crt);
	if (rc == 0)
		rc = add_dates(crt, now_ms, now_ms / SECOND_MS + CA_LIFE_S);
	if (rc == 0)
		rc = gnutls_x509_crt_set_basic_constraints(crt, 1, 0);
	if (rc == 0)
		rc = gnutls_x509_crt_set_key_usage(crt,
		                                   GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
	if (rc < 0)
		return internal(err, rc, "make a CA");
	tls_pem_init(&made);
	rc = sign(crt, crt, key, &made.cert, err);
	if (rc == 0)
		rc = key_write(key, &made.key, err);
	if (rc == 0)
		*ret = made;
	else
		tls_pem_done(&made);
	return rc;
}

static int subject_check(const struct tls_identity *who, struct blix_error *err)
{
	int rc = parse_name("name", who->name, err);

	if (rc < 0)
		return rc;
	if (who->kind == TLS_USER && (who->node != 0 || who->role == TLS_NO_ROLE))
		return blix_fail(err, BLIX_E_SPEC, "user %s needs a role", who->name);
	if (who->kind != TLS_USER &&
	    (who->node == 0 || who->node > TLS_NODE || who->role != TLS_NO_ROLE))
		return blix_fail(err, BLIX_E_SPEC, "node %s needs an id below 2^52", who->name);
	return 0;
}

/* Names and uses. A user's certificate opens connections, and never answers for a server. */
static int add_subject(gnutls_x509_crt_t crt, const struct tls_identity *who)
{
	char dns[TLS_DNS];
	int rc = add_name(crt, GNUTLS_OID_X520_ORGANIZATION_NAME, tls_kind_organization(who->kind));

	if (rc == 0)
		rc = add_name(crt, GNUTLS_OID_X520_COMMON_NAME, who->name);
	if (rc == 0)
		rc = gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_CLIENT, 0);
	if (rc < 0)
		return rc;
	if (who->kind == TLS_USER)
		return add_name(crt, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME,
		                tls_role_text(who->role));
	rc = gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0);
	tls_dns_name(who->node, who->cluster, dns);
	if (rc == 0)
		rc = gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, dns,
		                                          (unsigned)strlen(dns), GNUTLS_FSAN_SET);
	return rc;
}

static int certificate_fill(gnutls_x509_crt_t crt, gnutls_pubkey_t key, uint64_t now_ms,
                            const struct tls_identity *who, struct blix_error *err)
{
	int rc = gnutls_x509_crt_set_version(crt, 3);

	if (rc == 0)
		rc = gnutls_x509_crt_set_pubkey(crt, key);
	if (rc == 0)
		rc = add_subject(crt, who);
	if (rc == 0)
		rc = add_serial(crt);
	if (rc == 0)
		rc = add_dates(crt, now_ms, who->not_after_ms / SECOND_MS);
	if (rc == 0)
		rc = gnutls_x509_crt_set_basic_constraints(crt, 0, -1);
	if (rc == 0)
		rc = gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
	return rc < 0 ? internal(err, rc, "make a certificate") : 0;
}

/* The CA's two halves, which must be of each other: what it signs is judged before it is given. */
static int authority_read(const struct tls_pem *ca, gnutls_x509_crt_t *ret_crt,
                          gnutls_x509_privkey_t *ret_key, char cluster[TLS_CLUSTER],
                          struct blix_error *err)
{
	int rc = tls_crt_read(&ca->cert, "CA certificate", ret_crt, err);

	if (rc == 0)
		rc = tls_ca_cluster(*ret_crt, cluster, err);
	if (rc == 0)
		rc = tls_key_read(&ca->key, "CA key", ret_key, err);
	return rc;
}

static uint64_t end_of(gnutls_x509_crt_t ca, uint64_t now_ms, uint64_t wanted_ms)
{
	uint64_t last = (uint64_t)gnutls_x509_crt_get_expiration_time(ca);
	uint64_t until = wanted_ms != 0 ? wanted_ms / SECOND_MS : now_ms / SECOND_MS + LIFE_S;

	return (until < last ? until : last) * SECOND_MS;
}

int authority_issue(const struct tls_pem *ca, const struct buf *request, uint64_t now_ms,
                    struct tls_identity *who, struct buf *ret_cert, struct blix_error *err)
{
	cleanup(crt_done) gnutls_x509_crt_t issuer = NULL, crt = NULL;
	cleanup(key_done) gnutls_x509_privkey_t key = NULL;
	cleanup(public_done) gnutls_pubkey_t public = NULL;
	struct tls_identity made = *who;
	struct buf text = {0};
	int rc = subject_check(who, err);

	if (rc == 0)
		rc = authority_read(ca, &issuer, &key, made.cluster, err);
	if (rc == 0)
		rc = request_key(request, &public, err);
	if (rc < 0)
		return rc;
	made.not_after_ms = end_of(issuer, now_ms, who->not_after_ms);
	rc = gnutls_x509_crt_init(&crt);
	if (rc < 0)
		return internal(err, rc, "make a certificate");
	rc = certificate_fill(crt, public, now_ms, &made, err);
	if (rc == 0)
		rc = sign(crt, issuer, key, &text, err);
	if (rc < 0)
		return rc;
	rc = authority_check(&ca->cert, &text, now_ms, &made, err);
	if (rc < 0) {
		buf_done(&text);
		return blix_wrap(err, "what the CA's key signed does not hold");
	}
	*who = made;
	*ret_cert = text;
	return 0;
}

int authority_check(const struct buf *ca, const struct buf *cert, uint64_t now_ms,
                    struct tls_identity *ret, struct blix_error *err)
{
	cleanup(crt_done) gnutls_x509_crt_t issuer = NULL, crt = NULL;
	int rc = tls_crt_read(ca, "CA certificate", &issuer, err);

	if (rc == 0)
		rc = tls_crt_read(cert, "certificate", &crt, err);
	return rc < 0 ? rc : tls_judge(issuer, crt, now_ms, ret, err);
}

static const struct {
	const char *name;
	mode_t mode;
} files[] = {
	[TLS_FILE_CA] = {"ca.pem", 0644},
	[TLS_FILE_CA_KEY] = {"ca.key", 0600},
	[TLS_FILE_NODE] = {"node.pem", 0644},
	[TLS_FILE_NODE_KEY] = {"node.key", 0600},
};

char *tls_file_path(const char *dir, enum tls_file file)
{
	return xasprintf("%s/tls/%s", dir, files[file].name);
}

int tls_file_write(const char *dir, enum tls_file file, const struct buf *text,
                   struct blix_error *err)
{
	cleanup(freep) char *folder = xasprintf("%s/tls", dir);
	cleanup(freep) char *path = tls_file_path(dir, file);
	int rc = file_make_dirs(folder, 0700, err);

	return rc < 0 ? rc : file_write(path, text->data, text->len, files[file].mode, err);
}

int tls_file_read(const char *dir, enum tls_file file, struct buf *ret, struct blix_error *err)
{
	cleanup(freep) char *path = tls_file_path(dir, file);
	struct stat st;
	struct buf text;
	int rc;

	if (lstat(path, &st) < 0)
		return blix_fail_sys(err, errno, "stat %s", path);
	if ((st.st_mode & 077 & ~files[file].mode) != 0)
		return blix_fail(err, BLIX_E_DENIED, "%s must not be open to others (mode %04o)",
		                 path, (unsigned)(st.st_mode & 07777));
	buf_init(&text, LIMIT_PEM);
	/* At once: a buffer that grows leaves what it held behind. */
	(void)buf_room(&text, LIMIT_PEM);
	rc = file_read(path, &text, err);
	if (rc == 0)
		*ret = text;
	else
		seal_wipe(&text);
	return rc;
}
