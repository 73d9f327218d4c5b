/* A client's TLS session over a socket, step by step: for programs that have no loop.
 *
 * The caller polls the socket for tls_direct_events() and calls again. Nothing is sent for the
 * owner before the other end has shown a certificate of a node of the own cluster.
 */
#ifndef BLIX_TLS_DIRECT_H
#define BLIX_TLS_DIRECT_H

#include "tls/credentials.h"

#include <sys/types.h>

struct tls_direct;

/* The socket is connected and non-blocking, and stays the caller's. */
int tls_direct_open(const struct tls_credentials *credentials, int fd, struct tls_direct **ret,
                    struct blix_error *err);
/* Says goodbye, as far as the socket takes it. Accepts NULL. */
void tls_direct_free(struct tls_direct *tls);
/* 1: the handshake is done. 0: poll, then again. -BLIX_E_DENIED: not who it should be;
 * -BLIX_E_UNAVAILABLE. */
int tls_direct_shake(struct tls_direct *tls, struct blix_error *err);
/* What the handshake waits for: POLLIN or POLLOUT. Afterwards reading waits for POLLIN, writing for
 * POLLOUT. */
short tls_direct_events(const struct tls_direct *tls);
/* Bytes moved; 0: the other end has ended (reading); -1 with errno, EAGAIN when it has to wait.
 * What has been read may stand in memory: read until EAGAIN before polling. */
ssize_t tls_direct_read(struct tls_direct *tls, void *bytes, size_t n);
ssize_t tls_direct_write(struct tls_direct *tls, const void *bytes, size_t n);
/* An end that may be believed: a node, no user. For those who let another library make the session.
 */
int tls_direct_judge(const struct tls_credentials *credentials, struct gnutls_session_int *session,
                     struct blix_error *err);

#endif
