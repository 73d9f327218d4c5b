/* lib/core: the life of a VM through commands, exactly-once sessions, capacity, snapshots, and that
 * the same commands give the same state on every replica. */
#include "base/alloc.h"
#include "core/leader.h"
#include "core/object_json.h"
#include "core/place.h"
#include "core/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define GIB (1ULL << 30)

/* Through bytes, as every replica sees it. */
static struct command_result run(struct state *s, struct command *c)
{
	cleanup(buf_done) struct buf bytes;
	struct command copy;
	struct command_result r;

	buf_init(&bytes, LIMIT_COMMAND);
	assert_int_equal(command_encode(c, &bytes, NULL), 0);
	assert_int_equal(command_decode((uint8_t *)bytes.data, bytes.len, &copy, NULL), 0);
	for (size_t n = 0; n < bytes.len; n++) { /* every truncation is refused */
		struct command bad;

		assert_true(command_decode((uint8_t *)bytes.data, n, &bad, NULL) < 0);
	}
	state_begin(s, s->clock_ms == 0 ? UINT64_MAX : 10, 1000000);
	state_apply(s, &copy, &r);
	command_done(&copy);
	command_done(c);
	return r;
}

static struct command_result create(struct state *s, const char *name)
{
	struct command c;

	command_init(&c, COMMAND_VM_CREATE);
	(void)snprintf(c.vm_create.name, sizeof(c.vm_create.name), "%s", name);
	xreplace(&c.vm_create.spec.flake, "github:me/vms");
	xreplace(&c.vm_create.spec.attr, "web");
	(void)labels_set(&c.vm_create.spec.labels, "tier", "front", NULL);
	return run(s, &c);
}

static void join(struct state *s, uint64_t id, uint64_t memory_bytes)
{
	struct command c;

	command_init(&c, COMMAND_NODE_REPORT);
	c.node_report.id = id;
	(void)snprintf(c.node_report.name, sizeof(c.node_report.name), "n%u", (unsigned)id);
	c.node_report.facts.cpus = 8;
	c.node_report.facts.memory_bytes = memory_bytes;
	xreplace(&c.node_report.facts.hypervisors, "qemu firecracker");
	assert_int_equal(run(s, &c).code, BLIX_OK);
}

static struct command_result power(struct state *s, const char *name, enum vm_verb verb)
{
	struct command c;

	command_init(&c, COMMAND_VM_POWER);
	(void)snprintf(c.vm_power.name, sizeof(c.vm_power.name), "%s", name);
	c.vm_power.verb = verb;
	c.vm_power.grace_ms = 30000;
	return run(s, &c);
}

static struct command_result delete (struct state *s, const char *name)
{
	struct command c;

	command_init(&c, COMMAND_VM_DELETE);
	(void)snprintf(c.vm_delete.name, sizeof(c.vm_delete.name), "%s", name);
	return run(s, &c);
}

static void resolve(struct state *s, const char *name, uint64_t memory_bytes)
{
	const struct vm *vm = state_vm(s, name);
	struct command c;

	command_init(&c, COMMAND_VM_RESOLVE);
	c.vm_resolve.uid = vm->uid;
	c.vm_resolve.node = 1;
	assert_int_equal(run(s, &c).code, BLIX_OK);
	vm = state_vm(s, name);
	assert_int_equal(vm->phase, VM_RESOLVING);
	command_init(&c, COMMAND_VM_RESOLVED);
	c.vm_resolved.uid = vm->uid;
	c.vm_resolved.node = 1;
	c.vm_resolved.resolved.cpus = 1;
	c.vm_resolved.resolved.memory_bytes = memory_bytes;
	xreplace(&c.vm_resolved.resolved.hypervisor, "qemu");
	xreplace(&c.vm_resolved.resolved.out_path, "/nix/store/x-runner");
	(void)buf_add_string(&c.vm_resolved.lock, "{\"version\":7}");
	assert_int_equal(run(s, &c).code, BLIX_OK);
}

static struct command_result assign(struct state *s, const char *name, uint64_t node)
{
	const struct vm *vm = state_vm(s, name);
	struct command c;

	command_init(&c, COMMAND_VM_ASSIGN);
	c.vm_assign.uid = vm->uid;
	c.vm_assign.node = node;
	c.vm_assign.epoch = vm->epoch;
	return run(s, &c);
}

static struct command_result report(struct state *s, const char *name, enum vm_report_kind kind,
                                    enum blix_code code)
{
	const struct vm *vm = state_vm(s, name);
	struct command c;

	command_init(&c, COMMAND_VM_REPORT);
	c.vm_report.kind = kind;
	c.vm_report.uid = vm->uid;
	c.vm_report.node = vm->node;
	c.vm_report.epoch = vm->epoch;
	c.vm_report.code = code;
	c.vm_report.pid = 42;
	xreplace(&c.vm_report.runner, "/nix/store/x-runner");
	xreplace(&c.vm_report.message, "said \xff so"); /* bad UTF-8 from a console */
	return run(s, &c);
}

static void to_running(struct state *s, const char *name)
{
	assert_int_equal(create(s, name).code, BLIX_OK);
	resolve(s, name, GIB);
	assert_int_equal(assign(s, name, 1).code, BLIX_OK);
	assert_int_equal(report(s, name, VM_REPORT_BUILDING, BLIX_OK).code, BLIX_OK);
	assert_int_equal(report(s, name, VM_REPORT_STARTING, BLIX_OK).code, BLIX_OK);
	assert_int_equal(report(s, name, VM_REPORT_RUNNING, BLIX_OK).code, BLIX_OK);
	assert_int_equal(report(s, name, VM_REPORT_READY, BLIX_OK).code, BLIX_OK);
}

static void life(void **state)
{
	struct state *s = state_new();
	const struct vm *vm;

	(void)state;
	join(s, 1, 16 * GIB);
	to_running(s, "web");
	vm = state_vm(s, "web");
	assert_int_equal(vm->phase, VM_RUNNING);
	assert_true(vm->ready);
	assert_int_equal(vm->pid, 42);
	assert_int_equal(state_node(s, 1)->committed_bytes, GIB + (64ULL << 20));
	assert_int_equal(s->phases[VM_RUNNING], 1);

	assert_int_equal(power(s, "web", VM_VERB_STOP).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_STOPPING);
	assert_int_equal(report(s, "web", VM_REPORT_RUNNING, BLIX_OK).why, REFUSAL_STALE);
	assert_int_equal(report(s, "web", VM_REPORT_STOPPED, BLIX_OK).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_STOPPED);
	assert_int_equal(state_node(s, 1)->committed_bytes, 0);
	assert_int_equal(state_node(s, 1)->vms, 0);

	assert_int_equal(power(s, "web", VM_VERB_START).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_PENDING);
	assert_int_equal(assign(s, "web", 1).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->epoch, 2);

	assert_int_equal(delete (s, "web").code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_DELETING);
	assert_int_equal(power(s, "web", VM_VERB_START).why, REFUSAL_VM_DELETING);
	assert_int_equal(s->n_locks, 1);
	assert_int_equal(report(s, "web", VM_REPORT_GONE, BLIX_OK).code, BLIX_OK);
	assert_null(state_vm(s, "web"));
	assert_int_equal(s->n_locks, 0);
	assert_int_equal(state_node(s, 1)->committed_bytes, 0);
	assert_int_equal(delete (s, "web").code, BLIX_E_NOTFOUND);
	state_free(s);
}

static void restart_places_again(void **state)
{
	struct state *s = state_new();

	(void)state;
	join(s, 1, 16 * GIB);
	to_running(s, "web");
	assert_int_equal(power(s, "web", VM_VERB_RESTART).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_STOPPED, BLIX_OK).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_PENDING);
	assert_int_equal(state_vm(s, "web")->spec.power, VM_POWER_RUNNING);
	state_free(s);
}

/* What was adopted may run where it was found: until blix has run it, it goes nowhere else. */
static void adopted_stays(void **state)
{
	struct state *s = state_new();
	const struct vm *vm;
	struct command c;

	(void)state;
	join(s, 1, 2 * GIB);
	join(s, 2, 64 * GIB);
	command_init(&c, COMMAND_VM_CREATE);
	(void)snprintf(c.vm_create.name, sizeof(c.vm_create.name), "old");
	c.vm_create.adopt = 1;
	xreplace(&c.vm_create.spec.flake, "github:me/vms");
	xreplace(&c.vm_create.spec.attr, "old");
	assert_int_equal(run(s, &c).code, BLIX_OK);
	resolve(s, "old", 8 * GIB);
	vm = state_vm(s, "old");
	assert_int_equal(vm->phase, VM_PENDING);
	assert_null(place(s, vm));
	assert_int_equal(assign(s, "old", 2).code, BLIX_E_NOROOM);
	join(s, 1, 64 * GIB);
	assert_int_equal(assign(s, "old", 1).code, BLIX_OK);
	assert_int_equal(report(s, "old", VM_REPORT_FAILED, BLIX_E_START).code, BLIX_OK);
	assert_int_equal(state_vm(s, "old")->phase, VM_FAILED); /* and not on its way to node 2 */
	state_free(s);
}

static void capacity_is_atomic(void **state)
{
	struct state *s = state_new();

	(void)state;
	join(s, 1, 2 * GIB);
	assert_int_equal(create(s, "a").code, BLIX_OK);
	assert_int_equal(create(s, "b").code, BLIX_OK);
	resolve(s, "a", GIB);
	resolve(s, "b", GIB);
	assert_int_equal(assign(s, "a", 1).code, BLIX_OK);
	assert_int_equal(assign(s, "b", 1).why, REFUSAL_NO_ROOM);
	assert_int_equal(state_vm(s, "b")->phase, VM_PENDING);
	assert_int_equal(delete (s, "a").code, BLIX_OK);
	/* Held until its node confirms: the process may still be there. */
	assert_int_equal(assign(s, "b", 1).why, REFUSAL_NO_ROOM);
	assert_int_equal(report(s, "a", VM_REPORT_GONE, BLIX_OK).code, BLIX_OK);
	assert_int_equal(assign(s, "b", 1).code, BLIX_OK);
	state_free(s);
}

static void failure_moves_on(void **state)
{
	struct state *s = state_new();

	(void)state;
	join(s, 1, 16 * GIB);
	join(s, 2, 16 * GIB);
	to_running(s, "web");
	assert_int_equal(report(s, "web", VM_REPORT_RETRY, BLIX_E_START).code, BLIX_OK);
	assert_string_equal(state_vm(s, "web")->message, "said ? so");
	assert_int_equal(state_vm(s, "web")->restarts, 1);
	assert_int_equal(report(s, "web", VM_REPORT_FAILED, BLIX_E_START).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_PENDING);
	assert_int_equal(place(s, state_vm(s, "web"))->id, 2);
	assert_int_equal(assign(s, "web", 1).why, REFUSAL_NO_ROOM); /* it failed there */
	assert_int_equal(assign(s, "web", 2).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->n_holders, 2);
	assert_int_equal(report(s, "web", VM_REPORT_FAILED, BLIX_E_START).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_FAILED);
	/* Deleted only when both nodes have confirmed. */
	assert_int_equal(delete (s, "web").code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_GONE, BLIX_OK).code, BLIX_OK);
	assert_non_null(state_vm(s, "web"));
	state_free(s);
}

static struct command_result exited(struct state *s, const char *name, int32_t exit_code,
                                    bool stable)
{
	const struct vm *vm = state_vm(s, name);
	struct command c;

	command_init(&c, COMMAND_VM_REPORT);
	c.vm_report.kind = VM_REPORT_EXITED;
	c.vm_report.uid = vm->uid;
	c.vm_report.node = vm->node;
	c.vm_report.epoch = vm->epoch;
	c.vm_report.exit_code = exit_code;
	c.vm_report.stable = stable;
	c.vm_report.wait_ms = 4000;
	if (exit_code != 0) {
		c.vm_report.code = BLIX_E_START;
		xreplace(&c.vm_report.reason, "runner-exited");
		xreplace(&c.vm_report.message, "last words");
	}
	return run(s, &c);
}

static void run_again(struct state *s, const char *name)
{
	assert_int_equal(report(s, name, VM_REPORT_STARTING, BLIX_OK).code, BLIX_OK);
	assert_int_equal(report(s, name, VM_REPORT_RUNNING, BLIX_OK).code, BLIX_OK);
}

/* What follows an end, for each policy and each kind of end. */
static void restart_policies(void **state)
{
	static const struct {
		enum vm_restart policy;
		int32_t exit_code;
		enum vm_phase phase;
		const char *reason;
	} rows[] = {
		{VM_RESTART_ON_FAILURE, 0, VM_STOPPED, "guest-shutdown"},
		{VM_RESTART_ON_FAILURE, 1, VM_SCHEDULED, "runner-exited"},
		{VM_RESTART_ALWAYS, 0, VM_SCHEDULED, "guest-shutdown"},
		{VM_RESTART_ALWAYS, 1, VM_SCHEDULED, "runner-exited"},
		{VM_RESTART_NEVER, 0, VM_STOPPED, "guest-shutdown"},
		{VM_RESTART_NEVER, 1, VM_FAILED, "runner-exited"},
	};

	(void)state;
	for (size_t i = 0; i < array_size(rows); i++) {
		struct state *s = state_new();
		const struct vm *vm;

		join(s, 1, 16 * GIB);
		to_running(s, "web");
		s->vms[0]->spec.restart = rows[i].policy;
		assert_int_equal(exited(s, "web", rows[i].exit_code, false).code, BLIX_OK);
		vm = state_vm(s, "web");
		assert_int_equal(vm->phase, rows[i].phase);
		assert_string_equal(vm->reason, rows[i].reason);
		assert_int_equal(vm->pid, 0);
		assert_int_equal(vm->restarts, rows[i].phase == VM_SCHEDULED);
		assert_int_equal(state_node(s, 1)->vms, rows[i].phase == VM_SCHEDULED);
		state_free(s);
	}
}

static void pausing(void **state)
{
	struct state *s = state_new();
	const struct vm *vm;
	uint64_t version;

	(void)state;
	join(s, 1, 16 * GIB);
	assert_int_equal(create(s, "off").code, BLIX_OK);
	assert_int_equal(power(s, "off", VM_VERB_PAUSE).why, REFUSAL_VM_NOT_UP);
	to_running(s, "web");
	version = state_vm(s, "web")->version;
	assert_int_equal(power(s, "web", VM_VERB_PAUSE).code, BLIX_OK);
	vm = state_vm(s, "web");
	assert_int_equal(vm->phase, VM_RUNNING); /* until its node has done it */
	assert_int_equal(vm->spec.power, VM_POWER_PAUSED);
	assert_int_equal(vm->version, version + 1);
	assert_int_equal(report(s, "web", VM_REPORT_PAUSED, BLIX_OK).code, BLIX_OK);
	vm = state_vm(s, "web");
	assert_int_equal(vm->phase, VM_PAUSED);
	assert_true(vm->ready);
	assert_int_equal(vm->marks.items[vm->marks.n - 1].step, OPERATION_PAUSE);
	assert_int_equal(state_node(s, 1)->vms, 1); /* it holds what it held */
	assert_int_equal(power(s, "web", VM_VERB_RESUME).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_RESUMED, BLIX_E_TIMEOUT).code, BLIX_OK);
	vm = state_vm(s, "web");
	assert_int_equal(vm->phase, VM_PAUSED);
	assert_int_equal(vm->spec.power,
	                 VM_POWER_PAUSED); /* what could not be done is not wanted */
	assert_int_equal(vm->code, BLIX_E_TIMEOUT);
	assert_int_equal(vm->marks.items[vm->marks.n - 1].step, OPERATION_FAIL);
	assert_int_equal(power(s, "web", VM_VERB_START).code, BLIX_OK); /* the same as a resume */
	assert_int_equal(report(s, "web", VM_REPORT_RESUMED, BLIX_OK).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_RUNNING);
	/* It ends while it is held: what is started then runs. */
	assert_int_equal(power(s, "web", VM_VERB_PAUSE).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_PAUSED, BLIX_OK).code, BLIX_OK);
	assert_int_equal(exited(s, "web", 137, true).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_SCHEDULED);
	assert_int_equal(state_vm(s, "web")->spec.power, VM_POWER_RUNNING);
	run_again(s, "web");
	/* Stopping and restarting need no resume first. */
	assert_int_equal(power(s, "web", VM_VERB_PAUSE).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_PAUSED, BLIX_OK).code, BLIX_OK);
	assert_int_equal(power(s, "web", VM_VERB_RESTART).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->spec.power, VM_POWER_RUNNING);
	assert_int_equal(report(s, "web", VM_REPORT_STOPPED, BLIX_OK).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_PENDING);
	state_free(s);
}

static void crash_loops(void **state)
{
	struct state *s = state_new();
	const struct vm *vm;

	(void)state;
	join(s, 1, 16 * GIB);
	join(s, 2, 16 * GIB);
	to_running(s, "web");
	for (uint32_t i = 1; i <= 4; i++) {
		assert_int_equal(exited(s, "web", 1, false).code, BLIX_OK);
		vm = state_vm(s, "web");
		assert_int_equal(vm->crashes, i);
		/* It ran: another node would not make a difference. */
		assert_int_equal(vm->phase, i < VM_CRASHES_LOOP ? VM_SCHEDULED : VM_CRASHLOOP);
		assert_int_equal(vm->retry_ms, s->clock_ms + 4000);
		assert_int_equal(state_node(s, 1)->vms, 1);
		run_again(s, "web");
	}
	assert_int_equal(report(s, "web", VM_REPORT_STABLE, BLIX_OK).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->crashes, 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(exited(s, "web", 1, false).code, BLIX_OK);
		if (i < 2)
			run_again(s, "web");
	}
	assert_int_equal(state_vm(s, "web")->phase, VM_CRASHLOOP);
	assert_int_equal(state_vm(s, "web")->code, BLIX_E_START);
	/* A start asked for ends the pause; nothing runs, so a restart is the same. */
	assert_int_equal(power(s, "web", VM_VERB_RESTART).code, BLIX_OK);
	vm = state_vm(s, "web");
	assert_int_equal(vm->phase, VM_SCHEDULED);
	assert_int_equal(vm->crashes, 0);
	assert_int_equal(vm->retry_ms, 0);
	run_again(s, "web");
	assert_int_equal(exited(s, "web", 1, true).code, BLIX_OK); /* a long run: the first */
	assert_int_equal(state_vm(s, "web")->crashes, 1);
	state_free(s);
}

/* What never came to run may do so elsewhere, once each node is out the loop stays on the last. */
static void crashing_at_once_moves_on(void **state)
{
	struct state *s = state_new();

	(void)state;
	join(s, 1, 16 * GIB);
	join(s, 2, 16 * GIB);
	assert_int_equal(create(s, "web").code, BLIX_OK);
	resolve(s, "web", GIB);
	for (uint64_t node = 1; node <= 2; node++) {
		assert_int_equal(assign(s, "web", node).code, BLIX_OK);
		for (unsigned i = 0; i < VM_CRASHES_LOOP; i++) {
			assert_int_equal(report(s, "web", VM_REPORT_STARTING, BLIX_OK).code,
			                 BLIX_OK);
			assert_int_equal(exited(s, "web", 0, false).why, REFUSAL_STALE);
			assert_int_equal(exited(s, "web", 1, false).code, BLIX_OK);
		}
		assert_int_equal(state_vm(s, "web")->phase, node == 1 ? VM_PENDING : VM_CRASHLOOP);
	}
	assert_int_equal(power(s, "web", VM_VERB_STOP).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_STOPPED, BLIX_OK).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_STOPPED);
	assert_int_equal(state_vm(s, "web")->n_rejected, 0);
	state_free(s);
}

static void boot(struct state *s, uint64_t id, const char *boot_id)
{
	struct command c;

	command_init(&c, COMMAND_NODE_REPORT);
	c.node_report.id = id;
	(void)snprintf(c.node_report.name, sizeof(c.node_report.name), "n%u", (unsigned)id);
	c.node_report.facts.cpus = 64;
	c.node_report.facts.memory_bytes = 64 * GIB;
	xreplace(&c.node_report.facts.hypervisors, "qemu");
	xreplace(&c.node_report.facts.boot_id, boot_id);
	assert_int_equal(run(s, &c).code, BLIX_OK);
}

/* What was asked while nobody could say which process is its, counts once that is known. */
static void a_stop_outlives_unknown(void **state)
{
	static const struct {
		const char *name;
		enum vm_verb verb, then; /* then the same: no second word */
		enum vm_report_kind told;
		enum vm_phase after;
	} rows[] = {
		{"gone", VM_VERB_STOP, VM_VERB_STOP, VM_REPORT_EXITED, VM_STOPPED},
		{"back", VM_VERB_STOP, VM_VERB_STOP, VM_REPORT_RUNNING, VM_STOPPING},
		{"again", VM_VERB_RESTART, VM_VERB_RESTART, VM_REPORT_EXITED, VM_PENDING},
		{"anew", VM_VERB_RESTART, VM_VERB_RESTART, VM_REPORT_RUNNING, VM_STOPPING},
		{"kept", VM_VERB_STOP, VM_VERB_START, VM_REPORT_RUNNING, VM_RUNNING},
		{"lost", VM_VERB_STOP, VM_VERB_START, VM_REPORT_EXITED, VM_SCHEDULED},
		{"nobody", VM_VERB_COUNT, VM_VERB_COUNT, VM_REPORT_RUNNING, VM_RUNNING},
	};
	struct state *s = state_new();

	(void)state;
	boot(s, 1, "a");
	for (size_t i = 0; i < array_size(rows); i++) {
		const char *name = rows[i].name;

		to_running(s, name);
		(void)report(s, name, VM_REPORT_UNKNOWN, BLIX_E_START);
		if (rows[i].verb != VM_VERB_COUNT)
			assert_int_equal(power(s, name, rows[i].verb).code, BLIX_OK);
		(void)report(s, name, VM_REPORT_UNKNOWN, BLIX_E_START); /* it still is */
		assert_int_equal(state_vm(s, name)->phase, VM_UNKNOWN);
		if (rows[i].then != rows[i].verb)
			assert_int_equal(power(s, name, rows[i].then).code, BLIX_OK);
		assert_int_equal(report(s, name, rows[i].told,
		                        rows[i].told == VM_REPORT_EXITED ? BLIX_E_START : BLIX_OK)
		                         .code,
		                 BLIX_OK);
		assert_int_equal(state_vm(s, name)->phase, rows[i].after);
	}
	state_free(s);
}

/* A host that was restarted has no process of before, whatever the log recorded of it. */
static void a_host_restarts(void **state)
{
	static const struct {
		const char *name;
		enum vm_phase before, after;
	} rows[] = {
		{"running", VM_RUNNING, VM_SCHEDULED},  {"never", VM_RUNNING, VM_SCHEDULED},
		{"loops", VM_CRASHLOOP, VM_SCHEDULED},  {"stopping", VM_STOPPING, VM_STOPPED},
		{"restarts", VM_STOPPING, VM_PENDING},  {"unknown", VM_UNKNOWN, VM_SCHEDULED},
		{"off", VM_STOPPED, VM_STOPPED},        {"failed", VM_FAILED, VM_FAILED},
		{"deleting", VM_DELETING, VM_DELETING},
	};
	struct state *s = state_new();

	(void)state;
	boot(s, 1, "a");
	for (size_t i = 0; i < array_size(rows); i++)
		to_running(s, rows[i].name);
	for (size_t i = 0; i < s->n_vms; i++) {
		if (strcmp(s->vms[i]->name, "never") == 0)
			s->vms[i]->spec.restart = VM_RESTART_NEVER;
	}
	for (unsigned i = 0; i < VM_CRASHES_LOOP; i++) {
		(void)exited(s, "loops", 1, false);
		if (i < 2)
			run_again(s, "loops");
	}
	(void)power(s, "stopping", VM_VERB_STOP);
	(void)power(s, "restarts", VM_VERB_RESTART);
	(void)report(s, "unknown", VM_REPORT_UNKNOWN, BLIX_E_START);
	(void)exited(s, "off", 0, true);
	(void)report(s, "failed", VM_REPORT_FAILED, BLIX_E_IMAGE);
	(void)delete (s, "deleting");
	for (size_t i = 0; i < array_size(rows); i++)
		assert_int_equal(state_vm(s, rows[i].name)->phase, rows[i].before);
	boot(s, 1, "a"); /* the daemon alone was restarted */
	for (size_t i = 0; i < array_size(rows); i++)
		assert_int_equal(state_vm(s, rows[i].name)->phase, rows[i].before);
	boot(s, 1, "b");
	for (size_t i = 0; i < array_size(rows); i++) {
		const struct vm *vm = state_vm(s, rows[i].name);

		assert_int_equal(vm->phase, rows[i].after);
		assert_int_equal(vm->crashes, 0);
		assert_true(vm->pid == 0 || vm->phase == VM_DELETING);
	}
	assert_string_equal(state_vm(s, "never")->reason, "host-restarted");
	state_free(s);
}

static struct command_result create_in(struct state *s, uint64_t session, uint64_t request)
{
	struct command c;

	command_init(&c, COMMAND_VM_CREATE);
	c.session = session;
	c.request = request;
	(void)snprintf(c.vm_create.name, sizeof(c.vm_create.name), "vm-%u", (unsigned)request);
	xreplace(&c.vm_create.spec.flake, "github:me/vms");
	xreplace(&c.vm_create.spec.attr, "web");
	return run(s, &c);
}

static struct command_result delete_in(struct state *s, uint64_t session, uint64_t request)
{
	struct command c;

	command_init(&c, COMMAND_VM_DELETE);
	c.session = session;
	c.request = request;
	(void)snprintf(c.vm_delete.name, sizeof(c.vm_delete.name), "vm-1");
	return run(s, &c);
}

static void sessions_apply_once(void **state)
{
	struct state *s = state_new();
	struct command_result first = {0}, again;
	struct command c;
	size_t audited;

	(void)state;
	for (uint64_t request = 1; request <= LIMIT_RESULTS + 6; request++) {
		first = create_in(s, 7, request);
		assert_int_equal(first.code, BLIX_OK);
	}
	audited = s->audit.n;
	again = create_in(s, 7, LIMIT_RESULTS + 6);
	assert_memory_equal(&first, &again, sizeof(first));
	assert_int_equal(s->n_vms, LIMIT_RESULTS + 6);
	/* Another request under a number that was answered was never executed, and says so. */
	assert_int_equal(delete_in(s, 7, LIMIT_RESULTS + 6).why, REFUSAL_SESSION_OTHER);
	/* The window: the oldest result that is kept, and the one before it. */
	assert_int_equal(create_in(s, 7, 7).code, BLIX_OK);
	assert_int_equal(create_in(s, 7, 6).code, BLIX_E_FORGOTTEN);
	assert_non_null(state_outcome(s, 7, 7));
	assert_null(state_outcome(s, 7, 6));
	assert_null(state_outcome(s, 7, LIMIT_RESULTS + 7));
	assert_null(state_outcome(s, 7, 0));
	assert_null(state_outcome(s, 8, 1));
	assert_int_equal(delete_in(s, 7, LIMIT_RESULTS + 8).why, REFUSAL_SESSION_GAP);
	assert_int_equal(delete_in(s, 8, 2).why, REFUSAL_SESSION_FORGOTTEN);
	assert_int_equal(s->audit.n, audited); /* none of it was executed */
	command_init(&c, COMMAND_SESSION_EXPIRE);
	c.session = 7; /* not a client's command: the session it names does not matter */
	c.request = LIMIT_RESULTS + 7;
	c.session_expire.before_ms = UINT64_MAX;
	(void)run(s, &c);
	assert_int_equal(s->n_sessions, 0);
	assert_int_equal(delete_in(s, 7, LIMIT_RESULTS + 7).code, BLIX_E_FORGOTTEN);
	state_free(s);
}

/* A refusal is an answer too: the same number gets it again, though it might be done by now. */
static void sessions_remember_refusals(void **state)
{
	struct state *s = state_new();

	(void)state;
	assert_int_equal(delete_in(s, 7, 1).why, REFUSAL_VM_MISSING);
	assert_int_equal(create_in(s, 9, 1).code, BLIX_OK);
	assert_int_equal(delete_in(s, 7, 1).why, REFUSAL_VM_MISSING);
	assert_int_equal(delete_in(s, 7, 2).code, BLIX_OK);
	assert_null(state_vm(s, "vm-1"));
	state_free(s);
}

/* What a view shares with the state stays as it was when the view was taken. */
static void views_keep_sessions_and_locks(void **state)
{
	struct state *s = state_new(), *view;
	uint64_t hash;

	(void)state;
	join(s, 1, 16 * GIB);
	assert_int_equal(create_in(s, 7, 1).code, BLIX_OK);
	resolve(s, "vm-1", GIB);
	view = state_view(s);
	hash = state_hash(view);
	assert_int_equal(create_in(s, 7, 2).code, BLIX_OK);
	assert_int_equal(create_in(s, 8, 1).code, BLIX_E_EXISTS);
	assert_int_equal(delete_in(s, 7, 3).code, BLIX_OK);
	assert_null(state_vm(s, "vm-1"));
	assert_int_equal(s->n_locks, 0);
	assert_true(state_hash(view) == hash);
	state_free(s);
	assert_true(state_hash(view) == hash);
	state_view_free(view);
}

static void session_begins(struct state *s, uint64_t id, struct command_result *ret)
{
	struct command c;

	command_init(&c, COMMAND_VM_DELETE);
	c.session = id;
	c.request = 1;
	state_apply(s, &c, ret);
	command_done(&c);
}

/* One more than LIMIT_SESSIONS is refused, until the leader lets idle ones go: those that were idle
 * for long, and no other. */
static void sessions_are_bounded(void **state)
{
	struct leader_actions *actions = xcalloc(1, sizeof(*actions));
	struct state *s = state_new();
	struct command_result r;
	struct leader leader;

	(void)state;
	state_begin(s, UINT64_MAX, 1000000);
	for (uint64_t id = 1; id <= LIMIT_SESSIONS; id++) {
		session_begins(s, id, &r);
		if (id == LIMIT_SESSIONS / 2)
			state_begin(s, LIMIT_SESSION_IDLE / 2, 1000000);
	}
	assert_int_equal(r.code, BLIX_E_NOTFOUND);
	session_begins(s, LIMIT_SESSIONS + 1, &r);
	assert_int_equal(r.why, REFUSAL_FULL);
	assert_int_equal(r.code, BLIX_E_BUSY);
	session_begins(s, 1, &r); /* one that is there still is, and not idle now */
	assert_int_equal(r.why, REFUSAL_VM_MISSING);
	leader_init(&leader, 1000, 0, 0);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_ELECTED}, 1, actions);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_TICK}, 100000, actions);
	assert_int_equal(actions->n, 0);
	state_begin(s, LIMIT_SESSION_IDLE / 2 + 1, 1000000);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_TICK}, 200000, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].kind, COMMAND_SESSION_EXPIRE);
	state_apply(s, &actions->commands[0], &r);
	command_done(&actions->commands[0]);
	assert_int_equal(s->n_sessions, LIMIT_SESSIONS / 2 + 1);
	session_begins(s, LIMIT_SESSIONS + 1, &r);
	assert_int_equal(r.why, REFUSAL_VM_MISSING);
	free(actions);
	state_free(s);
}

/* xorshift64*: a fixed seed makes the same story each time. */
static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 0x2545f4914f6cdd1dULL;
}

/* A holder confirms that it has nothing left. */
static void confirm_gone(struct state *s, const struct vm *vm)
{
	struct command c;

	command_init(&c, COMMAND_VM_REPORT);
	c.vm_report.kind = VM_REPORT_GONE;
	c.vm_report.uid = vm->uid;
	c.vm_report.node = vm->holders[0];
	assert_int_equal(run(s, &c).code, BLIX_OK);
}

static void random_step(struct state *s, uint64_t *seed)
{
	char name[16];
	const struct vm *vm;
	uint64_t dice = next_random(seed) % 10;

	(void)snprintf(name, sizeof(name), "vm-%u", (unsigned)(next_random(seed) % 20));
	vm = state_vm(s, name);
	if (vm == NULL)
		(void)create(s, name);
	else if (vm->phase == VM_PENDING && !vm->resolved_set)
		resolve(s, name, GIB);
	else if (vm->phase == VM_PENDING)
		(void)assign(s, name, 1 + next_random(seed) % 3);
	else if (vm->phase == VM_DELETING)
		confirm_gone(s, vm);
	else if (dice < 6)
		(void)report(
			s, name,
			(enum vm_report_kind)(1 + next_random(seed) % (VM_REPORT_KIND_COUNT - 1)),
			BLIX_E_START);
	else if (dice < 9)
		(void)power(s, name, (enum vm_verb)(1 + next_random(seed) % (VM_VERB_COUNT - 1)));
	else
		(void)delete (s, name);
}

static void check_sums(const struct state *s)
{
	uint64_t phases[VM_PHASE_COUNT] = {0};

	for (size_t i = 0; i < s->n_vms; i++)
		phases[s->vms[i]->phase]++;
	assert_memory_equal(phases, s->phases, sizeof(phases));
	for (size_t k = 0; k < s->n_nodes; k++) {
		uint64_t bytes = 0;

		for (size_t i = 0; i < s->n_vms; i++) {
			if (vm_is_committed(s->vms[i]) && s->vms[i]->node == s->nodes[k]->id)
				bytes += s->vms[i]->resolved.memory_bytes + (64ULL << 20);
		}
		assert_int_equal(bytes, s->nodes[k]->committed_bytes);
		assert_true(bytes <= node_usable_bytes(s->nodes[k]));
	}
}

static void replicas_agree(void **state)
{
	struct state *a = state_new(), *b = state_new();
	uint64_t seed_a = 88172645463325252ULL, seed_b = seed_a;

	(void)state;
	for (uint64_t id = 1; id <= 3; id++) {
		join(a, id, 4 * GIB);
		join(b, id, 4 * GIB);
	}
	for (unsigned i = 0; i < 14000; i++) {
		struct state *view = i % 100 == 0 ? state_view(b) : NULL;
		uint64_t hash = view != NULL ? state_hash(view) : 0;

		random_step(a, &seed_a);
		random_step(b, &seed_b);
		if (view != NULL) { /* a view does not move; a replica may go on from it */
			cleanup(buf_done) struct buf bytes;

			assert_int_equal(state_hash(view), hash);
			buf_init(&bytes, LIMIT_SNAPSHOT);
			assert_int_equal(state_encode(b, &bytes, NULL), 0);
			assert_int_equal(state_decode(b, (uint8_t *)bytes.data, bytes.len, NULL),
			                 0);
			state_view_free(view);
			check_sums(a);
			check_sums(b);
		}
	}
	assert_int_equal(state_hash(a), state_hash(b));
	assert_true(a->n_events == LIMIT_EVENTS); /* the ring came round */
	state_free(a);
	state_free(b);
}

static void snapshot_refuses_damage(void **state)
{
	cleanup(buf_done) struct buf bytes;
	struct state *s = state_new();
	uint64_t hash;

	(void)state;
	join(s, 1, 16 * GIB);
	to_running(s, "web");
	hash = state_hash(s);
	buf_init(&bytes, LIMIT_SNAPSHOT);
	assert_int_equal(state_encode(s, &bytes, NULL), 0);
	for (size_t n = 0; n < bytes.len; n++)
		assert_true(state_decode(s, (uint8_t *)bytes.data, n, NULL) < 0);
	assert_int_equal(state_hash(s), hash);
	state_free(s);
}

/* The leader's rounds take a VM from Pending to Scheduled, and say why when there is no room. */
static void leader_rounds(void **state)
{
	struct leader_actions *actions = xcalloc(1, sizeof(*actions));
	const struct leader_peer lost = {.id = 1, .age_ms = 99999};
	struct state *s = state_new();
	struct leader leader;
	size_t n_events;

	(void)state;
	leader_init(&leader, 1000, 0, 0);
	join(s, 1, 2 * GIB);
	assert_int_equal(create(s, "web").code, BLIX_OK);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_CHANGED}, 1, actions);
	assert_int_equal(actions->n, 0); /* not the leader */
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_ELECTED}, 1, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].kind, COMMAND_VM_RESOLVE);
	command_done(&actions->commands[0]);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_CHANGED}, 1, actions);
	assert_int_equal(actions->n, 0); /* one round at a time */
	resolve(s, "web", 4 * GIB);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_SETTLED}, 1, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].kind, COMMAND_VM_VERDICT);
	assert_string_equal(
		actions->commands[0].vm_verdict.message,
		"cannot place: 1 node rejected\nn1: memory: need 4.1GiB, have 2GiB free");
	assert_int_equal(run(s, &actions->commands[0]).code, BLIX_OK);
	assert_string_equal(state_event(s, s->n_events - 1)->reason, "vm-unplaceable");
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_SETTLED}, 1, actions);
	assert_int_equal(actions->n, 0); /* said once */
	n_events = s->n_events;
	join(s, 1, 3 * GIB); /* other numbers are no other news */
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_CHANGED}, 1, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(run(s, &actions->commands[0]).code, BLIX_OK);
	assert_non_null(strstr(state_vm(s, "web")->message, "have 3GiB free"));
	assert_int_equal(s->n_events, n_events);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_SETTLED}, 1, actions);
	assert_int_equal(actions->n, 0);
	join(s, 2, 8 * GIB);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_CHANGED}, 1, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].vm_assign.node, 2);
	assert_int_equal(run(s, &actions->commands[0]).code, BLIX_OK);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_FAILED}, 1, actions);
	leader_step(&leader, s,
	            &(struct leader_event){.kind = LEADER_TICK, .peers = &lost, .n_peers = 1}, 2,
	            actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].node_phase.phase, NODE_OFFLINE);
	command_done(&actions->commands[0]);
	free(actions);
	state_free(s);
}

static void the_clock_only_goes_on(void **state)
{
	struct state *s = state_new();

	(void)state;
	state_begin(s, UINT64_MAX, 5000);
	assert_int_equal(s->clock_ms, 5000);
	state_begin(s, 10, 999999999); /* a jump of the wall clock is an alarm and no more */
	assert_int_equal(s->clock_ms, 5010);
	assert_int_equal(s->clock_jump_ms, 999994989);
	state_begin(s, UINT64_MAX, 4000);
	assert_int_equal(s->clock_ms, 5010);
	state_begin(s, UINT64_MAX, 60000);
	assert_int_equal(s->clock_ms, 60000);
	state_free(s);
}

static void specs_are_checked(void **state)
{
	static const char *const bad[] = {
		"",           "web",         "-R",          "github:me/vms#web",   "github:a;b",
		"path:.",     "path:/a b",   "file:///x",   "github:a/b?dir=../x", "path:/a/../b",
		"github:a\n", "github:$(x)", "github:\"x\""};
	static const char *const good[] = {"github:me/vms",
	                                   "path:/nix/store/abc-source?narHash=sha256-x%2By%3D",
	                                   "git+ssh://git@host/repo?ref=main"};
	struct vm_spec spec;
	struct blix_error err;

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++)
		assert_true(vm_flake_check(bad[i], &err) < 0);
	for (size_t i = 0; i < array_size(good); i++)
		assert_int_equal(vm_flake_check(good[i], &err), 0);
	vm_spec_init(&spec);
	xreplace(&spec.flake, good[0]);
	xreplace(&spec.attr, "web");
	assert_int_equal(vm_spec_check(&spec, &err), 0);
	spec.memory_bytes = 2048ULL << 20;
	assert_true(vm_spec_check(&spec, &err) < 0);
	spec.memory_bytes = 0;
	xreplace(&spec.ready, "tcp:80");
	assert_true(vm_spec_check(&spec, &err) < 0);
	vm_spec_done(&spec);
}

static void secrets_are_named(void **state)
{
	static const char *const bad[] = {"",       ".",   ".db", "-db",      "../db",
	                                  "db.tmp", "a/b", "a b", "d\xc3\xa4"};
	struct secrets secrets = {NULL, 0};
	struct secrets copy;
	struct vm_spec spec;
	struct blix_error err;
	char name[LIMIT_SECRET_NAME + 2];

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(secrets_add(&secrets, bad[i], &err), -BLIX_E_INVALID);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(secret_name_check(name, &err), -BLIX_E_INVALID);
	assert_int_equal(secret_name_check(name + 1, &err), 0);
	for (int i = 0; i < LIMIT_SECRETS; i++) {
		(void)snprintf(name, sizeof(name), "s%02d", (i * 7) % LIMIT_SECRETS);
		assert_int_equal(secrets_add(&secrets, name, &err), 0);
		assert_int_equal(secrets_add(&secrets, name, &err), -BLIX_E_INVALID);
	}
	assert_int_equal(secrets_add(&secrets, "more", &err), -BLIX_E_INVALID);
	secrets_copy(&copy, &secrets);
	for (size_t i = 1; i < copy.n; i++)
		assert_true(strcmp(copy.names[i - 1], copy.names[i]) < 0);
	assert_true(secrets_has(&copy, "s31"));
	assert_false(secrets_has(&copy, "s32"));
	secrets_done(&copy);
	secrets_done(&secrets);
	vm_spec_init(&spec);
	xreplace(&spec.flake, "github:me/vms");
	xreplace(&spec.attr, "web");
	assert_int_equal(secrets_add(&spec.secrets, "db", NULL), 0);
	assert_int_equal(vm_spec_check(&spec, &err), 0);
	spec.plain = true;
	assert_int_equal(vm_spec_check(&spec, &err), -BLIX_E_INVALID);
	vm_spec_done(&spec);
}

/* A step of the operation, told by who resolves it or by its node, and by nobody else. */
static void fetching_is_a_step(void **state)
{
	struct state *s = state_new();
	struct command c;
	const struct vm *vm;

	(void)state;
	join(s, 1, 16 * GIB);
	to_running(s, "none");
	assert_int_equal(report(s, "none", VM_REPORT_FETCHING, BLIX_OK).code, BLIX_OK);
	vm = state_vm(s, "none");
	assert_int_equal(vm->marks.items[vm->marks.n - 1].step, OPERATION_FETCH);
	assert_int_equal(vm->phase, VM_RUNNING);
	create(s, "web");
	vm = state_vm(s, "web");
	assert_int_equal(report(s, "web", VM_REPORT_FETCHING, BLIX_OK).why, REFUSAL_STALE);
	command_init(&c, COMMAND_VM_RESOLVE);
	c.vm_resolve.uid = vm->uid;
	c.vm_resolve.node = 1;
	assert_int_equal(run(s, &c).code, BLIX_OK);
	command_init(&c, COMMAND_VM_REPORT);
	c.vm_report.kind = VM_REPORT_FETCHING;
	c.vm_report.uid = vm->uid;
	c.vm_report.node = 2;
	assert_int_equal(run(s, &c).why, REFUSAL_STALE);
	command_init(&c, COMMAND_VM_REPORT);
	c.vm_report.kind = VM_REPORT_FETCHING;
	c.vm_report.uid = vm->uid;
	c.vm_report.node = 1;
	assert_int_equal(run(s, &c).code, BLIX_OK);
	vm = state_vm(s, "web");
	assert_int_equal(vm->marks.items[vm->marks.n - 1].step, OPERATION_FETCH);
	assert_int_equal(vm->phase, VM_RESOLVING);
	state_free(s);
}

/* Scheduled again with the reason while they are missing; the run that has them says so. */
static void secrets_are_waited_for(void **state)
{
	struct state *s = state_new();
	struct command c;
	const struct vm *vm;

	(void)state;
	join(s, 1, 16 * GIB);
	to_running(s, "none");
	assert_int_equal(report(s, "none", VM_REPORT_SECRETS, BLIX_OK).why, REFUSAL_STALE);
	command_init(&c, COMMAND_VM_CREATE);
	(void)snprintf(c.vm_create.name, sizeof(c.vm_create.name), "web");
	xreplace(&c.vm_create.spec.flake, "github:me/vms");
	xreplace(&c.vm_create.spec.attr, "web");
	(void)secrets_add(&c.vm_create.spec.secrets, "db", NULL);
	assert_int_equal(run(s, &c).code, BLIX_OK);
	resolve(s, "web", GIB);
	assert_int_equal(assign(s, "web", 1).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_BUILDING, BLIX_OK).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_SECRETS, BLIX_OK).why, REFUSAL_STALE);
	assert_int_equal(report(s, "web", VM_REPORT_SECRETS, BLIX_E_NOTREADY).code, BLIX_OK);
	vm = state_vm(s, "web");
	assert_int_equal(vm->phase, VM_SCHEDULED);
	assert_int_equal(vm->code, BLIX_E_NOTREADY);
	assert_int_equal(vm->restarts, 0);
	assert_int_equal(report(s, "web", VM_REPORT_STARTING, BLIX_OK).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_SECRETS, BLIX_E_NOTREADY).why, REFUSAL_STALE);
	assert_int_equal(report(s, "web", VM_REPORT_RUNNING, BLIX_OK).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_SECRETS, BLIX_E_REFUSED).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->phase, VM_RUNNING);
	assert_int_equal(state_vm(s, "web")->code, BLIX_E_REFUSED);
	assert_false(state_vm(s, "web")->secrets_given);
	assert_int_equal(report(s, "web", VM_REPORT_SECRETS, BLIX_OK).code, BLIX_OK);
	assert_int_equal(state_vm(s, "web")->code, BLIX_OK);
	assert_true(state_vm(s, "web")->secrets_given);
	/* The next run has them only when it says so. */
	assert_int_equal(exited(s, "web", 1, true).code, BLIX_OK);
	assert_int_equal(report(s, "web", VM_REPORT_STARTING, BLIX_OK).code, BLIX_OK);
	assert_false(state_vm(s, "web")->secrets_given);
	state_free(s);
}

/* Every value of `part` stands in `whole` under the same key. */
static void assert_part(const cJSON *part, const cJSON *whole)
{
	const cJSON *item;

	cJSON_ArrayForEach (item, part) {
		const cJSON *same = cJSON_GetObjectItemCaseSensitive(whole, item->string);

		if (same == NULL)
			fail_msg("only the summary has '%s'", item->string);
		if (cJSON_IsObject(item))
			assert_part(item, same);
		else if (!cJSON_Compare(item, same, true))
			fail_msg("the summary has another '%s'", item->string);
	}
}

static void assert_summary(const struct state *s, const char *name)
{
	const struct vm *vm = state_vm(s, name);
	cleanup(json_freep) cJSON *whole = vm_json(vm, s);
	cleanup(json_freep) cJSON *summary = NULL;
	struct blix_error err;
	struct buf text;

	buf_init(&text, 4096);
	assert_int_equal(vm_summary_print(vm, s, &text), 0);
	if (json_parse(text.data, text.len, &json_limits_request, &summary, &err) < 0)
		fail_msg("%s: %s", err.text, text.data);
	buf_done(&text);
	assert_non_null(cJSON_GetObjectItemCaseSensitive(summary, "metadata"));
	assert_part(summary, whole);
}

static void summary_is_a_part(void **state)
{
	struct state *s = state_new();

	(void)state;
	state_begin(s, 0, 1700000000000);
	join(s, 1, 8 * GIB);
	to_running(s, "web");
	assert_summary(s, "web");
	(void)report(s, "web", VM_REPORT_FAILED, BLIX_E_START);
	xreplace(&s->vms[0]->reason, "a \"quoted\"\nreason \\");
	assert_summary(s, "web");
	state_free(s);
}

static void json_round_trip(void **state)
{
	struct vm_spec spec, back;
	char name[LIMIT_NAME + 1];
	struct blix_error err;
	cJSON *body;

	(void)state;
	vm_spec_init(&spec);
	xreplace(&spec.flake, "github:me/vms");
	xreplace(&spec.attr, "web");
	spec.cpus = 2;
	spec.memory_bytes = GIB;
	spec.restart = VM_RESTART_ALWAYS;
	(void)labels_set(&spec.labels, "tier", "front", NULL);
	assert_int_equal(secrets_add(&spec.secrets, "key.pem", NULL), 0);
	assert_int_equal(secrets_add(&spec.secrets, "db", NULL), 0);
	body = vm_create_json("web", &spec);
	assert_int_equal(vm_create_parse(body, name, &back, &err), 0);
	assert_string_equal(name, "web");
	assert_int_equal(back.cpus, 2);
	assert_int_equal(back.restart, VM_RESTART_ALWAYS);
	assert_string_equal(labels_get(&back.labels, "tier"), "front");
	assert_int_equal(back.secrets.n, 2);
	assert_string_equal(back.secrets.names[0], "db");
	vm_spec_done(&back);
	json_add_string(cJSON_GetObjectItemCaseSensitive(body, "spec"), "memroyBytes", "x");
	assert_true(vm_create_parse(body, name, &back, &err) < 0);
	assert_string_equal(err.hint, "did you mean 'memoryBytes'?");
	cJSON_Delete(body);
	vm_spec_done(&spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(life),
		cmocka_unit_test(restart_places_again),
		cmocka_unit_test(adopted_stays),
		cmocka_unit_test(capacity_is_atomic),
		cmocka_unit_test(failure_moves_on),
		cmocka_unit_test(restart_policies),
		cmocka_unit_test(pausing),
		cmocka_unit_test(crash_loops),
		cmocka_unit_test(crashing_at_once_moves_on),
		cmocka_unit_test(a_host_restarts),
		cmocka_unit_test(a_stop_outlives_unknown),
		cmocka_unit_test(sessions_apply_once),
		cmocka_unit_test(sessions_remember_refusals),
		cmocka_unit_test(sessions_are_bounded),
		cmocka_unit_test(views_keep_sessions_and_locks),
		cmocka_unit_test(replicas_agree),
		cmocka_unit_test(snapshot_refuses_damage),
		cmocka_unit_test(leader_rounds),
		cmocka_unit_test(the_clock_only_goes_on),
		cmocka_unit_test(specs_are_checked),
		cmocka_unit_test(secrets_are_named),
		cmocka_unit_test(fetching_is_a_step),
		cmocka_unit_test(secrets_are_waited_for),
		cmocka_unit_test(summary_is_a_part),
		cmocka_unit_test(json_round_trip),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
