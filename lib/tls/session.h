/* A TLS session on the loop, as a pump: ciphertext on a connected socket, plaintext on one end of a
 * socket pair whose other end the owner gets, and uses like any stream of bytes.
 *
 * Happy path: tls_session_open() takes the socket -> handshake, TLS 1.3, both ends checked against
 * the own CA -> opened() hands over the plain end -> bytes go both ways -> each end may stop
 * writing (shutdown) while it still reads -> closed(). Nothing of the owner's is sent before the
 * other end was checked.
 *
 * Either side is read only as the other takes it: a session holds two records of 16 KiB besides
 * what the kernel's buffers do. To end it the owner closes the plain end: what was written still
 * leaves, for LIMIT_WIRE_LINGER ms at most. tls_session_close() is for at once.
 *
 * A connection that was cut looks like an end to whoever reads the plain end; closed() then has a
 * status, and what travels must say itself where it ends.
 */
#ifndef BLIX_TLS_SESSION_H
#define BLIX_TLS_SESSION_H

#include "tls/credentials.h"

#include <uv.h>

struct tls_session;

struct tls_session_config {
	uv_loop_t *loop;
	bool server;
	/* What is shown, and whose CA counts; as it is now. NULL: a client that knows a pin alone,
	 * and shows nothing. */
	const struct tls_credentials *credentials;
	/* A client's. NULL: any node of the own cluster, else the one of this tls_dns_name(). */
	const char *expect;
	/* A client's without credentials: the fingerprint of the CA that signed whatever node. */
	const char *pin;
	/* A server's: one without a certificate is let in too. One with a wrong one never is. */
	bool anonymous;
	unsigned deadline_ms; /* of the handshake, and of a connect under way; 0:
	                         LIMIT_TLS_HANDSHAKE */
};

struct tls_session_events {
	/* Whether this one is to be refused: its serial or node is on the deny list. May be NULL.
	 */
	bool (*denied)(void *data, const struct tls_identity *peer);
	/* Once: `fd` is the owner's, non-blocking. peer is NULL for one without a certificate, and
	 * valid until this returns. A client's handshake is done before the server has looked at
	 * its certificate: one that is refused is closed right after. */
	void (*opened)(void *data, int fd, const struct tls_identity *peer);
	/* Once, and last: the session is gone. 0 when both ends had ended, or the owner closed it.
	 * Else -BLIX_E_DENIED (with the reason of authority_check(), or other-node,
	 * certificate-denied, no-certificate, refused-by-peer), -BLIX_E_TIMEOUT, or
	 * -BLIX_E_UNAVAILABLE; err is NULL with 0. */
	void (*closed)(void *data, int status, const struct blix_error *err);
};

/* Takes the socket, also when it fails; its connect may still be under way. No callback comes
 * inside the call. */
int tls_session_open(const struct tls_session_config *config, int fd,
                     const struct tls_session_events *events, void *data, struct tls_session **ret,
                     struct blix_error *err);
/* At once, in any state; closed(0) comes later. */
void tls_session_close(struct tls_session *s);

#endif
