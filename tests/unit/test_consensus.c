/* lib/raft: three servers in one loop elect, commit in batches, survive restarts and the loss of
 * their leader, and answer every proposal exactly once. */
#include "base/limits.h"
#include "raft/bytes.h"
#include "raft/entry.h"
#include "raft/internal.h"
#include "raft_cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <raft.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define SERVERS 3

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
