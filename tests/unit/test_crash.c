/* lib/sys/crash: the N-th point kills, and the log names those that were reached. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "sys/crash.h"
#include "sys/file.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void dies_at_the_second(void **state)
{
	char dir[] = "/tmp/blix-test-XXXXXX";
	cleanup(buf_done) struct buf text;
	char *log;
	int status = 0;
	pid_t pid;

	(void)state;
	assert_non_null(mkdtemp(dir));
	log = xasprintf("%s/log", dir);
	pid = fork();
	if (pid == 0) {
		(void)setenv("BLIX_CRASH_AT", "2", 1);
		(void)setenv("BLIX_CRASH_LOG", log, 1);
		crash_point("first");
		crash_point("second");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	buf_init(&text, LIMIT_FILE);
#ifdef BLIX_CRASH_POINTS
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
	assert_int_equal(file_read(log, &text, NULL), 0);
	assert_string_equal(text.data, "1 first\n2 second\n");
#else
	assert_int_equal(status, 0);
	assert_int_equal(file_read(log, &text, NULL), -BLIX_E_NOTFOUND);
#endif
	assert_int_equal(file_remove_tree(dir, NULL), 0);
	free(log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(dies_at_the_second)};

	return cmocka_run_group_tests_name("crash points", tests, NULL, NULL);
}
