/* lib/raft: three servers in one loop elect, commit in batches, survive restarts and the loss of
 * their leader, and answer every proposal exactly once. */
#include "base/alloc.h"
#include "base/limits.h"
#include "raft/bytes.h"
#include "raft/consensus.h"
#include "raft/entry.h"
#include "raft/internal.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <raft.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#define SERVERS     3
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
	struct blix_error fatal;
	bool closed;
};

struct cluster {
	uv_loop_t loop;
	char dir[64];
	struct consensus_member members[SERVERS];
	size_t n;
	unsigned threshold;
	const char *names[SERVERS]; /* cluster id of each server */
	struct server server[SERVERS];
};

/* What became of one proposal. */
struct answer {
	unsigned n;
	int status;
	struct command_result result;
};

static void fsm_begin(void *data, uint64_t index, const struct consensus_stamp *stamp)
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

static void fsm_apply(void *data, const uint8_t *command, size_t n, struct command_result *ret)
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

static void fsm_end(void *data)
{
	struct server *s = data;

	s->n_ends++;
}

static void *fsm_view(void *data)
{
	struct server *s = data;
	struct values *view = xcalloc(1, sizeof(*view));

	s->n_snapshots++;
	*view = s->values;
	return view;
}

static int fsm_encode(const void *view, struct buf *out)
{
	const struct values *values = view;

	return buf_add(out, values->value, values->n * sizeof(values->value[0]));
}

static void fsm_release(void *data, void *view)
{
	(void)data;
	free(view);
}

static int fsm_restore(void *data, const uint8_t *bytes, size_t n, uint64_t index,
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

static void on_fatal(void *data, const struct blix_error *err)
{
	struct server *s = data;

	s->n_fatal++;
	s->fatal = *err;
}

static void on_role(void *data, enum consensus_role role, uint64_t leader_id)
{
	struct server *s = data;

	(void)role;
	(void)leader_id;
	s->n_roles++;
}

static void on_closed(void *data)
{
	struct server *s = data;

	s->c = NULL;
	s->closed = true;
}

static void on_answer(void *data, int status, const struct command_result *result)
{
	struct answer *a = data;

	a->n++;
	a->status = status;
	assert_true((status == 0) == (result != NULL));
	if (result != NULL)
		a->result = *result;
}

static void on_barrier(void *data, int status)
{
	struct answer *a = data;

	a->n++;
	a->status = status;
}

static void on_wake(uv_timer_t *timer)
{
	(void)timer;
}

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

static int server_start(struct cluster *cl, size_t i, struct blix_error *err)
{
	struct server *s = &cl->server[i];
	cleanup(freep) char *dir = xasprintf("%s/raft%zu", cl->dir, i);
	struct consensus_config config = {
		.loop = &cl->loop,
		.dir = dir,
		.cluster = cl->names[i],
		.id = cl->members[i].id,
		.members = cl->members,
		.n_members = cl->n,
		.election_timeout_ms = 150,
		.heartbeat_ms = 30,
		.snapshot_threshold = cl->threshold,
		.snapshot_trailing = cl->threshold / 2,
		.fsm = {s, fsm_begin, fsm_apply, fsm_end, fsm_view, fsm_encode, fsm_release,
	                fsm_restore},
		.fatal = on_fatal,
	};

	*s = (struct server){0};
	assert_int_equal(consensus_open(&config, &s->c, err), 0);
	consensus_on_role(s->c, on_role, s);
	return consensus_start(s->c, err);
}

static void server_started(struct cluster *cl, size_t i)
{
	struct blix_error err;

	if (server_start(cl, i, &err) != 0)
		fail_msg("start: %s", err.text);
}

static void server_stop(struct cluster *cl, size_t i)
{
	struct server *s = &cl->server[i];

	consensus_close(s->c, on_closed, s);
	wait_for(cl, s->closed);
}

static void cluster_init(struct cluster *cl, size_t n, unsigned threshold)
{
	memset(cl, 0, sizeof(*cl));
	assert_int_equal(uv_loop_init(&cl->loop), 0);
	(void)snprintf(cl->dir, sizeof(cl->dir), "/tmp/consensus.XXXXXX");
	assert_non_null(mkdtemp(cl->dir));
	cl->n = n;
	cl->threshold = threshold;
	for (size_t i = 0; i < n; i++) {
		cl->members[i] = (struct consensus_member){
			.id = 100 + i,
			.name = xasprintf("s%zu", i),
			.address = xasprintf("%s/run/%zu.sock", cl->dir, i),
		};
		cl->names[i] = "one";
	}
}

static void cluster_start(struct cluster *cl, size_t n, unsigned threshold)
{
	cluster_init(cl, n, threshold);
	for (size_t i = 0; i < n; i++)
		server_started(cl, i);
}

static void cluster_done(struct cluster *cl)
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

static struct server *leader_of(struct cluster *cl)
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

static struct server *await_leader(struct cluster *cl)
{
	wait_for(cl, leader_of(cl) != NULL);
	return leader_of(cl);
}

static void propose(struct server *s, uint64_t value, struct answer *a)
{
	unsigned n = a->n;

	consensus_propose(s->c, &value, sizeof(value), on_answer, a);
	assert_int_equal(a->n, n);
}

static void propose_done(struct cluster *cl, struct server *s, uint64_t value)
{
	struct answer a = {0};

	propose(s, value, &a);
	wait_for(cl, a.n == 1);
	assert_int_equal(a.status, 0);
}

/* Every running server has the same n values. */
static bool agree(struct cluster *cl, size_t n)
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

static size_t answered(const struct answer *a, size_t n)
{
	size_t done = 0;

	for (size_t i = 0; i < n; i++)
		done += a[i].n;
	return done;
}

static void batch_is_one_entry(void **state)
{
	struct answer a[100] = {0};
	struct cluster cl;
	struct server *leader;
	unsigned begins;

	(void)state;
	cluster_start(&cl, SERVERS, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 7);
	begins = leader->n_begins;
	for (size_t i = 0; i < array_size(a); i++)
		propose(leader, 1000 + i, &a[i]);
	wait_for(&cl, answered(a, array_size(a)) == array_size(a));
	assert_int_equal(leader->n_begins, begins + 1);
	assert_int_equal(leader->n_ends, leader->n_begins);
	for (size_t i = 0; i < array_size(a); i++) {
		assert_int_equal(a[i].status, 0);
		assert_int_equal(a[i].result.uid, 1000 + i);
		assert_int_equal(a[i].result.revision, 2 + i);
	}
	wait_for(&cl, agree(&cl, 101));
	cluster_done(&cl);
}

static void followers_refuse(void **state)
{
	struct cluster cl;
	struct server *leader;
	struct consensus_status status;
	struct answer big = {0};
	static uint8_t bytes[LIMIT_COMMAND + 1];

	(void)state;
	cluster_start(&cl, SERVERS, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	wait_for(&cl, agree(&cl, 1));
	for (size_t i = 0; i < SERVERS; i++) {
		struct server *s = &cl.server[i];
		struct answer a = {0};
		struct answer read = {0};
		uint64_t age;

		consensus_status(s->c, &status);
		assert_int_equal(status.leader_id, leader - cl.server + 100);
		assert_int_equal(status.n_voters, SERVERS);
		assert_true(s->n_roles > 0);
		if (s == leader)
			continue;
		propose(s, 2, &a);
		consensus_barrier(s->c, on_barrier, &read);
		assert_int_equal(read.n, 0);
		wait_for(&cl, a.n == 1 && read.n == 1);
		assert_int_equal(a.status, -BLIX_E_NOLEADER);
		assert_int_equal(read.status, -BLIX_E_NOLEADER);
		assert_true(consensus_peer_seen(s->c, status.leader_id, &age));
		assert_true(consensus_peer_seen(leader->c, cl.members[i].id, &age));
	}
	consensus_propose(leader->c, bytes, sizeof(bytes), on_answer, &big);
	assert_int_equal(big.n, 0);
	wait_for(&cl, big.n == 1);
	assert_int_equal(big.status, -BLIX_E_TOOBIG);
	cluster_done(&cl);
}

static void leader_lost(void **state)
{
	struct answer a[20] = {0};
	struct cluster cl;
	struct server *leader;
	size_t first;

	(void)state;
	cluster_start(&cl, SERVERS, 0);
	leader = await_leader(&cl);
	for (size_t i = 0; i < array_size(a); i++)
		propose(leader, i, &a[i]);
	wait_for(&cl, answered(a, array_size(a)) == array_size(a));
	first = (size_t)(leader - cl.server);
	server_stop(&cl, first);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 20);
	wait_for(&cl, agree(&cl, 21));
	for (size_t i = 0; i <= 20; i++)
		assert_int_equal(leader->values.value[i], i);
	server_started(&cl, first);
	wait_for(&cl, agree(&cl, 21));
	cluster_done(&cl);
}

static void close_answers_all(void **state)
{
	struct answer a[500] = {0};
	struct answer read = {0};
	struct answer late = {0};
	struct cluster cl;
	struct server *leader;
	size_t done = 0;

	(void)state;
	cluster_start(&cl, SERVERS, 0);
	leader = await_leader(&cl);
	for (size_t i = 0; i < 250; i++)
		propose(leader, i, &a[i]);
	(void)uv_run(&cl.loop, UV_RUN_NOWAIT);
	for (size_t i = 250; i < array_size(a); i++)
		propose(leader, i, &a[i]);
	consensus_barrier(leader->c, on_barrier, &read);
	consensus_close(leader->c, on_closed, leader);
	propose(leader, 1, &late);
	wait_for(&cl, leader->closed);
	for (size_t i = 0; i < array_size(a); i++) {
		assert_int_equal(a[i].n, 1);
		assert_true(a[i].status == 0 || a[i].status == -BLIX_E_UNKNOWN ||
		            a[i].status == -BLIX_E_NOLEADER);
		done += a[i].status == 0;
	}
	/* What had not been given to the log was not done, and is said to be. */
	assert_int_equal(a[499].status, -BLIX_E_NOLEADER);
	assert_int_equal(read.n, 1);
	assert_int_equal(read.status, -BLIX_E_NOLEADER);
	assert_int_equal(late.n, 1);
	assert_int_equal(late.status, -BLIX_E_NOLEADER);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 9999);
	assert_true(leader->values.n >= done + 1);
	cluster_done(&cl);
}

static void busy_at_the_limit(void **state)
{
	struct answer *a = xcalloc(LIMIT_PROPOSALS + 2, sizeof(*a));
	struct cluster cl;
	struct server *leader;

	(void)state;
	cluster_start(&cl, 1, 0);
	leader = await_leader(&cl);
	for (size_t i = 0; i < LIMIT_PROPOSALS + 2; i++)
		propose(leader, i, &a[i]);
	wait_for(&cl, answered(a, LIMIT_PROPOSALS + 2) == LIMIT_PROPOSALS + 2);
	for (size_t i = 0; i < LIMIT_PROPOSALS; i++) {
		assert_int_equal(a[i].status, 0);
		assert_int_equal(a[i].result.revision, i + 1);
	}
	assert_int_equal(a[LIMIT_PROPOSALS].status, -BLIX_E_BUSY);
	assert_int_equal(a[LIMIT_PROPOSALS + 1].status, -BLIX_E_BUSY);
	propose_done(&cl, leader, 1);
	free(a);
	cluster_done(&cl);
}

/* Commands that wait are bounded in bytes too. */
static void busy_with_big_ones(void **state)
{
	static uint8_t bytes[LIMIT_COMMAND];
	struct answer a[LIMIT_PROPOSED / LIMIT_COMMAND + 1] = {0};
	struct cluster cl;
	struct server *leader;

	(void)state;
	cluster_start(&cl, 1, 0);
	leader = await_leader(&cl);
	for (size_t i = 0; i < array_size(a); i++)
		consensus_propose(leader->c, bytes, sizeof(bytes), on_answer, &a[i]);
	wait_for(&cl, answered(a, array_size(a)) == array_size(a));
	for (size_t i = 0; i < array_size(a) - 1; i++)
		assert_int_equal(a[i].status, 0);
	assert_int_equal(a[array_size(a) - 1].status, -BLIX_E_BUSY);
	cluster_done(&cl);
}

static void barriers_share(void **state)
{
	struct answer reads[50] = {0};
	struct consensus_status before;
	struct consensus_status after;
	struct cluster cl;
	struct server *leader;

	(void)state;
	cluster_start(&cl, 1, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 1);
	consensus_status(leader->c, &before);
	for (size_t i = 0; i < array_size(reads); i++)
		consensus_barrier(leader->c, on_barrier, &reads[i]);
	assert_int_equal(answered(reads, array_size(reads)), 0);
	wait_for(&cl, answered(reads, array_size(reads)) == array_size(reads));
	for (size_t i = 0; i < array_size(reads); i++)
		assert_int_equal(reads[i].status, 0);
	consensus_status(leader->c, &after);
	assert_int_equal(after.last_index, before.last_index + 1);
	cluster_done(&cl);
}

static void restart_from_log(void **state)
{
	struct cluster cl;
	struct server *leader;

	(void)state;
	cluster_start(&cl, 1, 0);
	leader = await_leader(&cl);
	for (uint64_t i = 0; i < 10; i++)
		propose_done(&cl, leader, i);
	server_stop(&cl, 0);
	server_started(&cl, 0);
	propose_done(&cl, await_leader(&cl), 10);
	assert_int_equal(leader->n_restores, 0);
	assert_int_equal(leader->values.n, 11);
	for (uint64_t i = 0; i <= 10; i++)
		assert_int_equal(leader->values.value[i], i);
	cluster_done(&cl);
}

static void restart_from_snapshot(void **state)
{
	struct cluster cl;
	struct server *leader;

	(void)state;
	cluster_start(&cl, 1, 20);
	leader = await_leader(&cl);
	for (uint64_t i = 0; i < 100; i++)
		propose_done(&cl, leader, i);
	assert_true(leader->n_snapshots > 1);
	server_stop(&cl, 0);
	server_started(&cl, 0);
	assert_int_equal(leader->n_restores, 1);
	propose_done(&cl, await_leader(&cl), 100);
	assert_int_equal(leader->values.n, 101);
	for (uint64_t i = 0; i <= 100; i++)
		assert_int_equal(leader->values.value[i], i);
	cluster_done(&cl);
}

static void lagging_follower(void **state)
{
	struct cluster cl;
	struct server *leader;
	size_t behind;

	(void)state;
	cluster_start(&cl, SERVERS, 20);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 0);
	wait_for(&cl, agree(&cl, 1));
	behind = leader == &cl.server[0] ? 1 : 0;
	server_stop(&cl, behind);
	for (uint64_t i = 1; i < 100; i++)
		propose_done(&cl, await_leader(&cl), i);
	server_started(&cl, behind);
	wait_for(&cl, agree(&cl, 100));
	assert_true(cl.server[behind].n_restores > 0);
	propose_done(&cl, await_leader(&cl), 100);
	wait_for(&cl, agree(&cl, 101));
	cluster_done(&cl);
}

static void other_cluster_refused(void **state)
{
	struct consensus_status status;
	struct cluster cl;
	struct server *leader;
	uint64_t age;

	(void)state;
	cluster_init(&cl, SERVERS, 0);
	cl.names[2] = "two";
	for (size_t i = 0; i < SERVERS; i++)
		server_started(&cl, i);
	leader = await_leader(&cl);
	assert_true(leader != &cl.server[2]);
	for (uint64_t i = 0; i < 20; i++)
		propose_done(&cl, await_leader(&cl), i);
	for (uint64_t i = 0; i < 2; i++) {
		assert_false(consensus_peer_seen(cl.server[i].c, cl.members[2].id, &age));
		assert_false(consensus_peer_seen(cl.server[2].c, cl.members[i].id, &age));
	}
	consensus_status(cl.server[2].c, &status);
	assert_int_equal(status.leader_id, 0);
	assert_int_equal(cl.server[2].values.n, 0);
	cluster_done(&cl);
}

static void on_stranger_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	bool *refused = stream->data;

	(void)buf;
	if (n < 0)
		*refused = true;
}

static void on_stranger_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
	static char bytes[256];

	(void)handle;
	(void)size;
	*buf = uv_buf_init(bytes, sizeof(bytes));
}

/* One connection that says `hello` (or nothing) and must be hung up on. */
static void stranger(struct cluster *cl, const void *hello, size_t n)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	bool refused = false;
	uv_pipe_t pipe;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", cl->members[0].address);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	if (n > 0)
		assert_int_equal(write(fd, hello, n), n);
	assert_int_equal(uv_pipe_init(&cl->loop, &pipe, 0), 0);
	assert_int_equal(uv_pipe_open(&pipe, fd), 0);
	pipe.data = &refused;
	assert_int_equal(uv_read_start((uv_stream_t *)&pipe, on_stranger_alloc, on_stranger_read),
	                 0);
	wait_for(cl, refused);
	uv_close((uv_handle_t *)&pipe, NULL);
	(void)uv_run(&cl->loop, UV_RUN_NOWAIT);
}

static void strangers_hung_up_on(void **state)
{
	uint8_t hello[24] = {0};
	struct cluster cl;
	struct stat st;

	(void)state;
	cluster_start(&cl, SERVERS, 0);
	assert_int_equal(stat(cl.members[0].address, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	stranger(&cl, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
	stranger(&cl, NULL, 0);
	put_u32(hello, 0x52584c42u);
	put_u16(hello + 4, 1);
	put_u16(hello + 8, 65535);
	stranger(&cl, hello, sizeof(hello));
	put_u16(hello + 8, 0);
	put_u64(hello + 12, 101);
	stranger(&cl, hello, sizeof(hello));
	propose_done(&cl, await_leader(&cl), 1);
	cluster_done(&cl);
}

static void one_owner(void **state)
{
	struct blix_error err;
	struct cluster cl;
	struct server first;

	(void)state;
	cluster_start(&cl, 1, 0);
	(void)await_leader(&cl);
	first = cl.server[0];
	assert_int_equal(server_start(&cl, 0, &err), -BLIX_E_BUSY);
	server_stop(&cl, 0);
	cl.server[0] = first;
	server_stop(&cl, 0);
	cluster_done(&cl);
}

static void stale_socket(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct blix_error err;
	struct cluster cl;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	cluster_init(&cl, SERVERS, 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", cl.members[0].address);
	assert_int_equal(file_make_dirs(cl.dir, 0700, &err), 0);
	{
		cleanup(freep) char *run = xasprintf("%s/run", cl.dir);

		assert_int_equal(file_make_dirs(run, 0700, &err), 0);
	}
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	/* Somebody listens there: not ours to remove. */
	assert_int_equal(server_start(&cl, 0, &err), -BLIX_E_BUSY);
	server_stop(&cl, 0);
	(void)close(fd);
	server_started(&cl, 0);
	server_stop(&cl, 0);
	assert_int_equal(file_write(cl.members[0].address, "x", 1, 0600, &err), 0);
	assert_int_equal(server_start(&cl, 0, &err), -BLIX_E_EXISTS);
	assert_true(file_exists(cl.members[0].address));
	cluster_done(&cl);
}

/* The path of a snapshot that server 0 has on disk, "" if none. */
static const char *stored_snapshot(const struct cluster *cl)
{
	static char path[512];
	cleanup(freep) char *dir = xasprintf("%s/raft0", cl->dir);
	uv_dirent_t entry;
	uv_fs_t req;

	path[0] = '\0';
	assert_true(uv_fs_scandir(NULL, &req, dir, 0, NULL) > 0);
	while (uv_fs_scandir_next(&req, &entry) == 0) {
		if (strncmp(entry.name, "snapshot-", 9) == 0 && strstr(entry.name, ".meta") == NULL)
			(void)snprintf(path, sizeof(path), "%s/%s", dir, entry.name);
	}
	uv_fs_req_cleanup(&req);
	return path;
}

static void damage(const char *path)
{
	uint8_t byte;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, 40), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, 40), 1);
	(void)close(fd);
}

static void damaged_snapshot_refused(void **state)
{
	struct blix_error err;
	struct cluster cl;

	(void)state;
	cluster_start(&cl, 1, 20);
	for (uint64_t i = 0; i < 25; i++)
		propose_done(&cl, await_leader(&cl), i);
	wait_for(&cl, *stored_snapshot(&cl) != '\0');
	server_stop(&cl, 0);
	damage(stored_snapshot(&cl));
	assert_int_equal(server_start(&cl, 0, &err), -BLIX_E_CORRUPT);
	assert_int_equal(cl.server[0].n_restores, 0);
	assert_int_equal(cl.server[0].n_fatal, 0);
	cluster_done(&cl);
}

/* Stops while a thread of the pool encodes: the snapshot is dropped, nothing is lost. */
static void close_during_snapshot(void **state)
{
	struct cluster cl;
	struct server *s;

	(void)state;
	cluster_start(&cl, 1, 20);
	s = await_leader(&cl);
	for (uint64_t i = 0; s->n_snapshots == 0; i++)
		propose_done(&cl, s, i);
	for (unsigned i = 0; i < 5; i++) {
		unsigned before = s->n_snapshots;
		struct answer a = {0};

		while (s->n_snapshots == before) {
			a.n = 0;
			propose(s, s->values.n, &a);
			while (a.n == 0 && s->n_snapshots == before)
				(void)uv_run(&cl.loop, UV_RUN_ONCE);
		}
		server_stop(&cl, 0);
		assert_int_equal(a.n, 1);
		server_started(&cl, 0);
		propose_done(&cl, await_leader(&cl), s->values.n);
	}
	for (uint64_t i = 0; i < s->values.n; i++)
		assert_int_equal(s->values.value[i], i);
	cluster_done(&cl);
}

static void on_raft_applied(struct raft_apply *req, int status, void *result)
{
	unsigned *n = req->data;

	(void)status;
	(void)result;
	(*n)++;
}

/* An entry that this program cannot read stops the server; nothing is applied after it. */
static void foreign_entry_is_fatal(void **state)
{
	struct raft_apply req = {0};
	struct raft_buffer buf = {.len = 64};
	struct answer a = {0};
	struct cluster cl;
	struct server *s;
	unsigned n = 0;

	(void)state;
	cluster_start(&cl, 1, 0);
	s = await_leader(&cl);
	propose_done(&cl, s, 0);
	buf.base = raft_malloc(buf.len);
	memset(buf.base, 'x', buf.len);
	req.data = &n;
	assert_int_equal(raft_apply(&s->c->raft, &req, &buf, 1, on_raft_applied), 0);
	propose(s, 1, &a);
	wait_for(&cl, s->n_fatal == 1 && n == 1);
	assert_int_equal(s->fatal.code, BLIX_E_CORRUPT);
	assert_int_equal(s->values.n, 1);
	server_stop(&cl, 0);
	assert_int_equal(a.n, 1);
	assert_true(a.status == -BLIX_E_UNKNOWN || a.status == -BLIX_E_NOLEADER);
	assert_int_equal(s->values.n, 1);
	cluster_done(&cl);
}

/* A leader that lost its followers cannot tell what became of a command. */
static void quorum_lost_is_unknown(void **state)
{
	struct answer a = {0};
	struct answer later = {0};
	struct answer read = {0};
	struct cluster cl;
	struct server *leader;

	(void)state;
	cluster_start(&cl, SERVERS, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 0);
	for (size_t i = 0; i < SERVERS; i++) {
		if (&cl.server[i] != leader)
			server_stop(&cl, i);
	}
	propose(leader, 1, &a);
	consensus_barrier(leader->c, on_barrier, &read);
	wait_for(&cl, a.n == 1 && read.n == 1);
	assert_true(a.status == -BLIX_E_UNKNOWN || a.status == -BLIX_E_NOLEADER);
	assert_int_equal(read.status, -BLIX_E_NOLEADER);
	wait_for(&cl, leader_of(&cl) == NULL);
	propose(leader, 2, &later);
	wait_for(&cl, later.n == 1);
	assert_int_equal(later.status, -BLIX_E_NOLEADER);
	cluster_done(&cl);
}

static void entry_forms(void **state)
{
	struct entry_header in = {.elapsed_ms = 5, .wall_ms = 6, .proposer = 7, .sequence = 8};
	struct entry_header out;
	struct entry_builder b;
	struct entry_reader reader;
	const uint8_t *command;
	size_t len;
	size_t n;

	(void)state;
	entry_init(&b);
	entry_add(&b, "abc", 3);
	entry_add(&b, "defgh", 5);
	len = entry_seal(&b, &in);
	entry_add(&b, "i", 1);
	len = entry_seal(&b, &in);
	assert_int_equal(len % 8, 0);
	assert_int_equal(entry_read(b.data, len, &out, &reader, NULL), 0);
	assert_int_equal(out.count, 3);
	assert_int_equal(out.sequence, 8);
	assert_true(entry_next(&reader, &command, &n));
	assert_int_equal(n, 3);
	assert_memory_equal(command, "abc", 3);
	assert_true(entry_next(&reader, &command, &n));
	assert_true(entry_next(&reader, &command, &n));
	assert_int_equal(n, 1);
	assert_false(entry_next(&reader, &command, &n));
	/* No single turned bit, and no shorter or longer form, is taken. */
	for (size_t bit = 0; bit < len * 8; bit++) {
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(entry_read(b.data, len, &out, &reader, NULL), -BLIX_E_CORRUPT);
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (n = 0; n < len; n++)
		assert_int_equal(entry_read(b.data, n, &out, &reader, NULL), -BLIX_E_CORRUPT);
	entry_done(&b);
}

/* The clock of the stamps follows the time that passed, not the number of batches in flight. */
static void stamps_follow_the_clock(void **state)
{
	struct answer a[400] = {0};
	struct cluster cl;
	struct server *leader;
	uint64_t since;
	uint64_t passed;

	(void)state;
	cluster_start(&cl, SERVERS, 0);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 0);
	assert_int_equal(leader->unknown_stamps, 1); /* only the first of a life */
	leader->elapsed_ms = 0;
	since = clock_boot_ms();
	for (size_t i = 0; i < array_size(a); i++) {
		propose(leader, i, &a[i]);
		(void)uv_run(&cl.loop, UV_RUN_NOWAIT);
	}
	wait_for(&cl, answered(a, array_size(a)) == array_size(a));
	passed = clock_boot_ms() - since;
	propose_done(&cl, leader, 0);
	assert_int_equal(leader->unknown_stamps, 1);
	assert_true(leader->elapsed_ms >= passed / 2);
	assert_true(leader->elapsed_ms <= clock_boot_ms() - since + 100);
	cluster_done(&cl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entry_forms),
		cmocka_unit_test(batch_is_one_entry),
		cmocka_unit_test(followers_refuse),
		cmocka_unit_test(leader_lost),
		cmocka_unit_test(close_answers_all),
		cmocka_unit_test(busy_at_the_limit),
		cmocka_unit_test(busy_with_big_ones),
		cmocka_unit_test(barriers_share),
		cmocka_unit_test(restart_from_log),
		cmocka_unit_test(restart_from_snapshot),
		cmocka_unit_test(lagging_follower),
		cmocka_unit_test(other_cluster_refused),
		cmocka_unit_test(strangers_hung_up_on),
		cmocka_unit_test(one_owner),
		cmocka_unit_test(stale_socket),
		cmocka_unit_test(damaged_snapshot_refused),
		cmocka_unit_test(close_during_snapshot),
		cmocka_unit_test(foreign_entry_is_fatal),
		cmocka_unit_test(quorum_lost_is_unknown),
		cmocka_unit_test(stamps_follow_the_clock),
	};

	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
