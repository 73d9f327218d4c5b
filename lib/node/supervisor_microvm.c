/* The row `systemd` where the host has microvm@.service, as the NixOS module of microvm.nix makes
 * it.
 *
 * START asks whether the unit is this VM's, writes a drop-in under SYSTEMD_DIR, makes sure that
 * systemd has read it, and starts the unit, which does the steps of the runner's contract; the
 * unit's ExecStart stays what it is. The drop-in says: no Restart, since blix restarts; the end to
 * RUN/exit.json, since systemd forgets a unit that ended well; its standard streams are a terminal.
 * That one is held by a unit of ours beside it, microvm-blix-console@NAME (blix-shim --hold), so
 * console, its size and its readers are the same as with a shim, and need no daemon. An unloaded
 * unit gets its drop-in without a daemon-reload. DELETE takes the drop-in away. Both are in the
 * INTENT of their action; a drop-in for a unit that somebody else started has one of its own.
 */
#include "node/supervisor_systemd.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "sys/file.h"
#include "sys/log.h"

#include <unistd.h>

static bool find_unit_file(const struct config *config)
{
	const char *const dirs[] = {config->systemd_dir, "/etc/systemd/system",
	                            "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
	                            "/lib/systemd/system"};

	for (size_t i = 0; i < array_size(dirs); i++) {
		cleanup(freep) char *path = xasprintf("%s/microvm@.service", dirs[i]);

		if (access(path, F_OK) == 0)
			return true;
	}
	return false;
}

static bool fits_microvm(const struct config *config, bool named)
{
	return systemd_fits(config, named) && find_unit_file(config);
}

/* Fails the job with a look at what is there, since something was begun. */
static void refuse(struct job *job, const char *reason)
{
	blix_reason(&job->err, reason);
	status_begin(job);
}

static char *drop_in_text(const struct job *job)
{
	const struct node_executor *e = job->e;
	const char *accel = e->config.accel != NULL ? e->config.accel(e->config.data) : "";

	return unit_drop_in(&e->host, job->vm->name, job->vm->uid, job->vm->epoch, accel,
	                    e->systemctl);
}

static bool file_says(const char *path, const char *text)
{
	cleanup(buf_done) struct buf is;

	buf_init(&is, LIMIT_FILE);
	return file_read(path, &is, NULL) == 0 && is.data != NULL && strcmp(is.data, text) == 0;
}

static int console_unit_write(struct job *job)
{
	cleanup(freep) char *path = unit_console_path(&job->e->host);
	cleanup(freep) char *text = unit_console(&job->e->host);

	if (file_says(path, text))
		return 0;
	return file_put(path, text, strlen(text), 0644, &job->err);
}

bool drop_in_is_current(const struct job *job)
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	cleanup(freep) char *text = drop_in_text(job);

	cleanup(freep) char *console_path = unit_console_path(&job->e->host);
	cleanup(freep) char *console = unit_console(&job->e->host);

	return file_says(path, text) && file_says(console_path, console);
}

/* Until the console's unit stands there: systemd opens it for each line of the drop-in. */
static int terminal_make(struct job *job)
{
	cleanup(freep) char *run = host_run_dir(job->e, job->vm->name);
	cleanup(freep) char *path = xasprintf("%s/terminal", run);
	int rc = file_make_dirs(run, 0755, &job->err);

	return rc == 0 && !file_exists(path) ? file_link("/dev/null", path, &job->err) : rc;
}

int drop_in_write(struct job *job)
{
	cleanup(freep) char *dir = unit_drop_in_dir(&job->e->host, job->vm->name);
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	cleanup(freep) char *text = drop_in_text(job);
	int rc = file_make_dirs(dir, 0755, &job->err);

	if (rc == 0)
		rc = console_unit_write(job);
	if (rc == 0)
		rc = terminal_make(job);
	if (rc == 0)
		rc = file_put(path, text, strlen(text), 0644, &job->err);
	if (rc < 0)
		blix_reason(&job->err, "drop-in-failed");
	else
		job_did(job, JOURNAL_DROP_IN);
	return rc;
}

bool drop_in_is_mine(const struct job *job)
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	cleanup(freep) char *owner = xasprintf("=BLIX_UID=%ju ", (uintmax_t)job->vm->uid);
	cleanup(buf_done) struct buf is;

	buf_init(&is, LIMIT_FILE);
	return file_read(path, &is, NULL) == 0 && is.data != NULL && strstr(is.data, owner) != NULL;
}

/* With what drop_in_write() made beside it, where nothing else is there. */
void drop_in_remove(const struct job *job)
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	cleanup(freep) char *dir = unit_drop_in_dir(&job->e->host, job->vm->name);
	cleanup(freep) char *run = host_run_dir(job->e, job->vm->name);
	cleanup(freep) char *terminal = xasprintf("%s/terminal", run);

	(void)unlink(path);
	(void)rmdir(dir);
	(void)unlink(terminal);
	(void)rmdir(run);
	job_did(job, JOURNAL_UNIT);
}

static void announce_drop_in(struct job *job)
{
	cleanup(freep) char *text = drop_in_text(job);

	job_step(job, JOURNAL_DROP_IN, text);
}

static void announce_microvm(struct job *job)
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	bool there = file_exists(path);

	if (job->kind == EXECUTOR_DELETE && there)
		job_step(job, JOURNAL_UNIT, NULL);
	else if (job->kind == EXECUTOR_START ? !drop_in_is_current(job)
	                                     : job->kind == EXECUTOR_STOP && !there)
		announce_drop_in(job);
}

/* What the host's units make themselves, and what the run before left on record. */
static int clear_run(struct job *job)
{
	static const char *const files[] = {"exit.json", "status.json"};
	cleanup(freep) char *run = host_run_dir(job->e, job->vm->name);

	systemd_unlink_booted(job);
	for (size_t i = 0; i < array_size(files); i++) {
		cleanup(freep) char *path = xasprintf("%s/%s", run, files[i]);

		(void)unlink(path);
	}
	return file_make_dirs(run, 0755, &job->err);
}

static void on_started(struct job *job, struct child_result *result)
{
	cleanup(freep) char *unit = unit_name(UNIT_HOST, job->vm->name);

	if (!systemd_explain(job, result, "systemctl start", "start-failed"))
		blix_hint(&job->err, "journalctl -u %s", unit);
	status_begin(job);
}

/* Nothing of the run before is left: taps, virtiofsd, the link to what was booted. */
static void on_stopped(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;

	if (!systemd_explain(job, result, "systemctl stop", "systemd-failed")) {
		job_end(job);
	} else if (clear_run(job) < 0) {
		job_fail(job, false);
	} else {
		unit_argv_start(UNIT_HOST, job->vm->name, &argv);
		job_spawn(job, &argv, SYSTEMD_START_MS, on_started);
	}
}

static void on_microvm_unit(struct job *job, struct child_result *result);

static void on_reloaded(struct job *job)
{
	if (job->err.code != BLIX_OK)
		job_end(job);
	else
		systemd_ask(job, UNIT_HOST, on_microvm_unit);
}

static void on_microvm_unit(struct job *job, struct child_result *result)
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	struct argv argv = ARGV_EMPTY;
	struct unit_state state;
	bool fresh;

	if (!systemd_take(job, result, UNIT_HOST, &state))
		return;
	fresh = !state.stale && strstr(state.drop_ins, path) != NULL;
	unit_state_done(&state);
	if (!drop_in_is_current(job)) { /* only now is it known that the unit is of this VM */
		if (drop_in_write(job) < 0)
			job_fail(job, false);
		else
			systemd_ask(job, UNIT_HOST, on_microvm_unit);
	} else if (fresh) {
		unit_argv_stop(job->vm->name, &argv);
		job_spawn(job, &argv, SYSTEMD_START_MS, on_stopped);
	} else if (job->reloaded == NULL) {
		systemd_reload(job, on_reloaded);
	} else {
		(void)blix_fail(&job->err, BLIX_E_START, "systemd does not take %s", path);
		refuse(job, "drop-in-ignored");
	}
}

static void on_torn_down(struct job *job, struct child_result *result)
{
	if (systemd_explain(job, result, "systemctl stop", "teardown-failed"))
		systemd_unlink_booted(job);
	job_end(job);
}

/* Somebody else's unit, or one at work again, is not stopped. */
static void on_teardown_unit(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;
	struct unit_state state;
	bool mine, busy;

	if (!systemd_read(job, result, &state)) {
		job_end(job);
		return;
	}
	mine = systemd_check(job, UNIT_HOST, &state);
	busy = unit_is_at_work(&state);
	unit_state_done(&state);
	if (mine) {
		unit_argv_stop(job->vm->name, &argv);
		job_spawn(job, &argv, SYSTEMD_START_MS, on_torn_down);
		return;
	}
	job->err.code = BLIX_OK;
	if (!busy)
		systemd_unlink_booted(job);
	job_end(job);
}

/* The runner has ended; systemd takes down taps and virtiofsd only then. */
static void teardown_microvm(struct job *job)
{
	systemd_ask(job, UNIT_HOST, on_teardown_unit);
}

static void start_microvm(struct job *job)
{
	systemd_ask(job, UNIT_HOST, on_microvm_unit);
}

static void end_heal(struct job *job)
{
	if (job->err.code != BLIX_OK)
		log_error(LOG_WARNING, "vm.unit.failed", &job->err, "vm=%s", job->vm->name);
}

static void heal_intended(struct job *job)
{
	if (drop_in_write(job) < 0)
		job_end(job);
	else
		systemd_reload(job, job_end);
}

/* One that was started without us has no drop-in yet: its end would be followed by a restart. */
static void seen_microvm(struct local *local)
{
	cleanup(freep) char *path = unit_drop_in_path(&local->e->host, local->vm->name);
	struct job *job;

	if (file_exists(path))
		return;
	job = job_new(local->e, local, EXECUTOR_STATUS);
	job->own = true;
	job->end = end_heal;
	announce_drop_in(job);
	job_intend(job, heal_intended);
}

static void signal_now(struct job *job)
{
	if (job->err.code != BLIX_OK)
		job_end(job);
	else
		supervisor_signal_process(job, job->signal);
}

/* Not before systemd has read the drop-in: it would start the VM again. */
static void signal_microvm(struct job *job, int sig)
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);

	bool missing = !file_exists(path);

	job->signal = sig;
	if (missing && drop_in_write(job) < 0)
		job_end(job);
	else if (missing || job->e->reload != NULL)
		systemd_reload(job, signal_now);
	else
		signal_now(job);
}

static void on_forgotten(struct job *job, struct child_result *result)
{
	(void)result; /* it fails when there is nothing to forget */
	job->forgotten(job);
}

static void on_down(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;

	if (!systemd_explain(job, result, "systemctl stop", "systemd-failed")) {
		job_end(job);
		return;
	}
	drop_in_remove(job);
	unit_argv_forget(job->vm->name, &argv);
	job_spawn(job, &argv, SYSTEMD_ASK_MS, on_forgotten);
}

static void on_let_go(struct job *job)
{
	if (job->err.code != BLIX_OK)
		job_end(job);
	else
		job->forgotten(job);
}

/* Without a drop-in the unit was never ours. What runs in a directory that is not ours, since it
 * was never taken over, gets back what the drop-in took away, and runs on. */
static void forget_microvm(struct job *job, void (*next)(struct job *job))
{
	cleanup(freep) char *path = unit_drop_in_path(&job->e->host, job->vm->name);
	struct argv argv = ARGV_EMPTY;
	uint64_t epoch;
	bool foreign = host_owner(job->e, job->vm, &epoch) == DIRECTORY_FOREIGN;

	if (!file_exists(path) || (foreign && !drop_in_is_mine(job))) {
		next(job);
		return;
	}
	job->forgotten = next;
	if (foreign) {
		drop_in_remove(job);
		systemd_reload(job, on_let_go);
		return;
	}
	unit_argv_stop(job->vm->name, &argv);
	job_spawn(job, &argv, SYSTEMD_START_MS, on_down);
}

const struct supervisor supervisor_microvm = {.name = "systemd",
                                              .fits = fits_microvm,
                                              .announce = announce_microvm,
                                              .start = start_microvm,
                                              .send_signal = signal_microvm,
                                              .only_asks = true,
                                              .seen = seen_microvm,
                                              .teardown = teardown_microvm,
                                              .foreign = take_foreign,
                                              .take_over = take_over,
                                              .forget = forget_microvm};
