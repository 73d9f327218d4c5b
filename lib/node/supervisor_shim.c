/* The row `shim`: each VM is a child of its own blix-shim, which outlives us. Fits every host.
 *
 * START hands the runner to a new shim, which says by its exit code whether the runner came to run.
 * Signals go through a pidfd to the process that was identified, never to a bare pid; SIGKILL goes
 * to all of its control group at once, once the process was found to be in it.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "microvm/nix_error.h"
#include "sys/cgroup.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/process.h"

#include <signal.h>

#define SHIM_DEADLINE_MS 30000

static bool fits(const struct config *config, bool named)
{
	(void)named;
	(void)config;
	return true;
}

static void on_shim(struct job *job, struct child_result *result)
{
	crash_point("shim-answered");
	if (!child_ok(result)) {
		cleanup(freep) char *tail = nix_error_tail(result->err.data);
		char how[64];

		child_describe(result, how, sizeof(how));
		(void)blix_fail(&job->err, BLIX_E_START, "blix-shim %s: %s", how, tail);
		blix_reason(&job->err, "start-failed");
	}
	status_begin(job);
}

static void start(struct job *job)
{
	struct argv argv = ARGV_EMPTY;

	microvm_argv_start(&job->e->host, job->vm->name, job->vm->uid, job->vm->epoch, &argv);
	job_spawn_keeper(job, &argv, SHIM_DEADLINE_MS, on_shim);
}

/* The group below the shim's: the shim stays and tells how it ended. */
static bool kill_group(const struct job *job)
{
	cleanup(freep) char *group = host_cgroup(job->e, job->vm);
	cleanup(freep) char *inner = group != NULL ? xasprintf("%s/program", group) : NULL;

	return inner != NULL && cgroup_holds(inner, (pid_t)job->identity.pid) &&
	       cgroup_kill(inner, NULL) == 0;
}

void supervisor_signal_process(struct job *job, int sig)
{
	const struct identity *who = &job->identity;
	cleanup(closep) int fd = -1;
	int rc = process_open((pid_t)who->pid, who->start_time, who->boot_id, &fd, &job->err);

	if (rc == 0 && (sig != SIGKILL || !kill_group(job)))
		rc = process_signal(fd, sig, &job->err);
	if (rc == -BLIX_E_NOTFOUND) /* it ended meanwhile, which is what was wanted */
		job->err.code = BLIX_OK;
	job_end(job);
}

const struct supervisor supervisor_shim = {.name = "shim",
                                           .sets_up = true,
                                           .announce = setup_announce,
                                           .fits = fits,
                                           .start = start,
                                           .send_signal = supervisor_signal_process};
