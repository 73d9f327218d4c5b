/* Any sequence of well-formed commands, in any order and about anything: no assertion of the state
 * may fail, for a command that reaches the log is applied by every server. Three bytes choose a
 * command; names, uids, nodes and epochs are of things that exist, or nearly. */
#include "fuzz.h"

#include "base/alloc.h"
#include "core/state.h"

#include <stdio.h>
#include <string.h>

struct input {
	const uint8_t *data;
	size_t n;
};

static unsigned take_byte(struct input *in, unsigned below)
{
	uint8_t byte = 0;

	if (in->n > 0) {
		byte = *in->data++;
		in->n--;
	}
	return byte % below;
}

static uint64_t some_uid(const struct state *s, struct input *in)
{
	size_t i = take_byte(in, 5);

	return i < s->n_vms ? s->by_uid[i]->uid : i;
}

static uint64_t some_epoch(const struct state *s, uint64_t uid, struct input *in)
{
	const struct vm *vm = state_vm_uid(s, uid);
	unsigned choice = take_byte(in, 8);

	return (vm != NULL ? vm->epoch : 0) + (choice == 7) - (choice == 6 && vm != NULL);
}

static void some_name(char *out, size_t n, struct input *in)
{
	(void)snprintf(out, n, "vm-%u", take_byte(in, 4));
}

static void fill_create(struct command *c, struct input *in)
{
	unsigned choice = take_byte(in, 8);

	some_name(c->vm_create.name, sizeof(c->vm_create.name), in);
	xreplace(&c->vm_create.spec.flake, choice == 7 ? "-bad" : "github:me/vms");
	xreplace(&c->vm_create.spec.attr, "web");
	c->vm_create.spec.power = (choice & 1) != 0 ? VM_POWER_STOPPED : VM_POWER_RUNNING;
	if ((choice & 2) != 0)
		xreplace(&c->vm_create.spec.node, "n1");
	if ((choice & 4) != 0)
		(void)secrets_add(&c->vm_create.spec.secrets, "db", NULL);
}

static const char *const runners[] = {"/nix/store/x-runner", "/nix/store/y-runner",
                                      "/nix/store/z-runner"};

static void fill_resolved(struct command *c, const struct state *s, struct input *in)
{
	struct vm_resolved *resolved = &c->vm_resolved.resolved;
	unsigned choice = take_byte(in, 8);

	c->vm_resolved.uid = some_uid(s, in);
	c->vm_resolved.node = take_byte(in, 4);
	c->vm_resolved.code = choice == 7 ? BLIX_E_IMAGE : BLIX_OK;
	resolved->cpus = 1;
	resolved->memory_bytes = choice == 6 ? 1ULL << 40 : 1ULL << 28;
	resolved->n_volumes = choice == 5;
	xreplace(&resolved->hypervisor, "qemu");
	xreplace(&resolved->out_path, runners[take_byte(in, array_size(runners))]);
	xreplace(&resolved->base_url, choice == 4 ? "github:me/vms/1" : "github:me/vms/2");
	(void)buf_add_string(&c->vm_resolved.lock, (choice & 1) != 0 ? "{\"version\":7}" : "");
}

static void fill_report(struct command *c, const struct state *s, struct input *in)
{
	static const enum blix_code codes[] = {BLIX_OK, BLIX_E_IMAGE, BLIX_E_START, BLIX_E_BUSY};

	c->vm_report.kind = (enum vm_report_kind)(1 + take_byte(in, VM_REPORT_KIND_COUNT - 1));
	c->vm_report.uid = some_uid(s, in);
	c->vm_report.node = take_byte(in, 4);
	c->vm_report.epoch = some_epoch(s, c->vm_report.uid, in);
	c->vm_report.code = codes[take_byte(in, array_size(codes))];
	c->vm_report.exit_code = (int32_t)take_byte(in, 2);
	c->vm_report.pid = take_byte(in, 3);
	xreplace(&c->vm_report.runner, runners[take_byte(in, array_size(runners))]);
}

static void fill_node(struct command *c, struct input *in)
{
	c->node_report.id = 1 + take_byte(in, 3);
	(void)snprintf(c->node_report.name, sizeof(c->node_report.name), "n%u",
	               1 + take_byte(in, 3));
	c->node_report.facts.cpus = 4;
	c->node_report.facts.memory_bytes = 1ULL << 30;
	c->node_report.facts.features = 1 + take_byte(in, 2);
	xreplace(&c->node_report.facts.hypervisors, "qemu");
}

static void fill_power(struct command *c, struct input *in)
{
	some_name(c->vm_power.name, sizeof(c->vm_power.name), in);
	c->vm_power.verb = (enum vm_verb)(1 + take_byte(in, VM_VERB_COUNT - 1));
	c->vm_power.if_version = take_byte(in, 4) == 3;
}

static void fill_update(struct command *c, struct input *in)
{
	unsigned choice = take_byte(in, 16);

	some_name(c->vm_update.name, sizeof(c->vm_update.name), in);
	c->vm_update.rollback = (choice & 1) != 0;
	c->vm_update.auto_rollback = (choice & 2) != 0;
	c->vm_update.restart = (enum update_restart)(take_byte(in, UPDATE_RESTART_COUNT));
	c->vm_update.timeout_ms = (choice & 4) != 0 ? 0 : 1000;
	c->vm_update.generation = take_byte(in, 4);
	if ((choice & 8) != 0)
		xreplace(&c->vm_update.flake, "github:me/others");
}

static void fill_set(struct command *c, struct input *in)
{
	some_name(c->vm_set.name, sizeof(c->vm_set.name), in);
	c->vm_set.fields = take_byte(in, VM_SET_ALL + 1);
	c->vm_set.spec.cpus = take_byte(in, 6);
	c->vm_set.spec.memory_bytes = (uint64_t)take_byte(in, 4) << 28;
}

/* One of four hashes or serials, or none. */
static void some_hex(char *out, size_t n, struct input *in)
{
	unsigned choice = take_byte(in, 5);

	(void)snprintf(out, n, "%0*x", choice == 4 ? 1 : (int)n - 1, choice);
}

static void node_name(char *out, size_t n, struct input *in)
{
	(void)snprintf(out, n, "n%u", 1 + take_byte(in, 4));
}

static void fill_init(struct command *c, struct input *in)
{
	some_hex(c->cluster_init.id, sizeof(c->cluster_init.id), in);
	some_hex(c->cluster_init.ca, sizeof(c->cluster_init.ca), in);
	c->cluster_init.level = FEATURE_LEVEL;
	c->cluster_init.voters = take_byte(in, 5);
	c->cluster_init.node = take_byte(in, 3);
	node_name(c->cluster_init.name, sizeof(c->cluster_init.name), in);
	some_hex(c->cluster_init.serial, sizeof(c->cluster_init.serial), in);
}

static void fill_token(struct command *c, struct input *in)
{
	node_name(c->token_create.name, sizeof(c->token_create.name), in);
	c->token_create.role = (enum node_role)take_byte(in, NODE_ROLE_COUNT);
	some_hex(c->token_create.hash, sizeof(c->token_create.hash), in);
	c->token_create.ttl_ms = take_byte(in, 30);
}

static void fill_join(struct command *c, struct input *in)
{
	some_hex(c->node_join.token, sizeof(c->node_join.token), in);
	c->node_join.id = take_byte(in, 6);
	node_name(c->node_join.name, sizeof(c->node_join.name), in);
	some_hex(c->node_join.key, sizeof(c->node_join.key), in);
	some_hex(c->node_join.serial, sizeof(c->node_join.serial), in);
	c->node_join.facts.features = FEATURE_LEVEL;
	xreplace(&c->node_join.facts.raft, "10.0.0.1:7444");
}

static void fill_node_set(struct command *c, struct input *in)
{
	node_name(c->node_set.name, sizeof(c->node_set.name), in);
	c->node_set.fields = take_byte(in, NODE_SET_ALL + 1);
	c->node_set.if_version = take_byte(in, 4) == 3;
	c->node_set.schedulable = take_byte(in, 2) == 1;
	c->node_set.maintenance = take_byte(in, 2) == 1;
	c->node_set.vote = (enum node_vote)take_byte(in, NODE_VOTE_COUNT);
}

static void fill_user(struct command *c, struct input *in)
{
	if (c->kind == COMMAND_USER_CREATE) {
		node_name(c->user_create.name, sizeof(c->user_create.name), in);
		some_hex(c->user_create.serial, sizeof(c->user_create.serial), in);
	} else if (c->kind == COMMAND_USER_SET) {
		node_name(c->user_set.name, sizeof(c->user_set.name), in);
		some_hex(c->user_set.serial, sizeof(c->user_set.serial), in);
	} else {
		node_name(c->user_delete.name, sizeof(c->user_delete.name), in);
	}
}

static void fill_members(struct command *c, const struct state *s, struct input *in)
{
	const struct members *m = &s->members;

	switch ((unsigned)c->kind) {
	case COMMAND_CLUSTER_INIT:
		fill_init(c, in);
		break;
	case COMMAND_CLUSTER_SET:
		c->cluster_set.voters = take_byte(in, 9);
		break;
	case COMMAND_FEATURE_LEVEL:
		c->feature_level.level = take_byte(in, FEATURE_LEVEL + 1);
		break;
	case COMMAND_TOKEN_CREATE:
		fill_token(c, in);
		break;
	case COMMAND_TOKEN_DELETE:
		node_name(c->token_delete.name, sizeof(c->token_delete.name), in);
		break;
	case COMMAND_TOKEN_EXPIRE:
		c->token_expire.uid = m->n_tokens > 0 ? m->tokens[0].uid : take_byte(in, 2);
		break;
	case COMMAND_NODE_JOIN:
		fill_join(c, in);
		break;
	case COMMAND_NODE_SET:
		fill_node_set(c, in);
		break;
	case COMMAND_NODE_CERTIFICATE:
		c->node_certificate.id = take_byte(in, 6);
		some_hex(c->node_certificate.serial, sizeof(c->node_certificate.serial), in);
		break;
	case COMMAND_NODE_REMOVE:
		node_name(c->node_remove.name, sizeof(c->node_remove.name), in);
		c->node_remove.dead = take_byte(in, 2) == 1;
		break;
	case COMMAND_NODE_LEFT:
		c->node_left.id = take_byte(in, 6);
		break;
	case COMMAND_DENY:
		c->deny.node = take_byte(in, 6);
		if (c->deny.node == 0)
			some_hex(c->deny.serial, sizeof(c->deny.serial), in);
		break;
	default:
		fill_user(c, in);
		break;
	}
}

static void fill(struct command *c, const struct state *s, struct input *in)
{
	switch ((unsigned)c->kind) {
	case COMMAND_VM_CREATE:
		fill_create(c, in);
		break;
	case COMMAND_VM_POWER:
		fill_power(c, in);
		break;
	case COMMAND_VM_DELETE:
		some_name(c->vm_delete.name, sizeof(c->vm_delete.name), in);
		break;
	case COMMAND_VM_RESOLVE:
		c->vm_resolve.uid = some_uid(s, in);
		c->vm_resolve.node = take_byte(in, 4);
		break;
	case COMMAND_VM_RESOLVED:
		fill_resolved(c, s, in);
		break;
	case COMMAND_VM_ASSIGN:
		c->vm_assign.uid = some_uid(s, in);
		c->vm_assign.node = take_byte(in, 4);
		c->vm_assign.epoch = some_epoch(s, c->vm_assign.uid, in);
		break;
	case COMMAND_VM_VERDICT:
		c->vm_verdict.uid = some_uid(s, in);
		break;
	case COMMAND_VM_REPORT:
		fill_report(c, s, in);
		break;
	case COMMAND_NODE_REPORT:
		fill_node(c, in);
		break;
	case COMMAND_NODE_PHASE:
		c->node_phase.id = take_byte(in, 4);
		c->node_phase.phase = (enum node_phase)take_byte(in, 2);
		break;
	case COMMAND_SESSION_EXPIRE:
		c->session_expire.before_ms = take_byte(in, 2) * UINT64_MAX;
		break;
	case COMMAND_VM_UPDATE:
		fill_update(c, in);
		break;
	case COMMAND_VM_UPDATE_DUE:
		c->vm_update_due.uid = some_uid(s, in);
		if (state_vm_uid(s, c->vm_update_due.uid) != NULL)
			c->vm_update_due.operation =
				state_vm_uid(s, c->vm_update_due.uid)->update.operation;
		break;
	case COMMAND_GENERATION_DROP:
		c->generation_drop.uid = some_uid(s, in);
		c->generation_drop.number = take_byte(in, 4);
		break;
	case COMMAND_VM_SET:
		fill_set(c, in);
		break;
	default:
		fill_members(c, s, in);
		break;
	}
}

static void apply_one(struct state *s, struct input *in)
{
	static const char *const principals[] = {"", "uid:0", "node:1", "node:2"};
	struct command_result result;
	struct command command;

	command_init(&command, (enum command_kind)(1 + take_byte(in, COMMAND_KIND_COUNT - 1)));
	xreplace(&command.principal, principals[take_byte(in, array_size(principals))]);
	if (take_byte(in, 8) == 0) {
		command.session = 1 + take_byte(in, 2);
		command.request = 1 + take_byte(in, 3);
	}
	fill(&command, s, in);
	state_begin(s, 7, 1700000000000);
	state_apply(s, &command, &result);
	command_done(&command);
}

/* What was counted along the way is what a reader of the snapshot counts. */
static void check(const struct state *s)
{
	struct state *copy = state_new();
	struct buf bytes;

	buf_init(&bytes, LIMIT_SNAPSHOT);
	assert(state_encode(s, &bytes, NULL) == 0);
	assert(state_decode(copy, (const uint8_t *)bytes.data, bytes.len, NULL) == 0);
	assert(state_hash(copy) == state_hash(s));
	assert(memcmp(copy->phases, s->phases, sizeof(s->phases)) == 0);
	assert(copy->updates == s->updates && copy->generations == s->generations);
	assert(copy->n_locks == s->n_locks);
	assert(audit_holds(&s->audit));
	for (size_t i = 0; i < s->n_locks; i++)
		assert(copy->locks[i]->users == s->locks[i]->users);
	for (size_t i = 0; i < s->n_nodes; i++) {
		assert(copy->nodes[i]->committed_bytes == s->nodes[i]->committed_bytes);
		assert(copy->nodes[i]->committed_cpus == s->nodes[i]->committed_cpus);
		assert(copy->nodes[i]->vms == s->nodes[i]->vms);
	}
	buf_done(&bytes);
	state_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = {data, n < 600 ? n : 600};
	struct state *s = state_new();

	while (in.n > 0)
		apply_one(s, &in);
	check(s);
	state_free(s);
	return 0;
}
