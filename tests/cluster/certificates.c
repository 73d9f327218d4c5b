/* certificates CLUSTER DIR WHO...: a CA of a cluster and what it signs, for tests.
 *
 * WHO is server:ID:STATEDIR or worker:ID:STATEDIR, whose files go below STATEDIR/tls; or
 * ROLE:NAME, whose files are DIR/NAME.pem and DIR/NAME.key; with `expired-` before it, of
 * yesterday. DIR/ca.pem and DIR/ca.key are made when they are not there, else taken. */
#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "tls/authority.h"

#include <stdio.h>
#include <stdlib.h>

#define DAY_MS 86400000ULL

static struct tls_pem ca;

static void check(int rc, const struct blix_error *err)
{
	if (rc == 0)
		return;
	(void)fprintf(stderr, "certificates: %s\n", err->text);
	exit(1);
}

static void write_text(const char *dir, const char *name, const struct buf *text)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	struct blix_error err;

	check(file_write(path, text->data, text->len, 0600, &err), &err);
}

static void authority_get(const char *cluster, const char *dir)
{
	cleanup(freep) char *cert = xasprintf("%s/ca.pem", dir);
	cleanup(freep) char *key = xasprintf("%s/ca.key", dir);
	struct blix_error err;

	tls_pem_init(&ca);
	if (file_exists(cert)) {
		check(file_read(cert, &ca.cert, &err), &err);
		check(file_read(key, &ca.key, &err), &err);
		return;
	}
	check(authority_make(cluster, clock_wall_ms(), &ca, &err), &err);
	write_text(dir, "ca.pem", &ca.cert);
	write_text(dir, "ca.key", &ca.key);
}

static void issue(struct tls_identity *who, struct tls_pem *ret)
{
	cleanup(buf_done) struct buf request = {0};
	uint64_t now_ms = clock_wall_ms();
	struct blix_error err;

	tls_pem_init(ret);
	if (strncmp(who->name, "expired-", 8) == 0) {
		who->not_after_ms = now_ms - DAY_MS;
		now_ms = who->not_after_ms - DAY_MS;
	}
	check(tls_key_make(&ret->key, &err), &err);
	check(tls_request_make(&ret->key, &request, &err), &err);
	check(authority_issue(&ca, &request, now_ms, who, &ret->cert, &err), &err);
}

static void node(enum tls_kind kind, const char *id, const char *dir)
{
	struct tls_identity who = {.kind = kind, .node = strtoull(id, NULL, 10)};
	cleanup(tls_pem_done) struct tls_pem own;
	struct blix_error err;

	(void)snprintf(who.name, sizeof(who.name), "n%s", id);
	issue(&who, &own);
	check(tls_file_write(dir, TLS_FILE_CA, &ca.cert, &err), &err);
	check(tls_file_write(dir, TLS_FILE_NODE, &own.cert, &err), &err);
	check(tls_file_write(dir, TLS_FILE_NODE_KEY, &own.key, &err), &err);
}

static void user(const char *role, const char *name, const char *dir)
{
	struct tls_identity who = {.kind = TLS_USER};
	cleanup(freep) char *cert = xasprintf("%s.pem", name);
	cleanup(freep) char *key = xasprintf("%s.key", name);
	cleanup(tls_pem_done) struct tls_pem own;

	if (!tls_role_find(role, &who.role))
		exit(64);
	(void)snprintf(who.name, sizeof(who.name), "%s", name);
	issue(&who, &own);
	write_text(dir, cert, &own.cert);
	write_text(dir, key, &own.key);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 64;
	authority_get(argv[1], argv[2]);
	for (int i = 3; i < argc; i++) {
		cleanup(freep) char *kind = xstrdup(argv[i]);
		char *first = strchr(kind, ':'), *second;

		if (first == NULL)
			return 64;
		*first++ = '\0';
		second = strchr(first, ':');
		if (second != NULL)
			*second++ = '\0';
		if (second != NULL)
			node(strcmp(kind, "worker") == 0 ? TLS_WORKER : TLS_SERVER, first, second);
		else
			user(kind, first, argv[2]);
	}
	tls_pem_done(&ca);
	return 0;
}
