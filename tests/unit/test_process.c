/* lib/sys/process: a process is the same only while pid, start time and boot id all are. */
#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/process.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A child that waits for a signal, with a name meant to mislead a parser of /proc/PID/stat. */
static pid_t child_start(void)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)prctl(PR_SET_NAME, ") Z 1 (");
		(void)!write(ready[1], "x", 1);
		for (;;)
			(void)pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	(void)close(ready[0]);
	(void)close(ready[1]);
	return pid;
}

static void self(void **state)
{
	uint64_t ticks = 0;

	(void)state;
	assert_int_equal(process_start_time(getpid(), &ticks, NULL), 0);
	assert_true(ticks > 0);
	assert_true(process_is(getpid(), ticks, clock_boot_id()));
	assert_false(process_is(getpid(), ticks + 1, clock_boot_id()));
	assert_false(process_is(getpid(), ticks, "00000000-0000-0000-0000-000000000000"));
	assert_false(process_is(getpid(), ticks, ""));
	assert_false(process_is(0, ticks, clock_boot_id()));
	assert_false(process_is(-1, ticks, clock_boot_id()));
}

static void ended(void **state)
{
	struct blix_error err;
	siginfo_t info;
	uint64_t ticks = 0;
	pid_t pid = child_start();
	int fd = -1;

	(void)state;
	assert_int_equal(process_start_time(pid, &ticks, &err), 0);
	assert_int_equal(process_open(pid, ticks + 1, clock_boot_id(), &fd, &err),
	                 -BLIX_E_NOTFOUND);
	assert_int_equal(fd, -1);
	assert_int_equal(process_open(pid, ticks, clock_boot_id(), &fd, &err), 0);
	assert_int_equal(process_signal(fd, 0, &err), 0);
	assert_int_equal(process_signal(fd, SIGKILL, &err), 0);
	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 10000), 1);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_false(process_is(pid, ticks, clock_boot_id())); /* a zombie */
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_false(process_is(pid, ticks, clock_boot_id()));
	assert_int_equal(process_signal(fd, SIGTERM, &err), -BLIX_E_NOTFOUND);
	(void)close(fd);
	assert_int_equal(process_open(pid, ticks, clock_boot_id(), &fd, &err), -BLIX_E_NOTFOUND);
	assert_int_equal(process_start_time(pid, &ticks, &err), -BLIX_E_NOTFOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(self),
		cmocka_unit_test(ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
