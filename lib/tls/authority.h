/* The certificate authority of a cluster, what it signs, and who a certificate says somebody is.
 *
 * One CA per cluster: ECDSA P-256, self-signed, with the cluster's id as its name. It signs
 *   a node  O=blix:server or blix:worker, CN=NAME, DNS name n<ID>.<CLUSTER>.blix
 *   a user  O=blix:user, CN=NAME, OU=viewer, operator or admin
 * A key never leaves whom it belongs to: the node or user makes it, sends a request (PKCS #10), and
 * of that request only the public key is taken.
 *
 * Texts are PEM. Those that hold a key must go by tls_pem_done() or seal_wipe(). Buffers that are
 * filled must be new; their memory is the caller's.
 */
#ifndef BLIX_TLS_AUTHORITY_H
#define BLIX_TLS_AUTHORITY_H

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLS_CLUSTER 33                 /* 32 hex digits of a cluster's id, with the NUL */
#define TLS_HASH    65                 /* SHA-256 in hex, with the NUL */
#define TLS_SERIAL  33                 /* 16 bytes in hex, with the NUL */
#define TLS_DNS     64                 /* n<ID>.<CLUSTER>.blix is at most 55 bytes */
#define TLS_NODE    ((1ULL << 52) - 1) /* the largest id of a node: exact in JSON */

enum tls_kind { TLS_SERVER, TLS_WORKER, TLS_USER };
/* What a user may do; each may what those before may. */
enum tls_role { TLS_NO_ROLE, TLS_VIEWER, TLS_OPERATOR, TLS_ADMIN };

struct tls_identity {
	char cluster[TLS_CLUSTER];
	enum tls_kind kind;
	uint64_t node;             /* 0: a user */
	char name[LIMIT_NAME + 1]; /* of the node or user */
	enum tls_role role;        /* of a user; TLS_NO_ROLE: a node */
	char serial[TLS_SERIAL];
	uint64_t not_after_ms; /* wall clock; whole seconds */
};

/* A certificate and its key. */
struct tls_pem {
	struct buf cert;
	struct buf key; /* empty: not held here */
};

void tls_pem_init(struct tls_pem *pem);
/* Wipes the key. */
void tls_pem_done(struct tls_pem *pem);

/* "server", "worker", "user" */
const char *tls_kind_text(enum tls_kind kind);
/* "viewer", "operator", "admin"; "" for none. */
const char *tls_role_text(enum tls_role role);
/* False: no such role. */
bool tls_role_find(const char *text, enum tls_role *ret);
/* n<ID>.<CLUSTER>.blix: the name that a node's certificate proves. */
void tls_dns_name(uint64_t node, const char *cluster, char ret[TLS_DNS]);
/* A new random id of a cluster. */
int tls_cluster_make(char ret[TLS_CLUSTER], struct blix_error *err);
bool tls_cluster_valid(const char *cluster);

/* A new authority; it outlives the cluster's hosts (30 years). */
int authority_make(const char *cluster, uint64_t now_ms, struct tls_pem *ret,
                   struct blix_error *err);
/* SHA-256 of the certificate (DER): what a token carries and a joiner compares. */
int authority_fingerprint(const struct buf *ca, char ret[TLS_HASH], struct blix_error *err);

/* On the node or at the user. A request for a new certificate of a key that is in use differs from
 * the first in nothing, so a renewal replaces one file only. */
int tls_key_make(struct buf *ret_key, struct blix_error *err);
int tls_request_make(const struct buf *key, struct buf *ret_request, struct blix_error *err);
/* SHA-256 of the public key in a request whose signature holds: the same joiner, the same value. */
int tls_request_hash(const struct buf *request, char ret[TLS_HASH], struct blix_error *err);

/* Signs the public key of a request from outside. Of `who`, kind, node, name, role and not_after_ms
 * (0: a year from now; never beyond the CA's own end) are taken; cluster, serial and not_after_ms
 * are filled. The certificate is valid since two days ago, so that no clock is too slow for it.
 *   -BLIX_E_INVALID  no request, a signature that does not hold, or another key than P-256 */
int authority_issue(const struct tls_pem *ca, const struct buf *request, uint64_t now_ms,
                    struct tls_identity *who, struct buf *ret_cert, struct blix_error *err);

/* Whose certificate it is, after all checks: signed by this CA, of its cluster, in time, of one of
 * the forms above. -BLIX_E_DENIED, with the reason other-cluster, other-ca, certificate-expired,
 * certificate-early or certificate-form. */
int authority_check(const struct buf *ca, const struct buf *cert, uint64_t now_ms,
                    struct tls_identity *ret, struct blix_error *err);

/* The files below DIR/tls: certificates 0644, keys 0600, in a directory of 0700. */
enum tls_file { TLS_FILE_CA, TLS_FILE_CA_KEY, TLS_FILE_NODE, TLS_FILE_NODE_KEY };
/* Its path, the caller's to free. */
char *tls_file_path(const char *dir, enum tls_file file);
/* Replaces the file and syncs it. */
int tls_file_write(const char *dir, enum tls_file file, const struct buf *text,
                   struct blix_error *err);
/* -BLIX_E_NOTFOUND: there is none. A key that others may read is -BLIX_E_DENIED. */
int tls_file_read(const char *dir, enum tls_file file, struct buf *ret, struct blix_error *err);

#endif
