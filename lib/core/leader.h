/* What only the leader does, as a step machine: it reads the state and proposes the next decisions.
 *
 * leader_step(machine, state, event, now) -> commands. One round of commands is under way at a
 * time: the caller proposes them all and feeds LEADER_SETTLED when each was answered, whatever the
 * answer; a decision that lost a race is refused by apply and simply made again. Nothing is
 * remembered that a new leader would miss.
 */
#ifndef BLIX_CORE_LEADER_H
#define BLIX_CORE_LEADER_H

#include "core/state.h"

#define LEADER_ROUND 256 /* commands in one round: keeps a turn of the loop short */

enum leader_event_kind {
	LEADER_ELECTED,
	LEADER_DEPOSED,
	LEADER_CHANGED, /* the state changed */
	LEADER_SETTLED, /* every command of the last round was answered */
	LEADER_FAILED,  /* the same, but some could not be proposed: rest until the next tick */
	LEADER_TICK,    /* `peers` says who was heard; about twice per grace period */
};

struct leader_peer {
	uint64_t id;
	uint64_t age_ms; /* since it was last heard of */
};

struct leader_event {
	enum leader_event_kind kind;
	const struct leader_peer *peers;
	size_t n_peers;
};

struct leader {
	bool leading;
	bool waiting;        /* a round is under way */
	bool again;          /* something changed meanwhile */
	uint64_t grace_ms;   /* a node not heard of for so long is Offline */
	uint64_t expired_ms; /* now of the last session sweep */
};

struct leader_actions {
	struct command commands[LEADER_ROUND]; /* the caller's: command_done each */
	size_t n;
};

void leader_init(struct leader *leader, uint64_t grace_ms);
void leader_step(struct leader *leader, const struct state *state, const struct leader_event *event,
                 uint64_t now_ms, struct leader_actions *ret);

#endif
