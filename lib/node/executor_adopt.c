/* Taking over a microVM's directory that blix did not make.
 *
 * First it is only looked at (node_executor_inspect): what is there must be upstream's layout, not
 * declarative, nobody else's. It may run, if the supervisor can take over what runs as it does;
 * else what runs there has a keeper of its own, and it is refused. Then the VM enters the state as
 * the API proposes it: placed on this node, Stopped, or wanted to run. Only when its flake was
 * evaluated, and a running one was scheduled (that is, there is room for it), does the directory
 * become ours, after one INTENT for all of it: the supervisor takes over the process, then come the
 * words of `flake` kept in .blix-flake, the claim, the marker. Until then it is foreign like any
 * other: a VM whose flake turns out to be no good is deleted again without a trace in the
 * directory. Each step is found right when it was done before, so that what a crash cut off is
 * begun again from the top.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define STATUS_DEADLINE_MS 10000
#define LOOK_AGAIN_MS      1000
#define KEPT_FLAKE         ".blix-flake"

struct inspection {
	struct job *job;
	char name[LIMIT_NAME + 1];
	char *flake;
	bool runs;
	node_executor_inspected_cb cb;
	void *data;
};

static bool is_there(const char *dir, const char *file)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, file);
	struct stat st;

	return lstat(path, &st) == 0;
}

static int refuse(const char *reason, const char *hint, struct blix_error *err, const char *text)
{
	(void)blix_fail(err, BLIX_E_REFUSED, "%s", text);
	blix_reason(err, reason);
	blix_hint(err, "%s", hint);
	return -(int)BLIX_E_REFUSED;
}

/* What `microvm` would build it from; a bare path is one for Nix too. */
static int flake_read(const char *dir, char **ret, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/flake", dir);
	cleanup(buf_done) struct buf text;
	cleanup(freep) char *flake = NULL;
	size_t n;

	buf_init(&text, LIMIT_FLAKE + 2);
	if (file_read_at(AT_FDCWD, path, &text, NULL) < 0 || text.data == NULL)
		return refuse("no-flake", "only what 'microvm -c' made can be adopted", err,
		              "its file 'flake' cannot be read");
	n = strcspn(text.data, "\n");
	flake = xasprintf("%s%.*s", text.data[0] == '/' ? "path:" : "", (int)n, text.data);
	if (vm_flake_check(flake, err) < 0) {
		err->code = BLIX_E_REFUSED;
		blix_reason(err, "flake-unusable");
		return -(int)BLIX_E_REFUSED;
	}
	*ret = take(flake);
	return 0;
}

static int look(const char *dir, char **ret_flake, struct blix_error *err)
{
	if (!is_there(dir, "")) {
		(void)blix_fail(err, BLIX_E_NOTFOUND, "there is no %s on this node", dir);
		blix_reason(err, "no-directory");
		return -(int)BLIX_E_NOTFOUND;
	}
	if (is_there(dir, ".blix.json"))
		return refuse(
			"marked",
			"it belongs to a VM or a cluster of blix; docs/operations.md says how "
			"such a mark goes",
			err, "it has a mark of blix already");
	if (is_there(dir, "toplevel"))
		return refuse("declarative",
		              "remove it from the host's configuration first, and create it with "
		              "'blix vm create'",
		              err, "the host's own configuration manages it");
	if (!is_there(dir, "current"))
		return refuse("not-built", "build it with 'microvm -u' first", err,
		              "nothing is built there");
	return flake_read(dir, ret_flake, err);
}

static void inspection_end(struct job *job)
{
	struct inspection *inspection = job->inspection;
	node_executor_inspected_cb cb = inspection->cb;

	inspection->cb = NULL;
	cb(inspection->data, job->err.code == BLIX_OK ? inspection->flake : NULL, inspection->runs,
	   &job->err);
}

/* One that the end of the daemon overtook is told so. */
void inspection_free(struct inspection *inspection)
{
	struct blix_error err;

	if (inspection == NULL)
		return;
	(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the daemon is ending");
	if (inspection->cb != NULL)
		inspection->cb(inspection->data, NULL, false, &err);
	free(inspection->flake);
	free(inspection);
}

const char *adopt_name(const struct job *job)
{
	return job->inspection != NULL ? job->inspection->name : job->vm->name;
}

static int parse_status(struct job *job, const struct child_result *result, struct status *ret)
{
	if (result->out.len > 0 && !result->out.cut &&
	    status_parse(result->out.data, result->out.len, ret, &job->err) == 0)
		return 0;
	(void)blix_fail(&job->err, BLIX_E_INTERNAL, "microvm-status failed: %.400s",
	                result->err.data != NULL ? result->err.data : "");
	blix_reason(&job->err, "status-failed");
	return -BLIX_E_INTERNAL;
}

/* True when nothing runs there. Else the process is job->identity, or the job has an error. */
static bool is_stopped(struct job *job, struct child_result *result)
{
	const struct status_vm *item;
	struct status status;
	bool stopped;

	if (parse_status(job, result, &status) < 0)
		return false;
	item = status_find(&status, adopt_name(job));
	stopped = item == NULL || item->state == STATUS_STOPPED;
	if (!stopped && (item->state != STATUS_RUNNING || item->pid == 0 ||
	                 job->e->supervisor->take_over == NULL))
		(void)refuse("foreign-running",
		             "stop it as it was started (systemctl stop microvm@NAME), adopt it, "
		             "then 'blix vm start'",
		             &job->err, "it runs, under a keeper that is not blix");
	else if (!stopped)
		job->identity.pid = item->pid;
	status_done(&status);
	return stopped;
}

static void on_foreign(struct job *job)
{
	job->inspection->runs = job->err.code == BLIX_OK;
	job_end(job);
}

static void on_inspected(struct job *job, struct child_result *result)
{
	if (is_stopped(job, result) || job->err.code != BLIX_OK)
		job_end(job);
	else
		job->e->supervisor->foreign(job, adopt_name(job), on_foreign);
}

int node_executor_inspect(struct node_executor *e, const char *name, node_executor_inspected_cb cb,
                          void *data, struct blix_error *err)
{
	cleanup(freep) char *dir = host_dir(e, name);
	struct inspection *inspection;
	struct argv argv = ARGV_EMPTY;
	char *flake = NULL;
	int rc = look(dir, &flake, err);

	if (rc == 0 && e->closing)
		rc = blix_fail(err, BLIX_E_UNAVAILABLE, "the daemon is ending");
	if (rc < 0) {
		free(flake);
		return rc;
	}
	inspection = xcalloc(1, sizeof(*inspection));
	*inspection = (struct inspection){.flake = flake, .cb = cb, .data = data};
	memcpy(inspection->name, name, strlen(name) + 1);
	inspection->job = job_new(e, NULL, EXECUTOR_STATUS);
	inspection->job->own = true;
	inspection->job->end = inspection_end;
	inspection->job->inspection = inspection;
	microvm_argv_status(&e->host, name, &argv);
	job_spawn(inspection->job, &argv, STATUS_DEADLINE_MS, on_inspected);
	return 0;
}

bool adopt_is_kept(const struct node_executor *e, const char *name)
{
	cleanup(freep) char *dir = host_dir(e, name);

	return is_there(dir, KEPT_FLAKE);
}

/* The directory is still foreign, and its VM may have it now. */
static bool is_due(const struct node_executor *e, const struct vm *vm)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);

	return vm->adopt == e->config.node && vm->resolved_set &&
	       (vm->phase == VM_STOPPED || vm->phase == VM_SCHEDULED) && !host_is_claimed(e, vm) &&
	       is_there(dir, "flake") && !is_there(dir, "toplevel") && !is_there(dir, ".blix.json");
}

static int take_directory(const struct node_executor *e, const struct vm *vm,
                          struct blix_error *err)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);
	cleanup(freep) char *run = host_run_dir(e, vm->name);
	cleanup(freep) char *flake = xasprintf("%s/flake", dir);
	cleanup(freep) char *kept = xasprintf("%s/" KEPT_FLAKE, dir);
	cleanup(buf_done) struct buf text;
	int rc;

	buf_init(&text, LIMIT_FLAKE + 2);
	rc = file_read_at(AT_FDCWD, flake, &text, err);
	if (rc == 0)
		rc = file_write(kept, text.data != NULL ? text.data : "", text.len, 0644, err);
	if (rc == 0)
		rc = file_make_dirs(run, 0755, err);
	if (rc == 0)
		rc = host_claim(e, vm, err);
	return rc == 0 ? host_mark(e, vm, err) : rc;
}

/* It stays foreign: the machine is told why. */
static void tell_refused(struct local *local, const struct blix_error *err)
{
	struct sight sight = {.seen.runner = "", .seen.booted = ""};

	log_error(LOG_WARNING, "vm.adopt.failed", err, "vm=%s", local->vm->name);
	sight_take(&sight, local, NULL);
	if (sight.seen.directory == DIRECTORY_OURS) { /* only the look at it failed */
		local->unseen = true;
		local->e->look_ms = clock_boot_ms() + LOOK_AGAIN_MS;
	} else {
		sight.message = xasprintf("%s%s%s", err->text,
		                          err->hint[0] != '\0' ? "\nhint: " : "", err->hint);
		sight.seen.message = sight.message;
		sight.seen.code = err->code;
		(void)snprintf(sight.seen.reason, sizeof(sight.seen.reason), "%s",
		               blix_error_reason(err));
		local->unseen = false;
		node_executor_show(local, &sight.seen);
	}
	sight_done(&sight);
}

static void adopt_ended(struct job *job)
{
	struct local *local = job->local;

	local->adopting = false;
	if (local->gone)
		return;
	if (job->sighted) {
		look_took(local, &job->sight);
	} else if (job->host) { /* nothing can be done now: it is tried again at the next look */
		local->unseen = true;
		local->e->look_ms = clock_boot_ms() + LOOK_AGAIN_MS;
	} else {
		tell_refused(local, &job->err);
	}
	node_executor_drain(job->e);
}

/* What is wanted may be another thing by now. */
static void take_it(struct job *job)
{
	const struct local *local = job->local;

	if (job->err.code == BLIX_OK && (local->gone || !is_due(job->e, local->vm)))
		(void)refuse("adopt-moot", "", &job->err, "it is not to be adopted any more");
	if (job->err.code == BLIX_OK)
		(void)take_directory(job->e, local->vm, &job->err);
	if (job->err.code == BLIX_OK) {
		job_did(job, JOURNAL_ADOPT);
		status_begin(job);
	} else {
		job_end(job);
	}
}

static void on_due(struct job *job, struct child_result *result)
{
	if (is_stopped(job, result) || job->err.code != BLIX_OK)
		take_it(job);
	else
		job->e->supervisor->take_over(job, take_it);
}

/* Stopped: nothing runs that could be taken over. */
static void adopt_intended(struct job *job)
{
	struct argv argv = ARGV_EMPTY;

	if (job->vm->phase == VM_STOPPED) {
		take_it(job);
		return;
	}
	microvm_argv_status(&job->e->host, job->vm->name, &argv);
	job_spawn(job, &argv, STATUS_DEADLINE_MS, on_due);
}

/* Stopped: its flake was evaluated, the directory becomes the VM's, and is looked at as such.
 * Scheduled: the same, of one that may run. */
void adopt_follow(struct local *local)
{
	struct job *job;

	if (local->adopting || local->vm->adopt != local->e->config.node ||
	    !is_due(local->e, local->vm))
		return;
	local->adopting = true;
	job = job_new(local->e, local, EXECUTOR_STATUS);
	job->own = true;
	job->end = adopt_ended;
	job_step(job, JOURNAL_ADOPT, NULL);
	job_intend(job, adopt_intended);
}

int adopt_point(const struct node_executor *e, const struct vm *vm, const char *wrapper,
                struct blix_error *err)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);
	cleanup(freep) char *flake = xasprintf("%s/flake", dir);
	cleanup(freep) char *wanted = xasprintf("path:%s", wrapper);

	return vm->adopt == 0 ? 0 : file_put(flake, wanted, strlen(wanted), 0644, err);
}
