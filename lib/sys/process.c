/* Identity of processes by /proc and pidfds: see process.h. */
#include "sys/process.h"

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/pidfd.h>

#define STAT_STATE      3 /* proc(5) counts the fields of /proc/PID/stat from 1 */
#define STAT_START_TIME 22

/* The fields after the command name, which is in parentheses and may itself hold anything. */
static int parse_stat(const char *text, char *ret_state, uint64_t *ret_ticks)
{
	const char *p = strrchr(text, ')');
	uint64_t ticks = 0;

	if (p == NULL || p[1] != ' ' || p[2] == '\0')
		return -1;
	p += 2;
	*ret_state = *p;
	for (int field = STAT_STATE; field < STAT_START_TIME; field++) {
		p = strchr(p, ' ');
		if (p == NULL)
			return -1;
		p++;
	}
	if (*p < '0' || *p > '9')
		return -1;
	for (; *p >= '0' && *p <= '9'; p++)
		ticks = ticks * 10 + (uint64_t)(*p - '0');
	*ret_ticks = ticks;
	return 0;
}

int process_start_time(pid_t pid, uint64_t *ret_ticks, struct blix_error *err)
{
	char path[48], text[1024], state;
	cleanup(closep) int fd = -1;
	uint64_t ticks;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0) {
		int sys = errno == ESRCH ? ENOENT : errno;

		return blix_fail_sys(err, sys, "process %d", (int)pid);
	}
	text[n] = '\0';
	if (parse_stat(text, &state, &ticks) < 0)
		return blix_fail(err, BLIX_E_INTERNAL, "%s has an unknown form", path);
	if (state == 'Z' || state == 'X')
		return blix_fail(err, BLIX_E_NOTFOUND, "process %d has ended", (int)pid);
	*ret_ticks = ticks;
	return 0;
}

bool process_is(pid_t pid, uint64_t start_time, const char *boot_id)
{
	uint64_t ticks = 0;

	if (pid <= 0 || boot_id == NULL || boot_id[0] == '\0')
		return false;
	if (strcmp(boot_id, clock_boot_id()) != 0)
		return false;
	return process_start_time(pid, &ticks, NULL) == 0 && ticks == start_time;
}

int process_open(pid_t pid, uint64_t start_time, const char *boot_id, int *ret_pidfd,
                 struct blix_error *err)
{
	int fd;

	if (pid <= 0)
		return blix_fail(err, BLIX_E_INVALID, "%d is not the id of a process", (int)pid);
	fd = pidfd_open(pid, 0);
	if (fd < 0) {
		int sys = errno == ESRCH ? ENOENT : errno;

		return blix_fail_sys(err, sys, "process %d", (int)pid);
	}
	if (!process_is(pid, start_time, boot_id)) {
		(void)close(fd);
		return blix_fail(err, BLIX_E_NOTFOUND,
		                 "process %d is not the one that started at tick %" PRIu64,
		                 (int)pid, start_time);
	}
	*ret_pidfd = fd;
	return 0;
}

int process_signal(int pidfd, int sig, struct blix_error *err)
{
	if (pidfd_send_signal(pidfd, sig, NULL, 0) == 0)
		return 0;
	if (errno == ESRCH)
		return blix_fail(err, BLIX_E_NOTFOUND, "the process has ended");
	return blix_fail_sys(err, errno, "send signal %d", sig);
}
