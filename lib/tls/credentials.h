/* What a node or a user shows to others, and what it checks others by: its own certificate and key,
 * and the CA of its cluster. They can be replaced while connections are open: those keep what they
 * began with, new ones take the new.
 *
 * Shown are the own certificate and the CA's, so that one who knows only a fingerprint of the CA
 * can check it. Trusted is that CA alone.
 */
#ifndef BLIX_TLS_CREDENTIALS_H
#define BLIX_TLS_CREDENTIALS_H

#include "tls/authority.h"

/* For whoever makes a GnuTLS session: TLS 1.3 alone. */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3"

struct gnutls_session_int; /* what a gnutls_session_t points to */
struct gnutls_pcert_st;
struct gnutls_privkey_st;
struct tls_credentials;

/* The texts stay the caller's. -BLIX_E_DENIED when `own` is not of `ca`, -BLIX_E_INVALID when key
 * and certificate are not of each other. A certificate of one's own that has expired is taken:
 * others will refuse it, and not_after_ms says so. */
int credentials_open(const struct buf *ca, const struct tls_pem *own, struct tls_credentials **ret,
                     struct blix_error *err);
/* The same of the files below DIR/tls. -BLIX_E_NOTFOUND: this node is of no cluster yet. */
int credentials_load(const char *dir, struct tls_credentials **ret, struct blix_error *err);
/* New connections take these. When it fails, or they are of another cluster (-BLIX_E_REFUSED),
 * nothing changes. */
int credentials_replace(struct tls_credentials *c, const struct buf *ca, const struct tls_pem *own,
                        struct blix_error *err);
int credentials_reload(struct tls_credentials *c, const char *dir, struct blix_error *err);
/* Accepts NULL. Sessions of tls/session.h may outlive it. */
void credentials_free(struct tls_credentials *c);

/* Whose they are; valid until they are replaced. */
const struct tls_identity *credentials_own(const struct tls_credentials *c);

/* Who is at the other end of a session whose handshake is done, after all checks of
 * authority_check() but a deny list. -BLIX_E_NOTFOUND: it showed no certificate. */
int credentials_peer(const struct tls_credentials *c, struct gnutls_session_int *session,
                     struct tls_identity *ret, struct blix_error *err);

/* For a certificate callback of GnuTLS (gnutls_certificate_retrieve_function2). What it gives stays
 * valid for CREDENTIALS_KEPT_MS after a replacement: a handshake must not last longer. */
#define CREDENTIALS_KEPT_MS 60000u
void credentials_show(const struct tls_credentials *c, struct gnutls_pcert_st **ret_certs,
                      unsigned *ret_n, struct gnutls_privkey_st **ret_key);

#endif
