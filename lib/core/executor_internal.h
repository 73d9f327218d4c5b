/* Shared by the executor machine's parts: executor.c (events and bookkeeping), executor_rule.c
 * (what to do next), executor_update.c (the next system),
 * executor_report.c (what to tell). Nobody else includes it. */
#ifndef BLIX_CORE_EXECUTOR_INTERNAL_H
#define BLIX_CORE_EXECUTOR_INTERNAL_H

#include "core/executor.h"

struct report {
	struct command command;
	TAILQ_ENTRY(report) entry;
};

TAILQ_HEAD(report_list, report);

/* How far the state was told that a VM came. */
enum progress {
	PROGRESS_UNKNOWN, /* told that it cannot be identified */
	PROGRESS_NONE,
	PROGRESS_BUILDING,
	PROGRESS_STARTING,
	PROGRESS_RUNNING,
	PROGRESS_READY
};

struct executor_vm {
	struct executor_desired desired; /* out_path and wait_message are owned */
	bool wanted;                     /* false: only waits for the end of its action */
	struct executor_seen seen;       /* runner and message are owned */

	enum executor_action_kind acting;
	bool cancelled;
	enum executor_action_kind build; /* wanted from the queue */
	bool queued, timed, unsettled;
	uint64_t timer_ms;

	unsigned tries;
	uint64_t wait_ms;    /* no action before */
	unsigned down_tries; /* of a TEARDOWN */
	bool down_late;      /* it failed too often to be waited for: made when nothing else is */
	uint64_t down_wait_ms;
	bool resting;      /* wait_ms is the pause after a crash */
	bool alive;        /* it ran in this epoch, and how that ended was not yet told */
	uint64_t alive_ms; /* now of the START that brought it up; 0: found running */
	bool was_ready;
	bool secrets_given; /* to the run that is seen */
	bool wait_told;     /* why it waits: desired.wait_reason */
	uint64_t stable_ms; /* from then on its run counts as stable */
	bool stable_told;
	uint32_t build_ms, start_ms;

	enum executor_stop stop;
	bool deaf;             /* asking it did not work */
	uint64_t stop_ms;      /* when the stop began */
	uint64_t stop_next_ms; /* when its next step is due */

	struct report_list reports;
	bool reporting; /* the first of them is under way */
	unsigned report_tries;
	unsigned update_tries; /* of the next system */
	uint64_t update_wait_ms;
	uint64_t report_wait_ms;
	enum progress told;
	bool prepared;   /* told of the next system */
	bool ended;      /* told something after which only the state says what comes next */
	uint64_t settle; /* the revision that shows what was acknowledged */
	enum vm_report_kind last_kind;
	uint64_t last_epoch, last_ms;

	TAILQ_ENTRY(executor_vm) queue_entry, timed_entry, unsettled_entry;
};

/* One step: what its parts hand to each other. */
struct turn {
	struct executor *e;
	uint64_t now_ms;
	struct executor_actions *actions;
};

/* executor.c */
void turn_act(struct turn *t, struct executor_vm *vm, enum executor_action_kind kind,
              enum executor_stop stop);
void turn_wake_at(struct turn *t, struct executor_vm *vm, uint64_t at_ms);

/* executor_rule.c */
bool rule_wants_running(const struct executor_vm *vm);
void rule_decide(struct turn *t, struct executor_vm *vm);
/* The action under way ended. */
void rule_done(struct turn *t, struct executor_vm *vm, const struct executor_event *event);
/* Gives free places to the VMs that wait to build. */
void rule_pump(struct turn *t);

/* executor_update.c: the next system, while the present one goes on */
bool update_wants_resolving(const struct executor_vm *vm);
/* What to do about it when nothing else is to be done. */
void update_decide(struct turn *t, struct executor_vm *vm);
/* The action under way was about it. */
bool update_is_build(const struct executor_vm *vm, enum executor_action_kind kind);
/* Failed: true when it will be tried again after a wait. */
bool update_retries(struct turn *t, struct executor_vm *vm, const struct executor_event *event);

/* executor_report.c */
enum progress progress_of(const struct executor_desired *desired);
void report_progress(struct turn *t, struct executor_vm *vm, enum progress progress);
void report_ready(struct turn *t, struct executor_vm *vm, uint32_t ms);
/* The runner ended by itself; failure NULL: cleanly. */
void report_exited(struct turn *t, struct executor_vm *vm, const struct executor_event *failure);
/* code BLIX_OK: its guest has them. */
void report_secrets(struct turn *t, struct executor_vm *vm, enum blix_code code, const char *reason,
                    const char *message);
/* The action under way waits for what it is made of. */
void report_fetching(struct turn *t, struct executor_vm *vm);
void report_stable(struct turn *t, struct executor_vm *vm);
/* Paused or Resumed, or why it could not be. */
void report_power(struct turn *t, struct executor_vm *vm, enum vm_report_kind kind,
                  const struct executor_event *done);
/* Ends what the machine may decide alone. False when the same was told a moment ago. */
bool report_end(struct turn *t, struct executor_vm *vm, enum vm_report_kind kind);
/* The next system is built, or (failure) cannot be. */
void report_built(struct turn *t, struct executor_vm *vm, const struct executor_event *failure);
void report_repaired(struct turn *t, struct executor_vm *vm, const char *what);
/* A step of a stop that the state asked for begins. */
void report_stop(struct turn *t, struct executor_vm *vm, enum executor_stop step);
void report_unknown(struct turn *t, struct executor_vm *vm);
/* A failed attempt: Retry with a wait, or Failed. */
void report_failure(struct turn *t, struct executor_vm *vm, const struct executor_event *failure);
void report_resolved(struct turn *t, struct executor_vm *vm, struct command *found);
void report_answered(struct turn *t, struct executor_vm *vm, enum blix_code code,
                     uint64_t revision);
/* Sends the first one, unless it is under way or has to wait. */
void report_pump(struct turn *t, struct executor_vm *vm);
/* The state shows all that was acknowledged: believe it. */
void report_settle(struct turn *t, struct executor_vm *vm);
void report_drop_all(struct turn *t, struct executor_vm *vm);

#endif
