/* lib/base: what the strict parsers take and refuse, and that a capped buffer keeps its cap. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/parse.h"
#include "sys/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void names(void **state)
{
	static const char *const good[] = {"a", "web", "web-1", "0", "a0-b"};
	static const char *const bad[] = {"",    "-a", "a-",  "A",    "a.b", "../x",    "-R",
	                                  "a;b", "%i", "a\n", "$(x)", "a b", "\xc3\xa9"};
	char longest[65];

	(void)state;
	for (size_t i = 0; i < array_size(good); i++)
		assert_int_equal(parse_name("name", good[i], NULL), 0);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(parse_name("name", bad[i], NULL), -BLIX_E_INVALID);
	memset(longest, 'a', 64);
	longest[64] = '\0';
	assert_int_equal(parse_name("name", longest, NULL), -BLIX_E_INVALID);
	longest[63] = '\0';
	assert_int_equal(parse_name("name", longest, NULL), 0);
}

static void numbers(void **state)
{
	uint64_t v = 0;
	char text[32];

	(void)state;
	assert_int_equal(parse_size("512MiB", &v, NULL), 0);
	assert_int_equal(v, 512ULL << 20);
	assert_int_equal(parse_size("2g", &v, NULL), 0);
	assert_int_equal(v, 2ULL << 30);
	assert_int_equal(parse_size("20000000T", &v, NULL), -BLIX_E_INVALID);
	assert_int_equal(parse_size("1.5G", &v, NULL), -BLIX_E_INVALID);
	assert_int_equal(parse_u64("18446744073709551616", &v, NULL), -BLIX_E_INVALID);
	assert_int_equal(parse_duration("1h30m", &v, NULL), 0);
	assert_int_equal(v, 5400000);
	assert_int_equal(parse_duration("250ms", &v, NULL), 0);
	assert_int_equal(v, 250);
	assert_int_equal(parse_duration("30", &v, NULL), -BLIX_E_INVALID);
	assert_int_equal(parse_duration("", &v, NULL), -BLIX_E_INVALID);
	format_size(text, sizeof(text), 1536ULL << 20);
	assert_string_equal(text, "1.5GiB");
	format_duration(text, sizeof(text), 192000);
	assert_string_equal(text, "3m12s");
	assert_int_equal(parse_distance("craete", "create"), 2);
}

static void buffer_cap(void **state)
{
	cleanup(buf_done) struct buf b;

	(void)state;
	buf_init(&b, 10);
	assert_int_equal(buf_add_string(&b, "0123456789"), 0);
	assert_int_equal(buf_add_string(&b, "x"), -BLIX_E_TOOBIG);
	assert_true(buf_failed(&b));
	buf_clear(&b);
	assert_int_equal(buf_printf(&b, "%d", 42), 0);
	assert_string_equal(b.data, "42");
}

static int try_json(const char *text)
{
	cleanup(json_freep) cJSON *tree = NULL;

	return json_parse(text, strlen(text), &json_limits_request, &tree, NULL);
}

static void json_refuses(void **state)
{
	static const char *const bad[] = {
		"1e999",       "",     "{",       "{}x",      "{\"a\":1,\"a\":2}",
		"\"\xff\"",    "[1,]", "{\"a\"}", "\"\x01\"", "\"\xed\xa0\x80\"",
		"\"\xc0\xaf\""};
	char deep[128];

	(void)state;
	assert_int_equal(try_json("{\"a\":[1,{\"b\":\"\xc3\xa9\"}]}"), 0);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_true(try_json(bad[i]) < 0);
	memset(deep, '[', 40);
	memset(deep + 40, ']', 40);
	deep[80] = '\0';
	assert_true(try_json(deep) < 0);
}

static void json_getters(void **state)
{
	static const char *const keys[] = {"memory", "name", NULL};
	const char *text = "{\"memory\":9007199254740992,\"name\":\"x\"}";
	cleanup(json_freep) cJSON *tree = NULL;
	struct blix_error err;
	uint64_t v = 0;
	const char *s = NULL;

	(void)state;
	assert_int_equal(json_parse(text, strlen(text), &json_limits_request, &tree, NULL), 0);
	assert_int_equal(json_get_u64(tree, "memory", &v, NULL), 0);
	assert_true(v == 1ULL << 53);
	assert_int_equal(json_get_string(tree, "memory", &s, &err), -BLIX_E_INVALID);
	assert_int_equal(json_get_string(tree, "absent", &s, &err), 0);
	assert_null(s);
	assert_int_equal(json_only_keys(tree, keys, &err), 0);
	assert_int_equal(json_only_keys(tree, keys + 1, &err), -BLIX_E_INVALID);
	assert_string_equal(err.text, "unknown key 'memory'");
}

static void json_times(void **state)
{
	char text[48];

	(void)state;
	json_format_time(text, sizeof(text), 951782400123ULL); /* a leap day of a century year */
	assert_string_equal(text, "2000-02-29T00:00:00.123Z");
	json_format_time(text, sizeof(text), 1795458600000ULL);
	assert_string_equal(text, "2026-11-23T18:30:00.000Z");
}

static void errors_wrap(void **state)
{
	struct blix_error err;

	(void)state;
	assert_int_equal(blix_fail(&err, BLIX_E_NOTFOUND, "no %s", "x"), -BLIX_E_NOTFOUND);
	blix_reason(&err, "vm-missing");
	assert_int_equal(blix_wrap(&err, "vm %s", "web"), -BLIX_E_NOTFOUND);
	assert_string_equal(err.text, "vm web: no x");
	assert_string_equal(blix_error_reason(&err), "vm-missing");
	assert_int_equal(blix_code_find("not-found"), BLIX_E_NOTFOUND);
	assert_false(blix_code_info(BLIX_E_UNKNOWN)->definite);
}

/* Around the ends of blocks, as sha256sum(1) has them; and the vector of a million. */
static void sha256(void **state)
{
	static const struct {
		size_t n;
		const char *hex;
	} wanted[] = {
		{0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
		{56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
		{63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
		{64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
		{1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
	};
	cleanup(freep) char *text = xcalloc(1, 1000000);
	char hex[SHA256_HEX];

	(void)state;
	memset(text, 'a', 1000000);
	for (size_t i = 0; i < array_size(wanted); i++) {
		sha256_hex(text, wanted[i].n, hex);
		assert_string_equal(hex, wanted[i].hex);
	}
}

static void addresses(void **state)
{
	static const struct {
		const char *text, *host;
		unsigned port;
	} good[] = {
		{"10.0.0.1:7443", "10.0.0.1", 7443},
		{"[::1]:1", "::1", 1},
		{"node-1.example:65535", "node-1.example", 65535},
		{":7443", "", 7443},
		{"127.0.0.1:0", "127.0.0.1", 0},
	};
	static const char *const bad[] = {"",       "10.0.0.1",  "10.0.0.1:",   "a:65536", "a:-1",
	                                  "::1:80", "[]:80",     "[::1:80",     "a b:80",  "a/b:80",
	                                  "a@b:80", "[::1]x:80", "http://a:80", "a:8\n"};
	char host[PARSE_HOST];
	uint16_t port;

	(void)state;
	for (size_t i = 0; i < array_size(good); i++) {
		assert_int_equal(parse_address(good[i].text, host, &port, NULL), 0);
		assert_string_equal(host, good[i].host);
		assert_int_equal(port, good[i].port);
	}
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(parse_address(bad[i], host, &port, NULL), -(int)BLIX_E_INVALID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses),    cmocka_unit_test(names),
		cmocka_unit_test(numbers),      cmocka_unit_test(buffer_cap),
		cmocka_unit_test(json_refuses), cmocka_unit_test(json_getters),
		cmocka_unit_test(json_times),   cmocka_unit_test(errors_wrap),
		cmocka_unit_test(sha256),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
