/* state_apply(): one function per command, each a small story about one object.
 *
 * Happy path: the session says that the request is new, the command's function checks that it fits
 * what the state says now, takes the next revision, edits, and tells an event. It fails by a
 * refusal: nothing has changed then but the session's memory of the answer.
 */
#include "core/place.h"
#include "core/state_internal.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

void state_begin(struct state *s, uint64_t elapsed_ms, uint64_t wall_ms)
{
	if (elapsed_ms != UINT64_MAX)
		s->clock_ms += elapsed_ms;
	else if (wall_ms > s->clock_ms)
		s->clock_ms = wall_ms;
	s->clock_jump_ms = wall_ms > s->clock_ms ? wall_ms - s->clock_ms : s->clock_ms - wall_ms;
}

void refuse(struct command_result *r, enum blix_code code, enum refusal why)
{
	r->code = code;
	r->why = why;
}

void vm_event(struct state *s, const struct vm *vm, const char *reason, const char *message)
{
	state_emit(s, "vm", vm->uid, vm->name, reason, message);
}

void vm_why(struct vm *vm, enum blix_code code, const char *reason, const char *message)
{
	vm->code = code;
	xreplace(&vm->reason, reason);
	xreplace(&vm->message, message);
}

const struct vm *current_vm(const struct state *s, uint64_t uid, struct command_result *r)
{
	const struct vm *vm = state_vm_uid(s, uid);

	if (vm == NULL)
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
	else
		r->uid = uid;
	return vm;
}

static uint32_t elapsed_ms(const struct state *s, uint64_t since_ms)
{
	uint64_t ms = s->clock_ms > since_ms ? s->clock_ms - since_ms : 0;

	return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

void begin_operation(struct state *s, struct vm *vm, const char *verb)
{
	vm->operation = s->revision;
	vm->operation_ms = s->clock_ms;
	xreplace(&vm->operation_verb, verb);
	vm->marks.n = 0;
}

uint32_t operation_age_ms(const struct state *s, const struct vm *vm)
{
	return elapsed_ms(s, vm->operation_ms);
}

void mark_step(const struct state *s, struct vm *vm, enum operation_step step)
{
	operation_mark(&vm->marks, step, operation_age_ms(s, vm));
}

static void apply_create(struct state *s, const struct command *c, struct command_result *r)
{
	struct vm *vm;

	if (parse_name("name", c->vm_create.name, NULL) < 0 ||
	    vm_spec_check(&c->vm_create.spec, NULL) < 0) {
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_SPEC);
		return;
	}
	if (state_vm(s, c->vm_create.name) != NULL) {
		refuse(r, BLIX_E_EXISTS, REFUSAL_VM_EXISTS);
		return;
	}
	if (c->vm_create.adopt != 0 && state_node(s, c->vm_create.adopt) == NULL) {
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
		return;
	}
	if (s->n_vms >= LIMIT_VMS) {
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
		return;
	}
	s->revision++;
	vm = vm_new();
	vm->uid = s->revision;
	vm->version = 1;
	vm->created_ms = vm->phase_ms = s->clock_ms;
	memcpy(vm->name, c->vm_create.name, sizeof(vm->name));
	vm_spec_done(&vm->spec);
	vm_spec_copy(&vm->spec, &c->vm_create.spec);
	if (c->vm_create.adopt != 0) { /* it is there already */
		vm->adopt = vm->node = c->vm_create.adopt;
		vm->epoch = 1;
		vm_hold(vm, vm->adopt);
	}
	xreplace(&vm->update.by, c->principal);
	begin_operation(s, vm, "create");
	state_add_vm(s, vm);
	vm_event(s, vm, "vm-created", vm->spec.flake);
	r->uid = vm->uid;
}

/* The VM a user's command names, if it may be changed. */
const struct vm *named_vm(const struct state *s, const char *name, uint64_t if_version,
                          struct command_result *r)
{
	const struct vm *vm = state_vm(s, name);

	if (vm == NULL)
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_VM_MISSING);
	else if (if_version != 0 && if_version != vm->version)
		refuse(r, BLIX_E_CONFLICT, REFUSAL_VM_VERSION);
	else
		r->uid = vm->uid;
	return r->code == BLIX_OK ? vm : NULL;
}

static void power_set(struct vm *vm, enum vm_power power)
{
	if (vm->spec.power != power)
		vm->version++;
	vm->spec.power = power;
}

void vm_start(struct state *s, struct vm *vm)
{
	power_set(vm, VM_POWER_RUNNING);
	if (vm->phase == VM_STOPPING) {
		vm->restart = true;
		return;
	}
	/* Somebody says that the cause is mended: what was counted is over, and so is the pause. */
	vm->crashes = 0;
	vm->retry_ms = 0;
	if (vm->phase == VM_CRASHLOOP)
		vm_move(vm, VM_SCHEDULED, s->clock_ms);
	if (vm->phase != VM_STOPPED && vm->phase != VM_FAILED)
		return;
	vm_move(vm, VM_PENDING, s->clock_ms);
	vm_why(vm, BLIX_OK, "", "");
	vm->n_rejected = 0;
	vm->ready = false;
	memset(&vm->timings, 0, sizeof(vm->timings));
}

void vm_stop(struct state *s, struct vm *vm, uint32_t grace_ms, bool restart)
{
	power_set(vm, restart ? VM_POWER_RUNNING : VM_POWER_STOPPED);
	vm->restart = restart;
	if (vm->phase == VM_STOPPING) {
		vm->grace_ms = grace_ms;
	} else if (vm_is_committed(vm)) {
		vm->grace_ms = grace_ms;
		vm->ready = false;
		vm_move(vm, VM_STOPPING, s->clock_ms);
	} else if (vm->phase != VM_STOPPED) {
		vm_why(vm, BLIX_OK, "", "");
		vm_move(vm, VM_STOPPED, s->clock_ms);
	}
}

/* What went wrong with the last attempt is forgotten: this is another. */
static void vm_hold_cpus(struct vm *vm, bool hold)
{
	power_set(vm, hold ? VM_POWER_PAUSED : VM_POWER_RUNNING);
	vm_why(vm, BLIX_OK, "", "");
}

static void apply_power(struct state *s, const struct command *c, struct command_result *r)
{
	static const char *const verbs[VM_VERB_COUNT] = {
		[VM_VERB_START] = "start",     [VM_VERB_STOP] = "stop",
		[VM_VERB_RESTART] = "restart", [VM_VERB_PAUSE] = "pause",
		[VM_VERB_RESUME] = "resume",
	};
	const struct vm *found = named_vm(s, c->vm_power.name, c->vm_power.if_version, r);
	enum vm_verb verb = c->vm_power.verb;
	struct vm *vm;

	if (found == NULL)
		return;
	if (found->phase == VM_DELETING) {
		refuse(r, BLIX_E_REFUSED, REFUSAL_VM_DELETING);
		return;
	}
	if (verb == VM_VERB_RESTART && (!vm_is_committed(found) || found->phase == VM_CRASHLOOP))
		verb = VM_VERB_START; /* nothing runs that would have to be stopped */
	if ((verb == VM_VERB_PAUSE || verb == VM_VERB_RESUME) && found->phase != VM_RUNNING &&
	    found->phase != VM_PAUSED) {
		refuse(r, BLIX_E_REFUSED, REFUSAL_VM_NOT_UP);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	begin_operation(s, vm, verbs[c->vm_power.verb]);
	if (verb == VM_VERB_START)
		vm_start(s, vm);
	else if (verb == VM_VERB_STOP || verb == VM_VERB_RESTART)
		vm_stop(s, vm, c->vm_power.grace_ms, verb == VM_VERB_RESTART);
	else
		vm_hold_cpus(vm, verb == VM_VERB_PAUSE);
	if (verb == VM_VERB_STOP)
		update_stop_asked(s, vm);
	state_edited(s, vm);
	if (verb == VM_VERB_PAUSE || verb == VM_VERB_RESUME)
		vm_event(s, vm, verb == VM_VERB_PAUSE ? "vm-pause-asked" : "vm-resume-asked",
		         c->principal);
	else
		vm_event(s, vm, verb == VM_VERB_START ? "vm-start-asked" : "vm-stop-asked",
		         c->principal);
}

static void apply_delete(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = named_vm(s, c->vm_delete.name, c->vm_delete.if_version, r);
	struct vm *vm;

	if (found == NULL)
		return;
	s->revision++;
	vm = state_edit(s, found);
	vm->grace_ms = c->vm_delete.grace_ms;
	vm->drop_volumes = c->vm_delete.volumes; /* the last word counts */
	vm->ready = false;
	if (vm->phase != VM_DELETING) {
		begin_operation(s, vm, "delete");
		vm->ending = vm_is_committed(vm);
		vm_move(vm, VM_DELETING, s->clock_ms);
	}
	state_edited(s, vm);
	vm_event(s, vm, "vm-delete-asked", c->principal);
	if (vm->n_holders == 0) {
		vm_event(s, vm, "vm-deleted", "");
		state_remove_vm(s, vm);
	}
}

static void apply_resolve(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = current_vm(s, c->vm_resolve.uid, r);
	const struct node *node = state_node(s, c->vm_resolve.node);
	const struct node *resolver;
	struct vm *vm;
	bool update, orphaned;

	if (found == NULL)
		return;
	resolver = state_node(s, found->resolver);
	update = found->update.step == UPDATE_RESOLVE;
	orphaned = (found->phase == VM_RESOLVING || update) &&
	           (resolver == NULL || resolver->phase != NODE_READY);
	if (node == NULL || node->phase != NODE_READY ||
	    !((found->phase == VM_PENDING && !found->resolved_set) || orphaned)) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	vm->resolver = node->id;
	mark_step(s, vm, OPERATION_RESOLVE);
	if (!update) {
		vm->timings.queue_ms = elapsed_ms(s, vm->operation_ms);
		vm_move(vm, VM_RESOLVING, s->clock_ms);
	}
	state_edited(s, vm);
	vm_event(s, vm, "vm-resolving", node->name);
}

static void apply_resolved(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = current_vm(s, c->vm_resolved.uid, r);
	struct vm *vm;

	if (found == NULL)
		return;
	if ((found->phase != VM_RESOLVING && found->update.step != UPDATE_RESOLVE) ||
	    found->resolver != c->vm_resolved.node) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	if (found->update.step == UPDATE_RESOLVE) {
		s->revision++;
		vm = state_edit(s, found);
		update_resolved(s, vm, c);
		state_edited(s, vm);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	vm->resolver = 0;
	vm->timings.resolve_ms = c->vm_resolved.resolve_ms;
	if (c->vm_resolved.code != BLIX_OK) {
		vm_why(vm, c->vm_resolved.code, c->vm_resolved.reason, c->vm_resolved.message);
		vm_move(vm, VM_FAILED, s->clock_ms);
		vm_event(s, vm, "vm-resolve-failed", vm->message);
	} else {
		generation_first(s, vm, c);
		vm_move(vm, vm->spec.power == VM_POWER_RUNNING ? VM_PENDING : VM_STOPPED,
		        s->clock_ms);
		vm_event(s, vm, "vm-resolved", vm->resolved.out_path);
	}
	state_edited(s, vm);
}

static void apply_assign(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = current_vm(s, c->vm_assign.uid, r);
	const struct node *node = state_node(s, c->vm_assign.node);
	struct vm *vm;

	if (found == NULL)
		return;
	if (found->phase != VM_PENDING || !found->resolved_set || node == NULL ||
	    found->epoch != c->vm_assign.epoch) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	if (place_node(found, node).reject != PLACE_FITS) {
		refuse(r, BLIX_E_NOROOM, REFUSAL_NO_ROOM);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	vm->node = node->id;
	vm->epoch++;
	vm->ready = false;
	vm->pid = 0;
	vm_hold(vm, node->id);
	vm_why(vm, BLIX_OK, "", "");
	vm->timings.queue_ms = elapsed_ms(s, vm->operation_ms) - vm->timings.resolve_ms;
	if (vm->timings.queue_ms > UINT32_MAX / 2) /* clocks of two nodes: never below 0 */
		vm->timings.queue_ms = 0;
	vm_move(vm, VM_SCHEDULED, s->clock_ms);
	mark_step(s, vm, OPERATION_PLACE);
	state_edited(s, vm);
	vm_event(s, vm, "vm-scheduled", node->name);
}

static void apply_verdict(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = current_vm(s, c->vm_verdict.uid, r);
	struct vm *vm;
	bool again;

	if (found == NULL)
		return;
	if (found->phase != VM_PENDING || !found->resolved_set) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	s->revision++;
	again = found->code == BLIX_E_NOROOM;
	vm = state_edit(s, found);
	vm_why(vm, BLIX_E_NOROOM, c->vm_verdict.reason, c->vm_verdict.message);
	state_edited(s, vm);
	/* What is free changes with every other VM: that is no news of this one. */
	if (!again)
		vm_event(s, vm, "vm-unplaceable", vm->message);
}

static void apply_node_phase(struct state *s, const struct command *c, struct command_result *r)
{
	bool found;
	size_t at = state_find_node(s, c->node_phase.id, &found);
	struct node *node;

	if (!found) {
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
		return;
	}
	if (s->nodes[at]->phase == c->node_phase.phase)
		return;
	s->revision++;
	node = node_own(&s->nodes[at]);
	node->phase = c->node_phase.phase;
	node->phase_ms = s->clock_ms;
	node->revision = s->revision;
	state_emit(s, "node", 0, node->name,
	           node->phase == NODE_READY ? "node-ready" : "node-offline", "");
}

static void session_free_at(struct state *s, size_t at)
{
	free(s->sessions[at]->results);
	free(s->sessions[at]);
}

static void apply_expire(struct state *s, const struct command *c, struct command_result *r)
{
	size_t kept = 0;

	(void)r;
	for (size_t i = 0; i < s->n_sessions; i++) {
		if (s->sessions[i]->used_ms < c->session_expire.before_ms)
			session_free_at(s, i);
		else
			s->sessions[kept++] = s->sessions[i];
	}
	s->n_sessions = kept;
}

/* The session of a command; NULL when the command must not run: *r is then its answer, remembered
 * or refused. */
static struct session *session_begin(struct state *s, const struct command *c,
                                     struct command_result *r)
{
	struct session *session;
	bool found;
	size_t at = state_find_session(s, c->session, &found);

	if (!found && c->request != 1) {
		refuse(r, BLIX_E_FORGOTTEN, REFUSAL_SESSION_FORGOTTEN);
		return NULL;
	}
	if (!found && s->n_sessions >= LIMIT_SESSIONS) {
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
		return NULL;
	}
	if (!found) {
		session = xcalloc(1, sizeof(*session));
		session->id = c->session;
		state_insert((void ***)(void *)&s->sessions, &s->n_sessions, &s->size_sessions, at,
		             session);
	}
	session = s->sessions[at];
	session->used_ms = s->clock_ms;
	if (c->request == session->last + 1)
		return session;
	if (c->request > session->last)
		refuse(r, BLIX_E_INVALID, REFUSAL_SESSION_GAP);
	else if (session->last - c->request >= session->n)
		refuse(r, BLIX_E_FORGOTTEN, REFUSAL_SESSION_FORGOTTEN);
	else
		*r = session->results[session->n - 1 - (session->last - c->request)];
	return NULL;
}

static void session_end(struct session *session, const struct command_result *r)
{
	session->last++;
	if (session->n == LIMIT_RESULTS) {
		memmove(session->results, session->results + 1,
		        (session->n - 1) * sizeof(*session->results));
		session->n--;
	}
	if (session->n == session->size) {
		session->size = session->size == 0 ? 1 : session->size * 2;
		session->results =
			xreallocarray(session->results, session->size, sizeof(*session->results));
	}
	session->results[session->n++] = *r;
}

static void (*const appliers[COMMAND_KIND_COUNT])(struct state *s, const struct command *c,
                                                  struct command_result *r) = {
	[COMMAND_VM_CREATE] = apply_create,
	[COMMAND_VM_POWER] = apply_power,
	[COMMAND_VM_DELETE] = apply_delete,
	[COMMAND_VM_RESOLVE] = apply_resolve,
	[COMMAND_VM_RESOLVED] = apply_resolved,
	[COMMAND_VM_ASSIGN] = apply_assign,
	[COMMAND_VM_VERDICT] = apply_verdict,
	[COMMAND_VM_REPORT] = apply_report,
	[COMMAND_NODE_REPORT] = apply_node_report,
	[COMMAND_NODE_PHASE] = apply_node_phase,
	[COMMAND_SESSION_EXPIRE] = apply_expire,
	[COMMAND_VM_UPDATE] = apply_update,
	[COMMAND_VM_SET] = apply_set,
	[COMMAND_VM_UPDATE_DUE] = apply_update_due,
	[COMMAND_GENERATION_DROP] = apply_generation_drop,
};

/* What clients ask for; the cluster's own commands run in no session, even if one is named: they
 * may end sessions. */
static bool has_session(const struct command *c)
{
	return c->session != 0 && (c->kind == COMMAND_VM_CREATE || c->kind == COMMAND_VM_POWER ||
	                           c->kind == COMMAND_VM_DELETE || c->kind == COMMAND_VM_UPDATE ||
	                           c->kind == COMMAND_VM_SET);
}

void state_apply(struct state *s, const struct command *c, struct command_result *ret)
{
	struct session *session = NULL;
	struct command_result r = {.code = BLIX_OK};

	assert((unsigned)c->kind < COMMAND_KIND_COUNT);
	assert(appliers[c->kind] != NULL);
	if (has_session(c))
		session = session_begin(s, c, &r);
	if (!has_session(c) || session != NULL) {
		appliers[c->kind](s, c, &r);
		r.revision = s->revision;
	}
	if (session != NULL)
		session_end(session, &r);
	*ret = r;
}

int refusal_error(const struct command_result *result, const char *subject, struct blix_error *err)
{
	static const struct {
		const char *reason, *text, *hint;
	} words[] = {
		[REFUSAL_NONE] = {"", "done", ""},
		[REFUSAL_SESSION_FORGOTTEN] = {"outcome-forgotten",
	                                       "the outcome of this request is no longer known",
	                                       "look at the object before you try again"},
		[REFUSAL_SESSION_GAP] = {"session-gap", "request numbers must be consecutive", ""},
		[REFUSAL_FULL] = {"cluster-full", "the cluster holds no more of these", ""},
		[REFUSAL_BAD_SPEC] = {"bad-spec", "name or spec is not valid", ""},
		[REFUSAL_VM_EXISTS] = {"vm-exists", "a VM of this name exists",
	                               "choose another name, or see it with 'blix vm show'"},
		[REFUSAL_VM_MISSING] = {"vm-missing", "no such VM",
	                                "'blix vm list' shows those there are"},
		[REFUSAL_VM_DELETING] = {"vm-deleting", "it is being deleted", ""},
		[REFUSAL_VM_VERSION] = {"version-conflict", "it was changed by somebody else",
	                                "read it again and retry with its new version"},
		[REFUSAL_STALE] = {"stale", "it has moved on", ""},
		[REFUSAL_NODE_MISSING] = {"node-missing", "no such node",
	                                  "'blix node list' shows those there are"},
		[REFUSAL_NO_ROOM] = {"no-room", "the node has no room", ""},
		[REFUSAL_VM_NOT_UP] = {"not-running", "it does not run",
	                               "'blix vm start' starts it"},
		[REFUSAL_NODE_NAME] = {"node-name-taken", "the name belongs to another node",
	                               "give this node another name in its configuration"},
		[REFUSAL_UPDATING] = {"update-under-way", "an update of it is under way",
	                              "see how it goes with 'blix vm show'"},
		[REFUSAL_UNRESOLVED] = {"not-resolved", "its first system is not known yet",
	                                "wait until it runs"},
		[REFUSAL_GENERATION_MISSING] = {"generation-missing", "no such generation is kept",
	                                        "'blix vm history' shows those there are"},
		[REFUSAL_NO_EARLIER] = {"no-earlier-generation",
	                                "no generation before the present one is kept",
	                                "'blix vm history' shows those there are"},
		[REFUSAL_UNKNOWN_COMMAND] = {"unknown-command", "unknown command", ""},
	};

	assert(result->why < array_size(words));
	(void)blix_fail(err, result->code, "%s: %s", subject, words[result->why].text);
	blix_reason(err, words[result->why].reason);
	blix_hint(err, "%s", words[result->why].hint);
	return -(int)result->code;
}
