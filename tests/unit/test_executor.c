/* The executor machine: single stories step by step, then a small world of state, host and faults
 * in which every VM must get what the state wants of it. */
#include "base/alloc.h"
#include "core/executor.h"
#include "core/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define ME    1
#define RETRY 100

struct desk {
	struct executor e;
	struct executor_actions actions;
	uint64_t now_ms;
	struct executor_desired desired;
	struct executor_seen seen;
	uint64_t revision;
	uint64_t at_ms; /* the next TICK */
};

static void desk_step(struct desk *d, const struct executor_event *event)
{
	executor_step(&d->e, event, d->now_ms, &d->actions);
	d->at_ms = d->actions.next_ms;
}

static void desk_init(struct desk *d)
{
	*d = (struct desk){.now_ms = 1000};
	executor_init(&d->e, ME, 2, RETRY);
	d->desired = (struct executor_desired){.uid = 7,
	                                       .epoch = 1,
	                                       .name = "web",
	                                       .phase = VM_SCHEDULED,
	                                       .here = true,
	                                       .held = true,
	                                       .grace_ms = 30000,
	                                       .out_path = "/out"};
	d->seen.runner = "";
	desk_step(d, &(struct executor_event){.kind = EXECUTOR_LOOKED});
	assert_int_equal(d->actions.n, 0);
}

static void desk_done(struct desk *d)
{
	executor_actions_done(&d->actions);
	executor_done(&d->e);
}

static const struct executor_action *expect(const struct desk *d, size_t i,
                                            enum executor_action_kind kind)
{
	assert_true(i < d->actions.n);
	assert_int_equal(d->actions.items[i].kind, kind);
	return &d->actions.items[i];
}

static const struct vm_report *expect_report(const struct desk *d, size_t i,
                                             enum vm_report_kind kind)
{
	const struct executor_action *action = expect(d, i, EXECUTOR_REPORT);

	assert_int_equal(action->command->kind, COMMAND_VM_REPORT);
	assert_int_equal(action->command->vm_report.kind, kind);
	assert_int_equal(action->command->vm_report.uid, 7);
	assert_int_equal(action->command->vm_report.node, ME);
	return &action->command->vm_report;
}

static void expect_n(const struct desk *d, size_t n)
{
	assert_int_equal(d->actions.n, n);
}

/* The state says so, and that it said all. */
static void desire(struct desk *d, enum vm_phase phase)
{
	d->desired.phase = phase;
	d->revision++;
	desk_step(d, &(struct executor_event){.kind = EXECUTOR_DESIRED, .desired = &d->desired});
}

static void applied(struct desk *d)
{
	desk_step(d, &(struct executor_event){.kind = EXECUTOR_APPLIED, .revision = d->revision});
}

static void done(struct desk *d, enum blix_code code, const char *reason, bool final)
{
	const struct executor_event event = {.kind = EXECUTOR_DONE,
	                                     .uid = 7,
	                                     .code = code,
	                                     .reason = reason,
	                                     .message = "why",
	                                     .final = final,
	                                     .ms = 5,
	                                     .seen = &d->seen};

	desk_step(d, &event);
}

static void answered(struct desk *d, enum blix_code code)
{
	desk_step(d, &(struct executor_event){.kind = EXECUTOR_REPORTED,
	                                      .uid = 7,
	                                      .code = code,
	                                      .revision = d->revision});
}

static void look(struct desk *d)
{
	desk_step(d, &(struct executor_event){.kind = EXECUTOR_SEEN, .uid = 7, .seen = &d->seen});
}

static void tick(struct desk *d)
{
	assert_true(d->at_ms > 0);
	d->now_ms = d->at_ms > d->now_ms ? d->at_ms : d->now_ms;
	desk_step(d, &(struct executor_event){.kind = EXECUTOR_TICK});
}

static void built(struct desk *d)
{
	d->seen.directory = DIRECTORY_OURS;
	d->seen.runner = "/out";
	d->seen.epoch = d->desired.epoch;
	done(d, BLIX_OK, NULL, false);
}

static void runs(struct desk *d)
{
	d->now_ms += EXECUTOR_SETTLE_MS;
	d->seen.process = PROCESS_RUNNING;
	d->seen.pid = d->desired.pid = 42;
	d->seen.started_ms = 99;
	d->seen.epoch = d->desired.epoch;
	d->seen.exited = false;
}

static void ended(struct desk *d, int32_t code, uint64_t run_ms)
{
	d->seen.process = PROCESS_NONE;
	d->seen.exited = true;
	d->seen.exit_code = code;
	d->seen.run_ms = run_ms;
	d->seen.message = "last words";
	look(d);
}

/* From Scheduled to Running, each report answered and shown by the state. */
static void bring_up(struct desk *d)
{
	desire(d, VM_SCHEDULED);
	expect(d, 0, EXECUTOR_CREATE);
	expect_report(d, 1, VM_REPORT_BUILDING);
	expect_n(d, 2);
	answered(d, BLIX_OK);
	desire(d, VM_BUILDING);
	applied(d);
	expect_n(d, 0);
	built(d);
	expect(d, 0, EXECUTOR_START);
	assert_int_equal(expect_report(d, 1, VM_REPORT_STARTING)->duration_ms, 5);
	runs(d);
	done(d, BLIX_OK, NULL, false);
	expect_n(d, 0); /* Starting is still under way: one report at a time */
	answered(d, BLIX_OK);
	assert_int_equal(expect_report(d, 0, VM_REPORT_RUNNING)->pid, 42);
	desire(d, VM_STARTING);
	answered(d, BLIX_OK);
	desire(d, VM_RUNNING);
	applied(d);
	expect_n(d, 0);
}

static void happy_path(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_READY, .uid = 7, .ms = 3});
	assert_int_equal(expect_report(&d, 0, VM_REPORT_READY)->duration_ms, 3);
	answered(&d, BLIX_OK);
	d.desired.ready = true;
	desire(&d, VM_RUNNING);
	applied(&d);
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_READY, .uid = 7, .ms = 3});
	expect_n(&d, 0);
	assert_int_equal(d.at_ms, 0);
	desk_done(&d);
}

/* Told once for each action that has to fetch, whatever the phase; the action goes on. */
static void fetching(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	desire(&d, VM_SCHEDULED);
	expect(&d, 0, EXECUTOR_CREATE);
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_FETCHING, .uid = 7});
	answered(&d, BLIX_OK);
	assert_int_equal(expect_report(&d, 0, VM_REPORT_FETCHING)->epoch, d.desired.epoch);
	expect_n(&d, 1);
	answered(&d, BLIX_OK);
	desire(&d, VM_BUILDING);
	applied(&d);
	expect_n(&d, 0);
	built(&d);
	expect(&d, 0, EXECUTOR_START);
	desk_done(&d);
}

/* Built, it waits for what somebody must bring, and says so once; given, that is told once too. */
static void waiting_for_secrets(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	d.desired.wait_code = BLIX_E_NOTREADY;
	(void)snprintf(d.desired.wait_reason, sizeof(d.desired.wait_reason), "waits-for-secrets");
	d.desired.wait_message = "db is missing";
	desire(&d, VM_SCHEDULED);
	expect(&d, 0, EXECUTOR_CREATE);
	answered(&d, BLIX_OK);
	desire(&d, VM_BUILDING);
	applied(&d);
	built(&d);
	assert_string_equal(expect_report(&d, 0, VM_REPORT_SECRETS)->message, "db is missing");
	expect_n(&d, 1);
	answered(&d, BLIX_OK);
	desire(&d, VM_SCHEDULED);
	applied(&d);
	look(&d);
	expect_n(&d, 0);
	d.desired.wait_message = "another is missing";
	desire(&d, VM_SCHEDULED);
	assert_string_equal(expect_report(&d, 0, VM_REPORT_SECRETS)->message, "another is missing");
	answered(&d, BLIX_OK);
	d.desired.wait_reason[0] = '\0';
	d.desired.wait_message = NULL;
	desire(&d, VM_SCHEDULED);
	expect(&d, 0, EXECUTOR_START);
	assert_int_equal(expect_report(&d, 1, VM_REPORT_STARTING)->kind, VM_REPORT_STARTING);
	runs(&d);
	done(&d, BLIX_OK, NULL, false);
	/* Before the state knows that it runs. */
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_SECRETS, .uid = 7});
	answered(&d, BLIX_OK);
	expect_report(&d, 0, VM_REPORT_RUNNING);
	desire(&d, VM_STARTING);
	answered(&d, BLIX_OK);
	desire(&d, VM_RUNNING);
	applied(&d);
	assert_int_equal(expect_report(&d, 0, VM_REPORT_SECRETS)->code, BLIX_OK);
	d.revision++; /* it is in the log, and not yet seen there */
	answered(&d, BLIX_OK);
	expect_n(&d, 0);
	d.desired.secrets_given = true;
	desire(&d, VM_RUNNING);
	applied(&d);
	expect_n(&d, 0);
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_SECRETS,
	                                       .uid = 7,
	                                       .code = BLIX_E_REFUSED,
	                                       .reason = "secrets-not-taken",
	                                       .message = "no"});
	assert_string_equal(expect_report(&d, 0, VM_REPORT_SECRETS)->reason, "secrets-not-taken");
	desk_done(&d);
}

/* A step of a stop begins, and the state hears of it. */
static void expect_stop(struct desk *d, enum executor_stop step, enum vm_stop told)
{
	assert_int_equal(expect(d, 0, EXECUTOR_STOP)->stop, step);
	assert_int_equal(expect_report(d, 1, VM_REPORT_STOP)->stop, told);
	answered(d, BLIX_OK);
	expect_n(d, 0);
}

static void stopping_by_steps(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	d.now_ms += 100000;
	d.desired.grace_ms = 7000;
	desire(&d, VM_STOPPING);
	expect_stop(&d, STOP_ASK, VM_STOP_ASK);
	done(&d, BLIX_OK, NULL, false);
	expect_n(&d, 0);
	assert_int_equal(d.at_ms, d.now_ms + EXECUTOR_STEP_MS);
	tick(&d);
	assert_int_equal(expect(&d, 0, EXECUTOR_STOP)->stop, STOP_ASK);
	done(&d, BLIX_OK, NULL, false);
	assert_int_equal(d.at_ms, d.now_ms + 2000);
	tick(&d);
	expect_stop(&d, STOP_TERM, VM_STOP_TERM);
	done(&d, BLIX_OK, NULL, false);
	assert_int_equal(d.at_ms, d.now_ms + EXECUTOR_STEP_MS);
	tick(&d);
	expect_stop(&d, STOP_KILL, VM_STOP_KILL);
	done(&d, BLIX_OK, NULL, false);
	ended(&d, 137, 100);
	assert_int_equal(expect_report(&d, 0, VM_REPORT_STOPPED)->exit_code, 137);
	expect_n(&d, 1);
	answered(&d, BLIX_OK);
	desire(&d, VM_STOPPED);
	applied(&d);
	expect_n(&d, 0);
	assert_int_equal(d.at_ms, 0);
	desk_done(&d);
}

static void stopping_by_force(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	desire(&d, VM_STOPPING);
	assert_int_equal(expect(&d, 0, EXECUTOR_STOP)->stop, STOP_ASK);
	d.desired.grace_ms = 0;
	desire(&d, VM_STOPPING);
	expect_n(&d, 0); /* one action at a time */
	done(&d, BLIX_OK, NULL, false);
	assert_int_equal(expect(&d, 0, EXECUTOR_STOP)->stop, STOP_KILL);
	desk_done(&d);
}

/* A hypervisor without a power button gets SIGTERM at once, a young one a little time. */
static void stopping_the_deaf(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	desire(&d, VM_STOPPING);
	expect(&d, 0, EXECUTOR_STOP);
	done(&d, BLIX_E_UNAVAILABLE, "no-socket", false);
	expect_n(&d, 0);
	while (d.now_ms < 1000 + EXECUTOR_BOOT_MS) {
		tick(&d);
		assert_int_equal(expect(&d, 0, EXECUTOR_STOP)->stop, STOP_ASK);
		done(&d, BLIX_E_UNAVAILABLE, "no-socket", false);
	}
	assert_int_equal(expect(&d, 0, EXECUTOR_STOP)->stop, STOP_TERM);
	desk_done(&d);
}

static void pausing(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	d.desired.paused = true;
	desire(&d, VM_RUNNING);
	expect(&d, 0, EXECUTOR_PAUSE);
	expect_n(&d, 1);
	done(&d, BLIX_OK, NULL, false);
	assert_int_equal(expect_report(&d, 0, VM_REPORT_PAUSED)->code, BLIX_OK);
	answered(&d, BLIX_OK);
	expect_n(&d, 0); /* nothing before the state shows it */
	desire(&d, VM_PAUSED);
	applied(&d);
	expect_n(&d, 0);
	d.desired.paused = false;
	desire(&d, VM_PAUSED);
	expect(&d, 0, EXECUTOR_RESUME);
	done(&d, BLIX_E_TIMEOUT, "closed", false);
	assert_string_equal(expect_report(&d, 0, VM_REPORT_RESUMED)->reason, "closed");
	answered(&d, BLIX_OK);
	d.desired.paused = true; /* as the state has it then */
	desire(&d, VM_PAUSED);
	applied(&d);
	expect_n(&d, 0);
	/* It ends while it is held: that is the news. */
	ended(&d, 137, 50);
	expect_report(&d, 0, VM_REPORT_EXITED);
	desk_done(&d);

	desk_init(&d);
	bring_up(&d);
	d.desired.paused = true;
	desire(&d, VM_RUNNING);
	expect(&d, 0, EXECUTOR_PAUSE);
	desire(&d, VM_STOPPING); /* asked while it is being paused */
	expect_n(&d, 0);
	done(&d, BLIX_OK, NULL, false);
	assert_int_equal(expect(&d, 0, EXECUTOR_STOP)->stop, STOP_ASK);
	expect_report(&d, 1, VM_REPORT_STOP);
	desk_done(&d);
}

static void failing_three_times(void **state)
{
	struct desk d;
	uint64_t waits[2];

	(void)state;
	desk_init(&d);
	desire(&d, VM_SCHEDULED);
	answered(&d, BLIX_OK);
	desire(&d, VM_BUILDING);
	applied(&d);
	for (unsigned i = 0; i < 2; i++) {
		done(&d, BLIX_E_IMAGE, "fetch-failed", false);
		assert_string_equal(expect_report(&d, 0, VM_REPORT_RETRY)->reason, "fetch-failed");
		expect_n(&d, 1);
		waits[i] = d.at_ms - d.now_ms;
		answered(&d, BLIX_OK);
		desire(&d, VM_SCHEDULED);
		applied(&d);
		expect_n(&d, 0);
		tick(&d);
		expect(&d, 0, EXECUTOR_CREATE);
		expect_report(&d, 1, VM_REPORT_BUILDING);
		answered(&d, BLIX_OK);
		desire(&d, VM_BUILDING);
		applied(&d);
	}
	assert_int_equal(waits[0], RETRY);
	assert_int_equal(waits[1], 2 * RETRY);
	done(&d, BLIX_E_IMAGE, "fetch-failed", false);
	assert_string_equal(expect_report(&d, 0, VM_REPORT_FAILED)->message, "why");
	answered(&d, BLIX_OK);
	desire(&d, VM_FAILED);
	applied(&d);
	expect_n(&d, 0);
	assert_int_equal(d.at_ms, 0);
	desk_done(&d);
}

static void failing_for_good(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	desire(&d, VM_SCHEDULED);
	answered(&d, BLIX_OK);
	done(&d, BLIX_E_IMAGE, "build-failed", true);
	expect_report(&d, 0, VM_REPORT_FAILED);
	expect_n(&d, 1);
	desk_done(&d);
	desk_init(&d);
	d.seen.directory = DIRECTORY_FOREIGN;
	d.desired.held = false;
	desire(&d, VM_STOPPED);
	look(&d);
	expect_n(&d, 0);
	d.desired.held = true;
	desire(&d, VM_SCHEDULED);
	assert_int_equal(expect_report(&d, 0, VM_REPORT_FAILED)->code, BLIX_E_EXISTS);
	expect_n(&d, 1);
	desk_done(&d);
	/* It was to be adopted, and why it was not is known. */
	desk_init(&d);
	d.seen.directory = DIRECTORY_FOREIGN;
	d.seen.code = BLIX_E_REFUSED;
	(void)snprintf(d.seen.reason, sizeof(d.seen.reason), "foreign-running");
	desire(&d, VM_STOPPED);
	look(&d);
	d.desired.held = true;
	desire(&d, VM_SCHEDULED);
	assert_int_equal(expect_report(&d, 0, VM_REPORT_FAILED)->code, BLIX_E_REFUSED);
	assert_string_equal(expect_report(&d, 0, VM_REPORT_FAILED)->reason, "foreign-running");
	desk_done(&d);
}

/* The state has heard of the end: the pause passes, it runs again. */
static void again(struct desk *d, enum vm_phase phase, uint32_t crashes)
{
	answered(d, BLIX_OK);
	d->desired.crashes = crashes;
	desire(d, phase);
	applied(d);
	expect_n(d, 0);
	tick(d);
	expect(d, 0, EXECUTOR_START);
	runs(d);
	done(d, BLIX_OK, NULL, false);
	answered(d, BLIX_OK);
	desire(d, VM_STARTING);
	answered(d, BLIX_OK);
	desire(d, VM_RUNNING);
	applied(d);
}

static void runner_exits(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	ended(&d, 0, 50);
	expect_report(&d, 0, VM_REPORT_EXITED);
	answered(&d, BLIX_OK);
	expect_n(&d, 0); /* nothing before the state shows it */
	desire(&d, VM_STOPPED);
	applied(&d);
	expect_n(&d, 0);
	desk_done(&d);

	desk_init(&d);
	bring_up(&d);
	for (unsigned i = 0; i < 5; i++) { /* each ran long enough: the pause does not grow */
		ended(&d, 1, EXECUTOR_STABLE_MS);
		assert_string_equal(expect_report(&d, 0, VM_REPORT_EXITED)->message, "last words");
		assert_true(d.actions.items[0].command->vm_report.stable);
		assert_int_equal(d.actions.items[0].command->vm_report.wait_ms, RETRY);
		again(&d, VM_SCHEDULED, 1);
	}
	desk_done(&d);
}

/* What was set up for a run goes before its end is told; what cannot go is tried again later. */
static void taken_down_first(void **state)
{
	struct desk d;

	(void)state;
	for (unsigned failures = 0; failures <= EXECUTOR_TRIES; failures++) {
		bool left = failures == EXECUTOR_TRIES;

		desk_init(&d);
		bring_up(&d);
		d.seen.setup = true;
		ended(&d, 0, 50);
		for (unsigned i = 0; i < failures; i++) {
			expect(&d, 0, EXECUTOR_TEARDOWN);
			expect_n(&d, 1);
			done(&d, BLIX_E_START, "teardown-failed", false);
			if (!left || i + 1 < failures) {
				expect_n(&d, 0);
				tick(&d);
			}
		}
		if (!left) {
			expect(&d, 0, EXECUTOR_TEARDOWN);
			expect_n(&d, 1);
			d.seen.setup = false;
			done(&d, BLIX_OK, NULL, false);
		}
		expect_report(&d, 0, VM_REPORT_EXITED);
		answered(&d, BLIX_OK);
		desire(&d, VM_STOPPED);
		applied(&d);
		for (unsigned i = 0; left && i < 5; i++) { /* it is not forgotten */
			expect_n(&d, 0);
			tick(&d);
			expect(&d, 0, EXECUTOR_TEARDOWN);
			d.seen.setup = i < 4;
			done(&d, i < 4 ? BLIX_E_START : BLIX_OK, "teardown-failed", false);
		}
		expect_n(&d, 0);
		assert_int_equal(d.at_ms, 0);
		desk_done(&d);
	}
	/* A node that can do nothing is waited for, however often. */
	desk_init(&d);
	bring_up(&d);
	d.seen.setup = true;
	ended(&d, 0, 50);
	for (unsigned i = 0; i < EXECUTOR_TRIES * 2; i++) {
		expect(&d, 0, EXECUTOR_TEARDOWN);
		expect_n(&d, 1);
		desk_step(&d, &(struct executor_event){.kind = EXECUTOR_DONE,
		                                       .uid = 7,
		                                       .code = BLIX_E_INTERNAL,
		                                       .reason = "journal-failed",
		                                       .host = true});
		expect_n(&d, 0);
		tick(&d);
	}
	d.seen.setup = false;
	done(&d, BLIX_OK, NULL, false);
	expect_report(&d, 0, VM_REPORT_EXITED);
	desk_done(&d);
	desk_init(&d);
	bring_up(&d);
	d.seen.setup = true;
	d.seen.process = PROCESS_UNKNOWN; /* it may still need what is set up */
	look(&d);
	for (size_t i = 0; i < d.actions.n; i++)
		assert_int_not_equal(d.actions.items[i].kind, EXECUTOR_TEARDOWN);
	desk_done(&d);
}

/* Each end that comes soon doubles the pause, up to a minute; one that comes late starts anew. */
static void crashing_in_a_row(void **state)
{
	struct desk d;
	uint64_t wait_ms = RETRY;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	for (unsigned i = 1; i <= 14; i++) {
		const struct vm_report *report;

		ended(&d, 1, 50);
		report = expect_report(&d, 0, VM_REPORT_EXITED);
		assert_int_equal(report->code, BLIX_E_START);
		assert_int_equal(report->wait_ms, wait_ms);
		assert_false(report->stable);
		again(&d, i < VM_CRASHES_LOOP ? VM_SCHEDULED : VM_CRASHLOOP, i);
		wait_ms = 2 * wait_ms < VM_BACKOFF_MS_MAX ? 2 * wait_ms : VM_BACKOFF_MS_MAX;
	}
	assert_int_equal(wait_ms, VM_BACKOFF_MS_MAX);
	/* It lasts: the state is told, once. */
	tick(&d);
	expect_report(&d, 0, VM_REPORT_STABLE);
	answered(&d, BLIX_OK);
	applied(&d);
	expect_n(&d, 0);
	d.desired.crashes = 0;
	desire(&d, VM_RUNNING);
	applied(&d);
	expect_n(&d, 0);
	assert_int_equal(d.at_ms, 0);
	desk_done(&d);
}

/* In the middle of a pause: a start asked for ends it, a new daemon keeps to what is left. */
static void leaving_a_crash_loop(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	d.desired.crashes = 5;
	desire(&d, VM_RUNNING);
	ended(&d, 1, 50);
	answered(&d, BLIX_OK);
	d.desired.crashes = 6;
	desire(&d, VM_CRASHLOOP);
	applied(&d);
	expect_n(&d, 0);
	assert_int_equal(d.at_ms, d.now_ms + 32 * RETRY);
	d.desired.crashes = 0;
	desire(&d, VM_SCHEDULED);
	expect(&d, 0, EXECUTOR_START);
	desk_done(&d);

	desk_init(&d);
	d.seen = (struct executor_seen){.runner = "/out", .directory = DIRECTORY_OURS, .epoch = 1};
	d.desired.crashes = 6;
	d.desired.retry_in_ms = 777;
	desire(&d, VM_CRASHLOOP);
	look(&d);
	expect_n(&d, 0);
	assert_int_equal(d.at_ms, d.now_ms + 777);
	tick(&d);
	expect(&d, 0, EXECUTOR_START);
	desk_done(&d);
}

/* It never was seen alive: the log still hears that it ran before it hears that it ended. */
static void runner_exits_at_once(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	desire(&d, VM_SCHEDULED);
	answered(&d, BLIX_OK);
	built(&d);
	d.seen.exited = true;
	d.seen.exit_code = 0;
	done(&d, BLIX_OK, NULL, false);
	answered(&d, BLIX_OK);
	expect_report(&d, 0, VM_REPORT_RUNNING);
	answered(&d, BLIX_OK);
	expect_report(&d, 0, VM_REPORT_EXITED);
	desk_done(&d);
}

static void runner_exits_soon(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	desire(&d, VM_SCHEDULED);
	answered(&d, BLIX_OK);
	built(&d);
	answered(&d, BLIX_OK);
	runs(&d);
	d.now_ms -= EXECUTOR_SETTLE_MS;
	done(&d, BLIX_OK, NULL, false);
	expect_n(&d, 0); /* it is not called Running yet */
	ended(&d, 1, 20);
	assert_int_equal(expect_report(&d, 0, VM_REPORT_EXITED)->code, BLIX_E_START);
	desk_done(&d);
}

static void adopting(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	d.e.looked = false;
	d.seen.directory = DIRECTORY_OURS;
	d.seen.runner = "/out";
	d.seen.epoch = 1;
	runs(&d);
	desire(&d, VM_RUNNING);
	look(&d);
	expect_n(&d, 0);
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_LOOKED});
	expect_n(&d, 0); /* it runs, and the state knows */
	desk_done(&d);

	desk_init(&d);
	d.e.looked = false;
	d.seen.directory = DIRECTORY_OURS;
	d.seen.runner = "/out";
	d.seen.epoch = 1;
	desire(&d, VM_RUNNING);
	look(&d);
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_LOOKED});
	assert_string_equal(expect_report(&d, 0, VM_REPORT_EXITED)->reason, "runner-lost");
	desk_done(&d);
}

static void deleting(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	d.desired.grace_ms = 0;
	desire(&d, VM_DELETING);
	expect_stop(&d, STOP_KILL, VM_STOP_KILL);
	done(&d, BLIX_OK, NULL, false);
	ended(&d, 137, 1);
	expect(&d, 0, EXECUTOR_DELETE);
	done(&d, BLIX_E_INTERNAL, "io", false);
	expect_n(&d, 0);
	tick(&d);
	expect(&d, 0, EXECUTOR_DELETE);
	d.seen = (struct executor_seen){.runner = ""};
	done(&d, BLIX_OK, NULL, false);
	expect_report(&d, 0, VM_REPORT_GONE);
	answered(&d, BLIX_OK);
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_FORGOTTEN, .uid = 7});
	expect_n(&d, 0);
	assert_int_equal(d.e.n, 0);
	desk_done(&d);
}

static void cancelling_a_build(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	desire(&d, VM_SCHEDULED);
	answered(&d, BLIX_OK);
	desire(&d, VM_STOPPING);
	expect(&d, 0, EXECUTOR_CANCEL);
	expect_n(&d, 1);
	desire(&d, VM_STOPPING);
	expect_n(&d, 0);
	done(&d, BLIX_E_IMAGE, "cancelled", false);
	expect_report(&d, 0, VM_REPORT_STOPPED);
	expect_n(&d, 1);
	desk_done(&d);
}

/* Moved to another node: what is left here goes, and only that. */
static void moved_away(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	d.desired.here = false;
	d.desired.elsewhere = true;
	desire(&d, VM_RUNNING);
	expect_n(&d, 0); /* the same epoch: nothing says that ours is the old one */
	d.desired.epoch = 2;
	desire(&d, VM_SCHEDULED);
	expect(&d, 0, EXECUTOR_STOP);
	done(&d, BLIX_OK, NULL, false);
	ended(&d, 0, 100);
	expect(&d, 0, EXECUTOR_DELETE);
	d.seen = (struct executor_seen){.runner = ""};
	done(&d, BLIX_OK, NULL, false);
	expect_report(&d, 0, VM_REPORT_GONE);
	desk_done(&d);
}

static void unidentified(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	bring_up(&d);
	d.seen.process = PROCESS_UNKNOWN;
	look(&d);
	expect(&d, 0, EXECUTOR_STATUS);
	expect_report(&d, 1, VM_REPORT_UNKNOWN);
	answered(&d, BLIX_OK);
	desire(&d, VM_UNKNOWN);
	applied(&d);
	done(&d, BLIX_OK, NULL, false);
	expect_n(&d, 0); /* never touched, and looked at again later */
	tick(&d);
	expect(&d, 0, EXECUTOR_STATUS);
	runs(&d);
	done(&d, BLIX_OK, NULL, false);
	expect_report(&d, 0, VM_REPORT_RUNNING);
	desk_done(&d);
}

static void reports_are_sent_again(void **state)
{
	struct desk d;

	(void)state;
	desk_init(&d);
	desire(&d, VM_SCHEDULED);
	expect_report(&d, 1, VM_REPORT_BUILDING);
	for (unsigned i = 0; i < 10; i++) {
		answered(&d, i % 2 == 0 ? BLIX_E_NOLEADER : BLIX_E_UNKNOWN);
		expect_n(&d, 0);
		assert_true(d.at_ms > d.now_ms && d.at_ms <= d.now_ms + 2000);
		tick(&d);
		expect_report(&d, 0, VM_REPORT_BUILDING);
	}
	answered(&d, BLIX_E_CONFLICT); /* refused: the state moved on */
	expect_n(&d, 0);
	desk_done(&d);
}

static void builds_are_bounded(void **state)
{
	struct desk d;
	unsigned creating = 0;

	(void)state;
	desk_init(&d);
	for (uint64_t uid = 10; uid < 15; uid++) {
		d.desired.uid = uid;
		desire(&d, VM_SCHEDULED);
		for (size_t i = 0; i < d.actions.n; i++)
			creating += d.actions.items[i].kind == EXECUTOR_CREATE;
	}
	assert_int_equal(creating, 2);
	d.seen = (struct executor_seen){.runner = "/out", .directory = DIRECTORY_OURS, .epoch = 1};
	desk_step(&d, &(struct executor_event){.kind = EXECUTOR_DONE, .uid = 11, .seen = &d.seen});
	assert_int_equal(expect(&d, 0, EXECUTOR_START)->uid, 11);
	assert_int_equal(expect(&d, 1, EXECUTOR_CREATE)->uid, 12); /* in order of arrival */
	desk_done(&d);
}

/* The world: one node, the real state, a host that fails at random. */
#define WORLD_VMS 8

struct host_vm {
	struct executor_seen seen;
	enum executor_action_kind acting;
	uint64_t done_ms;
	enum executor_stop stop;
	const struct command *report;
	uint64_t answer_ms;
	uint64_t revision; /* of the VM when it was last shown to the machine */
};

struct world {
	struct executor e;
	struct executor_actions actions;
	struct state *state;
	struct host_vm vms[WORLD_VMS]; /* by uid - first */
	uint64_t now_ms, tick_ms, random;
	bool faults;
	unsigned restarts;
};

static uint64_t world_random(struct world *w, uint64_t n)
{
	w->random = w->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (w->random >> 33) % n;
}

static struct command_result world_apply(struct world *w, const struct command *command)
{
	struct command_result result = {0};

	state_begin(w->state, 1, 1000000 + w->now_ms);
	state_apply(w->state, command, &result);
	return result;
}

static struct host_vm *world_vm(struct world *w, const char *name)
{
	return &w->vms[name[1] - '0'];
}

static void world_step(struct world *w, const struct executor_event *event);

static void world_begin(struct world *w, const struct executor_action *action)
{
	struct host_vm *vm = world_vm(w, action->name);

	if (action->kind == EXECUTOR_REPORT) {
		assert_null(vm->report);
		vm->report = action->command;
		vm->answer_ms = w->now_ms + world_random(w, 20);
	} else if (action->kind == EXECUTOR_CANCEL) {
		assert_int_not_equal(vm->acting, EXECUTOR_IDLE);
		vm->done_ms = w->now_ms;
	} else {
		assert_int_equal(vm->acting, EXECUTOR_IDLE);
		vm->acting = action->kind;
		vm->stop = action->stop;
		vm->done_ms = w->now_ms + world_random(w, 50);
	}
}

static void world_step(struct world *w, const struct executor_event *event)
{
	executor_step(&w->e, event, w->now_ms, &w->actions);
	w->tick_ms = w->actions.next_ms;
	for (size_t i = 0; i < w->actions.n; i++)
		world_begin(w, &w->actions.items[i]);
}

/* Shows the machine what changed in the state, as the wiring does. */
static void world_show(struct world *w)
{
	for (unsigned i = 0; i < WORLD_VMS; i++) {
		const char name[3] = {'v', (char)('0' + i), '\0'};
		const struct vm *vm = state_vm(w->state, name);
		struct executor_desired desired;

		if (vm == NULL || vm->revision == w->vms[i].revision)
			continue;
		w->vms[i].revision = vm->revision;
		desired = (struct executor_desired){.uid = vm->uid,
		                                    .epoch = vm->epoch,
		                                    .phase = vm->phase,
		                                    .here = vm->node == ME,
		                                    .resolving = vm->resolver == ME,
		                                    .held = vm_held_by(vm, ME),
		                                    .ready = vm->ready,
		                                    .grace_ms = vm->grace_ms,
		                                    .pid = vm->pid,
		                                    .paused = vm->spec.power == VM_POWER_PAUSED,
		                                    .crashes = vm->crashes,
		                                    .out_path = vm->resolved.out_path};
		memcpy(desired.name, vm->name, sizeof(desired.name));
		world_step(w,
		           &(struct executor_event){.kind = EXECUTOR_DESIRED, .desired = &desired});
	}
	world_step(w, &(struct executor_event){.kind = EXECUTOR_APPLIED,
	                                       .revision = w->state->revision});
}

static void world_found(struct world *w, const struct vm *vm, struct command *found)
{
	command_init(found, COMMAND_VM_RESOLVED);
	found->vm_resolved.uid = vm->uid;
	found->vm_resolved.node = ME;
	found->vm_resolved.resolved.cpus = 1;
	found->vm_resolved.resolved.memory_bytes = 1 << 20;
	free(found->vm_resolved.resolved.hypervisor);
	free(found->vm_resolved.resolved.out_path);
	found->vm_resolved.resolved.hypervisor = xstrdup("qemu");
	found->vm_resolved.resolved.out_path = xstrdup("/out");
	(void)w;
}

static void world_effect(struct world *w, struct host_vm *h, uint64_t epoch)
{
	if (h->acting == EXECUTOR_CREATE || h->acting == EXECUTOR_UPDATE) {
		h->seen.directory = DIRECTORY_OURS;
		h->seen.runner = "/out";
		h->seen.epoch = epoch;
	} else if (h->acting == EXECUTOR_START) {
		assert_int_equal(h->seen.process, PROCESS_NONE);
		h->seen.process = PROCESS_RUNNING;
		h->seen.pid = 100 + w->now_ms;
		h->seen.epoch = epoch;
	} else if (h->acting == EXECUTOR_STOP && (h->stop != STOP_ASK || w->now_ms % 2 == 0)) {
		h->seen.process = PROCESS_NONE;
		h->seen.exited = true;
		h->seen.exit_code = h->stop == STOP_KILL ? 137 : 0;
	} else if (h->acting == EXECUTOR_DELETE) {
		assert_int_equal(h->seen.process, PROCESS_NONE);
		h->seen = (struct executor_seen){.runner = ""};
	}
}

static void world_end_action(struct world *w, unsigned i)
{
	const char name[3] = {'v', (char)('0' + i), '\0'};
	const struct vm *vm = state_vm(w->state, name);
	struct host_vm *h = &w->vms[i];
	bool fails = w->faults && world_random(w, 4) == 0;
	struct command found;
	struct executor_event event = {.kind = EXECUTOR_DONE,
	                               .uid = vm->uid,
	                               .code = fails ? BLIX_E_START : BLIX_OK,
	                               .reason = "fault",
	                               .seen = &h->seen};

	if (!fails)
		world_effect(w, h, vm->epoch);
	if (!fails && h->acting == EXECUTOR_RESOLVE) {
		world_found(w, vm, &found);
		event.resolved = &found;
	}
	h->acting = EXECUTOR_IDLE;
	world_step(w, &event);
	if (event.resolved != NULL)
		command_done(&found);
}

static void world_answer(struct world *w, unsigned i)
{
	struct host_vm *h = &w->vms[i];
	const struct command *command = h->report;
	struct executor_event event = {.kind = EXECUTOR_REPORTED};
	struct command_result result;

	event.uid = command->kind == COMMAND_VM_RESOLVED ? command->vm_resolved.uid
	                                                 : command->vm_report.uid;
	h->report = NULL;
	if (w->faults && world_random(w, 3) == 0) {
		event.code = BLIX_E_NOLEADER;
	} else {
		result = world_apply(w, command);
		event.code = result.code;
		event.revision = result.revision;
		if (w->faults && world_random(w, 5) == 0) /* it happened, and we never hear */
			event.code = BLIX_E_UNKNOWN;
	}
	world_step(w, &event);
	/* Deleted: the wiring finds it gone at its next scan. */
	if (state_vm_uid(w->state, event.uid) == NULL)
		world_step(w,
		           &(struct executor_event){.kind = EXECUTOR_FORGOTTEN, .uid = event.uid});
}

/* The leader, in three lines. */
static void world_lead(struct world *w)
{
	for (size_t i = 0; i < w->state->n_vms; i++) {
		const struct vm *vm = w->state->by_uid[i];
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
		(void)world_apply(w, &command);
		command_done(&command);
	}
}

/* A user's whim, or a VM that dies. */
static void world_disturb(struct world *w)
{
	unsigned i = (unsigned)world_random(w, WORLD_VMS);
	struct host_vm *h = &w->vms[i];
	const char name[3] = {'v', (char)('0' + i), '\0'};
	const struct vm *vm = state_vm(w->state, name);
	struct command command;

	if (vm == NULL)
		return;
	if (world_random(w, 2) == 0) {
		command_init(&command, COMMAND_VM_POWER);
		memcpy(command.vm_power.name, name, sizeof(name));
		command.vm_power.verb = (enum vm_verb)(1 + world_random(w, VM_VERB_COUNT - 1));
		command.vm_power.grace_ms = (uint32_t)world_random(w, 3) * 1000;
		(void)world_apply(w, &command);
		command_done(&command);
	} else if (h->seen.process == PROCESS_RUNNING && h->acting == EXECUTOR_IDLE) {
		h->seen.process = PROCESS_NONE;
		h->seen.exited = true;
		h->seen.exit_code = (int32_t)world_random(w, 2);
		world_step(w, &(struct executor_event){
				      .kind = EXECUTOR_SEEN, .uid = vm->uid, .seen = &h->seen});
	}
}

/* kill -9: what was under way has an unknown outcome, what runs goes on running. */
static void world_restart(struct world *w)
{
	executor_done(&w->e);
	executor_init(&w->e, ME, 2, RETRY);
	w->restarts++;
	for (unsigned i = 0; i < WORLD_VMS; i++) {
		struct host_vm *h = &w->vms[i];
		const char name[3] = {'v', (char)('0' + i), '\0'};
		const struct vm *vm = state_vm(w->state, name);

		if (h->acting != EXECUTOR_IDLE && vm != NULL && world_random(w, 2) == 0)
			world_effect(w, h, vm->epoch);
		if (h->report != NULL)
			h->report = NULL;
		h->acting = EXECUTOR_IDLE;
		h->revision = 0;
	}
	world_show(w);
	for (unsigned i = 0; i < WORLD_VMS; i++) {
		const char name[3] = {'v', (char)('0' + i), '\0'};
		const struct vm *vm = state_vm(w->state, name);

		if (vm != NULL)
			world_step(w, &(struct executor_event){.kind = EXECUTOR_SEEN,
			                                       .uid = vm->uid,
			                                       .seen = &w->vms[i].seen});
	}
	world_step(w, &(struct executor_event){.kind = EXECUTOR_LOOKED});
}

static void world_turn(struct world *w)
{
	w->now_ms += 5;
	world_lead(w);
	world_show(w);
	for (unsigned i = 0; i < WORLD_VMS; i++) {
		if (w->vms[i].acting != EXECUTOR_IDLE && w->vms[i].done_ms <= w->now_ms)
			world_end_action(w, i);
		if (w->vms[i].report != NULL && w->vms[i].answer_ms <= w->now_ms)
			world_answer(w, i);
	}
	if (w->tick_ms != 0 && w->tick_ms <= w->now_ms)
		world_step(w, &(struct executor_event){.kind = EXECUTOR_TICK});
}

static void world_node(struct world *w)
{
	struct command command;

	command_init(&command, COMMAND_NODE_REPORT);
	command.node_report.id = ME;
	memcpy(command.node_report.name, "n1", 3);
	command.node_report.facts.cpus = 64;
	command.node_report.facts.memory_bytes = 1ULL << 40;
	command.node_report.facts.overcommit_cpu = 100;
	command.node_report.facts.overcommit_memory = 100;
	free(command.node_report.facts.hypervisors);
	command.node_report.facts.hypervisors = xstrdup("qemu");
	assert_int_equal(world_apply(w, &command).code, BLIX_OK);
	command_done(&command);
}

static void world_create(struct world *w, unsigned i)
{
	struct command command;

	command_init(&command, COMMAND_VM_CREATE);
	command.vm_create.name[0] = 'v';
	command.vm_create.name[1] = (char)('0' + i);
	xreplace(&command.vm_create.spec.flake, "path:/x");
	xreplace(&command.vm_create.spec.attr, "demo");
	assert_int_equal(world_apply(w, &command).code, BLIX_OK);
	command_done(&command);
}

static void world_name_all(struct world *w, enum command_kind kind, enum vm_verb verb)
{
	for (unsigned i = 0; i < WORLD_VMS; i++) {
		struct command command;

		command_init(&command, kind);
		command.vm_power.name[0] = command.vm_delete.name[0] = 'v';
		command.vm_power.name[1] = command.vm_delete.name[1] = (char)('0' + i);
		if (kind == COMMAND_VM_POWER)
			command.vm_power.verb = verb;
		(void)world_apply(w, &command);
		command_done(&command);
	}
}

static void world_run(uint64_t seed)
{
	struct world w = {.random = seed, .faults = true, .now_ms = 1};

	w.state = state_new();
	executor_init(&w.e, ME, 2, RETRY);
	world_node(&w);
	for (unsigned i = 0; i < WORLD_VMS; i++) {
		w.vms[i].seen.runner = "";
		world_create(&w, i);
	}
	world_step(&w, &(struct executor_event){.kind = EXECUTOR_LOOKED});
	for (unsigned turn = 0; turn < 2000; turn++) {
		if (world_random(&w, 40) == 0)
			world_disturb(&w);
		if (world_random(&w, 300) == 0)
			world_restart(&w);
		world_turn(&w);
	}
	/* The faults end: everything must come to run, and stay quiet. */
	w.faults = false;
	for (unsigned turn = 0; turn < 4000; turn++) {
		if (turn % 500 == 0)
			world_name_all(&w, COMMAND_VM_POWER,
			               turn % 1000 == 0 ? VM_VERB_START : VM_VERB_RESUME);
		world_turn(&w);
	}
	for (unsigned i = 0; i < WORLD_VMS; i++) {
		const char name[3] = {'v', (char)('0' + i), '\0'};
		const struct vm *vm = state_vm(w.state, name);

		assert_int_equal(vm->phase, VM_RUNNING);
		assert_int_equal(w.vms[i].seen.process, PROCESS_RUNNING);
		assert_int_equal(w.vms[i].seen.epoch, vm->epoch);
		assert_int_equal(w.vms[i].acting, EXECUTOR_IDLE);
		assert_int_equal(vm->pid, w.vms[i].seen.pid);
	}
	assert_int_equal(w.tick_ms, 0);
	world_name_all(&w, COMMAND_VM_DELETE, VM_VERB_START);
	for (unsigned turn = 0; turn < 2000; turn++)
		world_turn(&w);
	assert_int_equal(w.state->n_vms, 0);
	assert_int_equal(w.e.n, 0);
	for (unsigned i = 0; i < WORLD_VMS; i++)
		assert_int_equal(w.vms[i].seen.directory, DIRECTORY_NONE);
	executor_actions_done(&w.actions);
	executor_done(&w.e);
	state_free(w.state);
}

static void worlds(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++)
		world_run(seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(happy_path),
		cmocka_unit_test(fetching),
		cmocka_unit_test(waiting_for_secrets),
		cmocka_unit_test(stopping_by_steps),
		cmocka_unit_test(stopping_by_force),
		cmocka_unit_test(stopping_the_deaf),
		cmocka_unit_test(pausing),
		cmocka_unit_test(failing_three_times),
		cmocka_unit_test(failing_for_good),
		cmocka_unit_test(runner_exits),
		cmocka_unit_test(taken_down_first),
		cmocka_unit_test(crashing_in_a_row),
		cmocka_unit_test(leaving_a_crash_loop),
		cmocka_unit_test(runner_exits_at_once),
		cmocka_unit_test(runner_exits_soon),
		cmocka_unit_test(adopting),
		cmocka_unit_test(deleting),
		cmocka_unit_test(cancelling_a_build),
		cmocka_unit_test(moved_away),
		cmocka_unit_test(unidentified),
		cmocka_unit_test(reports_are_sent_again),
		cmocka_unit_test(builds_are_bounded),
		cmocka_unit_test(worlds),
	};

	return cmocka_run_group_tests_name("executor", tests, NULL, NULL);
}
