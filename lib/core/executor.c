/* The executor's table of VMs, and how each event changes it: see executor.h.
 *
 * A step stores what the event says, asks executor_rule.c what to do about the VM it touched, hands
 * its reports out and gives free build places away. VMs that wait for a time, for a place or for
 * the state stand in lists of their own, so that a step costs nothing for the others.
 */
#include "core/executor_internal.h"

#include "base/alloc.h"

#include <assert.h>
#include <stdio.h>

void executor_init(struct executor *e, uint64_t node, unsigned builds_max, unsigned retry_ms)
{
	*e = (struct executor){
		.node = node, .builds_max = builds_max > 0 ? builds_max : 1, .retry_ms = retry_ms};
	TAILQ_INIT(&e->queue);
	TAILQ_INIT(&e->timed);
	TAILQ_INIT(&e->unsettled);
}

static void text_set(const char **slot, const char *text)
{
	char *copy = text != NULL ? xstrdup(text) : NULL;

	free((void *)(uintptr_t)*slot);
	*slot = copy;
}

static size_t find(const struct executor *e, uint64_t uid, bool *ret_found)
{
	size_t low = 0, high = e->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (e->vms[mid]->desired.uid < uid)
			low = mid + 1;
		else
			high = mid;
	}
	*ret_found = low < e->n && e->vms[low]->desired.uid == uid;
	return low;
}

static struct executor_vm *lookup(const struct executor *e, uint64_t uid)
{
	bool found;
	size_t at = find(e, uid, &found);

	return found ? e->vms[at] : NULL;
}

static struct executor_vm *lookup_or_add(struct executor *e, uint64_t uid)
{
	bool found;
	size_t at = find(e, uid, &found);
	struct executor_vm *vm;

	if (found)
		return e->vms[at];
	if (e->n == e->size) {
		e->size = e->size < 16 ? 16 : e->size * 2;
		e->vms = xreallocarray((void *)e->vms, e->size, sizeof(struct executor_vm *));
	}
	memmove((void *)(e->vms + at + 1), (void *)(e->vms + at), (e->n - at) * sizeof(*e->vms));
	e->n++;
	vm = e->vms[at] = xcalloc(1, sizeof(*vm));
	vm->desired.uid = uid;
	vm->told = PROGRESS_NONE;
	TAILQ_INIT(&vm->reports);
	text_set(&vm->desired.out_path, "");
	text_set(&vm->desired.wait_message, "");
	text_set(&vm->seen.runner, "");
	text_set(&vm->seen.booted, "");
	return vm;
}

static void timed_remove(struct executor *e, struct executor_vm *vm)
{
	if (vm->timed)
		TAILQ_REMOVE(&e->timed, vm, timed_entry);
	vm->timed = false;
}

static void vm_remove(struct turn *t, struct executor_vm *vm)
{
	bool found;
	size_t at = find(t->e, vm->desired.uid, &found);

	assert(found && vm->acting == EXECUTOR_IDLE && !vm->reporting);
	report_drop_all(t, vm);
	timed_remove(t->e, vm);
	if (vm->queued)
		TAILQ_REMOVE(&t->e->queue, vm, queue_entry);
	if (vm->unsettled)
		TAILQ_REMOVE(&t->e->unsettled, vm, unsettled_entry);
	t->e->n--;
	memmove((void *)(t->e->vms + at), (void *)(t->e->vms + at + 1),
	        (t->e->n - at) * sizeof(*t->e->vms));
	text_set(&vm->desired.out_path, NULL);
	text_set(&vm->desired.wait_message, NULL);
	text_set(&vm->seen.runner, NULL);
	text_set(&vm->seen.booted, NULL);
	text_set(&vm->seen.message, NULL);
	free(vm);
}

void executor_done(struct executor *e)
{
	struct turn t = {.e = e};

	while (e->n > 0) {
		e->vms[e->n - 1]->acting = EXECUTOR_IDLE;
		e->vms[e->n - 1]->reporting = false;
		vm_remove(&t, e->vms[e->n - 1]);
	}
	free((void *)e->vms);
	e->vms = NULL;
	e->size = 0;
}

void executor_actions_done(struct executor_actions *actions)
{
	free(actions->items);
	*actions = (struct executor_actions){NULL, 0, 0, 0};
}

void turn_act(struct turn *t, struct executor_vm *vm, enum executor_action_kind kind,
              enum executor_stop stop)
{
	struct executor_actions *actions = t->actions;
	struct executor_action *action;

	if (kind != EXECUTOR_REPORT && kind != EXECUTOR_CANCEL) {
		assert(vm->acting == EXECUTOR_IDLE);
		vm->acting = kind;
	}
	if (actions->n == actions->size) {
		actions->size = actions->size < 8 ? 8 : actions->size * 2;
		actions->items =
			xreallocarray(actions->items, actions->size, sizeof(*actions->items));
	}
	action = &actions->items[actions->n++];
	*action = (struct executor_action){
		.kind = kind, .uid = vm->desired.uid, .epoch = vm->desired.epoch, .stop = stop};
	memcpy(action->name, vm->desired.name, sizeof(action->name));
}

void turn_wake_at(struct turn *t, struct executor_vm *vm, uint64_t at_ms)
{
	vm->timer_ms = vm->timed && vm->timer_ms < at_ms ? vm->timer_ms : at_ms;
	if (!vm->timed)
		TAILQ_INSERT_TAIL(&t->e->timed, vm, timed_entry);
	vm->timed = true;
}

/* Everything there is to do about one VM after something changed. */
static void visit(struct turn *t, struct executor_vm *vm)
{
	timed_remove(t->e, vm);
	report_settle(t, vm);
	rule_decide(t, vm);
	report_pump(t, vm);
	if (!vm->wanted && vm->acting == EXECUTOR_IDLE && !vm->reporting)
		vm_remove(t, vm);
}

static void seen_set(struct executor_vm *vm, const struct executor_seen *seen)
{
	const char *runner = vm->seen.runner, *message = vm->seen.message;
	const char *booted = vm->seen.booted;

	if (vm->seen.process == PROCESS_UNKNOWN && seen->process != PROCESS_UNKNOWN)
		vm->wait_ms = 0;
	vm->seen = *seen;
	vm->seen.runner = runner;
	vm->seen.booted = booted;
	vm->seen.message = message;
	if (strcmp(runner, seen->runner != NULL ? seen->runner : "") != 0)
		text_set(&vm->seen.runner, seen->runner != NULL ? seen->runner : "");
	if (strcmp(booted, seen->booted != NULL ? seen->booted : "") != 0)
		text_set(&vm->seen.booted, seen->booted != NULL ? seen->booted : "");
	text_set(&vm->seen.message, seen->message);
	if (seen->process == PROCESS_NONE) {
		vm->stop = STOP_NONE;
		vm->secrets_given = false;
	} else {
		vm->down_late = false; /* another run, another end */
	}
}

static void on_desired(struct turn *t, const struct executor_event *event)
{
	const struct executor_desired *desired = event->desired;
	struct executor_vm *vm = lookup_or_add(t->e, desired->uid);
	bool moved = vm->wanted && vm->desired.epoch != desired->epoch;
	const char *out_path = vm->desired.out_path, *message = vm->desired.wait_message;
	const char *waits = desired->wait_message != NULL ? desired->wait_message : "";
	uint32_t grace_ms = vm->desired.grace_ms;
	enum vm_phase phase = vm->desired.phase;
	uint32_t crashes = vm->desired.crashes;
	bool known = vm->wanted && !moved;

	if (moved) {
		vm->tries = 0;
		vm->wait_ms = 0;
		vm->alive = false;
		report_drop_all(t, vm);
	}
	vm->desired = *desired;
	vm->desired.out_path = out_path;
	vm->desired.wait_message = message;
	if (moved || strcmp(message, waits) != 0)
		vm->wait_told = false;
	text_set(&vm->desired.wait_message, waits);
	if (strcmp(out_path, desired->out_path) != 0) {
		/* Another system: what failed before says nothing about it. */
		text_set(&vm->desired.out_path, desired->out_path);
		vm->tries = vm->update_tries = 0;
		vm->wait_ms = vm->update_wait_ms = 0;
	}
	if (!vm->wanted || moved)
		vm->told = progress_of(desired);
	if (vm->stop == STOP_ASK && grace_ms != desired->grace_ms)
		vm->stop_next_ms = t->now_ms;
	vm->wanted = true;
	/* A pause that a daemon before us began, and one that somebody ended by asking for a start.
	 */
	if (!known && desired->crashes > 0) {
		vm->wait_ms = t->now_ms + desired->retry_in_ms;
		vm->resting = true;
	} else if (known && vm->resting && crashes > 0 && desired->crashes == 0) {
		vm->wait_ms = 0;
		vm->resting = false;
	}
	/* A wait belongs to what was tried: stopping or deleting does not inherit it. */
	if (phase != desired->phase && !rule_wants_running(vm)) {
		vm->tries = 0;
		vm->wait_ms = 0;
	}
	if (event->seen != NULL)
		seen_set(vm, event->seen);
	visit(t, vm);
}

static void on_forgotten(struct turn *t, struct executor_vm *vm)
{
	vm->wanted = false;
	report_drop_all(t, vm);
	visit(t, vm);
}

static void on_applied(struct turn *t, uint64_t revision)
{
	struct executor_vm *vm, *next;

	t->e->revision = revision;
	for (vm = TAILQ_FIRST(&t->e->unsettled); vm != NULL; vm = next) {
		next = TAILQ_NEXT(vm, unsettled_entry);
		if (TAILQ_EMPTY(&vm->reports) && vm->settle <= revision)
			visit(t, vm);
	}
}

static void on_looked(struct turn *t)
{
	t->e->looked = true;
	for (size_t i = 0; i < t->e->n; i++)
		visit(t, t->e->vms[i]);
}

static void on_ready(struct turn *t, struct executor_vm *vm, uint32_t ms)
{
	if (vm->seen.process != PROCESS_RUNNING || !vm->alive || vm->ended)
		return;
	vm->was_ready = true;
	vm->tries = 0;
	report_ready(t, vm, ms);
	visit(t, vm);
}

/* That they were given is told when the state knows that it runs; a failure at once. */
static void on_secrets(struct turn *t, struct executor_vm *vm, const struct executor_event *event)
{
	if (vm->seen.process != PROCESS_RUNNING)
		return;
	vm->secrets_given = event->code == BLIX_OK;
	if (!vm->secrets_given && vm->alive && !vm->ended)
		report_secrets(t, vm, event->code, event->reason, event->message);
	visit(t, vm);
}

static void on_tick(struct turn *t)
{
	struct executor_vm *vm, *next;

	for (vm = TAILQ_FIRST(&t->e->timed); vm != NULL; vm = next) {
		next = TAILQ_NEXT(vm, timed_entry);
		if (vm->timer_ms <= t->now_ms)
			visit(t, vm);
	}
}

/* The events about one VM that the machine must know. */
static void on_vm(struct turn *t, const struct executor_event *event)
{
	struct executor_vm *vm = lookup(t->e, event->uid);

	if (vm == NULL)
		return;
	switch (event->kind) {
	case EXECUTOR_FORGOTTEN:
		on_forgotten(t, vm);
		break;
	case EXECUTOR_SEEN:
		seen_set(vm, event->seen);
		visit(t, vm);
		break;
	case EXECUTOR_READY:
		on_ready(t, vm, event->ms);
		break;
	case EXECUTOR_SECRETS:
		on_secrets(t, vm, event);
		break;
	case EXECUTOR_FETCHING:
		report_fetching(t, vm);
		visit(t, vm);
		break;
	case EXECUTOR_DONE:
		if (event->seen != NULL)
			seen_set(vm, event->seen);
		rule_done(t, vm, event);
		visit(t, vm);
		break;
	case EXECUTOR_REPORTED:
		report_answered(t, vm, event->code, event->revision);
		visit(t, vm);
		break;
	case EXECUTOR_DESIRED:
	case EXECUTOR_APPLIED:
	case EXECUTOR_LOOKED:
	case EXECUTOR_TICK:
		assert(!"not about one VM");
		break;
	}
}

static uint64_t next_time(const struct executor *e)
{
	const struct executor_vm *vm;
	uint64_t next_ms = 0;

	TAILQ_FOREACH(vm, &e->timed, timed_entry)
	{
		if (next_ms == 0 || vm->timer_ms < next_ms)
			next_ms = vm->timer_ms;
	}
	return next_ms;
}

void executor_step(struct executor *e, const struct executor_event *event, uint64_t now_ms,
                   struct executor_actions *ret)
{
	struct turn t = {.e = e, .now_ms = now_ms, .actions = ret};

	ret->n = 0;
	if (event->kind == EXECUTOR_DESIRED)
		on_desired(&t, event);
	else if (event->kind == EXECUTOR_APPLIED)
		on_applied(&t, event->revision);
	else if (event->kind == EXECUTOR_LOOKED)
		on_looked(&t);
	else if (event->kind == EXECUTOR_TICK)
		on_tick(&t);
	else
		on_vm(&t, event);
	rule_pump(&t);
	ret->next_ms = next_time(e);
}

const struct executor_seen *executor_seen(const struct executor *e, uint64_t uid)
{
	const struct executor_vm *vm = lookup(e, uid);

	return vm != NULL ? &vm->seen : NULL;
}
