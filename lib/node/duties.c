/* The duties of this server: as the leader, the rounds of core/leader and the changes of the log's
 * members; as a node, telling the cluster what it is. Both only turn loop events into steps,
 * proposals and changes. */
#include "node/book.h"

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/log.h"

#include <inttypes.h>
#include <stdio.h>

uint64_t duties_grace_ms(const struct config *config)
{
	uint64_t grace = 3ULL * config->election_timeout_ms;

	return grace < 1000 ? 1000 : grace;
}

static void step(struct daemon *d, const struct leader_event *event);

/* The commands of one round; the machine hears of it when the last was answered. A round that a
 * change of role has overtaken ends unheard. */
struct round {
	struct daemon *daemon;
	size_t open;
	bool failed;
};

static void round_answered(void *data, int status, const struct command_result *result)
{
	struct round *round = data;
	struct daemon *d = round->daemon;
	bool current = d->round == round;
	bool failed;

	(void)result; /* a refusal means that the state moved on: the next round looks again */
	round->failed = round->failed || status < 0;
	if (--round->open > 0)
		return;
	failed = round->failed;
	free(round);
	if (!current)
		return;
	d->round = NULL;
	if (!d->closing)
		step(d, &(struct leader_event){.kind = failed ? LEADER_FAILED : LEADER_SETTLED});
}

static enum membership_role role_of(enum consensus_vote vote)
{
	if (vote == CONSENSUS_VOTER)
		return MEMBERSHIP_VOTER;
	return vote == CONSENSUS_STANDBY ? MEMBERSHIP_STANDBY : MEMBERSHIP_SPARE;
}

/* The log's members as they are now; none where they are the configuration's. */
static size_t members_now(const struct daemon *d, struct leader_member ret[LIMIT_SERVERS])
{
	struct consensus_peer peers[LIMIT_SERVERS];
	size_t n;

	if (d->config->identity == NULL)
		return 0;
	n = consensus_members(d->consensus, peers, LIMIT_SERVERS);
	n = n < LIMIT_SERVERS ? n : LIMIT_SERVERS;
	for (size_t i = 0; i < n; i++) {
		uint64_t age = peers[i].seen ? peers[i].seen_ms_ago : UINT64_MAX;

		ret[i] = (struct leader_member){.id = peers[i].id,
		                                .role = role_of(peers[i].vote),
		                                .age_ms = peers[i].id == d->config->id ? 0 : age};
	}
	return n;
}

static void step_with_members(struct daemon *d, struct leader_event *event)
{
	struct leader_member members[LIMIT_SERVERS];

	event->self = d->config->id;
	event->members = members;
	event->n_members = members_now(d, members);
	step(d, event);
}

/* One change of the log's members; one that a change of role has overtaken ends unheard. */
struct member_change {
	struct daemon *daemon;
	struct membership_change what;
};

static const char *change_name(enum membership_kind kind)
{
	static const char *const names[] = {
		[MEMBERSHIP_NONE] = "none",      [MEMBERSHIP_ADD] = "add",
		[MEMBERSHIP_TO_VOTER] = "voter", [MEMBERSHIP_TO_STANDBY] = "standby",
		[MEMBERSHIP_REMOVE] = "remove",  [MEMBERSHIP_TRANSFER] = "transfer",
	};

	return names[kind];
}

static void change_done(void *data, int status)
{
	struct member_change *change = data;
	struct daemon *d = change->daemon;
	struct membership_change what = change->what;
	bool current = d->change == change;

	free(change);
	log_event(status < 0 ? LOG_WARNING : LOG_NOTICE, "raft.member",
	          "node=%s change=%s id=%" PRIu64 " outcome=%s", d->config->name,
	          change_name(what.kind), what.id,
	          status < 0 ? blix_code_info((enum blix_code) - status)->slug : "done");
	if (!current)
		return;
	d->change = NULL;
	if (!d->closing)
		step_with_members(d,
		                  &(struct leader_event){.kind = status < 0 ? LEADER_MEMBER_FAILED
		                                                            : LEADER_MEMBER_DONE});
}

static void change_members(struct daemon *d, struct membership_change what)
{
	static const enum consensus_change_kind kinds[] = {
		[MEMBERSHIP_ADD] = CONSENSUS_ADD,
		[MEMBERSHIP_TO_VOTER] = CONSENSUS_TO_VOTER,
		[MEMBERSHIP_TO_STANDBY] = CONSENSUS_TO_STANDBY,
		[MEMBERSHIP_REMOVE] = CONSENSUS_REMOVE,
	};
	struct member_change *change;

	if (what.kind == MEMBERSHIP_NONE)
		return;
	change = xcalloc(1, sizeof(*change));
	*change = (struct member_change){.daemon = d, .what = what};
	d->change = change;
	if (what.kind == MEMBERSHIP_TRANSFER)
		consensus_transfer(d->consensus, what.id, change_done, change);
	else
		consensus_change(d->consensus,
		                 &(struct consensus_change){.kind = kinds[what.kind],
		                                            .id = what.id,
		                                            .address = book_raft(d, what.id)},
		                 change_done, change);
}

static void step(struct daemon *d, const struct leader_event *event)
{
	struct round *round;

	leader_step(&d->leader, d->state, event, clock_boot_ms(), d->actions);
	change_members(d, d->actions->change);
	if (d->actions->n == 0)
		return;
	round = xcalloc(1, sizeof(*round));
	*round = (struct round){.daemon = d, .open = d->actions->n};
	d->round = round;
	for (size_t i = 0; i < d->actions->n; i++) {
		daemon_propose(d, &d->actions->commands[i], round_answered, round);
		command_done(&d->actions->commands[i]);
	}
}

static void registered(void *data, int status, const struct command_result *result)
{
	struct daemon *d = data;

	d->registering = false;
	if (status == 0 && result->code != BLIX_OK) {
		struct blix_error err;

		(void)refusal_error(result, "this node", &err);
		log_error(LOG_ERR, "node.refused", &err, "node=%s", d->config->name);
	}
}

/* Proposes this node's facts when the state does not have them. */
static void register_node(struct daemon *d)
{
	const struct node *node = state_node(d->state, d->config->id);
	struct command command;

	/* A member is made by its joining, and may not have heard of that yet. */
	if (d->registering || d->closing || d->leader_id == 0 ||
	    (d->config->identity != NULL && node == NULL) ||
	    (node != NULL && strcmp(node->name, d->config->name) == 0 &&
	     node_facts_equal(&node->facts, &d->facts)))
		return;
	d->registering = true;
	command_init(&command, COMMAND_NODE_REPORT);
	command.node_report.id = d->config->id;
	(void)snprintf(command.node_report.name, sizeof(command.node_report.name), "%s",
	               d->config->name);
	node_facts_done(&command.node_report.facts);
	node_facts_copy(&command.node_report.facts, &d->facts);
	daemon_propose(d, &command, registered, d);
	command_done(&command);
}

void duties_tick(struct daemon *d)
{
	struct leader_peer peers[LIMIT_SERVERS];
	uint64_t ids[LIMIT_SERVERS];
	size_t n;

	register_node(d);
	membership_tick(d);
	if (d->role != CONSENSUS_LEADER)
		return;
	n = daemon_servers(d, ids, LIMIT_SERVERS);
	n = n < LIMIT_SERVERS ? n : LIMIT_SERVERS;
	for (size_t i = 0; i < n; i++) {
		uint64_t age = 0;

		if (ids[i] != d->config->id && !consensus_peer_seen(d->consensus, ids[i], &age))
			age = UINT64_MAX;
		peers[i] = (struct leader_peer){.id = ids[i], .age_ms = age};
	}
	step_with_members(
		d, &(struct leader_event){.kind = LEADER_TICK, .peers = peers, .n_peers = n});
}

void duties_changed(struct daemon *d)
{
	membership_changed(d);
	if (d->role == CONSENSUS_LEADER)
		step(d, &(struct leader_event){.kind = LEADER_CHANGED});
}

void duties_role(struct daemon *d)
{
	bool leading = d->role == CONSENSUS_LEADER;

	if (leading != d->leader.leading) {
		d->round = NULL;
		d->change = NULL;
		step(d, &(struct leader_event){.kind = leading ? LEADER_ELECTED : LEADER_DEPOSED});
	}
	register_node(d);
}

bool daemon_is_current(const struct daemon *d, uint64_t *ret_age_ms)
{
	uint64_t age = 0;

	*ret_age_ms = 0;
	if (d->role == CONSENSUS_LEADER)
		return true;
	if (d->leader_id == 0) {
		*ret_age_ms = clock_boot_ms() - d->leader_lost_ms;
		return false;
	}
	if (!consensus_peer_seen(d->consensus, d->leader_id, &age)) {
		*ret_age_ms = clock_boot_ms() - d->leader_lost_ms;
		return false;
	}
	*ret_age_ms = age;
	return age <= d->config->election_timeout_ms;
}
