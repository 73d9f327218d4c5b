/* Starting the process itself: posix_spawn with everything inherited made explicit. */
#ifndef BLIX_EXEC_SPAWN_H
#define BLIX_EXEC_SPAWN_H

#include "exec/child.h"

#include <sys/types.h>

struct spawned {
	pid_t pid;
	int pidfd;
	int out, err; /* read ends, non-blocking */
};

int spawn_child(const struct child_options *options, struct spawned *ret, struct blix_error *err);

#endif
