/* Systems of VMs changing: update, rollback, the trial of a new system, and generations that go.
 *
 * Happy path of an update: asked (resolve), a node found a new lock (a new generation is wanted,
 * build), its node built it while the VM went on (boot: the VM is told to restart), it runs (done).
 * With auto_rollback the new system has until a deadline of the cluster's clock to be ready, or,
 * where nothing says what ready is, to run for a while; the leader proposes when that time has
 * come. A trial that fails makes the old generation the wanted one again (revert).
 *
 * What cannot be resolved, admitted or built changes nothing: the VM goes on as it was.
 */
#include "core/generation.h"
#include "core/state_internal.h"

#include "base/alloc.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

static struct generation *find(struct vm *vm, uint64_t number)
{
	for (uint32_t i = 0; i < vm->n_generations; i++) {
		if (vm->generations[i].number == number)
			return &vm->generations[i];
	}
	return NULL;
}

static void drop(struct state *s, struct vm *vm, uint64_t number)
{
	const struct generation *g = generation_find(vm, number);

	if (g == NULL)
		return;
	state_lock_drop(s, g->resolved.lock);
	generation_remove(vm, number);
}

/* Makes a kept generation the wanted one; the spec follows, since it says what the user wants. */
static void want(struct vm *vm, uint64_t number)
{
	const struct generation *g = generation_find(vm, number);

	if (g == NULL)
		return;
	if (strcmp(vm->spec.flake, g->flake) != 0 || strcmp(vm->spec.attr, g->attr) != 0)
		vm->version++;
	xreplace(&vm->spec.flake, g->flake);
	xreplace(&vm->spec.attr, g->attr);
	vm_resolved_done(&vm->resolved);
	vm_resolved_copy(&vm->resolved, &g->resolved);
	vm->resolved_set = true;
	vm->generation = number;
	vm->crashes = 0; /* those of another system */
	vm->retry_ms = 0;
}

static uint64_t add(struct state *s, struct vm *vm, const struct command *c, const char *flake,
                    const char *attr, const char *by)
{
	struct vm_resolved resolved = c->vm_resolved.resolved;
	uint64_t victim;

	while (vm->n_generations >= LIMIT_GENERATIONS &&
	       (victim = generation_victim(vm, 1, 0, s->clock_ms)) != 0)
		drop(s, vm, victim);
	resolved.lock = state_lock_add(s, c->vm_resolved.lock.data, c->vm_resolved.lock.len);
	return generation_add(vm, &resolved, flake, attr, by, s->clock_ms)->number;
}

void generation_first(struct state *s, struct vm *vm, const struct command *c)
{
	want(vm, add(s, vm, c, vm->spec.flake, vm->spec.attr, vm->update.by));
}

/* The same lock, rendered anew: the resources may be others. Says whether the runner is. */
static bool render(struct generation *g, const struct vm_resolved *resolved)
{
	bool changed = strcmp(g->resolved.out_path, resolved->out_path) != 0;
	uint64_t lock = g->resolved.lock;

	vm_resolved_done(&g->resolved);
	vm_resolved_copy(&g->resolved, resolved);
	g->resolved.lock = lock;
	return changed;
}

/* spec: as it was; NULL: there is nothing to go back to. */
static void before_set(struct vm *vm, const struct vm_spec *spec)
{
	const struct vm_resolved none = {0};

	vm_resolved_done(&vm->before.resolved);
	vm->before = (struct vm_before){.set = spec != NULL,
	                                .cpus = spec != NULL ? spec->cpus : 0,
	                                .memory_bytes = spec != NULL ? spec->memory_bytes : 0};
	vm_resolved_copy(&vm->before.resolved, spec != NULL ? &vm->resolved : &none);
}

/* Resources that cannot be had are not left in the spec: the next build would fail on them. */
static bool undo_set(struct vm *vm)
{
	struct generation *g = find(vm, vm->generation);

	if (!vm->before.set || g == NULL)
		return false;
	vm->spec.cpus = vm->before.cpus;
	vm->spec.memory_bytes = vm->before.memory_bytes;
	vm->version++;
	(void)render(g, &vm->before.resolved);
	want(vm, g->number);
	return true;
}

static void finish(struct state *s, struct vm *vm, enum vm_update_outcome outcome,
                   enum blix_code code, const char *reason, const char *message)
{
	cleanup(freep) char *why = xstrdup(reason);
	bool undone = outcome == UPDATE_FAILED && undo_set(vm);
	/* they may be the update's own */
	cleanup(freep) char *words =
		xasprintf("%s%s", undone ? "the edit was undone: " : "", message);
	char text[200];

	before_set(vm, NULL);
	vm->update.step = UPDATE_IDLE;
	vm->update.outcome = outcome;
	vm->update.deadline_ms = 0;
	vm->update.target = vm->generation;
	vm->update.code = code;
	xreplace(&vm->update.reason, why);
	xreplace(&vm->update.message, words);
	(void)snprintf(text, sizeof(text), "generation %" PRIu64 "%s%s", vm->generation,
	               words[0] != '\0' ? ": " : "", words);
	if (outcome == UPDATE_UNCHANGED)
		vm_event(s, vm, "vm-update-unchanged", text);
	else if (outcome == UPDATE_UPDATED)
		vm_event(s, vm, "vm-updated", text);
	else if (outcome == UPDATE_ROLLED_BACK)
		vm_event(s, vm, "vm-rolled-back", text);
	else
		vm_event(s, vm, "vm-update-failed", text);
}

/* Asked by a person: where it leads is known only when a node has looked. */
static void begin(struct state *s, struct vm *vm, const struct command *c, uint64_t target)
{
	const struct generation *g = generation_find(vm, target);
	struct vm_update *update = &vm->update;

	before_set(vm, NULL);
	vm_update_done(update);
	vm_update_init(update);
	update->step = UPDATE_RESOLVE;
	update->operation = s->revision;
	update->restart = c->vm_update.restart;
	update->auto_rollback = c->vm_update.auto_rollback;
	update->timeout_ms = c->vm_update.timeout_ms;
	update->grace_ms = c->vm_update.grace_ms;
	update->target = target;
	update->from = vm->generation;
	xreplace(&update->flake, g != NULL                       ? g->flake
	                         : c->vm_update.flake[0] != '\0' ? c->vm_update.flake
	                                                         : vm->spec.flake);
	xreplace(&update->attr, g != NULL                      ? g->attr
	                        : c->vm_update.attr[0] != '\0' ? c->vm_update.attr
	                                                       : vm->spec.attr);
	xreplace(&update->by, c->principal);
	vm->resolver = 0;
}

void update_render(struct state *s, struct vm *vm, const struct vm_spec *before, char *by)
{
	const struct command c = {.kind = COMMAND_VM_UPDATE,
	                          .principal = by,
	                          .vm_update = {.rollback = true, .restart = UPDATE_RESTART_NO}};

	assert(generation_find(vm, vm->generation) != NULL);
	begin(s, vm, &c, vm->generation);
	before_set(vm, before);
}

/* The generation that a rollback goes to; 0 for an update. Refuses what is not there. */
static uint64_t target_of(const struct vm *vm, const struct command *c, struct command_result *r)
{
	uint64_t target = c->vm_update.generation;

	if (!c->vm_update.rollback)
		return 0;
	if (target == 0)
		target = generation_before(vm);
	if (target == 0)
		refuse(r, BLIX_E_REFUSED, REFUSAL_NO_EARLIER);
	else if (generation_find(vm, target) == NULL)
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_GENERATION_MISSING);
	return target;
}

static bool flake_is_good(const struct vm *vm, const struct command *c)
{
	struct vm_spec spec;
	bool good;

	vm_spec_copy(&spec, &vm->spec);
	if (c->vm_update.flake[0] != '\0')
		xreplace(&spec.flake, c->vm_update.flake);
	if (c->vm_update.attr[0] != '\0')
		xreplace(&spec.attr, c->vm_update.attr);
	good = vm_spec_check(&spec, NULL) == 0;
	vm_spec_done(&spec);
	return good;
}

void apply_update(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = named_vm(s, c->vm_update.name, c->vm_update.if_version, r);
	uint64_t target;
	struct vm *vm;

	if (found == NULL)
		return;
	if (found->phase == VM_DELETING)
		refuse(r, BLIX_E_REFUSED, REFUSAL_VM_DELETING);
	else if (found->update.step > UPDATE_BUILD)
		refuse(r, BLIX_E_REFUSED, REFUSAL_UPDATING);
	else if (!found->resolved_set && found->phase != VM_FAILED && found->phase != VM_STOPPED)
		refuse(r, BLIX_E_REFUSED, REFUSAL_UNRESOLVED);
	else if (!flake_is_good(found, c))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_SPEC);
	if (r->code != BLIX_OK)
		return;
	target = target_of(found, c, r);
	if (r->code != BLIX_OK)
		return;
	s->revision++;
	vm = state_edit(s, found);
	begin_operation(s, vm, c->vm_update.rollback ? "rollback" : "update");
	begin(s, vm, c, target);
	state_edited(s, vm);
	vm_event(s, vm, c->vm_update.rollback ? "vm-rollback-asked" : "vm-update-asked",
	         c->principal);
}

/* It is admitted again: what more it would hold must be free on its node, whose sums are without it
 * while it is edited. */
static bool admitted(const struct state *s, const struct vm *vm, const struct vm_resolved *resolved)
{
	const struct node *node = state_node(s, vm->node);
	struct vm_held held = vm_commits(vm);
	uint64_t bytes = resolved->memory_bytes + vm_overhead_bytes(resolved->hypervisor);

	if (node == NULL || !vm_is_committed(vm))
		return true;
	return node_has_hypervisor(node, resolved->hypervisor) &&
	       (bytes <= held.bytes || node->committed_bytes + bytes <= node_usable_bytes(node)) &&
	       (resolved->cpus <= held.cpus ||
	        node->committed_cpus + resolved->cpus <= node_usable_cpus(node));
}

/* The generation that was found: a kept one, the wanted one when its lock is the same, else a new
 * one. */
static uint64_t choose(struct state *s, struct vm *vm, const struct command *c, bool *ret_changed)
{
	const struct vm_resolved *resolved = &c->vm_resolved.resolved;
	uint64_t lock = state_lock_add(s, c->vm_resolved.lock.data, c->vm_resolved.lock.len);
	struct vm_update *update = &vm->update;
	struct generation *g = find(vm, update->target);

	if (g == NULL) {
		g = find(vm, vm->generation);
		if (g != NULL && (g->resolved.lock != lock ||
		                  strcmp(g->resolved.base_url, resolved->base_url) != 0 ||
		                  strcmp(g->attr, update->attr) != 0))
			g = NULL;
	}
	state_lock_drop(s, lock);
	if (g != NULL) {
		*ret_changed = render(g, resolved) || g->number != vm->generation;
		xreplace(&g->flake, update->flake);
		return g->number;
	}
	*ret_changed = true;
	update->made = true;
	return add(s, vm, c, update->flake, update->attr, update->by);
}

static void boot(struct state *s, struct vm *vm)
{
	struct vm_update *update = &vm->update;

	update->step = UPDATE_BOOT;
	if (update->auto_rollback)
		update->deadline_ms = s->clock_ms + update->grace_ms + update->timeout_ms;
	if (vm_is_committed(vm))
		vm_stop(s, vm, update->grace_ms, true);
	else
		vm_start(s, vm);
}

/* It is wanted; now the machine that is to run it. */
static void go_on(struct state *s, struct vm *vm, bool changed)
{
	bool fallen = vm->phase == VM_FAILED && vm->spec.power == VM_POWER_RUNNING &&
	              vm->update.restart != UPDATE_RESTART_NO;

	if (!changed && (!vm_is_committed(vm) || !vm_is_stale(vm)))
		finish(s, vm, UPDATE_UNCHANGED, BLIX_OK, "", "");
	else if (fallen)
		boot(s, vm);
	else if (!vm_is_committed(vm) || vm->phase == VM_STOPPING)
		finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "it is booted at the next start");
	else
		vm->update.step = UPDATE_BUILD;
}

void update_resolved(struct state *s, struct vm *vm, const struct command *c)
{
	const struct vm_resolved *resolved = &c->vm_resolved.resolved;
	bool changed;

	vm->resolver = 0;
	vm->timings.resolve_ms = c->vm_resolved.resolve_ms;
	if (c->vm_resolved.code != BLIX_OK) {
		finish(s, vm, UPDATE_FAILED, c->vm_resolved.code, c->vm_resolved.reason,
		       c->vm_resolved.message);
	} else if (!admitted(s, vm, resolved)) {
		finish(s, vm, UPDATE_FAILED, BLIX_E_NOROOM, "unplaceable",
		       "its node has no room for what the new system asks for");
	} else {
		vm->update.target = choose(s, vm, c, &changed);
		want(vm, vm->update.target);
		go_on(s, vm, changed);
	}
}

/* Back to what was wanted before; a generation that never was built is none. */
static void forget(struct state *s, struct vm *vm)
{
	uint64_t target = vm->update.target;

	if (vm->update.from == 0 || target == vm->update.from)
		return;
	want(vm, vm->update.from);
	if (vm->update.made)
		drop(s, vm, target);
}

static void revert(struct state *s, struct vm *vm, enum blix_code code, const char *reason,
                   const char *message)
{
	struct vm_update *update = &vm->update;
	cleanup(freep) char *why = xstrdup(reason);
	cleanup(freep) char *words = xstrdup(message);

	if (generation_find(vm, update->from) == NULL || update->from == vm->generation) {
		finish(s, vm, UPDATE_FAILED, code, why, words);
		return;
	}
	update->step = UPDATE_REVERT;
	update->deadline_ms = 0;
	update->code = code;
	xreplace(&update->reason, why);
	xreplace(&update->message, words);
	want(vm, update->from);
	vm->n_rejected = 0;
	vm_event(s, vm, "vm-rolling-back", words);
	if (vm->spec.power == VM_POWER_STOPPED) {
		finish(s, vm, UPDATE_ROLLED_BACK, code, why, words);
		return;
	}
	if (vm_is_committed(vm))
		vm_stop(s, vm, update->grace_ms, true);
	else
		vm_start(s, vm);
}

static void built(struct state *s, struct vm *vm, const struct vm_report *report)
{
	vm->generation_current = generation_of_runner(vm, report->runner);
	if (vm->update.step != UPDATE_BUILD || strcmp(report->runner, vm->resolved.out_path) != 0)
		return;
	vm->timings.build_ms = report->duration_ms;
	if (vm->update.restart == UPDATE_RESTART_NO) {
		finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "it is booted at the next restart");
	} else if (vm->update.restart == UPDATE_RESTART_IF_NEEDED && !vm_is_stale(vm)) {
		vm->generation_booted = vm->generation;
		finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "its runner is the same: no restart");
	} else {
		boot(s, vm);
	}
}

static void hold(struct vm *vm)
{
	const struct generation *g = generation_find(vm, vm->generation_booted);

	if (g == NULL)
		return;
	vm->held.cpus = g->resolved.cpus;
	vm->held.bytes = g->resolved.memory_bytes + vm_overhead_bytes(g->resolved.hypervisor);
}

static void runs(struct state *s, struct vm *vm)
{
	struct vm_update *update = &vm->update;
	uint64_t end_ms = s->clock_ms + update->timeout_ms;

	vm->generation_booted = generation_of_runner(vm, vm->runner);
	if (!vm_is_stale(vm))
		vm->generation_current = vm->generation;
	hold(vm);
	if (update->step <= UPDATE_RESOLVE)
		return;
	if (vm_is_stale(vm)) {
		if (update->step > UPDATE_BUILD) /* the old one was started once more */
			vm_stop(s, vm, update->grace_ms, true);
	} else if (update->step == UPDATE_REVERT) {
		finish(s, vm, UPDATE_ROLLED_BACK, update->code, update->reason, update->message);
	} else if (!update->auto_rollback) {
		finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "");
	} else {
		update->step = UPDATE_BOOT;
		if (update->deadline_ms == 0 || update->deadline_ms > end_ms)
			update->deadline_ms = end_ms;
	}
}

/* It ended, for good as far as its node goes. */
static void fell(struct state *s, struct vm *vm, const struct vm_report *report)
{
	static const char gone[] = "the new system shut itself down";
	struct vm_update *update = &vm->update;
	bool failed = report->code != BLIX_OK;
	bool asked = report->kind == VM_REPORT_STOPPED;
	/* Whether its policy starts it again, or it is tried on another node, is another matter. */
	bool down = vm->phase == VM_STOPPED || vm->phase == VM_FAILED || vm->phase == VM_CRASHLOOP;
	enum blix_code code = failed ? report->code : BLIX_E_START;
	const char *reason = failed ? report->reason : "guest-shutdown";
	const char *message = failed ? report->message : gone;

	if (update->step == UPDATE_BUILD && failed && report->code == BLIX_E_IMAGE) {
		forget(s, vm);
		finish(s, vm, UPDATE_FAILED, code, reason, message);
		vm_start(s, vm);
	} else if (update->step == UPDATE_BUILD && down && vm->phase != VM_CRASHLOOP) {
		finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "it is booted at the next start");
	} else if (update->step == UPDATE_BOOT && update->auto_rollback &&
	           (down || (vm->phase == VM_PENDING && !asked))) {
		revert(s, vm, code, reason, message);
	} else if (update->step > UPDATE_BUILD && down) {
		finish(s, vm, UPDATE_FAILED, code, reason, message);
	}
}

void update_reported(struct state *s, struct vm *vm, const struct vm_report *report)
{
	switch (report->kind) {
	case VM_REPORT_STARTING:
		vm->generation_current = generation_of_runner(vm, report->runner);
		break;
	case VM_REPORT_RUNNING:
		runs(s, vm);
		break;
	case VM_REPORT_READY:
		if (vm->update.step == UPDATE_BOOT && !vm_is_stale(vm))
			finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "");
		break;
	case VM_REPORT_BUILT:
		built(s, vm, report);
		break;
	case VM_REPORT_NOT_BUILT:
		if (vm->update.step == UPDATE_BUILD) {
			forget(s, vm);
			finish(s, vm, UPDATE_FAILED, report->code, report->reason, report->message);
		}
		break;
	case VM_REPORT_STOPPED:
	case VM_REPORT_EXITED:
	case VM_REPORT_FAILED:
		fell(s, vm, report);
		break;
	case VM_REPORT_BUILDING:
	case VM_REPORT_RETRY:
	case VM_REPORT_STABLE:
	case VM_REPORT_PAUSED:
	case VM_REPORT_RESUMED:
	case VM_REPORT_REPAIRED:
	case VM_REPORT_STOP:
	case VM_REPORT_SECRETS:
	case VM_REPORT_FETCHING:
	case VM_REPORT_UNKNOWN:
	case VM_REPORT_GONE:
	case VM_REPORT_KIND_COUNT:
		break;
	}
	if (vm->pid == 0)
		vm->held = (struct vm_held){0, 0};
}

/* How long a trial without readiness has to run. */
static uint64_t stable_ms(const struct vm *vm)
{
	uint64_t half = vm->update.timeout_ms / 2;

	return half < UPDATE_STABLE_MS ? half : UPDATE_STABLE_MS;
}

static bool is_settling(const struct vm *vm)
{
	return vm->phase == VM_RUNNING && !vm_is_stale(vm) && vm->spec.ready[0] == '\0';
}

uint64_t update_due_ms(const struct vm *vm)
{
	uint64_t settled_ms = vm->phase_ms + stable_ms(vm);

	if (vm->update.step != UPDATE_BOOT || vm->update.deadline_ms == 0)
		return 0;
	if (is_settling(vm) && settled_ms < vm->update.deadline_ms)
		return settled_ms;
	return vm->update.deadline_ms;
}

void apply_update_due(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = current_vm(s, c->vm_update_due.uid, r);
	uint64_t due_ms;
	struct vm *vm;

	if (found == NULL)
		return;
	due_ms = update_due_ms(found);
	if (due_ms == 0 || s->clock_ms < due_ms ||
	    found->update.operation != c->vm_update_due.operation) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	if (is_settling(vm) && s->clock_ms >= vm->phase_ms + stable_ms(vm))
		finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "");
	else if (vm->phase == VM_RUNNING && vm->spec.ready[0] != '\0')
		revert(s, vm, BLIX_E_NOTREADY, "not-ready", "the new system was not ready in time");
	else
		revert(s, vm, BLIX_E_START, vm->reason[0] != '\0' ? vm->reason : "not-running",
		       vm->message[0] != '\0' ? vm->message : "the new system did not run in time");
	state_edited(s, vm);
}

void update_stop_asked(struct state *s, struct vm *vm)
{
	if (vm->update.step == UPDATE_BOOT)
		finish(s, vm, UPDATE_FAILED, BLIX_E_REFUSED, "stop-asked",
		       "somebody stopped it before the new system had proved itself");
	else if (vm->update.step == UPDATE_REVERT)
		finish(s, vm, UPDATE_ROLLED_BACK, vm->update.code, vm->update.reason,
		       vm->update.message);
	else if (vm->update.step == UPDATE_BUILD)
		finish(s, vm, UPDATE_UPDATED, BLIX_OK, "", "it is booted at the next start");
}

void apply_generation_drop(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = current_vm(s, c->generation_drop.uid, r);
	uint64_t number = c->generation_drop.number;
	char text[64];
	struct vm *vm;

	if (found == NULL)
		return;
	if (generation_find(found, number) == NULL || generation_in_use(found, number)) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	drop(s, vm, number);
	state_edited(s, vm);
	(void)snprintf(text, sizeof(text), "generation %" PRIu64, number);
	vm_event(s, vm, "vm-generation-dropped", text);
}
