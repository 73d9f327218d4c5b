/* One action under way, from its first child to the machine's DONE.
 *
 * A job holds a reference to its VM as the state said when it began, so that nothing it does mixes
 * two versions. Its private directory is TMPDIR of its children and is deleted with the job.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "exec/stray.h"
#include "microvm/nix_error.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"

#include <errno.h>
#include <inttypes.h>

struct job *job_new(struct node_executor *e, struct local *local, enum executor_action_kind kind)
{
	struct job *job = xcalloc(1, sizeof(*job));

	job->e = e;
	job->kind = kind;
	job->local = local;
	job->began_ms = clock_boot_ms();
	job->tmp = xstrdup("");
	e->jobs++;
	if (local != NULL) {
		local->jobs++;
		job->vm = vm_ref(local->vm);
		job->starts = local->starts;
		job->identity = local->identity;
	}
	return job;
}

void job_free(struct job *job)
{
	struct blix_error err;

	job_settle(job);
	if (job->tmp[0] != '\0' && file_remove_tree(job->tmp, &err) < 0)
		log_error(LOG_WARNING, "executor.tmp.failed", &err, "path=%s", job->tmp);
	if (job->found.kind != 0)
		command_done(&job->found);
	sight_done(&job->sight);
	vm_unref(job->vm);
	free(job->base_url);
	free(job->image.words);
	free(job->repaired);
	inspection_free(job->inspection);
	free(job->tmp);
	free(job);
}

void job_end(struct job *job)
{
	node_executor_ended(job);
}

void job_fail(struct job *job, bool final)
{
	job->final = final;
	job_end(job);
}

int job_make_tmp(struct job *job)
{
	cleanup(freep) char *mark = NULL;
	char *path;

	if (job->tmp[0] != '\0')
		return 0;
	if (stray_name(job->e->host.state_dir, &mark, &job->err) < 0)
		return -(int)job->err.code;
	path = xasprintf("%s/%s.XXXXXX", job->e->tmp, mark);
	if (mkdtemp(path) == NULL) {
		int rc = blix_fail_sys(&job->err, errno, "make a directory in %s", job->e->tmp);

		free(path);
		return rc;
	}
	free(job->tmp);
	job->tmp = path;
	return 0;
}

static void on_child(void *data, struct child_result *result)
{
	struct job *job = data;

	job->child = NULL;
	job->next(job, result);
}

/* The VM is there; what is missing is a program of its node, which no other try will find. */
static void program_missing(struct job *job)
{
	job->err.code = job->kind == EXECUTOR_START ? BLIX_E_START : BLIX_E_IMAGE;
	blix_reason(&job->err, "program-missing");
	blix_hint(&job->err, "install it on the node, or set 'path' or 'microvm' in its "
	                     "configuration");
}

static void spawn(struct job *job, struct argv *argv, bool outlives, int input,
                  uint64_t deadline_ms, void (*next)(struct job *job, struct child_result *result))
{
	const struct node_executor *e = job->e;
	struct argv env = ARGV_EMPTY;
	struct child_options options = {.argv = argv,
	                                .env = &env,
	                                .path = e->host.path,
	                                .input = input,
	                                .deadline_ms = deadline_ms};
	bool missing;
	int rc = 0;

	if (job->cancelled)
		rc = blix_fail(&job->err, BLIX_E_REFUSED, "cancelled");
	microvm_env(&e->host, job->tmp[0] != '\0' && !outlives ? job->tmp : NULL,
	            e->config.accel != NULL ? e->config.accel(e->config.data) : "", &env);
	if (!outlives)
		stray_mark(e->host.state_dir, &env);
	job->next = next;
	if (rc == 0)
		rc = child_start(e->config.loop, &options, on_child, job, &job->child, &job->err);
	argv_done(argv);
	argv_done(&env);
	missing = rc == -BLIX_E_NOTFOUND || rc == -BLIX_E_DENIED;
	if (missing)
		program_missing(job);
	if (rc < 0)
		job_fail(job, missing);
}

void job_spawn(struct job *job, struct argv *argv, uint64_t deadline_ms,
               void (*next)(struct job *job, struct child_result *result))
{
	spawn(job, argv, false, 0, deadline_ms, next);
}

void job_spawn_input(struct job *job, struct argv *argv, int input, uint64_t deadline_ms,
                     void (*next)(struct job *job, struct child_result *result))
{
	spawn(job, argv, false, input, deadline_ms, next);
	(void)close(input);
}

void job_spawn_keeper(struct job *job, struct argv *argv, uint64_t deadline_ms,
                      void (*next)(struct job *job, struct child_result *result))
{
	spawn(job, argv, true, 0, deadline_ms, next);
}

void job_cancel(struct job *job)
{
	job->cancelled = true;
	if (job->child != NULL)
		child_cancel(job->child);
	source_cancel(job);
}

bool job_explain(struct job *job, const struct child_result *result, const char *what)
{
	const char *text = result->err.len > 0 ? result->err.data : result->out.data;
	char how[64];
	bool retry;

	child_describe(result, how, sizeof(how));
	if (result->timed_out || result->cancelled || result->signal != 0) {
		cleanup(freep) char *tail = nix_error_tail(text);

		(void)blix_fail(&job->err, BLIX_E_IMAGE, "%s %s\n%s", what, how, tail);
		blix_reason(&job->err, result->timed_out ? "build-timeout" : "build-killed");
		return true;
	}
	retry = nix_error_explain(text, &job->err);
	if (job->err.text[0] == '\0')
		(void)blix_wrap(&job->err, "%s %s without a word", what, how);
	return retry;
}
