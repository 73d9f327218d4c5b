/* lib/core/membership: who votes. A log of which only the configuration is simulated takes the
 * changes one by one, until there are none: by stories, and by a thousand random clusters. */
#include "base/alloc.h"
#include "core/leader.h"
#include "core/membership.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

struct world {
	struct state *state;
	struct membership_member members[LIMIT_SERVERS];
	size_t n;
	uint64_t self;
};

static struct node *server(struct world *w, uint64_t id, const char *zone)
{
	struct node *node = node_new();
	size_t n = w->state->n_nodes;

	node->id = id;
	(void)snprintf(node->name, sizeof(node->name), "n%" PRIu64, id);
	(void)snprintf(node->zone, sizeof(node->zone), "%s", zone);
	xreplace(&node->facts.raft, "10.0.0.1:7444");
	w->state->nodes = xreallocarray((void *)w->state->nodes, n + 1, sizeof(struct node *));
	while (n > 0 && w->state->nodes[n - 1]->id > id) {
		w->state->nodes[n] = w->state->nodes[n - 1];
		n--;
	}
	w->state->nodes[n] = node;
	w->state->n_nodes++;
	return node;
}

static struct node *node(struct world *w, uint64_t id)
{
	for (size_t i = 0; i < w->state->n_nodes; i++) {
		if (w->state->nodes[i]->id == id)
			return w->state->nodes[i];
	}
	fail_msg("no node %" PRIu64, id);
	abort(); /* which cmocka does not let happen */
}

static struct membership_member *member_or_none(struct world *w, uint64_t id)
{
	for (size_t i = 0; i < w->n; i++) {
		if (w->members[i].id == id)
			return &w->members[i];
	}
	return NULL;
}

static struct membership_member *member(struct world *w, uint64_t id)
{
	struct membership_member *found = member_or_none(w, id);

	if (found == NULL)
		abort();
	return found;
}

static void begin(struct world *w, uint32_t voters)
{
	memset(w, 0, sizeof(*w));
	w->state = state_new();
	(void)snprintf(w->state->members.cluster.id, sizeof(w->state->members.cluster.id), "%032x",
	               1);
	w->state->members.cluster.voters = voters;
	(void)server(w, 1, "a");
	w->members[0] = (struct membership_member){1, MEMBERSHIP_VOTER, false, true};
	w->n = 1;
	w->self = 1;
}

static size_t voters(const struct world *w, bool live)
{
	size_t n = 0;

	for (size_t i = 0; i < w->n; i++)
		n += w->members[i].role == MEMBERSHIP_VOTER && (!live || w->members[i].live);
	return n;
}

static bool has_majority(const struct world *w)
{
	return voters(w, true) * 2 > voters(w, false);
}

/* What a log would not do, or would regret, fails here. */
static struct membership_change step(struct world *w)
{
	const struct membership_view view = {w->self, w->members, w->n};
	struct membership_change change = membership_next(w->state, &view);
	struct membership_member *m = member_or_none(w, change.id);
	bool majority = has_majority(w);

	switch (change.kind) {
	case MEMBERSHIP_NONE:
		break;
	case MEMBERSHIP_ADD:
		assert_null(m);
		assert_true(w->n < LIMIT_SERVERS);
		w->members[w->n++] =
			(struct membership_member){change.id, MEMBERSHIP_SPARE, false, true};
		break;
	case MEMBERSHIP_TO_VOTER:
		assert_int_equal(m->role, MEMBERSHIP_STANDBY);
		assert_true(m->live);
		m->role = MEMBERSHIP_VOTER;
		break;
	case MEMBERSHIP_TO_STANDBY:
		assert_int_not_equal(m->role, MEMBERSHIP_STANDBY);
		assert_true(change.id != w->self); /* a leader hands over first */
		m->role = MEMBERSHIP_STANDBY;
		break;
	case MEMBERSHIP_REMOVE:
		assert_int_not_equal(m->role, MEMBERSHIP_VOTER);
		*m = w->members[--w->n];
		break;
	case MEMBERSHIP_TRANSFER:
		assert_int_equal(m->role, MEMBERSHIP_VOTER);
		assert_true(m->live && change.id != w->self);
		w->self = change.id;
		break;
	}
	assert_true(voters(w, false) > 0);
	assert_true(!majority || has_majority(w));
	return change;
}

/* All changes until there is none; they come to an end. */
static void settle(struct world *w)
{
	for (unsigned i = 0; i < 100; i++) {
		if (step(w).kind == MEMBERSHIP_NONE)
			return;
	}
	fail_msg("it never settles");
}

static bool votes(struct world *w, uint64_t id)
{
	const struct membership_member *m = member(w, id);

	return m != NULL && m->role == MEMBERSHIP_VOTER;
}

static void assert_voters(struct world *w, const uint64_t *ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		assert_true(votes(w, ids[i]));
	assert_int_equal(voters(w, false), n);
}

#define VOTERS(w, ...)                                                                             \
	assert_voters(w, (const uint64_t[]){__VA_ARGS__},                                          \
	              sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/* A second server alone would only be one more that must not fail. */
static void it_grows_by_twos(void **state)
{
	struct world w;
	struct membership_change change;

	(void)state;
	begin(&w, 3);
	settle(&w);
	VOTERS(&w, 1);
	(void)server(&w, 2, "a");
	change = step(&w);
	assert_int_equal(change.kind, MEMBERSHIP_ADD);
	change = step(&w);
	assert_int_equal(change.kind, MEMBERSHIP_TO_STANDBY);
	assert_int_equal(step(&w).kind, MEMBERSHIP_NONE);
	VOTERS(&w, 1);
	(void)server(&w, 3, "a");
	settle(&w);
	VOTERS(&w, 1, 2, 3);
	(void)server(&w, 4, "a");
	(void)server(&w, 5, "a");
	settle(&w);
	VOTERS(&w, 1, 2, 3);
	assert_int_equal(member(&w, 5)->role, MEMBERSHIP_STANDBY);
	w.state->members.cluster.voters = 5;
	settle(&w);
	VOTERS(&w, 1, 2, 3, 4, 5);
	w.state->members.cluster.voters = 1;
	settle(&w);
	VOTERS(&w, 1);
	state_free(w.state);
}

static void they_are_spread_over_zones(void **state)
{
	struct world w;

	(void)state;
	begin(&w, 3);
	for (uint64_t id = 2; id <= 4; id++)
		(void)server(&w, id, "a");
	settle(&w);
	VOTERS(&w, 1, 2, 3);
	(void)server(&w, 5, "b");
	settle(&w);
	VOTERS(&w, 1, 2, 5);
	(void)server(&w, 6, "c");
	settle(&w);
	VOTERS(&w, 1, 5, 6);
	state_free(w.state);
}

static void a_lost_voter_is_replaced(void **state)
{
	struct world w;

	(void)state;
	begin(&w, 3);
	for (uint64_t id = 2; id <= 3; id++)
		(void)server(&w, id, "a");
	settle(&w);
	member(&w, 2)->live = false; /* silent, but not for long */
	settle(&w);
	VOTERS(&w, 1, 2, 3);
	member(&w, 2)->lost = true; /* for long, and there is nobody else */
	settle(&w);
	VOTERS(&w, 1, 2, 3);
	(void)server(&w, 4, "a");
	(void)step(&w);
	(void)step(&w);
	assert_int_equal(step(&w).kind, MEMBERSHIP_TO_VOTER); /* a new vote before one is taken */
	settle(&w);
	VOTERS(&w, 1, 3, 4);
	member(&w, 2)->live = true;
	member(&w, 2)->lost = false;
	settle(&w);
	VOTERS(&w, 1, 3, 4); /* it came back too late */
	state_free(w.state);
}

static void people_have_a_say(void **state)
{
	struct world w;

	(void)state;
	begin(&w, 3);
	for (uint64_t id = 2; id <= 4; id++)
		(void)server(&w, id, "a");
	settle(&w);
	node(&w, 4)->vote = NODE_VOTE_VOTER; /* promote */
	settle(&w);
	assert_true(votes(&w, 4));
	assert_int_equal(voters(&w, false), 3);
	node(&w, 4)->vote = NODE_VOTE_STANDBY; /* demote */
	settle(&w);
	VOTERS(&w, 1, 2, 3);
	node(&w, 3)->maintenance = true;
	settle(&w);
	VOTERS(&w, 1, 2, 3); /* nobody can stand in */
	node(&w, 4)->vote = NODE_VOTE_AUTO;
	settle(&w);
	VOTERS(&w, 1, 2, 4);
	for (uint64_t id = 1; id <= 4; id++)
		node(&w, id)->vote = NODE_VOTE_STANDBY; /* somebody must have one */
	settle(&w);
	assert_int_equal(voters(&w, false), 1);
	state_free(w.state);
}

/* Leadership, then the vote, then the membership. */
static void a_leader_leaves(void **state)
{
	struct world w;
	struct membership_change change;

	(void)state;
	begin(&w, 3);
	(void)server(&w, 2, "a");
	(void)server(&w, 3, "a");
	settle(&w);
	node(&w, 1)->leaving = true;
	change = step(&w);
	assert_int_equal(change.kind, MEMBERSHIP_TRANSFER);
	change = step(&w);
	assert_int_equal(change.kind, MEMBERSHIP_TO_STANDBY);
	assert_int_equal(change.id, 1);
	change = step(&w);
	assert_int_equal(change.kind, MEMBERSHIP_REMOVE);
	assert_int_equal(step(&w).kind, MEMBERSHIP_NONE);
	VOTERS(&w, 2, 3); /* what is committed is on two disks until there is a third */
	(void)server(&w, 4, "a");
	settle(&w);
	VOTERS(&w, 2, 3, 4);
	ids_add(&w.state->members.denied_nodes, 3);
	settle(&w);
	assert_null(member_or_none(&w, 3));
	state_free(w.state);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 0x2545f4914f6cdd1dULL;
}

/* Something happens to somebody. The leader is heard by itself; a majority lives, else there would
 * be no leader. */
static void disturb(struct world *w, uint64_t *seed)
{
	static const char *const zones[] = {"", "a", "b", "c"};
	struct membership_member *m = &w->members[next_random(seed) % w->n];
	struct node *one = NULL;
	uint64_t dice = next_random(seed) % 12;

	for (size_t i = 0; i < w->state->n_nodes; i++) {
		if (w->state->nodes[i]->id == m->id)
			one = w->state->nodes[i];
	}
	if (dice < 4 && w->state->n_nodes < LIMIT_SERVERS) {
		(void)server(w, 1 + next_random(seed) % 1000000, zones[next_random(seed) % 4]);
	} else if (dice == 4 && m->id != w->self) {
		m->live = false;
		m->lost = next_random(seed) % 2 == 0;
		if (!has_majority(w))
			m->live = true;
		m->lost = m->lost && !m->live;
	} else if (dice == 5) {
		m->live = true;
		m->lost = false;
	} else if (dice == 6 && one != NULL) {
		one->vote = (enum node_vote)(next_random(seed) % NODE_VOTE_COUNT);
	} else if (dice == 7 && one != NULL) {
		one->maintenance = !one->maintenance;
	} else if (dice == 8 && one != NULL && voters(w, true) > 1) {
		one->leaving = true;
	} else if (dice == 9) {
		w->state->members.cluster.voters = 1 + 2 * (uint32_t)(next_random(seed) % 4);
	}
}

static void check(struct world *w)
{
	size_t good = 0, n = voters(w, false);

	for (size_t i = 0; i < w->n; i++) {
		const struct membership_member *m = &w->members[i];
		const struct node *one = state_node(w->state, m->id);

		assert_int_not_equal(m->role, MEMBERSHIP_SPARE);
		good += one != NULL && !one->leaving && !one->maintenance && m->live && !m->lost &&
		        one->vote != NODE_VOTE_STANDBY;
	}
	/* More only where one vote less would leave the living without a majority. */
	if (n > w->state->members.cluster.voters)
		assert_true((voters(w, true) - 1) * 2 <= n - 1);
	/* As many as can be, up to what is wanted. */
	if (good > 0)
		assert_true(n >= w->state->members.cluster.voters || n + 1 >= good);
	/* All who should be in the log are. */
	for (size_t i = 0; i < w->state->n_nodes && w->n < LIMIT_SERVERS; i++) {
		if (!w->state->nodes[i]->leaving)
			assert_non_null(member_or_none(w, w->state->nodes[i]->id));
	}
}

static void it_always_settles(void **state)
{
	(void)state;
	for (uint64_t run = 1; run <= 1000; run++) {
		uint64_t seed = run * 0x9e3779b97f4a7c15ULL;
		struct world w;

		begin(&w, 3);
		for (unsigned i = 0; i < 40; i++) {
			disturb(&w, &seed);
			settle(&w);
			check(&w);
		}
		state_free(w.state);
	}
}

/* The machine of the leader: one change at a time, silence counted since its election, rest after a
 * failure, and the record of a node that has left the log. */
static void the_leader_changes_members(void **state)
{
	struct leader_actions *actions = xcalloc(1, sizeof(*actions));
	struct leader_member members[] = {{1, MEMBERSHIP_VOTER, 0},
	                                  {2, MEMBERSHIP_VOTER, UINT64_MAX},
	                                  {3, MEMBERSHIP_VOTER, 10},
	                                  {4, MEMBERSHIP_STANDBY, 10},
	                                  {5, MEMBERSHIP_STANDBY, 10}};
	struct leader_event tick = {
		.kind = LEADER_TICK, .members = members, .n_members = 5, .self = 1};
	struct leader_event failed = tick, done = tick;
	struct leader leader;
	struct world w;

	(void)state;
	failed.kind = LEADER_MEMBER_FAILED;
	done.kind = LEADER_MEMBER_DONE;
	begin(&w, 3);
	for (uint64_t id = 2; id <= 5; id++)
		(void)server(&w, id, "a");
	leader_init(&leader, 1000, 0, 0);
	leader.voter_lost_ms = 60000;
	leader_step(&leader, w.state, &tick, 999999, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_NONE); /* it does not lead */
	leader_step(&leader, w.state, &(struct leader_event){.kind = LEADER_ELECTED}, 1000000,
	            actions);
	leader_step(&leader, w.state, &tick, 1060000, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_NONE);
	leader_step(&leader, w.state, &tick, 1060001, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_TO_VOTER);
	assert_int_equal(actions->change.id, 4);
	leader_step(&leader, w.state, &tick, 1060002, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_NONE); /* one at a time */
	leader_step(&leader, w.state, &failed, 1060003, actions);
	assert_int_equal(actions->change.id, 5); /* another one then */
	members[4].role = MEMBERSHIP_VOTER;
	leader_step(&leader, w.state, &done, 1060004, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_TO_STANDBY);
	assert_int_equal(actions->change.id, 2);
	members[1].role = MEMBERSHIP_STANDBY;
	leader_step(&leader, w.state, &done, 1060005, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_NONE);
	/* A node that is to go is buried when the log has let it go, and not before. */
	node(&w, 2)->leaving = true;
	leader_step(&leader, w.state, &tick, 1060006, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_REMOVE);
	assert_int_equal(actions->n, 0);
	members[1] = members[4];
	done.n_members = tick.n_members = 4;
	leader_step(&leader, w.state, &done, 1060007, actions);
	leader_step(&leader, w.state, &tick, 1060008, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].kind, COMMAND_NODE_LEFT);
	assert_int_equal(actions->commands[0].node_left.id, 2);
	command_done(&actions->commands[0]);
	/* Where the members are those of the configuration they are left alone. */
	leader_step(&leader, w.state, &(struct leader_event){.kind = LEADER_ELECTED}, 2000000,
	            actions);
	w.state->members.cluster.id[0] = '\0';
	(void)server(&w, 9, "a");
	leader_step(&leader, w.state, &tick, 9000000, actions);
	assert_int_equal(actions->change.kind, MEMBERSHIP_NONE);
	for (size_t i = 0; i < actions->n; i++)
		command_done(&actions->commands[i]);
	free(actions);
	state_free(w.state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_grows_by_twos),
		cmocka_unit_test(they_are_spread_over_zones),
		cmocka_unit_test(a_lost_voter_is_replaced),
		cmocka_unit_test(people_have_a_say),
		cmocka_unit_test(a_leader_leaves),
		cmocka_unit_test(it_always_settles),
		cmocka_unit_test(the_leader_changes_members),
	};

	return cmocka_run_group_tests_name("membership", tests, NULL, NULL);
}
