/* What to do next about one VM: compare desired with seen, yield at most one action.
 *
 * Each function is the story of one thing that may be wanted: resolved, running, stopped, removed.
 * All of them are asked again after every event that touches the VM, so none has to remember where
 * it was.
 */
#include "core/executor_internal.h"

#include "base/alloc.h"

#include <assert.h>

#define DOWN_LATE_SHIFT 6 /* of retry_ms: about a minute */

static bool is_build(enum executor_action_kind kind)
{
	return kind == EXECUTOR_RESOLVE || kind == EXECUTOR_CREATE || kind == EXECUTOR_UPDATE;
}

bool rule_wants_running(const struct executor_vm *vm)
{
	static const uint32_t phases = 1u << VM_SCHEDULED | 1u << VM_BUILDING | 1u << VM_STARTING |
	                               1u << VM_RUNNING | 1u << VM_PAUSED | 1u << VM_CRASHLOOP |
	                               1u << VM_UNKNOWN;

	return vm->wanted && vm->desired.here && (phases & 1u << vm->desired.phase) != 0;
}

static bool wants_resolving(const struct executor_vm *vm)
{
	return (vm->wanted && vm->desired.phase == VM_RESOLVING && vm->desired.resolving) ||
	       update_wants_resolving(vm);
}

static bool wants_removing(const struct executor_vm *vm)
{
	if (!vm->wanted || !vm->desired.held)
		return false;
	if (vm->desired.phase == VM_DELETING)
		return true;
	return vm->desired.elsewhere &&
	       (vm->seen.directory != DIRECTORY_OURS || vm->seen.epoch < vm->desired.epoch);
}

static void fail(struct turn *t, struct executor_vm *vm, enum blix_code code, const char *reason,
                 const char *message, bool final)
{
	const struct executor_event failure = {
		.code = code, .reason = reason, .message = message, .final = final};

	report_failure(t, vm, &failure);
}

static void look_again(struct turn *t, struct executor_vm *vm)
{
	vm->wait_ms = t->now_ms + EXECUTOR_LOOK_AGAIN_MS;
	turn_act(t, vm, EXECUTOR_STATUS, STOP_NONE);
}

static void stop_step(struct turn *t, struct executor_vm *vm, enum executor_stop step)
{
	if (vm->stop != step && vm->desired.here &&
	    (vm->desired.phase == VM_STOPPING || vm->desired.phase == VM_DELETING))
		report_stop(t, vm, step);
	vm->stop = step;
	vm->stop_next_ms = t->now_ms + EXECUTOR_STEP_MS;
	turn_act(t, vm, EXECUTOR_STOP, step);
}

/* The guest is asked, and asked again; then its process gets SIGTERM, then SIGKILL. */
static void stop_process(struct turn *t, struct executor_vm *vm, uint32_t grace_ms)
{
	uint64_t end_ms, until_ms;
	bool asking;

	if (vm->stop == STOP_NONE) {
		vm->stop_ms = t->now_ms;
		vm->deaf = false;
	}
	end_ms = vm->stop_ms + grace_ms;
	asking = vm->stop <= STOP_ASK && !vm->deaf && t->now_ms < end_ms;
	until_ms = asking && end_ms < vm->stop_next_ms ? end_ms : vm->stop_next_ms;
	if (grace_ms == 0 && vm->stop != STOP_KILL)
		stop_step(t, vm, STOP_KILL);
	else if (vm->stop == STOP_ASK && !asking)
		stop_step(t, vm, STOP_TERM);
	else if (vm->stop != STOP_NONE && t->now_ms < until_ms)
		turn_wake_at(t, vm, until_ms);
	else
		stop_step(t, vm, asking ? STOP_ASK : STOP_KILL);
}

/* It ran, and no longer does. */
static void handle_exit(struct turn *t, struct executor_vm *vm)
{
	struct executor_event failure = {
		.code = vm->seen.code != BLIX_OK ? vm->seen.code : BLIX_E_START,
		.reason = vm->seen.reason[0] != '\0' ? vm->seen.reason : "runner-exited",
		.message = vm->seen.message};

	if (!vm->seen.exited) {
		failure.reason = "runner-lost";
		failure.message = "its process is gone without a trace: killed with its keeper";
	}
	report_exited(t, vm, vm->seen.exited && vm->seen.exit_code == 0 ? NULL : &failure);
}

/* After crashes: a run that lasts is told, once. */
static void tell_stable(struct turn *t, struct executor_vm *vm)
{
	if (vm->desired.crashes == 0 || vm->stable_told || vm->told < PROGRESS_RUNNING)
		return;
	if (t->now_ms >= vm->stable_ms)
		report_stable(t, vm);
	else
		turn_wake_at(t, vm, vm->stable_ms);
}

/* The guest has its secrets: told once the state knows that it runs. */
static void tell_secrets(struct turn *t, struct executor_vm *vm)
{
	if (vm->secrets_given && !vm->desired.secrets_given && !vm->unsettled &&
	    vm->told >= PROGRESS_RUNNING)
		report_secrets(t, vm, BLIX_OK, "", "");
}

/* What the hypervisor is to do about the guest's CPUs, once the state and this machine agree. */
static void hold_or_release(struct turn *t, struct executor_vm *vm)
{
	if (vm->unsettled)
		return;
	if (vm->desired.phase == VM_RUNNING && vm->desired.paused)
		turn_act(t, vm, EXECUTOR_PAUSE, STOP_NONE);
	else if (vm->desired.phase == VM_PAUSED && !vm->desired.paused)
		turn_act(t, vm, EXECUTOR_RESUME, STOP_NONE);
}

static void keep_running(struct turn *t, struct executor_vm *vm)
{
	if (vm->seen.epoch != vm->desired.epoch) {
		stop_process(t, vm, EXECUTOR_STRAY_MS);
		return;
	}
	if (!vm->alive)
		vm->stable_ms = t->now_ms + EXECUTOR_STABLE_MS;
	vm->alive = true;
	vm->stop = STOP_NONE;
	/* The end of the run before was never told: this is another process. */
	if (!vm->unsettled && vm->desired.pid != vm->seen.pid && vm->told > PROGRESS_STARTING)
		vm->told = PROGRESS_STARTING;
	/* A runner that ends at once never ran, as far as anybody was told. */
	if (vm->told < PROGRESS_RUNNING && t->now_ms < vm->alive_ms + EXECUTOR_SETTLE_MS)
		turn_wake_at(t, vm, vm->alive_ms + EXECUTOR_SETTLE_MS);
	else
		report_progress(t, vm, PROGRESS_RUNNING);
	tell_secrets(t, vm);
	tell_stable(t, vm);
	hold_or_release(t, vm);
}

/* Of one that was to be adopted it is known why it was not. */
static void fail_foreign(struct turn *t, struct executor_vm *vm)
{
	bool refused = vm->seen.reason[0] != '\0';

	fail(t, vm, refused ? vm->seen.code : BLIX_E_EXISTS,
	     refused ? vm->seen.reason : "foreign-directory",
	     refused ? vm->seen.message
	             : "a microVM of this name that blix did not make is on the node\n"
	               "hint: choose another name, or move its directory away",
	     true);
}

/* Built, and something is missing that somebody must bring. */
static void tell_waiting(struct turn *t, struct executor_vm *vm)
{
	if (!vm->wait_told)
		report_secrets(t, vm, vm->desired.wait_code, vm->desired.wait_reason,
		               vm->desired.wait_message);
	vm->wait_told = true;
}

static void make_running(struct turn *t, struct executor_vm *vm)
{
	bool built = vm->seen.directory == DIRECTORY_OURS &&
	             strcmp(vm->seen.runner, vm->desired.out_path) == 0;

	if (vm->seen.process == PROCESS_RUNNING) {
		keep_running(t, vm);
	} else if (vm->seen.process == PROCESS_UNKNOWN) {
		report_unknown(t, vm);
		look_again(t, vm);
	} else if (vm->seen.directory == DIRECTORY_FOREIGN) {
		fail_foreign(t, vm);
	} else if (vm->alive || vm->told >= PROGRESS_RUNNING || vm->told == PROGRESS_UNKNOWN) {
		handle_exit(t, vm);
	} else if (built && vm->desired.wait_reason[0] != '\0') {
		tell_waiting(t, vm);
	} else if (built) {
		report_progress(t, vm, PROGRESS_STARTING);
		vm->alive_ms = t->now_ms;
		vm->stable_ms = t->now_ms + EXECUTOR_STABLE_MS;
		vm->was_ready = vm->stable_told = vm->resting = false;
		vm->last_kind = (enum vm_report_kind)0; /* the end of another run is news */
		turn_act(t, vm, EXECUTOR_START, STOP_NONE);
	} else {
		vm->build = vm->seen.directory == DIRECTORY_OURS && vm->seen.runner[0] != '\0'
		                    ? EXECUTOR_UPDATE
		                    : EXECUTOR_CREATE;
	}
}

static void make_stopped(struct turn *t, struct executor_vm *vm, uint32_t grace_ms, bool tell)
{
	if (vm->seen.process == PROCESS_RUNNING) {
		stop_process(t, vm, grace_ms);
	} else if (vm->seen.process == PROCESS_UNKNOWN) {
		if (tell)
			report_unknown(t, vm);
		look_again(t, vm);
	} else if (tell) {
		(void)report_end(t, vm, VM_REPORT_STOPPED);
	}
}

static void make_removed(struct turn *t, struct executor_vm *vm)
{
	uint32_t grace_ms =
		vm->desired.phase == VM_DELETING ? vm->desired.grace_ms : EXECUTOR_STRAY_MS;

	if (vm->seen.process != PROCESS_NONE)
		make_stopped(t, vm, grace_ms, false);
	else
		turn_act(t, vm, EXECUTOR_DELETE, STOP_NONE);
}

static void cancel_unwanted(struct turn *t, struct executor_vm *vm)
{
	bool wanted = vm->acting == EXECUTOR_RESOLVE ? wants_resolving(vm) : rule_wants_running(vm);

	if (!is_build(vm->acting) || vm->cancelled || wanted)
		return;
	vm->cancelled = true;
	turn_act(t, vm, EXECUTOR_CANCEL, STOP_NONE);
}

static void decide(struct turn *t, struct executor_vm *vm)
{
	if (wants_removing(vm))
		make_removed(t, vm);
	else if (wants_resolving(vm) && !vm->desired.updating)
		vm->build = EXECUTOR_RESOLVE;
	else if (rule_wants_running(vm))
		make_running(t, vm);
	else if (vm->desired.here && vm->desired.phase == VM_STOPPING)
		make_stopped(t, vm, vm->desired.grace_ms, true);
	else if (vm->desired.here && vm->desired.phase == VM_STOPPED)
		make_stopped(t, vm, EXECUTOR_STRAY_MS, false);
	if (vm->acting == EXECUTOR_IDLE && vm->build == EXECUTOR_IDLE)
		update_decide(t, vm);
}

/* Nothing is told or done about a VM whose process is gone before its taps are, too, unless that
 * has failed too often. */
static bool wants_teardown(const struct executor_vm *vm)
{
	return vm->seen.setup && vm->seen.process == PROCESS_NONE &&
	       vm->seen.directory == DIRECTORY_OURS;
}

static void take_down(struct turn *t, struct executor_vm *vm)
{
	if (t->now_ms < vm->down_wait_ms)
		turn_wake_at(t, vm, vm->down_wait_ms);
	else
		turn_act(t, vm, EXECUTOR_TEARDOWN, STOP_NONE);
}

static void queue_keep(struct turn *t, struct executor_vm *vm)
{
	bool wanted = vm->build != EXECUTOR_IDLE;

	if (wanted && !vm->queued)
		TAILQ_INSERT_TAIL(&t->e->queue, vm, queue_entry);
	else if (!wanted && vm->queued)
		TAILQ_REMOVE(&t->e->queue, vm, queue_entry);
	vm->queued = wanted;
}

void rule_decide(struct turn *t, struct executor_vm *vm)
{
	vm->build = EXECUTOR_IDLE;
	if (vm->acting != EXECUTOR_IDLE)
		cancel_unwanted(t, vm);
	else if (!t->e->looked || !vm->wanted || vm->ended)
		; /* nothing may be done now */
	else if (wants_teardown(vm) && !vm->down_late)
		take_down(t, vm);
	else if (t->now_ms < vm->wait_ms) {
		turn_wake_at(t, vm, vm->wait_ms);
		update_decide(t, vm);
	} else {
		decide(t, vm);
	}
	if (vm->down_late && wants_teardown(vm) && vm->wanted && !vm->ended && !vm->unsettled &&
	    vm->acting == EXECUTOR_IDLE && vm->build == EXECUTOR_IDLE)
		take_down(t, vm);
	queue_keep(t, vm);
}

void rule_pump(struct turn *t)
{
	struct executor_vm *vm;

	while (t->e->builds < t->e->builds_max && (vm = TAILQ_FIRST(&t->e->queue)) != NULL) {
		TAILQ_REMOVE(&t->e->queue, vm, queue_entry);
		vm->queued = false;
		t->e->builds++;
		if (vm->build != EXECUTOR_RESOLVE)
			report_progress(t, vm, PROGRESS_BUILDING);
		turn_act(t, vm, vm->build, STOP_NONE);
		report_pump(t, vm);
	}
}

static void done_resolve(struct turn *t, struct executor_vm *vm, const struct executor_event *event)
{
	struct command failed;

	if (!wants_resolving(vm))
		return;
	if (event->code == BLIX_OK) {
		vm->tries = 0;
		report_resolved(t, vm, event->resolved);
		return;
	}
	if (vm->desired.updating && update_retries(t, vm, event))
		return;
	if (!vm->desired.updating && !event->final && ++vm->tries < EXECUTOR_TRIES) {
		vm->wait_ms = t->now_ms + ((uint64_t)t->e->retry_ms << (vm->tries - 1));
		return;
	}
	vm->tries = 0;
	command_init(&failed, COMMAND_VM_RESOLVED);
	failed.vm_resolved.uid = vm->desired.uid;
	failed.vm_resolved.node = t->e->node;
	failed.vm_resolved.code = event->code;
	failed.vm_resolved.resolve_ms = event->ms;
	xreplace(&failed.vm_resolved.reason, event->reason != NULL ? event->reason : "");
	xreplace(&failed.vm_resolved.message, event->message != NULL ? event->message : "");
	report_resolved(t, vm, &failed);
}

static void done_start(struct turn *t, struct executor_vm *vm, const struct executor_event *event)
{
	if (event->repaired != NULL)
		report_repaired(t, vm, event->repaired);
	vm->start_ms = event->ms;
	if (event->code == BLIX_OK)
		vm->alive = true;
	else if (rule_wants_running(vm))
		report_failure(t, vm, event);
	if (event->code != BLIX_OK && event->seen == NULL)
		vm->seen.setup = true; /* who knows how far it came */
}

/* A button that does nothing is pressed again while the guest may still be booting. */
static void done_stop(struct turn *t, struct executor_vm *vm, const struct executor_event *event)
{
	if (event->code == BLIX_OK || vm->stop != STOP_ASK)
		return;
	if (vm->alive_ms != 0 && t->now_ms < vm->alive_ms + EXECUTOR_BOOT_MS)
		vm->stop_next_ms = t->now_ms + EXECUTOR_BOOT_MS / 8;
	else
		vm->deaf = true;
}

/* Its process may have ended meanwhile: that is the news then. */
static void done_power(struct turn *t, struct executor_vm *vm, enum executor_action_kind kind,
                       const struct executor_event *event)
{
	if (rule_wants_running(vm) && vm->seen.process == PROCESS_RUNNING)
		report_power(t, vm, kind == EXECUTOR_PAUSE ? VM_REPORT_PAUSED : VM_REPORT_RESUMED,
		             event);
}

static void done_delete(struct turn *t, struct executor_vm *vm, const struct executor_event *event)
{
	if (!wants_removing(vm))
		return;
	if (event->code == BLIX_OK) {
		vm->tries = 0;
		(void)report_end(t, vm, VM_REPORT_GONE);
		return;
	}
	vm->tries = vm->tries < 6 ? vm->tries + 1 : 6;
	vm->wait_ms = t->now_ms + ((uint64_t)t->e->retry_ms << vm->tries);
}

/* A VM must not hang for ever on what cannot be taken down: after some tries its end is told, and
 * what is left is tried again now and then, while nothing else is to be done. */
static void done_teardown(struct turn *t, struct executor_vm *vm,
                          const struct executor_event *event)
{
	vm->down_wait_ms = 0;
	if (event->code == BLIX_OK) {
		vm->down_tries = 0;
		vm->down_late = false;
		vm->seen.setup = false;
		return;
	}
	if (event->host) { /* nothing was tried */
		vm->down_wait_ms = t->now_ms + ((uint64_t)t->e->retry_ms << 2);
		return;
	}
	vm->down_tries = (vm->down_tries + 1) % EXECUTOR_TRIES;
	vm->down_late = vm->down_late || vm->down_tries == 0;
	vm->down_wait_ms = t->now_ms + ((uint64_t)t->e->retry_ms
	                                << (vm->down_late ? DOWN_LATE_SHIFT : vm->down_tries));
}

void rule_done(struct turn *t, struct executor_vm *vm, const struct executor_event *event)
{
	enum executor_action_kind kind = vm->acting;
	bool cancelled = vm->cancelled;

	assert(kind != EXECUTOR_IDLE);
	vm->acting = EXECUTOR_IDLE;
	vm->cancelled = false;
	if (is_build(kind))
		t->e->builds--;
	if (cancelled && event->code != BLIX_OK)
		return;
	if (update_is_build(vm, kind) && event->code != BLIX_OK) {
		if (!update_retries(t, vm, event))
			report_built(t, vm, event);
		return;
	}
	if (kind == EXECUTOR_RESOLVE)
		done_resolve(t, vm, event);
	else if (kind == EXECUTOR_START)
		done_start(t, vm, event);
	else if (kind == EXECUTOR_STOP)
		done_stop(t, vm, event);
	else if (kind == EXECUTOR_PAUSE || kind == EXECUTOR_RESUME)
		done_power(t, vm, kind, event);
	else if (kind == EXECUTOR_TEARDOWN)
		done_teardown(t, vm, event);
	else if (kind == EXECUTOR_DELETE)
		done_delete(t, vm, event);
	else if (kind != EXECUTOR_STATUS && event->code == BLIX_OK)
		vm->build_ms = event->ms;
	else if (kind != EXECUTOR_STATUS && rule_wants_running(vm))
		report_failure(t, vm, event);
}
