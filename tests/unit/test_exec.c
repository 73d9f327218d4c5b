/* lib/exec: what a child sees, what is kept of it, and that it always ends with one result. */
#include "base/alloc.h"
#include "exec/child.h"
#include "exec/stray.h"
#include "sys/process.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>

#include <cmocka.h>

struct run {
	uv_loop_t loop;
	struct argv argv, env;
	struct child_options options;
	unsigned calls;
	struct child_result result;
};

static void run_init(struct run *run, const char *script)
{
	*run = (struct run){.options = {.path = "/usr/bin:/bin"}};
	(void)uv_loop_init(&run->loop);
	argv_push(&run->argv, "/bin/sh");
	argv_push(&run->argv, "-c");
	argv_push(&run->argv, script);
	argv_push(&run->env, "PATH=/usr/bin:/bin");
	run->options.argv = &run->argv;
	run->options.env = &run->env;
}

static void run_done(struct run *run)
{
	assert_int_equal(uv_loop_close(&run->loop), 0);
	tail_done(&run->result.out);
	tail_done(&run->result.err);
	argv_done(&run->argv);
	argv_done(&run->env);
}

static void on_result(void *data, struct child_result *result)
{
	struct run *run = data;

	run->calls++;
	run->result = *result;
	result->out.data = NULL;
	result->err.data = NULL;
}

static struct child *run_start(struct run *run)
{
	struct child *child = NULL;

	assert_int_equal(child_start(&run->loop, &run->options, on_result, run, &child, NULL), 0);
	assert_int_equal(run->calls, 0);
	return child;
}

static void run_all(struct run *run)
{
	assert_int_equal(uv_run(&run->loop, UV_RUN_DEFAULT), 0);
	assert_int_equal(run->calls, 1);
}

static unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

static void output_and_code(void **state)
{
	struct run run;

	(void)state;
	run_init(&run, "echo out; echo err >&2; exit 7");
	(void)run_start(&run);
	run_all(&run);
	assert_int_equal(run.result.exit_code, 7);
	assert_int_equal(run.result.signal, 0);
	assert_false(child_ok(&run.result));
	assert_string_equal(run.result.out.data, "out\n");
	assert_string_equal(run.result.err.data, "err\n");
	run_done(&run);
}

/* Nothing of ours reaches the child but what was given. */
static void clean_inheritance(void **state)
{
	int leak = dup(0); /* without close-on-exec */
	struct run run;
	sigset_t usr1;

	(void)state;
	(void)sigemptyset(&usr1);
	(void)sigaddset(&usr1, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &usr1, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	/* glibc keeps its own two signals (32, 33) ignored: only the lower ones are looked at */
	run_init(&run,
	         "ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0; pwd; env | sort; "
	         "sed -nE 's/^(SigBlk|SigIgn):.*(.{7})$/\\1 \\2/p' /proc/self/status; "
	         "ps -o pid= -o sid= -o pgid= -p $$ "
	         "| awk '{print ($1==$2 && $2==$3) ? \"leader\" : \"member\"}'");
	(void)run_start(&run);
	run_all(&run);
	/* fd 3 is the directory that ls reads */
	assert_string_equal(run.result.out.data, "0 1 2 3 /dev/null\n/\nPATH=/usr/bin:/bin\nPWD=/\n"
	                                         "SigBlk 0000000\nSigIgn 0000000\nleader\n");
	run_done(&run);
	(void)sigprocmask(SIG_UNBLOCK, &usr1, NULL);
	(void)close(leak);
}

static void flood_keeps_the_tail(void **state)
{
	struct run run;

	(void)state;
	run_init(&run, "head -c 10000000 /dev/zero | tr '\\0' x; printf END; exit 0");
	run.options.output_max = 1000;
	(void)run_start(&run);
	run_all(&run);
	assert_true(child_ok(&run.result));
	assert_int_equal(run.result.out.len, 1000);
	assert_true(run.result.out.cut);
	assert_string_equal(run.result.out.data + 990, "xxxxxxxEND");
	assert_false(run.result.err.cut);
	run_done(&run);
}

static void deadline_ends_the_group(void **state)
{
	struct run run;
	long grandchild;

	(void)state;
	run_init(&run, "sleep 1000 & echo $!; wait");
	run.options.deadline_ms = 100;
	(void)run_start(&run);
	run_all(&run);
	assert_true(run.result.timed_out);
	assert_int_equal(run.result.signal, SIGTERM);
	assert_true(run.result.elapsed_ms < CHILD_KILL_MS);
	grandchild = strtol(run.result.out.data, NULL, 10);
	assert_true(grandchild > 1);
	/* gone, or a zombie that init has not reaped yet */
	while (kill((pid_t)grandchild, 0) == 0) {
		char path[64], text[256] = "";
		FILE *file;

		(void)snprintf(path, sizeof(path), "/proc/%ld/stat", grandchild);
		file = fopen(path, "r");
		if (file == NULL)
			break;
		if (fgets(text, sizeof(text), file) == NULL)
			text[0] = '\0';
		(void)fclose(file);
		if (strstr(text, ") Z ") != NULL)
			break;
	}
	run_done(&run);
}

static void deaf_child_is_killed(void **state)
{
	struct run run;

	(void)state;
	run_init(&run, "trap '' TERM; while :; do sleep 1000; done");
	run.options.deadline_ms = 50;
	(void)run_start(&run);
	run_all(&run);
	assert_true(run.result.timed_out);
	assert_int_equal(run.result.signal, SIGKILL);
	assert_true(run.result.elapsed_ms >= CHILD_KILL_MS);
	run_done(&run);
}

/* A daemon that keeps the pipe must not keep us. */
static void grandchild_does_not_delay(void **state)
{
	struct run run;
	long grandchild;

	(void)state;
	run_init(&run, "setsid sleep 1000 & echo $!");
	(void)run_start(&run);
	run_all(&run);
	assert_true(child_ok(&run.result));
	assert_true(run.result.elapsed_ms < 1000);
	grandchild = strtol(run.result.out.data, NULL, 10);
	assert_true(grandchild > 1);
	assert_int_equal(kill((pid_t)grandchild, SIGKILL), 0);
	run_done(&run);
}

static void cancelling(void **state)
{
	struct run run;
	struct child *child;
	char text[64];

	(void)state;
	run_init(&run, "sleep 1000");
	child = run_start(&run);
	child_cancel(child);
	run_all(&run);
	assert_true(run.result.cancelled);
	assert_false(child_ok(&run.result));
	child_describe(&run.result, text, sizeof(text));
	assert_string_equal(text, "was cancelled");
	run_done(&run);
}

static void failures_to_start(void **state)
{
	struct run run;
	struct child *child = NULL;
	struct blix_error err = {0};
	unsigned before;

	(void)state;
	run_init(&run, "true");
	before = open_fds();
	argv_done(&run.argv);
	argv_push(&run.argv, "no-such-program");
	assert_int_equal(child_start(&run.loop, &run.options, on_result, &run, &child, &err),
	                 -BLIX_E_NOTFOUND);
	assert_non_null(strstr(err.text, "no-such-program"));
	argv_done(&run.argv);
	argv_push(&run.argv, "/dev/null");
	assert_int_equal(child_start(&run.loop, &run.options, on_result, &run, &child, &err),
	                 -BLIX_E_DENIED);
	run.options.cwd = "/nonexistent";
	argv_done(&run.argv);
	argv_push(&run.argv, "sh");
	assert_int_equal(child_start(&run.loop, &run.options, on_result, &run, &child, &err),
	                 -BLIX_E_NOTFOUND);
	assert_int_equal(open_fds(), before);
	assert_int_equal(run.calls, 0);
	(void)uv_run(&run.loop, UV_RUN_DEFAULT);
	run_done(&run);
}

/* Reaping is by pidfd: a child of somebody else in this process stays theirs. */
static void many_children_leak_nothing(void **state)
{
	struct run run;
	pid_t other = fork();
	unsigned before;
	int status = 0;

	(void)state;
	if (other == 0)
		_exit(42);
	run_init(&run, "exit 0");
	(void)run_start(&run);
	run_all(&run);
	before = open_fds();
	for (unsigned i = 0; i < 50; i++) {
		tail_done(&run.result.out);
		tail_done(&run.result.err);
		run.calls = 0;
		(void)run_start(&run);
		if (i % 2 == 0)
			(void)uv_run(&run.loop, UV_RUN_NOWAIT);
		(void)uv_run(&run.loop, UV_RUN_DEFAULT);
		assert_int_equal(run.calls, 1);
	}
	assert_int_equal(open_fds(), before);
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(WEXITSTATUS(status), 42);
	assert_int_equal(waitpid(-1, &status, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	run_done(&run);
}

static bool lives(long pid)
{
	uint64_t ticks = 0;

	return process_start_time((pid_t)pid, &ticks, NULL) == 0;
}

/* What a child leaves: a process in a session of its own, which has one below it, and another. */
static void stray_start(const char *dir, long pids[2])
{
	struct run run;
	char *rest;

	run_init(&run, "(exec setsid sh -c 'exec >&- 2>&-; sleep 1000 & wait') & echo $!; "
	               "(exec >&- 2>&-; exec sleep 1000) & echo $!");
	if (dir != NULL)
		stray_mark(dir, &run.env);
	(void)run_start(&run);
	run_all(&run);
	pids[0] = strtol(run.result.out.data, &rest, 10);
	pids[1] = strtol(rest, NULL, 10);
	assert_true(pids[0] > 1 && pids[1] > 1);
	run_done(&run);
}

/* As Nix starts a builder: with nothing but a folder in the TMPDIR that it was given. */
static pid_t builder_start(const char *dir, const char *tail)
{
	cleanup(freep) char *mark = NULL;
	cleanup(freep) char *word = NULL;
	pid_t pid;

	assert_int_equal(stray_name(dir, &mark, NULL), 0);
	word = xasprintf("TMPDIR=/somewhere/tmp/%s%s", mark, tail);
	pid = fork();
	if (pid == 0) {
		execl("/usr/bin/env", "env", "-i", word, "/bin/sleep", "1000", NULL);
		_exit(127);
	}
	assert_true(pid > 0);
	return pid;
}

static void builders_are_ended(void **state)
{
	char mine[] = "/tmp/blix.XXXXXX";
	pid_t builder, longer;
	unsigned n = 0;
	int status = 0;

	(void)state;
	assert_non_null(mkdtemp(mine));
	builder = builder_start(mine, ".xQ2p9a/nix-build-web.drv-0");
	longer = builder_start(mine, "7/nix-build-web.drv-0"); /* of another directory */
	while (n == 0)
		assert_int_equal(strays_end(mine, &n, NULL), 0);
	assert_int_equal(waitpid(builder, &status, 0), builder);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(waitpid(longer, &status, WNOHANG), 0);
	assert_int_equal(kill(longer, SIGKILL), 0);
	assert_int_equal(waitpid(longer, &status, 0), longer);
	assert_int_equal(rmdir(mine), 0);
}

static void strays_are_ended(void **state)
{
	char mine[] = "/tmp/blix.XXXXXX", others[] = "/tmp/blix.XXXXXX";
	cleanup(freep) char *same = NULL;
	long left[2], foreign[2], plain[2];
	unsigned n = 0;

	(void)state;
	assert_non_null(mkdtemp(mine));
	assert_non_null(mkdtemp(others));
	same = xasprintf("%s/../%s", mine, strrchr(mine, '/') + 1);
	stray_start(mine, left);
	stray_start(others, foreign);
	stray_start(NULL, plain);
	assert_int_equal(strays_end(same, &n, NULL), 0);
	assert_true(n >= 2); /* and the sleep below the session, if it was there yet */
	for (unsigned i = 0; i < 2; i++) {
		assert_false(lives(left[i]));
		assert_true(lives(foreign[i]));
		assert_true(lives(plain[i]));
	}
	assert_int_equal(strays_end(mine, &n, NULL), 0);
	assert_int_equal(n, 0);
	assert_int_equal(strays_end(others, &n, NULL), 0);
	assert_true(n >= 2);
	assert_int_equal(kill((pid_t)-plain[0], SIGKILL), 0);
	assert_int_equal(kill((pid_t)plain[1], SIGKILL), 0);
	assert_int_equal(rmdir(mine), 0);
	assert_int_equal(rmdir(others), 0);
	assert_int_equal(strays_end(mine, &n, NULL), -BLIX_E_NOTFOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_and_code),
		cmocka_unit_test(clean_inheritance),
		cmocka_unit_test(flood_keeps_the_tail),
		cmocka_unit_test(deadline_ends_the_group),
		cmocka_unit_test(deaf_child_is_killed),
		cmocka_unit_test(grandchild_does_not_delay),
		cmocka_unit_test(cancelling),
		cmocka_unit_test(failures_to_start),
		cmocka_unit_test(many_children_leak_nothing),
		cmocka_unit_test(strays_are_ended),
		cmocka_unit_test(builders_are_ended),
	};

	return cmocka_run_group_tests_name("exec", tests, NULL, NULL);
}
