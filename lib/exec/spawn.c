/* posix_spawn with a session of its own, default signals, an empty mask, a file or /dev/null as
 * stdin, two pipes as output and nothing else open. The program is found before the spawn, in the
 * PATH that the child will see and not in ours. Each failure undoes what was done before it. */
#include "exec/spawn.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

static int actions_fill(posix_spawn_file_actions_t *actions, const struct child_options *options,
                        int out, int err_fd)
{
	int rc = options->input > 0
	                 ? posix_spawn_file_actions_adddup2(actions, options->input, 0)
	                 : posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);

	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(actions, out, 1);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(actions, err_fd, 2);
	if (rc == 0)
		rc = posix_spawn_file_actions_addclosefrom_np(actions, 3);
	if (rc == 0)
		rc = posix_spawn_file_actions_addchdir_np(
			actions, options->cwd != NULL ? options->cwd : "/");
	return rc;
}

static int attributes_fill(posix_spawnattr_t *attributes)
{
	sigset_t all, none;
	int rc;

	(void)sigfillset(&all);
	(void)sigemptyset(&none);
	rc = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF |
	                                                  POSIX_SPAWN_SETSIGMASK);
	if (rc == 0)
		rc = posix_spawnattr_setsigdefault(attributes, &all);
	if (rc == 0)
		rc = posix_spawnattr_setsigmask(attributes, &none);
	return rc;
}

static int spawn_process(const char *program, const struct child_options *options, int out,
                         int err_fd, pid_t *ret)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int rc;

	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attributes);
	rc = actions_fill(&actions, options, out, err_fd);
	if (rc == 0)
		rc = attributes_fill(&attributes);
	if (rc == 0)
		rc = posix_spawn(ret, program, &actions, &attributes, options->argv->items,
		                 options->env->items);
	(void)posix_spawnattr_destroy(&attributes);
	(void)posix_spawn_file_actions_destroy(&actions);
	return rc;
}

/* The write ends are blocking for the child, the read ends are not for us. */
static int pipe_open(int *ret_read, int *ret_write, struct blix_error *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return blix_fail_sys(err, errno, "pipe");
	(void)fcntl(fds[0], F_SETFL, O_NONBLOCK);
	*ret_read = fds[0];
	*ret_write = fds[1];
	return 0;
}

static void reap_now(pid_t pid)
{
	siginfo_t info;

	(void)kill(-pid, SIGKILL);
	(void)waitid(P_PID, (id_t)pid, &info, WEXITED);
}

int spawn_child(const struct child_options *options, struct spawned *ret, struct blix_error *err)
{
	cleanup(freep) char *program = NULL;
	cleanup(closep) int out = -1;
	cleanup(closep) int out_write = -1;
	cleanup(closep) int err_fd = -1;
	cleanup(closep) int err_write = -1;
	pid_t pid = 0;
	int rc = program_find(options->argv->items[0], options->path, &program, err);

	if (rc < 0)
		return rc;
	rc = pipe_open(&out, &out_write, err);
	if (rc == 0)
		rc = pipe_open(&err_fd, &err_write, err);
	if (rc < 0)
		return rc;
	rc = spawn_process(program, options, out_write, err_write, &pid);
	if (rc != 0)
		return blix_fail_sys(err, rc, "start %s", program);
	ret->pidfd = pidfd_open(pid, 0);
	if (ret->pidfd < 0) {
		rc = blix_fail_sys(err, errno, "pidfd of %s", program);
		reap_now(pid);
		return rc;
	}
	ret->pid = pid;
	ret->out = out;
	ret->err = err_fd;
	out = err_fd = -1;
	return 0;
}
