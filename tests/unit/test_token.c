/* Join tokens: one line for one token, and any other line is none. */
#include "base/alloc.h"
#include "sys/seal.h"
#include "tls/token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct join_token example(size_t n_addresses)
{
	struct join_token t = {
		.name = "n2",
		.kind = TLS_WORKER,
		.n_addresses = n_addresses,
		.expires_ms = 1800000000000,
	};

	memset(t.ca_fingerprint, 'a', TLS_HASH - 1);
	assert_int_equal(join_token_secret(t.secret, NULL), 0);
	for (size_t i = 0; i < n_addresses; i++)
		(void)snprintf(t.addresses[i], JOIN_ADDRESS, "host-%zu.example:7443", i);
	return t;
}

static void round_trip(const struct join_token *t)
{
	struct join_token read;
	struct blix_error err;
	struct buf line;

	if (join_token_write(t, &line, &err) != 0)
		fail_msg("write: %s", err.text);
	assert_int_equal(strspn(line.data, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	                                   "0123456789-_"),
	                 line.len);
	if (join_token_read(line.data, &read, &err) != 0)
		fail_msg("read: %s", err.text);
	assert_string_equal(read.name, t->name);
	assert_int_equal(read.kind, t->kind);
	assert_string_equal(read.ca_fingerprint, t->ca_fingerprint);
	assert_memory_equal(read.secret, t->secret, JOIN_SECRET);
	assert_int_equal(read.expires_ms, t->expires_ms);
	assert_int_equal(read.n_addresses, t->n_addresses);
	for (size_t i = 0; i < t->n_addresses; i++)
		assert_string_equal(read.addresses[i], t->addresses[i]);
	seal_wipe(&line);
}

static void round_trips(void **state)
{
	struct join_token t = example(1);

	(void)state;
	round_trip(&t);
	(void)snprintf(t.addresses[0], JOIN_ADDRESS, "[2001:db8::1]:7443");
	t.kind = TLS_SERVER;
	round_trip(&t);
	/* The longest of everything fits the limit of the line. */
	t = example(LIMIT_TOKEN_ADDRESSES);
	memset(t.name, 'n', LIMIT_NAME);
	for (size_t i = 0; i < t.n_addresses; i++) {
		memset(t.addresses[i], 'h', PARSE_HOST - 1);
		(void)snprintf(t.addresses[i] + PARSE_HOST - 1, 8, ":65535");
	}
	round_trip(&t);
}

/* No cut, no changed letter and nothing appended is taken. */
static void damage(void **state)
{
	struct join_token t = example(2);
	struct join_token read = {.kind = TLS_USER};
	struct buf line;

	(void)state;
	assert_int_equal(join_token_write(&t, &line, NULL), 0);
	for (size_t i = 0; i < line.len; i++) {
		char kept = line.data[i];

		for (const char *c = "Ab0-_= \n"; *c != '\0'; c++) {
			if (*c == kept)
				continue;
			line.data[i] = *c;
			assert_int_equal(join_token_read(line.data, &read, NULL), -BLIX_E_INVALID);
		}
		line.data[i] = '\0';
		assert_int_equal(join_token_read(line.data, &read, NULL), -BLIX_E_INVALID);
		line.data[i] = kept;
	}
	assert_int_equal(buf_add_string(&line, "A"), 0);
	assert_int_equal(join_token_read(line.data, &read, NULL), -BLIX_E_INVALID);
	assert_int_equal(read.kind, TLS_USER);
	seal_wipe(&line);
	buf_init(&line, LIMIT_TOKEN * 2);
	for (size_t i = 0; i <= LIMIT_TOKEN; i++)
		assert_int_equal(buf_add_string(&line, "A"), 0);
	assert_int_equal(join_token_read(line.data, &read, NULL), -BLIX_E_INVALID);
	buf_done(&line);
}

static void refused(struct join_token t)
{
	struct buf line;

	assert_int_equal(join_token_write(&t, &line, NULL), -BLIX_E_INVALID);
}

static void what_is_no_token(void **state)
{
	static const char *const addresses[] = {
		"",      "host",        ":7443",    "host:",    "host:0",   "host:65536",
		"a b:1", "/run/socket", "host:1\n", "ho\"st:1", "[::1:443", "http://h:1"};
	struct join_token t;

	(void)state;
	for (size_t i = 0; i < array_size(addresses); i++) {
		t = example(2);
		(void)snprintf(t.addresses[1], JOIN_ADDRESS, "%s", addresses[i]);
		refused(t);
	}
	refused(example(0));
	t = example(1);
	t.n_addresses = LIMIT_TOKEN_ADDRESSES + 1;
	refused(t);
	t = example(1);
	t.kind = TLS_USER;
	refused(t);
	t = example(1);
	t.name[0] = '-';
	refused(t);
	t = example(1);
	t.ca_fingerprint[10] = 'x';
	refused(t);
	t.ca_fingerprint[10] = '\0';
	refused(t);
}

static void secrets(void **state)
{
	struct join_token a = example(1);
	struct join_token b = example(1);
	char hash[TLS_HASH];

	(void)state;
	join_token_hash(a.secret, hash);
	assert_true(join_token_matches(hash, a.secret));
	assert_false(join_token_matches(hash, b.secret));
	assert_false(join_token_matches("", a.secret));
	hash[63] = hash[63] == '0' ? '1' : '0';
	assert_false(join_token_matches(hash, a.secret));
	join_token_wipe(&a);
	assert_int_equal(a.n_addresses, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trips),
		cmocka_unit_test(damage),
		cmocka_unit_test(what_is_no_token),
		cmocka_unit_test(secrets),
	};

	return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
