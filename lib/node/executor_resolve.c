/* RESOLVE: what does this flake ask for?
 *
 * nix --version (once) -> nix flake metadata, unless the reference names its contents already (then
 * what a client sent is brought: executor_source.c) -> the wrapper in the job's private directory
 * -> nix eval of the whitelist, which also writes the lock -> VM_RESOLVED with both. Each step
 * fails with what Nix said, explained.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "core/generation.h"
#include "microvm/nix_error.h"
#include "microvm/nix_json.h"
#include "microvm/wrapper.h"
#include "sys/clock.h"
#include "sys/file.h"

#define VERSION_DEADLINE_MS 30000

static bool is_old(const struct job *job)
{
	return job->e->nix_version != 0 && job->e->nix_version < NIX_VERSION_INPUTS;
}

static int read_lock(struct job *job, struct buf *lock)
{
	cleanup(freep) char *path = xasprintf("%s/flake/flake.lock", job->tmp);
	struct blix_error err;
	int rc = file_read(path, lock, &err);

	if (rc == -BLIX_E_NOTFOUND)
		return 0;
	if (rc < 0)
		return blix_fail(&job->err, BLIX_E_IMAGE, "%s", err.text);
	return 0;
}

/* Root and base are two nodes; more are the base's own inputs. */
static bool is_refused(struct job *job, const struct buf *lock)
{
	unsigned nodes = 0;

	return is_old(job) && lock->len > 0 &&
	       nix_lock_count(lock->data, lock->len, &nodes, NULL) == 0 && nodes > 2;
}

static int take_answer(struct job *job, const struct child_result *result, struct buf *lock)
{
	struct command *found = &job->found;
	struct vm_resolved resolved;
	int rc;

	if (result->out.cut)
		return blix_fail(&job->err, BLIX_E_TOOBIG, "the evaluation prints too much");
	rc = nix_resolved_parse(result->out.data, result->out.len, &resolved, &job->err);
	if (rc < 0)
		return rc;
	command_init(found, COMMAND_VM_RESOLVED);
	found->vm_resolved.uid = job->vm->uid;
	found->vm_resolved.node = job->e->config.node;
	vm_resolved_done(&found->vm_resolved.resolved);
	found->vm_resolved.resolved = resolved;
	xreplace(&found->vm_resolved.resolved.base_url, job->base_url);
	found->vm_resolved.resolve_ms = (uint32_t)(clock_boot_ms() - job->began_ms);
	(void)buf_add(&found->vm_resolved.lock, lock->data != NULL ? lock->data : "", lock->len);
	return 0;
}

static void on_eval(struct job *job, struct child_result *result)
{
	cleanup(buf_done) struct buf lock;
	bool retry = false;
	int rc;

	buf_init(&lock, LIMIT_LOCK);
	rc = read_lock(job, &lock);
	if (rc == 0 && is_refused(job, &lock)) {
		rc = nix_too_old(job->e->nix_version, &job->err);
	} else if (rc == 0 && !child_ok(result)) {
		retry = job_explain(job, result, "nix eval");
		rc = -1;
	} else if (rc == 0) {
		rc = take_answer(job, result, &lock);
	}
	if (rc < 0)
		job_fail(job, !retry);
	else
		job_end(job);
}

/* The generation that a rollback goes to; NULL: a lock is to be made. */
static const struct generation *target_of(const struct job *job)
{
	const struct vm *vm = job->vm;

	return vm->update.step == UPDATE_RESOLVE ? generation_find(vm, vm->update.target) : NULL;
}

static const char *known_lock(const struct job *job)
{
	const struct generation *target = target_of(job);
	const char *lock = NULL;

	if (target != NULL)
		lock = state_lock(job->e->config.state, target->resolved.lock);
	return lock != NULL ? lock : "";
}

static void evaluate(struct job *job)
{
	struct argv argv = ARGV_EMPTY;
	cleanup(freep) char *dir = xasprintf("%s/flake", job->tmp);
	struct vm_spec spec;
	int rc;

	update_spec(job->vm, &spec);
	rc = wrapper_write(dir, job->vm->name, &spec, job->base_url, known_lock(job), &job->err);
	vm_spec_done(&spec);
	if (rc < 0) {
		job_fail(job, job->err.code == BLIX_E_SPEC);
		return;
	}
	nix_argv_eval(dir, job->vm->name, &argv);
	job_spawn(job, &argv, job->e->config.config->build_deadline_ms, on_eval);
}

static void on_metadata(struct job *job, struct child_result *result)
{
	unsigned inputs = 0;
	int rc;

	if (!child_ok(result)) {
		bool retry = job_explain(job, result, "nix flake metadata");

		job_fail(job, !retry);
		return;
	}
	rc = nix_metadata_parse(result->out.data, result->out.len, &job->base_url, &inputs,
	                        &job->err);
	if (rc == 0 && inputs > 0 && is_old(job))
		rc = nix_too_old(job->e->nix_version, &job->err);
	if (rc < 0)
		job_fail(job, true);
	else
		evaluate(job);
}

static void lock_base(struct job *job)
{
	const struct generation *target = target_of(job);
	bool update = job->vm->update.step == UPDATE_RESOLVE;
	const char *flake = update ? job->vm->update.flake : job->vm->spec.flake;
	struct argv argv = ARGV_EMPTY;

	if (target != NULL || wrapper_url_is_locked(flake)) {
		job->base_url = xstrdup(target != NULL ? target->resolved.base_url : flake);
		source_bring(job, job->base_url, evaluate);
		return;
	}
	nix_argv_metadata(flake, update, &argv);
	job_spawn(job, &argv, job->e->config.config->build_deadline_ms, on_metadata);
}

static void on_version(struct job *job, struct child_result *result)
{
	if (child_ok(result))
		job->e->nix_version = nix_version_parse(result->out.data);
	lock_base(job);
}

void resolve_begin(struct job *job)
{
	struct argv argv = ARGV_EMPTY;

	struct vm_spec spec;
	int rc = job_make_tmp(job);

	update_spec(job->vm, &spec);
	if (rc == 0)
		rc = vm_flake_check(spec.flake, &job->err);
	vm_spec_done(&spec);
	if (rc < 0) {
		job_fail(job, job->err.code != BLIX_E_DISKFULL);
		return;
	}
	if (job->e->nix_version != 0) {
		lock_base(job);
		return;
	}
	nix_argv_version(&argv);
	job_spawn(job, &argv, VERSION_DEADLINE_MS, on_version);
}
