/* What every mutation says beside its content: who asks, which request of theirs it is, so that it
 * happens once however often it arrives, and which version of the object it is about.
 *
 * A session is named by its number and the request in it, or by an idempotency key, which is the
 * only request of a session of its own: its number is a hash of principal and key, so that no
 * principal meets another's keys
 * (docs/decisions/033-a-key-is-a-session-of-one-request.md). */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/sha256.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t session_of_key(const char *principal, const char *key)
{
	cleanup(freep) char *text = xasprintf("blix-key %s %s", principal, key);
	char hex[SHA256_HEX];
	uint64_t session;

	sha256_hex(text, strlen(text), hex);
	hex[16] = '\0';
	session = strtoull(hex, NULL, 16);
	return session != 0 ? session : 1;
}

static int take_numbers(const char *session, const char *number, struct command *command,
                        struct blix_error *err)
{
	int rc;

	if (session == NULL || number == NULL)
		return blix_fail(err, BLIX_E_INVALID,
		                 "headers Blix-Session and Blix-Request go together");
	if ((rc = parse_u64(session, &command->session, err)) < 0 ||
	    (rc = parse_u64(number, &command->request, err)) < 0)
		return rc;
	if (command->session == 0 || command->request == 0)
		return blix_fail(err, BLIX_E_INVALID, "session and request numbers begin at 1");
	return 0;
}

int api_identify(const struct daemon *d, const struct http_request *request,
                 struct command *command, struct blix_error *err)
{
	const char *session = http_header(request, "Blix-Session");
	const char *number = http_header(request, "Blix-Request");
	const char *key = http_header(request, "Idempotency-Key");
	int rc = 0;

	free(command->principal);
	command->principal = api_principal(d, request);
	if (key != NULL && (session != NULL || number != NULL))
		return blix_fail(err, BLIX_E_INVALID,
		                 "Idempotency-Key stands for a session and request of its own");
	if (session != NULL || number != NULL)
		return take_numbers(session, number, command, err);
	if (key == NULL)
		return 0;
	rc = parse_key(key, err);
	if (rc < 0)
		return rc;
	command->session = session_of_key(command->principal, key);
	command->request = 1;
	return 0;
}

/* "N", as ETag gives it; strong only, since a version is all there is. */
static int parse_tag(const char *text, uint64_t *ret, struct blix_error *err)
{
	char number[24];
	size_t n = strlen(text);

	if (n < 3 || n - 2 >= sizeof(number) || text[0] != '"' || text[n - 1] != '"')
		return blix_fail(err, BLIX_E_INVALID, "If-Match is not a version in quotes");
	memcpy(number, text + 1, n - 2);
	number[n - 2] = '\0';
	return parse_u64(number, ret, err);
}

int api_if_version(const struct http_request *request, uint64_t *ret, struct blix_error *err)
{
	const char *tag = http_header(request, "If-Match");
	uint64_t matched = 0;
	int rc = api_query_number(request, "ifVersion", UINT64_MAX, ret, err);

	if (rc == 0 && tag != NULL)
		rc = parse_tag(tag, &matched, err);
	if (rc < 0)
		return rc;
	if (tag != NULL && http_query(request, "ifVersion") != NULL && matched != *ret)
		return blix_fail(err, BLIX_E_INVALID, "If-Match and ifVersion differ");
	*ret = tag != NULL ? matched : *ret;
	if (*ret == 0 && (tag != NULL || http_query(request, "ifVersion") != NULL))
		return blix_fail(err, BLIX_E_INVALID, "versions begin at 1");
	return 0;
}
