/* What the files of this folder share: GnuTLS objects that end with their scope, and the judgement
 * of a certificate that is parsed already.
 *
 * authority.c    the CA, requests, certificates, their files
 * identity.c     who a certificate says somebody is, and whether that holds
 * credentials.c  what a node shows to others and checks others by
 * session.c      the pump of a TLS session
 * token.c        the line of a join token
 * hosted.c       sessions that another library runs
 * direct.c       sessions of programs without a loop
 * tunnel.c       what is left of such a session when its library is done with it
 */
#ifndef BLIX_TLS_INTERNAL_H
#define BLIX_TLS_INTERNAL_H

#include "base/alloc.h"
#include "tls/authority.h"
#include "tls/credentials.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/queue.h>

#define ORGANIZATION_CA "blix:ca"

static inline void crt_done(gnutls_x509_crt_t *crt)
{
	if (*crt != NULL)
		gnutls_x509_crt_deinit(*crt);
}

static inline void key_done(gnutls_x509_privkey_t *key)
{
	if (*key != NULL)
		gnutls_x509_privkey_deinit(*key);
}

/* -code with "what: what GnuTLS says". */
int tls_fail(struct blix_error *err, enum blix_code code, int gnutls, const char *what);

/* *ret is the caller's; -BLIX_E_INVALID when the text is none. `what` names it. */
int tls_crt_read(const struct buf *pem, const char *what, gnutls_x509_crt_t *ret,
                 struct blix_error *err);
int tls_key_read(const struct buf *pem, const char *what, gnutls_x509_privkey_t *ret,
                 struct blix_error *err);
/* -BLIX_E_INVALID: not the certificate of a CA of ours. */
int tls_ca_cluster(gnutls_x509_crt_t ca, char ret[TLS_CLUSTER], struct blix_error *err);
int tls_crt_hash(gnutls_x509_crt_t crt, char ret[TLS_HASH], struct blix_error *err);
/* authority_check() of parsed certificates. */
int tls_judge(gnutls_x509_crt_t ca, gnutls_x509_crt_t cert, uint64_t now_ms,
              struct tls_identity *ret, struct blix_error *err);

/* "blix:server" and so on. */
const char *tls_kind_organization(enum tls_kind kind);

/* One certificate with its key and CA, in the forms that GnuTLS takes. */
struct tls_set {
	TAILQ_ENTRY(tls_set) entry;
	unsigned n_holders;
	gnutls_certificate_credentials_t gnutls;
	gnutls_x509_crt_t ca;
	gnutls_pcert_st shown[2]; /* own, CA */
	unsigned n_shown;
	gnutls_privkey_t key;
	struct tls_identity own;
	uint64_t replaced_ms;
};
TAILQ_HEAD(tls_sets, tls_set);

/* The set of now, until tls_set_drop(), which accepts NULL. */
struct tls_set *tls_set_hold(const struct tls_credentials *c);
void tls_set_drop(struct tls_set *set);
/* One that shows nothing and trusts nobody. */
int tls_set_bare(struct tls_set **ret, struct blix_error *err);
/* credentials_peer() against that set. */
int tls_set_peer(const struct tls_set *set, gnutls_session_t session, struct tls_identity *ret,
                 struct blix_error *err);
/* A certificate that the other end showed; -BLIX_E_NOTFOUND: it did not show so many. */
int tls_peer_crt(gnutls_session_t session, unsigned index, gnutls_x509_crt_t *ret,
                 struct blix_error *err);

/* A session that another library owns. */
struct tls_hosted {
	gnutls_session_t session;
	int fd;
	struct tls_set *set;
	void (*waits)(void *data);
	void *data;
	bool shaken; /* the handshake is done, as far as reading goes */
	bool known;  /* identity is the client's */
	struct tls_identity identity;
	bool taken;   /* by a tunnel: its library gets no byte more */
	bool reading; /* in tls_hosted_read() */
};

/* gnutls_record_recv() of who has taken the session. */
ssize_t tls_hosted_read(struct tls_hosted *hosted, void *bytes, size_t n);

#endif
