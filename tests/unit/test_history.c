/* The checkers of tests/chaos against histories made by hand: good ones are called good, and in
 * each bad one the checker that has to see it does. And their lines: what is written is read back.
 */
#include "../chaos/check.h"

#include "base/alloc.h"
#include "sys/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define EVENTS_MAX 8

/* clang-format off */
#define EVENT(op_, arg_, call_, ret_, kind_, ...)                                              \
	{.op = HISTORY_##op_, .key = "x", .arg = (arg_), .call = (call_), .ret = (ret_),       \
	 .kind = HISTORY_##kind_, ##__VA_ARGS__}
#define OK(op_, arg_, call_, ret_, ...)   EVENT(op_, arg_, call_, ret_, OK, ##__VA_ARGS__)
#define INFO(op_, arg_, call_, ...)       EVENT(op_, arg_, call_, HISTORY_NEVER, INFO, ##__VA_ARGS__)
#define NO(op_, arg_, call_, ret_, why, ...) EVENT(op_, arg_, call_, ret_, FAIL, .reason = (why), ##__VA_ARGS__)
#define SEES(version_, value_)            .uid = 1, .version = (version_), .value = (value_)
#define HOLDS(version_, n_, ...)          .uid = 1, .version = (version_), .value = 1, .n_elements = (n_), .elements = {__VA_ARGS__}
#define ON(server_, life_)                .server = (server_), .life = (life_)
#define MADE                              OK(CREATE, 1, 0, 1)
/* clang-format on */

struct made {
	const char *name;
	const char *who; /* the checker that sees what is wrong; NULL: nothing is */
	struct record events[EVENTS_MAX];
};

static const struct made good[] = {
	{"nothing", NULL, {{0}}},
	{"one after the other", NULL, {MADE, OK(WRITE, 2, 2, 3), OK(READ, 0, 4, 5, SEES(2, 2))}},
	{"a read beside a write sees the old",
         NULL,
         {MADE, OK(WRITE, 2, 2, 9), OK(READ, 0, 3, 4, SEES(1, 1))}},
	{"a read beside a write sees the new",
         NULL,
         {MADE, OK(WRITE, 2, 2, 9), OK(READ, 0, 3, 4, SEES(2, 2))}},
	{"two writes at once, the later call first",
         NULL,
         {MADE, OK(WRITE, 2, 2, 9), OK(WRITE, 3, 3, 8), OK(READ, 0, 10, 11, SEES(3, 2))}},
	{"an unknown write that happened",
         NULL,
         {MADE, INFO(WRITE, 2, 2), OK(READ, 0, 5, 6, SEES(2, 2))}},
	{"an unknown write that did not",
         NULL,
         {MADE, INFO(WRITE, 2, 2), OK(READ, 0, 5, 6, SEES(1, 1))}},
	{"an unknown write that takes effect late",
         NULL,
         {MADE, INFO(WRITE, 2, 2), OK(READ, 0, 5, 6, SEES(1, 1)), OK(WRITE, 3, 7, 8),
          OK(READ, 0, 9, 10, SEES(2, 3)), OK(READ, 0, 11, 12, SEES(3, 2))}},
	{"a write that was not done",
         NULL,
         {MADE, NO(WRITE, 2, 2, 3, "no-leader"), OK(READ, 0, 4, 5, SEES(1, 1))}},
	{"compare and set, one of two",
         NULL,
         {MADE, OK(CAS, 2, 2, 9, .expect = 1), NO(CAS, 3, 3, 8, "version-conflict", .expect = 1),
          OK(READ, 0, 10, 11, SEES(2, 2))}},
	{"an unknown compare and set that came too late",
         NULL,
         {MADE, INFO(CAS, 2, 2, .expect = 1), OK(WRITE, 3, 3, 4), OK(READ, 0, 5, 6, SEES(2, 3)),
          OK(READ, 0, 7, 8, SEES(2, 3))}},
	{"deleted and made again",
         NULL,
         {MADE, OK(DELETE, 0, 2, 3), NO(READ, 0, 4, 5, "vm-missing"), OK(CREATE, 2, 6, 7),
          OK(READ, 0, 8, 9, .uid = 5, .version = 1, .value = 2)}},
	{"two make it at once",
         NULL,
         {OK(CREATE, 1, 0, 9), NO(CREATE, 2, 1, 8, "vm-exists"), OK(READ, 0, 10, 11, SEES(1, 1))}},
	{"a local read may be old",
         NULL,
         {MADE, OK(WRITE, 2, 2, 3), OK(LOCAL, 0, 4, 5, SEES(1, 1)), OK(READ, 0, 6, 7, SEES(2, 2))}},
	{"elements one after the other",
         NULL,
         {MADE, OK(APPEND, 4, 2, 3, HOLDS(2, 1, 4)), OK(APPEND, 5, 4, 5, HOLDS(3, 2, 4, 5)),
          OK(READ, 0, 6, 7, HOLDS(3, 2, 4, 5))}},
	{"elements at once, read between",
         NULL,
         {MADE, OK(APPEND, 4, 2, 9), OK(APPEND, 5, 3, 8), OK(READ, 0, 4, 5, HOLDS(2, 1, 5)),
          OK(READ, 0, 10, 11, HOLDS(3, 2, 4, 5))}},
	{"an unknown element that is there late",
         NULL,
         {MADE, INFO(APPEND, 4, 2), OK(READ, 0, 3, 4, HOLDS(1, 0)), OK(APPEND, 5, 5, 6),
          OK(READ, 0, 7, 8, HOLDS(3, 2, 4, 5))}},
	{"a restarted server is behind itself",
         NULL,
         {MADE, OK(WRITE, 2, 2, 3), OK(LOCAL, 0, 4, 5, SEES(2, 2), .revision = 20, ON(1, 1)),
          OK(LOCAL, 0, 6, 7, SEES(1, 1), .revision = 10, ON(1, 2))}},
	{"the same answer to the same number",
         NULL,
         {MADE, OK(WRITE, 2, 2, 3), OK(AGAIN, 0, 4, 5, .first = "ok", SEES(2, 2)),
          NO(AGAIN, 0, 6, 7, "version-conflict", .first = "version-conflict")}},
};

static const struct made bad[] = {
	{"a lost write",
         "linear",
         {MADE, OK(WRITE, 2, 2, 3), OK(READ, 0, 4, 5, .uid = 1, .value = 1)}},
	{"a stale read", "linear", {MADE, OK(WRITE, 2, 2, 3), OK(READ, 0, 4, 5, SEES(1, 1))}},
	{"a doubled write", "linear", {MADE, OK(WRITE, 2, 2, 3), OK(READ, 0, 4, 5, SEES(3, 2))}},
	{"a doubled write that undoes another",
         "linear",
         {MADE, OK(WRITE, 2, 2, 3), OK(WRITE, 3, 4, 5), OK(READ, 0, 6, 7, .uid = 1, .value = 2)}},
	{"a read of a future",
         "revisions",
         {MADE, OK(LOCAL, 0, 2, 3, SEES(2, 2)), OK(WRITE, 2, 4, 5)}},
	{"a linearizable read of a future",
         "linear",
         {MADE, OK(READ, 0, 2, 3, SEES(2, 2)), OK(WRITE, 2, 4, 5)}},
	{"an aborted read",
         "revisions",
         {MADE, NO(WRITE, 2, 2, 3, "no-leader"), OK(LOCAL, 0, 4, 5, SEES(2, 2))}},
	{"a write that was said not to happen, and did",
         "linear",
         {MADE, NO(WRITE, 2, 2, 3, "disk-full"), OK(READ, 0, 4, 5, SEES(2, 2))}},
	{"a value out of nowhere", "revisions", {MADE, OK(LOCAL, 0, 2, 3, SEES(1, 77))}},
	{"two reads that disagree on an order",
         "linear",
         {MADE, OK(WRITE, 2, 2, 9), OK(READ, 0, 3, 4, SEES(2, 2)), OK(READ, 0, 5, 6, SEES(1, 1))}},
	{"an unknown write that happens, and unhappens",
         "linear",
         {MADE, INFO(WRITE, 2, 2), OK(READ, 0, 3, 4, SEES(2, 2)), OK(READ, 0, 5, 6, SEES(1, 1))}},
	{"an unknown write before its call",
         "linear",
         {MADE, OK(READ, 0, 2, 3, .uid = 1, .value = 2), INFO(WRITE, 2, 5)}},
	{"an unknown write, twice",
         "linear",
         {MADE, INFO(WRITE, 2, 2), OK(READ, 0, 3, 4, SEES(2, 2)), OK(WRITE, 3, 5, 6),
          OK(READ, 0, 7, 8, SEES(4, 2))}},
	{"compare and set, both of two",
         "linear",
         {MADE, OK(CAS, 2, 2, 9, .expect = 1), OK(CAS, 3, 3, 8, .expect = 1)}},
	{"a conflict with nobody",
         "linear",
         {MADE, NO(CAS, 2, 2, 3, "version-conflict", .expect = 1)}},
	{"both of two make it", "linear", {OK(CREATE, 1, 0, 9), OK(CREATE, 2, 1, 8)}},
	{"it exists, and nobody made it", "linear", {NO(CREATE, 1, 0, 1, "vm-exists")}},
	{"a deleted one is read",
         "linear",
         {MADE, OK(DELETE, 0, 2, 3), OK(READ, 0, 4, 5, SEES(1, 1))}},
	{"one that is there is not found", "linear", {MADE, NO(READ, 0, 2, 3, "vm-missing")}},
	{"both of two delete it", "linear", {MADE, OK(DELETE, 0, 2, 9), OK(DELETE, 0, 3, 8)}},
	{"a lost element",
         "appends",
         {MADE, OK(APPEND, 4, 2, 3), OK(READ, 0, 4, 5, .uid = 1, .value = 1, .n_elements = 0)}},
	{"a doubled element",
         "appends",
         {MADE, OK(APPEND, 4, 2, 3), OK(LOCAL, 0, 4, 5, HOLDS(3, 1, 4))}},
	{"an element that nobody added",
         "appends",
         {MADE, INFO(APPEND, 4, 2), OK(LOCAL, 0, 4, 5, HOLDS(2, 1, 5))}},
	{"an element that was not added, and is there",
         "appends",
         {MADE, INFO(APPEND, 5, 2), NO(APPEND, 4, 2, 3, "busy"),
          OK(LOCAL, 0, 4, 5, HOLDS(2, 1, 4))}},
	{"an element before its call",
         "appends",
         {MADE, OK(LOCAL, 0, 2, 3, HOLDS(2, 1, 4)), OK(APPEND, 4, 4, 5)}},
	{"reads that are no prefixes",
         "appends",
         {MADE, OK(APPEND, 4, 2, 9), OK(APPEND, 5, 3, 8), OK(LOCAL, 0, 4, 5, HOLDS(2, 1, 5)),
          OK(LOCAL, 0, 6, 7, .uid = 1, .value = 1, .n_elements = 1, .elements = {4})}},
	{"an element that goes again",
         "appends",
         {MADE, OK(APPEND, 4, 2, 9), OK(LOCAL, 0, 3, 4, HOLDS(2, 1, 4)),
          OK(LOCAL, 0, 5, 6, HOLDS(3, 0))}},
	{"an order against time",
         "appends",
         {MADE, OK(APPEND, 4, 2, 3), OK(APPEND, 5, 4, 5), OK(LOCAL, 0, 4, 6, HOLDS(2, 1, 5))}},
	{"a later read with less",
         "appends",
         {MADE, INFO(APPEND, 4, 2), OK(READ, 0, 3, 4, HOLDS(2, 1, 4)),
          OK(READ, 0, 5, 6, HOLDS(1, 0))}},
	{"two servers, one revision, two values",
         "revisions",
         {MADE, OK(WRITE, 2, 2, 3), OK(LOCAL, 0, 4, 5, SEES(2, 1), .revision = 20, ON(1, 1)),
          OK(LOCAL, 0, 4, 5, SEES(2, 2), .revision = 20, ON(2, 1))}},
	{"one version, two values",
         "revisions",
         {MADE, OK(WRITE, 2, 2, 3), OK(LOCAL, 0, 4, 5, SEES(2, 1), .revision = 20),
          OK(LOCAL, 0, 4, 5, SEES(2, 2), .revision = 21)}},
	{"a version that goes back",
         "revisions",
         {MADE, OK(WRITE, 2, 2, 3), OK(LOCAL, 0, 4, 5, SEES(2, 2), .revision = 20),
          OK(LOCAL, 0, 4, 5, SEES(1, 1), .revision = 21)}},
	{"a server that goes back while it lives",
         "revisions",
         {MADE, OK(WRITE, 2, 2, 3), OK(LOCAL, 0, 4, 5, SEES(2, 2), .revision = 20, ON(1, 1)),
          OK(LOCAL, 0, 6, 7, SEES(1, 1), .revision = 10, ON(1, 1))}},
	{"a deleted object is back",
         "revisions",
         {MADE, OK(LOCAL, 0, 4, 5, .uid = 9, .version = 1, .value = 1, .revision = 9),
          OK(LOCAL, 0, 6, 7, .uid = 1, .version = 2, .value = 1, .revision = 20)}},
	{"another answer to the same number",
         "revisions",
         {MADE, NO(AGAIN, 0, 4, 5, "vm-exists", .first = "ok")}},
	{"a number that was forgotten too soon",
         "revisions",
         {MADE, NO(AGAIN, 0, 4, 5, "outcome-forgotten", .first = "ok")}},
};

static void check(const struct made *made, struct check_result *r)
{
	struct history h = {0};

	for (size_t i = 0; i < EVENTS_MAX && made->events[i].key[0] != '\0'; i++)
		history_add(&h, &made->events[i]);
	check_result_init(r);
	check_history(&h, CHECK_DEADLINE_MS, r);
	history_done(&h);
}

static void good_histories(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_size(good); i++) {
		struct check_result r;

		check(&good[i], &r);
		if (r.n > 0)
			fail_msg("%s: %s", good[i].name, r.text.data);
		check_result_done(&r);
	}
}

static bool told_by(const struct check_result *r, const char *who)
{
	cleanup(freep) char *begin = xasprintf("%s: x: ", who);
	const char *at = r->text.data != NULL ? strstr(r->text.data, begin) : NULL;

	return at != NULL && (at == r->text.data || at[-1] == '\n');
}

static void bad_histories(void **state)
{
	(void)state;
	assert_true(array_size(good) + array_size(bad) >= 50);
	for (size_t i = 0; i < array_size(bad); i++) {
		struct check_result r;

		check(&bad[i], &r);
		if (!told_by(&r, bad[i].who))
			fail_msg("%s: not seen by %s, which said: %s", bad[i].name, bad[i].who,
			         r.text.data != NULL ? r.text.data : "nothing");
		check_result_done(&r);
	}
}

/* Objects do not mix: what is wrong in one is not put right by another. */
static void keys_are_apart(void **state)
{
	struct history h = {0};
	struct check_result r;
	struct record events[] = {MADE, OK(WRITE, 2, 2, 3), OK(READ, 0, 4, 5, SEES(1, 1))};

	(void)state;
	for (size_t i = 0; i < array_size(events); i++)
		history_add(&h, &events[i]);
	(void)snprintf(h.events[1].key, sizeof(h.events[1].key), "y");
	check_result_init(&r);
	check_history(&h, CHECK_DEADLINE_MS, &r);

	assert_non_null(strstr(r.text.data, "linear: y: "));
	assert_null(strstr(r.text.data, "linear: x: "));
	assert_int_equal(r.n_keys, 2);
	check_result_done(&r);
	history_done(&h);
}

/* Writes of which nobody knows, and a read that none of them explains: every order must be tried.
 */
static void undecided_is_told(void **state)
{
	struct history h = {0};
	struct check_result r;
	uint64_t begin = clock_boot_ms();
	struct record made = MADE, read = OK(READ, 0, 100, 101, SEES(999, 999));

	(void)state;
	history_add(&h, &made);
	for (unsigned i = 0; i < 40; i++) {
		struct record e = INFO(WRITE, i + 2, i + 2);

		history_add(&h, &e);
	}
	history_add(&h, &read);
	check_result_init(&r);
	check_history(&h, 100, &r);
	assert_non_null(strstr(r.text.data, "linear: x: undecided"));
	assert_true(clock_boot_ms() - begin < 30000);
	check_result_done(&r);
	history_done(&h);
}

/* What a correct object answers to six clients that overlap, and one answer of it made wrong. */
static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void long_history(struct history *h, uint64_t seed)
{
	uint64_t version = 1, value = 1, at = 10;
	struct record made = MADE;

	history_add(h, &made);
	for (unsigned i = 0; i < 3000; i++, at += 10) {
		struct record e = {.op = HISTORY_READ,
		                   .key = "x",
		                   .call = at - next_random(&seed) % 9,
		                   .ret = at + next_random(&seed) % 60};

		if (next_random(&seed) % 2 == 0) {
			e.op = HISTORY_WRITE;
			e.arg = i + 2;
			version++;
			value = e.arg;
		} else {
			e.uid = 1;
			e.version = next_random(&seed) % 2 == 0 ? version : 0;
			e.value = value;
		}
		history_add(h, &e);
	}
}

static void long_histories(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 10; seed++) {
		struct history h = {0};
		struct check_result r;

		long_history(&h, seed);
		check_result_init(&r);
		check_history(&h, CHECK_DEADLINE_MS, &r);
		if (r.n > 0)
			fail_msg("seed %u: %s", (unsigned)seed, r.text.data);
		check_result_done(&r);
		for (size_t i = h.n / 2; i < h.n; i++) {
			if (h.events[i].op != HISTORY_READ || h.events[i].version == 0)
				continue;
			h.events[i].version += 20;
			break;
		}
		check_result_init(&r);
		check_history(&h, CHECK_DEADLINE_MS, &r);
		assert_true(told_by(&r, "linear"));
		check_result_done(&r);
		history_done(&h);
	}
}

static void lines_are_read_back(void **state)
{
	char path[] = "/tmp/blix-history.XXXXXX";
	struct history h = {0};
	struct blix_error err;
	int fd = mkstemp(path);
	size_t n = 0;

	(void)state;
	assert_true(fd >= 0);
	for (size_t i = 0; i < array_size(good); i++) {
		for (size_t k = 0; k < EVENTS_MAX && good[i].events[k].key[0] != '\0'; k++, n++) {
			cleanup(freep) char *text = record_text(&good[i].events[k]);

			assert_int_equal(write(fd, text, strlen(text)), strlen(text));
			assert_int_equal(write(fd, "\n", 1), 1);
		}
	}
	assert_int_equal(history_load(path, &h, &err), 0);
	assert_int_equal(h.n, n);
	n = 0;
	for (size_t i = 0; i < array_size(good); i++) {
		for (size_t k = 0; k < EVENTS_MAX && good[i].events[k].key[0] != '\0'; k++)
			assert_memory_equal(&h.events[n++], &good[i].events[k],
			                    sizeof(struct record));
	}
	history_done(&h);
	(void)close(fd);
	assert_int_equal(unlink(path), 0);
}

static void bad_lines_are_refused(void **state)
{
	static const char *const lines[] = {
		"",
		"{}",
		"{\"op\":\"fly\",\"kind\":\"ok\",\"call\":1,\"return\":2}",
		"{\"op\":\"read\",\"kind\":\"perhaps\",\"call\":1,\"return\":2}",
		"{\"op\":\"read\",\"kind\":\"ok\",\"call\":2,\"return\":1}",
		"{\"op\":\"read\",\"kind\":\"ok\",\"call\":1}",
		"{\"op\":\"read\",\"kind\":\"info\",\"call\":1,\"return\":2}",
		"{\"op\":\"read\",\"kind\":\"ok\",\"call\":1,\"return\":2,\"elements\":[\"a\"]}",
	};

	(void)state;
	for (size_t i = 0; i < array_size(lines); i++) {
		struct blix_error err;
		struct record e;

		assert_true(record_parse(lines[i], strlen(lines[i]), &e, &err) < 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_histories),        cmocka_unit_test(bad_histories),
		cmocka_unit_test(keys_are_apart),        cmocka_unit_test(undecided_is_told),
		cmocka_unit_test(long_histories),        cmocka_unit_test(lines_are_read_back),
		cmocka_unit_test(bad_lines_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
