/* The leader's duties: see leader.h. */
#include "core/leader.h"

#include "base/alloc.h"
#include "core/generation.h"
#include "core/place.h"

#include <string.h>

#define SESSION_SWEEP_MS    60000
#define MEMBER_REST_MS      60000   /* after a change failed, for the member that it was about */
#define GENERATION_SWEEP_MS 3600000 /* for age; their number is watched all the time */

void leader_init(struct leader *leader, uint64_t grace_ms, uint64_t keep, uint64_t keep_ms)
{
	memset(leader, 0, sizeof(*leader));
	leader->grace_ms = grace_ms;
	leader->keep = keep;
	leader->keep_ms = keep_ms;
	leader->voter_lost_ms = LEADER_VOTER_LOST_MS;
}

static struct command *add(struct leader_actions *actions, enum command_kind kind)
{
	struct command *command = &actions->commands[actions->n++];

	command_init(command, kind);
	return command;
}

/* Resolving is spread over the nodes that answer, by uid, so that no one node locks every flake. */
static const struct node *resolver_for(const struct state *state, const struct vm *vm)
{
	const struct node *wanted = state_node_named(state, vm->spec.node);
	const struct node *home = state_node(state, vm->node);
	size_t ready = 0, pick;

	/* The next system of a VM is looked at where it runs: what it is made of is there. So is
	 * what was there before it. */
	if ((vm->update.step == UPDATE_RESOLVE || vm->adopt != 0) && home != NULL &&
	    node_is_up(home))
		return home;

	if (wanted != NULL)
		return node_is_up(wanted) ? wanted : NULL;
	for (size_t i = 0; i < state->n_nodes; i++)
		ready += node_takes_work(state->nodes[i]);
	if (ready == 0)
		return NULL;
	pick = vm->uid % ready;
	for (size_t i = 0; i < state->n_nodes; i++) {
		if (node_takes_work(state->nodes[i]) && pick-- == 0)
			return state->nodes[i];
	}
	return NULL;
}

static void decide_resolver(const struct state *state, const struct vm *vm,
                            struct leader_actions *actions)
{
	const struct node *now = state_node(state, vm->resolver), *node;
	struct command *command;

	if ((vm->phase == VM_RESOLVING || vm->update.step == UPDATE_RESOLVE) && now != NULL &&
	    node_is_up(now))
		return;
	node = resolver_for(state, vm);
	if (node == NULL)
		return;
	command = add(actions, COMMAND_VM_RESOLVE);
	command->vm_resolve.uid = vm->uid;
	command->vm_resolve.node = node->id;
}

static void decide_place(const struct state *state, const struct vm *vm,
                         struct leader_actions *actions)
{
	const struct node *node = place(state, vm);
	char why[LIMIT_MESSAGE + 1];
	struct command *command;

	if (node != NULL) {
		command = add(actions, COMMAND_VM_ASSIGN);
		command->vm_assign.uid = vm->uid;
		command->vm_assign.node = node->id;
		command->vm_assign.epoch = vm->epoch;
		return;
	}
	place_explain(state, vm, why, sizeof(why));
	if (vm->code == BLIX_E_NOROOM && strcmp(vm->message, why) == 0)
		return;
	command = add(actions, COMMAND_VM_VERDICT);
	command->vm_verdict.uid = vm->uid;
	xreplace(&command->vm_verdict.reason, "unplaceable");
	xreplace(&command->vm_verdict.message, why);
}

/* reconcile_cluster: every VM that waits for a decision gets one. */
static void reconcile_cluster(const struct state *state, struct leader_actions *actions)
{
	if (state->phases[VM_PENDING] + state->phases[VM_RESOLVING] == 0)
		return;
	for (size_t i = 0; i < state->n_vms && actions->n < LEADER_ROUND; i++) {
		const struct vm *vm = state->by_uid[i]; /* oldest first */

		if (vm->phase != VM_PENDING && vm->phase != VM_RESOLVING)
			continue;
		if (vm->resolved_set)
			decide_place(state, vm, actions);
		else
			decide_resolver(state, vm, actions);
	}
}

static void decide_due(const struct leader *leader, const struct vm *vm, uint64_t now_ms,
                       struct leader_actions *actions)
{
	uint64_t due_ms = update_due_ms(vm);
	struct command *command;

	if (due_ms == 0 || leader->clock_ms + (now_ms - leader->at_ms) < due_ms)
		return;
	command = add(actions, COMMAND_VM_UPDATE_DUE);
	command->vm_update_due.uid = vm->uid;
	command->vm_update_due.operation = vm->update.operation;
}

/* Systems that are being changed: who looks at them, and trials whose time has come. */
static void drive_updates(const struct leader *leader, const struct state *state, uint64_t now_ms,
                          struct leader_actions *actions)
{
	uint64_t left = state->updates;

	for (size_t i = 0; i < state->n_vms && left > 0 && actions->n < LEADER_ROUND; i++) {
		const struct vm *vm = state->by_uid[i];

		if (vm->update.step == UPDATE_IDLE)
			continue;
		left--;
		if (vm->update.step == UPDATE_RESOLVE && vm->phase != VM_DELETING)
			decide_resolver(state, vm, actions);
		else
			decide_due(leader, vm, now_ms, actions);
	}
}

/* One of a VM at a time: dropping it changes their number, which brings the next sweep. */
static void drop_generations(struct leader *leader, const struct state *state, uint64_t now_ms,
                             struct leader_actions *actions)
{
	uint64_t clock_ms;

	if (leader->kept == state->generations && now_ms - leader->kept_ms < GENERATION_SWEEP_MS)
		return;
	clock_ms = leader->clock_ms + (now_ms - leader->at_ms);
	leader->kept = state->generations;
	leader->kept_ms = now_ms;
	for (size_t i = 0; i < state->n_vms && actions->n < LEADER_ROUND; i++) {
		const struct vm *vm = state->by_uid[i];
		uint64_t number = generation_victim(vm, leader->keep, leader->keep_ms, clock_ms);
		struct command *command;

		if (number == 0 || vm->phase == VM_DELETING)
			continue;
		command = add(actions, COMMAND_GENERATION_DROP);
		command->generation_drop.uid = vm->uid;
		command->generation_drop.number = number;
	}
}

static void judge_nodes(const struct leader *leader, const struct state *state,
                        const struct leader_event *event, struct leader_actions *actions)
{
	for (size_t i = 0; i < event->n_peers && actions->n < LEADER_ROUND; i++) {
		const struct node *node = state_node(state, event->peers[i].id);
		bool heard = event->peers[i].age_ms <= leader->grace_ms;
		struct command *command;

		if (node == NULL || node->phase == NODE_JOINING || node_is_up(node) == heard)
			continue;
		command = add(actions, COMMAND_NODE_PHASE);
		command->node_phase.id = node->id;
		command->node_phase.phase = heard ? NODE_READY : NODE_OFFLINE;
	}
}

static bool all_known(const struct state *state, const struct leader_event *event)
{
	bool known = state->n_nodes > 0;

	for (size_t i = 0; i < event->n_peers; i++)
		known = known && state_node(state, event->peers[i].id) != NULL;
	for (size_t i = 0; i < event->n_members; i++)
		known = known && state_node(state, event->members[i].id) != NULL;
	return known;
}

/* What every server's binary knows may be used from now on. */
static void raise_level(const struct state *state, const struct leader_event *event,
                        struct leader_actions *actions)
{
	uint32_t level = FEATURE_LEVEL;

	for (size_t i = 0; i < state->n_nodes; i++) {
		const struct node *node = state->nodes[i];

		if (node->role == NODE_SERVER && node->facts.features < level)
			level = node->facts.features;
	}
	if (level <= state->members.cluster.level || actions->n == LEADER_ROUND ||
	    !all_known(state, event))
		return;
	add(actions, COMMAND_FEATURE_LEVEL)->feature_level.level = level;
}

static void sweep_tokens(const struct leader *leader, const struct state *state, uint64_t now_ms,
                         struct leader_actions *actions)
{
	const struct members *members = &state->members;
	uint64_t clock_ms = leader->clock_ms + (now_ms - leader->at_ms);

	for (size_t i = 0; i < members->n_tokens && actions->n < LEADER_ROUND; i++) {
		if (members->tokens[i].expires_ms <= clock_ms)
			add(actions, COMMAND_TOKEN_EXPIRE)->token_expire.uid =
				members->tokens[i].uid;
	}
}

static bool is_member(const struct leader_event *event, uint64_t id)
{
	for (size_t i = 0; i < event->n_members; i++) {
		if (event->members[i].id == id)
			return true;
	}
	return false;
}

/* Servers that were to go and are out of the log. */
static void bury_nodes(const struct state *state, const struct leader_event *event,
                       struct leader_actions *actions)
{
	for (size_t i = 0; i < state->n_nodes && actions->n < LEADER_ROUND; i++) {
		const struct node *node = state->nodes[i];

		if (event->n_members > 0 && node->leaving && !is_member(event, node->id))
			add(actions, COMMAND_NODE_LEFT)->node_left.id = node->id;
	}
}

/* Silence counts from when this server began to listen as the leader. */
static struct membership_member seen_as(const struct leader *leader,
                                        const struct leader_member *member, uint64_t now_ms)
{
	uint64_t leading_ms = now_ms - leader->elected_ms;
	uint64_t age_ms = member->age_ms < leading_ms ? member->age_ms : leading_ms;
	bool rests =
		member->id == leader->failed_id && now_ms - leader->failed_ms < leader->rest_ms;

	return (struct membership_member){
		.id = member->id,
		.role = member->role,
		.lost = age_ms > leader->voter_lost_ms,
		.live = member->age_ms <= leader->grace_ms && !rests,
	};
}

static void change_members(struct leader *leader, const struct state *state,
                           const struct leader_event *event, uint64_t now_ms,
                           struct leader_actions *actions)
{
	struct membership_member members[LIMIT_SERVERS];
	struct membership_view view = {.self = event->self, .members = members};

	if (event->n_members == 0 || !state_is_managed(state) ||
	    leader->change.kind != MEMBERSHIP_NONE)
		return;
	for (; view.n < event->n_members && view.n < LIMIT_SERVERS; view.n++)
		members[view.n] = seen_as(leader, &event->members[view.n], now_ms);
	actions->change = leader->change = membership_next(state, &view);
}

static void member_answered(struct leader *leader, bool failed, uint64_t now_ms)
{
	if (failed) {
		leader->failed_id = leader->change.id;
		leader->failed_ms = now_ms;
		/* One that was only too slow to take over is soon asked again. */
		leader->rest_ms = leader->change.kind == MEMBERSHIP_TRANSFER ? leader->grace_ms
		                                                             : MEMBER_REST_MS;
	}
	leader->change = (struct membership_change){MEMBERSHIP_NONE, 0};
}

static void sweep_sessions(struct leader *leader, const struct state *state, uint64_t now_ms,
                           struct leader_actions *actions)
{
	uint64_t before;

	if (now_ms - leader->expired_ms < SESSION_SWEEP_MS || actions->n == LEADER_ROUND)
		return;
	leader->expired_ms = now_ms;
	before = state->clock_ms > LIMIT_SESSION_IDLE ? state->clock_ms - LIMIT_SESSION_IDLE : 0;
	for (size_t i = 0; i < state->n_sessions; i++) {
		if (state->sessions[i]->used_ms >= before)
			continue;
		add(actions, COMMAND_SESSION_EXPIRE)->session_expire.before_ms = before;
		return;
	}
}

void leader_step(struct leader *leader, const struct state *state, const struct leader_event *event,
                 uint64_t now_ms, struct leader_actions *ret)
{
	ret->n = 0;
	ret->change = (struct membership_change){MEMBERSHIP_NONE, 0};
	if (leader->clock_ms != state->clock_ms) {
		leader->clock_ms = state->clock_ms;
		leader->at_ms = now_ms;
	}
	if (event->kind == LEADER_ELECTED || event->kind == LEADER_DEPOSED) {
		leader->leading = event->kind == LEADER_ELECTED;
		leader->waiting = false;
		leader->expired_ms = now_ms;
		leader->kept = UINT64_MAX;
		leader->elected_ms = now_ms;
		leader->failed_id = 0;
		leader->change = (struct membership_change){MEMBERSHIP_NONE, 0};
	}
	if (event->kind == LEADER_MEMBER_DONE || event->kind == LEADER_MEMBER_FAILED)
		member_answered(leader, event->kind == LEADER_MEMBER_FAILED, now_ms);
	if (event->kind == LEADER_SETTLED || event->kind == LEADER_FAILED)
		leader->waiting = false;
	if (leader->leading)
		change_members(leader, state, event, now_ms, ret);
	if (!leader->leading || leader->waiting || event->kind == LEADER_FAILED)
		return;
	if (event->kind == LEADER_TICK) {
		judge_nodes(leader, state, event, ret);
		sweep_sessions(leader, state, now_ms, ret);
		sweep_tokens(leader, state, now_ms, ret);
		raise_level(state, event, ret);
		bury_nodes(state, event, ret);
	}
	reconcile_cluster(state, ret);
	drive_updates(leader, state, now_ms, ret);
	drop_generations(leader, state, now_ms, ret);
	leader->waiting = ret->n > 0;
}
