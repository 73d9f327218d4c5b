/* Filter, then best fit: see place.h. */
#include "core/place.h"

#include "base/parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *place_reject_name(enum place_reject reject)
{
	static const char *const names[] = {
#define X(name, text) [PLACE_##name] = text,
		PLACE_REJECTS(X)
#undef X
	};

	return names[reject];
}

static uint64_t free_of(uint64_t usable, uint64_t committed)
{
	return usable > committed ? usable - committed : 0;
}

static bool failed_on(const struct vm *vm, uint64_t node)
{
	for (uint32_t i = 0; i < vm->n_rejected; i++) {
		if (vm->rejected[i] == node)
			return true;
	}
	return false;
}

static enum place_reject filter_node(const struct vm *vm, const struct node *node)
{
	/* A cordon keeps new VMs away; one that was there before may start there again. */
	bool known = vm->node == node->id && vm_held_by(vm, node->id);

	if (!node_is_up(node))
		return PLACE_OFFLINE;
	if (node->leaving)
		return PLACE_LEAVING;
	if (node->maintenance)
		return PLACE_MAINTENANCE;
	return node->schedulable || known ? PLACE_FITS : PLACE_CORDONED;
}

/* Everything but room. */
static enum place_reject filter(const struct vm *vm, const struct node *node)
{
	enum place_reject reject = filter_node(vm, node);

	if (reject != PLACE_FITS)
		return reject;
	if (vm->spec.node[0] != '\0' && strcmp(vm->spec.node, node->name) != 0)
		return PLACE_OTHER_NODE;
	if (vm_is_pinned(vm) && vm->node != node->id)
		return PLACE_PINNED;
	if (failed_on(vm, node->id))
		return PLACE_FAILED_THERE;
	if (vm->n_holders >= VM_HOLDERS_MAX && !vm_held_by(vm, node->id))
		return PLACE_HOLDERS;
	if (!node_has_hypervisor(node, vm->resolved.hypervisor))
		return PLACE_HYPERVISOR;
	return PLACE_FITS;
}

struct place_verdict place_node(const struct vm *vm, const struct node *node)
{
	struct place_verdict verdict = {.reject = filter(vm, node)};
	uint64_t cpus = free_of(node_usable_cpus(node), node->committed_cpus);
	uint64_t bytes = free_of(node_usable_bytes(node), node->committed_bytes);
	uint64_t need = vm->resolved.memory_bytes + vm_overhead_bytes(vm->resolved.hypervisor);

	if (verdict.reject != PLACE_FITS)
		return verdict;
	if (need > bytes)
		return (struct place_verdict){PLACE_MEMORY, need, bytes};
	if (vm->resolved.cpus > cpus)
		return (struct place_verdict){PLACE_CPUS, vm->resolved.cpus, cpus};
	return verdict;
}

const struct node *place(const struct state *state, const struct vm *vm)
{
	const struct node *best = NULL;
	uint64_t best_free = UINT64_MAX;

	for (size_t i = 0; i < state->n_nodes; i++) {
		const struct node *node = state->nodes[i];
		uint64_t bytes = free_of(node_usable_bytes(node), node->committed_bytes);

		if (place_node(vm, node).reject != PLACE_FITS)
			continue;
		if (vm->node == node->id && vm_held_by(vm, node->id))
			return node;
		if (bytes < best_free) {
			best = node;
			best_free = bytes;
		}
	}
	return best;
}

/* "n1: memory: need 4GiB, have 1GiB free" */
static void explain_node(const struct vm *vm, const struct node *node, char *out, size_t n)
{
	struct place_verdict verdict = place_node(vm, node);
	const char *reason = place_reject_name(verdict.reject);
	char need[32], have[32];

	if (verdict.reject == PLACE_MEMORY) {
		format_size(need, sizeof(need), verdict.need);
		format_size(have, sizeof(have), verdict.have);
	} else {
		(void)snprintf(need, sizeof(need), "%" PRIu64, verdict.need);
		(void)snprintf(have, sizeof(have), "%" PRIu64, verdict.have);
	}
	if (verdict.reject == PLACE_MEMORY || verdict.reject == PLACE_CPUS)
		(void)snprintf(out, n, "%s: %s: need %s, have %s free", node->name, reason, need,
		               have);
	else
		(void)snprintf(out, n, "%s: %s", node->name, reason);
}

void place_explain(const struct state *state, const struct vm *vm, char *out, size_t n)
{
	char line[LIMIT_NAME + 128];
	size_t used;
	int more;

	more = snprintf(out, n, "cannot place: %zu node%s rejected", state->n_nodes,
	                state->n_nodes == 1 ? "" : "s");
	used = more > 0 ? (size_t)more : 0;
	if (vm->spec.node[0] != '\0' && state_node_named(state, vm->spec.node) == NULL &&
	    used < n) {
		more = snprintf(out + used, n - used, "\nno node is called '%s'", vm->spec.node);
		used += more > 0 ? (size_t)more : 0;
	}
	for (size_t i = 0; i < state->n_nodes && used < n; i++) {
		explain_node(vm, state->nodes[i], line, sizeof(line));
		more = snprintf(out + used, n - used, "\n%s", line);
		used += more > 0 ? (size_t)more : 0;
	}
}
