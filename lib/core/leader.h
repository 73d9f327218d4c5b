/* What only the leader does, as a step machine: it reads the state and proposes the next decisions.
 *
 * leader_step(machine, state, event, now) -> commands. One round of commands is under way at a
 * time: the caller proposes them all and feeds LEADER_SETTLED when each was answered, whatever the
 * answer; a decision that lost a race is refused by apply and simply made again. Nothing is
 * remembered that a new leader would miss.
 *
 * Beside the commands there is at most one change of the log's members under way: actions.change,
 * which the caller has the consensus make, and answers by LEADER_MEMBER_DONE or _FAILED.
 */
#ifndef BLIX_CORE_LEADER_H
#define BLIX_CORE_LEADER_H

#include "core/membership.h"
#include "core/state.h"

#define LEADER_ROUND 256 /* commands in one round: keeps a turn of the loop short */

enum leader_event_kind {
	LEADER_ELECTED,
	LEADER_DEPOSED,
	LEADER_CHANGED, /* the state changed */
	LEADER_SETTLED, /* every command of the last round was answered */
	LEADER_FAILED,  /* the same, but some could not be proposed: rest until the next tick */
	LEADER_TICK,    /* `peers` says who was heard; about twice per grace period */
	LEADER_MEMBER_DONE,
	LEADER_MEMBER_FAILED, /* or its outcome is unknown: the next picture tells */
};

#define LEADER_VOTER_LOST_MS 300000 /* silence after which another gets a voter's vote */

struct leader_peer {
	uint64_t id;
	uint64_t age_ms; /* since it was last heard of */
};

/* A member of the log's configuration. */
struct leader_member {
	uint64_t id;
	enum membership_role role;
	uint64_t
		age_ms; /* since it was last heard of; UINT64_MAX: never; 0 for the leader itself */
};

struct leader_event {
	enum leader_event_kind kind;
	const struct leader_peer *peers; /* every node that may be heard of */
	size_t n_peers;
	/* As they are now, with a tick, DONE and FAILED; none: the members are none of the
	 * machine's business. */
	const struct leader_member *members;
	size_t n_members;
	uint64_t self;
};

struct leader {
	bool leading;
	bool waiting;             /* a round is under way */
	bool again;               /* something changed meanwhile */
	uint64_t grace_ms;        /* a node not heard of for so long is Offline */
	uint64_t expired_ms;      /* now of the last session sweep */
	uint64_t keep, keep_ms;   /* generations: how many, how old; 0: no bound */
	uint64_t kept;            /* how many there were at the last sweep */
	uint64_t kept_ms;         /* and its time */
	uint64_t clock_ms, at_ms; /* the cluster's clock as it last moved, and now then */
	uint64_t voter_lost_ms;   /* LEADER_VOTER_LOST_MS; may be set after leader_init */
	uint64_t elected_ms;
	struct membership_change change; /* under way */
	uint64_t failed_id, failed_ms;   /* the last change that failed was of this member, */
	uint64_t rest_ms;                /* which rests for as long */
};

struct leader_actions {
	struct command commands[LEADER_ROUND]; /* the caller's: command_done each */
	size_t n;
	struct membership_change change; /* MEMBERSHIP_NONE: none */
};

/* Of generations that are not in use, the newest `keep` stay, none older than keep_ms. */
void leader_init(struct leader *leader, uint64_t grace_ms, uint64_t keep, uint64_t keep_ms);
void leader_step(struct leader *leader, const struct state *state, const struct leader_event *event,
                 uint64_t now_ms, struct leader_actions *ret);

#endif
