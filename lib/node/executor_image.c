/* Before a START: is what it would run there, and unaltered?
 *
 * Each time `nix-store --verify-path` looks at the runner alone, which is small (the hypervisor's
 * words, not the kernel): some milliseconds. After a crash the whole closure is looked at, once in
 * a row of crashes, since an altered kernel shows itself only by that. What is missing or altered
 * is repaired by Nix, after an INTENT; what Nix does not know any more (collected) is built again
 * from its lock. Then it is looked at again, and what was done is told. A path that is none of
 * Nix's is not judged, nor is one that Nix could not look at.
 *
 * It fails with image-missing or image-corrupt and Nix's last words; the machine tries again.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "microvm/nix_error.h"
#include "sys/log.h"

#include <errno.h>
#include <unistd.h>

#define VERIFY_DEADLINE_MS 60000
#define CLOSURE_PATHS      4096 /* more are not looked at: far above a NixOS system's */

static void verify(struct job *job);

static void passed(struct job *job)
{
	struct image *image = &job->image;

	image->checking = false;
	job->err.code = BLIX_OK;
	job_settle(job);
	if (image->whole)
		job->local->whole_checked = true;
	if (image->repaired) {
		job->repaired = xasprintf("%s: %s", image->reason, job->vm->resolved.out_path);
		log_event(LOG_NOTICE, "vm.image.repaired", "vm=%s reason=%s path=%s", job->vm->name,
		          image->reason, job->vm->resolved.out_path);
	}
	image->then(job);
}

static void failed(struct job *job, const char *reason, const char *words)
{
	cleanup(freep) char *tail = nix_error_tail(words);

	job->image.checking = false;
	(void)blix_fail(&job->err, BLIX_E_IMAGE, "%s is %s, and could not be repaired\n%s",
	                job->vm->resolved.out_path,
	                strcmp(reason, "image-corrupt") == 0 ? "altered" : "missing", tail);
	blix_reason(&job->err, reason);
	blix_hint(&job->err,
	          "nix-store --verify --check-contents --repair on the node, or 'blix vm "
	          "update' to lock it anew");
	job_fail(job, false);
}

/* Why it is not as it should be; NULL: it is, or nobody can say. */
static const char *judge(const struct job *job, const struct child_result *result)
{
	const char *words = result->err.data != NULL ? result->err.data : "";

	if (child_ok(result) || strstr(words, "is not in the Nix store") != NULL)
		return NULL;
	if (strstr(words, "was modified!") != NULL)
		return "image-corrupt";
	if (strstr(words, "is not valid") != NULL || strstr(words, "No such file") != NULL)
		return "image-missing";
	if (job->image.repaired)
		return job->image.reason;
	log_event(LOG_WARNING, "vm.image.unverified", "vm=%s path=%s", job->vm->name,
	          job->vm->resolved.out_path);
	return NULL;
}

/* Whatever became of it, the second look says whether it helped. */
static void on_repaired(struct job *job, struct child_result *result)
{
	struct image *image = &job->image;

	free(image->words);
	image->words = xstrdup(result->err.data != NULL ? result->err.data : "");
	image->repaired = true;
	verify(job);
}

static void rebuild_brought(struct job *job)
{
	struct argv argv = ARGV_EMPTY;

	if (build_render(job) < 0 || job_make_tmp(job) < 0) {
		job->image.checking = false;
		job_fail(job, false);
		return;
	}
	microvm_argv_update(&job->e->host, job->vm->name, &argv);
	job_spawn(job, &argv, job->e->config.config->build_deadline_ms, on_repaired);
}

static void rebuild(struct job *job)
{
	source_bring(job, job->vm->resolved.base_url, rebuild_brought);
}

static void repair_intended(struct job *job)
{
	struct argv argv = ARGV_EMPTY;

	if (!job->image.known) {
		rebuild(job);
		return;
	}
	argv_push(&argv, "nix-store");
	argv_push(&argv, "--repair-path");
	argv_push(&argv, job->vm->resolved.out_path);
	job_spawn(job, &argv, job->e->config.config->build_deadline_ms, on_repaired);
}

static void repair(struct job *job, bool known)
{
	job->image.known = known;
	job_step(job, JOURNAL_REPAIR, job->vm->resolved.out_path);
	job_intend(job, repair_intended);
}

static bool runner_is_there(const struct job *job)
{
	cleanup(freep) char *path = xasprintf("%s/bin/microvm-run", job->vm->resolved.out_path);

	return access(path, X_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

static void on_verified(struct job *job, struct child_result *result)
{
	struct image *image = &job->image;
	const char *words = result->err.data != NULL ? result->err.data : "";
	const char *reason = judge(job, result);

	if (reason == NULL && runner_is_there(job)) {
		passed(job);
		return;
	}
	if (image->repaired || job->e->closing) {
		failed(job, reason != NULL ? reason : "image-missing",
		       image->words != NULL ? image->words : words);
		return;
	}
	image->reason = reason != NULL ? reason : "image-missing";
	log_event(LOG_WARNING, "vm.image.damaged", "vm=%s reason=%s path=%s", job->vm->name,
	          image->reason, job->vm->resolved.out_path);
	repair(job, strstr(words, "is not valid") == NULL &&
	                    strstr(words, "is not in the Nix store") == NULL);
}

/* The paths of the closure, one a line. */
static void on_closure(struct job *job, struct child_result *result)
{
	struct argv argv = ARGV_EMPTY;
	unsigned n = 0;

	if (!child_ok(result) || result->out.cut || result->out.len == 0) {
		on_verified(job, result);
		return;
	}
	argv_push(&argv, "nix-store");
	argv_push(&argv, "--verify-path");
	for (char *line = result->out.data; *line != '\0' && n < CLOSURE_PATHS; n++) {
		char *end = line + strcspn(line, "\n");
		char *next = *end == '\n' ? end + 1 : end;

		*end = '\0';
		argv_push(&argv, line);
		line = next;
	}
	job_spawn(job, &argv, job->e->config.config->build_deadline_ms, on_verified);
}

static void verify(struct job *job)
{
	struct argv argv = ARGV_EMPTY;

	argv_push(&argv, "nix-store");
	if (job->image.whole) {
		argv_push(&argv, "--query");
		argv_push(&argv, "--requisites");
	} else {
		argv_push(&argv, "--verify-path");
	}
	argv_push(&argv, job->vm->resolved.out_path);
	job_spawn(job, &argv, VERIFY_DEADLINE_MS, job->image.whole ? on_closure : on_verified);
}

void image_check(struct job *job, void (*then)(struct job *job))
{
	if (job->vm->crashes == 0)
		job->local->whole_checked = false;
	job->image = (struct image){.checking = true,
	                            .whole = job->vm->crashes > 0 && !job->local->whole_checked,
	                            .reason = "image-missing",
	                            .then = then};
	verify(job);
}
