/* Which process is it? A pid is reused, so a process is named by its pid, its start time (field 22
 * of /proc/PID/stat, in clock ticks since boot) and the boot id of the kernel it runs under. A
 * zombie counts as gone: it runs nothing any more, whoever forgets to reap it. */
#ifndef BLIX_SYS_PROCESS_H
#define BLIX_SYS_PROCESS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* -BLIX_E_NOTFOUND when there is no such process or it is a zombie. */
int process_start_time(pid_t pid, uint64_t *ret_ticks, struct blix_error *err);
/* True while exactly that process runs. */
bool process_is(pid_t pid, uint64_t start_time, const char *boot_id);
/* A pidfd of exactly that process: opened first, checked after, so that the pid cannot have changed
 * hands in between. -BLIX_E_NOTFOUND when it has ended. */
int process_open(pid_t pid, uint64_t start_time, const char *boot_id, int *ret_pidfd,
                 struct blix_error *err);
/* -BLIX_E_NOTFOUND when the process has ended. */
int process_signal(int pidfd, int sig, struct blix_error *err);

#endif
