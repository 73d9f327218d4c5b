/* What the two rows `systemd` share: asking about a unit, explaining a failure, reloading. */
#ifndef BLIX_NODE_SUPERVISOR_SYSTEMD_H
#define BLIX_NODE_SUPERVISOR_SYSTEMD_H

#include "microvm/unit.h"
#include "node/executor_internal.h"

#define SYSTEMD_ASK_MS   10000
#define SYSTEMD_START_MS 180000 /* the host's units may take 150 s: taps, virtiofsd, the runner */

bool systemd_fits(const struct config *config, bool named);
/* Asks systemd about the VM's unit; next hands the answer to systemd_take(). */
void systemd_ask(struct job *job, enum unit_kind kind,
                 void (*next)(struct job *job, struct child_result *result));
/* What it answered: *ret is the caller's. False: job->err says why. */
bool systemd_read(struct job *job, const struct child_result *result, struct unit_state *ret);
/* It is this VM's unit, and not at work. False: job->err says why not. */
bool systemd_check(struct job *job, enum unit_kind kind, const struct unit_state *state);
/* Both. True when that unit may be started for this VM: *ret is the caller's. False: the job ends.
 */
bool systemd_take(struct job *job, struct child_result *result, enum unit_kind kind,
                  struct unit_state *ret);
/* True when it went well; else job->err is filled. */
bool systemd_explain(struct job *job, const struct child_result *result, const char *what,
                     const char *reason);
/* The link to what was booted goes last of a run. */
void systemd_unlink_booted(const struct job *job);
/* One daemon-reload serves all jobs that ask before it begins. */
void systemd_reload(struct job *job, void (*reloaded)(struct job *job));

/* supervisor_microvm.c: what blix adds to the host's own unit */
bool drop_in_is_current(const struct job *job);
int drop_in_write(struct job *job);
/* It is there and of this VM, of whatever epoch. */
bool drop_in_is_mine(const struct job *job);
void drop_in_remove(const struct job *job);

/* supervisor_take.c: see supervisor.h */
void take_foreign(struct job *job, const char *name, void (*next)(struct job *job));
void take_over(struct job *job, void (*next)(struct job *job));

#endif
