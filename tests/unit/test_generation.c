/* lib/core: systems of a VM that change: update, rollback, trial, and generations that go; and what
 * the executor machine does about the next system while the present one goes on. */
#include "base/alloc.h"
#include "core/executor.h"
#include "core/generation.h"
#include "core/generation_json.h"
#include "core/leader.h"
#include "core/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define GIB (1ULL << 30)

/* Through bytes, as every replica sees it; then the state through bytes too. */
static struct command_result run(struct state *s, struct command *c)
{
	cleanup(buf_done) struct buf bytes;
	cleanup(buf_done) struct buf snapshot;
	struct state *copy = state_new();
	struct command again;
	struct command_result r;

	buf_init(&bytes, LIMIT_COMMAND);
	buf_init(&snapshot, LIMIT_SNAPSHOT);
	assert_int_equal(command_encode(c, &bytes, NULL), 0);
	assert_int_equal(command_decode((uint8_t *)bytes.data, bytes.len, &again, NULL), 0);
	for (size_t n = 0; n < bytes.len; n++) {
		struct command bad;

		assert_true(command_decode((uint8_t *)bytes.data, n, &bad, NULL) < 0);
	}
	state_begin(s, s->clock_ms == 0 ? UINT64_MAX : 10, 1000000);
	state_apply(s, &again, &r);
	command_done(&again);
	command_done(c);
	assert_int_equal(state_encode(s, &snapshot, NULL), 0);
	assert_int_equal(state_decode(copy, (uint8_t *)snapshot.data, snapshot.len, NULL), 0);
	assert_true(state_hash(copy) == state_hash(s));
	assert_int_equal(copy->updates, s->updates);
	assert_int_equal(copy->generations, s->generations);
	for (size_t i = 0; i < s->n_nodes; i++)
		assert_int_equal(copy->nodes[i]->committed_bytes, s->nodes[i]->committed_bytes);
	assert_int_equal(copy->n_locks, s->n_locks);
	for (size_t i = 0; i < s->n_locks; i++)
		assert_int_equal(copy->locks[i]->users, s->locks[i]->users);
	state_free(copy);
	return r;
}

static const struct vm *web(const struct state *s)
{
	return state_vm(s, "web");
}

static void join(struct state *s)
{
	struct command c;

	command_init(&c, COMMAND_NODE_REPORT);
	c.node_report.id = 1;
	(void)snprintf(c.node_report.name, sizeof(c.node_report.name), "n1");
	c.node_report.facts.cpus = 8;
	c.node_report.facts.memory_bytes = 4 * GIB;
	xreplace(&c.node_report.facts.hypervisors, "qemu");
	assert_int_equal(run(s, &c).code, BLIX_OK);
}

static struct command_result resolve(struct state *s)
{
	struct command c;

	command_init(&c, COMMAND_VM_RESOLVE);
	c.vm_resolve.uid = web(s)->uid;
	c.vm_resolve.node = 1;
	return run(s, &c);
}

/* What a node finds: the base at `revision`, whose runner is /out-REVISION-MEMORY. */
static struct command_result resolved(struct state *s, unsigned revision, uint64_t gib)
{
	struct command c;
	cleanup(freep) char *out = xasprintf("/out-%u-%u", revision, (unsigned)gib);
	cleanup(freep) char *base = xasprintf("github:me/vms/%u", revision);

	command_init(&c, COMMAND_VM_RESOLVED);
	c.vm_resolved.uid = web(s)->uid;
	c.vm_resolved.node = 1;
	c.vm_resolved.resolved.cpus = 1;
	c.vm_resolved.resolved.memory_bytes = gib * GIB;
	xreplace(&c.vm_resolved.resolved.hypervisor, "qemu");
	xreplace(&c.vm_resolved.resolved.out_path, out);
	xreplace(&c.vm_resolved.resolved.base_url, base);
	(void)buf_add_string(&c.vm_resolved.lock, base);
	return run(s, &c);
}

static struct command_result report(struct state *s, enum vm_report_kind kind, const char *runner)
{
	struct command c;

	command_init(&c, COMMAND_VM_REPORT);
	c.vm_report.kind = kind;
	c.vm_report.uid = web(s)->uid;
	c.vm_report.node = 1;
	c.vm_report.epoch = web(s)->epoch;
	c.vm_report.pid = 42;
	if (kind == VM_REPORT_FAILED || kind == VM_REPORT_NOT_BUILT) {
		c.vm_report.code = kind == VM_REPORT_FAILED ? BLIX_E_START : BLIX_E_IMAGE;
		xreplace(&c.vm_report.reason, "runner-exited");
		xreplace(&c.vm_report.message, "last words");
	}
	xreplace(&c.vm_report.runner, runner);
	return run(s, &c);
}

static struct command_result assign(struct state *s)
{
	struct command c;

	command_init(&c, COMMAND_VM_ASSIGN);
	c.vm_assign.uid = web(s)->uid;
	c.vm_assign.node = 1;
	c.vm_assign.epoch = web(s)->epoch;
	return run(s, &c);
}

static void start(struct state *s, const char *runner)
{
	assert_int_equal(assign(s).code, BLIX_OK);
	assert_int_equal(report(s, VM_REPORT_STARTING, runner).code, BLIX_OK);
	assert_int_equal(report(s, VM_REPORT_RUNNING, runner).code, BLIX_OK);
}

/* Told to restart: its node stopped it, it is placed and started again. */
static void restart(struct state *s, const char *runner)
{
	assert_int_equal(web(s)->phase, VM_STOPPING);
	assert_int_equal(report(s, VM_REPORT_STOPPED, "").code, BLIX_OK);
	assert_int_equal(web(s)->phase, VM_PENDING);
	start(s, runner);
}

static struct state *with_web(const char *ready)
{
	struct state *s = state_new();
	struct command c;

	join(s);
	command_init(&c, COMMAND_VM_CREATE);
	(void)snprintf(c.vm_create.name, sizeof(c.vm_create.name), "web");
	xreplace(&c.vm_create.spec.flake, "github:me/vms");
	xreplace(&c.vm_create.spec.attr, "web");
	xreplace(&c.vm_create.spec.ready, ready);
	xreplace(&c.principal, "uid:7");
	assert_int_equal(run(s, &c).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 1, 1).code, BLIX_OK);
	start(s, "/out-1-1");
	assert_int_equal(web(s)->generation_booted, 1);
	assert_string_equal(web(s)->generations[0].by, "uid:7");
	return s;
}

struct ask {
	bool rollback, auto_rollback;
	uint64_t generation;
	enum update_restart restart;
	const char *flake;
};

static struct command_result ask(struct state *s, struct ask ask)
{
	struct command c;

	command_init(&c, COMMAND_VM_UPDATE);
	(void)snprintf(c.vm_update.name, sizeof(c.vm_update.name), "web");
	c.vm_update.rollback = ask.rollback;
	c.vm_update.auto_rollback = ask.auto_rollback;
	c.vm_update.generation = ask.generation;
	c.vm_update.restart = ask.restart;
	c.vm_update.timeout_ms = 60000;
	c.vm_update.grace_ms = 1000;
	xreplace(&c.vm_update.flake, ask.flake != NULL ? ask.flake : "");
	return run(s, &c);
}

/* Asked, resolved to `revision`, built. */
static void to_boot(struct state *s, struct ask how, unsigned revision)
{
	cleanup(freep) char *out = xasprintf("/out-%u-1", revision);

	assert_int_equal(ask(s, how).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, revision, 1).code, BLIX_OK);
	assert_int_equal(web(s)->update.step, UPDATE_BUILD);
	assert_int_equal(web(s)->phase, VM_RUNNING);
	assert_true(vm_is_stale(web(s)));
	assert_int_equal(report(s, VM_REPORT_BUILT, out).code, BLIX_OK);
}

static void an_update(void **state)
{
	struct state *s = with_web("");

	(void)state;
	to_boot(s, (struct ask){.flake = "github:me/other"}, 2);
	assert_int_equal(web(s)->generation_current, 2);
	assert_int_equal(web(s)->generation_booted, 1);
	restart(s, "/out-2-1");
	assert_int_equal(web(s)->update.outcome, UPDATE_UPDATED);
	assert_int_equal(web(s)->generation_booted, 2);
	assert_false(vm_is_stale(web(s)));
	assert_string_equal(web(s)->spec.flake, "github:me/other");
	assert_int_equal(web(s)->version, 2);
	assert_int_equal(s->n_locks, 2);
	assert_int_equal(s->updates, 0);
	state_free(s);
}

static void no_news(void **state)
{
	struct state *s = with_web("");

	(void)state;
	assert_int_equal(ask(s, (struct ask){0}).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_E_CONFLICT); /* one is at it */
	assert_int_equal(resolved(s, 1, 1).code, BLIX_OK);
	assert_int_equal(web(s)->update.outcome, UPDATE_UNCHANGED);
	assert_int_equal(web(s)->n_generations, 1);
	assert_int_equal(web(s)->phase, VM_RUNNING);
	assert_int_equal(resolved(s, 2, 1).code, BLIX_E_CONFLICT);
	state_free(s);
}

static void without_a_restart(void **state)
{
	struct state *s = with_web("");

	(void)state;
	to_boot(s, (struct ask){.restart = UPDATE_RESTART_NO}, 2);
	assert_int_equal(web(s)->update.outcome, UPDATE_UPDATED);
	assert_int_equal(web(s)->phase, VM_RUNNING);
	assert_true(vm_is_stale(web(s)));
	/* The next one has the same lock: now it is to be booted. */
	to_boot(s, (struct ask){0}, 2);
	assert_int_equal(web(s)->n_generations, 2);
	restart(s, "/out-2-1");
	assert_int_equal(web(s)->update.outcome, UPDATE_UPDATED);
	state_free(s);
}

static struct command_result set_memory(struct state *s, uint64_t gib)
{
	struct command c;

	command_init(&c, COMMAND_VM_SET);
	(void)snprintf(c.vm_set.name, sizeof(c.vm_set.name), "web");
	c.vm_set.fields = VM_SET_MEMORY;
	c.vm_set.spec.memory_bytes = gib * GIB;
	return run(s, &c);
}

/* Other resources by the same lock: admitted at once, the larger of both is committed until the
 * restart that brings them in force. */
static void other_resources(void **state)
{
	struct state *s = with_web("");
	uint64_t overhead = vm_overhead_bytes("qemu");
	struct command c;

	(void)state;
	assert_int_equal(set_memory(s, 5).code, BLIX_E_NOROOM);
	assert_int_equal(web(s)->spec.memory_bytes, 0);
	assert_int_equal(set_memory(s, 3).code, BLIX_OK);
	assert_int_equal(set_memory(s, 2).code, BLIX_E_REFUSED); /* one is under way */
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 1, 3).code, BLIX_OK);
	assert_true(vm_is_stale(web(s)));
	assert_int_equal(web(s)->n_generations, 1);
	assert_int_equal(s->nodes[0]->committed_bytes, 3 * GIB + overhead);
	assert_int_equal(report(s, VM_REPORT_BUILT, "/out-1-3").code, BLIX_OK);
	assert_int_equal(web(s)->phase, VM_RUNNING);
	assert_string_equal(web(s)->operation_verb, "set");

	command_init(&c, COMMAND_VM_SET);
	(void)snprintf(c.vm_set.name, sizeof(c.vm_set.name), "web");
	c.vm_set.fields = VM_SET_RESTART;
	c.vm_set.spec.restart = VM_RESTART_NEVER;
	assert_int_equal(labels_set(&c.vm_set.spec.labels, "tier", "front", NULL), 0);
	assert_int_equal(run(s, &c).code, BLIX_OK);
	assert_int_equal(web(s)->spec.restart, VM_RESTART_NEVER);
	assert_string_equal(labels_get(&web(s)->spec.labels, "tier"), "front");
	assert_int_equal(web(s)->spec.memory_bytes, 3 * GIB);
	assert_int_equal(web(s)->version, 3);
	state_free(s);
}

/* What cannot be rendered or built is not left in the spec. */
static void a_bad_set_is_undone(void **state)
{
	struct state *s = with_web("");

	(void)state;
	for (unsigned built = 0; built < 2; built++) {
		uint64_t version = web(s)->version;

		assert_int_equal(set_memory(s, 3).code, BLIX_OK);
		assert_int_equal(web(s)->spec.memory_bytes, 3 * GIB);
		assert_int_equal(resolve(s).code, BLIX_OK);
		if (built == 0) {
			struct command c;

			command_init(&c, COMMAND_VM_RESOLVED);
			c.vm_resolved.uid = web(s)->uid;
			c.vm_resolved.node = 1;
			c.vm_resolved.code = BLIX_E_IMAGE;
			xreplace(&c.vm_resolved.message, "the evaluation failed");
			assert_int_equal(run(s, &c).code, BLIX_OK);
			assert_non_null(strstr(web(s)->update.message, "undone: the evaluation"));
		} else {
			assert_int_equal(resolved(s, 1, 3).code, BLIX_OK);
			assert_string_equal(web(s)->resolved.out_path, "/out-1-3");
			assert_int_equal(report(s, VM_REPORT_NOT_BUILT, "").code, BLIX_OK);
		}
		assert_int_equal(web(s)->update.outcome, UPDATE_FAILED);
		assert_int_equal(web(s)->spec.memory_bytes, 0);
		assert_int_equal(web(s)->version, version + 2);
		assert_string_equal(web(s)->resolved.out_path, "/out-1-1");
		assert_string_equal(web(s)->generations[0].resolved.out_path, "/out-1-1");
		assert_int_equal(web(s)->resolved.lock, web(s)->generations[0].resolved.lock);
		assert_false(vm_is_stale(web(s)));
		assert_int_equal(web(s)->phase, VM_RUNNING);
		assert_false(web(s)->before.set);
	}
	/* One that was built stays, whatever fails later. */
	assert_int_equal(set_memory(s, 3).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 1, 3).code, BLIX_OK);
	assert_int_equal(report(s, VM_REPORT_BUILT, "/out-1-3").code, BLIX_OK);
	assert_int_equal(ask(s, (struct ask){0}).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 3, 4).code, BLIX_OK);
	assert_int_equal(web(s)->update.outcome, UPDATE_FAILED);
	assert_int_equal(web(s)->spec.memory_bytes, 3 * GIB);
	state_free(s);
}

static void a_bad_one_changes_nothing(void **state)
{
	struct state *s = with_web("");

	(void)state;
	assert_int_equal(ask(s, (struct ask){0}).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 2, 1).code, BLIX_OK);
	assert_int_equal(report(s, VM_REPORT_NOT_BUILT, "").code, BLIX_OK);
	assert_int_equal(web(s)->update.outcome, UPDATE_FAILED);
	assert_int_equal(web(s)->update.code, BLIX_E_IMAGE);
	assert_int_equal(web(s)->generation, 1);
	assert_int_equal(web(s)->n_generations, 1);
	assert_int_equal(s->n_locks, 1);
	assert_int_equal(web(s)->phase, VM_RUNNING);
	/* More than its node has. */
	assert_int_equal(ask(s, (struct ask){0}).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 3, 4).code, BLIX_OK);
	assert_int_equal(web(s)->update.code, BLIX_E_NOROOM);
	assert_int_equal(web(s)->n_generations, 1);
	state_free(s);
}

/* Until the smaller one runs, the node holds what the larger one takes. */
static void the_larger_is_held(void **state)
{
	struct state *s = with_web("");
	uint64_t overhead = vm_overhead_bytes("qemu");

	(void)state;
	assert_int_equal(ask(s, (struct ask){0}).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 2, 3).code, BLIX_OK);
	assert_int_equal(s->nodes[0]->committed_bytes, 3 * GIB + overhead);
	assert_int_equal(report(s, VM_REPORT_BUILT, "/out-2-3").code, BLIX_OK);
	restart(s, "/out-2-3");
	assert_int_equal(ask(s, (struct ask){.rollback = true}).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 1, 1).code, BLIX_OK);
	assert_int_equal(s->nodes[0]->committed_bytes, 3 * GIB + overhead);
	assert_int_equal(report(s, VM_REPORT_BUILT, "/out-1-1").code, BLIX_OK);
	restart(s, "/out-1-1");
	assert_int_equal(s->nodes[0]->committed_bytes, GIB + overhead);
	state_free(s);
}

static void a_rollback(void **state)
{
	struct state *s = with_web("");

	(void)state;
	assert_int_equal(ask(s, (struct ask){.rollback = true}).why, REFUSAL_NO_EARLIER);
	assert_int_equal(ask(s, (struct ask){.rollback = true, .generation = 9}).code,
	                 BLIX_E_NOTFOUND);
	to_boot(s, (struct ask){0}, 2);
	restart(s, "/out-2-1");
	assert_int_equal(ask(s, (struct ask){.rollback = true}).code, BLIX_OK);
	assert_string_equal(web(s)->operation_verb, "rollback");
	assert_int_equal(resolve(s).code, BLIX_OK);
	/* The memory of today: the same lock gives another runner. */
	assert_int_equal(resolved(s, 1, 2).code, BLIX_OK);
	assert_int_equal(web(s)->generation, 1);
	assert_int_equal(web(s)->n_generations, 2);
	assert_int_equal(report(s, VM_REPORT_BUILT, "/out-1-2").code, BLIX_OK);
	assert_int_equal(ask(s, (struct ask){0}).why, REFUSAL_UPDATING);
	restart(s, "/out-1-2");
	assert_int_equal(web(s)->update.outcome, UPDATE_UPDATED);
	assert_int_equal(web(s)->generation_booted, 1);
	assert_int_equal(s->n_locks, 2);
	state_free(s);
}

static struct command_result due(struct state *s, uint64_t later_ms)
{
	struct command c;

	command_init(&c, COMMAND_VM_UPDATE_DUE);
	c.vm_update_due.uid = web(s)->uid;
	c.vm_update_due.operation = web(s)->update.operation;
	s->clock_ms += later_ms;
	return run(s, &c);
}

static void a_trial_that_is_ready(void **state)
{
	struct state *s = with_web("console:up");

	(void)state;
	to_boot(s, (struct ask){.auto_rollback = true}, 2);
	restart(s, "/out-2-1");
	assert_int_equal(web(s)->update.step, UPDATE_BOOT);
	assert_int_equal(due(s, 0).code, BLIX_E_CONFLICT); /* too early */
	assert_int_equal(report(s, VM_REPORT_READY, "").code, BLIX_OK);
	assert_int_equal(web(s)->update.outcome, UPDATE_UPDATED);
	assert_int_equal(due(s, 100000).code, BLIX_E_CONFLICT);
	state_free(s);
}

static void a_trial_that_is_not(void **state)
{
	struct state *s = with_web("console:up");

	(void)state;
	to_boot(s, (struct ask){.auto_rollback = true, .flake = "github:me/bad"}, 2);
	restart(s, "/out-2-1");
	assert_int_equal(due(s, 60000).code, BLIX_OK);
	assert_int_equal(web(s)->update.step, UPDATE_REVERT);
	assert_int_equal(web(s)->generation, 1);
	assert_string_equal(web(s)->spec.flake, "github:me/vms");
	restart(s, "/out-1-1");
	assert_int_equal(web(s)->update.outcome, UPDATE_ROLLED_BACK);
	assert_int_equal(web(s)->update.code, BLIX_E_NOTREADY);
	assert_int_equal(web(s)->n_generations, 2);
	assert_int_equal(s->updates, 0);
	state_free(s);
}

static void a_trial_that_falls(void **state)
{
	struct state *s = with_web("");

	(void)state;
	to_boot(s, (struct ask){.auto_rollback = true}, 2);
	assert_int_equal(report(s, VM_REPORT_STOPPED, "").code, BLIX_OK);
	assert_int_equal(assign(s).code, BLIX_OK);
	assert_int_equal(report(s, VM_REPORT_RETRY, "").code, BLIX_OK);
	assert_int_equal(web(s)->update.step, UPDATE_BOOT);
	assert_int_equal(report(s, VM_REPORT_FAILED, "").code, BLIX_OK);
	assert_int_equal(web(s)->update.step, UPDATE_REVERT);
	assert_int_equal(web(s)->phase, VM_PENDING);
	start(s, "/out-1-1");
	assert_int_equal(web(s)->update.outcome, UPDATE_ROLLED_BACK);
	assert_int_equal(web(s)->update.code, BLIX_E_START);
	assert_string_equal(web(s)->update.reason, "runner-exited");
	state_free(s);
}

/* Nothing says what ready is: it has to run for a while. */
static void a_trial_that_lasts(void **state)
{
	struct state *s = with_web("");

	(void)state;
	to_boot(s, (struct ask){.auto_rollback = true}, 2);
	restart(s, "/out-2-1");
	assert_int_equal(update_due_ms(web(s)), web(s)->phase_ms + UPDATE_STABLE_MS);
	assert_int_equal(due(s, UPDATE_STABLE_MS - 20).code, BLIX_E_CONFLICT);
	assert_int_equal(due(s, 20).code, BLIX_OK);
	assert_int_equal(web(s)->update.outcome, UPDATE_UPDATED);
	state_free(s);
}

static void a_stop_ends_a_trial(void **state)
{
	struct state *s = with_web("");
	struct command c;

	(void)state;
	to_boot(s, (struct ask){.auto_rollback = true}, 2);
	restart(s, "/out-2-1");
	command_init(&c, COMMAND_VM_POWER);
	(void)snprintf(c.vm_power.name, sizeof(c.vm_power.name), "web");
	c.vm_power.verb = VM_VERB_STOP;
	assert_int_equal(run(s, &c).code, BLIX_OK);
	assert_int_equal(web(s)->update.outcome, UPDATE_FAILED);
	assert_int_equal(report(s, VM_REPORT_STOPPED, "").code, BLIX_OK);
	assert_int_equal(web(s)->phase, VM_STOPPED);
	/* Stopped, it is updated without a start. */
	assert_int_equal(ask(s, (struct ask){0}).code, BLIX_OK);
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 3, 1).code, BLIX_OK);
	assert_int_equal(web(s)->update.outcome, UPDATE_UPDATED);
	assert_int_equal(web(s)->phase, VM_STOPPED);
	assert_int_equal(web(s)->generation, 3);
	state_free(s);
}

static void leader_step_at(struct leader *leader, const struct state *s, uint64_t now_ms,
                           struct leader_actions *actions)
{
	for (size_t i = 0; i < actions->n; i++)
		command_done(&actions->commands[i]);
	leader_step(leader, s, &(struct leader_event){.kind = LEADER_SETTLED}, now_ms, actions);
}

static void the_leader_decides(void **state)
{
	struct leader_actions *actions = xcalloc(1, sizeof(*actions));
	struct state *s = with_web("console:up");
	struct leader leader;

	(void)state;
	leader_init(&leader, 1000, 1, 0);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_ELECTED}, 1000, actions);
	assert_int_equal(actions->n, 0);
	assert_int_equal(ask(s, (struct ask){.auto_rollback = true}).code, BLIX_OK);
	leader_step_at(&leader, s, 1000, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].kind, COMMAND_VM_RESOLVE);
	assert_int_equal(resolve(s).code, BLIX_OK);
	leader_step_at(&leader, s, 1000, actions);
	assert_int_equal(actions->n, 0);
	assert_int_equal(resolved(s, 2, 1).code, BLIX_OK);
	assert_int_equal(report(s, VM_REPORT_BUILT, "/out-2-1").code, BLIX_OK);
	restart(s, "/out-2-1");
	/* The old one is in use as long as it may have to come back. */
	leader_step_at(&leader, s, 2000, actions);
	assert_int_equal(actions->n, 0);
	leader_step_at(&leader, s, 2000 + 60000, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].kind, COMMAND_VM_UPDATE_DUE);
	assert_int_equal(report(s, VM_REPORT_READY, "").code, BLIX_OK);
	leader.kept = UINT64_MAX;
	leader_step_at(&leader, s, 63000, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].kind, COMMAND_GENERATION_DROP);
	assert_int_equal(actions->commands[0].generation_drop.number, 1);
	assert_int_equal(run(s, &actions->commands[0]).code, BLIX_OK);
	actions->n = 0;
	assert_int_equal(web(s)->n_generations, 1);
	assert_int_equal(s->n_locks, 1);
	leader_step_at(&leader, s, 64000, actions);
	assert_int_equal(actions->n, 0);
	state_free(s);
	free(actions);
}

static void which_may_go(void **state)
{
	const struct vm_resolved resolved = {0};
	struct vm *vm = vm_new();

	(void)state;
	for (unsigned i = 1; i <= 5; i++)
		(void)generation_add(vm, &resolved, "f", "a", "", i * 1000);
	vm->generation = 5;
	vm->generation_current = 4;
	vm->generation_booted = 1;
	assert_int_equal(generation_victim(vm, 5, 0, 6000), 0);
	assert_int_equal(generation_victim(vm, 4, 0, 6000), 2); /* 1 runs */
	assert_int_equal(generation_victim(vm, 0, 3500, 6000), 2);
	assert_int_equal(generation_victim(vm, 0, 4000, 6000), 0);
	assert_int_equal(generation_victim(vm, 0, 0, 1000000), 0);
	generation_remove(vm, 2);
	assert_int_equal(generation_victim(vm, 1, 0, 6000), 3);
	generation_remove(vm, 3);
	assert_int_equal(generation_victim(vm, 1, 1, 1000000), 0);
	assert_int_equal(generation_before(vm), 4);
	vm_unref(vm);
}

/* The executor machine, about one VM that runs /old. */
struct desk {
	struct executor e;
	struct executor_actions actions;
	struct executor_desired desired;
	struct executor_seen seen;
	uint64_t now_ms, revision;
};

static void step(struct desk *d, struct executor_event event)
{
	event.uid = 7;
	executor_step(&d->e, &event, d->now_ms, &d->actions);
}

static void desire(struct desk *d)
{
	d->revision++;
	step(d, (struct executor_event){.kind = EXECUTOR_DESIRED, .desired = &d->desired});
}

static void applied(struct desk *d)
{
	step(d, (struct executor_event){.kind = EXECUTOR_APPLIED, .revision = d->revision});
}

static void desk_init(struct desk *d)
{
	*d = (struct desk){.now_ms = 100000};
	executor_init(&d->e, 1, 2, 100);
	d->desired = (struct executor_desired){.uid = 7,
	                                       .epoch = 1,
	                                       .name = "web",
	                                       .phase = VM_RUNNING,
	                                       .here = true,
	                                       .held = true,
	                                       .grace_ms = 30000,
	                                       .pid = 42,
	                                       .out_path = "/old"};
	d->seen = (struct executor_seen){.directory = DIRECTORY_OURS,
	                                 .epoch = 1,
	                                 .runner = "/old",
	                                 .booted = "/old",
	                                 .process = PROCESS_RUNNING,
	                                 .pid = 42};
	step(d, (struct executor_event){.kind = EXECUTOR_LOOKED});
	step(d, (struct executor_event){
			.kind = EXECUTOR_DESIRED, .desired = &d->desired, .seen = &d->seen});
	assert_int_equal(d->actions.n, 0);
}

static void expect(const struct desk *d, size_t n, enum executor_action_kind kind)
{
	assert_int_equal(d->actions.n, n);
	assert_int_equal(d->actions.items[0].kind, kind);
}

static const struct vm_report *expect_report(const struct desk *d, enum vm_report_kind kind)
{
	expect(d, 1, EXECUTOR_REPORT);
	assert_int_equal(d->actions.items[0].command->vm_report.kind, kind);
	return &d->actions.items[0].command->vm_report;
}

static void desk_done(struct desk *d)
{
	executor_actions_done(&d->actions);
	executor_done(&d->e);
}

static void built_beside(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	d.desired.updating = true;
	desire(&d);
	expect(&d, 1, EXECUTOR_RESOLVE);
	step(&d, (struct executor_event){.kind = EXECUTOR_DONE, .code = BLIX_E_IMAGE});
	assert_int_equal(d.actions.n, 0); /* again after a wait */
	d.now_ms = d.actions.next_ms;
	step(&d, (struct executor_event){.kind = EXECUTOR_TICK});
	expect(&d, 1, EXECUTOR_RESOLVE);
	d.desired.updating = false;
	d.desired.preparing = true;
	d.desired.out_path = "/new";
	desire(&d);
	expect(&d, 1, EXECUTOR_CANCEL);
	step(&d, (struct executor_event){.kind = EXECUTOR_DONE, .code = BLIX_E_REFUSED});
	expect(&d, 1, EXECUTOR_UPDATE);
	d.seen.runner = "/new";
	step(&d, (struct executor_event){.kind = EXECUTOR_DONE, .seen = &d.seen, .ms = 9});
	assert_string_equal(expect_report(&d, VM_REPORT_BUILT)->runner, "/new");
	step(&d, (struct executor_event){.kind = EXECUTOR_REPORTED, .revision = d.revision + 1});
	assert_int_equal(d.actions.n, 0); /* nothing before the state shows it */
	d.desired.preparing = false;
	desire(&d);
	applied(&d);
	assert_int_equal(d.actions.n, 0);
	desk_done(&d);
}

static void a_build_that_fails(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	d.desired.preparing = true;
	d.desired.out_path = "/new";
	desire(&d);
	expect(&d, 1, EXECUTOR_UPDATE);
	step(&d, (struct executor_event){.kind = EXECUTOR_DONE,
	                                 .code = BLIX_E_IMAGE,
	                                 .reason = "build-failed",
	                                 .final = true,
	                                 .seen = &d.seen});
	assert_string_equal(expect_report(&d, VM_REPORT_NOT_BUILT)->reason, "build-failed");
	desk_done(&d);
}

/* A stop does not wait for an evaluation, nor does an end. */
static void gives_way(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	d.desired.updating = true;
	desire(&d);
	expect(&d, 1, EXECUTOR_RESOLVE);
	d.desired.phase = VM_STOPPING;
	desire(&d);
	expect(&d, 1, EXECUTOR_CANCEL);
	step(&d, (struct executor_event){.kind = EXECUTOR_DONE, .code = BLIX_E_REFUSED});
	expect(&d, 2, EXECUTOR_STOP); /* and the state hears of it */
	desk_done(&d);

	desk_init(&d);
	d.desired.updating = true;
	desire(&d);
	d.seen.process = PROCESS_NONE;
	d.seen.exited = true;
	d.seen.exit_code = 1;
	step(&d, (struct executor_event){.kind = EXECUTOR_SEEN, .seen = &d.seen});
	expect(&d, 1, EXECUTOR_CANCEL);
	step(&d, (struct executor_event){.kind = EXECUTOR_DONE, .code = BLIX_E_REFUSED});
	(void)expect_report(&d, VM_REPORT_EXITED);
	desk_done(&d);
}

/* A runner that is older than what is built says which it is. */
static void tells_what_runs(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	d.desired.out_path = "/new";
	d.desired.pid = 0;
	d.desired.phase = VM_STARTING;
	d.seen.runner = "/new";
	step(&d, (struct executor_event){
			 .kind = EXECUTOR_DESIRED, .desired = &d.desired, .seen = &d.seen});
	assert_string_equal(expect_report(&d, VM_REPORT_RUNNING)->runner, "/old");
	desk_done(&d);
}

/* What was repaired on the way to a start is told before anything else. */
static void tells_a_repair(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	d.desired.phase = VM_SCHEDULED;
	d.desired.pid = 0;
	d.desired.epoch = 2;
	d.seen.process = PROCESS_NONE;
	step(&d, (struct executor_event){
			 .kind = EXECUTOR_DESIRED, .desired = &d.desired, .seen = &d.seen});
	assert_int_equal(d.actions.items[0].kind, EXECUTOR_START);
	step(&d, (struct executor_event){.kind = EXECUTOR_REPORTED, .revision = d.revision});
	step(&d, (struct executor_event){.kind = EXECUTOR_DONE, .repaired = "image-corrupt: /old"});
	assert_string_equal(expect_report(&d, VM_REPORT_REPAIRED)->message, "image-corrupt: /old");
	desk_done(&d);
}

/* What is there already is placed where it is, and held from the start. */
static void adopting(void **state)
{
	struct state *s = state_new();
	struct command c;

	(void)state;
	join(s);
	for (uint64_t node = 2; node > 0; node--) {
		command_init(&c, COMMAND_VM_CREATE);
		(void)snprintf(c.vm_create.name, sizeof(c.vm_create.name), "web");
		xreplace(&c.vm_create.spec.flake, "github:me/vms");
		xreplace(&c.vm_create.spec.attr, "web");
		c.vm_create.spec.power = VM_POWER_STOPPED;
		c.vm_create.adopt = node;
		assert_int_equal(run(s, &c).code, node == 2 ? BLIX_E_NOTFOUND : BLIX_OK);
	}
	assert_int_equal(web(s)->node, 1);
	assert_int_equal(web(s)->epoch, 1);
	assert_true(vm_held_by(web(s), 1));
	assert_false(vm_is_committed(web(s)));
	assert_int_equal(resolve(s).code, BLIX_OK);
	assert_int_equal(resolved(s, 1, 1).code, BLIX_OK);
	assert_int_equal(web(s)->phase, VM_STOPPED);
	assert_int_equal(web(s)->adopt, 1);
	state_free(s);
}

static void bodies(void **state)
{
	static const char *const bad[] = {
		"{\"restart\":\"maybe\"}", "{\"autoRollback\":true,\"restart\":\"no\"}",
		"{\"timeoutMs\":5}",       "{\"graceMs\":9999999}",
		"{\"flake\":\"x y\"}",     "{\"generation\":1}"};
	struct command c;
	cJSON *body;

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++) {
		command_init(&c, COMMAND_VM_UPDATE);
		assert_int_equal(
			json_parse(bad[i], strlen(bad[i]), &json_limits_request, &body, NULL), 0);
		assert_int_equal(update_parse(body, &c, NULL), -BLIX_E_INVALID);
		cJSON_Delete(body);
		command_done(&c);
	}
	command_init(&c, COMMAND_VM_UPDATE);
	assert_int_equal(update_parse(NULL, &c, NULL), 0);
	assert_int_equal(c.vm_update.grace_ms, 30000);
	assert_int_equal(rollback_parse(NULL, &c, NULL), 0);
	assert_true(c.vm_update.rollback);
	command_done(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_update),
		cmocka_unit_test(no_news),
		cmocka_unit_test(without_a_restart),
		cmocka_unit_test(other_resources),
		cmocka_unit_test(a_bad_set_is_undone),
		cmocka_unit_test(a_bad_one_changes_nothing),
		cmocka_unit_test(the_larger_is_held),
		cmocka_unit_test(a_rollback),
		cmocka_unit_test(a_trial_that_is_ready),
		cmocka_unit_test(a_trial_that_is_not),
		cmocka_unit_test(a_trial_that_falls),
		cmocka_unit_test(a_trial_that_lasts),
		cmocka_unit_test(a_stop_ends_a_trial),
		cmocka_unit_test(the_leader_decides),
		cmocka_unit_test(which_may_go),
		cmocka_unit_test(built_beside),
		cmocka_unit_test(a_build_that_fails),
		cmocka_unit_test(gives_way),
		cmocka_unit_test(tells_what_runs),
		cmocka_unit_test(tells_a_repair),
		cmocka_unit_test(adopting),
		cmocka_unit_test(bodies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
