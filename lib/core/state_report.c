/* What nodes saw of VMs, folded into the state; and what becomes of VMs whose host restarted or is
 * gone.
 *
 * A report names the (uid, epoch) it is about. One that is no longer current, or that leads where
 * the lifecycle does not, is refused as stale and changes nothing.
 */
#include "core/place.h"
#include "core/state_internal.h"

#include "base/alloc.h"

#include <stdio.h>

/* Nothing is left that pausing kept: what is started after it runs. */
static void process_gone(struct vm *vm, int32_t exit_code)
{
	if (vm->spec.power == VM_POWER_PAUSED) {
		vm->spec.power = VM_POWER_RUNNING;
		vm->version++;
	}
	vm->pid = 0;
	vm->ready = false;
	vm->exit_code = exit_code;
}

/* A node has given up: where else might it run? The image is the same everywhere, and a directory
 * that belongs to somebody else is for a person to look at. */
static void report_failed(struct state *s, struct vm *vm, const struct vm_report *report)
{
	bool elsewhere = report->code != BLIX_E_IMAGE && report->code != BLIX_E_EXISTS &&
	                 !vm_is_pinned(vm) && vm->n_rejected < VM_HOLDERS_MAX;

	vm_why(vm, report->code, report->reason, report->message);
	process_gone(vm, report->exit_code);
	if (elsewhere)
		vm->rejected[vm->n_rejected++] = report->node;
	vm_move(vm, VM_FAILED, s->clock_ms);
	if (elsewhere && place(s, vm) != NULL)
		vm_move(vm, VM_PENDING, s->clock_ms);
	vm_event(s, vm, "vm-failed", vm->message);
}

/* Somebody asked for its end, which did not come yet: also while it was Unknown. */
static bool is_to_stop(const struct vm *vm)
{
	return vm->phase == VM_STOPPING || vm->restart || vm->spec.power == VM_POWER_STOPPED;
}

/* It ended as it was asked to. */
static void report_stopped(struct state *s, struct vm *vm, const struct vm_report *report)
{
	process_gone(vm, report->exit_code);
	vm_why(vm, BLIX_OK, "", "");
	vm_move(vm, vm->restart ? VM_PENDING : VM_STOPPED, s->clock_ms);
	if (vm->phase == VM_PENDING)
		memset(&vm->timings, 0, sizeof(vm->timings));
	vm->restart = false;
	vm->crashes = 0;
	vm->n_rejected = 0;
	vm_event(s, vm, "vm-stopped", "");
}

/* It ended by itself and its policy leaves it so. */
static void left_ended(struct state *s, struct vm *vm, bool clean, const struct vm_report *report)
{
	vm->crashes = 0;
	vm->n_rejected = 0;
	if (clean)
		vm_why(vm, BLIX_OK, "guest-shutdown", "");
	else
		vm_why(vm, report->code, report->reason, report->message);
	vm_move(vm, clean ? VM_STOPPED : VM_FAILED, s->clock_ms);
	vm_event(s, vm, clean ? "vm-guest-shutdown" : "vm-failed", vm->message);
}

/* Never up in several tries: the cause may be this node's. What ran before, or is tied by its data,
 * stays where it is. */
static bool try_elsewhere(struct state *s, struct vm *vm, bool ran)
{
	if (ran || vm_is_pinned(vm) || vm->n_rejected == VM_HOLDERS_MAX)
		return false;
	vm->rejected[vm->n_rejected++] = vm->node;
	if (place(s, vm) != NULL)
		return true;
	vm->n_rejected--;
	return false;
}

/* It ended by itself: the policy says what follows. */
static void report_exited(struct state *s, struct vm *vm, const struct vm_report *report)
{
	bool clean = report->code == BLIX_OK, ran = vm->pid != 0;
	bool loops;

	process_gone(vm, report->exit_code);
	if (!vm_restarts(&vm->spec, clean)) {
		left_ended(s, vm, clean, report);
		return;
	}
	vm->restarts++;
	vm->crashes = report->stable ? 1 : vm->crashes + 1;
	vm->retry_ms = s->clock_ms + report->wait_ms;
	loops = vm->crashes >= VM_CRASHES_LOOP;
	vm_why(vm, clean && loops ? BLIX_E_START : report->code,
	       clean ? "guest-shutdown" : report->reason, report->message);
	if (loops && try_elsewhere(s, vm, ran)) {
		vm->crashes = 0;
		vm_move(vm, VM_PENDING, s->clock_ms);
	} else {
		vm_move(vm, loops ? VM_CRASHLOOP : VM_SCHEDULED, s->clock_ms);
	}
	vm_event(s, vm, vm->phase == VM_CRASHLOOP ? "vm-crash-loop" : "vm-retry", vm->message);
}

/* The hypervisor did it, or could not: then what is wanted is what there is. */
static void report_power(struct state *s, struct vm *vm, const struct vm_report *report)
{
	bool pause = report->kind == VM_REPORT_PAUSED, failed = report->code != BLIX_OK;
	enum vm_power wanted = pause ? VM_POWER_PAUSED : VM_POWER_RUNNING;

	vm_why(vm, report->code, report->reason, report->message);
	if (!failed) {
		vm_move(vm, pause ? VM_PAUSED : VM_RUNNING, s->clock_ms);
		vm_event(s, vm, pause ? "vm-paused" : "vm-resumed", "");
		return;
	}
	if (vm->spec.power == wanted) {
		vm->spec.power = pause ? VM_POWER_RUNNING : VM_POWER_PAUSED;
		vm->version++;
	}
	vm_event(s, vm, pause ? "vm-pause-failed" : "vm-resume-failed", vm->message);
}

/* The guest has them, or it cannot get them; before its start, or while it runs. */
static void report_secrets(struct state *s, struct vm *vm, const struct vm_report *report)
{
	bool given = report->code == BLIX_OK,
	     up = vm->phase == VM_RUNNING || vm->phase == VM_PAUSED;

	vm->secrets_given = given;
	vm_why(vm, report->code, report->reason, report->message);
	if (!up)
		vm_move(vm, VM_SCHEDULED, s->clock_ms);
	vm_event(s, vm, given ? "vm-secrets-given" : "vm-secrets-wait", vm->message);
}

static void report_stable(struct state *s, struct vm *vm)
{
	vm->crashes = 0;
	vm->n_rejected = 0;
	vm_event(s, vm, "vm-recovered", "");
}

static void report_running(struct state *s, struct vm *vm, const struct vm_report *report)
{
	vm_move(vm, VM_RUNNING, s->clock_ms);
	vm->pid = report->pid;
	vm->started_ms = report->started_ms;
	vm->timings.start_ms = report->duration_ms;
	xreplace(&vm->runner, report->runner);
	vm_why(vm, BLIX_OK, "", "");
	vm_event(s, vm, "vm-running", vm->runner);
	if (is_to_stop(vm))
		vm_move(vm, VM_STOPPING, s->clock_ms);
}

static void report_retry(struct state *s, struct vm *vm, const struct vm_report *report)
{
	vm_why(vm, report->code, report->reason, report->message);
	vm->pid = 0;
	vm->ready = false;
	vm->restarts++;
	vm_move(vm, VM_SCHEDULED, s->clock_ms);
	vm_event(s, vm, "vm-retry", vm->message);
}

/* They can be missing before a start, and be given or refused while it runs. */
static bool secrets_fit(const struct vm *vm, const struct vm_report *report)
{
	uint32_t phases = 1u << VM_RUNNING | 1u << VM_PAUSED;

	if (report->code != BLIX_OK)
		phases |= 1u << VM_SCHEDULED | 1u << VM_BUILDING | 1u << VM_CRASHLOOP;
	return vm->spec.secrets.n > 0 && (phases & 1u << vm->phase) != 0;
}

/* The phase a report of this kind leads to; stale when the table does not allow it. */
static bool report_fits(const struct vm *vm, const struct vm_report *report)
{
	static const enum vm_phase to[VM_REPORT_KIND_COUNT] = {
		[VM_REPORT_BUILDING] = VM_BUILDING, [VM_REPORT_STARTING] = VM_STARTING,
		[VM_REPORT_RUNNING] = VM_RUNNING,   [VM_REPORT_READY] = VM_RUNNING,
		[VM_REPORT_STOPPED] = VM_STOPPED,   [VM_REPORT_EXITED] = VM_STOPPED,
		[VM_REPORT_RETRY] = VM_SCHEDULED,   [VM_REPORT_FAILED] = VM_FAILED,
		[VM_REPORT_UNKNOWN] = VM_UNKNOWN,   [VM_REPORT_STABLE] = VM_RUNNING,
	};
	enum vm_phase next = to[report->kind];

	if (report->kind == VM_REPORT_STOP)
		return vm->node == report->node && vm->epoch == report->epoch &&
		       (vm->phase == VM_STOPPING || vm->phase == VM_DELETING);
	if (report->kind == VM_REPORT_FETCHING && vm->resolver == report->node &&
	    (vm->phase == VM_RESOLVING || vm->update.step == UPDATE_RESOLVE))
		return true;
	if (vm->node != report->node || vm->epoch != report->epoch || !vm_is_committed(vm) ||
	    vm->phase == VM_DELETING)
		return false;
	if (report->kind == VM_REPORT_STOPPED)
		return vm->phase == VM_STOPPING || vm->phase == VM_UNKNOWN;
	if (report->kind == VM_REPORT_REPAIRED || report->kind == VM_REPORT_BUILT ||
	    report->kind == VM_REPORT_NOT_BUILT || report->kind == VM_REPORT_FETCHING)
		return true;
	if (report->kind == VM_REPORT_SECRETS)
		return secrets_fit(vm, report);
	if (report->kind == VM_REPORT_READY || report->kind == VM_REPORT_STABLE ||
	    report->kind == VM_REPORT_PAUSED || report->kind == VM_REPORT_RESUMED)
		return vm->phase == VM_RUNNING || vm->phase == VM_PAUSED;
	/* One that never was told to run has no clean end to tell of. */
	if (report->kind == VM_REPORT_EXITED)
		return vm->phase == VM_RUNNING || vm->phase == VM_PAUSED ||
		       vm->phase == VM_STOPPING || vm->phase == VM_UNKNOWN ||
		       (vm->phase == VM_STARTING && report->code != BLIX_OK);
	return vm->phase == next || vm_may_move(vm->phase, next);
}

static void apply_gone(struct state *s, const struct vm_report *report, struct command_result *r)
{
	const struct vm *found = current_vm(s, report->uid, r);
	struct vm *vm;

	if (found == NULL)
		return;
	if (!vm_held_by(found, report->node) ||
	    (found->phase != VM_DELETING && found->node == report->node)) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	vm_release(vm, report->node);
	state_edited(s, vm);
	if (vm->phase == VM_DELETING && vm->n_holders == 0) {
		vm_event(s, vm, "vm-deleted", "");
		state_remove_vm(s, vm);
	}
}

static void report_apply(struct state *s, struct vm *vm, const struct vm_report *report)
{
	switch (report->kind) {
	case VM_REPORT_BUILDING:
		vm_move(vm, VM_BUILDING, s->clock_ms);
		break;
	case VM_REPORT_STARTING:
		vm_move(vm, VM_STARTING, s->clock_ms);
		vm->secrets_given = false;
		vm->timings.build_ms = report->duration_ms;
		break;
	case VM_REPORT_RUNNING:
		report_running(s, vm, report);
		break;
	case VM_REPORT_READY:
		vm->ready = true;
		vm->crashes = 0;
		vm->timings.boot_ms = report->duration_ms;
		vm->timings.ready_ms = operation_age_ms(s, vm);
		vm_event(s, vm, "vm-ready", "");
		break;
	case VM_REPORT_STOPPED:
		report_stopped(s, vm, report);
		break;
	case VM_REPORT_EXITED:
		if (is_to_stop(vm))
			report_stopped(s, vm, report);
		else
			report_exited(s, vm, report);
		break;
	case VM_REPORT_PAUSED:
	case VM_REPORT_RESUMED:
		report_power(s, vm, report);
		break;
	case VM_REPORT_STABLE:
		report_stable(s, vm);
		break;
	case VM_REPORT_RETRY:
		report_retry(s, vm, report);
		break;
	case VM_REPORT_FAILED:
		report_failed(s, vm, report);
		break;
	case VM_REPORT_UNKNOWN:
		vm_why(vm, report->code, report->reason, report->message);
		vm_move(vm, VM_UNKNOWN, s->clock_ms);
		vm_event(s, vm, "vm-unknown", vm->message);
		break;
	case VM_REPORT_STOP:
		if (report->stop != VM_STOP_ASK)
			vm_event(s, vm,
			         report->stop == VM_STOP_TERM ? "vm-terminated" : "vm-killed", "");
		break;
	case VM_REPORT_SECRETS:
		report_secrets(s, vm, report);
		break;
	case VM_REPORT_REPAIRED:
		vm_event(s, vm, "vm-image-repaired", report->message);
		break;
	case VM_REPORT_FETCHING:
		break; /* only a step */
	case VM_REPORT_BUILT:
	case VM_REPORT_NOT_BUILT:
		break; /* of no phase: state_generation.c */
	case VM_REPORT_GONE:
	case VM_REPORT_KIND_COUNT:
		abort();
	}
}

/* Each report about the way of a VM is a step of its operation. */
static void mark_report(const struct state *s, struct vm *vm, const struct vm_report *report)
{
	static const enum operation_step stops[VM_STOP_COUNT] = {[VM_STOP_ASK] = OPERATION_ASK,
	                                                         [VM_STOP_TERM] = OPERATION_TERM,
	                                                         [VM_STOP_KILL] = OPERATION_KILL};
	static const struct {
		enum vm_report_kind kind;
		enum operation_step step;
	} steps[] = {
		{VM_REPORT_BUILDING, OPERATION_BUILD}, {VM_REPORT_STARTING, OPERATION_START},
		{VM_REPORT_RUNNING, OPERATION_RUN},    {VM_REPORT_READY, OPERATION_READY},
		{VM_REPORT_STOPPED, OPERATION_END},    {VM_REPORT_EXITED, OPERATION_END},
		{VM_REPORT_PAUSED, OPERATION_PAUSE},   {VM_REPORT_RESUMED, OPERATION_RESUME},
		{VM_REPORT_RETRY, OPERATION_RETRY},    {VM_REPORT_FAILED, OPERATION_FAIL},
		{VM_REPORT_FETCHING, OPERATION_FETCH},
	};

	bool is_power = report->kind == VM_REPORT_PAUSED || report->kind == VM_REPORT_RESUMED;

	if (report->kind == VM_REPORT_STOP && report->stop != VM_STOP_NONE)
		mark_step(s, vm, stops[report->stop]);
	for (size_t i = 0; i < array_size(steps); i++) {
		if (steps[i].kind == report->kind)
			mark_step(s, vm,
			          is_power && report->code != BLIX_OK ? OPERATION_FAIL
			                                              : steps[i].step);
	}
}

void apply_report(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm_report *report = &c->vm_report;
	const struct vm *found;
	struct vm *vm;

	if (report->kind == VM_REPORT_GONE) {
		apply_gone(s, report, r);
		return;
	}
	found = current_vm(s, report->uid, r);
	if (found == NULL)
		return;
	if (!report_fits(found, report)) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	s->revision++;
	vm = state_edit(s, found);
	report_apply(s, vm, report);
	mark_report(s, vm, report);
	update_reported(s, vm, report);
	state_edited(s, vm);
}

/* The host was restarted: nothing that was recorded of its processes lives. What should run is
 * started again, as no end of its own was the cause; what was to stop has. */
static void rebooted_vm(struct state *s, const struct vm *found)
{
	struct vm *vm = state_edit(s, found);
	bool stopping = vm->spec.power == VM_POWER_STOPPED;

	process_gone(vm, -1);
	vm->crashes = 0;
	vm->retry_ms = 0;
	vm->restart = false;
	vm_why(vm, BLIX_OK, stopping ? "" : "host-restarted", "");
	if (stopping)
		vm_move(vm, VM_STOPPED, s->clock_ms);
	else if (vm->phase == VM_STOPPING)
		vm_move(vm, VM_PENDING, s->clock_ms);
	else
		vm_move(vm, VM_SCHEDULED, s->clock_ms);
	state_edited(s, vm);
	vm_event(s, vm, "vm-host-restarted", "");
}

void vms_rebooted(struct state *s, uint64_t node)
{
	for (size_t i = 0; i < s->n_vms; i++) {
		const struct vm *vm = s->by_uid[i];

		if (vm->node == node && vm_is_committed(vm) && vm->phase != VM_DELETING)
			rebooted_vm(s, vm);
	}
}

/* It was to run on a node that is gone for good. Data that was there is gone too: whether to start
 * without it is for a person. */
static void lost_vm(struct state *s, struct vm *vm, const char *node, bool pinned)
{
	const struct vm_report report = {.kind = VM_REPORT_FAILED,
	                                 .code = BLIX_E_START,
	                                 .reason = vm->reason,
	                                 .message = vm->message};
	char words[LIMIT_NAME + 64];

	process_gone(vm, -1);
	vm->held = (struct vm_held){0, 0};
	vm->crashes = 0;
	vm->retry_ms = 0;
	vm->n_rejected = 0;
	if (vm->spec.power == VM_POWER_STOPPED) {
		vm_why(vm, BLIX_OK, "", "");
		if (!vm_may_move(vm->phase, VM_STOPPED))
			vm_move(vm, VM_PENDING, s->clock_ms);
		vm_move(vm, VM_STOPPED, s->clock_ms);
	} else if (pinned) {
		(void)snprintf(words, sizeof(words), "its data was on %s, which was removed", node);
		vm_why(vm, BLIX_E_START, "node-removed", words);
		vm_move(vm, VM_FAILED, s->clock_ms);
	} else {
		vm_why(vm, BLIX_OK, "node-removed", "");
		vm_move(vm, VM_PENDING, s->clock_ms);
		memset(&vm->timings, 0, sizeof(vm->timings));
	}
	vm->restart = false;
	if (vm->phase != VM_PENDING)
		update_reported(s, vm, &report);
}

static void orphan_vm(struct state *s, const struct vm *found, uint64_t node, const char *name)
{
	bool here = found->node == node, pinned = vm_is_pinned(found);
	bool ran = here && vm_is_committed(found) && found->phase != VM_DELETING;
	struct vm *vm = state_edit(s, found);

	vm_release(vm, node);
	if (here) {
		vm->node = 0;
		vm->adopt = 0;
	}
	if (ran)
		lost_vm(s, vm, name, pinned);
	state_edited(s, vm);
	vm_event(s, vm, "vm-node-removed", name);
	if (vm->phase == VM_DELETING && vm->n_holders == 0) {
		vm_event(s, vm, "vm-deleted", "");
		state_remove_vm(s, vm);
	}
}

void vms_orphaned(struct state *s, uint64_t node, const char *name)
{
	for (size_t i = s->n_vms; i-- > 0;) { /* from the end: one may be removed */
		const struct vm *vm = s->by_uid[i];

		if (vm->node == node || vm_held_by(vm, node))
			orphan_vm(s, vm, node, name);
	}
}
