/* START, STOP, STATUS, and the looks between them.
 *
 * START hands the runner to the host's supervisor (supervisor.h), which outlives us, and asks
 * microvm-status what came of it. STOP asks the guest by its agent, or else through its hypervisor
 * on a thread of the pool, or has the supervisor signal the very process that was identified. The
 * end itself is noticed by executor_watch.c.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define STATUS_DEADLINE_MS 10000
#define VMM_DEADLINE_MS    2000
#define LOOK_NAMES         256 /* in one call: their bytes stay far below what exec takes */
#define LOOK_AGAIN_MS      1000

static int parse_status(struct job *job, const struct child_result *result, struct status *ret)
{
	char how[64];

	if (result->out.len > 0 && !result->out.cut &&
	    status_parse(result->out.data, result->out.len, ret, &job->err) == 0) {
		job->err.code = BLIX_OK;
		return 0;
	}
	child_describe(result, how, sizeof(how));
	(void)blix_fail(&job->err, BLIX_E_INTERNAL, "microvm-status %s: %.400s", how,
	                result->err.data);
	blix_reason(&job->err, "status-failed");
	return -BLIX_E_INTERNAL;
}

static void on_status(struct job *job, struct child_result *result)
{
	struct blix_error before = job->err;
	struct status status;

	if (parse_status(job, result, &status) == 0) {
		job->sighted = true;
		sight_take(&job->sight, job->local, status_find(&status, job->vm->name));
		steps_probe(job->local, &job->sight);
		status_done(&status);
		job->err = before; /* a start that failed stays one */
	} else if (before.code != BLIX_OK) {
		job->err = before;
	}
	job_end(job);
}

void status_begin(struct job *job)
{
	struct argv argv = ARGV_EMPTY;

	microvm_argv_status(&job->e->host, job->vm->name, &argv);
	job_spawn(job, &argv, STATUS_DEADLINE_MS, on_status);
}

static void end_look(struct job *job)
{
	struct local *local = job->local;

	if (job->err.code != BLIX_OK)
		log_error(LOG_WARNING, "vm.look.failed", &job->err, "vm=%s", job->vm->name);
	if (!job->sighted || local->gone || job->starts != local->starts)
		return;
	watch_follow(local, &job->sight);
	node_executor_event(job->e, &(struct executor_event){.kind = EXECUTOR_SEEN,
	                                                     .uid = local->uid,
	                                                     .seen = &job->sight.seen});
}

void look_at(struct local *local)
{
	struct job *job = job_new(local->e, local, EXECUTOR_STATUS);

	job->own = true;
	job->end = end_look;
	status_begin(job);
}

/* The links that upstream's units would make, and an empty console. */
static int prepare_start(struct job *job)
{
	const char *name = job->vm->name;
	cleanup(freep) char *dir = host_dir(job->e, name);
	cleanup(freep) char *booted = xasprintf("%s/booted", dir);
	cleanup(freep) char *own = host_own_dir(job->e, name);
	cleanup(freep) char *console = xasprintf("%s/console.log", own);
	cleanup(freep) char *console_old = xasprintf("%s/console.log.1", own);
	cleanup(freep) char *runs = xasprintf("%s/vms", job->e->host.run_dir);
	uint64_t epoch = 0;
	int rc = 0;

	if (host_owner(job->e, job->vm, &epoch) != DIRECTORY_OURS)
		return blix_fail(&job->err, BLIX_E_START, "%s is not ours any more", dir);
	if (epoch != job->vm->epoch)
		rc = host_mark(job->e, job->vm, &job->err);
	if (rc == 0)
		job_did(job, JOURNAL_MARK);
	if (rc == 0)
		rc = file_link(job->vm->resolved.out_path, booted, &job->err);
	if (rc == 0)
		job_did(job, JOURNAL_BOOTED);
	if (rc == 0)
		rc = file_make_dirs(own, 0755, &job->err);
	if (rc == 0)
		rc = file_make_dirs(runs, 0755, &job->err);
	if (rc == 0 && rename(console, console_old) < 0 && errno != ENOENT)
		rc = blix_fail_sys(&job->err, errno, "rename %s", console);
	if (rc == 0)
		job_did(job, JOURNAL_CONSOLE);
	return rc;
}

static void start_intended(struct job *job)
{
	if (prepare_start(job) < 0) {
		job_fail(job, false);
		return;
	}
	if (job->vm->adopt != 0)
		generation_keep(job);
	job->local->starts++;
	job->starts = job->local->starts;
	job->local->start_ms = clock_boot_ms();
	job->local->started_ms = clock_wall_ms();
	setup_begin(job, job->e->supervisor->start);
}

static void image_checked(struct job *job)
{
	job_step(job, JOURNAL_MARK, NULL);
	job_step(job, JOURNAL_BOOTED, job->vm->resolved.out_path);
	job_step(job, JOURNAL_CONSOLE, NULL);
	job_step(job, JOURNAL_START, job->vm->resolved.out_path);
	job_announce(job);
	job_intend(job, start_intended);
}

void start_begin(struct job *job)
{
	image_check(job, image_checked);
}

/* A guest whose CPUs are held hears nothing: it is let go before it is asked. */
static int ask(enum vmm_kind kind, const char *socket, struct blix_error *err)
{
	struct vmm_status status;

	if (vmm_cannot(kind, VMM_RESUME) == NULL &&
	    vmm_status(kind, socket, VMM_DEADLINE_MS, &status, NULL) == 0 &&
	    strcmp(status.text, "paused") == 0)
		(void)vmm_resume(kind, socket, VMM_DEADLINE_MS, NULL);
	return vmm_power_button(kind, socket, VMM_DEADLINE_MS, err);
}

static void work_vmm(uv_work_t *work)
{
	struct job *job = work->data;
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);
	cleanup(freep) char *socket = host_control_socket(dir, job->vm->name);

	if (socket == NULL) {
		(void)blix_fail(&job->err, BLIX_E_REFUSED, "no control socket in %s", dir);
		blix_reason(&job->err, "no-socket");
	} else if (job->kind == EXECUTOR_PAUSE) {
		(void)vmm_pause(host_hypervisor(dir), socket, VMM_DEADLINE_MS, &job->err);
	} else if (job->kind == EXECUTOR_RESUME) {
		(void)vmm_resume(host_hypervisor(dir), socket, VMM_DEADLINE_MS, &job->err);
	} else {
		(void)ask(host_hypervisor(dir), socket, &job->err);
	}
}

static void on_vmm(uv_work_t *work, int status)
{
	struct job *job = work->data;

	(void)status;
	job_end(job);
}

static void signal_intended(struct job *job)
{
	if (!watch_exists(job->local))
		look_at(job->local);
	job->e->supervisor->send_signal(job, job->stop == STOP_TERM ? SIGTERM : SIGKILL);
}

static void on_shutdown_script(struct job *job, struct child_result *result)
{
	char how[64];

	if (!child_ok(result)) {
		child_describe(result, how, sizeof(how));
		(void)blix_fail(&job->err, BLIX_E_REFUSED, "microvm-shutdown %s: %.200s", how,
		                result->err.data);
		blix_reason(&job->err, "vmm-error");
	}
	job_end(job);
}

/* In the VM's directory, where its sockets are. */
static void ask_by_runner(struct job *job, const char *dir)
{
	struct argv argv = ARGV_EMPTY;

	argv_push(&argv, "env");
	argv_push(&argv, "-C");
	argv_push(&argv, dir);
	argv_push(&argv, "booted/bin/microvm-shutdown");
	job_spawn(job, &argv, VMM_DEADLINE_MS, on_shutdown_script);
}

void vmm_begin(struct job *job)
{
	job->work.data = job;
	if (uv_queue_work(job->e->config.loop, &job->work, work_vmm, on_vmm) == 0)
		return;
	(void)blix_fail(&job->err, BLIX_E_INTERNAL, "no thread to ask the hypervisor");
	job_end(job);
}

static void button_begin(struct job *job)
{
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);

	if (vmm_runner_shuts_down(host_hypervisor(dir))) {
		ask_by_runner(job, dir);
		return;
	}
	vmm_begin(job);
}

/* A guest whose agent took the request needs no button as well. */
static void on_guest_asked(struct job *job, bool agreed)
{
	if (agreed)
		job_end(job);
	else
		button_begin(job);
}

void stop_begin(struct job *job)
{
	if (job->stop == STOP_ASK) {
		if (!guest_ask_shutdown(job, on_guest_asked))
			button_begin(job);
		return;
	}
	job_step(job, job->stop == STOP_TERM ? JOURNAL_TERM : JOURNAL_KILL, NULL);
	job_announce(job);
	job_intend(job, signal_intended);
}

/* Several VMs at once: what stands on the host when their part of the state is first heard of. */
static void end_unseen(struct job *job)
{
	struct node_executor *e = job->e;

	e->looking = false;
	if (job->err.code == BLIX_OK)
		return;
	log_error(LOG_ERR, "executor.look.failed", &job->err, "command=%s", e->status);
	e->look_ms = clock_boot_ms() + LOOK_AGAIN_MS;
}

void look_took(struct local *local, const struct sight *sight)
{
	local->unseen = false;
	if (sight->seen.process == PROCESS_RUNNING) {
		local->started_ms = sight->seen.started_ms;
		log_event(LOG_INFO, "vm.adopted", "vm=%s pid=%ju", local->vm->name,
		          (uintmax_t)sight->seen.pid);
	}
	watch_follow(local, sight);
	node_executor_show(local, &sight->seen);
	watch_ready(local, true);
}

static void take_unseen(struct local *local, const struct status *status)
{
	struct sight sight = {.seen.runner = "", .seen.booted = ""};

	sight_take(&sight, local, status_find(status, local->vm->name));
	steps_probe(local, &sight);
	look_took(local, &sight);
	sight_done(&sight);
}

static bool is_due(const struct local *local)
{
	return local->unseen && !local->adopting;
}

static void on_unseen(struct job *job, struct child_result *result)
{
	struct node_executor *e = job->e;
	struct status status;

	if (parse_status(job, result, &status) == 0) {
		for (size_t i = 0; i < e->n_locals; i++) {
			struct local *local = e->locals[i];

			if (is_due(local) && status_find(&status, local->vm->name) != NULL)
				take_unseen(local, &status);
		}
		status_done(&status);
	}
	job_end(job);
}

void look_at_unseen(struct node_executor *e)
{
	struct argv argv = ARGV_EMPTY;
	unsigned names = 0;
	struct job *job;

	if (e->looking || e->closing || clock_boot_ms() < e->look_ms)
		return;
	microvm_argv_status(&e->host, NULL, &argv);
	for (size_t i = 0; i < e->n_locals && names < LOOK_NAMES; i++) {
		if (e->locals[i]->unseen)
			adopt_follow(e->locals[i]);
		if (is_due(e->locals[i])) {
			argv_push(&argv, e->locals[i]->vm->name);
			names++;
		}
	}
	if (names == 0) {
		argv_done(&argv);
		return;
	}
	e->looking = true;
	job = job_new(e, NULL, EXECUTOR_STATUS);
	job->own = true;
	job->end = end_unseen;
	job_spawn(job, &argv, STATUS_DEADLINE_MS * 3, on_unseen);
}
