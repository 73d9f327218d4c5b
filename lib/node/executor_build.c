/* CREATE and UPDATE: the base is there (executor_source.c), the wrapper flake is rendered, `microvm
 * -c` or `-u` builds it.
 *
 * Whether it worked is told by nothing but the `current` link: the command's exit code and words
 * are only the explanation when the link is not what was resolved.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "microvm/wrapper.h"
#include "sys/crash.h"
#include "sys/file.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#define STORE "path:/nix/store/"

static int read_current(const struct job *job, char *out, size_t n)
{
	cleanup(freep) char *link =
		xasprintf("%s/%s/current", job->e->host.microvms_dir, job->vm->name);

	return file_read_link(link, out, n, NULL);
}

/* What runs meanwhile is looked at again; where nothing does there is nothing to ask. */
static void end_build(struct job *job, bool final)
{
	job->final = final;
	if (job->vm->pid != 0 || watch_exists(job->local)) {
		status_begin(job);
		return;
	}
	job->sighted = true;
	sight_take(&job->sight, job->local, NULL);
	job_end(job);
}

static void on_built(struct job *job, struct child_result *result)
{
	const char *out_path = job->vm->resolved.out_path;
	char current[PATH_MAX] = "";
	bool retry = true;
	uint64_t epoch;

	crash_point("microvm-ended");
	(void)read_current(job, current, sizeof(current));
	/* Marks a directory that was just made, also one that failed half-way. */
	(void)host_owner(job->e, job->vm, &epoch);
	if (strcmp(current, out_path) == 0) {
		end_build(job, false);
		return;
	}
	if (child_ok(result)) {
		(void)blix_fail(&job->err, BLIX_E_IMAGE, "microvm built %s instead of %s",
		                current[0] != '\0' ? current : "nothing", out_path);
		blix_reason(&job->err, "runner-mismatch");
		blix_hint(&job->err, "the node's Nix evaluates the flake differently");
	} else {
		retry = job_explain(job, result, "microvm");
	}
	end_build(job, !retry);
}

/* A directory of ours that holds nothing: the remains of a create that was killed. */
static int clear_directory(struct job *job)
{
	static const char *const files[] = {".blix.json", "flake", "current"};
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);

	for (size_t i = 0; i < array_size(files); i++) {
		cleanup(freep) char *path = xasprintf("%s/%s", dir, files[i]);

		(void)unlink(path);
	}
	if (rmdir(dir) < 0)
		return blix_fail_sys(&job->err, errno, "%s was left by an earlier attempt", dir);
	return 0;
}

/* Says whether there is something to update (1) or to create (0). */
static int check_directory(struct job *job)
{
	char current[PATH_MAX];
	uint64_t epoch;

	switch (host_owner(job->e, job->vm, &epoch)) {
	case DIRECTORY_FOREIGN:
		(void)blix_fail(&job->err, BLIX_E_EXISTS,
		                "a microVM '%s' that blix did not make is on the node",
		                job->vm->name);
		blix_reason(&job->err, "foreign-directory");
		blix_hint(&job->err, "choose another name, or move %s/%s away",
		          job->e->host.microvms_dir, job->vm->name);
		return -BLIX_E_EXISTS;
	case DIRECTORY_OURS:
		if (read_current(job, current, sizeof(current)) == 0)
			return 1;
		break;
	case DIRECTORY_NONE:
		break;
	}
	return 0;
}

/* Nothing else keeps a local base from Nix's garbage collection. */
static int root_base(struct job *job)
{
	const char *url = job->vm->resolved.base_url;
	cleanup(freep) char *target = NULL;
	cleanup(freep) char *link = host_gcroot(job->e, "source-", job->vm->name);
	int rc;

	if (strncmp(url, STORE, strlen(STORE)) != 0)
		return 0;
	url += strlen("path:");
	target = xstrndup(url, strcspn(url, "?"));
	rc = file_make_dirs(job->e->host.gcroots_dir, 0755, &job->err);
	return rc == 0 ? file_link(target, link, &job->err) : rc;
}

static int render(struct job *job, const char *dir)
{
	const struct vm *vm = job->vm;
	const char *lock = state_lock(job->e->config.state, vm->resolved.lock);

	return wrapper_write(dir, vm->name, &vm->spec, vm->resolved.base_url,
	                     lock != NULL ? lock : "", &job->err);
}

int build_render(struct job *job)
{
	cleanup(freep) char *own = host_own_dir(job->e, job->vm->name);
	cleanup(freep) char *flake = xasprintf("%s/flake", own);

	return render(job, flake);
}

static int prepare(struct job *job, bool update, const char *flake)
{
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);
	int rc = host_claim(job->e, job->vm, &job->err);

	if (rc == 0)
		job_did(job, JOURNAL_CLAIM);
	if (rc == 0 && !update && file_exists(dir))
		rc = clear_directory(job);
	if (rc == 0)
		rc = root_base(job);
	if (rc == 0)
		rc = render(job, flake);
	if (rc == 0 && update)
		rc = adopt_point(job->e, job->vm, flake, &job->err);
	if (rc == 0)
		job_did(job, JOURNAL_WRAPPER);
	/* Before the build, since nobody would miss them after it: a root may lead to nothing yet.
	 */
	if (rc == 0)
		generation_keep(job);
	return rc == 0 ? job_make_tmp(job) : rc;
}

static void build_intended(struct job *job)
{
	struct node_executor *e = job->e;
	struct argv argv = ARGV_EMPTY;
	cleanup(freep) char *own = host_own_dir(e, job->vm->name);
	cleanup(freep) char *flake = xasprintf("%s/flake", own);
	int update = check_directory(job);
	int rc = update < 0 ? update : prepare(job, update > 0, flake);

	if (rc < 0) {
		job_fail(job, rc == -BLIX_E_EXISTS || rc == -BLIX_E_SPEC);
		return;
	}
	if (update > 0)
		microvm_argv_update(&e->host, job->vm->name, &argv);
	else
		microvm_argv_create(&e->host, flake, job->vm->name, &argv);
	job_spawn(job, &argv, e->config.config->build_deadline_ms, on_built);
}

static void build_brought(struct job *job)
{
	int update = check_directory(job);

	if (update < 0) {
		job_fail(job, update == -BLIX_E_EXISTS);
		return;
	}
	job_step(job, JOURNAL_CLAIM, NULL);
	job_step(job, JOURNAL_WRAPPER, NULL);
	job_step(job, update > 0 ? JOURNAL_UPDATE : JOURNAL_CREATE, job->vm->resolved.out_path);
	job_intend(job, build_intended);
}

void build_begin(struct job *job)
{
	source_bring(job, job->vm->resolved.base_url, build_brought);
}
