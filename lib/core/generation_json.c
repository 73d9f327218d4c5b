/* Generations and updates as JSON: see generation_json.h and docs/api.md. */
#include "core/generation_json.h"

#include "base/alloc.h"
#include "core/generation.h"
#include "core/object_json.h"

#include <inttypes.h>
#include <stdio.h>

#define GRACE_MS_DEFAULT 30000
#define GRACE_MS_MAX     3600000
#define TIMEOUT_MS_MIN   1000
#define TIMEOUT_MS_MAX   86400000

static void add_known(cJSON *object, const char *key, uint64_t value)
{
	if (value != 0)
		json_add_u64(object, key, value);
}

static cJSON *update_json(const struct vm_update *update)
{
	cJSON *object = json_object();
	char id[24];

	(void)snprintf(id, sizeof(id), "%" PRIu64, update->operation);
	json_add_string(object, "operation", id);
	if (update->step != UPDATE_IDLE)
		json_add_string(object, "step", vm_update_step_name(update->step));
	json_add_string(object, "outcome", vm_update_outcome_name(update->outcome));
	json_add_string(object, "restart", update_restart_name(update->restart));
	if (update->auto_rollback)
		json_add_bool(object, "autoRollback", true);
	add_known(object, "from", update->from);
	add_known(object, "generation", update->target);
	json_add_time(object, "deadline", update->deadline_ms);
	if (update->code != BLIX_OK)
		json_add_string(object, "code", blix_code_info(update->code)->slug);
	json_add_string(object, "reason", update->reason);
	json_add_string(object, "message", update->message);
	return object;
}

static cJSON *stale_json(const struct vm *vm)
{
	const struct generation *wanted = generation_find(vm, vm->generation);
	cJSON *conditions = json_array(), *stale = json_object();
	char text[160];

	(void)snprintf(text, sizeof(text),
	               "it runs generation %" PRIu64 ", generation %" PRIu64
	               " is wanted: a restart boots it",
	               vm->generation_booted, vm->generation);
	json_add_string(stale, "type", "Stale");
	json_add_string(stale, "status", "True");
	if (vm->generation_booted != vm->generation) {
		json_add_string(stale, "reason", "generation");
		json_add_string(stale, "message", text);
	} else {
		json_add_string(stale, "reason", "resources");
		json_add_string(stale, "message",
		                "it runs with other resources than are wanted: a restart applies "
		                "them");
	}
	json_add_time(stale, "since", wanted != NULL ? wanted->created_ms : 0);
	json_push(conditions, stale);
	return conditions;
}

void generation_status_add(cJSON *status, const struct vm *vm)
{
	cJSON *numbers;

	if (vm->generation != 0) {
		numbers = json_object();
		json_add_u64(numbers, "desired", vm->generation);
		add_known(numbers, "current", vm->generation_current);
		add_known(numbers, "booted", vm->generation_booted);
		json_add(status, "generation", numbers);
	}
	if (vm->adopt != 0)
		json_add_bool(status, "adopted", true);
	if (vm->update.operation != 0)
		json_add(status, "update", update_json(&vm->update));
	if (vm_is_stale(vm)) {
		json_add_bool(status, "stale", true);
		json_add(status, "conditions", stale_json(vm));
	}
}

static cJSON *generation_json(const struct vm *vm, const struct generation *g)
{
	cJSON *object = json_object();
	char lock[24] = "";

	json_add_u64(object, "number", g->number);
	json_add_time(object, "createdAt", g->created_ms);
	json_add_string(object, "by", g->by);
	json_add_string(object, "flake", g->flake);
	json_add_string(object, "attr", g->attr);
	json_add_string(object, "baseUrl", g->resolved.base_url);
	if (g->resolved.lock != 0)
		(void)snprintf(lock, sizeof(lock), "%016" PRIx64, g->resolved.lock);
	json_add_string(object, "lock", lock);
	json_add_string(object, "outPath", g->resolved.out_path);
	json_add_bool(object, "desired", g->number == vm->generation);
	json_add_bool(object, "current", g->number == vm->generation_current);
	json_add_bool(object, "booted", vm->pid != 0 && g->number == vm->generation_booted);
	return object;
}

cJSON *generations_json(const struct vm *vm)
{
	cJSON *list = json_object(), *items = json_array();

	json_add_string(list, "kind", "GenerationList");
	json_add_string(list, "apiVersion", BLIX_API_VERSION);
	json_add_string(list, "name", vm->name);
	for (uint32_t i = vm->n_generations; i-- > 0;)
		json_push(items, generation_json(vm, &vm->generations[i]));
	json_add(list, "items", items);
	return list;
}

static int restart_parse(const cJSON *body, enum update_restart *ret, struct blix_error *err)
{
	const char *text = update_restart_name(UPDATE_RESTART_IF_NEEDED);
	int rc = json_get_string(body, "restart", &text, err);

	for (unsigned i = 0; rc == 0 && i < UPDATE_RESTART_COUNT; i++) {
		if (strcmp(text, update_restart_name((enum update_restart)i)) == 0) {
			*ret = (enum update_restart)i;
			return 0;
		}
	}
	return rc < 0 ? rc : blix_fail(err, BLIX_E_INVALID, "restart must be if-needed, now or no");
}

static int times_parse(const cJSON *body, struct command *command, struct blix_error *err)
{
	uint64_t grace = GRACE_MS_DEFAULT, timeout = UPDATE_TIMEOUT_MS;
	int rc = json_get_u64(body, "graceMs", &grace, err);

	if (rc == 0)
		rc = json_get_u64(body, "timeoutMs", &timeout, err);
	if (rc < 0)
		return rc;
	if (grace > GRACE_MS_MAX)
		return blix_fail(err, BLIX_E_INVALID, "graceMs is at most an hour");
	if (timeout < TIMEOUT_MS_MIN || timeout > TIMEOUT_MS_MAX)
		return blix_fail(err, BLIX_E_INVALID, "timeoutMs is a second to a day");
	command->vm_update.grace_ms = (uint32_t)grace;
	command->vm_update.timeout_ms = (uint32_t)timeout;
	return 0;
}

static int text_into(const cJSON *body, const char *key, char **slot, struct blix_error *err)
{
	const char *text = "";
	int rc = json_get_string(body, key, &text, err);

	if (rc == 0)
		xreplace(slot, text);
	return rc;
}

int update_parse(const cJSON *body, struct command *command, struct blix_error *err)
{
	static const char *const keys[] = {"flake",     "attr",    "restart", "autoRollback",
	                                   "timeoutMs", "graceMs", NULL};
	cleanup(json_freep) cJSON *empty = json_object();
	int rc;

	body = body != NULL ? body : empty;
	if ((rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = text_into(body, "flake", &command->vm_update.flake, err)) < 0 ||
	    (rc = text_into(body, "attr", &command->vm_update.attr, err)) < 0 ||
	    (rc = json_get_bool(body, "autoRollback", &command->vm_update.auto_rollback, err)) <
	            0 ||
	    (rc = restart_parse(body, &command->vm_update.restart, err)) < 0 ||
	    (rc = times_parse(body, command, err)) < 0)
		return rc;
	if (command->vm_update.auto_rollback && command->vm_update.restart == UPDATE_RESTART_NO)
		return blix_fail(err, BLIX_E_INVALID,
		                 "autoRollback needs a restart to judge the new system by");
	if (command->vm_update.flake[0] != '\0')
		return vm_flake_check(command->vm_update.flake, err);
	return 0;
}

int rollback_parse(const cJSON *body, struct command *command, struct blix_error *err)
{
	static const char *const keys[] = {"generation", "restart", "graceMs", NULL};
	cleanup(json_freep) cJSON *empty = json_object();
	int rc;

	body = body != NULL ? body : empty;
	command->vm_update.rollback = true;
	if ((rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = json_get_u64(body, "generation", &command->vm_update.generation, err)) < 0 ||
	    (rc = restart_parse(body, &command->vm_update.restart, err)) < 0)
		return rc;
	return times_parse(body, command, err);
}
