/* vm set: an edit of the spec that leaves the system as it is.
 *
 * Labels and the restart policy count at once. Other CPUs and memory are admitted again, at once or
 * not at all, and rendered by the same lock (state_generation.c): the VM goes on with what it has
 * and is Stale until its next restart. It fails by a refusal, and nothing has changed then; what
 * cannot be evaluated or built is undone.
 */
#include "core/state_internal.h"

#include "base/alloc.h"

static bool has(const struct command *c, enum vm_set_field field)
{
	return (c->vm_set.fields & (uint32_t)field) != 0;
}

static bool edit(struct vm_spec *spec, const struct command *c)
{
	const struct vm_spec *to = &c->vm_set.spec;

	if (has(c, VM_SET_CPUS))
		spec->cpus = to->cpus;
	if (has(c, VM_SET_MEMORY))
		spec->memory_bytes = to->memory_bytes;
	if (has(c, VM_SET_RESTART))
		spec->restart = to->restart;
	for (size_t i = 0; i < to->labels.n; i++) {
		if (labels_set(&spec->labels, to->labels.items[i].key, to->labels.items[i].value,
		               NULL) < 0)
			return false;
	}
	return vm_spec_check(spec, NULL) == 0;
}

/* What more it asks for must be free on its node. */
static bool fits(const struct state *s, const struct vm *vm, const struct vm_spec *spec)
{
	const struct node *node = state_node(s, vm->node);
	struct vm_held held = vm_commits(vm);
	uint64_t bytes = spec->memory_bytes + vm_overhead_bytes(vm->resolved.hypervisor);

	if (node == NULL || !vm_is_committed(vm))
		return true;
	return (spec->memory_bytes == 0 || bytes <= held.bytes ||
	        node->committed_bytes - held.bytes + bytes <= node_usable_bytes(node)) &&
	       (spec->cpus <= held.cpus ||
	        node->committed_cpus - held.cpus + spec->cpus <= node_usable_cpus(node));
}

static void set(struct state *s, const struct vm *found, struct vm_spec *spec,
                const struct command *c)
{
	bool resources =
		spec->cpus != found->spec.cpus || spec->memory_bytes != found->spec.memory_bytes;
	struct vm_spec before;
	struct vm *vm;

	s->revision++;
	vm = state_edit(s, found);
	vm->version++;
	before = vm->spec;
	vm_spec_copy(&vm->spec, spec);
	if (resources && vm->resolved_set) {
		begin_operation(s, vm, "set");
		update_render(s, vm, &before, c->principal);
	}
	vm_spec_done(&before);
	state_edited(s, vm);
	vm_event(s, vm, "vm-set", c->principal);
}

void apply_set(struct state *s, const struct command *c, struct command_result *r)
{
	const struct vm *found = named_vm(s, c->vm_set.name, c->vm_set.if_version, r);
	bool resources = has(c, VM_SET_CPUS) || has(c, VM_SET_MEMORY);
	struct vm_spec spec;

	if (found == NULL)
		return;
	vm_spec_copy(&spec, &found->spec);
	if (found->phase == VM_DELETING)
		refuse(r, BLIX_E_REFUSED, REFUSAL_VM_DELETING);
	else if (resources && found->update.step != UPDATE_IDLE)
		refuse(r, BLIX_E_REFUSED, REFUSAL_UPDATING);
	else if (resources && !found->resolved_set && found->phase != VM_FAILED &&
	         found->phase != VM_STOPPED)
		refuse(r, BLIX_E_REFUSED, REFUSAL_UNRESOLVED);
	else if (!edit(&spec, c))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_SPEC);
	else if (!fits(s, found, &spec))
		refuse(r, BLIX_E_NOROOM, REFUSAL_NO_ROOM);
	else
		set(s, found, &spec, c);
	vm_spec_done(&spec);
}
