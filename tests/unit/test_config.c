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

/* A cluster of one that an earlier blixd made goes on. */
static void one_server_keeps_its_identity(void **state)
{
	static const char text[] = "{\"cluster\":\"0123456789abcdef0123456789abcdef\"}\n";
	char template[] = "/tmp/blix-config-XXXXXX";
	const char *dir = make_dir(template);
	cleanup(freep) char *states = xasprintf("%s/s", dir);
	cleanup(freep) char *path = xasprintf("%s/cluster.json", states);
	struct config first, second;
	struct blix_error err;

	(void)state;
	assert_int_equal(file_make_dirs(states, 0750, &err), 0);
	assert_int_equal(file_write(path, text, strlen(text), 0600, &err), 0);
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

/* Without a cluster it waits; the identity that it gets says the rest, and nothing in the file may
 * contradict that, nor may the log go once it counts. */
static void an_identity_is_kept(void **state)
{
	static const char *const against[] = {
		",\"cluster\":\"x\"", ",\"id\":1", ",\"name\":\"other\"",
		(",\"id\":1,\"cluster\":\"x\",\"servers\":[{\"id\":1,\"name\":\"a\",\"raft\":\"/"
	         "r\",\"api\":\"/a\"}]")};
	char template[] = "/tmp/blix-config-XXXXXX";
	const char *dir = make_dir(template);
	cleanup(freep) char *states = xasprintf("%s/s", dir);
	cleanup(freep) char *raft = xasprintf("%s/s/raft", dir);
	struct node_identity identity = {.name = "n1"}, read;
	struct config config;
	struct blix_error err;

	(void)state;
	assert_int_equal(finish(&config, dir, "", &err), 0);
	assert_true(config.waits);
	assert_int_equal(config_enter(&config, &err), -BLIX_E_NOTFOUND);
	assert_int_equal(node_identity_addresses(&identity, ":9000", "10.0.0.1:9000", &err), 0);
	assert_string_equal(identity.advertise, "10.0.0.1:9000");
	assert_int_equal(node_identity_found(states, &identity, &err), 0);
	assert_int_equal(node_identity_read(states, &read, &err), 0);
	assert_memory_equal(&identity, &read, sizeof(read));
	assert_int_equal(config_enter(&config, &err), 0);
	assert_false(config.waits);
	assert_int_equal(config.id, identity.node);
	assert_string_equal(config.cluster, identity.cluster);
	config_done(&config);
	for (size_t i = 0; i < array_size(against); i++) {
		assert_int_equal(finish(&config, dir, against[i], &err), -BLIX_E_SPEC);
		assert_non_null(strstr(err.text, "contradicts"));
		config_done(&config);
	}
	assert_int_equal(node_identity_keep_log(states, &identity, &err), 0);
	assert_int_equal(finish(&config, dir, ",\"name\":\"n1\"", &err), -BLIX_E_CORRUPT);
	assert_string_equal(err.reason, "log-missing");
	config_done(&config);
	assert_int_equal(file_make_dirs(raft, 0700, &err), 0);
	assert_int_equal(finish(&config, dir, ",\"name\":\"n1\"", &err), 0);
	config_done(&config);
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

/* The next port is the log's; a host is needed where others are to come. */
static void addresses_of_a_node(void **state)
{
	struct node_identity identity = {0};
	char raft[JOIN_ADDRESS];
	struct blix_error err;

	(void)state;
	assert_int_equal(node_identity_raft_address("[::1]:7443", raft, &err), 0);
	assert_string_equal(raft, "[::1]:7444");
	assert_int_equal(node_identity_raft_address("h:65535", raft, &err), -BLIX_E_INVALID);
	assert_int_equal(node_identity_raft_address("h:0", raft, &err), -BLIX_E_INVALID);
	assert_int_equal(node_identity_addresses(&identity, "10.0.0.2:1000", "", &err), 0);
	assert_string_equal(identity.advertise, "10.0.0.2:1000");
	assert_int_equal(node_identity_addresses(&identity, "", "", &err), 0);
	assert_string_equal(identity.listen, ":7443");
	assert_null(strstr(identity.advertise, "0.0.0.0"));
	assert_int_equal(node_identity_addresses(&identity, "", ":7443", &err), -BLIX_E_INVALID);
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
		cmocka_unit_test(an_identity_is_kept),
		cmocka_unit_test(addresses_of_a_node),
		cmocka_unit_test(the_hosts_own_microvm),
		cmocka_unit_test(server_lists_are_checked),
	};

	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
