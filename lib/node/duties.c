/* The duties of this server: as the leader, the rounds of core/leader; as a node, telling the
 * cluster what it is. Both only turn loop events into steps and proposals. */
#include "node/daemon_internal.h"

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/log.h"

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

static void step(struct daemon *d, const struct leader_event *event)
{
	struct round *round;

	leader_step(&d->leader, d->state, event, clock_boot_ms(), d->actions);
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

	if (d->registering || d->closing || d->leader_id == 0 ||
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
	struct leader_peer peers[8];
	size_t n = 0;

	register_node(d);
	if (d->role != CONSENSUS_LEADER)
		return;
	for (size_t i = 0; i < d->config->n_servers && n < array_size(peers); i++) {
		uint64_t id = d->config->servers[i].id, age = 0;

		if (id != d->config->id && !consensus_peer_seen(d->consensus, id, &age))
			age = UINT64_MAX;
		peers[n++] = (struct leader_peer){.id = id, .age_ms = age};
	}
	step(d, &(struct leader_event){.kind = LEADER_TICK, .peers = peers, .n_peers = n});
}

void duties_changed(struct daemon *d)
{
	if (d->role == CONSENSUS_LEADER)
		step(d, &(struct leader_event){.kind = LEADER_CHANGED});
}

void duties_role(struct daemon *d)
{
	bool leading = d->role == CONSENSUS_LEADER;

	if (leading != d->leader.leading) {
		d->round = NULL;
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
