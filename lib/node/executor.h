/* The executor on the loop: turns what the state, the host and children say into events of the
 * core's machine (core/executor.h), and its actions into processes, files and proposals.
 *
 * VMs are never children of this process: a supervisor stands by each, so closing the executor, or
 * killing the daemon, leaves them running. What is there is found again by microvm-status before
 * anything is done about a VM.
 */
#ifndef BLIX_NODE_EXECUTOR_H
#define BLIX_NODE_EXECUTOR_H

#include "core/state.h"
#include "node/config.h"
#include "node/supervisor.h"
#include "node/usage.h"

#include <uv.h>

struct node_executor;
struct sources;

typedef void (*node_executor_answer_cb)(void *cb_data, int status,
                                        const struct command_result *result);

struct node_executor_config {
	uv_loop_t *loop;
	const struct config *config; /* lives as long as the executor */
	const struct supervisor *supervisor;
	uint64_t node;
	const char *cluster;
	const struct state *state; /* the live one, only read */
	/* Calls cb exactly once, possibly at once and possibly after node_executor_close(); a
	 * negative return says that it never will. status is 0 or -BLIX_E_x. */
	int (*propose)(void *data, const struct command *command, node_executor_answer_cb cb,
	               void *cb_data);
	/* "kvm", "tcg", or "" while that is not known. */
	const char *(*accel)(void *data);
	void *data;
	struct sources *sources; /* packed flakes; outlives the executor */
};

int node_executor_open(const struct node_executor_config *config, struct node_executor **ret,
                       struct blix_error *err);
/* The state changed: it is looked at in the loop's next turn, however often this is called. */
void node_executor_wake(struct node_executor *e);
/* How the control groups of its VMs begin; -UID-EPOCH follows. Two daemons of one host, even of one
 * cluster, have run directories of their own. There must be a cgroup_root(). */
char *node_executor_groups(const char *cluster, const char *run_dir);
/* What a VM of this node uses, its hypervisor asked anew: cb is called once, possibly at once, with
 * NULL when it does not run here. */
typedef void (*node_executor_usage_cb)(void *data, const struct usage *usage);
void node_executor_usage(struct node_executor *e, uint64_t uid, node_executor_usage_cb cb,
                         void *data);
/* The last samples of all VMs that run here; one that has ended has none. */
void node_executor_each_usage(const struct node_executor *e,
                              void (*each)(void *data, const struct vm *vm,
                                           const struct usage *usage),
                              void *data);
/* Ends builds that are under way; cb is called when nothing of it is left on the loop. */
void node_executor_close(struct node_executor *e, void (*cb)(void *data), void *data);

/* Looks at the directory of a microVM that blix did not make. A negative return says why it cannot
 * be adopted; else cb is called once, with the flake that it is made from and whether it runs and
 * can be taken over so, or with NULL and why. */
typedef void (*node_executor_inspected_cb)(void *data, const char *flake, bool runs,
                                           const struct blix_error *err);
int node_executor_inspect(struct node_executor *e, const char *name, node_executor_inspected_cb cb,
                          void *data, struct blix_error *err);

#endif
