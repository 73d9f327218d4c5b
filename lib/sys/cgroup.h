/* A control group of the unified hierarchy (v2), as the fence around the processes of one VM: what
 * was put inside stays inside, with all that it starts, and can be ended at one stroke without
 * naming a pid. No controller is needed. A group is named by its directory. */
#ifndef BLIX_SYS_CGROUP_H
#define BLIX_SYS_CGROUP_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

/* Where the hierarchy is mounted: /sys/fs/cgroup, or .../unified beside the old one; NULL: it is
 * not. */
const char *cgroup_root(void);
/* Makes the group and those above it; existing is success. */
int cgroup_make(const char *dir, struct blix_error *err);
/* Moves a process of ours; 0 is the caller. */
int cgroup_enter(const char *dir, pid_t pid, struct blix_error *err);
/* True while a process lives in it or below; zombies do not count. */
bool cgroup_populated(const char *dir);
/* True when the process is in it or below. */
bool cgroup_holds(const char *dir, pid_t pid);
/* -BLIX_E_NOTFOUND: there is no such group, or the kernel (before 5.14) cannot kill by group. */
int cgroup_can_kill(const char *dir, struct blix_error *err);
/* SIGKILL to all in it and below, those that are just being forked included. */
int cgroup_kill(const char *dir, struct blix_error *err);
/* Removes it and the groups below; absent is success. -BLIX_E_BUSY while processes live there. */
int cgroup_remove(const char *dir, struct blix_error *err);

#endif
