/* The row `systemd` where the host has no units for microVMs: a transient one for each VM.
 *
 * START asks whether the name is free, starts virtiofsd in a unit of its own if the runner has one,
 * and then blix-vm-NAME.service by systemd-run: the steps up as ExecStartPre, blix-shim with the
 * runner, the steps down as ExecStopPost, which systemd runs after every end. The shim makes
 * console and exit status the same as without systemd. Nothing of it is left when it has ended.
 */
#include "node/supervisor_systemd.h"

#include "base/alloc.h"
#include "microvm/nix_error.h"

#include <string.h>
#include <unistd.h>

static void on_run(struct job *job, struct child_result *result)
{
	if (!systemd_explain(job, result, "systemd-run", "start-failed")) {
		cleanup(freep) char *console = host_console_end(job->e, job->vm->name);
		cleanup(freep) char *tail = nix_error_tail(console);

		if (tail[0] != '\0')
			(void)blix_wrap(&job->err, "%.400s", tail);
	}
	status_begin(job);
}

static void fill_run(const struct job *job, struct unit_run *run)
{
	static const struct {
		enum unit_step step;
		const char *script;
	} scripts[] = {{UNIT_TAP, "tap-up"},
	               {UNIT_MACVTAP, "macvtap-up"},
	               {UNIT_PCI, "pci-setup"},
	               {UNIT_VIRTIOFSD, "virtiofsd-run"},
	               {UNIT_SHUTDOWN, "microvm-shutdown"}};
	const struct node_executor *e = job->e;

	*run = (struct unit_run){.name = job->vm->name,
	                         .uid = job->vm->uid,
	                         .epoch = job->vm->epoch,
	                         .systemctl = e->systemctl,
	                         .rm = e->rm};
	run->accel = e->config.accel != NULL ? e->config.accel(e->config.data) : "";
	for (size_t i = 0; i < array_size(scripts); i++) {
		cleanup(freep) char *path =
			xasprintf("%s/bin/%s", job->vm->resolved.out_path, scripts[i].script);

		if (access(path, X_OK) == 0)
			run->steps |= scripts[i].step;
	}
}

static void run_vm(struct job *job)
{
	struct argv argv = ARGV_EMPTY;
	struct unit_run run;

	fill_run(job, &run);
	unit_argv_run(&job->e->host, &run, &argv);
	job_spawn(job, &argv, SYSTEMD_START_MS, on_run);
}

static void on_virtiofsd(struct job *job, struct child_result *result)
{
	if (systemd_explain(job, result, "systemd-run of virtiofsd", "virtiofsd-failed"))
		run_vm(job);
	else
		status_begin(job);
}

static bool virtiofsd_ended(struct job *job, const struct child_result *result)
{
	return result->exit_code == UNIT_NOT_LOADED ||
	       systemd_explain(job, result, "systemctl stop of virtiofsd", "teardown-failed");
}

/* Of the run before, which systemd may be ending yet, or of a start that was cut off. */
static void on_old_virtiofsd(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;
	struct unit_run run;

	if (!virtiofsd_ended(job, result)) {
		status_begin(job);
		return;
	}
	fill_run(job, &run);
	setup_remove_sockets(job);
	unit_argv_virtiofsd(&job->e->host, &run, &argv);
	job_spawn(job, &argv, SYSTEMD_START_MS, on_virtiofsd);
}

static void on_transient_unit(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;
	struct unit_state state;
	struct unit_run run;

	if (!systemd_take(job, result, UNIT_TRANSIENT, &state))
		return;
	unit_state_done(&state);
	fill_run(job, &run);
	if ((run.steps & UNIT_VIRTIOFSD) == 0) {
		run_vm(job);
		return;
	}
	unit_argv_end_virtiofsd(job->vm->name, &argv);
	job_spawn(job, &argv, SYSTEMD_START_MS, on_old_virtiofsd);
}

static void start_transient(struct job *job)
{
	systemd_ask(job, UNIT_TRANSIENT, on_transient_unit);
}

static void on_torn_down(struct job *job, struct child_result *result)
{
	if (virtiofsd_ended(job, result))
		systemd_unlink_booted(job);
	job_end(job);
}

static void on_settled(struct job *job, struct child_result *result)
{
	(void)result; /* the next look sees what is left */
	job_end(job);
}

/* The VM's unit takes down what is around it, and may be about to. Without a unit there may be a
 * virtiofsd, where a crash came between the two. */
static void on_teardown_unit(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;
	struct unit_state state;
	bool at_rest, ending;

	if (!systemd_read(job, result, &state)) {
		job_end(job);
		return;
	}
	at_rest = systemd_check(job, UNIT_TRANSIENT, &state);
	ending = strcmp(state.active, "deactivating") == 0;
	unit_state_done(&state);
	job->err.code = BLIX_OK;
	if (at_rest) {
		unit_argv_end_virtiofsd(job->vm->name, &argv);
		job_spawn(job, &argv, SYSTEMD_START_MS, on_torn_down);
	} else if (ending) {
		unit_argv_end(job->vm->name, &argv);
		job_spawn(job, &argv, SYSTEMD_START_MS, on_settled);
	} else {
		job_end(job);
	}
}

static void teardown_transient(struct job *job)
{
	systemd_ask(job, UNIT_TRANSIENT, on_teardown_unit);
}

const struct supervisor supervisor_transient = {.name = "systemd",
                                                .fits = systemd_fits,
                                                .start = start_transient,
                                                .send_signal = supervisor_signal_process,
                                                .teardown = teardown_transient,
                                                .only_asks = true};
