/* What one node does about its VMs, as a step machine:
 * executor_step(machine, event, now) -> actions.
 *
 * It is driven by level, not by edge: whatever happens, it compares what the log wants of a VM
 * (desired) with what was observed of it (seen) and yields the next action, one under way per VM. A
 * restarted daemon starts with nothing but those two. Reports travel in order, one under way per
 * VM, and are sent again until the log took or refused them. A VM the state does not know is never
 * touched.
 *
 * Happy path of a start: DESIRED(Scheduled) -> CREATE, report Building; DONE -> START, report
 * Starting; DONE, seen running, and still so a moment later -> report Running; READY -> report
 * Ready. A build or start that fails is reported as Retry and made again after a doubled wait; the
 * third is Failed. What waits for its secrets is told so, once, and started when they are there. A
 * runner that ends is reported as Exited: the state knows its restart policy and
 * answers with the phase that follows; only the pause before the next start is kept here.
 */
#ifndef BLIX_CORE_EXECUTOR_H
#define BLIX_CORE_EXECUTOR_H

#include "core/command.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#define EXECUTOR_TRIES         3     /* of a build, or of starting the runner at all */
#define EXECUTOR_SETTLE_MS     250   /* from its start until a process counts as running */
#define EXECUTOR_STABLE_MS     10000 /* a run this long ends a row of crashes */
#define EXECUTOR_STEP_MS       5000 /* between the steps of a stop; a booting guest misses the button */
#define EXECUTOR_BOOT_MS       2000  /* a hypervisor so young may not listen yet */
#define EXECUTOR_STRAY_MS      10000 /* grace of a process that should not be there */
#define EXECUTOR_LOOK_AGAIN_MS 5000

/* What the state says of one VM, as far as it concerns this node. */
struct executor_desired {
	uint64_t uid;
	uint64_t epoch;
	char name[LIMIT_NAME + 1];
	enum vm_phase phase;
	bool here;      /* placed on this node */
	bool elsewhere; /* placed on another */
	bool paused;    /* its CPUs are to be held while it runs */
	bool resolving; /* this node is to resolve it */
	bool held;      /* this node may keep something of it */
	bool updating;  /* this node is to resolve its next system, while it goes on */
	bool preparing; /* this node is to build that one, while it goes on */
	bool ready;
	bool secrets_given;
	uint32_t grace_ms;
	uint64_t pid;         /* as last reported */
	uint32_t crashes;     /* ends in a row */
	uint32_t retry_in_ms; /* the start after the last of them is due then */
	const char *out_path; /* the runner it should run, "" while unresolved; copied */
	/* Why it is not to be started though it is built; reason "": it may be. */
	enum blix_code wait_code;
	char wait_reason[40];
	const char *wait_message; /* NULL is ""; copied */
};

enum executor_directory { DIRECTORY_NONE, DIRECTORY_OURS, DIRECTORY_FOREIGN };
enum executor_process { PROCESS_NONE, PROCESS_RUNNING, PROCESS_UNKNOWN };

/* What was observed of one VM on this host. */
struct executor_seen {
	enum executor_directory directory;
	uint64_t epoch;     /* of the directory, when ours */
	const char *runner; /* what is built there, "" nothing; copied */
	const char *booted; /* what its process was started from, "" none; copied */
	enum executor_process process;
	bool setup;        /* something that was set up for a run is still there */
	bool step_unknown; /* Unknown since a step was cut off by a crash: message says which */
	uint64_t pid;
	uint64_t started_ms; /* wall clock */
	bool exited;         /* how the last run ended is known: exit_code, run_ms */
	int32_t exit_code;
	uint64_t run_ms;
	enum blix_code code; /* of an end that was no clean one; with reason and message */
	char reason[40];     /* "" none */
	const char *message; /* why it ended, or what is wrong with it; NULL none; copied */
};

enum executor_event_kind {
	EXECUTOR_DESIRED,   /* desired; seen when it was looked at for the first time */
	EXECUTOR_FORGOTTEN, /* uid: it no longer concerns this node */
	EXECUTOR_APPLIED,   /* revision: all DESIRED up to this revision of the state were given */
	EXECUTOR_LOOKED,    /* the host was looked at once: acting may begin */
	EXECUTOR_SEEN,      /* uid, seen */
	EXECUTOR_READY,     /* uid, ms: the guest says that it is ready */
	EXECUTOR_SECRETS,   /* uid, code: its guest has its secrets, or why not: reason, message */
	EXECUTOR_FETCHING,  /* uid: the action under way has to fetch what it is made of */
	EXECUTOR_DONE,      /* uid: the action under way ended. code and why; ms; seen if looked */
	EXECUTOR_REPORTED,  /* uid: the report under way was answered. code, revision */
	EXECUTOR_TICK       /* the time that the last step asked for has come */
};

struct executor_event {
	enum executor_event_kind kind;
	uint64_t uid;
	uint64_t revision;
	const struct executor_desired *desired;
	const struct executor_seen *seen; /* NULL: nothing new */
	enum blix_code code;
	const char *reason, *message; /* of a failure */
	bool host;                    /* it is the node's: tried until it goes away */
	bool final;                   /* another attempt would fail the same way */
	uint32_t ms;                  /* how long it took */
	const char *repaired;         /* DONE of START: what of its image was, NULL nothing */
	struct command *resolved;     /* DONE of RESOLVE: what was found; its contents are taken */
};

enum executor_action_kind {
	EXECUTOR_IDLE,
	EXECUTOR_RESOLVE,
	EXECUTOR_CREATE, /* microvm -c */
	EXECUTOR_UPDATE, /* microvm -u */
	EXECUTOR_START,
	EXECUTOR_STOP, /* stop: how */
	EXECUTOR_PAUSE,
	EXECUTOR_RESUME,
	EXECUTOR_TEARDOWN, /* what was set up around its process, which is gone */
	EXECUTOR_DELETE,
	EXECUTOR_STATUS,
	EXECUTOR_CANCEL, /* ends the build under way; its DONE still comes */
	EXECUTOR_REPORT  /* command; answered by REPORTED */
};

enum executor_stop { STOP_NONE, STOP_ASK, STOP_TERM, STOP_KILL };

struct executor_action {
	enum executor_action_kind kind;
	uint64_t uid;
	uint64_t epoch;
	char name[LIMIT_NAME + 1];
	enum executor_stop stop;
	const struct command *command; /* the machine's, until REPORTED */
};

struct executor_actions {
	struct executor_action *items;
	size_t n, size;
	uint64_t next_ms; /* when a TICK is due, 0: never */
};

struct executor_vm;
TAILQ_HEAD(executor_list, executor_vm);

struct executor {
	uint64_t node;
	unsigned builds_max;
	unsigned retry_ms;
	bool looked;
	uint64_t revision;        /* of the last APPLIED */
	unsigned builds;          /* under way */
	struct executor_vm **vms; /* by uid */
	size_t n, size;
	struct executor_list queue;     /* waiting for a place to build, in order of arrival */
	struct executor_list timed;     /* waiting for a time */
	struct executor_list unsettled; /* waiting for the state to show what was acknowledged */
};

void executor_init(struct executor *e, uint64_t node, unsigned builds_max, unsigned retry_ms);
void executor_done(struct executor *e);
/* *ret is emptied first; its items stay the caller's to free, by executor_actions_done(). */
void executor_step(struct executor *e, const struct executor_event *event, uint64_t now_ms,
                   struct executor_actions *ret);
void executor_actions_done(struct executor_actions *actions);
/* What was last seen of a VM; NULL when the machine does not know it. */
const struct executor_seen *executor_seen(const struct executor *e, uint64_t uid);

#endif
