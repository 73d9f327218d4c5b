/* Reading microvm-status: see status.h. One item that makes no sense fails the whole: our own
 * program wrote it. */
#include "microvm/status.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/parse.h"

#include <stdio.h>
#include <time.h>

/* Milliseconds since 1970 from "2026-11-23T18:30:00.123Z"; absent is 0. */
static int read_time(const cJSON *object, const char *key, uint64_t *ret, struct blix_error *err)
{
	const char *text = NULL, *rest;
	struct tm tm = {0};
	uint64_t ms = 0;
	int rc = json_get_string(object, key, &text, err);

	if (rc < 0 || text == NULL)
		return rc;
	rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	if (rest != NULL && rest[0] == '.' && strlen(rest) == 5) {
		for (unsigned i = 1; i <= 3; i++)
			ms = ms * 10 + (uint64_t)(rest[i] - '0');
		rest += 4;
	}
	if (rest == NULL || strcmp(rest, "Z") != 0 || ms > 999)
		return blix_fail(err, BLIX_E_INVALID, "%s is not a time", key);
	*ret = (uint64_t)timegm(&tm) * 1000 + ms;
	return 0;
}

static int read_text(const cJSON *object, const char *key, char **ret, struct blix_error *err)
{
	const char *text = NULL;
	int rc = json_get_string(object, key, &text, err);

	if (rc == 0 && text != NULL)
		xreplace(ret, text);
	return rc;
}

static int read_owner(const cJSON *item, struct status_vm *vm, struct blix_error *err)
{
	const cJSON *ours = NULL;
	int rc = json_get_object(item, "ours", &ours, err);

	if (rc < 0 || ours == NULL)
		return rc;
	vm->ours = true;
	rc = read_text(ours, "cluster", &vm->cluster, err);
	if (rc == 0)
		rc = json_get_u64(ours, "uid", &vm->uid, err);
	if (rc == 0)
		rc = json_get_u64(ours, "epoch", &vm->epoch, err);
	return rc;
}

static int read_process(const cJSON *item, struct status_vm *vm, struct blix_error *err)
{
	const cJSON *process = NULL;
	const char *boot_id = NULL;
	int rc = json_get_object(item, "process", &process, err);

	if (rc < 0 || process == NULL)
		return rc;
	rc = json_get_u64(process, "pid", &vm->pid, err);
	if (rc == 0)
		rc = json_get_u64(process, "startTime", &vm->start_time, err);
	if (rc == 0)
		rc = json_get_u64(process, "shimPid", &vm->shim_pid, err);
	if (rc == 0)
		rc = json_get_u64(process, "shimStartTime", &vm->shim_start_time, err);
	if (rc == 0)
		rc = json_get_string(process, "bootId", &boot_id, err);
	if (rc == 0)
		rc = read_time(process, "startedAt", &vm->started_ms, err);
	if (rc == 0 && boot_id != NULL)
		(void)snprintf(vm->boot_id, sizeof(vm->boot_id), "%s", boot_id);
	return rc;
}

static int read_exit(const cJSON *item, struct status_vm *vm, struct blix_error *err)
{
	const cJSON *end = NULL;
	uint64_t code = 0, sig = 0;
	int rc = json_get_object(item, "exit", &end, err);

	if (rc < 0 || end == NULL)
		return rc;
	rc = json_get_u64(end, "exitCode", &code, err);
	if (rc == 0)
		rc = json_get_u64(end, "signal", &sig, err);
	if (rc == 0)
		rc = read_time(end, "endedAt", &vm->ended_ms, err);
	if (rc == 0 && (code > 255 || sig > 127))
		rc = blix_fail(err, BLIX_E_INVALID, "exit code %ju or signal %ju is out of range",
		               (uintmax_t)code, (uintmax_t)sig);
	vm->exited = true;
	vm->exit_code = sig != 0 ? 128 + (int32_t)(sig & 127) : (int32_t)(code & 255);
	return rc;
}

static int read_state(const cJSON *item, struct status_vm *vm, struct blix_error *err)
{
	const char *state = NULL;
	int rc = json_get_string(item, "state", &state, err);

	if (rc < 0)
		return rc;
	if (state != NULL && strcmp(state, "running") == 0)
		vm->state = STATUS_RUNNING;
	else if (state != NULL && strcmp(state, "stopped") == 0)
		vm->state = STATUS_STOPPED;
	else
		vm->state = STATUS_UNKNOWN;
	return 0;
}

static int read_vm(const cJSON *item, struct status_vm *vm, struct blix_error *err)
{
	const char *name = NULL;
	int rc = json_get_string(item, "name", &name, err);

	vm->cluster = xstrdup("");
	vm->runner = xstrdup("");
	vm->booted = xstrdup("");
	vm->error = xstrdup("");
	if (rc == 0 && (name == NULL || name[0] == '\0'))
		rc = blix_fail(err, BLIX_E_INVALID, "an item without a name");
	if (rc < 0)
		return rc;
	/* Longer names exist on disk only as foreign ones: shown cut, never acted upon. */
	(void)snprintf(vm->name, sizeof(vm->name), "%s", name);
	rc = read_owner(item, vm, err);
	if (rc == 0)
		rc = read_text(item, "runner", &vm->runner, err);
	if (rc == 0)
		rc = read_text(item, "booted", &vm->booted, err);
	if (rc == 0)
		rc = read_text(item, "error", &vm->error, err);
	if (rc == 0)
		rc = read_state(item, vm, err);
	if (rc == 0)
		rc = read_process(item, vm, err);
	if (rc == 0)
		rc = read_exit(item, vm, err);
	return rc < 0 ? blix_wrap(err, "VM %s", vm->name) : 0;
}

int status_parse(const char *text, size_t n, struct status *ret, struct blix_error *err)
{
	cleanup(json_freep) cJSON *root = NULL;
	struct status status = {NULL, 0};
	const cJSON *items = NULL, *item;
	int rc = json_parse(text, n, &json_limits_answer, &root, err);

	if (rc == 0)
		rc = json_get_array(root, "items", &items, err);
	if (rc == 0 && items == NULL)
		rc = blix_fail(err, BLIX_E_INVALID, "no items");
	if (rc < 0)
		return blix_wrap(err, "microvm-status");
	status.vms = xcalloc((size_t)cJSON_GetArraySize(items) + 1, sizeof(*status.vms));
	cJSON_ArrayForEach (item, items) {
		rc = read_vm(item, &status.vms[status.n++], err);
		if (rc < 0) {
			status_done(&status);
			return blix_wrap(err, "microvm-status");
		}
	}
	*ret = status;
	return 0;
}

void status_done(struct status *status)
{
	for (size_t i = 0; i < status->n; i++) {
		free(status->vms[i].cluster);
		free(status->vms[i].runner);
		free(status->vms[i].booted);
		free(status->vms[i].error);
	}
	free(status->vms);
	status->vms = NULL;
	status->n = 0;
}

const struct status_vm *status_find(const struct status *status, const char *name)
{
	for (size_t i = 0; i < status->n; i++) {
		if (strcmp(status->vms[i].name, name) == 0)
			return &status->vms[i];
	}
	return NULL;
}
