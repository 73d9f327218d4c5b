/* A node asks a cluster to take it in.
 *
 * Each address that is known is tried in turn: a TLS session whose other end is a server of the CA
 * that the token names, or nothing of the secret leaves; then POST /v1/join with the secret, a
 * request for a certificate, and where this node will be reached. What comes back is checked and
 * written to STATE/tls, the identity last.
 *
 * The node's key is made once and kept: a try after a crash shows the same key, and gets what the
 * first one got.
 */
#ifndef BLIX_NODE_JOINING_H
#define BLIX_NODE_JOINING_H

#include "node/identity.h"

#include <uv.h>

struct joining;

struct joining_options {
	uv_loop_t *loop;
	const char *state_dir; /* must outlive it; so must the loop */
	const struct join_token *token;
	const char *address;                  /* asked first; "" none but the token's */
	const struct node_identity *identity; /* zone, listen and advertise count */
};

/* 0: the identity is on the disk. Otherwise err says why not: what the cluster answered, or why
 * the last address could not be asked. The joining is gone. */
typedef void (*joining_cb)(void *data, int status, const struct node_identity *identity,
                           const struct blix_error *err);

/* Copies the options but state_dir. cb is called once and later, unless it is cancelled. */
int joining_start(const struct joining_options *options, joining_cb cb, void *data,
                  struct joining **ret, struct blix_error *err);
/* cb will not be called; `gone`, which may be NULL, is when all is over. */
void joining_cancel(struct joining *joining, void (*gone)(void *data), void *data);

#endif
