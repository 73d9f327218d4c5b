/* Routes about one VM. A mutation is decoded, checked with the core's own functions, proposed, and
 * answered with the object as the local state has it once the command was applied. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/cause.h"
#include "core/object_json.h"
#include "core/place.h"
#include "node/read.h"
#include "vmm/vmm.h"

#include <inttypes.h>
#include <stdio.h>

#define GRACE_MS_DEFAULT 30000

/* A request that waits for the answer to its proposal. */
struct mutation {
	struct daemon *daemon;
	struct http_request *request; /* NULL: the client went away; the command goes its way */
	char name[LIMIT_NAME + 1];
	char *principal;  /* whose share it takes; NULL: it was done before */
	const char *kind; /* begins an error: "vm" */
	int status;       /* HTTP, of success */
	void (*answer)(const struct daemon *d, struct http_request *request, const char *name,
	               int status, uint64_t uid);
};

static void mutation_cancelled(void *data)
{
	((struct mutation *)data)->request = NULL;
}

void api_answer_version(struct http_request *request, const struct vm *vm)
{
	char tag[32];

	(void)snprintf(tag, sizeof(tag), "\"%" PRIu64 "\"", vm->version);
	http_answer_header(request, "ETag", tag);
}

/* uid: of the one that is meant; 0: whichever has the name. */
static void answer_vm(const struct daemon *d, struct http_request *request, const char *name,
                      int status, uint64_t uid)
{
	const struct vm *vm = state_vm(d->state, name);
	cleanup(json_freep) cJSON *object = NULL;

	if (vm != NULL && (uid == 0 || uid == vm->uid)) {
		object = vm_json(vm, d->state);
		api_add_stale(d, object);
		api_answer_version(request, vm);
	} else { /* deleted at once, since no node held anything of it; or since it was asked */
		object = json_object();
		json_add_bool(object, "deleted", true);
	}
	http_answer_json(request, status, object);
}

static void mutation_done(void *data, int status, const struct command_result *result)
{
	struct mutation *m = data;
	char subject[LIMIT_NAME + 16];
	struct blix_error err;

	(void)snprintf(subject, sizeof(subject), "%s %s", m->kind, m->name);
	if (m->request != NULL && status < 0) {
		(void)daemon_propose_error(m->daemon, status, &err);
		http_answer_error(m->request, &err, NULL);
	} else if (m->request != NULL && result->code != BLIX_OK) {
		(void)refusal_error(result, subject, &err);
		http_answer_error(m->request, &err, NULL);
	} else if (m->request != NULL) {
		m->answer(m->daemon, m->request, m->name, m->status, result->uid);
	}
	if (m->principal != NULL)
		share_give(&m->daemon->proposing, m->principal);
	free(m->principal);
	free(m);
}

void api_answer_outcome(struct daemon *d, struct http_request *request, const char *name,
                        int status, const struct command_result *result)
{
	struct mutation *m = xcalloc(1, sizeof(*m));

	*m = (struct mutation){.daemon = d,
	                       .request = request,
	                       .kind = "vm",
	                       .status = status,
	                       .answer = answer_vm};
	(void)snprintf(m->name, sizeof(m->name), "%s", name);
	mutation_done(m, 0, result);
}

void api_propose(struct daemon *d, struct http_request *request, struct command *command,
                 const char *name, int status)
{
	api_propose_of(d, request, command, &(struct api_object){"vm", name, status, answer_vm});
}

void api_propose_of(struct daemon *d, struct http_request *request, struct command *command,
                    const struct api_object *object)
{
	struct mutation *m;
	struct blix_error err;

	if (api_identify(d, request, command, &err) < 0 ||
	    share_take(&d->proposing, command->principal, LIMIT_PROPOSALS_OF, "mutations", &err) <
	            0) {
		http_answer_error(request, &err, NULL);
		command_done(command);
		return;
	}
	m = xcalloc(1, sizeof(*m));
	*m = (struct mutation){.daemon = d,
	                       .request = request,
	                       .principal = xstrdup(command->principal),
	                       .kind = object->kind,
	                       .status = object->status,
	                       .answer = object->answer};
	(void)snprintf(m->name, sizeof(m->name), "%s", object->name);
	http_on_cancel(request, mutation_cancelled, m);
	daemon_propose(d, command, mutation_done, m);
	command_done(command);
}

/* Where it would run, by the real scheduler. What only its evaluation knows is taken from the spec,
 * else from microvm.nix's own defaults, and the answer says so. */
static void answer_dry_run(const struct daemon *d, struct http_request *request, const char *name,
                           const struct vm_spec *spec)
{
	cleanup(json_freep) cJSON *answer = json_object();
	struct vm *vm = vm_new();
	const struct node *node;
	bool fits;

	vm_spec_done(&vm->spec);
	vm_spec_copy(&vm->spec, spec);
	vm->resolved_set = true;
	vm->resolved.cpus = spec->cpus != 0 ? spec->cpus : 1;
	vm->resolved.memory_bytes = spec->memory_bytes != 0 ? spec->memory_bytes : 512ULL << 20;
	xreplace(&vm->resolved.hypervisor, spec->hypervisor[0] != '\0' ? spec->hypervisor : "qemu");
	node = place(d->state, vm);
	json_add_bool(answer, "dryRun", true);
	json_add_string(answer, "name", name);
	json_add_bool(answer, "exists", state_vm(d->state, name) != NULL);
	json_add_string(answer, "node", node != NULL ? node->name : "");
	json_add(answer, "nodes", api_nodes_verdict(d, vm, &fits));
	json_add_bool(answer, "placeable", fits);
	json_add_u64(answer, "cpus", vm->resolved.cpus);
	json_add_u64(answer, "memoryBytes", vm->resolved.memory_bytes);
	json_add_bool(answer, "assumed",
	              spec->cpus == 0 || spec->memory_bytes == 0 || spec->hypervisor[0] == '\0');
	http_answer_json(request, 200, answer);
	vm_unref(vm);
}

int api_parse_body(const struct http_request *request, cJSON **ret, struct blix_error *err)
{
	size_t n;
	const char *body = http_body(request, &n);

	return json_parse(body, n, &json_limits_request, ret, err);
}

void vm_create_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *dry = http_query(request, "dryRun");
	cleanup(json_freep) cJSON *body = NULL;
	struct command command;
	struct vm_spec spec;
	struct blix_error err;
	char name[LIMIT_NAME + 1];

	if (api_parse_body(request, &body, &err) < 0 ||
	    vm_create_parse(body, name, &spec, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	if (dry != NULL && strcmp(dry, "true") == 0) {
		answer_dry_run(d, request, name, &spec);
		vm_spec_done(&spec);
		return;
	}
	command_init(&command, COMMAND_VM_CREATE);
	memcpy(command.vm_create.name, name, sizeof(name));
	vm_spec_done(&command.vm_create.spec);
	command.vm_create.spec = spec;
	api_propose(d, request, &command, name, 201);
}

/* The name in the path; answers itself when it is none. */
const char *api_path_name(struct http_request *request)
{
	const char *name = http_path_param(request, "name");
	struct blix_error err;

	if (parse_name("name", name, &err) == 0)
		return name;
	http_answer_error(request, &err, NULL);
	return NULL;
}

int api_query_number(const struct http_request *request, const char *key, uint64_t max,
                     uint64_t *ret, struct blix_error *err)
{
	const char *text = http_query(request, key);
	int rc = text != NULL ? parse_u64(text, ret, err) : 0;

	if (rc == 0 && *ret > max)
		return blix_fail(err, BLIX_E_INVALID, "%s is at most %" PRIu64, key, max);
	return rc;
}

static int parse_grace(const struct http_request *request, uint32_t *ret, struct blix_error *err)
{
	static const char *const keys[] = {"graceMs", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	uint64_t grace = GRACE_MS_DEFAULT;
	size_t n;
	int rc;

	(void)http_body(request, &n);
	if (n > 0 && ((rc = api_parse_body(request, &body, err)) < 0 ||
	              (rc = json_only_keys(body, keys, err)) < 0 ||
	              (rc = json_get_u64(body, "graceMs", &grace, err)) < 0))
		return rc;
	if (grace > 3600000)
		return blix_fail(err, BLIX_E_INVALID, "graceMs is at most an hour");
	*ret = (uint32_t)grace;
	return 0;
}

static void power(struct http_request *request, struct daemon *d, enum vm_verb verb)
{
	const char *name = api_path_name(request);
	struct command command;
	struct blix_error err;

	if (name == NULL)
		return;
	command_init(&command, COMMAND_VM_POWER);
	(void)snprintf(command.vm_power.name, sizeof(command.vm_power.name), "%s", name);
	command.vm_power.verb = verb;
	if (parse_grace(request, &command.vm_power.grace_ms, &err) < 0 ||
	    api_if_version(request, &command.vm_power.if_version, &err) < 0) {
		http_answer_error(request, &err, NULL);
		command_done(&command);
		return;
	}
	api_propose(d, request, &command, name, 200);
}

void vm_start_handle(struct http_request *request, void *data)
{
	power(request, data, VM_VERB_START);
}

void vm_stop_handle(struct http_request *request, void *data)
{
	power(request, data, VM_VERB_STOP);
}

void vm_restart_handle(struct http_request *request, void *data)
{
	power(request, data, VM_VERB_RESTART);
}

/* What its hypervisor cannot do is refused before it is in the log. */
static int check_hold(const struct daemon *d, const char *name, enum vmm_operation operation,
                      struct blix_error *err)
{
	const struct vm *vm = state_vm(d->state, name);
	enum vmm_kind kind = vm != NULL ? vmm_kind_parse(vm->resolved.hypervisor) : VMM_UNKNOWN;
	const char *cannot = vmm_cannot(kind, operation);

	if (vm == NULL || !vm->resolved_set || cannot == NULL)
		return 0;
	(void)blix_fail(err, BLIX_E_REFUSED, "vm %s: %s cannot %s: %s", name,
	                vm->resolved.hypervisor, operation == VMM_PAUSE ? "pause" : "resume",
	                cannot);
	blix_reason(err, "unsupported");
	return -BLIX_E_REFUSED;
}

static void hold(struct http_request *request, struct daemon *d, enum vm_verb verb)
{
	const char *name = api_path_name(request);
	struct command command;
	struct blix_error err;
	size_t n;

	if (name == NULL)
		return;
	(void)http_body(request, &n);
	command_init(&command, COMMAND_VM_POWER);
	(void)snprintf(command.vm_power.name, sizeof(command.vm_power.name), "%s", name);
	command.vm_power.verb = verb;
	if ((n > 0 && blix_fail(&err, BLIX_E_INVALID, "no body is expected") < 0) ||
	    check_hold(d, name, verb == VM_VERB_PAUSE ? VMM_PAUSE : VMM_RESUME, &err) < 0 ||
	    api_if_version(request, &command.vm_power.if_version, &err) < 0) {
		http_answer_error(request, &err, NULL);
		command_done(&command);
		return;
	}
	api_propose(d, request, &command, name, 200);
}

void vm_pause_handle(struct http_request *request, void *data)
{
	hold(request, data, VM_VERB_PAUSE);
}

void vm_resume_handle(struct http_request *request, void *data)
{
	hold(request, data, VM_VERB_RESUME);
}

void vm_delete_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *name = api_path_name(request);
	const char *volumes = http_query(request, "volumes");
	uint64_t grace = GRACE_MS_DEFAULT;
	struct command command;
	struct blix_error err;

	if (name == NULL)
		return;
	command_init(&command, COMMAND_VM_DELETE);
	(void)snprintf(command.vm_delete.name, sizeof(command.vm_delete.name), "%s", name);
	if (api_query_number(request, "graceMs", 3600000, &grace, &err) < 0 ||
	    api_if_version(request, &command.vm_delete.if_version, &err) < 0) {
		http_answer_error(request, &err, NULL);
		command_done(&command);
		return;
	}
	command.vm_delete.grace_ms = (uint32_t)grace;
	command.vm_delete.volumes = volumes != NULL && strcmp(volumes, "true") == 0;
	api_propose(d, request, &command, name, 200);
}

/* A long poll of one VM. */
struct vm_poll {
	struct http_request *request;
	char name[LIMIT_NAME + 1];
	uint64_t revision;
};

/* Another server gave that revision: what is not here yet may have come to be by then. */
static bool poll_is_ahead(const struct daemon *d, const struct vm_poll *poll)
{
	return poll->revision > d->state->revision;
}

static bool vm_poll_ready(const struct daemon *d, const void *data)
{
	const struct vm_poll *poll = data;
	const struct vm *vm = state_vm(d->state, poll->name);

	return vm == NULL ? !poll_is_ahead(d, poll) : vm->revision > poll->revision;
}

static void vm_poll_done(struct daemon *d, void *data, bool cancelled)
{
	struct vm_poll *poll = data;
	struct blix_error err;

	if (cancelled) {
		free(poll);
		return;
	}
	if (state_vm(d->state, poll->name) != NULL) {
		answer_vm(d, poll->request, poll->name, 200, 0);
	} else if (poll_is_ahead(d, poll)) {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE,
		                "this server has not heard of revision %" PRIu64 " yet",
		                poll->revision);
		http_answer_error(poll->request, &err, NULL);
	} else {
		api_not_found(poll->request, poll->name);
	}
	free(poll);
}

static void vm_show_read(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *name = api_path_name(request);
	struct vm_poll *poll;
	struct api_wait wait;
	struct blix_error err;

	if (name == NULL)
		return;
	if (api_wait_parse(request, &wait, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	if (!wait.set && state_vm(d->state, name) != NULL) {
		api_answer_usage(d, request, state_vm(d->state, name), true, false);
		return;
	}
	poll = xcalloc(1, sizeof(*poll));
	*poll = (struct vm_poll){.request = request, .revision = wait.revision};
	(void)snprintf(poll->name, sizeof(poll->name), "%s", name);
	if (!wait.set || vm_poll_ready(d, poll))
		vm_poll_done(d, poll, false);
	else
		daemon_wait(d, &(struct wait_options){.ready = vm_poll_ready,
		                                      .cb = vm_poll_done,
		                                      .data = poll,
		                                      .request = request,
		                                      .deadline_ms = wait.wait_ms});
}

void vm_show_handle(struct http_request *request, void *data)
{
	api_read(data, request, vm_show_read);
}

static void push_cause(cJSON *chain, enum blix_code code, const char *reason, const char *message,
                       uint64_t since_ms)
{
	cJSON *link = json_object();

	json_add_string(link, "reason", reason);
	json_add_string(link, "class", cause_class_name(cause_of(reason, code)));
	json_add_string(link, "message", message);
	json_add_time(link, "since", since_ms);
	json_push(chain, link);
}

static bool is_failure(const char *reason)
{
	static const char *const failures[] = {"vm-retry", "vm-failed", "vm-crash-loop"};

	for (size_t i = 0; i < array_size(failures); i++) {
		if (strcmp(failures[i], reason) == 0)
			return true;
	}
	return false;
}

static void push_crashes(cJSON *chain, const struct vm *vm)
{
	bool waits = vm->phase == VM_CRASHLOOP || vm->phase == VM_SCHEDULED;
	char text[160], at[48];

	json_format_time(at, sizeof(at), vm->retry_ms);
	(void)snprintf(text, sizeof(text),
	               "ended %" PRIu32 " times in a row, last with exit code %d%s%s", vm->crashes,
	               (int)vm->exit_code, waits ? "; next start at " : "", waits ? at : "");
	push_cause(chain, BLIX_E_START, vm->crashes >= VM_CRASHES_LOOP ? "crash-loop" : "crashed",
	           text, vm->phase_ms);
}

/* True when every place to build on its node is taken: it is next when one ends. */
static bool waits_for_build(const struct state *state, const struct vm *vm, const struct node *node,
                            char *out, size_t n)
{
	uint32_t builds = 0;

	if (vm->phase != VM_SCHEDULED || vm->code != BLIX_OK)
		return false;
	for (size_t i = 0; i < state->n_vms; i++) {
		const struct vm *other = state->vms[i];

		builds += (other->phase == VM_BUILDING && other->node == node->id) ||
		          (other->phase == VM_RESOLVING && other->resolver == node->id);
	}
	(void)snprintf(out, n, "%u of %u builds are under way on %s (buildsMax)", builds,
	               node->facts.builds_max, node->name);
	return builds >= node->facts.builds_max;
}

/* The last change of its system, when that did not come out well. */
static void push_update(cJSON *chain, const struct vm *vm)
{
	const struct vm_update *update = &vm->update;
	cleanup(freep) char *text =
		xasprintf("the last update %s: %s",
	                  update->outcome == UPDATE_ROLLED_BACK ? "was rolled back" : "failed",
	                  update->message);

	if (update->outcome == UPDATE_ROLLED_BACK || update->outcome == UPDATE_FAILED)
		push_cause(chain, update->code, update->reason, text, 0);
}

/* From the phase down to what caused it, then what the log remembers of its failures. */
static cJSON *why_chain(const struct daemon *d, const struct vm *vm)
{
	const struct node *node = state_node(d->state, vm->node);
	cJSON *chain = json_array();
	char text[160];

	(void)snprintf(text, sizeof(text), "%s since its %s", vm_phase_name(vm->phase),
	               vm->operation_verb);
	push_cause(chain, BLIX_OK, "phase", text, vm->phase_ms);
	if (vm->reason[0] != '\0')
		push_cause(chain, vm->code, vm->reason, vm->message, vm->phase_ms);
	if (vm->crashes > 0)
		push_crashes(chain, vm);
	if (node != NULL && node->phase == NODE_OFFLINE && vm_is_committed(vm))
		push_cause(chain, BLIX_OK, "node-offline", node->name, node->phase_ms);
	if (node != NULL && waits_for_build(d->state, vm, node, text, sizeof(text)))
		push_cause(chain, BLIX_E_BUSY, "waits-for-build", text, vm->phase_ms);
	if (vm->phase == VM_PENDING && !vm->resolved_set)
		push_cause(chain, BLIX_OK, "waits-for-resolve", "its flake was not evaluated yet",
		           vm->phase_ms);
	if (vm->spec.secrets.n > 0 && vm->phase == VM_RUNNING && !vm->secrets_given &&
	    vm->code == BLIX_OK)
		push_cause(chain, BLIX_E_NOTREADY, "secrets-not-taken",
		           "no agent in its guest has taken its secrets yet; without one they "
		           "cannot reach it (docs/guest-contract.md)",
		           vm->phase_ms);
	if (vm->spec.ready[0] != '\0' && vm->phase == VM_RUNNING && !vm->ready)
		push_cause(chain, BLIX_OK, "not-ready", vm->spec.ready, vm->phase_ms);
	push_update(chain, vm);
	if (node != NULL && vm_is_pinned(vm)) {
		(void)snprintf(text, sizeof(text), "data in its directory ties it to %s",
		               node->name);
		push_cause(chain, BLIX_OK, "pinned", text, vm->created_ms);
	}
	for (size_t i = d->state->n_events; i > 0; i--) {
		const struct event *event = state_event(d->state, i - 1);

		if (event->uid == vm->uid && is_failure(event->reason))
			push_cause(chain, BLIX_OK, event->reason, event->message, event->clock_ms);
		if (cJSON_GetArraySize(chain) >= 16)
			break;
	}
	return chain;
}

static const char *why_hint(const struct vm *vm)
{
	if (vm->phase == VM_PENDING && vm->code == BLIX_E_NOROOM)
		return "free room or add a node: it starts by itself then";
	if (vm->phase == VM_FAILED)
		return "mend the cause, then 'blix vm start'";
	if (vm->phase == VM_CRASHLOOP)
		return "'blix vm logs' shows its console; 'blix vm start' ends the pause, 'blix vm "
		       "stop' "
		       "the loop";
	if (vm->phase == VM_UNKNOWN)
		return "look at the process on its node; 'blix vm stop --force' ends what is ours";
	return "";
}

static void vm_why_read(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	const char *name = api_path_name(request);
	cleanup(json_freep) cJSON *answer = NULL;
	const struct vm *vm;
	bool fits;

	if (name == NULL)
		return;
	vm = state_vm(d->state, name);
	if (vm == NULL) {
		api_not_found(request, name);
		return;
	}
	answer = json_object();
	json_add_string(answer, "name", vm->name);
	json_add_string(answer, "phase", vm_phase_name(vm->phase));
	json_add(answer, "chain", why_chain(d, vm));
	if (vm->phase == VM_PENDING && vm->resolved_set) {
		json_add(answer, "nodes", api_nodes_verdict(d, vm, &fits));
		json_add_bool(answer, "placeable", fits);
	}
	json_add_string(answer, "hint", why_hint(vm));
	api_add_stale(d, answer);
	http_answer_json(request, 200, answer);
}

void vm_why_handle(struct http_request *request, void *data)
{
	api_read(data, request, vm_why_read);
}
