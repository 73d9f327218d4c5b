/* Certificates for tests: authorities, and what they sign, as texts and as files. */
#ifndef BLIX_TEST_CERTIFICATES_H
#define BLIX_TEST_CERTIFICATES_H

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "tls/authority.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define CLUSTER "00112233445566778899aabbccddeeff"
#define ELSE    "ffeeddccbbaa99887766554433221100"
#define DAY_MS  86400000ULL

static inline void authority(const char *cluster, struct tls_pem *ret)
{
	tls_pem_init(ret);
	assert_int_equal(authority_make(cluster, clock_wall_ms(), ret, NULL), 0);
}

/* A certificate of `who`; with not_after_ms in the past it has expired. */
static inline void certificate(const struct tls_pem *ca, struct tls_identity who,
                               struct tls_pem *ret)
{
	cleanup(buf_done) struct buf request = {0};
	uint64_t now_ms = clock_wall_ms();

	tls_pem_init(ret);
	assert_int_equal(tls_key_make(&ret->key, NULL), 0);
	assert_int_equal(tls_request_make(&ret->key, &request, NULL), 0);
	if (who.not_after_ms != 0 && who.not_after_ms < now_ms)
		now_ms = who.not_after_ms - DAY_MS;
	assert_int_equal(authority_issue(ca, &request, now_ms, &who, &ret->cert, NULL), 0);
}

static inline struct tls_identity a_user(const char *name, enum tls_role role)
{
	struct tls_identity who = {.kind = TLS_USER, .role = role};

	(void)snprintf(who.name, sizeof(who.name), "%s", name);
	return who;
}

static inline struct tls_identity a_node(enum tls_kind kind, uint64_t id)
{
	struct tls_identity who = {.kind = kind, .node = id};

	(void)snprintf(who.name, sizeof(who.name), "n%u", (unsigned)id);
	return who;
}

/* DIR/NAME.ca, .cert and .key */
static inline void write_files(const char *dir, const char *name, const struct tls_pem *ca,
                               const struct tls_pem *own)
{
	const struct {
		const char *ending;
		const struct buf *text;
	} files[] = {{"ca", &ca->cert}, {"cert", &own->cert}, {"key", &own->key}};

	for (size_t i = 0; i < array_size(files); i++) {
		cleanup(freep) char *path = xasprintf("%s/%s.%s", dir, name, files[i].ending);

		assert_int_equal(
			file_write(path, files[i].text->data, files[i].text->len, 0600, NULL), 0);
	}
}

static inline void remove_files(const char *dir, const char *name)
{
	static const char *const endings[] = {"ca", "cert", "key"};

	for (size_t i = 0; i < array_size(endings); i++) {
		cleanup(freep) char *path = xasprintf("%s/%s.%s", dir, name, endings[i]);

		(void)unlink(path);
	}
}

#endif
