/* The scheduler: pure and deterministic. A placement is decided once, by the leader, and logged;
 * apply asks place_node() again, so that a race cannot overfill a node. */
#ifndef BLIX_CORE_PLACE_H
#define BLIX_CORE_PLACE_H

#include "core/state.h"

#define PLACE_REJECTS(X)                                                                           \
	X(FITS, "fits")                                                                            \
	X(OFFLINE, "node-offline")                                                                 \
	X(MAINTENANCE, "node-maintenance")                                                         \
	X(CORDONED, "node-cordoned")                                                               \
	X(LEAVING, "node-leaving")                                                                 \
	X(OTHER_NODE, "other-node-wanted")                                                         \
	X(PINNED, "data-elsewhere")                                                                \
	X(FAILED_THERE, "failed-there")                                                            \
	X(HOLDERS, "too-many-holders")                                                             \
	X(HYPERVISOR, "no-hypervisor")                                                             \
	X(CPUS, "cpus")                                                                            \
	X(MEMORY, "memory")

enum place_reject {
#define X(name, text) PLACE_##name,
	PLACE_REJECTS(X)
#undef X
};

struct place_verdict {
	enum place_reject reject;
	uint64_t need, have; /* for CPUS (cpus) and MEMORY (bytes): what is free */
};

const char *place_reject_name(enum place_reject reject);
/* May this VM, resolved, run on this node now? */
struct place_verdict place_node(const struct vm *vm, const struct node *node);
/* The node for it: the one it was on if it fits there, else the fit that leaves the least memory
 * free, ties by the lower id. NULL: none fits. */
const struct node *place(const struct state *state, const struct vm *vm);
/* "cannot place: 2 nodes rejected", then a line per node: "n1: memory: need 4GiB, have 1GiB free".
 * Cut to n. */
void place_explain(const struct state *state, const struct vm *vm, char *out, size_t n);

#endif
