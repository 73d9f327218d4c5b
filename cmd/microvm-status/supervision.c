/* Does the VM run, and who stands by it? Three witnesses are asked in turn, and the first that
 * knows of a live process decides:
 *
 *   1. the shim's run directory: its record names a process and the control group that it is in,
 * its lock tells whether the shim lives;
 *   2. systemd's unit microvm@NAME.service;
 *   3. /proc: a hypervisor whose working directory is that of the VM, as `microvm -r` leaves it.
 *
 * Witnesses that contradict each other make the state `unknown`, never a guess. */
#include "status.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "sys/cgroup.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define RECORD_MAX (64u << 10) /* the shim writes less */

struct record {
	bool found;
	bool locked; /* a shim lives */
	bool live;   /* the process that it names runs */
	bool strays; /* it has ended, and something that it started has not */
	uint64_t pid;
	uint64_t start_time;
	uint64_t shim_pid;
	uint64_t shim_start_time;
	uint64_t started_at;
	char boot_id[64];
	char uid[128];
	char cgroup[512]; /* "" none */
};

static int read_object(int dirfd, const char *name, cJSON **ret, struct blix_error *err)
{
	cleanup(buf_done) struct buf b;
	cleanup(json_freep) cJSON *tree = NULL;
	int rc;

	buf_init(&b, RECORD_MAX);
	rc = file_read_at(dirfd, name, &b, err);
	if (rc == 0)
		rc = json_parse(b.data, b.len, &json_limits_request, &tree, err);
	if (rc == 0 && !cJSON_IsObject(tree))
		rc = blix_fail(err, BLIX_E_INVALID, "not an object");
	if (rc == 0)
		*ret = take(tree);
	return rc;
}

static int record_parse(const cJSON *tree, struct record *r, struct blix_error *err)
{
	const struct {
		const char *key;
		uint64_t *ret;
	} numbers[] = {{"pid", &r->pid},
	               {"startTime", &r->start_time},
	               {"shimPid", &r->shim_pid},
	               {"shimStartTime", &r->shim_start_time},
	               {"startedAt", &r->started_at}};
	const char *boot_id = NULL, *uid = NULL, *cgroup = NULL;
	int rc = 0;

	for (size_t i = 0; i < array_size(numbers) && rc == 0; i++)
		rc = json_get_u64(tree, numbers[i].key, numbers[i].ret, err);
	if (rc == 0)
		rc = json_get_string(tree, "bootId", &boot_id, err);
	if (rc == 0)
		rc = json_get_string(tree, "uid", &uid, err);
	if (rc == 0)
		rc = json_get_string(tree, "cgroup", &cgroup, err);
	if (rc < 0)
		return rc;
	if (boot_id == NULL || r->pid == 0 || r->pid > INT32_MAX || r->shim_pid > INT32_MAX)
		return blix_fail(err, BLIX_E_INVALID, "no process is named");
	(void)snprintf(r->boot_id, sizeof(r->boot_id), "%s", boot_id);
	(void)snprintf(r->uid, sizeof(r->uid), "%s", uid != NULL ? uid : "");
	(void)snprintf(r->cgroup, sizeof(r->cgroup), "%s", cgroup != NULL ? cgroup : "");
	r->found = true;
	return 0;
}

static bool lock_is_held(int run)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	cleanup(closep) int fd =
		openat(run, "alive", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* The lock is looked at first and last: between the two, a shim may end. */
static void record_read(struct item *item, int run, struct record *r)
{
	cleanup(json_freep) cJSON *tree = NULL;
	struct blix_error err;
	bool locked = lock_is_held(run);
	int rc = read_object(run, "status.json", &tree, &err);

	if (rc == 0)
		rc = record_parse(tree, r, &err);
	if (rc < 0 && rc != -BLIX_E_NOTFOUND)
		item_error(item, "status.json: %s", err.text);
	r->live = r->found && process_is((pid_t)r->pid, r->start_time, r->boot_id);
	r->strays = r->found && !r->live && r->cgroup[0] != '\0' &&
	            strcmp(r->boot_id, clock_boot_id()) == 0 && cgroup_populated(r->cgroup);
	r->locked = locked && lock_is_held(run);
}

/* The lock, the start time and the group must agree, or it is not the process that was started. */
static bool is_identified(struct item *item, const struct record *r)
{
	bool grouped = r->cgroup[0] == '\0' || cgroup_holds(r->cgroup, (pid_t)r->pid);

	if (!r->locked)
		item_error(item, "process %" PRIu64 " outlived its shim", r->pid);
	if (!grouped)
		item_error(item, "process %" PRIu64 " is not in %s", r->pid, r->cgroup);
	return r->locked && grouped;
}

static void add_process(struct item *item, const struct record *r)
{
	cJSON *process = json_object();

	json_add_u64(process, "pid", r->pid);
	json_add_u64(process, "startTime", r->start_time);
	json_add_string(process, "bootId", r->boot_id);
	if (r->shim_pid != 0) {
		json_add_u64(process, "shimPid", r->shim_pid);
		json_add_u64(process, "shimStartTime", r->shim_start_time);
	}
	if (r->cgroup[0] != '\0')
		json_add_text(process, "cgroup", r->cgroup);
	json_add_time(process, "startedAt", r->started_at);
	json_add(item->json, "process", process);
}

/* A process that is only known by its pid. */
static void add_pid(struct item *item, uint64_t pid)
{
	struct record r = {.pid = pid};

	if (process_start_time((pid_t)pid, &r.start_time, NULL) < 0)
		return;
	r.started_at = clock_wall_ms() - clock_boot_ms() +
	               r.start_time * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
	(void)snprintf(r.boot_id, sizeof(r.boot_id), "%s", clock_boot_id());
	add_process(item, &r);
}

/* Returns false when no end is on record. */
static bool add_exit(struct item *item, int run)
{
	static const char *const keys[] = {"exitCode", "signal"};
	cleanup(json_freep) cJSON *tree = NULL;
	cJSON *end;
	struct blix_error err;
	uint64_t ended_at = 0;
	int rc = read_object(run, "exit.json", &tree, &err);

	if (rc == 0)
		rc = json_get_u64(tree, "endedAt", &ended_at, &err);
	if (rc < 0) {
		if (rc != -BLIX_E_NOTFOUND)
			item_error(item, "exit.json: %s", err.text);
		return false;
	}
	end = json_object();
	for (size_t i = 0; i < array_size(keys); i++) {
		uint64_t value = UINT64_MAX;

		if (json_get_u64(tree, keys[i], &value, NULL) == 0 && value <= UINT8_MAX)
			json_add_u64(end, keys[i], value);
	}
	json_add_time(end, "endedAt", ended_at);
	json_add(item->json, "exit", end);
	return true;
}

static void add_supervision(struct item *item, const char *who)
{
	json_add_string(item->json, "supervision", who);
}

static void add_unit(struct item *item, const struct unit *u)
{
	cJSON *unit = json_object();

	json_add_text(unit, "name", u->name);
	json_add_text(unit, "activeState", u->active_state);
	json_add_text(unit, "subState", u->sub_state);
	if (u->invocation != NULL && u->invocation[0] != '\0')
		json_add_text(unit, "invocationId", u->invocation);
	json_add_u64(unit, "mainPid", u->main_pid <= INT32_MAX ? u->main_pid : 0);
	json_add(item->json, "unit", unit);
}

/* The shim is the main process of a unit: systemd stands by both. Only one whose control group says
 * so is asked about. */
static bool is_in_unit(struct item *item, const struct record *r)
{
	cleanup(freep) char *path = xasprintf("/proc/%" PRIu64 "/cgroup", r->shim_pid);
	cleanup(freep) char *part = xasprintf("/blix-vm-%s.service", item->name);
	cleanup(buf_done) struct buf groups;
	const struct unit *u;

	buf_init(&groups, RECORD_MAX);
	if (file_read_at(AT_FDCWD, path, &groups, NULL) < 0 || groups.data == NULL ||
	    strstr(groups.data, part) == NULL)
		return false;
	u = host_unit(item->host, item->name, item->dir);
	if (u == NULL || u->main_pid == 0 || u->main_pid != r->shim_pid)
		return false;
	add_unit(item, u);
	return true;
}

/* It has a shim of its own, in a run directory below that of the VM. */
static void add_virtiofsd(struct item *item, int run)
{
	cleanup(closep) int fd =
		openat(run, "virtiofsd", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0)
		json_add_string(item->json, "virtiofsd", lock_is_held(fd) ? "running" : "stopped");
}

/* True when the run directory decides. */
static bool look_at_shim(struct item *item, enum vm_state *ret)
{
	struct record r = {0};
	cleanup(freep) char *path = xasprintf("%s/%s", item->host->options->run_dir, item->name);
	cleanup(closep) int run = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	bool mine;

	if (run < 0) {
		if (errno != ENOENT)
			item_error(item, "run directory: %s", strerrordesc_np(errno));
		return false;
	}
	record_read(item, run, &r);
	add_virtiofsd(item, run);
	mine = r.uid[0] == '\0' || item->uid[0] == '\0' || strcmp(r.uid, item->uid) == 0;
	if (!mine && (r.live || r.locked))
		item_error(item, "the process belongs to another VM of this name, uid %s", r.uid);
	if (r.live) {
		*ret = is_identified(item, &r) ? VM_RUNNING : VM_UNKNOWN;
		add_supervision(item, !r.locked              ? "none"
		                      : is_in_unit(item, &r) ? "systemd"
		                                             : "shim");
		add_process(item, &r);
		return true;
	}
	item->ended = mine; /* whoever stood by it: the end is read when nothing runs any more */
	if (r.strays && !r.locked) {
		item_error(item, "processes that it started are left in %s", r.cgroup);
		*ret = VM_UNKNOWN;
		add_supervision(item, "none");
		return true;
	}
	if (!r.locked)
		return false;
	*ret = add_exit(item, run) ? VM_STOPPED
	                           : VM_UNKNOWN; /* unknown: just starting, or just ending */
	add_supervision(item, "shim");
	return true;
}

/* A unit of blix carries the uid of its VM: that of another VM of this name is not ours. */
static bool unit_is_strange(const struct item *item, const struct unit *u)
{
	static const char key[] = "BLIX_UID=";
	const char *at = u->environment;
	size_t n = strlen(item->uid);

	while (at != NULL && strncmp(at, key, strlen(key)) != 0) {
		at = strchr(at, ' ');
		at = at != NULL ? at + 1 : NULL;
	}
	if (at == NULL || n == 0)
		return false;
	at += strlen(key);
	return strncmp(at, item->uid, n) != 0 || (at[n] != ' ' && at[n] != '\0');
}

static bool look_at_unit(struct item *item, enum vm_state *ret)
{
	const struct unit *u = host_unit(item->host, item->name, item->dir);
	uint64_t ticks;

	if (u == NULL)
		return false;
	add_unit(item, u);
	if (unit_is_busy(u) && unit_is_strange(item, u)) {
		item_error(item, "%s belongs to another VM of this name", u->name);
		*ret = VM_UNKNOWN;
	} else if (u->main_pid > 0 && u->main_pid <= INT32_MAX &&
	           process_start_time((pid_t)u->main_pid, &ticks, NULL) == 0) {
		*ret = VM_RUNNING;
		add_pid(item, u->main_pid);
	} else if (unit_is_busy(u)) {
		item_error(item, "%s is %s without a process", u->name, u->active_state);
		*ret = VM_UNKNOWN;
	} else {
		return false;
	}
	add_supervision(item, "systemd");
	return true;
}

static enum vm_state look_at_processes(struct item *item)
{
	struct stat st;
	pid_t pid = 0;
	unsigned found = fstat(item->fd, &st) == 0 ? host_find(item->host, &st, &pid) : 0;

	add_supervision(item, "none");
	if (found > 1)
		item_error(item, "%u hypervisors run in this directory", found);
	if (found > 0) {
		add_pid(item, (uint64_t)pid);
		return VM_RUNNING;
	}
	if (item->host->hidden) {
		item_error(item,
		           "a hypervisor of another user runs; only root sees which VM it is");
		return VM_UNKNOWN;
	}
	if (item->host->units_error != NULL) {
		item_error(item, "%s", item->host->units_error);
		return VM_UNKNOWN;
	}
	return VM_STOPPED;
}

/* Last, since a unit that is just ending writes it as it goes. */
static void add_last_exit(struct item *item)
{
	cleanup(freep) char *path = xasprintf("%s/%s", item->host->options->run_dir, item->name);
	cleanup(closep) int run = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (run >= 0)
		(void)add_exit(item, run);
}

enum vm_state supervision_look(struct item *item)
{
	enum vm_state state;

	if (look_at_shim(item, &state) || look_at_unit(item, &state))
		return state;
	if (item->ended)
		add_last_exit(item);
	return look_at_processes(item);
}
