/* The daemon's configuration: see config.h and blix.json(5).
 *
 * Defaults, then the file (or --dev), then what can only be known on this host: config_finish().
 * Every failure names the key. */
#include "node/config.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/parse.h"
#include "microvm/command_line.h"
#include "node/supervisor.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_MAX 8 /* addresses of one host, of both families, on a few networks */

#define CHILD_PATH                                                                                 \
	"/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/sbin:"            \
	"/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

void config_init(struct config *config)
{
	memset(config, 0, sizeof(*config));
	config->name = xstrdup("");
	config->cluster = xstrdup("");
	config->id = 0;
	config->state_dir = xstrdup("/var/lib/blix");
	config->run_dir = xstrdup("/run/blix");
	config->socket = xstrdup("/run/blix/blix.sock");
	config->group = xstrdup("blix");
	config->microvms_dir = xstrdup(CONFIG_MICROVMS_DIR);
	config->microvm = xstrdup("");
	config->libexec_dir = xstrdup("");
	config->gcroots_dir = xstrdup("/nix/var/nix/gcroots/microvm");
	config->nix_config = xstrdup("");
	config->supervision = xstrdup("auto");
	config->systemd_dir = xstrdup("/run/systemd/system");
	config->path = xstrdup(CHILD_PATH);
	config->election_timeout_ms = 1000;
	config->heartbeat_ms = 100;
	config->builds_max = 2;
	config->build_deadline_ms = 3600000;
	config->retry_ms = 1000;
	config->sources_bytes = 8ULL << 30;
	config->sources_grace_ms = 3600000;
	config->keep = 10;
	config->keep_days = 90;
	config->overcommit_cpu = 400;
	config->overcommit_memory = 100;
	config->reserved_bytes = 512ULL << 20;
}

void config_done(struct config *config)
{
	char **texts[] = {&config->name,         &config->cluster,    &config->state_dir,
	                  &config->run_dir,      &config->socket,     &config->group,
	                  &config->microvms_dir, &config->microvm,    &config->libexec_dir,
	                  &config->gcroots_dir,  &config->path,       &config->nix_config,
	                  &config->supervision,  &config->systemd_dir};

	for (size_t i = 0; i < array_size(texts); i++)
		free(*texts[i]);
	for (size_t i = 0; i < config->n_servers; i++) {
		free(config->servers[i].name);
		free(config->servers[i].raft);
		free(config->servers[i].api);
	}
	free(config->servers);
	for (size_t i = 0; i < config->n_listen; i++)
		free(config->listen[i]);
	free(config->listen);
	free(config->identity);
	memset(config, 0, sizeof(*config));
}

static void take_path(char **slot, char *path)
{
	free(*slot);
	*slot = path;
}

void config_dev(struct config *config, const char *dir)
{
	config->dev = true;
	xreplace(&config->state_dir, dir);
	take_path(&config->run_dir, xasprintf("%s/run", dir));
	take_path(&config->socket, xasprintf("%s/blix.sock", dir));
	take_path(&config->microvms_dir, xasprintf("%s/microvms", dir));
	xreplace(&config->group, "");
}

static int get_text(const cJSON *object, const char *key, char **slot, struct blix_error *err)
{
	const char *value = NULL;
	int rc = json_get_string(object, key, &value, err);

	if (rc == 0 && value != NULL)
		xreplace(slot, value);
	return rc;
}

static int get_unsigned(const cJSON *object, const char *key, uint64_t min, uint64_t max,
                        unsigned *ret, struct blix_error *err)
{
	uint64_t value = *ret;
	int rc = json_get_u64(object, key, &value, err);

	if (rc < 0)
		return rc;
	if (value < min || value > max)
		return blix_fail(err, BLIX_E_INVALID,
		                 "key '%s' must be from %" PRIu64 " to %" PRIu64, key, min, max);
	*ret = (unsigned)value;
	return 0;
}

/* A factor like 1.5, kept in per cent. */
static int get_factor(const cJSON *object, const char *key, unsigned *ret, struct blix_error *err)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);

	if (item == NULL)
		return 0;
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0.1) || item->valuedouble > 1000)
		return blix_fail(err, BLIX_E_INVALID, "key '%s' must be a number from 0.1 to 1000",
		                 key);
	*ret = (unsigned)lround(item->valuedouble * 100);
	return 0;
}

static int parse_amount(const cJSON *root, const char *key, uint32_t *cpus, uint64_t *bytes,
                        struct blix_error *err)
{
	static const char *const keys[] = {"cpus", "memoryBytes", NULL};
	const cJSON *object = NULL;
	int rc = json_get_object(root, key, &object, err);

	if (rc < 0 || object == NULL)
		return rc;
	if ((rc = json_only_keys(object, keys, err)) < 0 ||
	    (rc = get_unsigned(object, "cpus", 0, 65536, cpus, err)) < 0 ||
	    (rc = json_get_u64(object, "memoryBytes", bytes, err)) < 0)
		return blix_wrap(err, "%s", key);
	if (*bytes > LIMIT_MEMORY * 64)
		return blix_fail(err, BLIX_E_INVALID, "%s: memoryBytes is too large", key);
	return 0;
}

static int parse_overcommit(const cJSON *root, struct config *config, struct blix_error *err)
{
	static const char *const keys[] = {"cpu", "memory", NULL};
	const cJSON *object = NULL;
	int rc = json_get_object(root, "overcommit", &object, err);

	if (rc < 0 || object == NULL)
		return rc;
	if ((rc = json_only_keys(object, keys, err)) < 0 ||
	    (rc = get_factor(object, "cpu", &config->overcommit_cpu, err)) < 0 ||
	    (rc = get_factor(object, "memory", &config->overcommit_memory, err)) < 0)
		return blix_wrap(err, "overcommit");
	return 0;
}

static int parse_nix(const cJSON *root, struct config *config, struct blix_error *err)
{
	static const char *const keys[] = {"extraConfig", NULL};
	const cJSON *object = NULL;
	int rc = json_get_object(root, "nix", &object, err);

	if (rc < 0 || object == NULL)
		return rc;
	if ((rc = json_only_keys(object, keys, err)) < 0 ||
	    (rc = get_text(object, "extraConfig", &config->nix_config, err)) < 0)
		return blix_wrap(err, "nix");
	return 0;
}

static int parse_server(const cJSON *item, struct config_server *server, struct blix_error *err)
{
	static const char *const keys[] = {"id", "name", "raft", "api", NULL};
	char host[PARSE_HOST];
	uint16_t port;
	int rc;

	server->name = xstrdup("");
	server->raft = xstrdup("");
	server->api = xstrdup("");
	if ((rc = json_only_keys(item, keys, err)) < 0 ||
	    (rc = json_get_u64(item, "id", &server->id, err)) < 0 ||
	    (rc = get_text(item, "name", &server->name, err)) < 0 ||
	    (rc = get_text(item, "raft", &server->raft, err)) < 0 ||
	    (rc = get_text(item, "api", &server->api, err)) < 0)
		return rc;
	if (server->id == 0 || server->raft[0] != '/' || server->api[0] == '\0')
		return blix_fail(err, BLIX_E_INVALID,
		                 "id, an absolute path raft, and api are needed");
	if (server->api[0] != '/' && (rc = parse_address(server->api, host, &port, err)) < 0)
		return blix_wrap(err, "api");
	return parse_name("name", server->name, err);
}

static int parse_servers(const cJSON *root, struct config *config, struct blix_error *err)
{
	const cJSON *array = NULL, *item;
	int rc = json_get_array(root, "servers", &array, err);

	if (rc < 0 || array == NULL)
		return rc;
	if (cJSON_GetArraySize(array) > 7)
		return blix_fail(err, BLIX_E_INVALID, "servers: more than 7");
	config->servers = xcalloc((size_t)cJSON_GetArraySize(array), sizeof(*config->servers));
	cJSON_ArrayForEach (item, array) {
		rc = parse_server(item, &config->servers[config->n_servers++], err);
		if (rc < 0)
			return blix_wrap(err, "servers[%zu]", config->n_servers - 1);
	}
	return 0;
}

static int parse_listen(const cJSON *root, struct config *config, struct blix_error *err)
{
	const cJSON *array = NULL, *item;
	char host[PARSE_HOST];
	uint16_t port;
	int rc = json_get_array(root, "listen", &array, err);

	if (rc < 0 || array == NULL)
		return rc;
	if (cJSON_GetArraySize(array) > LISTEN_MAX)
		return blix_fail(err, BLIX_E_INVALID, "listen: more than %d", LISTEN_MAX);
	config->listen = xcalloc(LISTEN_MAX, sizeof(*config->listen));
	cJSON_ArrayForEach (item, array) {
		if (!cJSON_IsString(item))
			return blix_fail(err, BLIX_E_INVALID, "listen: not a list of IP:PORT");
		rc = parse_address(item->valuestring, host, &port, err);
		if (rc < 0)
			return blix_wrap(err, "listen");
		config->listen[config->n_listen++] = xstrdup(item->valuestring);
	}
	return 0;
}

static int parse_texts(const cJSON *root, struct config *config, struct blix_error *err)
{
	const struct {
		const char *key;
		char **slot;
	} texts[] = {
		{"name", &config->name},
		{"cluster", &config->cluster},
		{"stateDir", &config->state_dir},
		{"runDir", &config->run_dir},
		{"socket", &config->socket},
		{"group", &config->group},
		{"microvmsDir", &config->microvms_dir},
		{"microvm", &config->microvm},
		{"libexecDir", &config->libexec_dir},
		{"gcrootsDir", &config->gcroots_dir},
		{"path", &config->path},
		{"supervision", &config->supervision},
		{"systemdDir", &config->systemd_dir},
	};
	int rc = 0;

	for (size_t i = 0; i < array_size(texts) && rc == 0; i++)
		rc = get_text(root, texts[i].key, texts[i].slot, err);
	return rc;
}

static int parse_generations(const cJSON *root, struct config *config, struct blix_error *err)
{
	static const char *const keys[] = {"keep", "keepDays", NULL};
	const cJSON *object = NULL;
	int rc = json_get_object(root, "generations", &object, err);

	if (rc < 0 || object == NULL)
		return rc;
	if ((rc = json_only_keys(object, keys, err)) < 0 ||
	    (rc = get_unsigned(object, "keep", 0, LIMIT_GENERATIONS, &config->keep, err)) < 0 ||
	    (rc = get_unsigned(object, "keepDays", 0, 36500, &config->keep_days, err)) < 0)
		return blix_wrap(err, "generations");
	return 0;
}

static int parse_sources(const cJSON *root, struct config *config, struct blix_error *err)
{
	static const char *const keys[] = {"maxBytes", "graceMs", NULL};
	const cJSON *object = NULL;
	int rc = json_get_object(root, "sources", &object, err);

	if (rc < 0 || object == NULL)
		return rc;
	if ((rc = json_only_keys(object, keys, err)) < 0 ||
	    (rc = json_get_u64(object, "maxBytes", &config->sources_bytes, err)) < 0 ||
	    (rc = get_unsigned(object, "graceMs", 100, 86400000, &config->sources_grace_ms, err)) <
	            0)
		return blix_wrap(err, "sources");
	return 0;
}

static int parse_tree(const cJSON *root, struct config *config, struct blix_error *err)
{
	static const char *const keys[] = {
		"name",           "cluster",    "id",          "stateDir",    "runDir",
		"socket",         "group",      "microvmsDir", "microvm",     "libexecDir",
		"gcrootsDir",     "path",       "nix",         "buildsMax",   "retryMs",
		"buildTimeoutMs", "overcommit", "capacity",    "reserved",    "electionTimeoutMs",
		"heartbeatMs",    "servers",    "supervision", "generations", "systemdDir",
		"listen",         "sources",    NULL};
	int rc;

	if ((rc = json_only_keys(root, keys, err)) < 0 ||
	    (rc = parse_texts(root, config, err)) < 0 ||
	    (rc = json_get_u64(root, "id", &config->id, err)) < 0 ||
	    (rc = get_unsigned(root, "electionTimeoutMs", 50, 60000, &config->election_timeout_ms,
	                       err)) < 0 ||
	    (rc = get_unsigned(root, "heartbeatMs", 10, 10000, &config->heartbeat_ms, err)) < 0 ||
	    (rc = get_unsigned(root, "buildsMax", 1, 256, &config->builds_max, err)) < 0 ||
	    (rc = get_unsigned(root, "buildTimeoutMs", 1000, 86400000, &config->build_deadline_ms,
	                       err)) < 0 ||
	    (rc = get_unsigned(root, "retryMs", 10, 600000, &config->retry_ms, err)) < 0 ||
	    (rc = parse_generations(root, config, err)) < 0 ||
	    (rc = parse_sources(root, config, err)) < 0 ||
	    (rc = parse_overcommit(root, config, err)) < 0 ||
	    (rc = parse_amount(root, "capacity", &config->cpus, &config->memory_bytes, err)) < 0 ||
	    (rc = parse_amount(root, "reserved", &config->reserved_cpus, &config->reserved_bytes,
	                       err)) < 0 ||
	    (rc = parse_nix(root, config, err)) < 0 || (rc = parse_listen(root, config, err)) < 0)
		return rc;
	return parse_servers(root, config, err);
}

int config_parse(struct config *config, const char *text, size_t n, struct blix_error *err)
{
	cleanup(json_freep) cJSON *root = NULL;
	int rc = json_parse(text, n, &json_limits_request, &root, err);

	if (rc == 0)
		rc = parse_tree(root, config, err);
	if (rc < 0 && err != NULL)
		err->code = BLIX_E_SPEC;
	return rc < 0 ? -(int)BLIX_E_SPEC : 0;
}

int config_load(struct config *config, const char *path, struct blix_error *err)
{
	cleanup(buf_done) struct buf text;
	int rc;

	buf_init(&text, LIMIT_FILE);
	rc = file_read(path, &text, err);
	if (rc < 0 && err != NULL)
		err->code =
			BLIX_E_SPEC; /* whatever kept it from being read: it is the configuration */
	if (rc < 0)
		return -(int)BLIX_E_SPEC;
	rc = config_parse(config, text.data != NULL ? text.data : "", text.len, err);
	return rc < 0 ? blix_wrap(err, "%s", path) : 0;
}

/* The helpers stand in ../libexec/blix of an installed program, in ../libexec of a build. */
static void find_libexec(struct config *config, const char *program)
{
	static const char *const places[] = {"../libexec/blix", "../libexec"};
	char self[PATH_MAX];
	char *slash;

	if (config->libexec_dir[0] != '\0')
		return;
	if (file_read_link("/proc/self/exe", self, sizeof(self), NULL) < 0)
		(void)snprintf(self, sizeof(self), "%s", program);
	slash = strrchr(self, '/');
	if (slash == NULL)
		return;
	*slash = '\0';
	for (size_t i = 0; i < array_size(places); i++) {
		cleanup(freep) char *dir = xasprintf("%s/%s", self, places[i]);
		cleanup(freep) char *shim = xasprintf("%s/blix-shim", dir);

		if (access(shim, X_OK) == 0) {
			char *real = realpath(dir, NULL);

			take_path(&config->libexec_dir, real != NULL ? real : take(dir));
			return;
		}
	}
}

/* On a host with microvm.nix's own command and the standard directory, that command; else ours. */
static void find_microvm(struct config *config)
{
	char *own = NULL;

	if (config->microvm[0] != '\0')
		return;
	if (strcmp(config->microvms_dir, CONFIG_MICROVMS_DIR) == 0)
		own = microvm_find(config->path);
	take_path(&config->microvm,
	          own != NULL ? own : xasprintf("%s/microvm", config->libexec_dir));
}

/* The host's name as far as the name rule allows: its first label, in lower case. */
static void default_name(struct config *config)
{
	char name[LIMIT_NAME + 1];

	if (config->name[0] != '\0')
		return;
	if (gethostname(name, sizeof(name)) < 0)
		name[0] = '\0';
	name[LIMIT_NAME] = '\0';
	name[strcspn(name, ".")] = '\0';
	for (char *p = name; *p != '\0'; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p - 'A' + 'a') : *p;
	xreplace(&config->name, parse_name("name", name, NULL) == 0 ? name : "localhost");
}

static int check_paths(const struct config *config, struct blix_error *err)
{
	const struct {
		const char *key, *path;
		size_t room; /* for what is appended to it, when it becomes a socket's path */
	} paths[] = {
		{"stateDir", config->state_dir, 0},
		{"runDir", config->run_dir, 0},
		{"socket", config->socket, sizeof(((struct sockaddr_un *)0)->sun_path)},
		{"microvmsDir", config->microvms_dir, 0},
		{"microvm", config->microvm, 0},
		{"libexecDir", config->libexec_dir, 0},
		{"systemdDir", config->systemd_dir, 0},
	};

	for (size_t i = 0; i < array_size(paths); i++) {
		if (paths[i].path[0] != '/')
			return blix_fail(err, BLIX_E_SPEC, "key '%s' must be an absolute path",
			                 paths[i].key);
		if (paths[i].room != 0 && strlen(paths[i].path) >= paths[i].room)
			return blix_fail(err, BLIX_E_SPEC,
			                 "key '%s': a socket's path has at most %zu characters",
			                 paths[i].key, paths[i].room - 1);
	}
	return 0;
}

static int check_servers(const struct config *config, struct blix_error *err)
{
	bool self = false;

	for (size_t i = 0; i < config->n_servers; i++) {
		for (size_t k = 0; k < i; k++) {
			if (config->servers[i].id == config->servers[k].id ||
			    strcmp(config->servers[i].name, config->servers[k].name) == 0)
				return blix_fail(err, BLIX_E_SPEC,
				                 "servers: id and name must be unique");
		}
		self = self || config->servers[i].id == config->id;
	}
	if (!self)
		return blix_fail(err, BLIX_E_SPEC, "key 'id' must be that of one of the servers");
	if (config->cluster[0] == '\0')
		return blix_fail(err, BLIX_E_SPEC,
		                 "key 'cluster' is needed with servers: any text they share");
	return 0;
}

/* One server: its identity is made once and kept in the state directory. */
static int own_identity(struct config *config, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/cluster.json", config->state_dir);
	cleanup(buf_done) struct buf text;
	cleanup(json_freep) cJSON *root = NULL;
	const char *cluster = NULL;
	int rc;

	buf_init(&text, LIMIT_FILE);
	rc = file_read(path, &text, err);
	if (rc == -(int)BLIX_E_NOTFOUND) {
		(void)buf_printf(&text, "{\"cluster\":\"%016" PRIx64 "%016" PRIx64 "\"}\n",
		                 random_id(), random_id());
		rc = file_write(path, text.data, text.len, 0600, err);
	}
	if (rc == 0)
		rc = json_parse(text.data, text.len, &json_limits_request, &root, err);
	if (rc == 0)
		rc = json_get_string(root, "cluster", &cluster, err);
	if (rc == 0 && cluster == NULL)
		rc = blix_fail(err, BLIX_E_CORRUPT, "key 'cluster' is missing");
	if (rc < 0)
		return blix_wrap(err, "%s", path);
	xreplace(&config->cluster, cluster);
	config->id = 1;
	config->servers = xcalloc(1, sizeof(*config->servers));
	config->n_servers = 1;
	config->servers[0] = (struct config_server){
		.id = 1,
		.name = xstrdup(config->name),
		.raft = xasprintf("%s/raft.sock", config->run_dir),
		.api = xstrdup(config->socket),
	};
	return 0;
}

gid_t config_group(const struct config *config)
{
	struct group group, *found = NULL;
	char text[4096];

	if (config->group[0] == '\0' ||
	    getgrnam_r(config->group, &group, text, sizeof(text), &found) != 0 || found == NULL)
		return (gid_t)-1;
	return found->gr_gid;
}

int config_settle(struct config *config, const char *program, struct blix_error *err)
{
	int rc;

	find_libexec(config, program);
	if (config->libexec_dir[0] == '\0') {
		(void)blix_fail(err, BLIX_E_SPEC, "blix-shim and the other helpers are not found");
		blix_hint(err, "install blix, or set libexecDir");
		return -(int)BLIX_E_SPEC;
	}
	find_microvm(config);
	default_name(config);
	if ((rc = check_paths(config, err)) < 0 || (rc = parse_name("name", config->name, err)) < 0)
		return rc;
	if (config->heartbeat_ms * 2 > config->election_timeout_ms)
		return blix_fail(err, BLIX_E_SPEC,
		                 "heartbeatMs must be at most half of electionTimeoutMs");
	return 0;
}

/* What the file says must not contradict what this node is already. */
static int check_identity(const struct config *config, const struct node_identity *identity,
                          struct blix_error *err)
{
	const char *key = NULL;

	if (config->n_servers > 0)
		key = "servers";
	else if (config->cluster[0] != '\0')
		key = "cluster";
	else if (config->id != 0)
		key = "id";
	else if (config->named && strcmp(config->name, identity->name) != 0)
		key = "name";
	if (key == NULL)
		return 0;
	(void)blix_fail(err, BLIX_E_SPEC,
	                "key '%s' contradicts %s/identity.json: this is node %s of cluster %s", key,
	                config->state_dir, identity->name, identity->cluster);
	blix_hint(err, "remove '%s' from the configuration", key);
	return -(int)BLIX_E_SPEC;
}

/* What this node has promised to others it may not forget. */
static int check_log(const struct config *config, const struct node_identity *identity,
                     struct blix_error *err)
{
	cleanup(freep) char *dir = xasprintf("%s/raft", config->state_dir);

	if (identity->log != IDENTITY_LOG_KEPT || file_exists(dir))
		return 0;
	(void)blix_fail(err, BLIX_E_CORRUPT, "the log below %s is gone", dir);
	blix_reason(err, "log-missing");
	blix_hint(err,
	          "a server without its log must not vote: 'blix node remove %s' elsewhere, then "
	          "join this host anew",
	          identity->name);
	return -(int)BLIX_E_CORRUPT;
}

int config_enter(struct config *config, struct blix_error *err)
{
	struct node_identity identity;
	int rc = node_identity_read(config->state_dir, &identity, err);

	if (rc < 0)
		return rc;
	if ((rc = check_identity(config, &identity, err)) < 0 ||
	    (rc = check_log(config, &identity, err)) < 0)
		return rc;
	xreplace(&config->name, identity.name);
	xreplace(&config->cluster, identity.cluster);
	config->id = identity.node;
	config->identity = xcalloc(1, sizeof(*config->identity));
	*config->identity = identity;
	config->waits = false;
	return 0;
}

/* A cluster of one that was made without being asked for: under --dev, or by an earlier blixd. */
static bool is_own_cluster(const struct config *config)
{
	cleanup(freep) char *path = xasprintf("%s/cluster.json", config->state_dir);

	return config->dev || file_exists(path);
}

int config_finish(struct config *config, const char *program, struct blix_error *err)
{
	const struct supervisor *supervisor;
	int rc;

	config->named = config->name[0] != '\0';
	if ((rc = config_settle(config, program, err)) < 0 ||
	    (rc = supervisor_choose(config, &supervisor, err)) < 0)
		return rc;
	if ((rc = file_make_dirs(config->state_dir, 0750, err)) < 0 ||
	    (rc = file_make_dirs(config->run_dir, 0755, err)) < 0)
		return rc;
	rc = config_enter(config, err);
	if (rc != -(int)BLIX_E_NOTFOUND)
		return rc;
	if (config->n_servers == 0 && !is_own_cluster(config)) {
		config->waits = true;
		return 0;
	}
	if (config->n_servers == 0 && (rc = own_identity(config, err)) < 0)
		return rc;
	rc = check_servers(config, err);
	for (size_t i = 0; i < config->n_servers && rc == 0; i++) {
		if (config->servers[i].id == config->id)
			xreplace(&config->name, config->servers[i].name);
	}
	return rc;
}
