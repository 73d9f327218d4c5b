/* A program run to its end: see program.h.
 *
 * Happy path: it is spawned with two pipes, both are read until they end and its pidfd says that it
 * has, it is reaped. It fails when it cannot be started, or does not end in time (it is killed).
 */
#include "client/program.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
	pid_t pid;
	int out, error; /* read ends; -1 once closed */
	int end;        /* pidfd: readable when it has exited; -1 once seen */
};

static int spawn_with(struct child *child, char *const argv[], const int out[2], const int error[2],
                      struct blix_error *err)
{
	posix_spawn_file_actions_t actions;
	int rc = posix_spawn_file_actions_init(&actions);

	if (rc != 0)
		return blix_fail_sys(err, rc, "start %s", argv[0]);
	rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(&actions, error[1], 2);
	if (rc == 0)
		rc = posix_spawnp(&child->pid, argv[0], &actions, NULL, argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	return rc == 0 ? 0 : blix_fail_sys(err, rc, "start %s", argv[0]);
}

static int child_spawn(struct child *child, char *const argv[], struct blix_error *err)
{
	int out[2] = {-1, -1}, error[2] = {-1, -1};
	int rc;

	if (pipe2(out, O_CLOEXEC) < 0)
		return blix_fail_sys(err, errno, "pipe");
	if (pipe2(error, O_CLOEXEC) < 0) {
		rc = blix_fail_sys(err, errno, "pipe");
		(void)close(out[0]);
		(void)close(out[1]);
		return rc;
	}
	rc = spawn_with(child, argv, out, error, err);
	(void)close(out[1]);
	(void)close(error[1]);
	if (rc < 0) {
		(void)close(out[0]);
		(void)close(error[0]);
		return rc;
	}
	child->out = out[0];
	child->error = error[0];
	child->end = pidfd_open(child->pid, 0);
	return 0;
}

static void close_once(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

/* Reads what is there. Closes *fd at its end. */
static void drain(int *fd, struct buf *into)
{
	char chunk[4096];
	ssize_t n = read(*fd, chunk, sizeof(chunk));

	if (n > 0) {
		(void)buf_add(into, chunk, (size_t)n); /* past its cap it has failed */
		return;
	}
	if (n < 0 && errno == EINTR)
		return;
	close_once(fd);
}

/* Collects both streams and the exit status. False: the time was up and the child was killed. */
static bool child_collect(struct child *child, struct buf *out, struct buf *error,
                          uint64_t timeout_ms, int *ret_status)
{
	uint64_t until = clock_boot_ms() + (timeout_ms < INT_MAX ? timeout_ms : INT_MAX);
	bool in_time = true;

	while (in_time && (child->out >= 0 || child->error >= 0 || child->end >= 0)) {
		struct pollfd fds[3] = {{child->out, POLLIN, 0},
		                        {child->error, POLLIN, 0},
		                        {child->end, POLLIN, 0}};
		uint64_t now = clock_boot_ms();

		in_time = now < until;
		if (!in_time || poll(fds, 3, (int)(until - now)) <= 0)
			continue;
		if (fds[0].revents != 0)
			drain(&child->out, out);
		if (fds[1].revents != 0)
			drain(&child->error, error);
		if (fds[2].revents != 0)
			close_once(&child->end);
	}
	if (!in_time)
		(void)kill(child->pid, SIGKILL);
	close_once(&child->out);
	close_once(&child->error);
	close_once(&child->end);
	while (waitpid(child->pid, ret_status, 0) < 0 && errno == EINTR)
		;
	return in_time;
}

int program_run(char *const argv[], uint64_t timeout_ms, struct buf *out, struct buf *error,
                int *ret_status, struct blix_error *err)
{
	struct child child = {.out = -1, .error = -1, .end = -1};
	int rc = child_spawn(&child, argv, err);

	if (rc < 0)
		return rc;
	if (!child_collect(&child, out, error, timeout_ms, ret_status))
		return blix_fail(err, BLIX_E_TIMEOUT, "%s did not end in time", argv[0]);
	return 0;
}
