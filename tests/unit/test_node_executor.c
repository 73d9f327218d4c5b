/* lib/node/executor on a real loop, with the real blix-shim and microvm-status, and fakes for nix,
 * microvm and the guest. The log is a queue that is applied on the loop's next turn. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "core/executor.h"
#include "node/executor.h"
#include "node/journal.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/process.h"

#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ME          1
#define DEADLINE_MS 60000

struct proposal {
	struct command command;
	node_executor_answer_cb cb;
	void *cb_data;
	TAILQ_ENTRY(proposal) entry;
};

struct bench {
	uv_loop_t loop;
	uv_idle_t apply;
	uv_timer_t deadline;
	struct config config;
	struct state *state;
	struct node_executor *e;
	TAILQ_HEAD(, proposal) proposals;
	char dir[64];
	bool late; /* the deadline passed */
	bool closed;
	unsigned ready;
};

static const char *build_dir(void)
{
	static char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	path[n > 0 ? n : 0] = '\0';
	for (unsigned i = 0; i < 2; i++)
		*strrchr(path, '/') = '\0';
	return path;
}

/* Takes over what config_init() allocated. */
static void set(char **slot, char *text)
{
	free(*slot);
	*slot = text;
}

static void config_fill(struct config *config, const char *dir)
{
	const char *build = build_dir();

	memset(config, 0, sizeof(*config));
	set(&config->state_dir, xasprintf("%s/state", dir));
	set(&config->run_dir, xasprintf("%s/run", dir));
	set(&config->microvms_dir, xasprintf("%s/microvms", dir));
	set(&config->gcroots_dir, xasprintf("%s/gcroots/microvm", dir));
	set(&config->microvm, xasprintf("%s/tests/fake/microvm", build));
	set(&config->libexec_dir, xasprintf("%s/libexec", build));
	set(&config->path, xasprintf("%s/tests/fake:/usr/bin:/bin", build));
	set(&config->nix_config, xstrdup(""));
	set(&config->systemd_dir, xasprintf("%s/systemd", dir));
	config->builds_max = 4;
	config->build_deadline_ms = 20000;
	config->retry_ms = 10;
}

static void config_empty(struct config *config)
{
	free(config->state_dir);
	free(config->run_dir);
	free(config->microvms_dir);
	free(config->gcroots_dir);
	free(config->microvm);
	free(config->libexec_dir);
	free(config->path);
	free(config->nix_config);
	free(config->systemd_dir);
}

static struct command_result apply_one(struct bench *b, const struct command *command)
{
	struct command_result result = {0};

	state_begin(b->state, 1, clock_wall_ms());
	state_apply(b->state, command, &result);
	if (b->e != NULL)
		node_executor_wake(b->e);
	return result;
}

/* The leader: resolves and places here whatever is pending. */
static void lead(struct bench *b)
{
	for (size_t i = 0; i < b->state->n_vms; i++) {
		const struct vm *vm = b->state->by_uid[i];
		struct command command;

		if (vm->phase != VM_PENDING)
			continue;
		command_init(&command, vm->resolved_set ? COMMAND_VM_ASSIGN : COMMAND_VM_RESOLVE);
		if (vm->resolved_set) {
			command.vm_assign.uid = vm->uid;
			command.vm_assign.node = ME;
			command.vm_assign.epoch = vm->epoch;
		} else {
			command.vm_resolve.uid = vm->uid;
			command.vm_resolve.node = ME;
		}
		(void)apply_one(b, &command);
		command_done(&command);
	}
}

static void on_apply(uv_idle_t *idle)
{
	struct bench *b = idle->data;
	struct proposal *p;

	while ((p = TAILQ_FIRST(&b->proposals)) != NULL) {
		struct command_result result = apply_one(b, &p->command);

		TAILQ_REMOVE(&b->proposals, p, entry);
		p->cb(p->cb_data, 0, &result);
		command_done(&p->command);
		free(p);
	}
	lead(b);
	(void)uv_idle_stop(idle);
}

static int propose(void *data, const struct command *command, node_executor_answer_cb cb,
                   void *cb_data)
{
	struct bench *b = data;
	struct proposal *p = xcalloc(1, sizeof(*p));
	struct buf bytes;

	buf_init(&bytes, LIMIT_COMMAND);
	assert_int_equal(command_encode(command, &bytes, NULL), 0);
	assert_int_equal(command_decode((const uint8_t *)bytes.data, bytes.len, &p->command, NULL),
	                 0);
	buf_done(&bytes);
	p->cb = cb;
	p->cb_data = cb_data;
	TAILQ_INSERT_TAIL(&b->proposals, p, entry);
	(void)uv_idle_start(&b->apply, on_apply);
	return 0;
}

static const char *accel(void *data)
{
	(void)data;
	return "tcg";
}

static void executor_open(struct bench *b)
{
	const struct node_executor_config config = {.loop = &b->loop,
	                                            .config = &b->config,
	                                            .supervisor = &supervisor_shim,
	                                            .node = ME,
	                                            .cluster = "c1",
	                                            .state = b->state,
	                                            .propose = propose,
	                                            .accel = accel,
	                                            .data = b};

	assert_int_equal(node_executor_open(&config, &b->e, NULL), 0);
}

static void on_late(uv_timer_t *timer)
{
	((struct bench *)timer->data)->late = true;
}

static void on_closed(void *data)
{
	((struct bench *)data)->closed = true;
}

static void executor_close(struct bench *b)
{
	b->closed = false;
	node_executor_close(b->e, on_closed, b);
	b->e = NULL;
	while (!b->closed && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_true(b->closed);
}

static void add_node(struct bench *b)
{
	struct command command;

	command_init(&command, COMMAND_NODE_REPORT);
	command.node_report.id = ME;
	memcpy(command.node_report.name, "n1", 3);
	command.node_report.facts.cpus = 1000;
	command.node_report.facts.memory_bytes = 1ULL << 43;
	command.node_report.facts.overcommit_cpu = 400;
	command.node_report.facts.overcommit_memory = 100;
	xreplace(&command.node_report.facts.hypervisors, "qemu");
	xreplace(&command.node_report.facts.boot_id, clock_boot_id());
	assert_int_equal(apply_one(b, &command).code, BLIX_OK);
	command_done(&command);
}

static int bench_setup(void **state)
{
	struct bench *b = xcalloc(1, sizeof(*b));
	cleanup(freep) char *fake = NULL;

	(void)snprintf(b->dir, sizeof(b->dir), "/tmp/blix-test-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	TAILQ_INIT(&b->proposals);
	(void)uv_loop_init(&b->loop);
	(void)uv_idle_init(&b->loop, &b->apply);
	(void)uv_timer_init(&b->loop, &b->deadline);
	b->apply.data = b->deadline.data = b;
	(void)uv_timer_start(&b->deadline, on_late, DEADLINE_MS, 0);
	config_fill(&b->config, b->dir);
	fake = xasprintf("%s/.fake", b->config.microvms_dir);
	assert_int_equal(file_make_dirs(fake, 0755, NULL), 0);
	b->state = state_new();
	add_node(b);
	executor_open(b);
	*state = b;
	return 0;
}

/* Nothing that a test started may stay. */
static void kill_left(struct bench *b)
{
	for (size_t i = 0; i < b->state->n_vms; i++) {
		if (b->state->vms[i]->pid > 1)
			(void)kill((pid_t)b->state->vms[i]->pid, SIGKILL);
	}
}

static int bench_teardown(void **state)
{
	struct bench *b = *state;

	if (b->e != NULL)
		executor_close(b);
	kill_left(b);
	uv_close((uv_handle_t *)&b->apply, NULL);
	uv_close((uv_handle_t *)&b->deadline, NULL);
	(void)uv_run(&b->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&b->loop), 0);
	while (!TAILQ_EMPTY(&b->proposals)) {
		struct proposal *p = TAILQ_FIRST(&b->proposals);
		const struct command_result none = {.code = BLIX_E_NOLEADER};

		TAILQ_REMOVE(&b->proposals, p, entry);
		p->cb(p->cb_data, 0, &none);
		command_done(&p->command);
		free(p);
	}
	assert_int_equal(file_remove_tree(b->dir, NULL), 0);
	state_free(b->state);
	config_empty(&b->config);
	free(b);
	return 0;
}

static void mode(struct bench *b, const char *name, const char *text)
{
	cleanup(freep) char *path = xasprintf("%s/.fake/%s", b->config.microvms_dir, name);

	assert_int_equal(file_put(path, text, strlen(text), 0644, NULL), 0);
}

static void create(struct bench *b, const char *name, const char *flake, const char *ready)
{
	struct command command;

	command_init(&command, COMMAND_VM_CREATE);
	(void)snprintf(command.vm_create.name, sizeof(command.vm_create.name), "%s", name);
	xreplace(&command.vm_create.spec.flake, flake);
	xreplace(&command.vm_create.spec.attr, "demo");
	xreplace(&command.vm_create.spec.ready, ready);
	command.vm_create.spec.memory_bytes = 128ULL << 20;
	assert_int_equal(apply_one(b, &command).code, BLIX_OK);
	command_done(&command);
	lead(b);
}

static void power(struct bench *b, const char *name, enum vm_verb verb, uint32_t grace_ms)
{
	struct command command;

	command_init(&command, COMMAND_VM_POWER);
	(void)snprintf(command.vm_power.name, sizeof(command.vm_power.name), "%s", name);
	command.vm_power.verb = verb;
	command.vm_power.grace_ms = grace_ms;
	assert_int_equal(apply_one(b, &command).code, BLIX_OK);
	command_done(&command);
	lead(b);
}

static void drop(struct bench *b, const char *name)
{
	struct command command;

	command_init(&command, COMMAND_VM_DELETE);
	(void)snprintf(command.vm_delete.name, sizeof(command.vm_delete.name), "%s", name);
	assert_int_equal(apply_one(b, &command).code, BLIX_OK);
	command_done(&command);
}

static const struct vm *wait_phase(struct bench *b, const char *name, enum vm_phase phase)
{
	const struct vm *vm = state_vm(b->state, name);

	while (vm != NULL && vm->phase != phase && !b->late) {
		(void)uv_run(&b->loop, UV_RUN_ONCE);
		vm = state_vm(b->state, name);
	}
	if (vm == NULL)
		fail_msg("%s is gone", name);
	else if (vm->phase != phase)
		fail_msg("%s: %s: %s", name, vm_phase_name(vm->phase), vm->message);
	return vm;
}

static void wait_ready(struct bench *b, const char *name)
{
	while (!state_vm(b->state, name)->ready && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_true(state_vm(b->state, name)->ready);
}

static void wait_gone(struct bench *b, const char *name)
{
	while (state_vm(b->state, name) != NULL && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_null(state_vm(b->state, name));
}

static bool is_there(const struct bench *b, const char *path)
{
	cleanup(freep) char *full = xasprintf("%s/%s", b->dir, path);
	struct stat st;

	return lstat(full, &st) == 0;
}

static char *read_file(const struct bench *b, const char *path, size_t *ret_n)
{
	cleanup(freep) char *full = xasprintf("%s/%s", b->dir, path);
	struct buf text;

	buf_init(&text, LIMIT_FILE);
	assert_int_equal(file_read(full, &text, NULL), 0);
	*ret_n = text.len;
	return buf_take(&text);
}

static void life(void **state)
{
	struct bench *b = *state;
	const struct vm *vm;
	size_t n = 0;
	char *text;

	create(b, "web", "path:/srv/demo", "console:fake: ready");
	vm = wait_phase(b, "web", VM_RUNNING);
	assert_true(vm->pid > 1);
	assert_int_equal(kill((pid_t)vm->pid, 0), 0);
	assert_int_equal(vm->resolved.memory_bytes, 128ULL << 20);
	assert_string_equal(vm->resolved.base_url, "path:/srv/demo?narHash=sha256-fake");
	wait_ready(b, "web");
	assert_true(is_there(b, "microvms/web/.blix.json"));
	assert_true(is_there(b, "microvms/web/booted"));
	text = read_file(b, "state/vms/web/console.log", &n);
	assert_string_equal(text, "fake: ready\n");
	free(text);
	power(b, "web", VM_VERB_STOP, 30000);
	vm = wait_phase(b, "web", VM_STOPPED);
	assert_int_equal(vm->exit_code, 0);
	assert_true(is_there(b, "microvms/web/current"));
	power(b, "web", VM_VERB_START, 0);
	(void)wait_phase(b, "web", VM_RUNNING);
	drop(b, "web");
	wait_gone(b, "web");
	assert_false(is_there(b, "microvms/web"));
	assert_false(is_there(b, "state/vms/web"));
	assert_false(is_there(b, "run/vms/web"));
	assert_false(is_there(b, "gcroots/microvm/web"));
	assert_false(is_there(b, "state/orphans"));
}

/* The words of each command, byte for byte. */
static void command_words(void **state)
{
	struct bench *b = *state;
	cleanup(freep) char *create_words = NULL;
	cleanup(freep) char *text = NULL;
	size_t n = 0;

	create(b, "web", "path:/srv/demo", "");
	(void)wait_phase(b, "web", VM_RUNNING);
	text = read_file(b, "microvms/.fake/log", &n);
	create_words =
		xasprintf("-f%cpath:%s/vms/web/flake%c-c%cweb%c", 1, b->config.state_dir, 1, 1, 1);
	for (size_t i = 0; i < n; i++) {
		if (text[i] == '\0')
			text[i] = '\001';
	}
	assert_non_null(strstr(text, create_words));
	assert_non_null(strstr(text, "microvm\001-r\001web\001\n"));
	assert_non_null(strstr(text, "nix\001flake\001metadata\001--json\001path:/srv/demo\001\n"));
	assert_null(strstr(text, "-u\001"));
}

static void data_is_kept(void **state)
{
	struct bench *b = *state;
	cleanup(freep) char *image = xasprintf("%s/web/data.img", b->config.microvms_dir);
	char kept[64];
	const struct vm *vm;

	create(b, "web", "path:/srv/volume", "");
	vm = wait_phase(b, "web", VM_RUNNING);
	assert_int_equal(vm->resolved.n_volumes, 1);
	assert_int_equal(file_put(image, "data", 4, 0600, NULL), 0);
	(void)snprintf(kept, sizeof(kept), "state/orphans/web-%" PRIu64 "/data.img", vm->uid);
	drop(b, "web");
	wait_gone(b, "web");
	assert_false(is_there(b, "microvms/web"));
	assert_true(is_there(b, kept));
}

static void failures(void **state)
{
	static const struct {
		const char *flake, *mode, *reason, *words;
		enum vm_phase phase;
	} cases[] = {
		{"path:/srv/demo", "fail", "build-failed", "> fake: told to fail", VM_FAILED},
		{"path:/srv/demo", "fail-once", "", "", VM_RUNNING},
		{"path:/srv/demo", "die-once", "", "", VM_RUNNING},
		{"path:/srv/demo", "die", "build-killed", "killed by signal 9", VM_FAILED},
		{"path:/srv/demo", "flood", "", "", VM_RUNNING},
		{"path:/srv/demo", "lie", "", "", VM_RUNNING},
		{"path:/srv/demo", "nothing", "runner-mismatch", "nothing instead of", VM_FAILED},
		{"path:/srv/demo", "exit1", "runner-exited", "fake: cannot start", VM_CRASHLOOP},
		{"path:/srv/demo",
	         "end 1 qemu-system-x86_64: cannot set up guest memory 'ram': Cannot "
	         "allocate memory",
	         "out-of-memory", "last words:\nqemu-system", VM_CRASHLOOP},
		{"path:/srv/demo", "end 1 qemu-system-x86_64: event notifier: Too many open files",
	         "out-of-fds", "hint: raise LimitNOFILE", VM_CRASHLOOP},
		{"path:/srv/demo",
	         "end 1 qemu-system-x86_64: -device x: Failed to get \"write\" lock", "disk-locked",
	         "another process uses the image", VM_CRASHLOOP},
		{"path:/srv/demo",
	         "end 134 qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69", "no-kvm",
	         "microvm.cpu", VM_CRASHLOOP},
		{"path:/srv/demo", "end 127 microvm-run: No such file or directory",
	         "runner-missing", "microvm-run", VM_CRASHLOOP},
		{"path:/srv/demo", "end 126 microvm-run: Permission denied", "runner-bad",
	         "cannot be executed", VM_CRASHLOOP},
		{"path:/srv/demo", "end 137 bye", "runner-killed", "dmesg", VM_CRASHLOOP},
		{"path:/srv/demo", "exit0", "guest-shutdown", "", VM_STOPPED},
		{"path:/srv/missing", "ok", "flake-missing", "No such file", VM_FAILED},
		{"path:/srv/evalfail", "ok", "flake-eval-failed", "not for you", VM_FAILED},
		{"path:/srv/noattr", "ok", "flake-attribute-missing", "demo", VM_FAILED},
		{"github:me/offline", "ok", "fetch-failed", "unable to download", VM_FAILED},
	};
	struct bench *b = *state;
	char name[8];

	log_level(LOG_CRIT);
	for (size_t i = 0; i < array_size(cases); i++) {
		(void)snprintf(name, sizeof(name), "v%zu", i);
		mode(b, name, cases[i].mode);
		create(b, name, cases[i].flake, "");
	}
	for (size_t i = 0; i < array_size(cases); i++) {
		const struct vm *vm;

		(void)snprintf(name, sizeof(name), "v%zu", i);
		vm = wait_phase(b, name, cases[i].phase);
		assert_string_equal(vm->reason, cases[i].reason);
		assert_non_null(strstr(vm->message, cases[i].words));
	}
	log_level(LOG_INFO);
}

static void a_hanging_build(void **state)
{
	struct bench *b = *state;
	const struct vm *vm;

	log_level(LOG_CRIT);
	b->config.build_deadline_ms = 50;
	mode(b, "web", "hang");
	create(b, "web", "path:/srv/demo", "");
	vm = wait_phase(b, "web", VM_FAILED);
	assert_string_equal(vm->reason, "build-timeout");
	b->config.build_deadline_ms = 20000;
	power(b, "web", VM_VERB_START, 0);
	(void)wait_phase(b, "web", VM_BUILDING);
	power(b, "web", VM_VERB_STOP, 0);
	(void)wait_phase(b, "web", VM_STOPPED);
	log_level(LOG_INFO);
}

static void foreign_directories(void **state)
{
	struct bench *b = *state;
	cleanup(freep) char *dir = xasprintf("%s/web", b->config.microvms_dir);
	const struct vm *vm;
	size_t n = 0;
	char *text;

	log_level(LOG_CRIT);
	assert_int_equal(file_make_dirs(dir, 0755, NULL), 0);
	create(b, "web", "path:/srv/demo", "");
	vm = wait_phase(b, "web", VM_FAILED);
	assert_int_equal(vm->code, BLIX_E_EXISTS);
	assert_string_equal(vm->reason, "foreign-directory");
	text = read_file(b, "microvms/.fake/log", &n);
	assert_null(memmem(text, n, "-c\0web", 6)); /* not even tried */
	free(text);
	drop(b, "web");
	wait_gone(b, "web");
	assert_true(is_there(b, "microvms/web"));
	assert_false(is_there(b, "microvms/web/.blix.json"));
	log_level(LOG_INFO);
}

/* A power cut may leave the marker empty, since only the claim is durable. */
static void a_lost_marker(void **state)
{
	struct bench *b = *state;
	cleanup(freep) char *marker = xasprintf("%s/web/.blix.json", b->config.microvms_dir);
	const struct vm *vm;
	pid_t pid;

	create(b, "web", "path:/srv/demo", "");
	vm = wait_phase(b, "web", VM_RUNNING);
	pid = (pid_t)vm->pid;
	assert_int_equal(truncate(marker, 0), 0);
	drop(b, "web");
	wait_gone(b, "web");
	assert_false(is_there(b, "microvms/web"));
	assert_int_equal(kill(pid, 0), -1);
}

static void restarting_the_daemon(void **state)
{
	struct bench *b = *state;
	uint64_t pid, stopped;

	create(b, "web", "path:/srv/demo", "");
	create(b, "db", "path:/srv/demo", "");
	pid = wait_phase(b, "web", VM_RUNNING)->pid;
	stopped = wait_phase(b, "db", VM_RUNNING)->pid;
	executor_close(b);
	assert_int_equal(kill((pid_t)pid, 0), 0);
	assert_int_equal(kill((pid_t)stopped, SIGTERM), 0); /* it ends while nobody looks */
	executor_open(b);
	assert_int_equal(wait_phase(b, "db", VM_STOPPED)->exit_code, 0);
	assert_int_equal(wait_phase(b, "web", VM_RUNNING)->pid, pid);
	/* It is watched: its end is noticed. */
	assert_int_equal(kill((pid_t)pid, SIGTERM), 0);
	assert_string_equal(wait_phase(b, "web", VM_STOPPED)->reason, "guest-shutdown");
}

/* The numbers of the record `web`; the second form writes others. */
static cJSON *record_read(const struct bench *b)
{
	size_t n;
	cleanup(freep) char *text = read_file(b, "run/vms/web/status.json", &n);
	cJSON *root = NULL;

	assert_int_equal(json_parse(text, n, &json_limits_answer, &root, NULL), 0);
	return root;
}

static void record_write(const struct bench *b, cJSON *root, pid_t pid)
{
	cleanup(freep) char *path = xasprintf("%s/run/vms/web/status.json", b->dir);
	cleanup(freep) char *text = NULL;
	uint64_t ticks = 0;

	assert_int_equal(process_start_time(pid, &ticks, NULL), 0);
	cJSON_SetNumberValue(cJSON_GetObjectItem(root, "pid"), (double)pid);
	cJSON_SetNumberValue(cJSON_GetObjectItem(root, "startTime"), (double)ticks);
	text = cJSON_PrintUnformatted(root);
	assert_int_equal(file_put(path, text, strlen(text), 0644, NULL), 0);
}

/* A record whose pid belongs to somebody else now, as if start times were equal too. */
static void a_stranger(void **state)
{
	struct bench *b = *state;
	cleanup(json_freep) cJSON *root = NULL;
	uint64_t shim = 0;
	pid_t stranger;
	uint64_t pid;

	create(b, "web", "path:/srv/demo", "");
	pid = wait_phase(b, "web", VM_RUNNING)->pid;
	executor_close(b);
	stranger = fork();
	if (stranger == 0) {
		for (;;)
			(void)pause();
	}
	root = record_read(b);
	assert_int_equal(json_get_u64(root, "shimPid", &shim, NULL), 0);
	assert_int_equal(kill((pid_t)shim, SIGKILL), 0);
	assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
	record_write(b, root, stranger);
	executor_open(b);
	power(b, "web", VM_VERB_STOP, 0);
	assert_string_equal(wait_phase(b, "web", VM_UNKNOWN)->reason, "process-unknown");
	executor_close(b);
	executor_open(b);
	for (unsigned i = 0; i < 200; i++) /* whatever it still does about it */
		(void)uv_run(&b->loop, UV_RUN_NOWAIT);
	assert_int_equal(waitpid(stranger, NULL, WNOHANG), 0);
	assert_int_equal(kill(stranger, SIGKILL), 0);
	assert_int_equal(waitpid(stranger, NULL, 0), stranger);
	(void)wait_phase(b, "web", VM_STOPPED); /* as it was asked while nobody knew */
}

static void crashing_runners(void **state)
{
	struct bench *b = *state;
	uint64_t pid;

	mode(b, "web", "stubborn");
	create(b, "web", "path:/srv/demo", "");
	pid = wait_phase(b, "web", VM_RUNNING)->pid;
	assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
	while (state_vm(b->state, "web")->restarts == 0 && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_int_not_equal(wait_phase(b, "web", VM_RUNNING)->pid, pid);
	power(b, "web", VM_VERB_STOP, 0);
	assert_int_equal(wait_phase(b, "web", VM_STOPPED)->exit_code, 128 + SIGKILL);
}

static void a_hundred(void **state)
{
	struct bench *b = *state;
	uint64_t began_ms = clock_boot_ms();
	char name[8];

	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof(name), "v%u", i);
		create(b, name, "path:/srv/demo", "console:ready");
	}
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof(name), "v%u", i);
		(void)wait_phase(b, name, VM_RUNNING);
		wait_ready(b, name);
	}
	print_message("100 VMs ready in %ju ms\n", (uintmax_t)(clock_boot_ms() - began_ms));
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof(name), "v%u", i);
		drop(b, name);
	}
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof(name), "v%u", i);
		wait_gone(b, name);
	}
	print_message("and gone in %ju ms\n", (uintmax_t)(clock_boot_ms() - began_ms));
}

/* INTENTs without a DONE in the file. */
static size_t count_open(const struct bench *b)
{
	cleanup(freep) char *path = xasprintf("%s/journal", b->config.state_dir);
	cleanup(buf_done) struct buf bytes;
	struct journal j;
	size_t kept = 0, n;

	buf_init(&bytes, LIMIT_JOURNAL);
	assert_int_equal(file_read(path, &bytes, NULL), 0);
	journal_init(&j);
	assert_int_equal(journal_replay(&j, (const uint8_t *)bytes.data, bytes.len, &kept, NULL),
	                 0);
	n = j.n;
	journal_free(&j);
	return n;
}

static void wait_reason(struct bench *b, const char *name, const char *reason)
{
	while (strcmp(state_vm(b->state, name)->reason, reason) != 0 && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_string_equal(state_vm(b->state, name)->reason, reason);
}

static size_t count_events(const struct bench *b, const char *reason)
{
	size_t n = 0;

	for (size_t i = 0; i < b->state->n_events; i++)
		n += strcmp(state_event(b->state, i)->reason, reason) == 0;
	return n;
}

/* What cannot be written down first is not done, however often; then it goes on by itself. */
static void a_full_disk(void **state)
{
	struct bench *b = *state;
	struct sigaction ignore = {.sa_handler = SIG_IGN}, old;
	struct rlimit none = {0}, before;
	size_t retries;

	create(b, "web", "path:/srv/demo", "");
	(void)wait_phase(b, "web", VM_RUNNING);
	power(b, "web", VM_VERB_STOP, 0);
	(void)wait_phase(b, "web", VM_STOPPED);
	assert_true(is_there(b, "run/vms/web/exit.json"));
	retries = count_events(b, "vm-retry");
	(void)sigaction(SIGXFSZ, &ignore, &old);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	none.rlim_max = before.rlim_max;
	log_level(LOG_CRIT);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	power(b, "web", VM_VERB_START, 0);
	wait_reason(b, "web", "journal-failed");
	while (count_events(b, "vm-retry") < retries + EXECUTOR_TRIES + 1 && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_int_equal(state_vm(b->state, "web")->phase, VM_SCHEDULED); /* never given up */
	assert_true(is_there(b, "run/vms/web/exit.json"));                /* and never tried */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	(void)wait_phase(b, "web", VM_RUNNING);
	log_level(LOG_INFO);
	(void)sigaction(SIGXFSZ, &old, NULL);
}

static void noted(void *data, const struct blix_error *err)
{
	assert_null(err);
	*(bool *)data = true;
}

/* As a crash leaves it: an INTENT and no DONE. */
static void leave_intent(struct bench *b, const struct vm *vm, enum journal_step step)
{
	cleanup(freep) char *path = xasprintf("%s/journal", b->config.state_dir);
	struct journal_intent intent = {.operation = vm->operation,
	                                .uid = vm->uid,
	                                .epoch = vm->epoch,
	                                .digest = journal_digest("x", 1),
	                                .step = step};
	struct node_journal *j = NULL;
	bool durable = false;

	memcpy(intent.name, vm->name, sizeof(intent.name));
	assert_int_equal(node_journal_open(&b->loop, path, &j, NULL), 0);
	node_journal_intend(j, &intent, 1, noted, &durable);
	while (!durable && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	b->closed = false;
	node_journal_close(j, on_closed, b);
	while (!b->closed && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
}

static void an_unknown_step(void **state)
{
	struct bench *b = *state;
	cleanup(freep) char *link = xasprintf("%s/web/current", b->config.microvms_dir);
	cleanup(freep) char *aside = xasprintf("%s/web/aside", b->config.microvms_dir);
	cleanup(freep) char *words = NULL;
	const struct vm *vm;
	uint64_t pid;

	create(b, "web", "path:/srv/demo", "");
	vm = wait_phase(b, "web", VM_RUNNING);
	pid = vm->pid;
	executor_close(b);
	leave_intent(b, vm, JOURNAL_UPDATE);
	assert_int_equal(rename(link, aside), 0);
	assert_int_equal(file_put(link, "", 0, 0644, NULL), 0); /* no link: nobody can say */
	executor_open(b);
	vm = wait_phase(b, "web", VM_UNKNOWN);
	assert_string_equal(vm->reason, "step-unknown");
	words = xasprintf("step 'update' of operation %" PRIu64, vm->operation);
	assert_non_null(strstr(vm->message, words));
	assert_non_null(strstr(vm->message, "/web/current"));
	assert_int_equal(kill((pid_t)pid, 0), 0); /* left alone */
	/* Mended by hand, it goes on by itself: with the process that was there. */
	assert_int_equal(rename(aside, link), 0);
	assert_int_equal(wait_phase(b, "web", VM_RUNNING)->pid, pid);
}

/* Marks that cannot be read: who knows what is up? */
static void unknown_marks(void **state)
{
	static const enum journal_step steps[] = {JOURNAL_SETUP, JOURNAL_TEARDOWN};
	struct bench *b = *state;
	cleanup(freep) char *marks = xasprintf("%s/run/vms/web/setup", b->dir);
	cleanup(freep) char *words = NULL;
	const struct vm *vm;

	create(b, "web", "path:/srv/demo", "");
	(void)wait_phase(b, "web", VM_RUNNING);
	for (size_t i = 0; i < array_size(steps); i++) {
		power(b, "web", VM_VERB_STOP, 0);
		vm = wait_phase(b, "web", VM_STOPPED);
		executor_close(b);
		leave_intent(b, vm, steps[i]);
		assert_int_equal(file_put(marks, "", 0, 0644, NULL), 0);
		executor_open(b);
		power(b, "web", VM_VERB_START, 0);
		vm = wait_phase(b, "web", VM_UNKNOWN);
		assert_string_equal(vm->reason, "step-unknown");
		free(words);
		words = xasprintf("step '%s'", journal_step_name(steps[i]));
		assert_non_null(strstr(vm->message, words));
		assert_non_null(strstr(vm->message, marks));
		assert_false(is_there(b, "microvms/web/booted")); /* nothing was begun */
		assert_int_equal(unlink(marks), 0);
		(void)wait_phase(b, "web", VM_RUNNING);
	}
}

/* Roots are not removed before that is written down. Not where the thread sanitizer's runtime
 * writes a file as each child starts, which the limit forbids. */
#ifndef __SANITIZE_THREAD__
static void roots_wait_for_the_journal(void **state)
{
	struct bench *b = *state;
	struct sigaction ignore = {.sa_handler = SIG_IGN}, old;
	struct rlimit none = {0}, before;
	cleanup(freep) char *root = xasprintf("%s/web.7", b->config.gcroots_dir);
	const struct vm *vm;

	create(b, "web", "path:/srv/demo", "");
	vm = wait_phase(b, "web", VM_RUNNING);
	assert_true(is_there(b, "gcroots/microvm/web.1"));
	executor_close(b);
	assert_int_equal(symlink("/nowhere", root), 0); /* of a generation that is not kept */
	leave_intent(b, vm, JOURNAL_PRUNE);
	(void)sigaction(SIGXFSZ, &ignore, &old);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	none.rlim_max = before.rlim_max;
	log_level(LOG_CRIT);
	executor_open(b);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	/* The journal is asked for a start after it was asked for the roots. */
	assert_int_equal(kill((pid_t)vm->pid, SIGKILL), 0);
	wait_reason(b, "web", "journal-failed");
	assert_true(is_there(b, "gcroots/microvm/web.7"));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	log_level(LOG_INFO);
	(void)sigaction(SIGXFSZ, &old, NULL);
	(void)wait_phase(b, "web", VM_RUNNING);
	while (is_there(b, "gcroots/microvm/web.7") && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_false(is_there(b, "gcroots/microvm/web.7"));
	assert_true(is_there(b, "gcroots/microvm/web.1"));
}
#endif

/* Every other step of a VM that runs, and all of one that is gone, is told from what is there. */
static void steps_that_are_told(void **state)
{
	cleanup(freep) char *path = NULL;
	struct bench *b = *state;
	struct node_journal *j = NULL;
	const struct vm *vm;
	struct vm *gone;
	uint64_t pid;

	path = xasprintf("%s/journal", b->config.state_dir);
	create(b, "old", "path:/srv/demo", "");
	gone = vm_ref((struct vm *)(uintptr_t)state_vm(b->state, "old"));
	drop(b, "old");
	wait_gone(b, "old");
	create(b, "web", "path:/srv/demo", "");
	vm = wait_phase(b, "web", VM_RUNNING);
	pid = vm->pid;
	executor_close(b);
	for (enum journal_step step = JOURNAL_CLAIM; step < JOURNAL_STEP_COUNT; step++) {
		leave_intent(b, vm, step);
		leave_intent(b, gone, step);
	}
	vm_unref(gone);
	executor_open(b);
	while (count_open(b) != 0 && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	assert_int_equal(wait_phase(b, "web", VM_RUNNING)->pid, pid);
	executor_close(b);
	assert_int_equal(node_journal_open(&b->loop, path, &j, NULL), 0);
	assert_int_equal(node_journal_table(j)->n, 0);
	b->closed = false;
	node_journal_close(j, on_closed, b);
	while (!b->closed && !b->late)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(life),
		TEST(command_words),
		TEST(data_is_kept),
		TEST(failures),
		TEST(a_hanging_build),
		TEST(foreign_directories),
		TEST(a_lost_marker),
		TEST(restarting_the_daemon),
		TEST(a_stranger),
		TEST(crashing_runners),
		TEST(a_full_disk),
		TEST(an_unknown_step),
		TEST(steps_that_are_told),
		TEST(unknown_marks),
#ifndef __SANITIZE_THREAD__
		TEST(roots_wait_for_the_journal),
#endif
		TEST(a_hundred),
	};

	return cmocka_run_group_tests_name("node executor", tests, NULL, NULL);
}
