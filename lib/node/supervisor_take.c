/* Taking over a VM that runs as microvm@NAME.service and was not started by blix.
 *
 * The unit must be at work in that very directory, with the process that microvm-status found, and
 * nobody else's of blix. It gets the drop-in, systemd reads it again, and then the unit must still
 * be the same run (InvocationID) of the same process, with the drop-in: only now may its directory
 * become ours. If anything of that fails, the drop-in goes again and the job ends with the reason;
 * the VM runs on in either case. A crash in between leaves a drop-in of the VM's uid, which the
 * next attempt finds right, or its deletion takes away.
 */
#include "node/supervisor_systemd.h"

#include "base/alloc.h"

#include <stdio.h>
#include <sys/stat.h>

static void refuse(struct job *job, const char *reason, const char *unit, const char *what)
{
	(void)blix_fail(&job->err, BLIX_E_REFUSED, "%s %s", unit, what);
	blix_reason(&job->err, reason);
}

/* Is it the unit of this process, and free to be taken by this uid (0: by a VM to be)? */
static bool check(struct job *job, const char *name, uint64_t uid, const struct unit_state *state)
{
	cleanup(freep) char *unit = unit_name(UNIT_HOST, name);
	cleanup(freep) char *dir = host_dir(job->e, name);
	struct stat a, b;
	bool other = false;

	(void)unit_is_of(state, uid, &other);
	if (strcmp(state->active, "active") != 0 || strcmp(state->sub, "running") != 0 ||
	    state->main_pid != job->identity.pid || state->invocation[0] == '\0') {
		refuse(job, "foreign-running", unit, "does not run it: it runs by another hand");
		blix_hint(&job->err, "stop it as it was started, adopt it, then 'blix vm start'");
	} else if (other || stat(dir, &a) < 0 || stat(state->directory, &b) < 0 ||
	           a.st_dev != b.st_dev || a.st_ino != b.st_ino) {
		refuse(job, "foreign-unit", unit, "is not of this VM");
		blix_hint(&job->err, "systemctl cat %s", unit);
	}
	return job->err.code == BLIX_OK;
}

static bool take_answer(struct job *job, const char *name, const struct child_result *result,
                        struct unit_state *ret)
{
	if (!systemd_read(job, result, ret))
		return false;
	if (check(job, name, job->vm != NULL ? job->vm->uid : 0, ret))
		return true;
	unit_state_done(ret);
	return false;
}

static void ask(struct job *job, const char *name,
                void (*next)(struct job *job, struct child_result *result))
{
	struct argv argv = ARGV_EMPTY;

	unit_argv_show(UNIT_HOST, name, &argv);
	job_spawn(job, &argv, SYSTEMD_ASK_MS, next);
}

static void on_foreign(struct job *job, struct child_result *result)
{
	struct unit_state state;

	if (take_answer(job, adopt_name(job), result, &state))
		unit_state_done(&state);
	job->taken(job);
}

void take_foreign(struct job *job, const char *name, void (*next)(struct job *job))
{
	job->taken = next;
	ask(job, name, on_foreign);
}

static void on_undone(struct job *job)
{
	job->err = job->kept;
	job->taken(job);
}

/* Restart= is the host's again. */
static void undo(struct job *job)
{
	job->kept = job->err;
	drop_in_remove(job);
	systemd_reload(job, on_undone);
}

static void on_confirmed(struct job *job, struct child_result *result)
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	cleanup(freep) char *unit = unit_name(UNIT_HOST, job->vm->name);
	struct unit_state state;

	if (take_answer(job, job->vm->name, result, &state)) {
		if (strcmp(state.invocation, job->invocation) != 0)
			refuse(job, "foreign-running", unit, "was started anew meanwhile");
		else if (state.stale || strstr(state.drop_ins, path) == NULL)
			refuse(job, "drop-in-ignored", unit, "does not get its drop-in");
		unit_state_done(&state);
	}
	if (job->err.code != BLIX_OK)
		undo(job);
	else
		job->taken(job);
}

static void on_reloaded(struct job *job)
{
	if (job->err.code != BLIX_OK)
		undo(job);
	else
		ask(job, job->vm->name, on_confirmed);
}

static void on_found(struct job *job, struct child_result *result)
{
	struct unit_state state;

	if (!take_answer(job, job->vm->name, result, &state)) {
		job->taken(job);
		return;
	}
	(void)snprintf(job->invocation, sizeof(job->invocation), "%s", state.invocation);
	unit_state_done(&state);
	if (!drop_in_is_current(job) && drop_in_write(job) < 0)
		undo(job);
	else
		systemd_reload(job, on_reloaded);
}

void take_over(struct job *job, void (*next)(struct job *job))
{
	job->taken = next;
	ask(job, job->vm->name, on_found);
}
