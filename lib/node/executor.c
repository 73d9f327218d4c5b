/* The executor's place on the loop: see executor.h.
 *
 * One way in: an event goes to the machine, its actions are begun. What ends while a step is under
 * way (a child that could not be started, a proposal answered at once) waits in a list until the
 * step is over, so the machine is never entered twice.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "sys/cgroup.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"
#include "vmm/agent_program.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

/* A report on its way; outlives the executor when it is closed before the answer. */
struct answer {
	struct node_executor *e; /* NULL: nobody listens any more */
	uint64_t uid;
	enum blix_code code;
	uint64_t revision;
	LIST_ENTRY(answer) entry;
};

static void begin(struct node_executor *e, const struct executor_action *action);
static void timer_set(struct node_executor *e);
static void closed_if_empty(struct node_executor *e);

/* One step, and the actions it yields. */
void node_executor_step(struct node_executor *e, const struct executor_event *event)
{
	assert(!e->stepping);
	if (e->closing)
		return;
	e->stepping = true;
	executor_step(&e->machine, event, clock_boot_ms(), &e->actions);
	for (size_t i = 0; i < e->actions.n; i++)
		begin(e, &e->actions.items[i]);
	e->stepping = false;
}

void node_executor_event(struct node_executor *e, const struct executor_event *event)
{
	node_executor_step(e, event);
	node_executor_drain(e);
}

static const char *event_name(enum executor_action_kind kind)
{
	switch (kind) {
	case EXECUTOR_RESOLVE:
		return "vm.resolve.failed";
	case EXECUTOR_CREATE:
	case EXECUTOR_UPDATE:
		return "vm.build.failed";
	case EXECUTOR_START:
		return "vm.start.failed";
	case EXECUTOR_STOP:
		return "vm.stop.failed";
	case EXECUTOR_PAUSE:
		return "vm.pause.failed";
	case EXECUTOR_RESUME:
		return "vm.resume.failed";
	case EXECUTOR_TEARDOWN:
		return "vm.teardown.failed";
	case EXECUTOR_DELETE:
		return "vm.delete.failed";
	case EXECUTOR_STATUS:
		return "vm.look.failed";
	case EXECUTOR_IDLE:
	case EXECUTOR_CANCEL:
	case EXECUTOR_REPORT:
		break;
	}
	return "vm.action.failed";
}

/* The machine hears that its action is over. */
static void action_done(struct job *job)
{
	struct node_executor *e = job->e;
	struct local *local = job->local;
	cleanup(freep) char *message = NULL;
	struct executor_event event = {.kind = EXECUTOR_DONE,
	                               .uid = local->uid,
	                               .code = job->err.code,
	                               .final = job->final,
	                               .host = job->host,
	                               .ms = (uint32_t)(clock_boot_ms() - job->began_ms)};

	if (job->err.code != BLIX_OK) {
		if (!job->cancelled)
			log_error(job->stop == STOP_ASK ? LOG_DEBUG : LOG_WARNING,
			          event_name(job->kind), &job->err, "vm=%s uid=%" PRIu64,
			          job->vm->name, job->vm->uid);
		message = xasprintf("%.*s%s%s", LIMIT_MESSAGE - 250, job->err.text,
		                    job->err.hint[0] != '\0' ? "\nhint: " : "", job->err.hint);
		event.reason = blix_error_reason(&job->err);
		event.message = message;
	}
	local->acting = NULL;
	if (job->sighted && !local->gone) {
		watch_follow(local, &job->sight);
		event.seen = &job->sight.seen;
	}
	event.repaired = job->repaired;
	if (job->found.kind != 0)
		event.resolved = &job->found;
	node_executor_step(e, &event);
	if (job->kind == EXECUTOR_START && !local->gone)
		watch_ready(local, false);
}

static void job_over(struct job *job)
{
	struct node_executor *e = job->e;
	struct local *local = job->local;

	if (job->own && !e->closing)
		job->end(job);
	else if (!job->own)
		action_done(job);
	job_free(job);
	e->jobs--;
	if (local != NULL && --local->jobs == 0 && local->gone)
		local_free(local);
}

static void answer_told(struct node_executor *e, struct answer *answer)
{
	LIST_REMOVE(answer, entry);
	node_executor_step(e, &(struct executor_event){.kind = EXECUTOR_REPORTED,
	                                               .uid = answer->uid,
	                                               .code = answer->code,
	                                               .revision = answer->revision});
	free(answer);
}

/* Everything that ended meanwhile. */
void node_executor_drain(struct node_executor *e)
{
	struct answer *answer;
	struct job *job;

	if (e->stepping || e->draining)
		return;
	e->draining = true;
	while (!TAILQ_EMPTY(&e->ended) || !LIST_EMPTY(&e->told)) {
		if ((job = TAILQ_FIRST(&e->ended)) != NULL) {
			TAILQ_REMOVE(&e->ended, job, entry);
			job_over(job);
		} else if ((answer = LIST_FIRST(&e->told)) != NULL) {
			answer_told(e, answer);
		}
	}
	e->draining = false;
	timer_set(e);
	closed_if_empty(e);
}

void node_executor_ended(struct job *job)
{
	TAILQ_INSERT_TAIL(&job->e->ended, job, entry);
	node_executor_drain(job->e);
}

static void on_answer(void *data, int status, const struct command_result *result)
{
	struct answer *answer = data;
	struct node_executor *e = answer->e;

	if (e == NULL) {
		free(answer);
		return;
	}
	answer->code = status < 0 ? (enum blix_code) - status : result->code;
	answer->revision = status < 0 ? 0 : result->revision;
	LIST_REMOVE(answer, entry);
	LIST_INSERT_HEAD(&e->told, answer, entry);
	node_executor_drain(e);
}

static void report(struct node_executor *e, const struct executor_action *action)
{
	struct answer *answer = xcalloc(1, sizeof(*answer));
	int rc;

	answer->e = e;
	answer->uid = action->uid;
	LIST_INSERT_HEAD(&e->answers, answer, entry);
	rc = e->config.propose(e->config.data, action->command, on_answer, answer);
	if (rc < 0)
		on_answer(answer, rc, NULL);
}

static void begin(struct node_executor *e, const struct executor_action *action)
{
	static void (*const begins[])(struct job *) = {
		[EXECUTOR_RESOLVE] = resolve_begin, [EXECUTOR_CREATE] = build_begin,
		[EXECUTOR_UPDATE] = build_begin,    [EXECUTOR_START] = start_begin,
		[EXECUTOR_STOP] = stop_begin,       [EXECUTOR_DELETE] = remove_begin,
		[EXECUTOR_PAUSE] = vmm_begin,       [EXECUTOR_RESUME] = vmm_begin,
		[EXECUTOR_STATUS] = status_begin,   [EXECUTOR_TEARDOWN] = teardown_begin,
	};
	struct local *local = local_find(e, action->uid);
	struct job *job;

	if (action->kind == EXECUTOR_REPORT) {
		report(e, action);
		return;
	}
	assert(local != NULL);
	if (action->kind == EXECUTOR_CANCEL) {
		job_cancel(local->acting);
		return;
	}
	job = job_new(e, local, action->kind);
	job->stop = action->stop;
	local->acting = job;
	begins[action->kind](job);
}

static void on_idle(uv_idle_t *idle)
{
	(void)uv_idle_stop(idle);
	locals_scan(idle->data);
}

void node_executor_wake(struct node_executor *e)
{
	if (!e->closing)
		(void)uv_idle_start(&e->idle, on_idle);
}

static void on_timer(uv_timer_t *timer)
{
	struct node_executor *e = timer->data;

	node_executor_step(e, &(struct executor_event){.kind = EXECUTOR_TICK});
	look_at_unseen(e);
	node_executor_drain(e);
}

static void timer_set(struct node_executor *e)
{
	uint64_t now_ms = clock_boot_ms(), next_ms = e->actions.next_ms;

	if (e->closing)
		return;
	if (e->look_ms > now_ms && (next_ms == 0 || e->look_ms < next_ms))
		next_ms = e->look_ms;
	if (next_ms == 0)
		(void)uv_timer_stop(&e->timer);
	else
		(void)uv_timer_start(&e->timer, on_timer, next_ms > now_ms ? next_ms - now_ms : 1,
		                     0);
}

char *node_executor_groups(const char *cluster, const char *run_dir)
{
	cleanup(freep) char *who = xasprintf("%s %s", cluster, run_dir);

	return xasprintf("%s/blix/vm-%08x", cgroup_root(),
	                 (unsigned)(journal_digest(who, strlen(who)) & UINT32_MAX));
}

static void host_fill(struct node_executor *e)
{
	const struct config *config = e->config.config;
	cleanup(freep) char *program = NULL;

	(void)program_find("systemctl", config->path, &e->systemctl, NULL);
	(void)program_find("rm", config->path, &e->rm, NULL);
	e->status = xasprintf("%s/microvm-status", config->libexec_dir);
	e->shim = xasprintf("%s/blix-shim", config->libexec_dir);
	program = xasprintf("%s/blix-agent", config->libexec_dir);
	e->agent = agent_program_new(program);
	e->home = xasprintf("%s/home", config->state_dir);
	e->tmp = xasprintf("%s/tmp", config->state_dir);
	if (cgroup_root() != NULL)
		e->cgroups = node_executor_groups(e->config.cluster, config->run_dir);
	e->host = (struct microvm_host){.microvm = config->microvm,
	                                .status = e->status,
	                                .shim = e->shim,
	                                .path = config->path,
	                                .home = e->home,
	                                .nix_config = config->nix_config,
	                                .microvms_dir = config->microvms_dir,
	                                .gcroots_dir = config->gcroots_dir,
	                                .run_dir = config->run_dir,
	                                .state_dir = config->state_dir,
	                                .cgroups = e->cgroups,
	                                .systemd_dir = config->systemd_dir,
	                                .single_user = microvm_single_user()};
}

/* What the last process left half-done goes; its children were ended before (exec/stray.h). */
static int host_prepare(const struct node_executor *e, struct blix_error *err)
{
	int rc = file_remove_tree(e->tmp, err);

	if (rc == 0)
		rc = file_make_dirs(e->tmp, 0700, err);
	if (rc == 0)
		rc = file_make_dirs(e->home, 0700, err);
	if (rc == 0)
		rc = file_make_dirs(e->host.microvms_dir, 0755, err);
	return rc;
}

static int open_journal(struct node_executor *e, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/journal", e->host.state_dir);
	int rc = node_journal_open(e->config.loop, path, &e->journal, err);

	if (rc == 0)
		e->recovered = node_journal_table(e->journal)->serial;
	return rc;
}

static void executor_free(struct node_executor *e)
{
	executor_actions_done(&e->actions);
	executor_done(&e->machine);
	free((void *)e->locals);
	free(e->systemctl);
	free(e->rm);
	free(e->status);
	free(e->shim);
	agent_program_free(e->agent);
	free(e->home);
	free(e->tmp);
	free(e->cgroups);
	free(e);
}

int node_executor_open(const struct node_executor_config *config, struct node_executor **ret,
                       struct blix_error *err)
{
	struct node_executor *e = xcalloc(1, sizeof(*e));
	int rc;

	e->config = *config;
	TAILQ_INIT(&e->ended);
	TAILQ_INIT(&e->reload_waiting);
	TAILQ_INIT(&e->reload_served);
	LIST_INIT(&e->answers);
	LIST_INIT(&e->told);
	executor_init(&e->machine, config->node, config->config->builds_max,
	              config->config->retry_ms);
	e->supervisor = config->supervisor;
	host_fill(e);
	rc = host_prepare(e, err);
	if (rc == 0)
		rc = open_journal(e, err);
	if (rc < 0) {
		executor_free(e);
		return rc;
	}
	(void)uv_idle_init(config->loop, &e->idle);
	(void)uv_timer_init(config->loop, &e->timer);
	e->idle.data = e->timer.data = e;
	e->handles = 2;
	usage_start(e);
	node_executor_wake(e);
	*ret = e;
	return 0;
}

static void on_journal_closed(void *data)
{
	struct node_executor *e = data;
	void (*cb)(void *data) = e->close_cb;
	void *cb_data = e->close_data;

	executor_free(e);
	cb(cb_data);
}

static void closed_if_empty(struct node_executor *e)
{
	struct node_journal *journal = e->journal;

	if (!e->closing || e->jobs > 0 || e->handles > 0 || e->draining || journal == NULL)
		return;
	e->journal = NULL;
	node_journal_close(journal, on_journal_closed, e);
}

void node_executor_handle_closed(struct node_executor *e)
{
	e->handles--;
	closed_if_empty(e);
}

static void on_closed(uv_handle_t *handle)
{
	node_executor_handle_closed(handle->data);
}

static void answers_detach(struct node_executor *e)
{
	struct answer *answer;

	while ((answer = LIST_FIRST(&e->answers)) != NULL) {
		LIST_REMOVE(answer, entry);
		answer->e = NULL;
	}
}

/* A start is left to end by itself: what it began will be found again. */
void node_executor_close(struct node_executor *e, void (*cb)(void *data), void *data)
{
	assert(!e->closing && !e->stepping);
	e->closing = true;
	e->close_cb = cb;
	e->close_data = data;
	answers_detach(e);
	while (e->n_locals > 0) {
		struct local *local = e->locals[e->n_locals - 1];

		if (local->acting != NULL &&
		    (local->acting->kind != EXECUTOR_START || local->acting->image.checking ||
		     e->supervisor->only_asks))
			job_cancel(local->acting);
		local_remove(e, local);
	}
	uv_close((uv_handle_t *)&e->idle, on_closed);
	uv_close((uv_handle_t *)&e->timer, on_closed);
	usage_close(e);
}
