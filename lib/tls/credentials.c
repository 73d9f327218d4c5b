/* The credentials of a node: see credentials.h.
 *
 * Happy path: texts are parsed into a set -> it is checked as a stranger would check it -> it
 * becomes the one that new sessions take. A set lives as long as somebody holds it: the credentials
 * while it is theirs and CREDENTIALS_KEPT_MS longer, and each session of session.c.
 */
#include "tls/credentials.h"

#include "sys/clock.h"
#include "sys/seal.h"
#include "tls/internal.h"

struct tls_credentials {
	struct tls_set *now;
	struct tls_sets old;
};

static void set_free(struct tls_set *set)
{
	for (unsigned i = 0; i < set->n_shown; i++)
		gnutls_pcert_deinit(&set->shown[i]);
	if (set->key != NULL)
		gnutls_privkey_deinit(set->key);
	if (set->gnutls != NULL)
		gnutls_certificate_free_credentials(set->gnutls);
	crt_done(&set->ca);
	free(set);
}

void tls_set_drop(struct tls_set *set)
{
	if (set != NULL && --set->n_holders == 0)
		set_free(set);
}

struct tls_set *tls_set_hold(const struct tls_credentials *c)
{
	c->now->n_holders++;
	return c->now;
}

int tls_set_bare(struct tls_set **ret, struct blix_error *err)
{
	struct tls_set *set = xcalloc(1, sizeof(*set));
	int rc = gnutls_certificate_allocate_credentials(&set->gnutls);

	set->n_holders = 1;
	if (rc < 0) {
		tls_set_drop(set);
		return tls_fail(err, BLIX_E_INTERNAL, rc, "make credentials");
	}
	*ret = set;
	return 0;
}

static int show(struct tls_set *set, gnutls_x509_crt_t crt)
{
	int rc = gnutls_pcert_import_x509(&set->shown[set->n_shown], crt, 0);

	if (rc == 0)
		set->n_shown++;
	return rc;
}

/* Into GnuTLS's own forms: for our sessions, and for those of libmicrohttpd. */
static int set_fill(struct tls_set *set, gnutls_x509_crt_t cert, gnutls_x509_privkey_t key,
                    struct blix_error *err)
{
	gnutls_x509_crt_t chain[] = {cert, set->ca};
	int rc = gnutls_certificate_allocate_credentials(&set->gnutls);

	if (rc < 0)
		return tls_fail(err, BLIX_E_INTERNAL, rc, "make credentials");
	rc = gnutls_certificate_set_x509_key(set->gnutls, chain, array_size(chain), key);
	if (rc < 0)
		return tls_fail(err, BLIX_E_INVALID, rc, "certificate and key");
	for (size_t i = 0; i < array_size(chain) && rc >= 0; i++)
		rc = show(set, chain[i]);
	if (rc >= 0)
		rc = gnutls_privkey_init(&set->key);
	if (rc >= 0)
		rc = gnutls_privkey_import_x509(set->key, key, GNUTLS_PRIVKEY_IMPORT_COPY);
	return rc < 0 ? tls_fail(err, BLIX_E_INTERNAL, rc, "make credentials") : 0;
}

/* Dates apart, as a stranger would: at the first second of the certificate. */
static int set_check(struct tls_set *set, gnutls_x509_crt_t cert, struct blix_error *err)
{
	time_t from = gnutls_x509_crt_get_activation_time(cert);

	return tls_judge(set->ca, cert, from < 0 ? 0 : (uint64_t)from * 1000, &set->own, err);
}

static int set_make(const struct buf *ca, const struct tls_pem *own, struct tls_set **ret,
                    struct blix_error *err)
{
	cleanup(crt_done) gnutls_x509_crt_t cert = NULL;
	cleanup(key_done) gnutls_x509_privkey_t key = NULL;
	struct tls_set *set = xcalloc(1, sizeof(*set));
	int rc = tls_crt_read(ca, "CA certificate", &set->ca, err);

	set->n_holders = 1;
	if (rc == 0)
		rc = tls_crt_read(&own->cert, "own certificate", &cert, err);
	if (rc == 0)
		rc = tls_key_read(&own->key, "own key", &key, err);
	if (rc == 0)
		rc = set_check(set, cert, err);
	if (rc == 0)
		rc = set_fill(set, cert, key, err);
	if (rc < 0) {
		tls_set_drop(set);
		return rc;
	}
	*ret = set;
	return 0;
}

int credentials_open(const struct buf *ca, const struct tls_pem *own, struct tls_credentials **ret,
                     struct blix_error *err)
{
	struct tls_credentials *c;
	struct tls_set *set;
	int rc = set_make(ca, own, &set, err);

	if (rc < 0)
		return rc;
	c = xcalloc(1, sizeof(*c));
	TAILQ_INIT(&c->old);
	c->now = set;
	*ret = c;
	return 0;
}

static void drop_old(struct tls_credentials *c, uint64_t before_ms)
{
	struct tls_set *set;

	while ((set = TAILQ_FIRST(&c->old)) != NULL && set->replaced_ms <= before_ms) {
		TAILQ_REMOVE(&c->old, set, entry);
		tls_set_drop(set);
	}
}

int credentials_replace(struct tls_credentials *c, const struct buf *ca, const struct tls_pem *own,
                        struct blix_error *err)
{
	uint64_t now_ms = clock_boot_ms();
	struct tls_set *set;
	int rc = set_make(ca, own, &set, err);

	if (rc < 0)
		return rc;
	if (strcmp(set->own.cluster, c->now->own.cluster) != 0) {
		tls_set_drop(set);
		return blix_fail(err, BLIX_E_REFUSED, "the new certificate is of another cluster");
	}
	if (now_ms > CREDENTIALS_KEPT_MS)
		drop_old(c, now_ms - CREDENTIALS_KEPT_MS);
	c->now->replaced_ms = now_ms;
	TAILQ_INSERT_TAIL(&c->old, c->now, entry);
	c->now = set;
	return 0;
}

/* The texts of the files; *ret_own is wiped by the caller, also when it fails. */
static int files_read(const char *dir, struct buf *ret_ca, struct tls_pem *ret_own,
                      struct blix_error *err)
{
	int rc = tls_file_read(dir, TLS_FILE_CA, ret_ca, err);

	if (rc == 0)
		rc = tls_file_read(dir, TLS_FILE_NODE, &ret_own->cert, err);
	if (rc == 0)
		rc = tls_file_read(dir, TLS_FILE_NODE_KEY, &ret_own->key, err);
	return rc;
}

int credentials_load(const char *dir, struct tls_credentials **ret, struct blix_error *err)
{
	cleanup(buf_done) struct buf ca = {0};
	cleanup(tls_pem_done) struct tls_pem own = {0};
	int rc = files_read(dir, &ca, &own, err);

	return rc < 0 ? rc : credentials_open(&ca, &own, ret, err);
}

int credentials_reload(struct tls_credentials *c, const char *dir, struct blix_error *err)
{
	cleanup(buf_done) struct buf ca = {0};
	cleanup(tls_pem_done) struct tls_pem own = {0};
	int rc = files_read(dir, &ca, &own, err);

	return rc < 0 ? rc : credentials_replace(c, &ca, &own, err);
}

void credentials_free(struct tls_credentials *c)
{
	if (c == NULL)
		return;
	drop_old(c, UINT64_MAX);
	tls_set_drop(c->now);
	free(c);
}

const struct tls_identity *credentials_own(const struct tls_credentials *c)
{
	return &c->now->own;
}

int tls_peer_crt(gnutls_session_t session, unsigned index, gnutls_x509_crt_t *ret,
                 struct blix_error *err)
{
	cleanup(crt_done) gnutls_x509_crt_t crt = NULL;
	unsigned n = 0;
	const gnutls_datum_t *shown = gnutls_certificate_get_peers(session, &n);
	int rc;

	if (shown == NULL || index >= n)
		return blix_fail(err, BLIX_E_NOTFOUND, "the other end shows no certificate");
	rc = gnutls_x509_crt_init(&crt);
	if (rc == 0)
		rc = gnutls_x509_crt_import(crt, &shown[index], GNUTLS_X509_FMT_DER);
	if (rc < 0)
		return tls_fail(err, BLIX_E_DENIED, rc, "certificate of the other end");
	*ret = take(crt);
	return 0;
}

int tls_set_peer(const struct tls_set *set, gnutls_session_t session, struct tls_identity *ret,
                 struct blix_error *err)
{
	cleanup(crt_done) gnutls_x509_crt_t crt = NULL;
	int rc = tls_peer_crt(session, 0, &crt, err);

	return rc < 0 ? rc : tls_judge(set->ca, crt, clock_wall_ms(), ret, err);
}

int credentials_peer(const struct tls_credentials *c, struct gnutls_session_int *session,
                     struct tls_identity *ret, struct blix_error *err)
{
	return tls_set_peer(c->now, session, ret, err);
}

void credentials_show(const struct tls_credentials *c, struct gnutls_pcert_st **ret_certs,
                      unsigned *ret_n, struct gnutls_privkey_st **ret_key)
{
	*ret_certs = c->now->shown;
	*ret_n = c->now->n_shown;
	*ret_key = c->now->key;
}
