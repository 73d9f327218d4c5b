/* lib/client without a daemon: endpoints, escaping, what a local flake is, and that an error of the
 * socket is told apart from one of the daemon. */
#include "client/client.h"
#include "client/flake.h"

#include "base/alloc.h"
#include "base/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static int try_open(const char *endpoints, struct blix_error *err)
{
	struct client_options options = {.endpoints = endpoints, .timeout_ms = 1000};
	cleanup(client_freep) struct client *client = NULL;

	return client_open(&options, &client, err);
}

static void endpoints(void **state)
{
	static const char *const good[] = {"/a", "unix:/a", "/a,unix:/b,/c"};
	static const char *const bad[] = {"",    "a",   "unix:",    "unix:a",
	                                  "/a,", ",/a", "http://x", "/1,/2,/3,/4,/5,/6,/7,/8,/9"};
	struct blix_error err;
	char longest[200];

	(void)state;
	for (size_t i = 0; i < array_size(good); i++)
		assert_int_equal(try_open(good[i], &err), 0);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(try_open(bad[i], &err), -BLIX_E_SPEC);
	memset(longest, '/', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(try_open(longest, &err), -BLIX_E_SPEC);
}

static void no_daemon(void **state)
{
	struct client_options options = {.endpoints = "/nonexistent/a,/nonexistent/b",
	                                 .timeout_ms = CLIENT_TIMEOUT_NONE};
	cleanup(client_freep) struct client *client = NULL;
	cleanup(json_freep) cJSON *answer = NULL;
	struct blix_error err;

	(void)state;
	assert_int_equal(client_open(&options, &client, &err), 0);
	assert_int_equal(client_left_ms(client), CLIENT_TIMEOUT_NONE);
	assert_int_equal(client_call(client, "GET", "/v1/version", NULL, &answer, &err),
	                 -BLIX_E_UNAVAILABLE);
	assert_string_equal(err.hint, "is blixd running?");
	assert_int_equal(client_call(client, "POST", "/v1/vms/a/start", NULL, &answer, &err),
	                 -BLIX_E_UNAVAILABLE);
	assert_null(answer);
}

static void escape(void **state)
{
	cleanup(buf_done) struct buf out;

	(void)state;
	buf_init(&out, 100);
	client_escape(&out, "a-b_c.d~E9 /=&%\xc3\xa9");
	assert_string_equal(out.data, "a-b_c.d~E9%20%2F%3D%26%25%C3%A9");
}

static void local_flakes(void **state)
{
	static const char *const local[] = {
		".", "./x", "../x", "/x", "path:.", "path:/x", "path:/nix/store/abc-source"};
	static const char *const remote[] = {"github:a/b", "git+https://x/y", "https://x/y.tar.gz",
	                                     "path:/nix/store/abc-source?narHash=sha256-x"};

	(void)state;
	for (size_t i = 0; i < array_size(local); i++)
		assert_true(flake_is_local(local[i]));
	for (size_t i = 0; i < array_size(remote); i++)
		assert_false(flake_is_local(remote[i]));
}

static void missing_flake(void **state)
{
	struct flake_pack pack;
	struct blix_error err;

	(void)state;
	assert_int_equal(flake_pack("/nonexistent", 1000, &pack, &err), -BLIX_E_IMAGE);
	assert_string_equal(err.reason, "flake-missing");
	assert_int_equal(flake_pack("/dev", 1000, &pack, &err), -BLIX_E_IMAGE);
	assert_string_equal(err.reason, "flake-missing");
	assert_int_equal(pack.fd, -1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(endpoints),     cmocka_unit_test(no_daemon),
		cmocka_unit_test(escape),        cmocka_unit_test(local_flakes),
		cmocka_unit_test(missing_flake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
