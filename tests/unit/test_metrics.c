/* lib/node/metrics: which steps are counted, once, into which bucket; and how numbers are written.
 */
#include "node/metrics.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ME      1
#define STARTED 1000000

static void has(const struct metrics *m, const char *line, bool wanted)
{
	cleanup(buf_done) struct buf out;
	cleanup(freep) char *whole = xasprintf("\n%s\n", line);

	buf_init(&out, 1u << 20);
	metrics_write(m, &out);
	assert_false(buf_failed(&out));
	if ((strstr(out.data, whole) != NULL) != wanted)
		fail_msg("%s: %s in\n%s", line, wanted ? "is not" : "is", out.data);
}

static void scaled(void **state)
{
	struct buf out;

	(void)state;
	buf_init(&out, 4096);
	metrics_sample_scaled(&out, "a", "", 1005, 1000);
	metrics_sample_scaled(&out, "b", "x=\"y\"", 7, 1000000);
	metrics_sample_scaled(&out, "c", "", 0, 1);
	assert_string_equal(out.data, "a 1.005\nb{x=\"y\"} 0.000007\nc 0\n");
	buf_done(&out);
}

static void empty(void **state)
{
	struct metrics *m = metrics_new(ME, STARTED);

	(void)state;
	assert_int_equal(metrics_started_ms(m), STARTED);
	has(m, "blix_raft_entries_applied_total 0", true);
	metrics_entry(m, STARTED);
	metrics_entry(m, STARTED + 1);
	has(m, "blix_raft_entries_applied_total 2", true);
	metrics_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(scaled), cmocka_unit_test(empty)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
