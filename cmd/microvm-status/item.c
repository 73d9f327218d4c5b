/* All about one VM, from its directory, its runner and its control socket. Nothing here ends the
 * list: what is broken goes into the item's `error`. Files are opened so that a FIFO cannot block,
 * and the marker that makes a VM ours never through a link. See status.h. */
#include "status.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "vmm/vmm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <limits.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>

#define MARKER_MAX  4096u
#define ENTRIES_MAX 4096u /* files of a VM directory that are looked at */
#define TAPS_MAX    (LIMIT_VOLUMES * IFNAMSIZ)

void item_error(struct item *item, const char *fmt, ...)
{
	size_t used = strlen(item->error);
	va_list args;

	if (used > 0 && used + 3 < sizeof(item->error)) {
		(void)snprintf(item->error + used, sizeof(item->error) - used, "; ");
		used += 2;
	}
	va_start(args, fmt);
	(void)vsnprintf(item->error + used, sizeof(item->error) - used, fmt, args);
	va_end(args);
}

/* A number or a word: as text, it is what the shim was told. */
static int marker_uid(const cJSON *tree, char *ret, size_t n, struct blix_error *err)
{
	const char *text = NULL;
	uint64_t number = 0;

	if (json_get_u64(tree, "uid", &number, NULL) == 0 && number > 0) {
		(void)snprintf(ret, n, "%" PRIu64, number);
		return 0;
	}
	if (json_get_string(tree, "uid", &text, NULL) < 0 || text == NULL || *text == '\0' ||
	    strlen(text) >= n)
		return blix_fail(err, BLIX_E_INVALID, "uid is missing or not valid");
	(void)snprintf(ret, n, "%s", text);
	return 0;
}

/* The marker, strictly: damaged is as good as none, since ours are stopped and deleted at will. */
static int read_marker(int dirfd, cJSON **ret, char *ret_uid, size_t n, struct blix_error *err)
{
	static const char *const keys[] = {"cluster", "uid", "epoch", NULL};
	cleanup(buf_done) struct buf b;
	cleanup(json_freep) cJSON *tree = NULL;
	const char *cluster = NULL;
	uint64_t epoch = UINT64_MAX;
	int rc;

	buf_init(&b, MARKER_MAX);
	rc = file_read_at(dirfd, ".blix.json", &b, err);
	if (rc == 0)
		rc = json_parse(b.data, b.len, &json_limits_request, &tree, err);
	if (rc == 0)
		rc = json_only_keys(tree, keys, err);
	if (rc == 0)
		rc = json_get_string(tree, "cluster", &cluster, err);
	if (rc == 0)
		rc = json_get_u64(tree, "epoch", &epoch, err);
	if (rc == 0)
		rc = marker_uid(tree, ret_uid, n, err);
	if (rc < 0)
		return rc;
	if (cluster == NULL || *cluster == '\0' || epoch == UINT64_MAX)
		return blix_fail(err, BLIX_E_INVALID, "cluster, uid and epoch are needed");
	*ret = take(tree);
	return 0;
}

static void add_owner(struct item *item, bool linked)
{
	cJSON *marker = NULL;
	struct blix_error err;
	int rc = linked ? -(int)BLIX_E_NOTFOUND
	                : read_marker(item->fd, &marker, item->uid, sizeof(item->uid), &err);

	if (rc == 0) {
		json_add(item->json, "ours", marker);
		return;
	}
	item->uid[0] = '\0';
	json_add_bool(item->json, "foreign", true);
	if (rc != -BLIX_E_NOTFOUND)
		item_error(item, ".blix.json: %s", err.text);
}

/* A file of the runner; links are followed, as the store is made of them. */
static int read_runner(const struct item *item, const char *name, struct buf *out)
{
	cleanup(freep) char *path = xasprintf("%s/current/share/microvm/%s", item->dir, name);
	char *resolved = realpath(path, NULL);
	int rc = -(int)BLIX_E_NOTFOUND;

	if (resolved != NULL)
		rc = file_read_at(AT_FDCWD, resolved, out, NULL);
	free(resolved);
	return rc;
}

/* Only names that are known are printed: a foreign `current` may point at any file. */
static enum vmm_kind add_hypervisor(struct item *item)
{
	cleanup(buf_done) struct buf b;
	enum vmm_kind kind = VMM_UNKNOWN;
	int rc;

	buf_init(&b, 256);
	rc = read_runner(item, "hypervisor", &b);
	if (rc == 0 && b.data != NULL)
		kind = vmm_kind_parse(b.data);
	if (kind != VMM_UNKNOWN)
		json_add_string(item->json, "hypervisor", vmm_kind_name(kind));
	return kind;
}

static bool read_link(struct item *item, const char *name, char *out, size_t n)
{
	ssize_t got = readlinkat(item->fd, name, out, n - 1);

	if (got < 0) {
		if (errno != ENOENT)
			item_error(item, "%s: %s", name,
			           errno == EINVAL ? "is not a link" : strerrordesc_np(errno));
		return false;
	}
	out[got] = '\0';
	return true;
}

static enum vmm_kind add_runner(struct item *item)
{
	char current[PATH_MAX], booted[PATH_MAX];
	bool has_current = read_link(item, "current", current, sizeof(current));
	bool has_booted = read_link(item, "booted", booted, sizeof(booted));
	enum vmm_kind kind = has_current ? add_hypervisor(item) : VMM_UNKNOWN;

	if (has_current) {
		json_add_text(item->json, "runner", current);
		if (faccessat(item->fd, "current", F_OK, 0) < 0)
			item_error(item, "current: its runner is missing");
		else if (kind == VMM_UNKNOWN)
			item_error(item, "the runner names no known hypervisor");
	}
	if (has_booted) {
		json_add_text(item->json, "booted", booted);
		json_add_bool(item->json, "stale", has_current && strcmp(current, booted) != 0);
	}
	return kind;
}

/* What the directory holds: the sorted names of volumes, and the control socket. */
struct entries {
	char *volumes[LIMIT_VOLUMES];
	size_t volumes_count;
	char *socket;
	bool more;
};

static void entries_done(struct entries *e)
{
	for (size_t i = 0; i < e->volumes_count; i++)
		free(e->volumes[i]);
	free(e->socket);
}

/* HOST.sock: the one that is named like the VM if there is one, else the first by name. */
static bool socket_is_better(const struct item *item, const char *name, const char *than)
{
	size_t n = strlen(item->name);

	if (strncmp(name, item->name, n) == 0 && strcmp(name + n, ".sock") == 0)
		return true;
	if (than == NULL)
		return true;
	if (strncmp(than, item->name, n) == 0 && strcmp(than + n, ".sock") == 0)
		return false;
	return strcmp(name, than) < 0;
}

static void entries_add(struct item *item, struct entries *e, const char *name)
{
	bool image = fnmatch("*.img", name, 0) == 0;
	struct stat st;

	if (!image && fnmatch("*.sock", name, 0) != 0)
		return;
	if (fstatat(item->fd, name, &st, 0) < 0)
		return;
	if (image && S_ISREG(st.st_mode)) {
		if (e->volumes_count == LIMIT_VOLUMES)
			e->more = true;
		else
			e->volumes[e->volumes_count++] = xstrdup(name);
	}
	if (image || !S_ISSOCK(st.st_mode) || fnmatch("*-virtiofs-*", name, 0) == 0 ||
	    fnmatch("*-gpu.sock", name, 0) == 0)
		return;
	if (socket_is_better(item, name, e->socket))
		xreplace(&e->socket, name);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_entries(struct item *item, struct entries *e)
{
	int fd = openat(item->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	unsigned n = 0;

	if (dir == NULL) {
		item_error(item, "directory: %s", strerrordesc_np(errno));
		closep(&fd);
		return;
	}
	while (n < ENTRIES_MAX && (entry = readdir(dir)) != NULL) {
		entries_add(item, e, entry->d_name);
		n++;
	}
	(void)closedir(dir);
	if (n == ENTRIES_MAX || e->more)
		item_error(item, "too many files: some are not shown");
	if (e->volumes_count > 0)
		qsort(e->volumes, e->volumes_count, sizeof(*e->volumes), by_name);
}

static void add_volumes(struct item *item, const struct entries *e)
{
	cJSON *list = json_array();

	for (size_t i = 0; i < e->volumes_count; i++) {
		cJSON *volume;
		struct stat st;

		if (fstatat(item->fd, e->volumes[i], &st, 0) < 0)
			continue;
		volume = json_object();
		json_add_text(volume, "image", e->volumes[i]);
		json_add_u64(volume, "sizeBytes", (uint64_t)st.st_size);
		json_add_u64(volume, "allocatedBytes", (uint64_t)st.st_blocks * 512u);
		json_push(list, volume);
	}
	json_add(item->json, "volumes", list);
}

static bool is_interface(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	                        "_.-");

	return n > 0 && n < IFNAMSIZ && name[n] == '\0' && name[0] != '.';
}

static void add_taps(struct item *item)
{
	cJSON *list = json_array();
	cleanup(buf_done) struct buf b;
	char *rest, *line;
	int rc;

	buf_init(&b, TAPS_MAX);
	rc = read_runner(item, "tap-interfaces", &b);
	if (rc < 0 && rc != -BLIX_E_NOTFOUND)
		item_error(item, "tap-interfaces cannot be read");
	rest = rc == 0 ? b.data : NULL;
	while ((line = strsep(&rest, "\n")) != NULL) {
		char path[64];
		cJSON *tap;

		if (!is_interface(line)) {
			if (*line != '\0')
				item_error(item, "tap-interfaces holds what is no name");
			continue;
		}
		(void)snprintf(path, sizeof(path), "/sys/class/net/%.15s", line);
		tap = json_object();
		json_add_string(tap, "name", line);
		json_add_bool(tap, "up", file_exists(path));
		json_push(list, tap);
	}
	json_add(item->json, "taps", list);
}

/* Asks the hypervisor. True when it answered. */
static bool add_control(struct item *item, enum vmm_kind kind, const char *name)
{
	cleanup(freep) char *path = xasprintf("%s/%s", item->dir, name);
	cJSON *control = json_object();
	struct vmm_status status;
	struct blix_error err;
	uint64_t start = clock_boot_us();
	int rc;

	rc = vmm_status(kind, path, item->host->options->timeout_ms, &status, &err);
	json_add_text(control, "socket", name);
	if (rc == 0) {
		json_add_string(control, "status", status.text);
	} else {
		json_add_text(control, "error", err.text);
		json_add_string(control, "reason", blix_error_reason(&err));
	}
	json_add_u64(control, "latencyMs", (clock_boot_us() - start + 500) / 1000);
	json_add(item->json, "control", control);
	return rc == 0;
}

static int open_dir(struct item *item, int state_fd, bool *ret_linked)
{
	int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
	struct stat st;

	if (item->name[0] == '.' || item->name[0] == '\0' || strchr(item->name, '/') != NULL)
		return -EINVAL;
	if (state_fd < 0 || fstatat(state_fd, item->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return state_fd < 0 ? -ENOENT : -errno;
	*ret_linked = S_ISLNK(st.st_mode);
	item->fd = openat(state_fd, item->name, *ret_linked ? flags : flags | O_NOFOLLOW);
	return item->fd < 0 ? -errno : 0;
}

static void item_look(struct item *item, bool linked)
{
	static const char *const states[] = {"stopped", "running", "unknown"};
	cleanup(entries_done) struct entries entries = {0};
	enum vmm_kind kind;
	enum vm_state state;
	bool answered;

	json_add_text(item->json, "dir", item->dir);
	add_owner(item, linked);
	kind = add_runner(item);
	read_entries(item, &entries);
	state = supervision_look(item);
	answered = entries.socket != NULL && add_control(item, kind, entries.socket);
	if (state == VM_STOPPED && answered) {
		state = VM_UNKNOWN;
		item_error(item, "the control socket answers, but no process was found");
	}
	json_add_string(item->json, "state", states[state]);
	add_volumes(item, &entries);
	add_taps(item);
}

cJSON *item_make(struct host *host, int state_fd, const char *name, bool *ret_known)
{
	struct item item = {.host = host, .name = name, .fd = -1};
	bool linked = false;
	int rc;

	item.json = json_object();
	item.dir = xasprintf("%s/%s", host->options->state_dir, name);
	json_add_text(item.json, "name", name);
	rc = open_dir(&item, state_fd, &linked);
	*ret_known = rc != -ENOENT && rc != -EINVAL && rc != -ENOTDIR;
	if (rc == 0)
		item_look(&item, linked);
	else
		item_error(&item, "%s",
		           *ret_known ? strerrordesc_np(-rc) : "no microVM of this name");
	json_add_text(item.json, "error", item.error);
	closep(&item.fd);
	free(item.dir);
	return item.json;
}
