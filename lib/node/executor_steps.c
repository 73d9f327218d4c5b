/* The journal around the executor's effects, and what becomes of those that a crash cut off.
 *
 * An action says what it is about to do (job_intend) and goes on when that is on the disk, with one
 * sync for all its steps. Each effect is followed by job_did(); what is left when the job ends was
 * done if the job went well.
 *
 * After a restart each INTENT without a DONE is probed, by the table below, when its VM is looked
 * at and before the machine hears of the VM. Done and not done are written to the journal: what
 * comes next the machine finds by comparing, as ever. What cannot be told makes the VM Unknown,
 * with the step and the way out; it is probed again at each look.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "microvm/unit.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/stat.h>

static void on_intended(void *data, const struct blix_error *err)
{
	struct job *job = data;

	if (err != NULL) {
		job->err = *err;
		job->host = true;
		job_fail(job, false);
	} else if (job->e->closing || job->cancelled || job->local->gone) {
		(void)blix_fail(&job->err, BLIX_E_REFUSED, "cancelled");
		job_fail(job, false);
	} else {
		job->intended(job);
	}
}

void job_step(struct job *job, enum journal_step step, const char *what)
{
	struct journal_intent *intent = &job->intents[job->n_intents++];

	assert(job->n_intents <= array_size(job->intents));
	*intent = (struct journal_intent){
		.operation = job->vm->operation,
		.uid = job->vm->uid,
		.epoch = job->vm->epoch,
		.digest = what != NULL ? journal_digest(what, strlen(what)) : 0,
		.step = step};
	memcpy(intent->name, job->vm->name, sizeof(intent->name));
}

void job_announce(struct job *job)
{
	if (job->e->supervisor->announce != NULL)
		job->e->supervisor->announce(job);
}

void job_intend(struct job *job, void (*next)(struct job *job))
{
	job->intended = next;
	node_journal_intend(job->e->journal, job->intents, job->n_intents, on_intended, job);
}

void job_did(const struct job *job, enum journal_step step)
{
	for (size_t i = 0; i < job->n_intents; i++) {
		if (job->intents[i].step != step)
			continue;
		node_journal_settle(job->e->journal, job->intents[i].serial, JOURNAL_DONE);
		crash_point("journal-after-done");
	}
}

void job_settle(struct job *job)
{
	enum journal_result result = job->err.code == BLIX_OK ? JOURNAL_DONE : JOURNAL_FAILED;

	for (size_t i = 0; i < job->n_intents; i++)
		node_journal_settle(job->e->journal, job->intents[i].serial, result);
	if (job->n_intents > 0)
		crash_point("job-settled");
	job->n_intents = 0;
}

enum probe { PROBE_DONE, PROBE_NOT_DONE, PROBE_UNKNOWN };

struct question {
	const struct local *local;
	const struct journal_intent *intent;
	const struct executor_seen *seen;
	struct blix_error err; /* of PROBE_UNKNOWN */
};

static enum probe is_absent(struct question *q, char *path)
{
	cleanup(freep) char *own = path;
	struct stat st;

	if (lstat(path, &st) == 0)
		return PROBE_NOT_DONE;
	if (errno == ENOENT || errno == ENOTDIR)
		return PROBE_DONE;
	(void)blix_fail_sys(&q->err, errno, "look at %s", own);
	return PROBE_UNKNOWN;
}

/* Is `link` in the VM's directory what the step was to make of it? */
static enum probe is_link(struct question *q, const char *link)
{
	cleanup(freep) char *dir = host_dir(q->local->e, q->intent->name);
	cleanup(freep) char *path = xasprintf("%s/%s", dir, link);
	char target[PATH_MAX];
	int rc = file_read_link(path, target, sizeof(target), &q->err);

	if (rc == -BLIX_E_NOTFOUND)
		return PROBE_NOT_DONE;
	if (rc < 0)
		return PROBE_UNKNOWN;
	return journal_digest(target, strlen(target)) == q->intent->digest ? PROBE_DONE
	                                                                   : PROBE_NOT_DONE;
}

static enum probe probe_current(struct question *q)
{
	return is_link(q, "current");
}

static enum probe probe_booted(struct question *q)
{
	return is_link(q, "booted");
}

static enum probe probe_claim(struct question *q)
{
	return host_is_claimed(q->local->e, q->local->vm) ? PROBE_DONE : PROBE_NOT_DONE;
}

/* Each attempt to build renders it anew, each start looks at its image: nobody needs to know. */
static enum probe probe_again(struct question *q)
{
	(void)q;
	return PROBE_NOT_DONE;
}

static enum probe probe_mark(struct question *q)
{
	return q->seen->directory == DIRECTORY_OURS && q->seen->epoch == q->intent->epoch
	               ? PROBE_DONE
	               : PROBE_NOT_DONE;
}

static enum probe probe_console(struct question *q)
{
	cleanup(freep) char *own = host_own_dir(q->local->e, q->intent->name);

	return is_absent(q, xasprintf("%s/console.log", own));
}

/* An unknown process makes the VM Unknown in the words of the look. */
static enum probe probe_start(struct question *q)
{
	return q->seen->process == PROCESS_RUNNING && q->seen->epoch == q->intent->epoch
	               ? PROBE_DONE
	               : PROBE_NOT_DONE;
}

static enum probe probe_end(struct question *q)
{
	return q->seen->process == PROCESS_NONE ? PROBE_DONE : PROBE_NOT_DONE;
}

static enum probe probe_directory(struct question *q)
{
	return q->seen->directory == DIRECTORY_OURS ? PROBE_NOT_DONE : PROBE_DONE;
}

/* The root bears a name, not an owner: with a foreign directory it is not ours to miss. */
static enum probe probe_roots(struct question *q)
{
	if (q->seen->directory == DIRECTORY_FOREIGN)
		return PROBE_DONE;
	return is_absent(q, host_gcroot(q->local->e, "", q->intent->name));
}

static enum probe probe_run(struct question *q)
{
	return is_absent(q, host_run_dir(q->local->e, q->intent->name));
}

static enum probe probe_own(struct question *q)
{
	return is_absent(q, host_own_dir(q->local->e, q->intent->name));
}

/* A run that goes on took what was set up. Else the marks say what is to be taken down. */
static enum probe probe_setup(struct question *q)
{
	if (probe_start(q) == PROBE_DONE)
		return PROBE_DONE;
	return setup_probe(q->local->e, q->intent->name, &q->err) < 0 ? PROBE_UNKNOWN
	                                                              : PROBE_NOT_DONE;
}

static enum probe probe_teardown(struct question *q)
{
	if (setup_probe(q->local->e, q->intent->name, &q->err) < 0)
		return PROBE_UNKNOWN;
	return q->seen->setup ? PROBE_NOT_DONE : PROBE_DONE;
}

/* What is missing of it is made up for by the next scan of the state. */
static enum probe probe_adopt(struct question *q)
{
	return probe_mark(q) == PROBE_DONE && adopt_is_kept(q->local->e, q->intent->name)
	               ? PROBE_DONE
	               : PROBE_NOT_DONE;
}

static enum probe probe_prune(struct question *q)
{
	int left = generations_left(q->local->e, q->local->vm, &q->err);

	if (left < 0)
		return PROBE_UNKNOWN;
	return left > 0 ? PROBE_NOT_DONE : PROBE_DONE;
}

static enum probe probe_drop_in(struct question *q)
{
	cleanup(freep) char *path = unit_drop_in_path(&q->local->e->host, q->intent->name);
	cleanup(buf_done) struct buf text;
	int rc;

	buf_init(&text, LIMIT_FILE);
	rc = file_read_at(AT_FDCWD, path, &text, &q->err);
	if (rc < 0)
		return rc == -BLIX_E_NOTFOUND ? PROBE_NOT_DONE : PROBE_UNKNOWN;
	return journal_digest(text.data != NULL ? text.data : "", text.len) == q->intent->digest
	               ? PROBE_DONE
	               : PROBE_NOT_DONE;
}

static enum probe probe_unit(struct question *q)
{
	return is_absent(q, unit_drop_in_path(&q->local->e->host, q->intent->name));
}

static enum probe (*const probes[JOURNAL_STEP_COUNT])(struct question *) = {
	[JOURNAL_CLAIM] = probe_claim,
	[JOURNAL_WRAPPER] = probe_again,
	[JOURNAL_CREATE] = probe_current,
	[JOURNAL_UPDATE] = probe_current,
	[JOURNAL_MARK] = probe_mark,
	[JOURNAL_BOOTED] = probe_booted,
	[JOURNAL_CONSOLE] = probe_console,
	[JOURNAL_START] = probe_start,
	[JOURNAL_TERM] = probe_end,
	[JOURNAL_KILL] = probe_end,
	[JOURNAL_IMAGES] = probe_directory,
	[JOURNAL_ROOTS] = probe_roots,
	[JOURNAL_DIRECTORY] = probe_directory,
	[JOURNAL_RUN] = probe_run,
	[JOURNAL_OWN] = probe_own,
	[JOURNAL_SETUP] = probe_setup,
	[JOURNAL_TEARDOWN] = probe_teardown,
	[JOURNAL_ADOPT] = probe_adopt,
	[JOURNAL_PRUNE] = probe_prune,
	[JOURNAL_REPAIR] = probe_again,
	[JOURNAL_DROP_IN] = probe_drop_in,
	[JOURNAL_UNIT] = probe_unit,
};

static void set_unknown(struct sight *sight, const struct question *q)
{
	xreplace(&sight->message, "");
	free(sight->message);
	sight->message =
		xasprintf("a crash cut off the step '%s' of operation %" PRIu64
	                  ", and what it did cannot be seen: %s\n"
	                  "hint: mend that, and it goes on by itself",
	                  journal_step_name(q->intent->step), q->intent->operation, q->err.text);
	sight->seen.message = sight->message;
	sight->seen.step_unknown = true;
	sight->seen.process = PROCESS_UNKNOWN;
}

/* Those that the last process left open: ours of now have higher serials. */
static bool is_recovered(const struct node_executor *e, const struct journal_intent *intent)
{
	return intent->serial <= e->recovered;
}

bool steps_open(const struct node_executor *e, uint64_t uid)
{
	const struct journal *table = node_journal_table(e->journal);

	for (size_t i = 0; i < table->n && is_recovered(e, &table->open[i]); i++) {
		if (table->open[i].uid == uid)
			return true;
	}
	return false;
}

static void settle_found(const struct node_executor *e, const struct journal_intent *intent,
                         enum journal_result result)
{
	static const char *const words[] = {
		[JOURNAL_DONE] = "done", [JOURNAL_FAILED] = "not done", [JOURNAL_MOOT] = "moot"};

	log_event(LOG_INFO, "step.recovered",
	          "vm=%s uid=%" PRIu64 " operation=%" PRIu64 " step=%s found=\"%s\"", intent->name,
	          intent->uid, intent->operation, journal_step_name(intent->step), words[result]);
	node_journal_settle(e->journal, intent->serial, result);
}

void steps_probe(const struct local *local, struct sight *sight)
{
	const struct node_executor *e = local->e;
	const struct journal *table = node_journal_table(e->journal);
	const struct executor_seen seen = sight->seen;

	for (size_t i = 0; i < table->n && is_recovered(e, &table->open[i]);) {
		const struct journal_intent intent = table->open[i];
		struct question q = {.local = local, .intent = &intent, .seen = &seen};
		enum probe answer;

		if (intent.uid != local->uid || seen.process == PROCESS_UNKNOWN) {
			i++;
			continue;
		}
		answer = probes[intent.step](&q);
		if (answer == PROBE_UNKNOWN) {
			set_unknown(sight, &q);
			i++;
		} else {
			settle_found(e, &intent,
			             answer == PROBE_DONE ? JOURNAL_DONE : JOURNAL_FAILED);
		}
	}
}

/* Ids come from one counter of the state, so a lower one that it does not have is gone for good. */
void steps_forget(const struct node_executor *e)
{
	const struct journal *table = node_journal_table(e->journal);

	for (size_t i = 0; i < table->n && is_recovered(e, &table->open[i]);) {
		const struct journal_intent intent = table->open[i];

		if (intent.uid > e->config.state->revision ||
		    state_vm_uid(e->config.state, intent.uid) != NULL)
			i++;
		else
			settle_found(e, &intent, JOURNAL_MOOT);
	}
}
