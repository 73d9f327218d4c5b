/* The server's side of a TLS session that another library runs: libmicrohttpd makes it, does its
 * handshake and owns it; what it shows, asks for and believes is decided here.
 *
 * A client may show no certificate. One that it shows is checked in the handshake
 * (authority_check), which fails with an alert when it does not hold. Sessions keep the credentials
 * they began with.
 */
#ifndef BLIX_TLS_HOSTED_H
#define BLIX_TLS_HOSTED_H

#include "tls/credentials.h"

struct tls_hosted;

/* For a session over the socket `fd` whose handshake has not begun. It must be ended by its library
 * before tls_hosted_free(). The session's pointer and what it reads by become ours. waits() is
 * called, within the library's own call, each time the handshake wants bytes that have not come
 * yet. */
struct tls_hosted *tls_hosted_open(const struct tls_credentials *credentials,
                                   struct gnutls_session_int *session, int fd,
                                   void (*waits)(void *data), void *data);
/* Accepts NULL. */
void tls_hosted_free(struct tls_hosted *hosted);
/* After the handshake: false when the client has shown no certificate. */
bool tls_hosted_identity(const struct tls_hosted *hosted, struct tls_identity *ret);
/* Bytes that are decrypted and not read yet. The session must not have ended. */
size_t tls_hosted_pending(const struct tls_hosted *hosted);
/* A gnutls_certificate_retrieve_function2 for libraries that cannot begin without one. It is never
 * asked: each session has credentials of its own. */
void *tls_hosted_retrieve(void);

#endif
