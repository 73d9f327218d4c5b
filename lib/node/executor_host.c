/* The host's files: whose a directory is, and what was seen of a VM.
 *
 * `microvm -c` makes NAME's directory itself, so a directory becomes ours in two steps: a claim in
 * our own folder, durable before the build begins, and the marker .blix.json inside as soon as the
 * directory exists. A directory with neither is foreign and is never written to. The marker is not
 * durable: one that a power cut left empty counts as none, and the claim makes it again.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/json.h"
#include "microvm/runner_error.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#define CONSOLE_TAIL 4096

char *host_dir(const struct node_executor *e, const char *name)
{
	return xasprintf("%s/%s", e->host.microvms_dir, name);
}

char *host_own_dir(const struct node_executor *e, const char *name)
{
	return xasprintf("%s/vms/%s", e->host.state_dir, name);
}

char *host_run_dir(const struct node_executor *e, const char *name)
{
	return xasprintf("%s/vms/%s", e->host.run_dir, name);
}

char *host_cgroup(const struct node_executor *e, const struct vm *vm)
{
	if (e->cgroups == NULL)
		return NULL;
	return xasprintf("%s-%" PRIu64 "-%" PRIu64, e->cgroups, vm->uid, vm->epoch);
}

char *host_gcroot(const struct node_executor *e, const char *prefix, const char *name)
{
	return xasprintf("%s/%s%s", e->host.gcroots_dir, prefix, name);
}

static bool is_there(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

bool host_has_trace(const struct node_executor *e, const char *name)
{
	cleanup(freep) char *dir = host_dir(e, name);
	cleanup(freep) char *own = host_own_dir(e, name);
	cleanup(freep) char *run = host_run_dir(e, name);

	return is_there(dir) || is_there(own) || is_there(run);
}

struct owner {
	bool ours;
	uint64_t uid, epoch;
};

/* False when there is no such file, or it makes no sense. */
static bool owner_read(const struct node_executor *e, const char *dir, const char *file,
                       struct owner *ret)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, file);
	cleanup(buf_done) struct buf text;
	cleanup(json_freep) cJSON *root = NULL;
	const char *cluster = NULL;
	int rc;

	*ret = (struct owner){false, 0, 0};
	buf_init(&text, 4096);
	rc = file_read_at(AT_FDCWD, path, &text, NULL);
	if (rc == 0)
		rc = json_parse(text.data != NULL ? text.data : "", text.len, &json_limits_request,
		                &root, NULL);
	if (rc == 0)
		rc = json_get_string(root, "cluster", &cluster, NULL);
	if (rc == 0)
		rc = json_get_u64(root, "uid", &ret->uid, NULL);
	if (rc == 0)
		rc = json_get_u64(root, "epoch", &ret->epoch, NULL);
	if (rc < 0 || cluster == NULL)
		return false;
	ret->ours = strcmp(cluster, e->config.cluster) == 0;
	return true;
}

static char *owner_text(const struct node_executor *e, const struct vm *vm)
{
	cleanup(json_freep) cJSON *root = json_object();

	json_add_string(root, "cluster", e->config.cluster);
	json_add_u64(root, "uid", vm->uid);
	json_add_u64(root, "epoch", vm->epoch);
	return json_text(root);
}

bool host_is_claimed(const struct node_executor *e, const struct vm *vm)
{
	cleanup(freep) char *dir = host_own_dir(e, vm->name);
	struct owner owner;

	return owner_read(e, dir, "claim.json", &owner) && owner.ours && owner.uid == vm->uid;
}

int host_claim(const struct node_executor *e, const struct vm *vm, struct blix_error *err)
{
	cleanup(freep) char *dir = host_own_dir(e, vm->name);
	cleanup(freep) char *path = xasprintf("%s/claim.json", dir);
	cleanup(freep) char *text = owner_text(e, vm);
	int rc;

	if (host_is_claimed(e, vm))
		return 0;
	rc = file_make_dirs(dir, 0755, err);
	return rc == 0 ? file_write(path, text, strlen(text), 0644, err) : rc;
}

int host_mark(const struct node_executor *e, const struct vm *vm, struct blix_error *err)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);
	cleanup(freep) char *path = xasprintf("%s/.blix.json", dir);
	cleanup(freep) char *text = owner_text(e, vm);

	return file_put(path, text, strlen(text), 0644, err);
}

enum executor_directory host_owner(const struct node_executor *e, const struct vm *vm,
                                   uint64_t *ret_epoch)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);
	struct owner owner;
	bool marked;

	*ret_epoch = 0;
	if (!is_there(dir))
		return DIRECTORY_NONE;
	marked = owner_read(e, dir, ".blix.json", &owner);
	if (!marked && host_is_claimed(e, vm) && host_mark(e, vm, NULL) == 0)
		marked = owner_read(e, dir, ".blix.json", &owner);
	if (!marked || !owner.ours || owner.uid != vm->uid)
		return DIRECTORY_FOREIGN;
	*ret_epoch = owner.epoch;
	return DIRECTORY_OURS;
}

char *host_console_end(const struct node_executor *e, const char *name)
{
	cleanup(freep) char *own = host_own_dir(e, name);
	cleanup(freep) char *path = xasprintf("%s/console.log", own);
	cleanup(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char text[CONSOLE_TAIL + 1];
	off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
	ssize_t n = 0;

	if (fd >= 0)
		n = pread(fd, text, CONSOLE_TAIL, size > CONSOLE_TAIL ? size - CONSOLE_TAIL : 0);
	text[n > 0 ? n : 0] = '\0';
	for (ssize_t i = 0; i < n; i++) {
		if (text[i] == '\0')
			text[i] = ' ';
	}
	return xstrdup(text);
}

static char *runner_of(const struct node_executor *e, const char *name, const char *which)
{
	cleanup(freep) char *link = xasprintf("%s/%s/%s", e->host.microvms_dir, name, which);
	char target[PATH_MAX];

	if (file_read_link(link, target, sizeof(target), NULL) < 0)
		return xstrdup("");
	return xstrdup(target);
}

static void sight_process(struct sight *sight, const struct status_vm *item)
{
	struct executor_seen *seen = &sight->seen;

	if (item->state == STATUS_RUNNING && item->pid != 0)
		seen->process = PROCESS_RUNNING;
	else if (item->state != STATUS_STOPPED)
		seen->process = PROCESS_UNKNOWN;
	seen->pid = item->pid;
	seen->started_ms = item->started_ms;
	sight->identity = (struct identity){.pid = item->pid,
	                                    .start_time = item->start_time,
	                                    .shim_pid = item->shim_pid,
	                                    .shim_start_time = item->shim_start_time};
	memcpy(sight->identity.boot_id, item->boot_id, sizeof(item->boot_id));
}

static void sight_exit(struct sight *sight, const struct local *local, const struct status_vm *item)
{
	uint64_t started_ms = local->started_ms != 0 ? local->started_ms : local->vm->started_ms;
	struct executor_seen *seen = &sight->seen;
	cleanup(freep) char *console = NULL;
	struct blix_error err;

	seen->exited = item->exited;
	seen->exit_code = item->exit_code;
	if (started_ms != 0 && item->ended_ms > started_ms)
		seen->run_ms = item->ended_ms - started_ms;
	if (!item->exited || item->exit_code == 0)
		return;
	console = host_console_end(local->e, local->vm->name);
	runner_error_explain(console, item->exit_code, &err);
	seen->code = err.code;
	(void)snprintf(seen->reason, sizeof(seen->reason), "%s", blix_error_reason(&err));
	sight->message =
		xasprintf("%s%s%s", err.text, err.hint[0] != '\0' ? "\nhint: " : "", err.hint);
}

void sight_take(struct sight *sight, const struct local *local, const struct status_vm *item)
{
	const struct node_executor *e = local->e;
	struct executor_seen *seen = &sight->seen;

	sight_done(sight);
	seen->directory = host_owner(e, local->vm, &seen->epoch);
	sight->runner = seen->directory == DIRECTORY_OURS ? runner_of(e, local->vm->name, "current")
	                                                  : xstrdup("");
	seen->setup = seen->directory == DIRECTORY_OURS && setup_exists(local);
	/* What runs in a directory that is not ours is not ours to judge. */
	if (item != NULL && seen->directory == DIRECTORY_OURS) {
		sight_process(sight, item);
		if (seen->process == PROCESS_RUNNING)
			sight->booted = runner_of(e, local->vm->name, "booted");
		if (seen->process == PROCESS_NONE)
			sight_exit(sight, local, item);
		else if (seen->process == PROCESS_UNKNOWN)
			sight->message = xstrdup(item->error);
	}
	seen->runner = sight->runner;
	seen->booted = sight->booted != NULL ? sight->booted : "";
	seen->message = sight->message != NULL && sight->message[0] != '\0' ? sight->message : NULL;
}

void sight_done(struct sight *sight)
{
	free(sight->runner);
	free(sight->booted);
	free(sight->message);
	memset(sight, 0, sizeof(*sight));
	sight->seen.runner = sight->seen.booted = "";
}
