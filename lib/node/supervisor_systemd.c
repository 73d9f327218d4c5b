/* The two rows `systemd`. The unit outlives us, so a VM is never in the daemon's control group.
 *
 *   microvm    the host has microvm@.service (NixOS): its unit starts the VM and does the steps of
 *              the runner's contract. blix adds a drop-in: no Restart of systemd's own, the
 *              console in a file, the end on record.
 *   transient  elsewhere: blix-vm-NAME.service by systemd-run, with the steps as ExecStartPre and
 *              ExecStopPost, and blix-shim inside, so that console and exit status are the same as
 *              without systemd.
 *
 * START: systemd is asked what stands there under that name; a unit that is at work, or that is
 * not this VM's, is left alone and the start fails. Signals go to the process that was identified,
 * by pidfd, in both rows: with Restart=no its end is the end of the unit.
 */
#include "node/supervisor_systemd.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <sys/stat.h>
#include <unistd.h>

bool systemd_fits(const struct config *config, bool named)
{
	const char *const paths[] = {config->state_dir, config->run_dir, config->microvms_dir,
	                             config->libexec_dir, config->systemd_dir};
	cleanup(freep) char *systemctl = NULL;

	if (!file_exists(config->systemd_dir) ||
	    program_find("systemctl", config->path, &systemctl, NULL) < 0)
		return false;
	for (size_t i = 0; i < array_size(paths); i++) {
		if (!unit_path_is_plain(paths[i]))
			return false;
	}
	/* Daemons of a test or a user share one systemd: only the host's own takes it unasked. */
	return named || (geteuid() == 0 && !config->dev &&
	                 strcmp(config->microvms_dir, CONFIG_MICROVMS_DIR) == 0);
}

bool systemd_explain(struct job *job, const struct child_result *result, const char *what,
                     const char *reason)
{
	cleanup(freep) char *tail = NULL;
	char how[64];

	if (child_ok(result))
		return true;
	tail = xstrdup(result->err.data != NULL ? result->err.data : "");
	tail[strcspn(tail, "\n")] = '\0';
	child_describe(result, how, sizeof(how));
	(void)blix_fail(&job->err, BLIX_E_START, "%s %s%s%.400s", what, how,
	                tail[0] != '\0' ? ": " : "", tail);
	blix_reason(&job->err, result->timed_out ? "systemd-silent" : reason);
	return false;
}

bool systemd_check(struct job *job, enum unit_kind kind, const struct unit_state *state)
{
	cleanup(freep) char *unit = unit_name(kind, job->vm->name);
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);
	struct stat a, b;
	bool other;
	bool mine = unit_is_of(state, job->vm->uid, &other);

	if (strcmp(state->load, "loaded") != 0) {
		if (kind == UNIT_TRANSIENT && strcmp(state->load, "not-found") == 0)
			return true;
		(void)blix_fail(&job->err, BLIX_E_START, "%s is %.40s", unit, state->load);
		blix_reason(&job->err, "unit-missing");
		return false;
	}
	if (other || (kind == UNIT_TRANSIENT && !mine) || stat(dir, &a) < 0 ||
	    stat(state->directory, &b) < 0 || a.st_dev != b.st_dev || a.st_ino != b.st_ino) {
		(void)blix_fail(&job->err, BLIX_E_START, "%s is not of this VM", unit);
		blix_hint(&job->err, "systemctl cat %s", unit);
		blix_reason(&job->err, "foreign-unit");
		return false;
	}
	if (unit_is_at_work(state)) {
		(void)blix_fail(&job->err, BLIX_E_START, "%s is %s already", unit, state->active);
		blix_reason(&job->err, "unit-busy");
		return false;
	}
	return true;
}

bool systemd_read(struct job *job, const struct child_result *result, struct unit_state *ret)
{
	if (!systemd_explain(job, result, "systemctl show", "systemd-failed"))
		return false;
	if (unit_parse(result->out.data != NULL ? result->out.data : "", result->out.len, ret,
	               &job->err) == 0)
		return true;
	job->err.code = BLIX_E_START;
	blix_reason(&job->err, "systemd-garbled");
	return false;
}

bool systemd_take(struct job *job, struct child_result *result, enum unit_kind kind,
                  struct unit_state *ret)
{
	if (!systemd_read(job, result, ret)) {
		job_end(job);
		return false;
	}
	if (systemd_check(job, kind, ret))
		return true;
	unit_state_done(ret);
	status_begin(job);
	return false;
}

void systemd_unlink_booted(const struct job *job)
{
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);
	cleanup(freep) char *booted = xasprintf("%s/booted", dir);

	(void)unlink(booted);
}

void systemd_ask(struct job *job, enum unit_kind kind,
                 void (*next)(struct job *job, struct child_result *result))
{
	struct argv argv = ARGV_EMPTY;

	unit_argv_show(kind, job->vm->name, &argv);
	job_spawn(job, &argv, SYSTEMD_ASK_MS, next);
}

/* One `daemon-reload` serves all jobs that wrote their files before it began. */
static void reload_pump(struct node_executor *e);

static void on_reload(void *data, struct child_result *result)
{
	struct node_executor *e = data;
	struct job *job;

	e->reload = NULL;
	while ((job = TAILQ_FIRST(&e->reload_served)) != NULL) {
		TAILQ_REMOVE(&e->reload_served, job, entry);
		(void)systemd_explain(job, result, "systemctl daemon-reload", "systemd-failed");
		job->reloaded(job);
	}
	reload_pump(e);
}

static void reload_pump(struct node_executor *e)
{
	struct argv argv = ARGV_EMPTY, env = ARGV_EMPTY;
	struct child_options options = {
		.argv = &argv, .env = &env, .path = e->host.path, .deadline_ms = SYSTEMD_START_MS};
	struct blix_error err;
	struct job *job;

	if (e->reload != NULL || TAILQ_EMPTY(&e->reload_waiting))
		return;
	TAILQ_CONCAT(&e->reload_served, &e->reload_waiting, entry);
	unit_argv_reload(&argv);
	microvm_env(&e->host, NULL, "", &env);
	if (child_start(e->config.loop, &options, on_reload, e, &e->reload, &err) < 0) {
		e->reload = NULL;
		while ((job = TAILQ_FIRST(&e->reload_served)) != NULL) {
			TAILQ_REMOVE(&e->reload_served, job, entry);
			job->err = err;
			blix_reason(&job->err, "program-missing");
			job->reloaded(job);
		}
	}
	argv_done(&argv);
	argv_done(&env);
}

void systemd_reload(struct job *job, void (*reloaded)(struct job *job))
{
	job->reloaded = reloaded;
	TAILQ_INSERT_TAIL(&job->e->reload_waiting, job, entry);
	reload_pump(job->e);
}
