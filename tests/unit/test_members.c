/* lib/raft: servers come and go while commands are proposed; leadership is handed over; nothing is
 * lost or doubled. */
#include "base/limits.h"
#include "raft/internal.h"
#include "raft_cluster.h"

#include <raft.h>

/* What became of a change or a transfer. */
static void on_done(void *data, int status)
{
	struct answer *a = data;

	a->n++;
	a->status = status;
}

static int change(struct cluster *cl, struct server *s, enum consensus_change_kind kind, size_t i)
{
	struct answer a = {0};
	const struct consensus_change what = {
		.kind = kind, .id = cl->members[i].id, .address = cl->members[i].address};

	consensus_change(s->c, &what, on_done, &a);
	assert_int_equal(a.n, 0);
	wait_for(cl, a.n == 1);
	return a.status;
}

static int transfer(struct cluster *cl, struct server *s, uint64_t id)
{
	struct answer a = {0};

	consensus_transfer(s->c, id, on_done, &a);
	assert_int_equal(a.n, 0);
	wait_for(cl, a.n == 1);
	return a.status;
}

/* Until the leader of the moment has made it so. */
static void changed(struct cluster *cl, enum consensus_change_kind kind, size_t i)
{
	for (unsigned tries = 0; tries < 20; tries++) {
		int rc = change(cl, await_leader(cl), kind, i);

		if (rc == 0)
			return;
		assert_true(rc == -BLIX_E_NOLEADER || rc == -BLIX_E_UNKNOWN);
	}
	fail_msg("change %d of server %zu: no leader lasts", (int)kind, i);
}

static size_t join(struct cluster *cl)
{
	size_t i = server_add(cl);

	server_started(cl, i);
	changed(cl, CONSENSUS_ADD, i);
	changed(cl, CONSENSUS_TO_STANDBY, i);
	changed(cl, CONSENSUS_TO_VOTER, i);
	return i;
}

static void leave(struct cluster *cl, size_t i)
{
	struct server *leader = await_leader(cl);

	if (leader == &cl->server[i])
		(void)transfer(cl, leader, 0);
	changed(cl, CONSENSUS_TO_STANDBY, i);
	changed(cl, CONSENSUS_REMOVE, i);
	server_stop(cl, i);
}

/* Proposes one number after the other to whoever leads, several at a time. */
struct pump {
	struct cluster *cl;
	uint64_t next;
	uint64_t n_acked;
	bool acked[VALUES];
	bool unknown[VALUES];
	bool stopped;
	unsigned n_open;
};

struct pumped {
	struct pump *pump;
	uint64_t value;
};

static void pump_one(struct pump *p, uint64_t value);

static void on_pumped(void *data, int status, const struct command_result *result)
{
	struct pumped *one = data;
	struct pump *p = one->pump;
	uint64_t value = one->value;

	(void)result;
	free(one);
	p->n_open--;
	p->acked[value] = status == 0;
	p->n_acked += status == 0;
	p->unknown[value] = status == -BLIX_E_UNKNOWN;
}

static void pump_one(struct pump *p, uint64_t value)
{
	struct server *leader = leader_of(p->cl);
	struct pumped *one;

	if (leader == NULL)
		return;
	one = xcalloc(1, sizeof(*one));
	one->pump = p;
	one->value = value;
	p->n_open++;
	consensus_propose(leader->c, &value, sizeof(value), on_pumped, one);
}

static void on_pump(uv_timer_t *timer)
{
	struct pump *p = timer->data;

	for (unsigned i = 0; i < 4 && !p->stopped && p->next < VALUES; i++)
		pump_one(p, p->next++);
}

static void pump_start(struct pump *p, struct cluster *cl, uv_timer_t *timer)
{
	p->cl = cl;
	timer->data = p;
	assert_int_equal(uv_timer_init(&cl->loop, timer), 0);
	assert_int_equal(uv_timer_start(timer, on_pump, 2, 2), 0);
}

static void pump_stop(struct pump *p, uv_timer_t *timer)
{
	p->stopped = true;
	uv_close((uv_handle_t *)timer, NULL);
	wait_for(p->cl, p->n_open == 0);
}

/* What was acknowledged is there once, what is unknown once or not at all, all else never; but for
 * `extra` values that others have proposed, beyond VALUES. */
static void pump_check(const struct pump *p, const struct values *values)
{
	unsigned *n = xcalloc(VALUES, sizeof(*n));

	for (size_t i = 0; i < values->n; i++) {
		if (values->value[i] < VALUES)
			n[values->value[i]]++;
	}
	for (size_t i = 0; i < VALUES; i++) {
		if (n[i] > 1 || (p->acked[i] && n[i] != 1) ||
		    (!p->acked[i] && !p->unknown[i] && n[i] != 0))
			fail_msg("value %zu: %u times, acked %d, unknown %d", i, n[i], p->acked[i],
			         p->unknown[i]);
	}
	free(n);
}

static bool same_values(struct cluster *cl)
{
	return agree(cl, await_leader(cl)->values.n);
}

static size_t n_voters(struct server *s)
{
	struct consensus_status status;

	consensus_status(s->c, &status);
	return status.n_voters;
}

static void grows_to_five(void **state)
{
	struct pump *pump = xcalloc(1, sizeof(*pump));
	struct consensus_peer peers[SERVERS_MAX];
	struct cluster cl;
	uv_timer_t timer;
	size_t n;

	(void)state;
	cluster_init(&cl, 1, 0);
	cl.listens = true;
	server_started(&cl, 0);
	propose_done(&cl, await_leader(&cl), VALUES);
	pump_start(pump, &cl, &timer);
	for (size_t i = 1; i < 5; i++) {
		assert_int_equal(join(&cl), i);
		assert_int_equal(n_voters(await_leader(&cl)), i + 1);
	}
	wait_for(&cl, pump->n_acked > 100);
	pump_stop(pump, &timer);
	wait_for(&cl, same_values(&cl));
	pump_check(pump, &await_leader(&cl)->values);
	n = consensus_members(await_leader(&cl)->c, peers, array_size(peers));
	assert_int_equal(n, 5);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(peers[i].id, cl.members[i].id);
		assert_string_equal(peers[i].address, cl.members[i].address);
		assert_int_equal(peers[i].vote, CONSENSUS_VOTER);
		assert_false(peers[i].is_short);
	}
	/* Five go on without two. */
	server_stop(&cl, (size_t)(await_leader(&cl) - cl.server));
	server_stop(&cl, (size_t)(await_leader(&cl) - cl.server));
	propose_done(&cl, await_leader(&cl), VALUES + 1);
	cluster_done(&cl);
	free(pump);
}

/* All three servers are replaced under load, and the new ones take over from each other. */
static void rolling_replacement(void **state)
{
	struct pump *pump = xcalloc(1, sizeof(*pump));
	struct cluster cl;
	uv_timer_t timer;
	uint64_t before;

	(void)state;
	cluster_start(&cl, 3, 50);
	pump_start(pump, &cl, &timer);
	for (size_t i = 0; i < 3; i++) {
		before = pump->n_acked;
		(void)join(&cl);
		leave(&cl, i);
		wait_for(&cl, pump->n_acked > before);
	}
	before = pump->n_acked;
	wait_for(&cl, pump->n_acked > before + 20);
	pump_stop(pump, &timer);
	assert_int_equal(n_voters(await_leader(&cl)), 3);
	wait_for(&cl, same_values(&cl));
	pump_check(pump, &await_leader(&cl)->values);
	/* They know each other by the log alone. */
	for (size_t i = 3; i < 6; i++) {
		server_stop(&cl, i);
		server_started(&cl, i);
		propose_done(&cl, await_leader(&cl), VALUES + i);
	}
	wait_for(&cl, same_values(&cl));
	cluster_done(&cl);
	free(pump);
}

/* A change that comes to a follower in one message with commands before it: once that follower
 * leads it can change members itself. */
static void changes_among_commands(void **state)
{
	struct answer a[60] = {0};
	struct answer done = {0};
	struct cluster cl;
	struct server *leader;
	size_t added;

	(void)state;
	cluster_start(&cl, 3, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	added = server_add(&cl);
	/* One entry each, and the change behind them, while nobody listens: one message later. */
	for (size_t i = 0; i < 3; i++) {
		if (&cl.server[i] != leader)
			server_stop(&cl, i);
	}
	for (size_t i = 0; i < 4; i++) {
		propose(leader, 10 + i, &a[i]);
		for (unsigned n = 0; n < 4; n++)
			(void)uv_run(&cl.loop, UV_RUN_NOWAIT);
	}
	consensus_change(leader->c,
	                 &(struct consensus_change){CONSENSUS_ADD, cl.members[added].id,
	                                            cl.members[added].address},
	                 on_done, &done);
	(void)uv_run(&cl.loop, UV_RUN_NOWAIT);
	for (size_t i = 0; i < 3; i++) {
		if (&cl.server[i] != leader)
			server_started(&cl, i);
	}
	wait_for(&cl, done.n == 1 && answered(a, 4) == 4);
	for (size_t i = 0; i < 3; i++) {
		leader = await_leader(&cl);
		(void)transfer(&cl, leader, cl.members[i].id);
		changed(&cl, CONSENSUS_ADD, added);
		changed(&cl, CONSENSUS_REMOVE, added);
		for (size_t j = 0; j < 3; j++)
			assert_int_equal(cl.server[j].n_fatal, 0);
	}
	cluster_done(&cl);
}

static unsigned entries_taken(struct server *s, const enum raft_entry_type *types, unsigned n)
{
	struct raft_entry entries[4] = {{0}};
	struct raft_message message = {
		.type = RAFT_APPEND_ENTRIES,
		.append_entries = {.entries = entries, .n_entries = n},
	};

	for (unsigned i = 0; i < n; i++)
		entries[i].type = types[i];
	member_heard(s->c, &message);
	return message.append_entries.n_entries;
}

/* The same, message by message: a change is the first of its message, or waits for the next. */
static void change_comes_first(void **state)
{
	const enum raft_entry_type later[] = {RAFT_COMMAND, RAFT_COMMAND, RAFT_CHANGE, RAFT_CHANGE};
	const enum raft_entry_type twice[] = {RAFT_CHANGE, RAFT_BARRIER, RAFT_COMMAND, RAFT_CHANGE};
	struct cluster cl;

	(void)state;
	cluster_start(&cl, 1, 0);
	assert_int_equal(entries_taken(&cl.server[0], later, 4), 2);
	assert_int_equal(entries_taken(&cl.server[0], later + 2, 2), 1);
	assert_int_equal(entries_taken(&cl.server[0], later, 2), 2);
	assert_int_equal(entries_taken(&cl.server[0], twice, 4), 3);
	assert_int_equal(entries_taken(&cl.server[0], twice, 0), 0);
	cluster_done(&cl);
}

static void joiner_by_snapshot(void **state)
{
	struct consensus_status status;
	struct cluster cl;
	size_t joiner;

	(void)state;
	cluster_start(&cl, 3, 20);
	for (uint64_t i = 0; i < 100; i++)
		propose_done(&cl, await_leader(&cl), i);
	joiner = server_add(&cl);
	server_started(&cl, joiner);
	changed(&cl, CONSENSUS_ADD, joiner);
	changed(&cl, CONSENSUS_TO_STANDBY, joiner);
	wait_for(&cl, agree(&cl, 100));
	assert_true(cl.server[joiner].n_restores > 0);
	wait_for(&cl, (consensus_status(cl.server[joiner].c, &status), status.is_member));
	assert_int_equal(n_voters(await_leader(&cl)), 3);
	server_stop(&cl, joiner);
	server_started(&cl, joiner);
	propose_done(&cl, await_leader(&cl), 100);
	wait_for(&cl, agree(&cl, 101));
	changed(&cl, CONSENSUS_TO_VOTER, joiner);
	assert_int_equal(n_voters(await_leader(&cl)), 4);
	cluster_done(&cl);
}

static void leader_removes_itself(void **state)
{
	struct answer late = {0};
	struct consensus_status status;
	struct cluster cl;
	struct server *old;

	(void)state;
	cluster_start(&cl, 3, 0);
	old = await_leader(&cl);
	propose_done(&cl, old, 1);
	assert_int_equal(change(&cl, old, CONSENSUS_REMOVE, (size_t)(old - cl.server)), 0);
	wait_for(&cl, leader_of(&cl) != NULL && leader_of(&cl) != old);
	propose_done(&cl, await_leader(&cl), 2);
	assert_int_equal(n_voters(await_leader(&cl)), 2);
	propose(old, 3, &late);
	wait_for(&cl, late.n == 1);
	assert_int_equal(late.status, -BLIX_E_NOLEADER);
	consensus_status(old->c, &status);
	assert_false(status.is_member);
	server_stop(&cl, (size_t)(old - cl.server));
	propose_done(&cl, await_leader(&cl), 4);
	wait_for(&cl, agree(&cl, 3));
	cluster_done(&cl);
}

/* Removed while it was away, it disturbs nobody when it is back. */
static void removed_while_away(void **state)
{
	struct consensus_status before, after;
	struct cluster cl;
	struct server *leader;
	size_t away;

	(void)state;
	cluster_start(&cl, 3, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	away = leader == &cl.server[0] ? 1 : 0;
	server_stop(&cl, away);
	assert_int_equal(change(&cl, leader, CONSENSUS_REMOVE, away), 0);
	consensus_status(leader->c, &before);
	server_started(&cl, away);
	for (uint64_t i = 0; i < 200; i++)
		propose_done(&cl, leader, i);
	consensus_status(leader->c, &after);
	assert_int_equal(after.term, before.term);
	cluster_done(&cl);
}

static void leadership_is_handed_over(void **state)
{
	struct answer both[2] = {0};
	struct cluster cl;
	struct server *leader;
	size_t other;

	(void)state;
	cluster_start(&cl, 3, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	other = leader == &cl.server[0] ? 1 : 0;
	assert_int_equal(transfer(&cl, &cl.server[other], 0), -BLIX_E_NOLEADER);
	assert_int_equal(transfer(&cl, leader, 4711), -BLIX_E_NOTFOUND);
	assert_int_equal(transfer(&cl, leader, cl.members[leader - cl.server].id),
	                 -BLIX_E_NOTFOUND);
	assert_int_equal(transfer(&cl, leader, cl.members[other].id), 0);
	assert_ptr_equal(await_leader(&cl), &cl.server[other]);
	propose_done(&cl, &cl.server[other], 2);
	leader = &cl.server[other];
	consensus_transfer(leader->c, 0, on_done, &both[0]);
	consensus_transfer(leader->c, 0, on_done, &both[1]);
	wait_for(&cl, answered(both, 2) == 2);
	assert_int_equal(both[0].status, 0);
	assert_int_equal(both[1].status, -BLIX_E_BUSY);
	assert_ptr_not_equal(await_leader(&cl), leader);
	/* The one that is called is not there: the leader stays. */
	leader = await_leader(&cl);
	other = leader == &cl.server[0] ? 1 : 0;
	server_stop(&cl, other);
	assert_int_equal(transfer(&cl, leader, cl.members[other].id), -BLIX_E_TIMEOUT);
	propose_done(&cl, await_leader(&cl), 3);
	cluster_done(&cl);
}

static void changes_are_judged(void **state)
{
	struct cluster cl;
	struct server *leader;
	size_t other, added;

	(void)state;
	cluster_start(&cl, 3, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	other = leader == &cl.server[0] ? 1 : 0;
	added = server_add(&cl);
	assert_int_equal(change(&cl, &cl.server[other], CONSENSUS_ADD, added), -BLIX_E_NOLEADER);
	assert_int_equal(change(&cl, leader, CONSENSUS_TO_VOTER, added), -BLIX_E_NOTFOUND);
	assert_int_equal(change(&cl, leader, CONSENSUS_REMOVE, added), 0);
	free(cl.members[added].address);
	cl.members[added].address = xstrdup(cl.members[other].address);
	assert_int_equal(change(&cl, leader, CONSENSUS_ADD, added), -BLIX_E_EXISTS);
	assert_int_equal(change(&cl, leader, CONSENSUS_ADD, other), 0);
	assert_int_equal(change(&cl, leader, CONSENSUS_TO_VOTER, other), 0);
	assert_int_equal(n_voters(leader), 3);
	for (size_t i = 0; i < 3; i++) {
		if (&cl.server[i] != leader)
			assert_int_equal(change(&cl, leader, CONSENSUS_TO_SPARE, i), 0);
	}
	assert_int_equal(change(&cl, leader, CONSENSUS_REMOVE, (size_t)(leader - cl.server)),
	                 -BLIX_E_REFUSED);
	propose_done(&cl, leader, 2);
	cluster_done(&cl);
}

/* One that listens nowhere cannot grow. */
static void alone_and_deaf(void **state)
{
	struct cluster cl;
	size_t added;

	(void)state;
	cluster_start(&cl, 1, 0);
	added = server_add(&cl);
	assert_int_equal(change(&cl, await_leader(&cl), CONSENSUS_ADD, added), -BLIX_E_REFUSED);
	cluster_done(&cl);
}

static void slow_one_is_not_promoted(void **state)
{
	struct cluster cl;
	struct server *leader;
	size_t added;

	(void)state;
	cluster_start(&cl, 3, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	added = server_add(&cl);
	raft_set_max_catch_up_round_duration(&leader->c->raft, 200);
	assert_int_equal(change(&cl, leader, CONSENSUS_ADD, added), 0);
	assert_int_equal(change(&cl, leader, CONSENSUS_TO_VOTER, added), -BLIX_E_TIMEOUT);
	assert_int_equal(n_voters(leader), 3);
	server_started(&cl, added);
	assert_int_equal(change(&cl, leader, CONSENSUS_TO_STANDBY, added), 0);
	assert_int_equal(change(&cl, leader, CONSENSUS_TO_VOTER, added), 0);
	assert_int_equal(n_voters(leader), 4);
	cluster_done(&cl);
}

static void changes_are_all_answered(void **state)
{
	struct answer a[LIMIT_RECONFIGS + 1] = {0};
	struct answer moved = {0};
	struct cluster cl;
	struct server *leader;
	unsigned n_busy = 0;

	(void)state;
	cluster_start(&cl, 3, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	for (size_t i = 0; i < array_size(a); i++) {
		cleanup(freep) char *address = xasprintf("%s/%zu", cl.dir, i);

		consensus_change(leader->c,
		                 &(struct consensus_change){CONSENSUS_ADD, 1000 + i, address},
		                 on_done, &a[i]);
	}
	wait_for(&cl, a[0].n == 1);
	consensus_transfer(leader->c, 0, on_done, &moved);
	server_stop(&cl, (size_t)(leader - cl.server));
	assert_int_equal(moved.n, 1);
	for (size_t i = 0; i < array_size(a); i++) {
		assert_int_equal(a[i].n, 1);
		assert_true(a[i].status == 0 || a[i].status == -BLIX_E_UNKNOWN ||
		            a[i].status == -BLIX_E_NOLEADER || a[i].status == -BLIX_E_BUSY);
		n_busy += a[i].status == -BLIX_E_BUSY;
	}
	assert_int_equal(a[0].status, 0);
	assert_int_equal(n_busy, 1);
	propose_done(&cl, await_leader(&cl), 2);
	cluster_done(&cl);
}

/* A spare hears nothing; it knows who leads when it is told. */
static void spare_is_told(void **state)
{
	struct consensus_status status;
	struct answer a = {0};
	struct cluster cl;
	struct server *leader;
	size_t spare;

	(void)state;
	cluster_start(&cl, 3, 0);
	leader = await_leader(&cl);
	spare = server_add(&cl);
	server_started(&cl, spare);
	changed(&cl, CONSENSUS_ADD, spare);
	propose(&cl.server[spare], 1, &a);
	wait_for(&cl, a.n == 1);
	assert_int_equal(a.status, -BLIX_E_NOLEADER);
	consensus_status(cl.server[spare].c, &status);
	assert_int_equal(status.leader_id, 0);
	consensus_tell_leader(cl.server[spare].c, cl.members[1].id);
	consensus_status(cl.server[spare].c, &status);
	assert_int_equal(status.leader_id, cl.members[1].id);
	assert_false(status.is_member);
	/* What it hears itself counts more. */
	consensus_tell_leader(cl.server[spare].c, 4711);
	leader = await_leader(&cl);
	assert_int_equal(change(&cl, leader, CONSENSUS_TO_STANDBY, spare), 0);
	wait_for(&cl, (consensus_status(cl.server[spare].c, &status), status.is_member));
	wait_for(&cl, (consensus_status(cl.server[spare].c, &status),
	               status.leader_id == cl.members[leader - cl.server].id));
	consensus_tell_leader(cl.server[spare].c, 4711);
	consensus_status(cl.server[spare].c, &status);
	assert_int_equal(status.leader_id, cl.members[leader - cl.server].id);
	cluster_done(&cl);
}

static struct cluster *moving;
static char moved_to[128];

static const char *find_moved(void *data, uint64_t id)
{
	(void)data;
	return moving != NULL && id == moving->members[3].id ? moved_to : NULL;
}

/* A server is found where it listens now, whatever the log says. */
static void server_moves(void **state)
{
	struct cluster cl;
	size_t i;

	(void)state;
	moving = NULL;
	cluster_init(&cl, 3, 0);
	cl.find_address = find_moved;
	cl.listens = true;
	for (i = 0; i < 3; i++)
		server_started(&cl, i);
	i = join(&cl);
	assert_int_equal(i, 3);
	server_stop(&cl, i);
	(void)snprintf(moved_to, sizeof(moved_to), "%s/run/elsewhere.sock", cl.dir);
	moving = &cl;
	free(cl.members[i].address);
	cl.members[i].address = xstrdup(moved_to);
	server_started(&cl, i);
	propose_done(&cl, await_leader(&cl), 1);
	wait_for(&cl, agree(&cl, 1));
	moving = NULL;
	cluster_done(&cl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_to_five),
		cmocka_unit_test(rolling_replacement),
		cmocka_unit_test(changes_among_commands),
		cmocka_unit_test(change_comes_first),
		cmocka_unit_test(joiner_by_snapshot),
		cmocka_unit_test(leader_removes_itself),
		cmocka_unit_test(removed_while_away),
		cmocka_unit_test(leadership_is_handed_over),
		cmocka_unit_test(changes_are_judged),
		cmocka_unit_test(alone_and_deaf),
		cmocka_unit_test(slow_one_is_not_promoted),
		cmocka_unit_test(changes_are_all_answered),
		cmocka_unit_test(spare_is_told),
		cmocka_unit_test(server_moves),
	};

	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
