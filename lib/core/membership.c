/* Ranks servers, picks voters by rank, and compares with what is: see membership.h. */
#include "core/membership.h"

#include <assert.h>
#include <string.h>

/* Who should have a vote, the best first. */
enum rank {
	RANK_GOOD,    /* healthy */
	RANK_AWAY,    /* lost for long, or in maintenance: only if it votes already and must stay */
	RANK_REFUSED, /* a person wants it as a standby */
	RANK_GOING,   /* leaving, denied, or unknown to the state */
	RANK_NEVER    /* it has no vote now, and is none of the good ones */
};

struct candidate {
	const struct membership_member *member;
	const struct node *node; /* NULL: unknown to the state */
	enum rank rank;
	bool going;  /* out of the log */
	bool voter;  /* now */
	bool chosen; /* wanted as one */
};

/* Members of the log are servers: their number is bounded by who may join. */
struct candidates {
	struct candidate items[LIMIT_SERVERS];
	size_t n;
};

static bool is_going(const struct state *state, const struct node *node)
{
	return node == NULL || node->leaving || state_denied(state, node->id, node->serial);
}

static enum rank rank_of(const struct state *state, const struct membership_member *member,
                         const struct node *node)
{
	bool voter = member->role == MEMBERSHIP_VOTER;
	enum rank rank = RANK_GOOD;

	if (is_going(state, node))
		rank = RANK_GOING;
	else if (node->vote == NODE_VOTE_STANDBY)
		rank = RANK_REFUSED;
	else if (member->lost || node->maintenance || (!voter && !member->live))
		rank = RANK_AWAY;
	return rank == RANK_GOOD || voter ? rank : RANK_NEVER;
}

static void collect(const struct state *state, const struct membership_view *view,
                    struct candidates *ret)
{
	ret->n = 0;
	for (size_t i = 0; i < view->n && ret->n < LIMIT_SERVERS; i++) {
		const struct membership_member *member = &view->members[i];
		const struct node *node = state_node(state, member->id);

		ret->items[ret->n++] = (struct candidate){
			.member = member,
			.node = node,
			.rank = rank_of(state, member, node),
			.going = is_going(state, node),
			.voter = member->role == MEMBERSHIP_VOTER,
		};
	}
}

/* How many voters there should be. */
static size_t wanted(const struct state *state, const struct candidates *c)
{
	size_t good = 0, kept = 0, n;

	for (size_t i = 0; i < c->n; i++) {
		good += c->items[i].rank == RANK_GOOD;
		kept += c->items[i].voter && c->items[i].rank <= RANK_AWAY;
	}
	n = good > 0 ? good - (good + 1) % 2 : 0; /* odd */
	n = n > kept ? n : kept;
	n = n < state->members.cluster.voters ? n : state->members.cluster.voters;
	return n > 0 ? n : 1;
}

static size_t in_zone(const struct candidates *c, const char *zone)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n; i++)
		n += c->items[i].chosen && c->items[i].node != NULL &&
		     strcmp(c->items[i].node->zone, zone) == 0;
	return n;
}

/* Smaller is better, the first number that differs decides. */
static void weigh(const struct candidates *c, const struct candidate *one, uint64_t self,
                  uint64_t ret[6])
{
	const struct node *node = one->node;

	ret[0] = one->rank;
	ret[1] = node == NULL || node->vote != NODE_VOTE_VOTER;
	ret[2] = node != NULL ? in_zone(c, node->zone) : 0;
	ret[3] = !one->voter; /* change no more than needed */
	ret[4] = one->member->id != self;
	ret[5] = one->member->id;
}

static bool is_lighter(const uint64_t a[6], const uint64_t b[6])
{
	for (size_t i = 0; i < 6; i++) {
		if (a[i] != b[i])
			return a[i] < b[i];
	}
	return false;
}

static void choose(const struct state *state, const struct membership_view *view,
                   struct candidates *c)
{
	size_t left = wanted(state, c);

	for (; left > 0; left--) {
		struct candidate *best = NULL;
		uint64_t best_weight[6] = {0}, weight[6];

		for (size_t i = 0; i < c->n; i++) {
			struct candidate *one = &c->items[i];

			if (one->chosen || one->rank == RANK_NEVER)
				continue;
			weigh(c, one, view->self, weight);
			if (best != NULL && !is_lighter(weight, best_weight))
				continue;
			best = one;
			memcpy(best_weight, weight, sizeof(weight));
		}
		if (best == NULL)
			return;
		best->chosen = true;
	}
}

static const struct membership_member *find(const struct membership_view *view, uint64_t id)
{
	for (size_t i = 0; i < view->n; i++) {
		if (view->members[i].id == id)
			return &view->members[i];
	}
	return NULL;
}

/* A server that the log does not have yet. */
static uint64_t newcomer(const struct state *state, const struct membership_view *view)
{
	for (size_t i = 0; i < state->n_nodes; i++) {
		const struct node *node = state->nodes[i];

		if (node->role == NODE_SERVER && !is_going(state, node) &&
		    node->facts.raft[0] != '\0' && find(view, node->id) == NULL)
			return node->id;
	}
	return 0;
}

/* Whoever is to lead instead: a live voter that stays one. */
static struct membership_change hand_over(const struct candidates *c, uint64_t self)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct candidate *one = &c->items[i];

		if (one->chosen && one->voter && one->member->live && one->member->id != self)
			return (struct membership_change){MEMBERSHIP_TRANSFER, one->member->id};
	}
	return (struct membership_change){MEMBERSHIP_NONE, 0};
}

static struct membership_change change_of(const struct candidate *one)
{
	uint64_t id = one->member->id;

	if (one->chosen && one->member->role == MEMBERSHIP_STANDBY)
		return (struct membership_change){MEMBERSHIP_TO_VOTER, id};
	if (one->going && !one->voter)
		return (struct membership_change){MEMBERSHIP_REMOVE, id};
	if (one->voter ? !one->chosen : one->member->role == MEMBERSHIP_SPARE)
		return (struct membership_change){MEMBERSHIP_TO_STANDBY, id};
	return (struct membership_change){MEMBERSHIP_NONE, 0};
}

/* Without this vote, those that are heard of still decide. */
static bool can_lose(const struct candidates *c, const struct candidate *one)
{
	size_t votes = 0, live = 0;

	for (size_t i = 0; i < c->n; i++) {
		votes += c->items[i].voter && &c->items[i] != one;
		live += c->items[i].voter && &c->items[i] != one && c->items[i].member->live;
	}
	return live * 2 > votes;
}

/* The first member that needs a change of this kind; the leader last. */
static struct membership_change first(const struct candidates *c, enum membership_kind kind,
                                      bool voters, uint64_t self)
{
	struct membership_change own = {MEMBERSHIP_NONE, 0};

	for (size_t i = 0; i < c->n; i++) {
		struct membership_change change = change_of(&c->items[i]);

		if (change.kind != kind || c->items[i].voter != voters ||
		    (voters && !can_lose(c, &c->items[i])))
			continue;
		if (change.id != self)
			return change;
		own = change;
	}
	return own;
}

struct membership_change membership_next(const struct state *state,
                                         const struct membership_view *view)
{
	uint64_t self = view->self, id = newcomer(state, view);
	struct membership_change change = {MEMBERSHIP_ADD, id};
	struct candidates c;

	collect(state, view, &c);
	choose(state, view, &c);
	if (id == 0 || view->n >= LIMIT_SERVERS)
		change = first(&c, MEMBERSHIP_TO_STANDBY, false, self);
	if (change.kind == MEMBERSHIP_NONE)
		change = first(&c, MEMBERSHIP_TO_VOTER, false, self);
	if (change.kind == MEMBERSHIP_NONE)
		change = first(&c, MEMBERSHIP_TO_STANDBY, true, self);
	if (change.kind == MEMBERSHIP_TO_STANDBY && change.id == self)
		change = hand_over(&c, self);
	if (change.kind == MEMBERSHIP_NONE)
		change = first(&c, MEMBERSHIP_REMOVE, false, self);
	return change;
}
