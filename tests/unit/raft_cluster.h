/* Real servers of a replicated log in one loop, over Unix sockets in a directory of their own: what
 * the tests of lib/raft share. Their state is a list of numbers. */
#ifndef BLIX_TESTS_RAFT_CLUSTER_H
#define BLIX_TESTS_RAFT_CLUSTER_H

#include "base/alloc.h"
#include "raft/consensus.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define SERVERS_MAX 12
#define VALUES      8192
#define DEADLINE_MS 30000

/* The replicated state: every value that was proposed, in order. */
struct values {
	size_t n;
	uint64_t value[VALUES];
};

struct server {
	struct consensus *c;
	struct values values;
	unsigned n_begins;
	unsigned n_ends;
	unsigned n_snapshots;
	unsigned n_restores;
	unsigned n_roles;
	unsigned n_fatal;
	uint64_t index;
	uint64_t elapsed_ms;
	unsigned unknown_stamps;
	unsigned n_short; /* times that the disk was said to be too full, and to have room */
	unsigned n_roomy;
	struct blix_error fatal;
	bool closed;
};

struct cluster {
	uv_loop_t loop;
	char dir[64];
	struct consensus_member members[SERVERS_MAX];
	size_t n;       /* servers of this test, running or not */
	size_t n_first; /* of them in the first configuration; the others join */
	unsigned threshold;
	unsigned election_timeout_ms;
	uint64_t reserve_bytes;
	uint64_t incarnation;
	bool listens; /* though alone */
	const char *(*find_address)(void *data, uint64_t id);
	const char *names[SERVERS_MAX]; /* cluster id of each server */
	struct server server[SERVERS_MAX];
};

/* What became of one proposal. */
struct answer {
	unsigned n;
	int status;
	struct command_result result;
};

static inline void fsm_begin(void *data, uint64_t index, const struct consensus_stamp *stamp)
{
	struct server *s = data;

	assert_true(index > s->index);
	assert_true(stamp->wall_ms > 0);
	s->index = index;
	if (stamp->elapsed_ms != CONSENSUS_ELAPSED_UNKNOWN)
		s->elapsed_ms += stamp->elapsed_ms;
	else
		s->unknown_stamps++;
	s->n_begins++;
}

static inline void fsm_apply(void *data, const uint8_t *command, size_t n,
                             struct command_result *ret)
{
	struct server *s = data;
	uint64_t value;

	assert_true(n >= sizeof(value));
	memcpy(&value, command, sizeof(value));
	assert_true(s->values.n < VALUES);
	s->values.value[s->values.n++] = value;
	ret->revision = s->values.n;
	ret->uid = value;
}

static inline void fsm_end(void *data)
{
	struct server *s = data;

	s->n_ends++;
}

static inline void *fsm_view(void *data)
{
	struct server *s = data;
	struct values *view = xcalloc(1, sizeof(*view));

	s->n_snapshots++;
	*view = s->values;
	return view;
}

static inline int fsm_encode(const void *view, struct buf *out)
{
	const struct values *values = view;

	return buf_add(out, values->value, values->n * sizeof(values->value[0]));
}

static inline void fsm_release(void *data, void *view)
{
	(void)data;
	free(view);
}

static inline int fsm_restore(void *data, const uint8_t *bytes, size_t n, uint64_t index,
                              struct blix_error *err)
{
	struct server *s = data;

	(void)err;
	assert_int_equal(n % sizeof(uint64_t), 0);
	memcpy(s->values.value, bytes, n);
	s->values.n = n / sizeof(uint64_t);
	s->index = index;
	s->n_restores++;
	return 0;
}

static inline void on_fatal(void *data, const struct blix_error *err)
{
	struct server *s = data;

	s->n_fatal++;
	s->fatal = *err;
}

static inline void on_space(void *data, bool is_short, uint64_t free_bytes)
{
	struct server *s = data;

	(void)free_bytes;
	s->n_short += is_short;
	s->n_roomy += !is_short;
}

static inline void on_role(void *data, enum consensus_role role, uint64_t leader_id)
{
	struct server *s = data;

	(void)role;
	(void)leader_id;
	s->n_roles++;
}

static inline void on_closed(void *data)
{
	struct server *s = data;

	s->c = NULL;
	s->closed = true;
}

static inline void on_answer(void *data, int status, const struct command_result *result)
{
	struct answer *a = data;

	a->n++;
	a->status = status;
	assert_true((status == 0) == (result != NULL));
	if (result != NULL)
		a->result = *result;
}

static inline void on_barrier(void *data, int status)
{
	struct answer *a = data;

	a->n++;
	a->status = status;
}

static inline void on_wake(uv_timer_t *timer)
{
	(void)timer;
}

/* All servers share one loop, which ThreadSanitizer makes many times slower: an election must not
 * be over before it has begun. */
#ifdef __SANITIZE_THREAD__
#define ELECTION_MS 600
#else
#define ELECTION_MS 150
#endif

/* Runs the loop until the condition holds; the timer only bounds a failing test. */
#define wait_for(cluster, condition)                                                               \
	do {                                                                                       \
		uv_timer_t wake_;                                                                  \
		uint64_t since_ = clock_boot_ms();                                                 \
		assert_int_equal(uv_timer_init(&(cluster)->loop, &wake_), 0);                      \
		assert_int_equal(uv_timer_start(&wake_, on_wake, 50, 50), 0);                      \
		while (!(condition) && clock_boot_ms() - since_ < DEADLINE_MS)                     \
			(void)uv_run(&(cluster)->loop, UV_RUN_ONCE);                               \
		uv_close((uv_handle_t *)&wake_, NULL);                                             \
		(void)uv_run(&(cluster)->loop, UV_RUN_NOWAIT);                                     \
		if (!(condition))                                                                  \
			fail_msg("never came true: %s", #condition);                               \
	} while (0)

static inline int server_start(struct cluster *cl, size_t i, struct blix_error *err)
{
	struct server *s = &cl->server[i];
	cleanup(freep) char *dir = xasprintf("%s/raft%zu", cl->dir, i);
	struct consensus_config config = {
		.loop = &cl->loop,
		.dir = dir,
		.cluster = cl->names[i],
		.id = cl->members[i].id,
		.incarnation = cl->incarnation,
		.members = cl->members,
		.n_members = i < cl->n_first ? cl->n_first : 0,
		.address = cl->listens || i >= cl->n_first ? cl->members[i].address : NULL,
		.find_address = cl->find_address,
		.reserve_bytes = cl->reserve_bytes,
		.election_timeout_ms = cl->election_timeout_ms,
		.heartbeat_ms = 30,
		.snapshot_threshold = cl->threshold,
		.snapshot_trailing = cl->threshold / 2,
		.fsm = {s, fsm_begin, fsm_apply, fsm_end, fsm_view, fsm_encode, fsm_release,
	                fsm_restore},
		.space = on_space,
		.fatal = on_fatal,
	};

	*s = (struct server){0};
	assert_int_equal(consensus_open(&config, &s->c, err), 0);
	consensus_on_role(s->c, on_role, s);
	return consensus_start(s->c, err);
}

static inline void server_started(struct cluster *cl, size_t i)
{
	struct blix_error err;

	if (server_start(cl, i, &err) != 0)
		fail_msg("start: %s", err.text);
}

static inline void server_stop(struct cluster *cl, size_t i)
{
	struct server *s = &cl->server[i];

	consensus_close(s->c, on_closed, s);
	wait_for(cl, s->closed);
}

/* Its place; it is not started. */
static inline size_t server_add(struct cluster *cl)
{
	size_t i = cl->n++;

	assert_true(i < SERVERS_MAX);
	cl->members[i] = (struct consensus_member){
		.id = 100 + i,
		.name = xasprintf("s%zu", i),
		.address = xasprintf("%s/run/%zu.sock", cl->dir, i),
	};
	cl->names[i] = "one";
	return i;
}

static inline void cluster_init(struct cluster *cl, size_t n, unsigned threshold)
{
	memset(cl, 0, sizeof(*cl));
	assert_int_equal(uv_loop_init(&cl->loop), 0);
	(void)snprintf(cl->dir, sizeof(cl->dir), "/tmp/consensus.XXXXXX");
	assert_non_null(mkdtemp(cl->dir));
	cl->n_first = n;
	cl->threshold = threshold;
	cl->reserve_bytes = 1 << 20;
	cl->election_timeout_ms = ELECTION_MS;
	while (cl->n < n)
		(void)server_add(cl);
}

static inline void cluster_start(struct cluster *cl, size_t n, unsigned threshold)
{
	cluster_init(cl, n, threshold);
	for (size_t i = 0; i < n; i++)
		server_started(cl, i);
}

static inline void cluster_done(struct cluster *cl)
{
	struct blix_error err;

	for (size_t i = 0; i < cl->n; i++) {
		if (cl->server[i].c != NULL)
			server_stop(cl, i);
		free(cl->members[i].name);
		free(cl->members[i].address);
	}
	(void)uv_run(&cl->loop, UV_RUN_NOWAIT);
	assert_int_equal(uv_loop_close(&cl->loop), 0);
	assert_int_equal(file_remove_tree(cl->dir, &err), 0);
}

static inline struct server *leader_of(struct cluster *cl)
{
	struct consensus_status status;

	for (size_t i = 0; i < cl->n; i++) {
		if (cl->server[i].c == NULL)
			continue;
		consensus_status(cl->server[i].c, &status);
		if (status.role == CONSENSUS_LEADER)
			return &cl->server[i];
	}
	return NULL;
}

static inline struct server *await_leader(struct cluster *cl)
{
	struct server *leader;

	wait_for(cl, leader_of(cl) != NULL);
	leader = leader_of(cl);
	if (leader == NULL)
		abort(); /* no time has passed */
	return leader;
}

static inline void propose(struct server *s, uint64_t value, struct answer *a)
{
	unsigned n = a->n;

	consensus_propose(s->c, &value, sizeof(value), on_answer, a);
	assert_int_equal(a->n, n);
}

static inline void propose_done(struct cluster *cl, struct server *s, uint64_t value)
{
	struct answer a = {0};

	propose(s, value, &a);
	wait_for(cl, a.n == 1);
	assert_int_equal(a.status, 0);
}

/* Every running server has the same n values. */
static inline bool agree(struct cluster *cl, size_t n)
{
	const struct values *first = NULL;

	for (size_t i = 0; i < cl->n; i++) {
		const struct values *v = &cl->server[i].values;

		if (cl->server[i].c == NULL)
			continue;
		if (v->n != n)
			return false;
		if (first == NULL)
			first = v;
		if (memcmp(v->value, first->value, n * sizeof(v->value[0])) != 0)
			return false;
	}
	return true;
}

static inline size_t answered(const struct answer *a, size_t n)
{
	size_t done = 0;

	for (size_t i = 0; i < n; i++)
		done += a[i].n;
	return done;
}

#endif
