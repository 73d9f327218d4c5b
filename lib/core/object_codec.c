/* Bytes of specs, VMs and nodes. The order of the fields is the format: a change of it is a new
 * version of commands (command.h) and snapshots (state_snapshot.c). */
#include "core/object_codec.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "core/generation.h"

#define STORE_PATH_MAX 512 /* /nix/store/HASH-NAME: names end at 211 bytes */

void put_spec(struct buf *out, const struct vm_spec *spec)
{
	put_string(out, spec->flake);
	put_string(out, spec->attr);
	put_u32(out, spec->cpus);
	put_u64(out, spec->memory_bytes);
	put_string(out, spec->hypervisor);
	put_u32(out, spec->power);
	put_u32(out, spec->restart);
	put_string(out, spec->ready);
	put_string(out, spec->node);
	put_u8(out, spec->plain);
	put_u32(out, (uint32_t)spec->labels.n);
	for (size_t i = 0; i < spec->labels.n; i++) {
		put_string(out, spec->labels.items[i].key);
		put_string(out, spec->labels.items[i].value);
	}
	put_u32(out, (uint32_t)spec->secrets.n);
	for (size_t i = 0; i < spec->secrets.n; i++)
		put_string(out, spec->secrets.names[i]);
}

void get_spec(struct codec *in, struct vm_spec *spec)
{
	uint32_t n;

	get_string_into(in, &spec->flake, LIMIT_FLAKE);
	get_string_into(in, &spec->attr, LIMIT_ATTR);
	spec->cpus = get_u32(in);
	spec->memory_bytes = get_u64(in);
	get_string_into(in, &spec->hypervisor, LIMIT_NAME);
	spec->power = (enum vm_power)get_enum(in, VM_POWER_COUNT);
	spec->restart = (enum vm_restart)get_enum(in, VM_RESTART_COUNT);
	get_string_into(in, &spec->ready, LIMIT_READY);
	get_string_into(in, &spec->node, LIMIT_NAME);
	spec->plain = get_bool(in);
	n = get_enum(in, LIMIT_LABELS + 1);
	labels_done(&spec->labels);
	for (uint32_t i = 0; i < n && !in->failed; i++) {
		cleanup(freep) char *key = get_string(in, LIMIT_LABEL_VALUE);
		cleanup(freep) char *value = get_string(in, LIMIT_LABEL_VALUE);

		if (!in->failed && labels_set(&spec->labels, key, value, NULL) < 0)
			in->failed = true;
	}
	n = get_enum(in, LIMIT_SECRETS + 1);
	secrets_done(&spec->secrets);
	for (uint32_t i = 0; i < n && !in->failed; i++) {
		cleanup(freep) char *name = get_string(in, LIMIT_SECRET_NAME);

		if (!in->failed && secrets_add(&spec->secrets, name, NULL) < 0)
			in->failed = true;
	}
}

void put_resolved(struct buf *out, const struct vm_resolved *resolved)
{
	put_u32(out, resolved->cpus);
	put_u64(out, resolved->memory_bytes);
	put_string(out, resolved->hypervisor);
	put_string(out, resolved->out_path);
	put_u64(out, resolved->lock);
	put_string(out, resolved->base_url);
	put_u32(out, resolved->n_volumes);
	put_u32(out, resolved->n_shares);
	put_u32(out, resolved->n_devices);
}

void get_resolved(struct codec *in, struct vm_resolved *resolved)
{
	resolved->cpus = get_u32(in);
	resolved->memory_bytes = get_u64(in);
	get_string_into(in, &resolved->hypervisor, LIMIT_NAME);
	get_string_into(in, &resolved->out_path, STORE_PATH_MAX);
	resolved->lock = get_u64(in);
	get_string_into(in, &resolved->base_url, LIMIT_FLAKE);
	resolved->n_volumes = get_u32(in);
	resolved->n_shares = get_u32(in);
	resolved->n_devices = get_u32(in);
}

static void put_before(struct buf *out, const struct vm_before *before)
{
	put_u8(out, before->set);
	put_u32(out, before->cpus);
	put_u64(out, before->memory_bytes);
	put_resolved(out, &before->resolved);
}

static void get_before(struct codec *in, struct vm_before *before)
{
	before->set = get_bool(in);
	before->cpus = get_u32(in);
	before->memory_bytes = get_u64(in);
	get_resolved(in, &before->resolved);
}

static void put_update(struct buf *out, const struct vm_update *update)
{
	put_u32(out, update->step);
	put_u32(out, update->outcome);
	put_u32(out, update->code);
	put_text(out, update->reason, LIMIT_NAME);
	put_text(out, update->message, LIMIT_MESSAGE);
	put_u64(out, update->operation);
	put_u32(out, update->restart);
	put_u8(out, update->auto_rollback);
	put_u8(out, update->made);
	put_u32(out, update->timeout_ms);
	put_u32(out, update->grace_ms);
	put_u64(out, update->deadline_ms);
	put_u64(out, update->target);
	put_u64(out, update->from);
	put_string(out, update->flake);
	put_string(out, update->attr);
	put_string(out, update->by);
}

static void get_update(struct codec *in, struct vm_update *update)
{
	update->step = (enum vm_update_step)get_enum(in, UPDATE_STEP_COUNT);
	update->outcome = (enum vm_update_outcome)get_enum(in, UPDATE_OUTCOME_COUNT);
	update->code = (enum blix_code)get_enum(in, BLIX_CODE_COUNT);
	get_string_into(in, &update->reason, LIMIT_NAME);
	get_string_into(in, &update->message, LIMIT_MESSAGE);
	update->operation = get_u64(in);
	update->restart = (enum update_restart)get_enum(in, UPDATE_RESTART_COUNT);
	update->auto_rollback = get_bool(in);
	update->made = get_bool(in);
	update->timeout_ms = get_u32(in);
	update->grace_ms = get_u32(in);
	update->deadline_ms = get_u64(in);
	update->target = get_u64(in);
	update->from = get_u64(in);
	get_string_into(in, &update->flake, LIMIT_FLAKE);
	get_string_into(in, &update->attr, LIMIT_ATTR);
	get_string_into(in, &update->by, LIMIT_PRINCIPAL);
}

static void put_generations(struct buf *out, const struct vm *vm)
{
	put_u64(out, vm->adopt);
	put_u64(out, vm->generation);
	put_u64(out, vm->generation_current);
	put_u64(out, vm->generation_booted);
	put_u64(out, vm->generation_last);
	put_u32(out, vm->held.cpus);
	put_u64(out, vm->held.bytes);
	put_u32(out, vm->n_generations);
	for (uint32_t i = 0; i < vm->n_generations; i++) {
		const struct generation *g = &vm->generations[i];

		put_u64(out, g->number);
		put_u64(out, g->created_ms);
		put_string(out, g->flake);
		put_string(out, g->attr);
		put_string(out, g->by);
		put_resolved(out, &g->resolved);
	}
}

static void get_generations(struct codec *in, struct vm *vm)
{
	uint64_t last = 0;
	uint32_t n;

	vm->adopt = get_u64(in);
	vm->generation = get_u64(in);
	vm->generation_current = get_u64(in);
	vm->generation_booted = get_u64(in);
	vm->generation_last = get_u64(in);
	vm->held.cpus = get_u32(in);
	vm->held.bytes = get_u64(in);
	n = get_enum(in, LIMIT_GENERATIONS + 1);
	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct generation *g = generation_push(vm);

		g->number = get_u64(in);
		g->created_ms = get_u64(in);
		get_string_into(in, &g->flake, LIMIT_FLAKE);
		get_string_into(in, &g->attr, LIMIT_ATTR);
		get_string_into(in, &g->by, LIMIT_PRINCIPAL);
		get_resolved(in, &g->resolved);
		if (g->number <= last || g->number > vm->generation_last)
			in->failed = true;
		last = g->number;
	}
	if (vm->generation != 0 && generation_find(vm, vm->generation) == NULL)
		in->failed = true;
}

static void put_ids(struct buf *out, const uint64_t *ids, uint32_t n)
{
	put_u32(out, n);
	for (uint32_t i = 0; i < n; i++)
		put_u64(out, ids[i]);
}

static uint32_t get_ids(struct codec *in, uint64_t *ids)
{
	uint32_t n = get_enum(in, VM_HOLDERS_MAX + 1);

	for (uint32_t i = 0; i < n; i++)
		ids[i] = get_u64(in);
	return n;
}

static void put_marks(struct buf *out, const struct operation_marks *marks)
{
	put_u8(out, marks->n);
	for (size_t i = 0; i < marks->n; i++) {
		put_u8(out, marks->items[i].step);
		put_u32(out, marks->items[i].after_ms);
	}
}

static void get_marks(struct codec *in, struct operation_marks *marks)
{
	uint8_t n = get_u8(in);

	in->failed = in->failed || n > OPERATION_STEPS_MAX;
	for (marks->n = 0; marks->n < n && !in->failed; marks->n++) {
		struct operation_mark *mark = &marks->items[marks->n];

		mark->step = get_u8(in);
		mark->after_ms = get_u32(in);
		in->failed = in->failed || mark->step >= OPERATION_STEP_COUNT;
	}
}

static void put_status(struct buf *out, const struct vm *vm)
{
	put_u8(out, vm->ready);
	put_u8(out, vm->secrets_given);
	put_u8(out, vm->restart);
	put_u8(out, vm->ending);
	put_u8(out, vm->drop_volumes);
	put_u32(out, vm->grace_ms);
	put_u32(out, vm->code);
	put_text(out, vm->reason, LIMIT_NAME);
	put_text(out, vm->message, LIMIT_MESSAGE);
	put_string(out, vm->runner);
	put_u64(out, vm->pid);
	put_u64(out, vm->started_ms);
	put_u32(out, vm->restarts);
	put_u32(out, vm->crashes);
	put_u64(out, vm->retry_ms);
	put_u32(out, (uint32_t)vm->exit_code);
	put_u32(out, vm->timings.queue_ms);
	put_u32(out, vm->timings.resolve_ms);
	put_u32(out, vm->timings.build_ms);
	put_u32(out, vm->timings.start_ms);
	put_u32(out, vm->timings.boot_ms);
	put_u32(out, vm->timings.ready_ms);
	put_u64(out, vm->operation);
	put_string(out, vm->operation_verb);
	put_u64(out, vm->operation_ms);
	put_marks(out, &vm->marks);
}

static void get_status(struct codec *in, struct vm *vm)
{
	vm->ready = get_bool(in);
	vm->secrets_given = get_bool(in);
	vm->restart = get_bool(in);
	vm->ending = get_bool(in);
	vm->drop_volumes = get_bool(in);
	vm->grace_ms = get_u32(in);
	vm->code = (enum blix_code)get_enum(in, BLIX_CODE_COUNT);
	get_string_into(in, &vm->reason, LIMIT_NAME);
	get_string_into(in, &vm->message, LIMIT_MESSAGE);
	get_string_into(in, &vm->runner, STORE_PATH_MAX);
	vm->pid = get_u64(in);
	vm->started_ms = get_u64(in);
	vm->restarts = get_u32(in);
	vm->crashes = get_u32(in);
	vm->retry_ms = get_u64(in);
	vm->exit_code = (int32_t)get_u32(in);
	vm->timings.queue_ms = get_u32(in);
	vm->timings.resolve_ms = get_u32(in);
	vm->timings.build_ms = get_u32(in);
	vm->timings.start_ms = get_u32(in);
	vm->timings.boot_ms = get_u32(in);
	vm->timings.ready_ms = get_u32(in);
	vm->operation = get_u64(in);
	get_string_into(in, &vm->operation_verb, LIMIT_NAME);
	vm->operation_ms = get_u64(in);
	get_marks(in, &vm->marks);
}

void put_vm(struct buf *out, const struct vm *vm)
{
	put_u64(out, vm->uid);
	put_u64(out, vm->version);
	put_u64(out, vm->revision);
	put_u64(out, vm->created_ms);
	put_string(out, vm->name);
	put_spec(out, &vm->spec);
	put_u32(out, vm->phase);
	put_u64(out, vm->phase_ms);
	put_u64(out, vm->node);
	put_u64(out, vm->epoch);
	put_u64(out, vm->resolver);
	put_u8(out, vm->resolved_set);
	put_resolved(out, &vm->resolved);
	put_status(out, vm);
	put_generations(out, vm);
	put_update(out, &vm->update);
	put_before(out, &vm->before);
	put_ids(out, vm->holders, vm->n_holders);
	put_ids(out, vm->rejected, vm->n_rejected);
}

struct vm *get_vm(struct codec *in)
{
	struct vm *vm = vm_new();

	vm->uid = get_u64(in);
	vm->version = get_u64(in);
	vm->revision = get_u64(in);
	vm->created_ms = get_u64(in);
	get_name(in, vm->name, sizeof(vm->name));
	get_spec(in, &vm->spec);
	vm->phase = (enum vm_phase)get_enum(in, VM_PHASE_COUNT);
	vm->phase_ms = get_u64(in);
	vm->node = get_u64(in);
	vm->epoch = get_u64(in);
	vm->resolver = get_u64(in);
	vm->resolved_set = get_bool(in);
	get_resolved(in, &vm->resolved);
	get_status(in, vm);
	get_generations(in, vm);
	get_update(in, &vm->update);
	get_before(in, &vm->before);
	vm->n_holders = get_ids(in, vm->holders);
	vm->n_rejected = get_ids(in, vm->rejected);
	return vm;
}

void put_facts(struct buf *out, const struct node_facts *facts)
{
	put_u32(out, facts->cpus);
	put_u64(out, facts->memory_bytes);
	put_u32(out, facts->reserved_cpus);
	put_u64(out, facts->reserved_bytes);
	put_u32(out, facts->overcommit_cpu);
	put_u32(out, facts->overcommit_memory);
	put_u32(out, facts->builds_max);
	put_string(out, facts->hypervisors);
	put_string(out, facts->accel);
	put_string(out, facts->supervision);
	put_string(out, facts->microvm_command);
	put_string(out, facts->version);
	put_string(out, facts->boot_id);
	put_string(out, facts->addresses);
	put_string(out, facts->raft);
	put_u32(out, facts->features);
}

void get_facts(struct codec *in, struct node_facts *facts)
{
	facts->cpus = get_u32(in);
	facts->memory_bytes = get_u64(in);
	facts->reserved_cpus = get_u32(in);
	facts->reserved_bytes = get_u64(in);
	facts->overcommit_cpu = get_u32(in);
	facts->overcommit_memory = get_u32(in);
	facts->builds_max = get_u32(in);
	get_string_into(in, &facts->hypervisors, 256);
	get_string_into(in, &facts->accel, LIMIT_NAME);
	get_string_into(in, &facts->supervision, LIMIT_NAME);
	get_string_into(in, &facts->microvm_command, STORE_PATH_MAX);
	get_string_into(in, &facts->version, LIMIT_NAME);
	get_string_into(in, &facts->boot_id, LIMIT_NAME);
	get_string_into(in, &facts->addresses, LIMIT_ADDRESSES);
	get_string_into(in, &facts->raft, LIMIT_ADDRESSES);
	facts->features = get_u32(in);
	/* Bounds that keep the sums of node_usable_*() inside 64 bits. */
	if (facts->overcommit_cpu > 100000 || facts->overcommit_memory > 100000 ||
	    facts->memory_bytes > LIMIT_MEMORY * 64)
		in->failed = true;
}

void put_node(struct buf *out, const struct node *node)
{
	put_u64(out, node->id);
	put_u64(out, node->revision);
	put_u64(out, node->created_ms);
	put_u64(out, node->phase_ms);
	put_u32(out, node->phase);
	put_string(out, node->name);
	put_u64(out, node->version);
	put_u32(out, node->role);
	put_u32(out, node->vote);
	put_u8(out, node->schedulable);
	put_u8(out, node->maintenance);
	put_u8(out, node->leaving);
	put_string(out, node->zone);
	put_string(out, node->serial);
	put_string(out, node->key);
	put_facts(out, &node->facts);
}

struct node *get_node(struct codec *in)
{
	struct node *node = node_new();

	node->id = get_u64(in);
	node->revision = get_u64(in);
	node->created_ms = get_u64(in);
	node->phase_ms = get_u64(in);
	node->phase = (enum node_phase)get_enum(in, NODE_PHASE_COUNT);
	get_name(in, node->name, sizeof(node->name));
	node->version = get_u64(in);
	node->role = (enum node_role)get_enum(in, NODE_ROLE_COUNT);
	node->vote = (enum node_vote)get_enum(in, NODE_VOTE_COUNT);
	node->schedulable = get_bool(in);
	node->maintenance = get_bool(in);
	node->leaving = get_bool(in);
	get_name(in, node->zone, sizeof(node->zone));
	get_name(in, node->serial, sizeof(node->serial));
	get_name(in, node->key, sizeof(node->key));
	get_facts(in, &node->facts);
	return node;
}
