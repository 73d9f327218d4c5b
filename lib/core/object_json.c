/* Objects as JSON: see object_json.h and docs/api.md. */
#include "core/object_json.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/cause.h"
#include "core/generation.h"
#include "core/generation_json.h"

#include <inttypes.h>
#include <stdio.h>

cJSON *object_json_begin(const char *kind)
{
	cJSON *object = json_object();

	json_add_string(object, "kind", kind);
	json_add_string(object, "apiVersion", BLIX_API_VERSION);
	return object;
}

void object_json_add_uid(cJSON *object, const char *key, uint64_t uid)
{
	char text[24];

	(void)snprintf(text, sizeof(text), "%" PRIu64, uid);
	json_add_string(object, key, text);
}

static void add_u64_known(cJSON *object, const char *key, uint64_t value)
{
	if (value != 0)
		json_add_u64(object, key, value);
}

static cJSON *secrets_json(const struct secrets *secrets)
{
	cJSON *names = json_array();

	for (size_t i = 0; i < secrets->n; i++)
		json_push_string(names, secrets->names[i]);
	return names;
}

static cJSON *spec_json(const struct vm_spec *spec)
{
	cJSON *object = json_object();

	json_add_string(object, "flake", spec->flake);
	json_add_string(object, "attr", spec->attr);
	add_u64_known(object, "cpus", spec->cpus);
	add_u64_known(object, "memoryBytes", spec->memory_bytes);
	json_add_string(object, "hypervisor", spec->hypervisor);
	json_add_string(object, "powerState", vm_power_name(spec->power));
	json_add_string(object, "restartPolicy", vm_restart_name(spec->restart));
	json_add_string(object, "ready", spec->ready);
	json_add_string(object, "node", spec->node);
	if (spec->plain)
		json_add_bool(object, "plain", true);
	if (spec->secrets.n > 0)
		json_add(object, "secrets", secrets_json(&spec->secrets));
	return object;
}

static cJSON *labels_json(const struct labels *labels)
{
	cJSON *object = json_object();

	for (size_t i = 0; i < labels->n; i++)
		json_add(object, labels->items[i].key, cJSON_CreateString(labels->items[i].value));
	return object;
}

static const char *node_name(const struct state *state, uint64_t id)
{
	const struct node *node = state_node(state, id);

	return node != NULL ? node->name : "";
}

/* What a reader sees: the log cannot know how a VM fares on a node that does not answer. */
static bool on_lost_node(const struct vm *vm, const struct state *state)
{
	const struct node *node = state_node(state, vm->node);

	return vm_is_committed(vm) && node != NULL && node->phase == NODE_OFFLINE;
}

static const char *shown_phase(const struct vm *vm, const struct state *state)
{
	return vm_phase_name(vm->phase != VM_DELETING && on_lost_node(vm, state) ? VM_UNKNOWN
	                                                                         : vm->phase);
}

static cJSON *timings_json(const struct vm_timings *t)
{
	cJSON *object = json_object();

	add_u64_known(object, "queueMs", t->queue_ms);
	add_u64_known(object, "resolveMs", t->resolve_ms);
	add_u64_known(object, "buildMs", t->build_ms);
	add_u64_known(object, "startMs", t->start_ms);
	add_u64_known(object, "bootMs", t->boot_ms);
	add_u64_known(object, "readyMs", t->ready_ms);
	return object;
}

static cJSON *resolved_json(const struct vm_resolved *resolved)
{
	cJSON *object = json_object();

	json_add_u64(object, "cpus", resolved->cpus);
	json_add_u64(object, "memoryBytes", resolved->memory_bytes);
	json_add_string(object, "hypervisor", resolved->hypervisor);
	json_add_u64(object, "volumes", resolved->n_volumes);
	json_add_u64(object, "shares", resolved->n_shares);
	json_add_u64(object, "devices", resolved->n_devices);
	json_add_string(object, "outPath", resolved->out_path);
	return object;
}

static void add_cause(cJSON *status, const struct vm *vm, const struct state *state)
{
	if (on_lost_node(vm, state)) {
		json_add_string(status, "reason", "node-offline");
		json_add_string(status, "class", cause_class_name(CAUSE_NODE));
		json_add_string(status, "message", "its node does not answer; it may well run on");
		return;
	}
	if (vm->code != BLIX_OK)
		json_add_string(status, "code", blix_code_info(vm->code)->slug);
	json_add_string(status, "reason", vm->reason);
	json_add_string(status, "class", cause_class_name(cause_of(vm->reason, vm->code)));
	json_add_string(status, "message", vm->message);
}

/* Ends in a row, and when it is started again. */
static cJSON *crashes_json(const struct vm *vm)
{
	cJSON *object = json_object();
	bool waits = vm->phase == VM_CRASHLOOP || vm->phase == VM_SCHEDULED;

	json_add_u64(object, "count", vm->crashes);
	json_add_time(object, "nextTryAt", waits ? vm->retry_ms : 0);
	return object;
}

static cJSON *operation_json(const struct vm *vm)
{
	cJSON *object = json_object(), *steps = json_array();

	object_json_add_uid(object, "id", vm->operation);
	json_add_string(object, "verb", vm->operation_verb);
	json_add_time(object, "startedAt", vm->operation_ms);
	for (size_t i = 0; i < vm->marks.n; i++) {
		const struct operation_mark *mark = &vm->marks.items[i];
		cJSON *step = json_object();

		json_add_string(step, "name", operation_step_name((enum operation_step)mark->step));
		json_add_u64(step, "afterMs", mark->after_ms);
		json_push(steps, step);
	}
	json_add(object, "steps", steps);
	return object;
}

static cJSON *status_json(const struct vm *vm, const struct state *state)
{
	cJSON *status = json_object();

	json_add_string(status, "phase", shown_phase(vm, state));
	json_add_time(status, "phaseSince", vm->phase_ms);
	json_add_string(status, "node", node_name(state, vm->node));
	add_u64_known(status, "epoch", vm->epoch);
	json_add_string(status, "resolver", node_name(state, vm->resolver));
	if (vm->spec.ready[0] != '\0')
		json_add_bool(status, "ready", vm->ready);
	if (vm->spec.secrets.n > 0)
		json_add_bool(status, "secretsGiven", vm->secrets_given);
	add_cause(status, vm, state);
	if (vm->resolved_set)
		json_add(status, "resolved", resolved_json(&vm->resolved));
	json_add_string(status, "runner", vm->runner);
	generation_status_add(status, vm);
	add_u64_known(status, "pid", vm->pid);
	json_add_time(status, "startedAt", vm->pid != 0 ? vm->started_ms : 0);
	json_add_u64(status, "restarts", vm->restarts);
	if (vm->crashes > 0)
		json_add(status, "crashes", crashes_json(vm));
	if (vm->exit_code >= 0)
		json_add_u64(status, "exitCode", (uint64_t)vm->exit_code);
	json_add_bool(status, "pinned", vm_is_pinned(vm));
	json_add(status, "timings", timings_json(&vm->timings));
	json_add(status, "operation", operation_json(vm));
	return status;
}

cJSON *vm_json(const struct vm *vm, const struct state *state)
{
	cJSON *object = object_json_begin("VM"), *metadata = json_object();

	json_add_string(metadata, "name", vm->name);
	object_json_add_uid(metadata, "uid", vm->uid);
	json_add(metadata, "labels", labels_json(&vm->spec.labels));
	json_add_u64(metadata, "version", vm->version);
	json_add_u64(metadata, "revision", vm->revision);
	json_add_time(metadata, "createdAt", vm->created_ms);
	json_add(object, "metadata", metadata);
	json_add(object, "spec", spec_json(&vm->spec));
	json_add(object, "status", status_json(vm, state));
	return object;
}

/* ,"key":"value", for what is checked to need no escape (names, phases, times). */
static void print_plain(struct buf *out, const char *key, const char *value)
{
	if (value[0] != '\0')
		(void)buf_printf(out, ",\"%s\":\"%s\"", key, value);
}

static void print_reason(struct buf *out, const char *reason)
{
	cleanup(json_freep) cJSON *text = NULL;

	if (reason[0] == '\0')
		return;
	text = cJSON_CreateString(reason);
	if (text == NULL)
		abort();
	(void)buf_add_string(out, ",\"reason\":");
	(void)json_print(text, out);
}

static void print_amount(struct buf *out, uint64_t cpus, uint64_t bytes)
{
	const char *comma = cpus != 0 && bytes != 0 ? "," : "";

	(void)buf_add_string(out, ",\"resolved\":{");
	if (cpus != 0)
		(void)buf_printf(out, "\"cpus\":%" PRIu64 "%s", cpus, comma);
	if (bytes != 0)
		(void)buf_printf(out, "\"memoryBytes\":%" PRIu64, bytes);
	(void)buf_add_string(out, "}");
}

/* Straight into text: a tree of each of 10,000 VMs costs four times as much as its bytes. */
int vm_summary_print(const struct vm *vm, const struct state *state, struct buf *out)
{
	bool known = vm->resolved_set;
	char created[48] = "";

	if (vm->created_ms != 0)
		json_format_time(created, sizeof(created), vm->created_ms);
	(void)buf_printf(out, "{\"metadata\":{\"name\":\"%s\",\"uid\":\"%" PRIu64 "\"", vm->name,
	                 vm->uid);
	print_plain(out, "createdAt", created);
	(void)buf_printf(out, "},\"status\":{\"phase\":\"%s\"", shown_phase(vm, state));
	print_plain(out, "node", node_name(state, vm->node));
	if (vm->spec.ready[0] != '\0')
		(void)buf_printf(out, ",\"ready\":%s", vm->ready ? "true" : "false");
	if (vm_is_stale(vm))
		(void)buf_add_string(out, ",\"stale\":true");
	print_reason(out, on_lost_node(vm, state) ? "node-offline" : vm->reason);
	print_amount(out, known ? vm->resolved.cpus : vm->spec.cpus,
	             known ? vm->resolved.memory_bytes : vm->spec.memory_bytes);
	return buf_add_string(out, "}}");
}

static cJSON *amount_json(uint64_t cpus, uint64_t bytes)
{
	cJSON *object = json_object();

	json_add_u64(object, "cpus", cpus);
	json_add_u64(object, "memoryBytes", bytes);
	return object;
}

static cJSON *words_json(const char *words)
{
	cJSON *array = json_array();

	for (const char *p = words; *p != '\0';) {
		size_t n = strcspn(p, " ");
		cleanup(freep) char *word = xstrndup(p, n);

		json_push_string(array, word);
		p += n + (p[n] == ' ');
	}
	return array;
}

static cJSON *node_spec_json(const struct node *node)
{
	cJSON *spec = json_object(), *overcommit = json_object();
	const struct node_facts *facts = &node->facts;

	json_add_string(spec, "role", node_role_name(node->role));
	json_add_bool(spec, "schedulable", node->schedulable);
	json_add_bool(spec, "maintenance", node->maintenance);
	json_add_string(spec, "zone", node->zone);
	if (node->role == NODE_SERVER)
		json_add_string(spec, "vote", node_vote_name(node->vote));
	json_add(overcommit, "cpu", cJSON_CreateNumber(facts->overcommit_cpu / 100.0));
	json_add(overcommit, "memory", cJSON_CreateNumber(facts->overcommit_memory / 100.0));
	json_add(spec, "overcommit", overcommit);
	json_add(spec, "reserved", amount_json(facts->reserved_cpus, facts->reserved_bytes));
	json_add_u64(spec, "buildsMax", facts->builds_max);
	return spec;
}

cJSON *node_json(const struct node *node)
{
	cJSON *object = object_json_begin("Node"), *metadata = json_object(),
	      *status = json_object();
	const struct node_facts *facts = &node->facts;

	json_add_string(metadata, "name", node->name);
	object_json_add_uid(metadata, "id", node->id);
	json_add_u64(metadata, "version", node->version);
	json_add_u64(metadata, "revision", node->revision);
	json_add_time(metadata, "createdAt", node->created_ms);
	json_add(object, "metadata", metadata);
	json_add(object, "spec", node_spec_json(node));
	json_add_string(status, "phase", node_phase_name(node->phase));
	json_add_time(status, "phaseSince", node->phase_ms);
	if (node->leaving)
		json_add_bool(status, "leaving", true);
	json_add(status, "capacity", amount_json(facts->cpus, facts->memory_bytes));
	json_add(status, "usable", amount_json(node_usable_cpus(node), node_usable_bytes(node)));
	json_add(status, "committed", amount_json(node->committed_cpus, node->committed_bytes));
	json_add_u64(status, "vms", node->vms);
	json_add(status, "hypervisors", words_json(facts->hypervisors));
	json_add_string(status, "accel", facts->accel);
	json_add_string(status, "supervision", facts->supervision);
	json_add_string(status, "microvmCommand", facts->microvm_command);
	json_add_string(status, "version", facts->version);
	json_add_u64(status, "featureLevel", facts->features);
	json_add_string(status, "bootId", facts->boot_id);
	if (facts->addresses[0] != '\0')
		json_add(status, "addresses", words_json(facts->addresses));
	json_add_string(status, "raftAddress", facts->raft);
	json_add_string(status, "certificateSerial", node->serial);
	json_add(object, "status", status);
	return object;
}

cJSON *event_json(const struct event *event)
{
	cJSON *object = json_object();

	json_add_u64(object, "revision", event->revision);
	json_add_time(object, "time", event->clock_ms);
	json_add_string(object, "kind", event->kind);
	if (event->uid != 0)
		object_json_add_uid(object, "uid", event->uid);
	json_add_string(object, "name", event->name);
	json_add_string(object, "reason", event->reason);
	json_add_string(object, "message", event->message);
	return object;
}

static int labels_parse(const cJSON *object, struct labels *labels, struct blix_error *err)
{
	const cJSON *item;
	int rc;

	cJSON_ArrayForEach (item, object) {
		if (!cJSON_IsString(item))
			return blix_fail(err, BLIX_E_INVALID, "label '%s' must be a string",
			                 item->string);
		rc = labels_set(labels, item->string, item->valuestring, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int metadata_parse(const cJSON *body, char *ret_name, struct vm_spec *spec,
                          struct blix_error *err)
{
	static const char *const keys[] = {"name", "labels", NULL};
	const cJSON *metadata = NULL, *labels = NULL;
	const char *name = "";
	int rc;

	if ((rc = json_get_object(body, "metadata", &metadata, err)) < 0)
		return rc;
	if (metadata == NULL)
		return blix_fail(err, BLIX_E_INVALID, "key 'metadata' is missing");
	if ((rc = json_only_keys(metadata, keys, err)) < 0 ||
	    (rc = json_get_string(metadata, "name", &name, err)) < 0 ||
	    (rc = json_get_object(metadata, "labels", &labels, err)) < 0)
		return blix_wrap(err, "metadata");
	if ((rc = parse_name("name", name, err)) < 0)
		return rc;
	if (labels != NULL && (rc = labels_parse(labels, &spec->labels, err)) < 0)
		return blix_wrap(err, "metadata.labels");
	memcpy(ret_name, name, strlen(name) + 1);
	return 0;
}

static int string_into(const cJSON *object, const char *key, char **slot, struct blix_error *err)
{
	const char *value = NULL;
	int rc = json_get_string(object, key, &value, err);

	if (rc == 0 && value != NULL)
		xreplace(slot, value);
	return rc;
}

static int power_parse(const cJSON *object, enum vm_power *ret, struct blix_error *err)
{
	const char *power = "Running";
	int rc = json_get_string(object, "powerState", &power, err);

	if (rc < 0)
		return rc;
	if (strcmp(power, "Running") != 0 && strcmp(power, "Stopped") != 0)
		return blix_fail(err, BLIX_E_INVALID, "powerState must be Running or Stopped");
	*ret = strcmp(power, "Running") == 0 ? VM_POWER_RUNNING : VM_POWER_STOPPED;
	return 0;
}

static int secrets_parse(const cJSON *object, struct secrets *secrets, struct blix_error *err)
{
	const cJSON *names = NULL, *item;
	int rc = json_get_array(object, "secrets", &names, err);

	cJSON_ArrayForEach (item, names) {
		if (rc == 0 && !cJSON_IsString(item))
			rc = blix_fail(err, BLIX_E_INVALID, "secrets are names");
		if (rc == 0)
			rc = secrets_add(secrets, item->valuestring, err);
	}
	return rc;
}

static int spec_parse(const cJSON *object, struct vm_spec *spec, struct blix_error *err)
{
	static const char *const keys[] = {
		"flake",         "attr",  "cpus", "memoryBytes", "hypervisor", "powerState",
		"restartPolicy", "ready", "node", "plain",       "secrets",    NULL};
	const char *restart = vm_restart_name(VM_RESTART_ON_FAILURE);
	uint64_t cpus = 0;
	int rc;

	if ((rc = json_only_keys(object, keys, err)) < 0 ||
	    (rc = string_into(object, "flake", &spec->flake, err)) < 0 ||
	    (rc = string_into(object, "attr", &spec->attr, err)) < 0 ||
	    (rc = string_into(object, "hypervisor", &spec->hypervisor, err)) < 0 ||
	    (rc = string_into(object, "ready", &spec->ready, err)) < 0 ||
	    (rc = string_into(object, "node", &spec->node, err)) < 0 ||
	    (rc = json_get_u64(object, "cpus", &cpus, err)) < 0 ||
	    (rc = json_get_u64(object, "memoryBytes", &spec->memory_bytes, err)) < 0 ||
	    (rc = json_get_bool(object, "plain", &spec->plain, err)) < 0 ||
	    (rc = power_parse(object, &spec->power, err)) < 0 ||
	    (rc = secrets_parse(object, &spec->secrets, err)) < 0 ||
	    (rc = json_get_string(object, "restartPolicy", &restart, err)) < 0 ||
	    (rc = vm_restart_parse(restart, &spec->restart, err)) < 0)
		return rc;
	spec->cpus = cpus <= LIMIT_CPUS ? (uint32_t)cpus : LIMIT_CPUS + 1;
	return vm_spec_check(spec, err);
}

static int set_resources_parse(const cJSON *body, struct command *command, struct blix_error *err)
{
	struct vm_spec *spec = &command->vm_set.spec;
	uint64_t cpus = 0;
	int rc;

	if ((rc = json_get_u64(body, "cpus", &cpus, err)) < 0 ||
	    (rc = json_get_u64(body, "memoryBytes", &spec->memory_bytes, err)) < 0)
		return rc;
	if (cpus > LIMIT_CPUS)
		return blix_fail(err, BLIX_E_INVALID, "cpus must be at most %d", LIMIT_CPUS);
	spec->cpus = (uint32_t)cpus;
	if (cJSON_GetObjectItemCaseSensitive(body, "cpus") != NULL)
		command->vm_set.fields |= VM_SET_CPUS;
	if (cJSON_GetObjectItemCaseSensitive(body, "memoryBytes") != NULL)
		command->vm_set.fields |= VM_SET_MEMORY;
	return 0;
}

int vm_set_parse(const cJSON *body, struct command *command, struct blix_error *err)
{
	static const char *const keys[] = {"cpus", "memoryBytes", "restartPolicy", "labels", NULL};
	struct vm_spec *spec = &command->vm_set.spec;
	const cJSON *labels = NULL;
	const char *restart = NULL;
	int rc;

	if ((rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = set_resources_parse(body, command, err)) < 0 ||
	    (rc = json_get_string(body, "restartPolicy", &restart, err)) < 0 ||
	    (rc = json_get_object(body, "labels", &labels, err)) < 0 ||
	    (restart != NULL && (rc = vm_restart_parse(restart, &spec->restart, err)) < 0) ||
	    (labels != NULL && (rc = labels_parse(labels, &spec->labels, err)) < 0))
		return rc;
	if (restart != NULL)
		command->vm_set.fields |= VM_SET_RESTART;
	if (command->vm_set.fields == 0 && spec->labels.n == 0)
		return blix_fail(err, BLIX_E_INVALID, "nothing to set");
	return 0;
}

int vm_create_parse(const cJSON *body, char *ret_name, struct vm_spec *spec, struct blix_error *err)
{
	static const char *const keys[] = {"kind", "apiVersion", "metadata", "spec", NULL};
	const char *kind = "VM", *version = BLIX_API_VERSION;
	const cJSON *object = NULL;
	struct vm_spec parsed;
	int rc;

	if ((rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = json_get_string(body, "kind", &kind, err)) < 0 ||
	    (rc = json_get_string(body, "apiVersion", &version, err)) < 0 ||
	    (rc = json_get_object(body, "spec", &object, err)) < 0)
		return rc;
	if (strcmp(kind, "VM") != 0 || strcmp(version, BLIX_API_VERSION) != 0)
		return blix_fail(err, BLIX_E_INVALID, "kind must be VM, apiVersion %s",
		                 BLIX_API_VERSION);
	if (object == NULL)
		return blix_fail(err, BLIX_E_INVALID, "key 'spec' is missing");
	vm_spec_init(&parsed);
	rc = metadata_parse(body, ret_name, &parsed, err);
	if (rc == 0)
		rc = spec_parse(object, &parsed, err);
	if (rc < 0) {
		vm_spec_done(&parsed);
		return rc;
	}
	*spec = parsed;
	return 0;
}

cJSON *vm_create_json(const char *name, const struct vm_spec *spec)
{
	cJSON *object = object_json_begin("VM"), *metadata = json_object();

	json_add_string(metadata, "name", name);
	json_add(metadata, "labels", labels_json(&spec->labels));
	json_add(object, "metadata", metadata);
	json_add(object, "spec", spec_json(spec));
	return object;
}

cJSON *error_json(const struct blix_error *err, cJSON *details)
{
	const struct blix_code_info *info = blix_code_info(err->code);
	cJSON *object = json_object();

	json_add_string(object, "code", info->slug);
	json_add_string(object, "reason", blix_error_reason(err));
	json_add_string(object, "message", err->text);
	json_add_string(object, "hint", err->hint);
	json_add_bool(object, "retryable", info->retryable);
	json_add_bool(object, "definite", info->definite);
	json_add(object, "details", details != NULL ? details : json_object());
	return object;
}

void error_parse(const cJSON *object, int http, struct blix_error *ret)
{
	const char *code = NULL, *reason = "", *message = NULL, *hint = "";

	if (cJSON_IsObject(object)) {
		(void)json_get_string(object, "code", &code, NULL);
		(void)json_get_string(object, "reason", &reason, NULL);
		(void)json_get_string(object, "message", &message, NULL);
		(void)json_get_string(object, "hint", &hint, NULL);
	}
	if (code == NULL || message == NULL) {
		(void)blix_fail(ret, BLIX_E_INTERNAL,
		                "the daemon answered with status %d and no "
		                "error object",
		                http);
		return;
	}
	(void)blix_fail(ret, blix_code_find(code), "%s", message);
	blix_reason(ret, reason);
	blix_hint(ret, "%s", hint);
}
