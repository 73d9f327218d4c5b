/* Who stands by a VM's process. One row per way of doing it; the choice is made once, when the
 * daemon opens: by looking at the host, or by the key `supervision`. Nothing else of the executor
 * knows which row it is: what runs is told by microvm-status in every case.
 *
 * Happy path: start() makes the runner run and ends the job with a look (status_begin());
 * send_signal() reaches the very process that the last look identified. How they fail: the job ends
 * with the reason, and the machine looks again.
 */
#ifndef BLIX_NODE_SUPERVISOR_H
#define BLIX_NODE_SUPERVISOR_H

#include "node/config.h"

struct job;
struct local;

struct supervisor {
	const char *name; /* "shim", "systemd": as configured and shown */
	/* Does this host have what it takes? named: the configuration asks for it. The first row
	 * that fits is taken. */
	bool (*fits)(const struct config *config, bool named);
	bool sets_up; /* the runner's tap-up and its like are ours to run: no unit does */
	/* Adds to the INTENT of a START, STOP or DELETE what it does beside the process itself
	 * (job_step()). NULL: nothing. */
	void (*announce)(struct job *job);
	/* START, after the directory and an empty console were prepared. Ends the job. */
	void (*start)(struct job *job);
	/* TERM or KILL of job->identity. Ends the job; a process that has ended is success. */
	void (*send_signal)(struct job *job, int sig);
	/* A running process was seen, perhaps one that was not started by us. NULL: nothing. */
	void (*seen)(struct local *local);
	/* TEARDOWN, where the steps are not ours: what is left of a run, seen by `booted`, goes
	 * before its end is told. NULL: nothing is left. */
	void (*teardown)(struct job *job);
	/* A VM that runs in a directory which is not ours: may it be taken over as it runs? The
	 * process is job->identity. next, with job->err. NULL: none may. */
	void (*foreign)(struct job *job, const char *name, void (*next)(struct job *job));
	/* Takes it over; the same process runs on. next, with job->err: then all is as it was. */
	void (*take_over)(struct job *job, void (*next)(struct job *job));
	/* DELETE: takes away what start left outside blix's folders. NULL: nothing. */
	void (*forget)(struct job *job, void (*next)(struct job *job));
	/* start's children only ask somebody: they may be ended, what they asked for goes on. */
	bool only_asks;
};

extern const struct supervisor supervisor_shim;
extern const struct supervisor supervisor_microvm;   /* systemd, by the host's own units */
extern const struct supervisor supervisor_transient; /* systemd, by transient units */

/* By pidfd, to the process that was identified; in every row. */
void supervisor_signal_process(struct job *job, int sig);

/* -BLIX_E_SPEC when the configuration names none, or one that this host does not have. */
int supervisor_choose(const struct config *config, const struct supervisor **ret,
                      struct blix_error *err);

#endif
