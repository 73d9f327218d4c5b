/* One child process on the loop: the only place in blix that starts a process.
 *
 * A child runs in its own session, from an explicit environment, with stdin on /dev/null or on a
 * file, default signals and no descriptor above 2. It is watched by pidfd and reaped by that alone,
 * so other children of this process are never touched. Of each output stream the tail is kept.
 *
 * The result comes exactly once, from the loop, never from inside child_start(): when the child has
 * exited and its pipes are empty. A grandchild that keeps a pipe open delays it by CHILD_DRAIN_MS
 * at most. At the deadline the whole process group is asked to end, and killed CHILD_KILL_MS later.
 */
#ifndef BLIX_EXEC_CHILD_H
#define BLIX_EXEC_CHILD_H

#include "base/error.h"
#include "exec/argv.h"
#include "exec/tail.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define CHILD_KILL_MS  2000
#define CHILD_DRAIN_MS 50

struct child_options {
	const struct argv *argv; /* argv->items[0] is an absolute path, or is searched in `path` */
	const struct argv *env;
	const char *path;     /* PATH for that search; NULL: none */
	const char *cwd;      /* NULL: "/" */
	int input;            /* a descriptor that becomes its stdin; 0: /dev/null */
	size_t output_max;    /* of each stream; 0: LIMIT_CHILD_OUTPUT */
	uint64_t deadline_ms; /* from now; 0: none */
};

struct child_result {
	int exit_code; /* -1 when a signal ended it */
	int signal;    /* 0 when it exited */
	bool timed_out;
	bool cancelled;
	struct tail out, err; /* the caller may take .data (and leave NULL there) */
	uint64_t elapsed_ms;
};

struct child;
typedef void (*child_cb)(void *data, struct child_result *result);

/* Fails when the program cannot be started (-BLIX_E_NOTFOUND, -BLIX_E_DENIED, ...). */
int child_start(uv_loop_t *loop, const struct child_options *options, child_cb cb, void *data,
                struct child **ret, struct blix_error *err);
/* Ends it as the deadline would; the callback still comes, marked cancelled. */
void child_cancel(struct child *child);
/* True when it exited with 0 and nothing else happened. */
bool child_ok(const struct child_result *result);
/* "exited with code 1", "was killed by signal 9", "did not end within its deadline" */
void child_describe(const struct child_result *result, char *out, size_t n);

#endif
