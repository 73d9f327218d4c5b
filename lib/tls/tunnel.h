/* A hosted session (hosted.h) that has left its library's protocol: its plaintext goes to and comes
 * from one end of a socket pair, which is handed out.
 *
 * At most one record is held each way, so whoever is slow slows the other end down. The client's
 * end arrives as the end of reading, behind its last byte.
 */
#ifndef BLIX_TLS_TUNNEL_H
#define BLIX_TLS_TUNNEL_H

#include "tls/hosted.h"

#include <uv.h>

struct tls_tunnel;

/* From now on the library reads nothing from the session. *ret_fd is the caller's. ended() is
 * called once, later: what was written into *ret_fd before that was closed has left, or the
 * connection is broken. It must free the tunnel. */
int tls_tunnel_open(uv_loop_t *loop, struct tls_hosted *hosted, void (*ended)(void *data),
                    void *data, int *ret_fd, struct tls_tunnel **ret, struct blix_error *err);
/* Nobody writes into *ret_fd any more, closed or not. */
void tls_tunnel_finish(struct tls_tunnel *tunnel);
/* At once; ended() is not called. The session may then end. freed(), which may be NULL, is called
 * when the loop has let go. */
void tls_tunnel_free(struct tls_tunnel *tunnel, void (*freed)(void *data), void *data);

#endif
