/* The list of a VM's generations, and names of an update's steps: see generation.h, update.h. */
#include "core/generation.h"

#include "base/alloc.h"

static void text_take(char **slot, const char *text)
{
	*slot = xstrdup(text != NULL ? text : "");
}

const char *update_restart_name(enum update_restart restart)
{
	static const char *const names[UPDATE_RESTART_COUNT] = {"if-needed", "now", "no"};

	return names[restart];
}

const char *vm_update_step_name(enum vm_update_step step)
{
	static const char *const names[UPDATE_STEP_COUNT] = {"idle", "resolve", "build", "boot",
	                                                     "revert"};

	return names[step];
}

const char *vm_update_outcome_name(enum vm_update_outcome outcome)
{
	static const char *const names[UPDATE_OUTCOME_COUNT] = {"", "unchanged", "updated",
	                                                        "failed", "rolled-back"};

	return names[outcome];
}

void vm_update_init(struct vm_update *update)
{
	vm_update_copy(update, &(const struct vm_update){0});
}

void vm_update_done(struct vm_update *update)
{
	free(update->reason);
	free(update->message);
	free(update->flake);
	free(update->attr);
	free(update->by);
	memset(update, 0, sizeof(*update));
}

void vm_update_copy(struct vm_update *to, const struct vm_update *from)
{
	*to = *from;
	text_take(&to->reason, from->reason);
	text_take(&to->message, from->message);
	text_take(&to->flake, from->flake);
	text_take(&to->attr, from->attr);
	text_take(&to->by, from->by);
}

static void generation_done(struct generation *g)
{
	free(g->flake);
	free(g->attr);
	free(g->by);
	vm_resolved_done(&g->resolved);
}

struct generation *generation_push(struct vm *vm)
{
	struct generation *g;

	vm->generations =
		xreallocarray(vm->generations, vm->n_generations + 1, sizeof(*vm->generations));
	g = &vm->generations[vm->n_generations++];
	memset(g, 0, sizeof(*g));
	text_take(&g->flake, "");
	text_take(&g->attr, "");
	text_take(&g->by, "");
	vm_resolved_copy(&g->resolved, &(const struct vm_resolved){0});
	return g;
}

const struct generation *generation_add(struct vm *vm, const struct vm_resolved *resolved,
                                        const char *flake, const char *attr, const char *by,
                                        uint64_t clock_ms)
{
	struct generation *g = generation_push(vm);

	g->number = ++vm->generation_last;
	g->created_ms = clock_ms;
	xreplace(&g->flake, flake);
	xreplace(&g->attr, attr);
	xreplace(&g->by, by);
	vm_resolved_done(&g->resolved);
	vm_resolved_copy(&g->resolved, resolved);
	return g;
}

const struct generation *generation_find(const struct vm *vm, uint64_t number)
{
	for (uint32_t i = 0; i < vm->n_generations; i++) {
		if (vm->generations[i].number == number)
			return &vm->generations[i];
	}
	return NULL;
}

void generation_remove(struct vm *vm, uint64_t number)
{
	for (uint32_t i = 0; i < vm->n_generations; i++) {
		if (vm->generations[i].number != number)
			continue;
		generation_done(&vm->generations[i]);
		vm->n_generations--;
		memmove(vm->generations + i, vm->generations + i + 1,
		        (vm->n_generations - i) * sizeof(*vm->generations));
		return;
	}
}

uint64_t generation_of_runner(const struct vm *vm, const char *runner)
{
	const struct generation *wanted = generation_find(vm, vm->generation);

	if (runner[0] == '\0')
		return 0;
	if (wanted != NULL && strcmp(wanted->resolved.out_path, runner) == 0)
		return wanted->number;
	for (uint32_t i = vm->n_generations; i-- > 0;) {
		if (strcmp(vm->generations[i].resolved.out_path, runner) == 0)
			return vm->generations[i].number;
	}
	return 0;
}

bool generation_in_use(const struct vm *vm, uint64_t number)
{
	bool updating = vm->update.step != UPDATE_IDLE;

	return number == vm->generation || number == vm->generation_current ||
	       number == vm->generation_booted ||
	       (updating && (number == vm->update.from || number == vm->update.target));
}

uint64_t generation_victim(const struct vm *vm, uint64_t keep, uint64_t keep_ms, uint64_t clock_ms)
{
	for (uint32_t i = 0; i < vm->n_generations; i++) {
		const struct generation *g = &vm->generations[i];
		bool old = keep_ms != 0 && clock_ms > g->created_ms &&
		           clock_ms - g->created_ms > keep_ms;

		if ((old || (keep != 0 && vm->n_generations > keep)) &&
		    !generation_in_use(vm, g->number))
			return g->number;
	}
	return 0;
}

uint64_t generation_before(const struct vm *vm)
{
	uint64_t before = 0;

	for (uint32_t i = 0; i < vm->n_generations; i++) {
		if (vm->generations[i].number < vm->generation)
			before = vm->generations[i].number;
	}
	return before;
}

bool vm_is_stale(const struct vm *vm)
{
	return vm->pid != 0 && vm->resolved_set && vm->runner[0] != '\0' &&
	       strcmp(vm->runner, vm->resolved.out_path) != 0;
}

void generations_done(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->n_generations; i++)
		generation_done(&vm->generations[i]);
	free(vm->generations);
	vm->generations = NULL;
	vm->n_generations = 0;
}

void generations_copy(struct vm *to, const struct vm *from)
{
	for (uint32_t i = 0; i < from->n_generations; i++) {
		const struct generation *g = &from->generations[i];
		struct generation *copy = generation_push(to);

		copy->number = g->number;
		copy->created_ms = g->created_ms;
		xreplace(&copy->flake, g->flake);
		xreplace(&copy->attr, g->attr);
		xreplace(&copy->by, g->by);
		vm_resolved_done(&copy->resolved);
		vm_resolved_copy(&copy->resolved, &g->resolved);
	}
}
