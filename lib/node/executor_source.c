/* A packed flake, brought into Nix's store of this host.
 *
 * Happy path: the base is one that a client sent (its reference is a store path with the hash of
 * its contents) and Nix does not have it; the file comes from this node or another server
 * (node/sources.h); `nix-store --restore` unpacks it into the job's private directory, `nix-store
 * --add` gives it the very path that the reference names, and the unpacked copy goes. Any other
 * base, and one that Nix has, costs nothing more than the question; what was there once is asked of
 * the disk alone.
 *
 * Nothing of it needs an INTENT: the private directory goes with the daemon's next start, and what
 * a crash leaves in the store Nix itself does not count as there. It fails with source-missing,
 * source-corrupt, fetch-failed or disk-full, or source-import-failed and Nix's words.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "node/sources.h"
#include "sys/crash.h"
#include "sys/file.h"

#include <stdio.h>

#define CHECK_DEADLINE_MS 60000

static void bring_done(struct job *job)
{
	struct node_executor *e = job->e;

	e->brought[e->n_brought++ % EXECUTOR_BROUGHT] = job->source.name;
	job->source.then(job);
}

static bool was_brought(const struct node_executor *e, const struct source_name *name)
{
	for (size_t i = 0; i < EXECUTOR_BROUGHT && i < e->n_brought; i++) {
		if (source_same(&e->brought[i], name))
			return true;
	}
	return false;
}

static void on_removed(struct job *job, struct child_result *result)
{
	(void)result; /* what is left goes with the job */
	bring_done(job);
}

static void import_failed(struct job *job, const struct child_result *result, const char *what)
{
	bool retry = job_explain(job, result, what);

	if (job->err.code == BLIX_E_IMAGE) {
		blix_reason(&job->err, "source-import-failed");
		blix_hint(&job->err, "the node's Nix does not take the source: see its log");
	}
	job_fail(job, !retry);
}

/* Was it given the path that its reference names? */
static bool is_path(const struct child_result *result, const char *path)
{
	size_t n = strlen(path);

	return result->out.len >= n && strncmp(result->out.data, path, n) == 0 &&
	       (result->out.data[n] == '\n' || result->out.data[n] == '\0');
}

static void on_added(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;
	char path[SOURCE_STORE];

	crash_point("source-added");
	source_store_path(&job->source.name, path);
	if (!child_ok(result)) {
		import_failed(job, result, "nix-store --add");
		return;
	}
	if (!is_path(result, path)) {
		(void)blix_fail(&job->err, BLIX_E_IMAGE, "Nix gave the source another path than %s",
		                path);
		blix_reason(&job->err, "source-import-failed");
		blix_hint(&job->err, "is the node's store /nix/store?");
		job_fail(job, true);
		return;
	}
	/* By a child: it may be a hundred thousand files. */
	argv_push(&argv, "rm");
	argv_push(&argv, "-rf");
	argv_pushf(&argv, "%s/source", job->tmp);
	job_spawn(job, &argv, job->e->config.config->build_deadline_ms, on_removed);
}

static void on_restored(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;

	crash_point("source-restored");
	if (!child_ok(result)) {
		import_failed(job, result, "nix-store --restore");
		return;
	}
	argv_push(&argv, "nix-store");
	argv_push(&argv, "--add");
	argv_pushf(&argv, "%s/source", job->tmp);
	job_spawn(job, &argv, job->e->config.config->build_deadline_ms, on_added);
}

static void on_source(void *data, int fd, uint64_t size, const struct blix_error *err)
{
	struct job *job = data;
	struct argv argv = ARGV_EMPTY;

	(void)size;
	job->source.wait = NULL;
	if (err != NULL) {
		bool lost = err->code == BLIX_E_NOTFOUND || err->code == BLIX_E_CORRUPT;

		job->err = *err;
		if (lost || err->code == BLIX_E_UNAVAILABLE)
			job->err.code = BLIX_E_IMAGE;
		job_fail(job, lost);
		return;
	}
	crash_point("source-here");
	argv_push(&argv, "nix-store");
	argv_push(&argv, "--restore");
	argv_pushf(&argv, "%s/source", job->tmp);
	job_spawn_input(job, &argv, fd, job->e->config.config->build_deadline_ms, on_restored);
}

static void on_checked(struct job *job, struct child_result *result)
{
	if (child_ok(result)) {
		bring_done(job);
		return;
	}
	if (job->e->closing || job->cancelled || job_make_tmp(job) < 0) {
		if (job->err.code == BLIX_OK)
			(void)blix_fail(&job->err, BLIX_E_REFUSED, "cancelled");
		job_fail(job, false);
		return;
	}
	job->source.wait =
		sources_need(job->e->config.sources, &job->source.name, false, on_source, job);
	if (job->local->acting == job)
		node_executor_event(job->e, &(struct executor_event){.kind = EXECUTOR_FETCHING,
		                                                     .uid = job->local->uid});
}

void source_bring(struct job *job, const char *url, void (*then)(struct job *job))
{
	struct argv argv = ARGV_EMPTY;
	char path[SOURCE_STORE];

	job->source.then = then;
	if (!source_of_url(url, &job->source.name)) {
		then(job);
		return;
	}
	source_store_path(&job->source.name, path);
	if (was_brought(job->e, &job->source.name) && file_exists(path)) {
		then(job);
		return;
	}
	argv_push(&argv, "nix-store");
	argv_push(&argv, "--check-validity");
	argv_push(&argv, path);
	job_spawn(job, &argv, CHECK_DEADLINE_MS, on_checked);
}

void source_cancel(struct job *job)
{
	if (job->source.wait == NULL)
		return;
	sources_forget(job->source.wait);
	job->source.wait = NULL;
	(void)blix_fail(&job->err, BLIX_E_REFUSED, "cancelled");
	job_fail(job, false);
}
