/* A change of a VM's system under way, as the state keeps it: a new lock (update), an older one
 * (rollback), or the same one rendered with other resources.
 *
 *   resolve   a node locks and evaluates what is wanted; the VM goes on as it is
 *   build     its node builds that while the VM goes on
 *   boot      the VM was told to restart; with auto_rollback the new system is on trial
 *   revert    the trial failed: the old system is on its way back
 *
 * Every step is decided by apply, deadlines by the leader's proposals: no client is needed.
 */
#ifndef BLIX_CORE_UPDATE_H
#define BLIX_CORE_UPDATE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum update_restart {
	UPDATE_RESTART_IF_NEEDED,
	UPDATE_RESTART_NOW,
	UPDATE_RESTART_NO,
	UPDATE_RESTART_COUNT
};

enum vm_update_step {
	UPDATE_IDLE,
	UPDATE_RESOLVE,
	UPDATE_BUILD,
	UPDATE_BOOT,
	UPDATE_REVERT,
	UPDATE_STEP_COUNT
};

/* What became of the last one. */
enum vm_update_outcome {
	UPDATE_NONE, /* there was none, or it is under way */
	UPDATE_UNCHANGED,
	UPDATE_UPDATED,
	UPDATE_FAILED,      /* code, reason, message; what ran before still does, if it did */
	UPDATE_ROLLED_BACK, /* code, reason, message of the trial; the old system runs again */
	UPDATE_OUTCOME_COUNT
};

#define UPDATE_STABLE_MS  10000  /* a trial without readiness: to run so long is to work */
#define UPDATE_TIMEOUT_MS 120000 /* of a trial when nothing is said */

struct vm_update {
	enum vm_update_step step;
	enum vm_update_outcome outcome;
	enum blix_code code;
	char *reason, *message;
	uint64_t operation;
	enum update_restart restart;
	bool auto_rollback;
	bool made;                     /* the target is a generation of this update's own */
	uint32_t timeout_ms, grace_ms; /* of the trial; of the guest's shutdown */
	uint64_t deadline_ms;          /* cluster clock; 0: no trial is under way */
	uint64_t target; /* in resolve: an existing generation, 0 a new lock; then what it made */
	uint64_t from;   /* the generation wanted before, 0 none */
	char *flake, *attr; /* what is being resolved */
	char *by;           /* who asked */
};

const char *update_restart_name(enum update_restart restart);
const char *vm_update_step_name(enum vm_update_step step);
const char *vm_update_outcome_name(enum vm_update_outcome outcome);

void vm_update_init(struct vm_update *update); /* strings "" */
void vm_update_done(struct vm_update *update);
void vm_update_copy(struct vm_update *to, const struct vm_update *from); /* `to` fresh */

#endif
