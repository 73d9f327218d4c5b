/* Which servers vote: the next change of the log's configuration, if any, from what the state wants
 * and what the leader sees. Pure: the same picture gives the same answer, so a new leader goes on
 * where the last one was.
 *
 * As many healthy servers as the cluster wants are voters (1, 3, 5 or 7), spread over zones; all
 * others are standbys, which have the log and no vote. The number of voters is odd: a second server
 * becomes one together with a third. It is even only for as long as a voter is missing that nobody
 * can replace, since what is committed then is still on two disks.
 *
 * One change at a time, in the order that never gives up more than it must: new members first, then
 * new voters, then votes that are taken away, then removals. A leader that is to lose its vote
 * hands over first, and the next leader goes on. docs/decisions/026-*.md says why.
 */
#ifndef BLIX_CORE_MEMBERSHIP_H
#define BLIX_CORE_MEMBERSHIP_H

#include "core/state.h"

enum membership_role { MEMBERSHIP_SPARE, MEMBERSHIP_STANDBY, MEMBERSHIP_VOTER };

/* A member of the log's configuration, as the leader sees it. */
struct membership_member {
	uint64_t id;
	enum membership_role role;
	bool lost; /* not heard of for so long that another shall have its vote */
	bool live; /* heard of right now, and no change of it failed a moment ago */
};

struct membership_view {
	uint64_t self; /* the leader */
	const struct membership_member *members;
	size_t n;
};

enum membership_kind {
	MEMBERSHIP_NONE,
	MEMBERSHIP_ADD,      /* as a spare, at the state's address of its consensus (facts.raft) */
	MEMBERSHIP_TO_VOTER, /* a standby becomes a voter */
	MEMBERSHIP_TO_STANDBY, /* a voter or spare becomes a standby */
	MEMBERSHIP_REMOVE,
	MEMBERSHIP_TRANSFER, /* lead no longer: `id` shall */
};

struct membership_change {
	enum membership_kind kind;
	uint64_t id;
};

/* MEMBERSHIP_NONE when all is as it should be, or nothing can be done about it now. */
struct membership_change membership_next(const struct state *state,
                                         const struct membership_view *view);

#endif
