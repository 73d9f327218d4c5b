/* Servers of a cluster over TLS: three real consensus on one loop, each with an address and a
 * certificate of its own, and strangers who call them. */
#include "base/alloc.h"
#include "base/limits.h"
#include "raft/bytes.h"
#include "raft/consensus.h"
#include "raft/peer.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "tls/session.h"
#include "tls_world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#define SERVERS     3
#define DEADLINE_MS 60000
#define PADDING     (16u << 20) /* of a snapshot that is to be big */

struct server {
	struct consensus *c;
	struct tls_credentials *credentials;
	uint64_t n;   /* commands applied */
	uint64_t sum; /* of their values, in order */
	size_t padding;
	unsigned n_views;
	unsigned n_restores;
	uint64_t deny; /* a node */
	bool closed;
};

struct cluster {
	uv_loop_t loop;
	char dir[64];
	struct tls_pem ca;
	struct consensus_member members[SERVERS];
	struct server server[SERVERS];
	size_t padding;
	unsigned election_timeout_ms;
};

static void fsm_begin(void *data, uint64_t index, const struct consensus_stamp *stamp)
{
	(void)data, (void)index, (void)stamp;
}

static void fsm_apply(void *data, const uint8_t *command, size_t n, struct command_result *ret)
{
	struct server *s = data;

	assert_int_equal(n, 8);
	s->sum = s->sum * 31 + get_u64(command);
	ret->revision = ++s->n;
}

static void fsm_end(void *data)
{
	(void)data;
}

static void *fsm_view(void *data)
{
	struct server *s = data;
	struct server *view = xcalloc(1, sizeof(*view));

	s->n_views++;
	*view = *s;
	return view;
}

static int fsm_encode(const void *data, struct buf *out)
{
	const struct server *view = data;
	uint8_t head[16];
	char *room;
	int rc;

	put_u64(head, view->n);
	put_u64(head + 8, view->sum);
	rc = buf_add(out, head, sizeof(head));
	room = rc < 0 ? NULL : buf_room(out, view->padding);
	if (room == NULL)
		return -BLIX_E_NOMEM;
	for (size_t i = 0; i < view->padding; i++)
		room[i] = (char)(i * 131 + (i >> 9));
	buf_grew(out, view->padding);
	return 0;
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

	(void)index, (void)err;
	assert_int_equal(n, 16 + s->padding);
	for (size_t i = 0; i < s->padding; i++) {
		if ((char)bytes[16 + i] != (char)(i * 131 + (i >> 9)))
			fail_msg("byte %zu of the snapshot is another", i);
	}
	s->n = get_u64(bytes);
	s->sum = get_u64(bytes + 8);
	s->n_restores++;
	return 0;
}

static void on_fatal(void *data, const struct blix_error *err)
{
	(void)data;
	fail_msg("fatal: %s", err->text);
}

static bool on_denied(void *data, const struct tls_identity *peer)
{
	const struct server *s = data;

	return s->deny == peer->node;
}

static void on_closed(void *data)
{
	struct server *s = data;

	s->c = NULL;
	s->closed = true;
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
		assert_int_equal(uv_timer_start(&wake_, on_wake, 10, 10), 0);                      \
		while (!(condition) && clock_boot_ms() - since_ < DEADLINE_MS)                     \
			(void)uv_run(&(cluster)->loop, UV_RUN_ONCE);                               \
		uv_close((uv_handle_t *)&wake_, NULL);                                             \
		(void)uv_run(&(cluster)->loop, UV_RUN_NOWAIT);                                     \
		if (!(condition))                                                                  \
			fail_msg("never came true: %s", #condition);                               \
	} while (0)

/* A loopback address that no other process of this host takes. */
static char *own_address(size_t i)
{
	unsigned pid = (unsigned)getpid();

	return xasprintf("127.%u.%u.%u:%zu", 1 + (pid >> 16) % 250, (pid >> 8) & 255,
	                 1 + (pid & 255) % 254, 7443 + i);
}

static void cluster_init(struct cluster *cl)
{
	memset(cl, 0, sizeof(*cl));
	cl->election_timeout_ms = 300;
	assert_int_equal(uv_loop_init(&cl->loop), 0);
	(void)snprintf(cl->dir, sizeof(cl->dir), "/tmp/peers.XXXXXX");
	assert_non_null(mkdtemp(cl->dir));
	tls_world_ca(TLS_WORLD, &cl->ca);
	for (size_t i = 0; i < SERVERS; i++) {
		cl->members[i] = (struct consensus_member){
			.id = 100 + i,
			.name = xasprintf("s%zu", i),
			.address = own_address(i),
		};
	}
}

static int server_open(struct cluster *cl, size_t i, struct tls_credentials *credentials,
                       struct blix_error *err)
{
	struct server *s = &cl->server[i];
	cleanup(freep) char *dir = xasprintf("%s/raft%zu", cl->dir, i);
	struct consensus_config config = {
		.loop = &cl->loop,
		.dir = dir,
		.cluster = TLS_WORLD,
		.id = cl->members[i].id,
		.members = cl->members,
		.n_members = SERVERS,
		.election_timeout_ms = cl->election_timeout_ms,
		.snapshot_threshold = 16,
		.snapshot_trailing = 4,
		.fsm = {s, fsm_begin, fsm_apply, fsm_end, fsm_view, fsm_encode, fsm_release,
	                fsm_restore},
		.credentials = credentials,
		.denied = on_denied,
		.fatal = on_fatal,
	};

	*s = (struct server){.credentials = credentials, .padding = cl->padding};
	return consensus_open(&config, &s->c, err);
}

static void server_start(struct cluster *cl, size_t i)
{
	struct blix_error err;
	struct tls_credentials *c = tls_world_node(&cl->ca, TLS_SERVER, cl->members[i].id);

	if (server_open(cl, i, c, &err) != 0 || consensus_start(cl->server[i].c, &err) != 0)
		fail_msg("start: %s", err.text);
}

static void server_stop(struct cluster *cl, size_t i)
{
	struct server *s = &cl->server[i];

	consensus_close(s->c, on_closed, s);
	wait_for(cl, s->closed);
	credentials_free(s->credentials);
}

static void cluster_start(struct cluster *cl)
{
	cluster_init(cl);
	for (size_t i = 0; i < SERVERS; i++)
		server_start(cl, i);
}

static void cluster_done(struct cluster *cl)
{
	for (size_t i = 0; i < SERVERS; i++) {
		if (cl->server[i].c != NULL)
			server_stop(cl, i);
		free(cl->members[i].name);
		free(cl->members[i].address);
	}
	(void)uv_run(&cl->loop, UV_RUN_NOWAIT);
	assert_int_equal(uv_loop_close(&cl->loop), 0);
	tls_pem_done(&cl->ca);
	assert_int_equal(file_remove_tree(cl->dir, NULL), 0);
}

static struct server *leader_of(struct cluster *cl)
{
	struct consensus_status status;

	for (size_t i = 0; i < SERVERS; i++) {
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
	struct server *leader;

	wait_for(cl, leader_of(cl) != NULL);
	leader = leader_of(cl);
	if (leader == NULL)
		abort(); /* no time has passed */
	return leader;
}

struct answer {
	bool done;
	int status;
};

static void on_answer(void *data, int status, const struct command_result *result)
{
	struct answer *a = data;

	(void)result;
	a->done = true;
	a->status = status;
}

/* Until a leader has taken it; one that lost its lead may have, too. */
static void propose(struct cluster *cl, uint64_t value)
{
	struct answer a;
	uint8_t bytes[8];

	put_u64(bytes, value);
	do {
		a = (struct answer){0};
		consensus_propose(await_leader(cl)->c, bytes, sizeof(bytes), on_answer, &a);
		wait_for(cl, a.done);
	} while (a.status == -BLIX_E_NOLEADER || a.status == -BLIX_E_UNKNOWN);
	assert_int_equal(a.status, 0);
}

/* All that run have what the leader has, which is at least n commands. */
static bool agree(struct cluster *cl, const struct server *except, uint64_t n)
{
	const struct server *leader = leader_of(cl);

	if (leader == NULL || leader->n < n)
		return false;
	for (size_t i = 0; i < SERVERS; i++) {
		const struct server *s = &cl->server[i];

		if (s != except && s->c != NULL && (s->n != leader->n || s->sum != leader->sum))
			return false;
	}
	return true;
}

static void replicates(void **state)
{
	struct cluster cl;
	uint64_t age;

	(void)state;
	cluster_start(&cl);
	for (uint64_t i = 1; i <= 10; i++)
		propose(&cl, i);
	wait_for(&cl, agree(&cl, NULL, 10));
	for (size_t i = 0; i < SERVERS; i++) {
		struct server *s = &cl.server[i];

		if (s != leader_of(&cl))
			assert_true(
				consensus_peer_seen(await_leader(&cl)->c, cl.members[i].id, &age));
	}
	cluster_done(&cl);
}

/* Takes two more snapshots: the log begins behind the first of them then. */
static uint64_t snapshots(struct cluster *cl, uint64_t n)
{
	unsigned first = cl->server[0].n_views;
	unsigned second = cl->server[1].n_views;

	while (cl->server[0].n_views < first + 2 || cl->server[1].n_views < second + 2)
		propose(cl, ++n);
	wait_for(cl, agree(cl, NULL, n));
	return n;
}

/* One message of 16 MiB through pumps that hold 16 KiB. */
static void big_snapshot(void **state)
{
	struct cluster cl;
	cleanup(freep) char *dir = NULL;
	uint64_t n = 0;

	(void)state;
	cluster_init(&cl);
	cl.padding = PADDING;
	cl.election_timeout_ms = 3000; /* a follower hears nothing while a snapshot travels */
	dir = xasprintf("%s/raft2", cl.dir);
	server_start(&cl, 0);
	server_start(&cl, 1);
	n = snapshots(&cl, n);
	server_start(&cl, 2);
	wait_for(&cl, agree(&cl, NULL, n));
	/* libraft may have kept more of its log than it was told to: once more with nothing. */
	for (unsigned i = 0; i < 10 && cl.server[2].n_restores == 0; i++) {
		server_stop(&cl, 2);
		assert_int_equal(file_remove_tree(dir, NULL), 0);
		n = snapshots(&cl, n);
		server_start(&cl, 2);
		wait_for(&cl, agree(&cl, NULL, n));
	}
	assert_true(cl.server[2].n_restores > 0);
	propose(&cl, ++n);
	wait_for(&cl, agree(&cl, NULL, n));
	cluster_done(&cl);
}

/* Cuts every TCP connection of this process, both ends of it: returns how many. */
static unsigned cut_all(void)
{
	struct sockaddr_storage address = {0};
	unsigned n_cut = 0;

	for (int fd = 0; fd < 1024; fd++) {
		socklen_t n = sizeof(address);

		if (getpeername(fd, (struct sockaddr *)&address, &n) == 0 &&
		    address.ss_family == AF_INET && shutdown(fd, SHUT_RDWR) == 0)
			n_cut++;
	}
	return n_cut;
}

static void connections_are_made_again(void **state)
{
	struct cluster cl;
	uint64_t n = 0;

	(void)state;
	cluster_start(&cl);
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < 10; i++)
			propose(&cl, ++n);
		wait_for(&cl, agree(&cl, NULL, n));
		assert_true(cut_all() >= 4);
	}
	propose(&cl, ++n);
	wait_for(&cl, agree(&cl, NULL, n));
	cluster_done(&cl);
}

/* All get new certificates; connections made from then on show them. */
static void certificates_rotate(void **state)
{
	struct tls_identity who = {.kind = TLS_SERVER};
	struct cluster cl;
	struct tls_pem own;

	(void)state;
	cluster_start(&cl);
	propose(&cl, 1);
	for (size_t i = 0; i < SERVERS; i++) {
		who.node = cl.members[i].id;
		(void)snprintf(who.name, sizeof(who.name), "%s", cl.members[i].name);
		tls_world_issue(&cl.ca, who, &own);
		assert_int_equal(
			credentials_replace(cl.server[i].credentials, &cl.ca.cert, &own, NULL), 0);
		tls_pem_done(&own);
	}
	assert_true(cut_all() >= 2);
	propose(&cl, 2);
	wait_for(&cl, agree(&cl, NULL, 2));
	cluster_done(&cl);
}

/* A server that the others deny gets nothing any more; when they no longer do, it catches up. */
static void denied(void **state)
{
	struct cluster cl;
	struct server *out;

	(void)state;
	cluster_start(&cl);
	propose(&cl, 1);
	wait_for(&cl, agree(&cl, NULL, 1));
	out = &cl.server[leader_of(&cl) == &cl.server[0] ? 1 : 0];
	for (size_t i = 0; i < SERVERS; i++) {
		if (&cl.server[i] == out)
			continue;
		cl.server[i].deny = cl.members[out - cl.server].id;
		consensus_recheck_peers(cl.server[i].c);
	}
	for (uint64_t i = 2; i <= 60; i++)
		propose(&cl, i);
	wait_for(&cl, agree(&cl, out, 60));
	assert_int_equal(out->n, 1);
	for (size_t i = 0; i < SERVERS; i++)
		cl.server[i].deny = 0;
	wait_for(&cl, agree(&cl, NULL, 60));
	cluster_done(&cl);
}

/* Of a CA with the same name: the other two go on without it. */
static void other_ca(void **state)
{
	struct tls_credentials *c;
	struct cluster cl;
	struct tls_pem fake;
	struct blix_error err;

	(void)state;
	cluster_init(&cl);
	server_start(&cl, 0);
	server_start(&cl, 1);
	tls_world_ca(TLS_WORLD, &fake);
	c = tls_world_node(&fake, TLS_SERVER, cl.members[2].id);
	assert_int_equal(server_open(&cl, 2, c, &err), 0);
	assert_int_equal(consensus_start(cl.server[2].c, &err), 0);
	for (uint64_t i = 1; i <= 60; i++)
		propose(&cl, i);
	wait_for(&cl, agree(&cl, &cl.server[2], 60));
	assert_int_equal(cl.server[2].n, 0);
	tls_pem_done(&fake);
	cluster_done(&cl);
}

static void what_cannot_start(void **state)
{
	struct tls_credentials *c;
	struct cluster cl;
	struct tls_pem other;
	struct blix_error err;

	(void)state;
	cluster_init(&cl);
	assert_int_equal(server_open(&cl, 0, NULL, &err), 0);
	assert_int_equal(consensus_start(cl.server[0].c, &err), -BLIX_E_SPEC);
	server_stop(&cl, 0);
	tls_world_ca(TLS_OTHER, &other);
	c = tls_world_node(&other, TLS_SERVER, 100);
	assert_int_equal(server_open(&cl, 0, c, &err), -BLIX_E_SPEC);
	credentials_free(c);
	/* What is neither a path nor HOST:PORT. */
	xreplace(&cl.members[0].address, "a b:1");
	c = tls_world_node(&cl.ca, TLS_SERVER, 100);
	assert_int_equal(server_open(&cl, 0, c, &err), 0);
	assert_int_equal(consensus_start(cl.server[0].c, &err), -BLIX_E_INVALID);
	tls_pem_done(&other);
	cluster_done(&cl);
}

/* Somebody who calls a server. */
struct stranger {
	struct tls_session *session;
	int fd;
	bool closed;
	int status;
	char reason[40];
	size_t n;
	uint8_t in[PEER_HELLO];
	bool ended;
};

static void stranger_opened(void *data, int fd, const struct tls_identity *peer)
{
	struct stranger *st = data;

	(void)peer;
	st->fd = fd;
}

static void stranger_closed(void *data, int status, const struct blix_error *err)
{
	struct stranger *st = data;

	st->closed = true;
	st->status = status;
	if (err != NULL)
		(void)snprintf(st->reason, sizeof(st->reason), "%s", blix_error_reason(err));
}

static const struct tls_session_events stranger_events = {
	.opened = stranger_opened,
	.closed = stranger_closed,
};

static void stranger_call(struct cluster *cl, struct stranger *st, const struct tls_credentials *c)
{
	struct tls_session_config config = {.loop = &cl->loop, .credentials = c};
	struct sockaddr_in address = {.sin_family = AF_INET};
	char host[PARSE_HOST];
	uint16_t port;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*st = (struct stranger){.fd = -1};
	assert_int_equal(parse_address(cl->members[0].address, host, &port, NULL), 0);
	assert_int_equal(inet_pton(AF_INET, host, &address.sin_addr), 1);
	address.sin_port = htons(port);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(tls_session_open(&config, fd, &stranger_events, st, &st->session, NULL),
	                 0);
}

/* Whom TLS itself lets not in: a stranger's own end opens before the server has looked. */
static void call_refused(struct cluster *cl, struct tls_credentials *c)
{
	struct stranger st;

	stranger_call(cl, &st, c);
	wait_for(cl, st.closed);
	assert_int_equal(st.status, -BLIX_E_DENIED);
	assert_string_equal(st.reason, "refused-by-peer");
	closep(&st.fd);
	credentials_free(c);
}

static bool stranger_read(struct stranger *st)
{
	ssize_t n;

	while (!st->ended && st->n < sizeof(st->in) &&
	       (n = recv(st->fd, st->in + st->n, sizeof(st->in) - st->n, MSG_DONTWAIT)) >= 0) {
		st->ended = n == 0;
		st->n += (size_t)n;
	}
	return true;
}

/* Says the hello of server `id`; returns the status of the answer. */
static unsigned call_greets(struct cluster *cl, struct tls_credentials *c, uint64_t id)
{
	uint8_t hello[PEER_HEADER + 32] = {0};
	struct stranger st;

	put_u32(hello, 0x52584c42u);
	put_u16(hello + 4, 1);
	put_u16(hello + 8, 32);
	put_u64(hello + 12, id);
	memcpy(hello + PEER_HEADER, TLS_WORLD, 32);
	stranger_call(cl, &st, c);
	wait_for(cl, st.fd >= 0);
	assert_int_equal(send(st.fd, hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	wait_for(cl, stranger_read(&st) && st.n >= PEER_HEADER);
	closep(&st.fd);
	wait_for(cl, st.closed);
	credentials_free(c);
	return get_u16(st.in + 6);
}

static void strangers(void **state)
{
	struct tls_identity user = {.kind = TLS_USER, .role = TLS_ADMIN, .name = "ada"};
	struct tls_identity old = {.kind = TLS_SERVER, .node = 101, .name = "s1"};
	struct cluster cl;

	(void)state;
	cluster_start(&cl);
	propose(&cl, 1);
	old.not_after_ms = clock_wall_ms() - 5000;
	call_refused(&cl, tls_world_node(&cl.ca, TLS_WORKER, 101));
	call_refused(&cl, tls_world_credentials(&cl.ca, user));
	call_refused(&cl, tls_world_credentials(&cl.ca, old));
	/* A server's own certificate is good for its own id alone. */
	assert_int_equal(call_greets(&cl, tls_world_node(&cl.ca, TLS_SERVER, 101), 102), 3);
	assert_int_equal(call_greets(&cl, tls_world_node(&cl.ca, TLS_SERVER, 100), 100), 3);
	assert_int_equal(call_greets(&cl, tls_world_node(&cl.ca, TLS_SERVER, 77), 77), 3);
	assert_int_equal(call_greets(&cl, tls_world_node(&cl.ca, TLS_SERVER, 101), 101), 0);
	/* None of them has done any harm. */
	propose(&cl, 2);
	wait_for(&cl, agree(&cl, NULL, 2));
	cluster_done(&cl);
}

/* Many who connect and say nothing, and connect again as soon as they are cut off. */
struct crowd {
	struct sockaddr_in address;
	int fds[200];
	unsigned n_cut;
};

static void crowd_connect(struct crowd *crowd, size_t i)
{
	crowd->fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	(void)connect(crowd->fds[i], (struct sockaddr *)&crowd->address, sizeof(crowd->address));
}

static void on_crowd(uv_timer_t *timer)
{
	struct crowd *crowd = timer->data;
	unsigned n = 0;
	char byte;

	for (size_t i = 0; i < array_size(crowd->fds) && n < 10; i++) {
		if (recv(crowd->fds[i], &byte, 1, 0) < 0 && (errno == EAGAIN || errno == ENOTCONN))
			continue;
		(void)close(crowd->fds[i]);
		crowd_connect(crowd, i);
		crowd->n_cut++;
		n++;
	}
}

/* They do not keep the servers apart: the oldest has to go when another comes. */
static void silent_crowd(void **state)
{
	struct crowd crowd = {.address = {.sin_family = AF_INET}};
	struct cluster cl;
	char host[PARSE_HOST];
	uint16_t port;
	uv_timer_t timer;

	(void)state;
	cluster_init(&cl);
	server_start(&cl, 0);
	assert_int_equal(parse_address(cl.members[0].address, host, &port, NULL), 0);
	assert_int_equal(inet_pton(AF_INET, host, &crowd.address.sin_addr), 1);
	crowd.address.sin_port = htons(port);
	for (size_t i = 0; i < array_size(crowd.fds); i++)
		crowd_connect(&crowd, i);
	timer.data = &crowd;
	assert_int_equal(uv_timer_init(&cl.loop, &timer), 0);
	assert_int_equal(uv_timer_start(&timer, on_crowd, 10, 10), 0);
	wait_for(&cl, crowd.n_cut > 0);
	server_start(&cl, 1);
	server_start(&cl, 2);
	for (uint64_t i = 1; i <= 20; i++)
		propose(&cl, i);
	wait_for(&cl, agree(&cl, NULL, 20));
	uv_close((uv_handle_t *)&timer, NULL);
	for (size_t i = 0; i < array_size(crowd.fds); i++)
		(void)close(crowd.fds[i]);
	cluster_done(&cl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replicates),
		cmocka_unit_test(big_snapshot),
		cmocka_unit_test(connections_are_made_again),
		cmocka_unit_test(certificates_rotate),
		cmocka_unit_test(denied),
		cmocka_unit_test(other_ca),
		cmocka_unit_test(what_cannot_start),
		cmocka_unit_test(strangers),
		cmocka_unit_test(silent_crowd),
	};

	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
