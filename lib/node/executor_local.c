/* The VMs of the state that concern this node, and the scan that finds them.
 *
 * A VM concerns us when it is placed here, when we hold something of it, or when we are to resolve
 * it. One that is heard of for the first time while the host shows a trace of its name is looked at
 * before anything is done about it.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "core/generation.h"
#include "sys/clock.h"

#include <assert.h>
#include <stdio.h>

static size_t locals_at(const struct node_executor *e, uint64_t uid)
{
	size_t low = 0, high = e->n_locals;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (e->locals[mid]->uid < uid)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct local *local_find(const struct node_executor *e, uint64_t uid)
{
	size_t at = locals_at(e, uid);

	return at < e->n_locals && e->locals[at]->uid == uid ? e->locals[at] : NULL;
}

static struct local *local_add(struct node_executor *e, struct vm *vm)
{
	size_t at = locals_at(e, vm->uid);
	struct local *local = xcalloc(1, sizeof(*local));

	if (e->n_locals == e->size_locals) {
		e->size_locals = e->size_locals < 16 ? 16 : e->size_locals * 2;
		e->locals =
			xreallocarray((void *)e->locals, e->size_locals, sizeof(struct local *));
	}
	memmove((void *)(e->locals + at + 1), (void *)(e->locals + at),
	        (e->n_locals - at) * sizeof(struct local *));
	e->locals[at] = local;
	e->n_locals++;
	local->e = e;
	local->uid = vm->uid;
	local->vm = vm_ref(vm);
	local->unseen = host_has_trace(e, vm->name) || steps_open(e, vm->uid);
	return local;
}

void local_free(struct local *local)
{
	assert(local->jobs == 0 && local->watch == NULL && local->ready == NULL);
	usage_forget(local);
	vm_unref(local->vm);
	free(local);
}

/* Out of the table at once, freed when its last job ended. */
void local_remove(struct node_executor *e, struct local *local)
{
	size_t at = locals_at(e, local->uid);

	e->n_locals--;
	memmove((void *)(e->locals + at), (void *)(e->locals + at + 1),
	        (e->n_locals - at) * sizeof(struct local *));
	watch_end(local);
	local->gone = true;
	if (local->jobs == 0)
		local_free(local);
}

static bool concerns(const struct node_executor *e, const struct vm *vm)
{
	return vm->node == e->config.node || vm_held_by(vm, e->config.node) ||
	       ((vm->phase == VM_RESOLVING || vm->update.step == UPDATE_RESOLVE) &&
	        vm->resolver == e->config.node);
}

void node_executor_show(struct local *local, const struct executor_seen *seen)
{
	const struct node_executor *e = local->e;
	const struct vm *vm = local->vm;
	uint64_t clock_ms = e->config.state->clock_ms;
	struct executor_desired desired = {
		.uid = vm->uid,
		.epoch = vm->epoch,
		.phase = vm->phase,
		.here = vm->node == e->config.node,
		.elsewhere = vm->node != 0 && vm->node != e->config.node,
		.paused = vm->spec.power == VM_POWER_PAUSED,
		.resolving = vm->resolver == e->config.node,
		.held = vm_held_by(vm, e->config.node),
		.updating = vm->update.step == UPDATE_RESOLVE && vm->resolver == e->config.node,
		.preparing = vm->update.step == UPDATE_BUILD,
		.ready = vm->ready,
		.grace_ms = vm->grace_ms,
		.pid = vm->pid,
		.crashes = vm->crashes,
		.retry_in_ms = vm->retry_ms > clock_ms ? (uint32_t)(vm->retry_ms - clock_ms) : 0,
		.secrets_given = vm->secrets_given,
		.out_path = vm->resolved.out_path};
	struct blix_error waits = {.code = BLIX_OK};
	cleanup(freep) char *message = NULL;

	if (secrets_look(local, &waits) < 0) {
		message = xasprintf("%s%s%s", waits.text, waits.hint[0] != '\0' ? "\nhint: " : "",
		                    waits.hint);
		desired.wait_code = waits.code;
		(void)snprintf(desired.wait_reason, sizeof(desired.wait_reason), "%s",
		               waits.reason);
		desired.wait_message = message;
	}
	memcpy(desired.name, vm->name, sizeof(desired.name));
	node_executor_step(local->e, &(struct executor_event){.kind = EXECUTOR_DESIRED,
	                                                      .desired = &desired,
	                                                      .seen = seen});
}

static void forget_others(struct node_executor *e)
{
	for (size_t i = e->n_locals; i-- > 0;) {
		struct local *local = e->locals[i];
		const struct vm *vm = state_vm_uid(e->config.state, local->uid);

		if (vm != NULL && concerns(e, vm))
			continue;
		node_executor_step(
			e, &(struct executor_event){.kind = EXECUTOR_FORGOTTEN, .uid = local->uid});
		local_remove(e, local);
	}
}

/* Roots are looked through only when the list of generations is another one. */
static void generations_follow(struct local *local)
{
	const struct vm *vm = local->vm;
	uint64_t sum = 1;
	bool first;

	for (uint32_t i = 0; i < vm->n_generations; i++)
		sum = sum * 31 + vm->generations[i].number;
	if (sum == local->kept)
		return;
	first = local->kept == 0;
	local->kept = sum;
	if (!first || vm->n_generations > 1 || steps_open(local->e, local->uid))
		generations_prune(local);
}

static void scan_vm(struct node_executor *e, struct vm *vm)
{
	struct local *local = local_find(e, vm->uid);

	if (!concerns(e, vm))
		return;
	if (local == NULL) {
		local = local_add(e, vm);
	} else {
		vm_unref(local->vm);
		local->vm = vm_ref(vm);
	}
	generations_follow(local);
	adopt_follow(local);
	if (!local->unseen && !local->adopting)
		node_executor_show(local, NULL);
}

/* Nothing is done before the log knows of this boot: until then it speaks of processes that a
 * restart of the host has ended. */
static void act_when_known(struct node_executor *e)
{
	const struct node *node = state_node(e->config.state, e->config.node);

	if (e->acting || node == NULL || strcmp(node->facts.boot_id, clock_boot_id()) != 0)
		return;
	e->acting = true;
	secrets_prune(e);
	node_executor_step(e, &(struct executor_event){.kind = EXECUTOR_LOOKED});
}

/* What changed in the state since the last scan. Each VM is kept by a reference, so nothing of it
 * changes under a job; the state makes its next version beside it. */
void locals_scan(struct node_executor *e)
{
	const struct state *state = e->config.state;
	uint64_t since = e->scanned;

	if (since > state->revision) /* restored from an older snapshot: all is new */
		since = 0;
	forget_others(e);
	for (size_t i = 0; i < state->n_vms; i++) {
		if (since == 0 || state->vms[i]->revision > since)
			scan_vm(e, state->vms[i]);
	}
	e->scanned = state->revision;
	steps_forget(e);
	act_when_known(e);
	node_executor_step(
		e, &(struct executor_event){.kind = EXECUTOR_APPLIED, .revision = e->scanned});
	look_at_unseen(e);
	node_executor_drain(e);
}
