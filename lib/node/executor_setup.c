/* The runner contract around a run, where no units keep it: tap-up, macvtap-up, pci-setup and
 * virtiofsd-run before the hypervisor starts, their opposites after it has ended.
 *
 * Up: each program of the runner that exists is run to its end; virtiofsd-run gets a shim of its
 * own and is waited for until its sockets stand. The INTENT of the START says so once for all of
 * them (SETUP), that of a TEARDOWN for all of theirs; before a step, a file of its name is put into
 * RUN_DIR/vms/NAME/setup: whoever finds it there, after whatever crash, has something to take down.
 * Down, in reverse: virtiofsd ends, macvtap-down, tap-down, the control group and `booted` go, last
 * the folder. A step that fails on the way up is taken down with those before it; on the way down
 * it fails the action, which the machine tries again before it tells that the VM has ended. A
 * tap-down or macvtap-down that complains of links which are not there has done its work: a macvtap
 * goes with its lower link.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/json.h"
#include "microvm/nix_error.h"
#include "microvm/runner_links.h"
#include "sys/cgroup.h"
#include "sys/clock.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_DEADLINE_MS      30000
#define VIRTIOFSD_DEADLINE_MS 30000 /* until its sockets stand */
#define VIRTIOFSD_TERM_MS     5000  /* from SIGTERM to SIGKILL */
#define LOOK_MS               20

static const struct step {
	const char *up, *down, *reason;
	const char *links; /* the runner's list of what it makes */
} steps[] = {{"tap-up", "tap-down", "tap-up-failed", RUNNER_TAPS},
             {"macvtap-up", "macvtap-down", "macvtap-up-failed", RUNNER_MACVTAPS},
             {"pci-setup", NULL, "pci-setup-failed", NULL}}; /* upstream gives no device back */

static void up_next(struct job *job);
static void down_next(struct job *job);

static char *setup_dir(const struct job *job)
{
	return xasprintf("%s/vms/%s/setup", job->e->host.run_dir, job->vm->name);
}

static char *virtiofsd_dir(const struct job *job)
{
	return xasprintf("%s/vms/%s/virtiofsd", job->e->host.run_dir, job->vm->name);
}

static char *booted_program(const struct job *job, const char *name)
{
	return xasprintf("%s/%s/booted/bin/%s", job->e->host.microvms_dir, job->vm->name, name);
}

bool setup_exists(const struct local *local)
{
	const struct node_executor *e = local->e;
	cleanup(freep) char *dir = xasprintf("%s/vms/%s/setup", e->host.run_dir, local->vm->name);
	cleanup(freep) char *booted =
		xasprintf("%s/%s/booted", e->host.microvms_dir, local->vm->name);

	if (e->supervisor->teardown != NULL)
		return file_exists(booted);
	return e->supervisor->sets_up && (file_exists(dir) || file_exists(booted));
}

static bool has_program(const struct job *job, const char *name)
{
	cleanup(freep) char *path = xasprintf("%s/bin/%s", job->vm->resolved.out_path, name);

	return access(path, X_OK) == 0;
}

void setup_announce(struct job *job)
{
	bool any = has_program(job, "virtiofsd-run");

	for (size_t i = 0; i < array_size(steps); i++)
		any = any || has_program(job, steps[i].up);
	if (job->kind == EXECUTOR_START && any)
		job_step(job, JOURNAL_SETUP, NULL);
}

int setup_probe(const struct node_executor *e, const char *name, struct blix_error *err)
{
	cleanup(freep) char *dir = xasprintf("%s/vms/%s/setup", e->host.run_dir, name);
	cleanup(closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd >= 0 || errno == ENOENT ? 0 : blix_fail_sys(err, errno, "open %s", dir);
}

static int mark(struct job *job, const char *step)
{
	cleanup(freep) char *dir = setup_dir(job);
	cleanup(freep) char *path = xasprintf("%s/%s", dir, step);
	int rc = file_make_dirs(dir, 0755, &job->err);

	return rc == 0 ? file_put(path, "", 0, 0644, &job->err) : rc;
}

static bool is_marked(const struct job *job, const char *step)
{
	cleanup(freep) char *dir = setup_dir(job);
	cleanup(freep) char *path = xasprintf("%s/%s", dir, step);

	return file_exists(path);
}

static void unmark(const struct job *job, const char *step)
{
	cleanup(freep) char *dir = setup_dir(job);
	cleanup(freep) char *path = xasprintf("%s/%s", dir, step);

	(void)unlink(path);
}

/* Waiting without a child. */
struct pause {
	uv_timer_t timer;
	struct job *job;
	void (*next)(struct job *job);
};

static void pause_closed(uv_handle_t *handle)
{
	struct pause *pause = handle->data;
	struct job *job = pause->job;
	void (*next)(struct job *) = pause->next;

	free(pause);
	job->e->handles--;
	next(job);
}

static void pause_over(uv_timer_t *timer)
{
	uv_close((uv_handle_t *)timer, pause_closed);
}

static void job_pause(struct job *job, void (*next)(struct job *job))
{
	struct pause *pause = xcalloc(1, sizeof(*pause));

	pause->job = job;
	pause->next = next;
	pause->timer.data = pause;
	job->e->handles++;
	(void)uv_timer_init(job->e->config.loop, &pause->timer);
	(void)uv_timer_start(&pause->timer, pause_over, LOOK_MS, 0);
}

static void run_step(struct job *job, char *program,
                     void (*next)(struct job *job, struct child_result *result))
{
	struct argv argv = ARGV_EMPTY;

	argv_push(&argv, program);
	job_spawn(job, &argv, STEP_DEADLINE_MS, next);
}

/* What went up comes down, then the host is looked at: the error stays the job's. */
static void up_failed(struct job *job)
{
	job->setup_at = 0;
	job->setup_end = status_begin;
	down_next(job);
}

static void step_failed(struct job *job, const char *what, const char *reason, const char *how,
                        const char *text)
{
	cleanup(freep) char *tail = nix_error_tail(text);

	(void)blix_fail(&job->err, BLIX_E_START, "%s %s\n%s", what, how, tail);
	blix_reason(&job->err, reason);
}

static void on_step_up(struct job *job, struct child_result *result)
{
	const struct step *step = &steps[job->setup_at];
	char how[64];

	crash_point("setup.step-up");
	if (!child_ok(result)) {
		child_describe(result, how, sizeof(how));
		step_failed(job, step->up, step->reason, how,
		            result->err.len > 0 ? result->err.data : result->out.data);
		up_failed(job);
		return;
	}
	job->setup_at++;
	up_next(job);
}

/* The sockets that the runner says virtiofsd will make; `each` returns false to stop. */
static bool each_socket(const struct job *job, bool (*each)(const char *path))
{
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);
	cleanup(freep) char *shares = xasprintf("%s/booted/share/microvm/virtiofs", dir);
	DIR *stream = opendir(shares);
	const struct dirent *entry;
	bool all = true;

	while (all && stream != NULL && (entry = readdir(stream)) != NULL) {
		cleanup(freep) char *file = xasprintf("%s/%s/socket", shares, entry->d_name);
		cleanup(freep) char *path = NULL;
		cleanup(buf_done) struct buf text;

		buf_init(&text, 256);
		if (entry->d_name[0] == '.' || file_read(file, &text, NULL) < 0 || text.len == 0)
			continue;
		text.data[strcspn(text.data, "\n")] = '\0';
		path = text.data[0] == '/' ? xstrdup(text.data)
		                           : xasprintf("%s/%s", dir, text.data);
		all = each(path);
	}
	if (stream != NULL)
		(void)closedir(stream);
	return all;
}

static bool is_socket(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* virtiofsd leaves them behind, and one of an earlier run would be taken for the new one's. */
static bool remove_socket(const char *path)
{
	if (is_socket(path))
		(void)unlink(path);
	return true;
}

void setup_remove_sockets(const struct job *job)
{
	(void)each_socket(job, remove_socket);
}

static void virtiofsd_failed(struct job *job, const char *how)
{
	cleanup(freep) char *own = host_own_dir(job->e, job->vm->name);
	cleanup(freep) char *path = xasprintf("%s/virtiofsd.log", own);
	cleanup(buf_done) struct buf text;

	buf_init(&text, LIMIT_FILE);
	(void)file_read(path, &text, NULL);
	step_failed(job, "virtiofsd-run", "virtiofsd-failed", how,
	            text.data != NULL ? text.data : "");
	up_failed(job);
}

static void up_done(struct job *job)
{
	job_did(job, JOURNAL_SETUP);
	job->setup_end(job);
}

static void virtiofsd_wait(struct job *job)
{
	cleanup(freep) char *dir = virtiofsd_dir(job);
	cleanup(freep) char *end = xasprintf("%s/exit.json", dir);

	if (each_socket(job, is_socket))
		up_done(job);
	else if (file_exists(end))
		virtiofsd_failed(job, "ended");
	else if (clock_boot_ms() > job->setup_ms)
		virtiofsd_failed(job, "did not open its sockets in time");
	else
		job_pause(job, virtiofsd_wait);
}

static void on_virtiofsd(struct job *job, struct child_result *result)
{
	char how[64];

	crash_point("setup.virtiofsd-up");
	child_describe(result, how, sizeof(how));
	if (!child_ok(result)) {
		step_failed(job, "virtiofsd-run", "virtiofsd-failed", how, result->err.data);
		up_failed(job);
		return;
	}
	job->setup_ms = clock_boot_ms() + VIRTIOFSD_DEADLINE_MS;
	virtiofsd_wait(job);
}

static void virtiofsd_up(struct job *job, const char *program)
{
	cleanup(freep) char *run = virtiofsd_dir(job);
	cleanup(freep) char *own = host_own_dir(job->e, job->vm->name);
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);
	cleanup(freep) char *group = host_cgroup(job->e, job->vm);
	struct argv argv = ARGV_EMPTY;

	if (mark(job, "virtiofsd-run") < 0) {
		up_failed(job);
		return;
	}
	setup_remove_sockets(job);
	argv_push(&argv, job->e->host.shim);
	argv_pushf(&argv, "--run=%s", run);
	argv_pushf(&argv, "--console=%s/virtiofsd.log", own);
	argv_pushf(&argv, "--uid=%ju", (uintmax_t)job->vm->uid);
	argv_pushf(&argv, "--epoch=%ju", (uintmax_t)job->vm->epoch);
	if (group != NULL)
		argv_pushf(&argv, "--cgroup=%s.virtiofsd", group);
	argv_pushf(&argv, "--chdir=%s", dir);
	argv_push(&argv, "--");
	argv_push(&argv, program);
	job_spawn_keeper(job, &argv, STEP_DEADLINE_MS, on_virtiofsd);
}

static void up_next(struct job *job)
{
	cleanup(freep) char *virtiofsd = booted_program(job, "virtiofsd-run");

	for (; job->setup_at < array_size(steps); job->setup_at++) {
		const struct step *step = &steps[job->setup_at];
		cleanup(freep) char *program = booted_program(job, step->up);

		if (access(program, X_OK) < 0)
			continue;
		if (mark(job, step->up) < 0)
			up_failed(job);
		else
			run_step(job, program, on_step_up);
		return;
	}
	if (access(virtiofsd, X_OK) == 0)
		virtiofsd_up(job, virtiofsd);
	else
		up_done(job);
}

void setup_begin(struct job *job, void (*then)(struct job *job))
{
	job->setup_at = 0;
	job->setup_end = then;
	if (job->e->supervisor->sets_up)
		up_next(job);
	else
		then(job);
}

/* None of the links that the runner lists is there. */
static bool links_are_gone(const struct job *job, const char *list)
{
	cleanup(freep) char *runner =
		xasprintf("%s/%s/booted", job->e->host.microvms_dir, job->vm->name);
	cleanup(buf_done) struct buf names;
	char *rest;
	const char *name;

	buf_init(&names, LIMIT_FILE);
	if (!runner_links(runner, list, &names))
		return false;
	rest = names.data;
	while ((name = strsep(&rest, "\n")) != NULL) {
		cleanup(freep) char *link = xasprintf("/sys/class/net/%s", name);

		if (name[0] != '\0' && file_exists(link))
			return false;
	}
	return true;
}

static void on_step_down(struct job *job, struct child_result *result)
{
	const struct step *step = &steps[array_size(steps) - 1 - job->setup_at];
	char how[64];

	crash_point("setup.step-down");
	if (child_ok(result) || links_are_gone(job, step->links)) {
		unmark(job, step->up);
	} else if (job->err.code == BLIX_OK) {
		child_describe(result, how, sizeof(how));
		step_failed(job, step->down, "teardown-failed", how, result->err.data);
	}
	job->setup_at++;
	down_next(job);
}

/* The links and the group of the run, then, when every step is down, the folder that says so. */
static void down_last(struct job *job)
{
	cleanup(freep) char *dir = setup_dir(job);
	cleanup(freep) char *booted =
		xasprintf("%s/%s/booted", job->e->host.microvms_dir, job->vm->name);
	cleanup(freep) char *group = host_cgroup(job->e, job->vm);

	if (group != NULL)
		(void)cgroup_remove(group, NULL);
	for (size_t i = 0; i < array_size(steps); i++) {
		if (steps[i].down == NULL)
			unmark(job, steps[i].up);
	}
	if (rmdir(dir) == 0 || errno == ENOENT) {
		(void)unlink(booted);
		crash_point("setup.down");
	}
	job->setup_end(job);
}

static void steps_down(struct job *job)
{
	for (; job->setup_at < array_size(steps); job->setup_at++) {
		const struct step *step = &steps[array_size(steps) - 1 - job->setup_at];
		cleanup(freep) char *program =
			step->down != NULL ? booted_program(job, step->down) : NULL;

		if (program == NULL || !is_marked(job, step->up))
			continue;
		if (access(program, X_OK) == 0) {
			run_step(job, program, on_step_down);
			return;
		}
		unmark(job, step->up);
	}
	down_last(job);
}

/* The pidfd of a process that virtiofsd's shim put on record, -1 when it has ended. */
static int open_recorded(const struct job *job, const char *pid_key, const char *start_key)
{
	cleanup(freep) char *dir = virtiofsd_dir(job);
	cleanup(freep) char *path = xasprintf("%s/status.json", dir);
	cleanup(json_freep) cJSON *root = NULL;
	cleanup(buf_done) struct buf text;
	const char *boot_id = NULL;
	uint64_t pid = 0, start_time = 0;
	int fd = -1;

	buf_init(&text, LIMIT_FILE);
	if (file_read_at(AT_FDCWD, path, &text, NULL) < 0 ||
	    json_parse(text.data != NULL ? text.data : "", text.len, &json_limits_request, &root,
	               NULL) < 0 ||
	    json_get_u64(root, pid_key, &pid, NULL) < 0 ||
	    json_get_u64(root, start_key, &start_time, NULL) < 0 ||
	    json_get_string(root, "bootId", &boot_id, NULL) < 0 || boot_id == NULL || pid == 0 ||
	    pid > INT32_MAX || process_open((pid_t)pid, start_time, boot_id, &fd, NULL) < 0)
		return -1;
	return fd;
}

/* SIGTERM, by way of its shim; when that is late or dead, SIGKILL to the program itself and to its
 * group. Over when neither lives and the group is empty. */
static void virtiofsd_down(struct job *job)
{
	cleanup(closep) int shim = open_recorded(job, "shimPid", "shimStartTime");
	cleanup(closep) int program = open_recorded(job, "pid", "startTime");
	cleanup(freep) char *dir = virtiofsd_dir(job);
	cleanup(freep) char *group = host_cgroup(job->e, job->vm);
	cleanup(freep) char *own = group != NULL ? xasprintf("%s.virtiofsd", group) : NULL;
	cleanup(freep) char *inner = own != NULL ? xasprintf("%s/program", own) : NULL;
	bool late = shim < 0 || clock_boot_ms() > job->setup_ms;

	if (shim < 0 && program < 0 && (inner == NULL || !cgroup_populated(inner))) {
		if (own != NULL)
			(void)cgroup_remove(own, NULL);
		setup_remove_sockets(job);
		(void)file_remove_tree(dir, NULL);
		unmark(job, "virtiofsd-run");
		crash_point("setup.virtiofsd-down");
		steps_down(job);
		return;
	}
	if (!job->setup_asked && shim >= 0)
		(void)process_signal(shim, SIGTERM, NULL);
	job->setup_asked = true;
	if (late && program >= 0)
		(void)process_signal(program, SIGKILL, NULL);
	if (late && inner != NULL)
		(void)cgroup_kill(inner, NULL);
	job_pause(job, virtiofsd_down);
}

static void down_next(struct job *job)
{
	if (job->setup_at > 0 || !is_marked(job, "virtiofsd-run")) {
		steps_down(job);
		return;
	}
	job->setup_ms = clock_boot_ms() + VIRTIOFSD_TERM_MS;
	job->setup_asked = false;
	virtiofsd_down(job);
}

/* With nothing but `booted` left there is nothing to say: each look finds it again. */
void teardown_begin(struct job *job)
{
	cleanup(freep) char *dir = setup_dir(job);
	const struct supervisor *supervisor = job->e->supervisor;

	job->setup_at = 0;
	job->setup_end = job_end;
	if (supervisor->teardown == NULL && !supervisor->sets_up) {
		job_end(job);
	} else if (supervisor->teardown == NULL && !file_exists(dir)) {
		down_next(job);
	} else {
		job_step(job, JOURNAL_TEARDOWN, NULL);
		job_intend(job, supervisor->teardown != NULL ? supervisor->teardown : down_next);
	}
}
