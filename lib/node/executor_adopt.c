/* Taking over a microVM's directory that blix did not make.
 *
 * First it is only looked at (node_executor_inspect): what is there must be upstream's layout, not
 * declarative, nobody else's, and must not run, since what runs there has a keeper of its own. Then
 * the VM enters the state as the API proposes it, placed on this node and Stopped. Only when its
 * flake was evaluated does the directory become ours (adopt_take): the claim, the words of `flake`
 * kept in .blix-flake, the marker. Until then it is foreign like any other: a VM whose flake turns
 * out to be no good is deleted again without a trace in the directory.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#define STATUS_DEADLINE_MS 10000
#define KEPT_FLAKE         ".blix-flake"

struct inspection {
	struct job *job;
	char name[LIMIT_NAME + 1];
	char *flake;
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
	cb(inspection->data, job->err.code == BLIX_OK ? inspection->flake : NULL, &job->err);
}

/* One that the end of the daemon overtook is told so. */
void inspection_free(struct inspection *inspection)
{
	struct blix_error err;

	if (inspection == NULL)
		return;
	(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the daemon is ending");
	if (inspection->cb != NULL)
		inspection->cb(inspection->data, NULL, &err);
	free(inspection->flake);
	free(inspection);
}

static void on_status(struct job *job, struct child_result *result)
{
	const struct status_vm *item;
	struct status status;

	if (result->out.len == 0 || result->out.cut ||
	    status_parse(result->out.data, result->out.len, &status, &job->err) < 0) {
		(void)blix_fail(&job->err, BLIX_E_INTERNAL, "microvm-status failed: %.400s",
		                result->err.data != NULL ? result->err.data : "");
		blix_reason(&job->err, "status-failed");
		job_end(job);
		return;
	}
	job->err.code = BLIX_OK;
	item = status_find(&status, job->inspection->name);
	if (item != NULL && item->state != STATUS_STOPPED)
		(void)refuse("foreign-running",
		             "stop it as it was started (systemctl stop microvm@NAME), adopt it, "
		             "then 'blix vm start'",
		             &job->err, "it runs, under a keeper that is not blix");
	status_done(&status);
	job_end(job);
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
	job_spawn(inspection->job, &argv, STATUS_DEADLINE_MS, on_status);
	return 0;
}

bool adopt_is_due(const struct node_executor *e, const struct vm *vm)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);

	return vm->adopt == e->config.node && vm->resolved_set && !host_is_claimed(e, vm) &&
	       is_there(dir, "flake") && !is_there(dir, "toplevel") && !is_there(dir, ".blix.json");
}

int adopt_take(const struct node_executor *e, const struct vm *vm, struct blix_error *err)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);
	cleanup(freep) char *flake = xasprintf("%s/flake", dir);
	cleanup(freep) char *kept = xasprintf("%s/" KEPT_FLAKE, dir);
	cleanup(buf_done) struct buf text;
	int rc;

	buf_init(&text, LIMIT_FLAKE + 2);
	rc = file_read_at(AT_FDCWD, flake, &text, err);
	if (rc == 0)
		rc = file_put(kept, text.data != NULL ? text.data : "", text.len, 0644, err);
	if (rc == 0)
		rc = host_claim(e, vm, err);
	return rc == 0 ? host_mark(e, vm, err) : rc;
}

int adopt_point(const struct node_executor *e, const struct vm *vm, const char *wrapper,
                struct blix_error *err)
{
	cleanup(freep) char *dir = host_dir(e, vm->name);
	cleanup(freep) char *flake = xasprintf("%s/flake", dir);
	cleanup(freep) char *wanted = xasprintf("path:%s", wrapper);

	return vm->adopt == 0 ? 0 : file_put(flake, wanted, strlen(wanted), 0644, err);
}
