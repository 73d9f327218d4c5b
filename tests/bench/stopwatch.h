/* One clock for all that is measured here, and one way to start what is timed. */
#ifndef STOPWATCH_H
#define STOPWATCH_H

#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline double to_ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* Starts argv with its output thrown away; ends this program when that is not possible. */
static inline pid_t start_quiet(char *const *argv, char *const *env)
{
	posix_spawn_file_actions_t actions;
	pid_t pid = -1;

	if (posix_spawn_file_actions_init(&actions) != 0 ||
	    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) != 0 ||
	    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0) != 0 ||
	    posix_spawnp(&pid, argv[0], &actions, NULL, argv, env) != 0) {
		perror(argv[0]);
		exit(1);
	}
	(void)posix_spawn_file_actions_destroy(&actions);
	return pid;
}

static inline int wait_exit(pid_t pid)
{
	int status = 0;

	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 128;
	return WEXITSTATUS(status);
}

#endif
