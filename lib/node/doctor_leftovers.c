/* The daemon's own view, and what stands on the host for a VM that the cluster does not know:
 * directories, secrets, taps, garbage collector's roots, control groups, shims. Without an answer
 * of the daemon nothing is called a leftover: it alone knows what is wanted. */
#include "node/doctor_internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"
#include "base/version.h"
#include "client/client.h"
#include "microvm/runner_links.h"
#include "node/executor.h"
#include "sys/cgroup.h"
#include "sys/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define DAEMON_MS 5000

/* It may have been started with another configuration than we read. */
static void take_paths(struct doctor *d)
{
	struct config *c = d->config;
	const struct {
		const char *key;
		char **path;
	} rows[] = {{"stateDir", &c->state_dir},
	            {"runDir", &c->run_dir},
	            {"microvmsDir", &c->microvms_dir},
	            {"gcrootsDir", &c->gcroots_dir},
	            {"libexecDir", &c->libexec_dir},
	            {"microvm", &c->microvm},
	            {"path", &c->path},
	            {"group", &c->group}};
	const cJSON *host = NULL;

	if (json_get_object(d->version, "host", &host, NULL) < 0 || host == NULL)
		return;
	for (size_t i = 0; i < array_size(rows); i++) {
		const char *text = "";

		if (json_get_string(host, rows[i].key, &text, NULL) == 0 && text[0] != '\0')
			xreplace(rows[i].path, text);
	}
	if (cJSON_GetObjectItemCaseSensitive(host, "group") == NULL)
		xreplace(&c->group, "");
}

void doctor_ask(struct doctor *d)
{
	cleanup(client_freep) struct client *client = NULL;
	struct client_options options = {.endpoints = d->endpoint, .timeout_ms = DAEMON_MS};

	if (client_open(&options, &client, &d->silence) < 0 ||
	    client_call(client, "GET", "/v1/version", NULL, &d->version, &d->silence) < 0 ||
	    client_call(client, "GET", "/v1/cluster", NULL, &d->cluster, &d->silence) < 0 ||
	    client_call(client, "GET", "/v1/vms", NULL, &d->vms, &d->silence) < 0)
		return;
	take_paths(d);
}

void doctor_daemon(struct doctor *d)
{
	const char *version = "";
	bool stale = false;

	if (d->vms == NULL) {
		doctor_add(d, FINDING_WARN, "systemctl start blixd", "does not answer: %s",
		           d->silence.text);
		return;
	}
	(void)json_get_bool(d->cluster, "stale", &stale, NULL);
	if (stale)
		doctor_add(d, FINDING_FAIL, "blix cluster status",
		           "answers at %s, but has no quorum: nothing can be changed", d->endpoint);
	else
		doctor_add(d, FINDING_OK, NULL, "answers at %s; its state is in %s", d->endpoint,
		           d->config->state_dir);
	(void)json_get_string(d->version, "version", &version, NULL);
	if (strcmp(version, BLIX_VERSION) != 0)
		doctor_add(d, FINDING_WARN, "systemctl restart blixd",
		           "runs version %s, installed is %s", version, BLIX_VERSION);
}

const char *doctor_vm_name(const cJSON *item)
{
	const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(item, "metadata");
	const char *name = NULL;

	return cJSON_IsObject(metadata) && json_get_string(metadata, "name", &name, NULL) == 0
	               ? name
	               : NULL;
}

static bool is_known(const struct doctor *d, const char *name)
{
	const cJSON *items = cJSON_GetObjectItemCaseSensitive(d->vms, "items"), *item;

	cJSON_ArrayForEach (item, items) {
		const char *known = doctor_vm_name(item);

		if (known != NULL && strcmp(known, name) == 0)
			return true;
	}
	return false;
}

/* Calls `each` for every entry that could be a VM's name and is none of the cluster's. */
static void each_unknown(struct doctor *d, const char *dir,
                         void (*each)(struct doctor *d, const char *dir, const char *name))
{
	DIR *stream = opendir(dir);
	const struct dirent *entry;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		if (parse_name("name", entry->d_name, NULL) == 0 && !is_known(d, entry->d_name))
			each(d, dir, entry->d_name);
	}
	if (stream != NULL)
		(void)closedir(stream);
}

/* "tap-up, virtiofsd-run": the marks of what stands around a run. */
static char *marks_in(const char *dir)
{
	DIR *stream = opendir(dir);
	const struct dirent *entry;
	char *names = xstrdup("");

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		char *more;

		if (entry->d_name[0] == '.')
			continue;
		more = xasprintf("%s%s%s", names, names[0] != '\0' ? ", " : "", entry->d_name);
		free(names);
		names = more;
	}
	if (stream != NULL)
		(void)closedir(stream);
	return names;
}

/* The end of a VM is told also when a step down has failed three times. */
static void stuck_setups(struct doctor *d)
{
	const cJSON *items = cJSON_GetObjectItemCaseSensitive(d->vms, "items"), *item;

	cJSON_ArrayForEach (item, items) {
		const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(item, "metadata");
		const cJSON *status = cJSON_GetObjectItemCaseSensitive(item, "status");
		cleanup(freep) char *dir = NULL;
		cleanup(freep) char *names = NULL;
		const char *name = NULL, *phase = NULL;

		if (!cJSON_IsObject(metadata) || !cJSON_IsObject(status) ||
		    json_get_string(metadata, "name", &name, NULL) < 0 || name == NULL ||
		    json_get_string(status, "phase", &phase, NULL) < 0 || phase == NULL ||
		    (strcmp(phase, "Stopped") != 0 && strcmp(phase, "Failed") != 0))
			continue;
		dir = xasprintf("%s/vms/%s/setup", d->config->run_dir, name);
		names = marks_in(dir);
		if (names[0] != '\0')
			doctor_add(d, FINDING_WARN, "journalctl -u blixd -g vm.teardown.failed",
			           "%s: what was set up for its run cannot be taken down (%s); it "
			           "is tried again each minute",
			           name, names);
	}
}

static void leftover(struct doctor *d, const char *what, const char *path)
{
	cleanup(freep) char *fix = xasprintf("rm -r %s", path);

	doctor_add(d, FINDING_WARN, fix, "%s %s belongs to no VM of the cluster", what, path);
}

static void own_directory(struct doctor *d, const char *dir, const char *name)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);

	leftover(d, "directory", path);
}

static void each_link(struct doctor *d, const char *path)
{
	cleanup(freep) char *runner = xasprintf("%s/current", path);
	cleanup(buf_done) struct buf names;
	char *rest;
	const char *name;

	buf_init(&names, LIMIT_FILE);
	(void)runner_links(runner, RUNNER_TAPS, &names);
	(void)runner_links(runner, RUNNER_MACVTAPS, &names);
	rest = names.data;
	while ((name = strsep(&rest, "\n")) != NULL) {
		cleanup(freep) char *device = xasprintf("/sys/class/net/%s", name);
		cleanup(freep) char *fix = xasprintf("ip link delete %s", name);

		if (name[0] != '\0' && file_exists(device))
			doctor_add(d, FINDING_WARN, fix, "link %s belongs to no VM of the cluster",
			           name);
	}
}

/* Upstream's directory is ours when our marker names our cluster; all others are foreign. */
static void vm_directory(struct doctor *d, const char *dir, const char *name)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	cleanup(freep) char *marker = xasprintf("%s/.blix.json", path);
	cleanup(buf_done) struct buf text;
	cleanup(json_freep) cJSON *root = NULL;
	const char *cluster = NULL, *ours = NULL;

	buf_init(&text, 4096);
	(void)json_get_string(d->cluster, "cluster", &ours, NULL);
	if (ours == NULL || file_read_at(AT_FDCWD, marker, &text, NULL) < 0 || text.data == NULL ||
	    json_parse(text.data, text.len, &json_limits_request, &root, NULL) < 0 ||
	    json_get_string(root, "cluster", &cluster, NULL) < 0 || cluster == NULL ||
	    strcmp(cluster, ours) != 0)
		return;
	each_link(d, path);
	leftover(d, "VM directory", path);
}

/* A root that points into a directory of ours that is gone keeps nothing: it is litter. Where the
 * directory is, a root may dangle: 'booted' of a VM that is stopped. */
static bool is_litter(const struct doctor *d, const char *target)
{
	const char *const bases[] = {d->config->state_dir, d->config->microvms_dir};
	const char *slash = strrchr(target, '/');
	cleanup(freep) char *directory = NULL;

	for (size_t i = 0; i < array_size(bases); i++) {
		size_t n = strlen(bases[i]);

		if (strncmp(target, bases[i], n) != 0 || target[n] != '/')
			continue;
		directory = xstrndup(target, (size_t)(slash - target));
		return !file_exists(directory);
	}
	return false;
}

static void gc_roots(struct doctor *d, const char *dir)
{
	DIR *stream = opendir(dir);
	const struct dirent *entry;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		cleanup(freep) char *path = xasprintf("%s/%s", dir, entry->d_name);
		char target[PATH_MAX];

		if (file_read_link(path, target, sizeof(target), NULL) == 0 && is_litter(d, target))
			leftover(d, "garbage collector's root", path);
	}
	if (stream != NULL)
		(void)closedir(stream);
}

/* The VM of a shim that works below our run directory; false: this process is no such shim. */
static bool shim_of(const struct doctor *d, const char *pid, char *name, size_t n)
{
	cleanup(freep) char *path = xasprintf("/proc/%s/cmdline", pid);
	cleanup(freep) char *prefix = xasprintf("%s/vms/", d->config->run_dir);
	cleanup(buf_done) struct buf text;
	const char *end, *word;

	buf_init(&text, 65536);
	if (file_read(path, &text, NULL) < 0 || text.len == 0 || buf_add(&text, "", 1) < 0)
		return false;
	word = strrchr(text.data, '/');
	if (strcmp(word != NULL ? word + 1 : text.data, "blix-shim") != 0)
		return false;
	end = text.data + text.len;
	for (word = text.data; word < end; word += strlen(word) + 1) {
		if (strncmp(word, prefix, strlen(prefix)) == 0 &&
		    parse_name("name", word + strlen(prefix), NULL) == 0) {
			(void)snprintf(name, n, "%s", word + strlen(prefix));
			return true;
		}
	}
	return false;
}

static void one_shim(struct doctor *d, const char *pid)
{
	cleanup(freep) char *fix = xasprintf("kill %s", pid);
	char name[LIMIT_NAME + 1];

	if (shim_of(d, pid, name, sizeof(name)) && !is_known(d, name))
		doctor_add(d, FINDING_WARN, fix,
		           "shim %s stands by %s, which is no VM of the cluster", pid, name);
}

static void shims(struct doctor *d)
{
	DIR *stream = opendir("/proc");
	const struct dirent *entry;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
			one_shim(d, entry->d_name);
	}
	if (stream != NULL)
		(void)closedir(stream);
}

static DIR *opendir_of(const char *prefix)
{
	cleanup(freep) char *dir = xstrndup(prefix, (size_t)(strrchr(prefix, '/') - prefix));

	return opendir(dir);
}

/* Its processes, if there are any, go with it. */
static void one_group(struct doctor *d, const char *prefix, const char *name)
{
	cleanup(freep) char *path =
		xasprintf("%.*s/%s", (int)(strrchr(prefix, '/') - prefix), prefix, name);
	cleanup(freep) char *fix =
		cgroup_populated(path) ? xasprintf("echo 1 > %s/cgroup.kill; rmdir %s", path, path)
				       : xasprintf("rmdir %s", path);

	doctor_add(d, FINDING_WARN, fix, "control group %s belongs to no VM of the cluster", path);
}

static bool is_known_uid(const struct doctor *d, uint64_t uid)
{
	const cJSON *items = cJSON_GetObjectItemCaseSensitive(d->vms, "items"), *item;

	cJSON_ArrayForEach (item, items) {
		const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(item, "metadata");
		const char *text = NULL;
		uint64_t known = 0;

		if (cJSON_IsObject(metadata) &&
		    json_get_string(metadata, "uid", &text, NULL) == 0 && text != NULL &&
		    parse_u64(text, &known, NULL) == 0 && known == uid)
			return true;
	}
	return false;
}

/* PREFIX-UID-EPOCH */
static void groups(struct doctor *d)
{
	cleanup(freep) char *prefix = NULL;
	const char *cluster = NULL, *name;
	const struct dirent *entry;
	DIR *stream;

	(void)json_get_string(d->cluster, "cluster", &cluster, NULL);
	if (cluster == NULL || cgroup_root() == NULL)
		return;
	prefix = node_executor_groups(cluster, d->config->run_dir);
	name = strrchr(prefix, '/') + 1;
	stream = opendir_of(prefix);
	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		cleanup(freep) char *path = NULL;
		uint64_t uid = 0;
		char *dash;

		if (strncmp(entry->d_name, name, strlen(name)) != 0 ||
		    entry->d_name[strlen(name)] != '-')
			continue;
		path = xstrdup(entry->d_name + strlen(name) + 1);
		dash = strchr(path, '-');
		if (dash == NULL)
			continue;
		*dash = '\0';
		if (parse_u64(path, &uid, NULL) == 0 && !is_known_uid(d, uid))
			one_group(d, prefix, entry->d_name);
	}
	if (stream != NULL)
		(void)closedir(stream);
}

/* stateDir/secrets/UID */
static void secrets(struct doctor *d)
{
	cleanup(freep) char *dir = xasprintf("%s/secrets", d->config->state_dir);
	DIR *stream = opendir(dir);
	const struct dirent *entry;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		cleanup(freep) char *path = xasprintf("%s/%s", dir, entry->d_name);
		uint64_t uid = 0;

		if (parse_u64(entry->d_name, &uid, NULL) == 0 && !is_known_uid(d, uid))
			leftover(d, "directory", path);
	}
	if (stream != NULL)
		(void)closedir(stream);
}

void doctor_leftovers(struct doctor *d)
{
	cleanup(freep) char *own = xasprintf("%s/vms", d->config->state_dir);
	cleanup(freep) char *runs = xasprintf("%s/vms", d->config->run_dir);
	cleanup(freep) char *autos = xasprintf("%s/../auto", d->config->gcroots_dir);
	size_t before = d->n;

	if (d->vms == NULL) {
		doctor_add(d, FINDING_WARN, "systemctl start blixd",
		           "not looked for: only the daemon knows which VMs there are");
		return;
	}
	each_unknown(d, own, own_directory);
	each_unknown(d, runs, own_directory);
	each_unknown(d, d->config->microvms_dir, vm_directory);
	secrets(d);
	gc_roots(d, d->config->gcroots_dir);
	gc_roots(d, autos); /* what `nix build -o` registers */
	stuck_setups(d);
	groups(d);
	shims(d);
	if (d->n == before)
		doctor_add(d, FINDING_OK, NULL, "none");
}
