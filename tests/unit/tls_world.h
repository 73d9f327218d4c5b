/* A cluster's CA with nodes and users of it, for tests of what speaks TLS. */
#ifndef TESTS_TLS_WORLD_H
#define TESTS_TLS_WORLD_H

#include "base/alloc.h"
#include "sys/clock.h"
#include "tls/authority.h"
#include "tls/credentials.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define TLS_WORLD "00112233445566778899aabbccddeeff"
#define TLS_OTHER "ff112233445566778899aabbccddeeff"

static inline void tls_world_ca(const char *cluster, struct tls_pem *ret)
{
	assert_int_equal(authority_make(cluster, clock_wall_ms(), ret, NULL), 0);
}

/* A new key with a certificate for `who`; one whose not_after_ms has passed is made as of then. */
static inline void tls_world_issue(const struct tls_pem *ca, struct tls_identity who,
                                   struct tls_pem *ret)
{
	uint64_t now_ms = clock_wall_ms();
	struct blix_error err;
	struct buf request;

	if (who.not_after_ms != 0 && who.not_after_ms < now_ms)
		now_ms = who.not_after_ms - 1000;
	tls_pem_init(ret);
	assert_int_equal(tls_key_make(&ret->key, NULL), 0);
	assert_int_equal(tls_request_make(&ret->key, &request, NULL), 0);
	if (authority_issue(ca, &request, now_ms, &who, &ret->cert, &err) != 0)
		fail_msg("issue: %s", err.text);
	buf_done(&request);
}

static inline struct tls_credentials *tls_world_credentials(const struct tls_pem *ca,
                                                            struct tls_identity who)
{
	struct tls_credentials *c;
	struct blix_error err;
	struct tls_pem own;

	tls_world_issue(ca, who, &own);
	if (credentials_open(&ca->cert, &own, &c, &err) != 0)
		fail_msg("open: %s", err.text);
	tls_pem_done(&own);
	return c;
}

static inline struct tls_credentials *tls_world_node(const struct tls_pem *ca, enum tls_kind kind,
                                                     uint64_t node)
{
	struct tls_identity who = {.kind = kind, .node = node};

	(void)snprintf(who.name, sizeof(who.name), "n%u", (unsigned)(node % 1000));
	return tls_world_credentials(ca, who);
}

#endif
