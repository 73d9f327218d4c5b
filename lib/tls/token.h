/* Join tokens: one printable line that a person carries from a cluster to a new node.
 *
 * It says where the cluster is, what its CA is (so that the joiner knows it before anything secret
 * leaves), which node of which kind may join, and holds the secret that proves it. Of the secret a
 * server keeps the hash alone. The line is as secret as the secret: seal_wipe() it.
 */
#ifndef BLIX_TLS_TOKEN_H
#define BLIX_TLS_TOKEN_H

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/parse.h"
#include "tls/authority.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOIN_SECRET  32
#define JOIN_ADDRESS (PARSE_HOST + 8) /* [HOST]:PORT, with the NUL */

struct join_token {
	char name[LIMIT_NAME + 1]; /* of the node */
	enum tls_kind kind;        /* TLS_SERVER or TLS_WORKER */
	char ca_fingerprint[TLS_HASH];
	char addresses[LIMIT_TOKEN_ADDRESSES][JOIN_ADDRESS]; /* HOST:PORT, best first */
	size_t n_addresses;                                  /* at least one */
	unsigned char secret[JOIN_SECRET];
	uint64_t expires_ms; /* wall clock of the cluster */
};

/* A new random secret. */
int join_token_secret(unsigned char ret[JOIN_SECRET], struct blix_error *err);
/* Fills a new buffer. -BLIX_E_INVALID names what a token cannot say. */
int join_token_write(const struct join_token *token, struct buf *ret_line, struct blix_error *err);
/* Takes exactly what join_token_write() makes; -BLIX_E_INVALID otherwise. Whether it has expired or
 * was used is for the cluster to say. */
int join_token_read(const char *line, struct join_token *ret, struct blix_error *err);
void join_token_wipe(struct join_token *token);
/* What a server keeps: SHA-256 of the secret. */
void join_token_hash(const unsigned char secret[JOIN_SECRET], char ret[TLS_HASH]);
/* Whether `hash` is of this secret; takes as long for any other. */
bool join_token_matches(const char *hash, const unsigned char secret[JOIN_SECRET]);

#endif
