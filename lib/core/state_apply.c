/* What people and the leader decide about a VM: one function per command, each a small story about
 * one object.
 *
 * Happy path: the command's function checks that it fits what the state says now, takes the next
 * revision, edits, and tells an event. It fails by a refusal: nothing has changed then but the
 * session's memory of the answer.
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

void apply_create(struct state *s, const struct command *c, struct command_result *r)
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
	if (c->vm_create.adopt != 0 && (state_node(s, c->vm_create.adopt) == NULL ||
	                                state_node(s, c->vm_create.adopt)->leaving)) {
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

void apply_power(struct state *s, const struct command *c, struct command_result *r)
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

void apply_delete(struct state *s, const struct command *c, struct command_result *r)
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

void apply_resolve(struct state *s, const struct command *c, struct command_result *r)
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
	           (resolver == NULL || !node_is_up(resolver));
	if (node == NULL || !node_is_up(node) ||
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

void apply_resolved(struct state *s, const struct command *c, struct command_result *r)
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

void apply_assign(struct state *s, const struct command *c, struct command_result *r)
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

void apply_verdict(struct state *s, const struct command *c, struct command_result *r)
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
