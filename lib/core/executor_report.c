/* What the executor tells the log, in order, until it is taken or refused.
 *
 * `told` runs ahead of the state while reports are on their way; once all were answered and the
 * state shows it (settle), `told` is what the state's phase says. After a report that ends
 * something (`ended`) the machine waits for the state to say what comes next.
 */
#include "core/executor_internal.h"

#include "base/alloc.h"

#include <assert.h>

#define RESEND_MS     100
#define RESEND_MS_MAX 2000
#define REPEAT_MS     1000 /* the same thing is not said twice within */

enum progress progress_of(const struct executor_desired *desired)
{
	switch (desired->phase) {
	case VM_UNKNOWN:
		return PROGRESS_UNKNOWN;
	case VM_BUILDING:
		return PROGRESS_BUILDING;
	case VM_STARTING:
		return PROGRESS_STARTING;
	case VM_RUNNING:
	case VM_PAUSED:
		return desired->ready ? PROGRESS_READY : PROGRESS_RUNNING;
	case VM_PENDING:
	case VM_RESOLVING:
	case VM_SCHEDULED:
	case VM_STOPPING:
	case VM_STOPPED:
	case VM_FAILED:
	case VM_CRASHLOOP:
	case VM_DELETING:
	case VM_PHASE_COUNT:
		break;
	}
	return PROGRESS_NONE;
}

static void unsettled_add(struct turn *t, struct executor_vm *vm)
{
	if (!vm->unsettled)
		TAILQ_INSERT_TAIL(&t->e->unsettled, vm, unsettled_entry);
	vm->unsettled = true;
}

static struct vm_report *report_add(struct turn *t, struct executor_vm *vm,
                                    enum vm_report_kind kind)
{
	struct report *report = xcalloc(1, sizeof(*report));
	struct vm_report *r = &report->command.vm_report;

	command_init(&report->command, COMMAND_VM_REPORT);
	r->kind = kind;
	r->uid = vm->desired.uid;
	r->node = t->e->node;
	r->epoch = vm->desired.epoch;
	TAILQ_INSERT_TAIL(&vm->reports, report, entry);
	unsettled_add(t, vm);
	return r;
}

static void fill_running(const struct executor_vm *vm, struct vm_report *r)
{
	r->pid = vm->seen.pid;
	r->started_ms = vm->seen.started_ms;
	r->duration_ms = vm->start_ms;
	xreplace(&r->runner, vm->seen.booted[0] != '\0' ? vm->seen.booted : vm->seen.runner);
}

void report_progress(struct turn *t, struct executor_vm *vm, enum progress progress)
{
	struct vm_report *r;

	if (progress <= vm->told)
		return;
	vm->told = progress;
	switch (progress) {
	case PROGRESS_BUILDING:
		(void)report_add(t, vm, VM_REPORT_BUILDING);
		break;
	case PROGRESS_STARTING:
		r = report_add(t, vm, VM_REPORT_STARTING);
		r->duration_ms = vm->build_ms;
		xreplace(&r->runner, vm->seen.runner);
		break;
	case PROGRESS_RUNNING:
		fill_running(vm, report_add(t, vm, VM_REPORT_RUNNING));
		break;
	case PROGRESS_READY:
	case PROGRESS_UNKNOWN:
	case PROGRESS_NONE:
		assert(!"not told this way");
		break;
	}
}

void report_ready(struct turn *t, struct executor_vm *vm, uint32_t ms)
{
	report_progress(t, vm, PROGRESS_RUNNING);
	if (vm->told >= PROGRESS_READY)
		return;
	vm->told = PROGRESS_READY;
	report_add(t, vm, VM_REPORT_READY)->duration_ms = ms;
}

void report_fetching(struct turn *t, struct executor_vm *vm)
{
	(void)report_add(t, vm, VM_REPORT_FETCHING);
}

bool report_end(struct turn *t, struct executor_vm *vm, enum vm_report_kind kind)
{
	struct vm_report *r;

	if (vm->last_kind == kind && vm->last_epoch == vm->desired.epoch &&
	    t->now_ms < vm->last_ms + REPEAT_MS) {
		turn_wake_at(t, vm, vm->last_ms + REPEAT_MS);
		return false;
	}
	r = report_add(t, vm, kind);
	r->exit_code = vm->seen.exited ? vm->seen.exit_code : -1;
	vm->ended = true;
	vm->alive = false;
	vm->last_kind = kind;
	vm->last_epoch = vm->desired.epoch;
	vm->last_ms = t->now_ms;
	return true;
}

/* 1, 2, 4 .. 60 s, when retry_ms is 1 s. */
static uint32_t backoff_ms(const struct turn *t, uint32_t crashes)
{
	uint64_t ms = (uint64_t)t->e->retry_ms << (crashes < 16 ? crashes - 1 : 15);

	return ms < VM_BACKOFF_MS_MAX ? (uint32_t)ms : VM_BACKOFF_MS_MAX;
}

void report_exited(struct turn *t, struct executor_vm *vm, const struct executor_event *failure)
{
	bool stable = vm->was_ready || (vm->seen.exited && vm->seen.run_ms >= EXECUTOR_STABLE_MS);
	struct vm_report *r;

	/* The log hears that it ran before it hears that it ended well. */
	if (failure == NULL)
		report_progress(t, vm, PROGRESS_RUNNING);
	if (!report_end(t, vm, VM_REPORT_EXITED))
		return;
	r = &TAILQ_LAST(&vm->reports, report_list)->command.vm_report;
	r->stable = stable;
	r->wait_ms = backoff_ms(t, stable ? 1 : vm->desired.crashes + 1);
	vm->wait_ms = t->now_ms + r->wait_ms;
	vm->resting = true;
	if (failure == NULL)
		return;
	r->code = failure->code;
	xreplace(&r->reason, failure->reason);
	xreplace(&r->message, failure->message != NULL ? failure->message : "");
}

void report_secrets(struct turn *t, struct executor_vm *vm, enum blix_code code, const char *reason,
                    const char *message)
{
	struct vm_report *r;

	/* A guest that never was told to run cannot lack anything. */
	if (vm->seen.process == PROCESS_RUNNING)
		report_progress(t, vm, PROGRESS_RUNNING);
	else
		vm->told = PROGRESS_NONE; /* the state shows it Scheduled */
	r = report_add(t, vm, VM_REPORT_SECRETS);
	r->code = code;
	xreplace(&r->reason, reason != NULL ? reason : "");
	xreplace(&r->message, message != NULL ? message : "");
}

void report_stable(struct turn *t, struct executor_vm *vm)
{
	vm->stable_told = true;
	(void)report_add(t, vm, VM_REPORT_STABLE);
}

void report_built(struct turn *t, struct executor_vm *vm, const struct executor_event *failure)
{
	enum vm_report_kind kind = failure == NULL ? VM_REPORT_BUILT : VM_REPORT_NOT_BUILT;
	struct vm_report *r;

	if (vm->last_kind == kind && vm->last_epoch == vm->desired.epoch &&
	    t->now_ms < vm->last_ms + REPEAT_MS) {
		turn_wake_at(t, vm, vm->last_ms + REPEAT_MS);
		return;
	}
	r = report_add(t, vm, kind);
	r->duration_ms = vm->build_ms;
	xreplace(&r->runner, vm->seen.runner);
	if (failure != NULL) {
		r->code = failure->code;
		xreplace(&r->reason, failure->reason != NULL ? failure->reason : "");
		xreplace(&r->message, failure->message != NULL ? failure->message : "");
	}
	vm->update_tries = 0;
	vm->prepared = true;
	vm->last_kind = kind;
	vm->last_epoch = vm->desired.epoch;
	vm->last_ms = t->now_ms;
}

void report_repaired(struct turn *t, struct executor_vm *vm, const char *what)
{
	xreplace(&report_add(t, vm, VM_REPORT_REPAIRED)->message, what);
}

void report_stop(struct turn *t, struct executor_vm *vm, enum executor_stop step)
{
	static const enum vm_stop stops[] = {[STOP_NONE] = VM_STOP_NONE,
	                                     [STOP_ASK] = VM_STOP_ASK,
	                                     [STOP_TERM] = VM_STOP_TERM,
	                                     [STOP_KILL] = VM_STOP_KILL};

	report_add(t, vm, VM_REPORT_STOP)->stop = stops[step];
}

void report_power(struct turn *t, struct executor_vm *vm, enum vm_report_kind kind,
                  const struct executor_event *done)
{
	struct vm_report *r = report_add(t, vm, kind);

	vm->ended = true; /* until the state shows it */
	r->code = done->code;
	xreplace(&r->reason, done->reason != NULL ? done->reason : "");
	xreplace(&r->message, done->message != NULL ? done->message : "");
}

void report_unknown(struct turn *t, struct executor_vm *vm)
{
	struct vm_report *r;

	if (vm->told == PROGRESS_UNKNOWN)
		return;
	vm->told = PROGRESS_UNKNOWN;
	r = report_add(t, vm, VM_REPORT_UNKNOWN);
	r->code = BLIX_E_START;
	xreplace(&r->reason, vm->seen.step_unknown ? "step-unknown" : "process-unknown");
	xreplace(&r->message, vm->seen.message != NULL ? vm->seen.message
	                                               : "a process is there that cannot be "
	                                                 "identified; it is left alone");
}

void report_failure(struct turn *t, struct executor_vm *vm, const struct executor_event *failure)
{
	bool give_up = failure->final || (!failure->host && ++vm->tries >= EXECUTOR_TRIES);
	struct vm_report *r;

	if (give_up && !report_end(t, vm, VM_REPORT_FAILED))
		return;
	if (give_up) {
		vm->tries = 0;
		r = &TAILQ_LAST(&vm->reports, report_list)->command.vm_report;
	} else {
		vm->wait_ms = t->now_ms +
		              ((uint64_t)t->e->retry_ms << (failure->host ? 2 : vm->tries - 1));
		r = report_add(t, vm, VM_REPORT_RETRY);
		r->exit_code = vm->seen.exited ? vm->seen.exit_code : -1;
		vm->told = PROGRESS_NONE;
	}
	vm->alive = false;
	r->code = failure->code;
	xreplace(&r->reason, failure->reason != NULL ? failure->reason : "");
	xreplace(&r->message, failure->message != NULL ? failure->message : "");
}

void report_resolved(struct turn *t, struct executor_vm *vm, struct command *found)
{
	struct report *report = xcalloc(1, sizeof(*report));

	report->command = *found;
	memset(found, 0, sizeof(*found));
	TAILQ_INSERT_TAIL(&vm->reports, report, entry);
	unsettled_add(t, vm);
	if (vm->desired.updating) /* the VM goes on meanwhile */
		vm->prepared = true;
	else
		vm->ended = true;
}

static void report_drop(struct executor_vm *vm, struct report *report)
{
	TAILQ_REMOVE(&vm->reports, report, entry);
	command_done(&report->command);
	free(report);
}

void report_drop_all(struct turn *t, struct executor_vm *vm)
{
	struct report *report, *next, *first = vm->reporting ? TAILQ_FIRST(&vm->reports) : NULL;

	(void)t;
	for (report = TAILQ_FIRST(&vm->reports); report != NULL; report = next) {
		next = TAILQ_NEXT(report, entry);
		if (report != first) /* the caller still holds that one */
			report_drop(vm, report);
	}
	vm->report_wait_ms = 0;
	vm->report_tries = 0;
}

static bool is_undecided(enum blix_code code)
{
	const struct blix_code_info *info = blix_code_info(code);

	return info->retryable || !info->definite;
}

/* Nothing is told twice that nobody asks for any more. */
static bool is_current(const struct executor_vm *vm, const struct command *command)
{
	if (!vm->wanted)
		return false;
	if (command->kind == COMMAND_VM_RESOLVED)
		return vm->desired.resolving || vm->desired.updating;
	return command->vm_report.epoch == vm->desired.epoch;
}

void report_answered(struct turn *t, struct executor_vm *vm, enum blix_code code, uint64_t revision)
{
	struct report *first = TAILQ_FIRST(&vm->reports);
	uint64_t wait_ms;

	assert(vm->reporting && first != NULL);
	vm->reporting = false;
	if (!is_undecided(code) || !is_current(vm, &first->command)) {
		report_drop(vm, first);
		vm->report_tries = 0;
		vm->report_wait_ms = 0;
		if (revision > vm->settle)
			vm->settle = revision;
		return;
	}
	wait_ms = (uint64_t)RESEND_MS << (vm->report_tries < 5 ? vm->report_tries : 5);
	vm->report_tries++;
	vm->report_wait_ms = t->now_ms + (wait_ms < RESEND_MS_MAX ? wait_ms : RESEND_MS_MAX);
}

void report_pump(struct turn *t, struct executor_vm *vm)
{
	struct report *first = TAILQ_FIRST(&vm->reports);

	if (vm->reporting || first == NULL)
		return;
	if (t->now_ms < vm->report_wait_ms) {
		turn_wake_at(t, vm, vm->report_wait_ms);
		return;
	}
	vm->reporting = true;
	turn_act(t, vm, EXECUTOR_REPORT, STOP_NONE);
	t->actions->items[t->actions->n - 1].command = &first->command;
}

void report_settle(struct turn *t, struct executor_vm *vm)
{
	if (!TAILQ_EMPTY(&vm->reports) || t->e->revision < vm->settle)
		return;
	if (vm->unsettled)
		TAILQ_REMOVE(&t->e->unsettled, vm, unsettled_entry);
	vm->unsettled = false;
	vm->ended = false;
	vm->prepared = false;
	vm->told = progress_of(&vm->desired);
}
