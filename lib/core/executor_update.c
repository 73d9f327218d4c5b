/* The next system of a VM, looked at and built while the present one goes on.
 *
 * It has the last place: only when nothing else is to be done about the VM is it begun, and an
 * evaluation gives way to whatever happens meanwhile (a stop, an end); it is made again later. A
 * build does not give way to an end: what it builds is what would be started then. Failures are
 * counted apart, so that they never hold up the VM itself.
 */
#include "core/executor_internal.h"

#include <string.h>

/* Nothing else is to be done about it. */
static bool is_steady(const struct executor_vm *vm)
{
	bool settled = !vm->unsettled || vm->acting != EXECUTOR_IDLE;

	if (!vm->wanted || vm->desired.phase == VM_DELETING)
		return false;
	if (!vm->desired.here)
		return !vm->desired.elsewhere || vm->desired.updating;
	if (vm->desired.phase == VM_CRASHLOOP) /* another system may be what ends it */
		return vm->seen.process == PROCESS_NONE && !vm->alive;
	if (vm->desired.phase == VM_RUNNING)
		return settled && vm->seen.process == PROCESS_RUNNING &&
		       vm->seen.epoch == vm->desired.epoch;
	return !rule_wants_running(vm) && vm->desired.phase != VM_STOPPING &&
	       vm->seen.process == PROCESS_NONE;
}

bool update_wants_resolving(const struct executor_vm *vm)
{
	return vm->desired.updating && is_steady(vm);
}

static bool wants_preparing(const struct executor_vm *vm)
{
	return vm->desired.preparing && vm->desired.here && vm->desired.phase == VM_RUNNING &&
	       is_steady(vm);
}

void update_decide(struct turn *t, struct executor_vm *vm)
{
	bool resolving = update_wants_resolving(vm);

	if (vm->prepared || (!resolving && !wants_preparing(vm)))
		return;
	if (t->now_ms < vm->update_wait_ms)
		turn_wake_at(t, vm, vm->update_wait_ms);
	else if (resolving)
		vm->build = EXECUTOR_RESOLVE;
	else if (strcmp(vm->seen.runner, vm->desired.out_path) == 0)
		report_built(t, vm, NULL);
	else
		vm->build = EXECUTOR_UPDATE;
}

bool update_is_build(const struct executor_vm *vm, enum executor_action_kind kind)
{
	return kind == EXECUTOR_UPDATE && vm->desired.preparing &&
	       vm->seen.process == PROCESS_RUNNING;
}

bool update_retries(struct turn *t, struct executor_vm *vm, const struct executor_event *event)
{
	if (event->final || ++vm->update_tries >= EXECUTOR_TRIES) {
		vm->update_tries = 0;
		return false;
	}
	vm->update_wait_ms = t->now_ms + ((uint64_t)t->e->retry_ms << (vm->update_tries - 1));
	return true;
}
