/* lib/sys/stall: a turn that works counts, one that waits does not. */
#include "sys/stall.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#define WAIT_MS 400
#define WORK_MS 80

static bool closed;

static void on_closed(uv_handle_t *handle)
{
	closed = handle->data == &closed;
}

static void work(uv_timer_t *timer)
{
	uint64_t since = uv_hrtime();

	while (uv_hrtime() - since < WORK_MS * 1000000ull)
		;
	uv_stop(timer->loop);
}

static void after_wait(uv_timer_t *timer)
{
	uv_stop(timer->loop);
}

static void only_work_counts(void **state)
{
	uv_timer_t timer;
	struct stall s;
	uv_loop_t loop;

	(void)state;
	assert_int_equal(uv_loop_init(&loop), 0);
	stall_start(&s, &loop);
	assert_int_equal(uv_timer_init(&loop, &timer), 0);
	assert_int_equal(uv_timer_start(&timer, after_wait, WAIT_MS, 0), 0);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_timer_start(&timer, after_wait, 1, 0), 0);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	assert_true(stall_worst_us(&s) < WAIT_MS * 1000 / 2);
	assert_int_equal(uv_timer_start(&timer, work, 1, 1), 0);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_timer_start(&timer, after_wait, 1, 0), 0);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	assert_true(stall_worst_us(&s) >= WORK_MS * 1000);
	stall_close(&s, on_closed, &closed);
	uv_close((uv_handle_t *)&timer, NULL);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	assert_true(closed);
	assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_work_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
