/* lib/node/config: what a configuration may say, and that every mistake is named. */
#include "base/alloc.h"
#include "node/config.h"
#include "node/supervisor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "sys/file.h"

static int parse(struct config *config, const char *text, struct blix_error *err)
{
	config_init(config);
	return config_parse(config, text, strlen(text), err);
}

static void accepts(void **state)
{
	struct blix_error err;
	struct config config;

	(void)state;
	assert_int_equal(parse(&config,
	                       "{\"overcommit\":{\"cpu\":1.5,\"memory\":2},\"buildsMax\":7,"
	                       "\"nix\":{\"extraConfig\":\"sandbox = false\"},"
	                       "\"capacity\":{\"cpus\":4,\"memoryBytes\":1073741824}}",
	                       &err),
	                 0);
	assert_int_equal(config.overcommit_cpu, 150);
	assert_int_equal(config.overcommit_memory, 200);
	assert_int_equal(config.builds_max, 7);
	assert_string_equal(config.nix_config, "sandbox = false");
	assert_int_equal(config.memory_bytes, 1 << 30);
	assert_string_equal(config.microvms_dir, "/var/lib/microvms");
	config_done(&config);
}

/* Addresses of TLS, of one's own and of others. */
static void addresses(void **state)
{
	static const char *const bad[] = {
		"{\"listen\":\":7443\"}",
		"{\"listen\":[7443]}",
		"{\"listen\":[\"7443\"]}",
		"{\"listen\":[\":1\",\":2\",\":3\",\":4\",\":5\",\":6\",\":7\",\":8\",\":9\"]}",
		"{\"servers\":[{\"id\":1,\"name\":\"a\",\"raft\":\"/r\",\"api\":\"x\"}]}",
	};
	struct blix_error err;
	struct config config;

	(void)state;
	assert_int_equal(
		parse(&config,
	              "{\"listen\":[\"127.0.0.1:7443\",\"[::1]:7443\"],\"servers\":[{\"id\":1,"
	              "\"name\":\"a\",\"raft\":\"/r\",\"api\":\"a.example:7443\"}]}",
	              &err),
		0);
	assert_int_equal(config.n_listen, 2);
	assert_string_equal(config.listen[1], "[::1]:7443");
	assert_string_equal(config.servers[0].api, "a.example:7443");
	config_done(&config);
	for (size_t i = 0; i < array_size(bad); i++) {
		assert_int_equal(parse(&config, bad[i], &err), -(int)BLIX_E_SPEC);
		config_done(&config);
	}
}

/* The choice by looking, the choice by name, and a name that is none. */
static void chooses_a_supervisor(void **state)
{
	const struct supervisor *supervisor = NULL;
	struct blix_error err;
	struct config config;

	(void)state;
	assert_int_equal(parse(&config, "{\"supervision\":\"shim\"}", &err), 0);
	assert_int_equal(supervisor_choose(&config, &supervisor, &err), 0);
	assert_string_equal(supervisor->name, "shim");
	config_done(&config);
	assert_int_equal(parse(&config, "{}", &err), 0);
	assert_int_equal(supervisor_choose(&config, &supervisor, &err), 0);
	config_done(&config);
	assert_int_equal(
		parse(&config, "{\"supervision\":\"systemd\",\"systemdDir\":\"/nowhere\"}", &err),
		0);
	assert_int_equal(supervisor_choose(&config, &supervisor, &err), -BLIX_E_SPEC);
	assert_non_null(strstr(err.text, "this host has no 'systemd'"));
	config_done(&config);
	assert_int_equal(parse(&config, "{\"supervision\":\"runit\"}", &err), 0);
	assert_int_equal(supervisor_choose(&config, &supervisor, &err), -BLIX_E_SPEC);
	assert_non_null(strstr(err.text, "supervision"));
	config_done(&config);
}

static void names_each_mistake(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"{\"stateDirr\":\"/x\"}", "unknown key 'stateDirr'"},
		{"{\"stateDir\":1}", "key 'stateDir' must be a string"},
		{"{\"electionTimeoutMs\":1}", "electionTimeoutMs"},
		{"{\"overcommit\":{\"cpu\":\"4\"}}", "overcommit: key 'cpu'"},
		{"{\"overcommit\":{\"disk\":4}}", "overcommit: unknown key 'disk'"},
		{"{\"servers\":[{\"id\":1,\"name\":\"a\"}]}", "servers[0]"},
		{"{\"servers\":{}}", "key 'servers' must be an array"},
		{"{", "JSON is malformed"},
		{"[]", "a JSON object is expected"},
	};
	struct blix_error err;
	struct config config;

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++) {
		assert_int_equal(parse(&config, bad[i].text, &err), -BLIX_E_SPEC);
		assert_int_equal(err.code, BLIX_E_SPEC);
		assert_non_null(strstr(err.text, bad[i].says));
		config_done(&config);
	}
}

static const char *make_dir(char *template)
{
	assert_non_null(mkdtemp(template));
	return template;
}

/* A build tree in small: the helpers are found by libexecDir. */
static int finish(struct config *config, const char *dir, const char *extra, struct blix_error *err)
{
	cleanup(freep) char *text =
		xasprintf("{\"libexecDir\":\"%s\",\"stateDir\":\"%s/s\",\"runDir\":\"%s/r\","
	                  "\"socket\":\"%s/sock\"%s}",
	                  dir, dir, dir, dir, extra);

	assert_int_equal(parse(config, text, err), 0);
	return config_finish(config, "blixd", err);
}

static void one_server_keeps_its_identity(void **state)
{
	char template[] = "/tmp/blix-config-XXXXXX";
	const char *dir = make_dir(template);
	struct config first, second;
	struct blix_error err;

	(void)state;
	assert_int_equal(finish(&first, dir, ",\"name\":\"host\"", &err), 0);
	assert_int_equal(first.n_servers, 1);
	assert_int_equal(strlen(first.cluster), 32);
	assert_string_equal(first.servers[0].name, "host");
	assert_int_equal(finish(&second, dir, "", &err), 0);
	assert_string_equal(first.cluster, second.cluster);
	config_done(&first);
	config_done(&second);
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

/* Beside the standard directory the host's own command is driven, elsewhere ours. */
static void the_hosts_own_microvm(void **state)
{
	char template[] = "/tmp/blix-config-XXXXXX";
	const char *dir = make_dir(template);
	cleanup(freep) char *own = xasprintf("%s/microvm", dir);
	cleanup(freep) char *path = xasprintf(",\"path\":\"/nowhere:%s\"", dir);
	cleanup(freep) char *elsewhere = xasprintf("%s,\"microvmsDir\":\"%s/m\"", path, dir);
	cleanup(freep) char *libexec = xasprintf("%s/libexec", dir);
	struct blix_error err;
	struct config config;

	(void)state;
	assert_int_equal(file_write(own, "", 0, 0755, &err), 0);
	assert_int_equal(finish(&config, dir, path, &err), 0);
	assert_string_equal(config.microvm, own);
	config_done(&config);
	assert_int_equal(file_make_dirs(libexec, 0755, &err), 0);
	assert_int_equal(finish(&config, libexec, elsewhere, &err), 0);
	assert_string_not_equal(config.microvm, own);
	config_done(&config);
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

static void server_lists_are_checked(void **state)
{
#define SERVER(id, name) "{\"id\":" #id ",\"name\":\"" name "\",\"raft\":\"/r\",\"api\":\"/a\"}"
	static const struct {
		const char *extra, *says;
	} bad[] = {
		{",\"cluster\":\"c\",\"id\":9,\"servers\":[" SERVER(1, "a") "]", "key 'id'"},
		{",\"id\":1,\"servers\":[" SERVER(1, "a") "]", "key 'cluster'"},
		{",\"cluster\":\"c\",\"id\":1,\"servers\":[" SERVER(1, "a") "," SERVER(1, "b") "]",
	         "must be unique"},
		{",\"cluster\":\"c\",\"id\":1,\"electionTimeoutMs\":100,\"heartbeatMs\":90,"
	         "\"servers\":[" SERVER(1, "a") "]",
	         "heartbeatMs"},
		{",\"microvmsDir\":\"relative\"", "microvmsDir"},
	};
	char template[] = "/tmp/blix-config-XXXXXX";
	const char *dir = make_dir(template);
	struct blix_error err;
	struct config config;

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++) {
		assert_int_equal(finish(&config, dir, bad[i].extra, &err), -BLIX_E_SPEC);
		assert_non_null(strstr(err.text, bad[i].says));
		config_done(&config);
	}
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts),
		cmocka_unit_test(addresses),
		cmocka_unit_test(chooses_a_supervisor),
		cmocka_unit_test(names_each_mistake),
		cmocka_unit_test(one_server_keeps_its_identity),
		cmocka_unit_test(the_hosts_own_microvm),
		cmocka_unit_test(server_lists_are_checked),
	};

	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
