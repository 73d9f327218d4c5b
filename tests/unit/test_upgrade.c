/* Connections that leave HTTP: lib/http's upgrade, lib/sys/wire on both ends of it, and the text of
 * base/upgrade.h. One loop; a guard timer turns a hang into a failure. */
#include "base/alloc.h"
#include "base/limits.h"
#include "base/upgrade.h"
#include "http/server.h"
#include "sys/file.h"
#include "sys/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#define GUARD_MS   20000
#define MUCH_BYTES (20u << 20)

/* The server's end of one upgraded connection: sends back what comes. */
struct echo {
	struct fixture *f;
	struct wire *wire;
	struct http_upgrade *upgrade;
};

struct fixture {
	uv_loop_t loop;
	uv_timer_t guard;
	char dir[64], path[96];
	struct http_server *server;
	bool server_closed;
	struct http_request *waiting;
	struct echo *echo; /* the last one */
	unsigned opened, missed, ended, cancelled;
};

static void echo_closed(void *data)
{
	struct echo *echo = data;

	echo->f->echo = NULL;
	http_upgrade_close(echo->upgrade);
	free(echo);
}

static void echo_close(struct echo *echo)
{
	echo->f->ended++;
	wire_close(echo->wire, echo_closed, echo);
}

static void echo_read(void *data, const char *bytes, size_t n)
{
	struct echo *echo = data;
	struct blix_error err;

	assert_int_equal(wire_write(echo->wire, bytes, n, &err), 0);
	if (wire_full(echo->wire))
		wire_pause(echo->wire);
}

static void echo_drained(void *data)
{
	wire_resume(((struct echo *)data)->wire);
}

static void echo_ended(void *data, int status)
{
	(void)status;
	echo_close(data);
}

static const struct wire_events echo_events = {echo_read, echo_drained, echo_ended};

static void on_taken(void *data, struct http_upgrade *upgrade, int fd, const char *bytes, size_t n)
{
	struct fixture *f = data;
	struct echo *echo;

	if (upgrade == NULL) {
		assert_int_equal(fd, -1);
		f->missed++;
		return;
	}
	echo = xcalloc(1, sizeof(*echo));
	echo->f = f;
	echo->upgrade = upgrade;
	assert_int_equal(wire_open(&f->loop, fd, &echo_events, echo, &echo->wire, NULL), 0);
	f->echo = echo;
	f->opened++;
	if (n > 0)
		echo_read(echo, bytes, n);
	wire_resume(echo->wire);
}

static void handle_echo(struct http_request *request, void *data)
{
	struct blix_error err;

	if (!http_wants_upgrade(request, UPGRADE_PROTOCOL)) {
		(void)blix_fail(&err, BLIX_E_INVALID, "ask for an upgrade");
		http_answer_error(request, &err, NULL);
		return;
	}
	http_answer_upgrade(request, UPGRADE_PROTOCOL, on_taken, data);
}

static void on_cancelled(void *data)
{
	struct fixture *f = data;

	f->cancelled++;
	f->waiting = NULL;
}

static void handle_late(struct http_request *request, void *data)
{
	struct fixture *f = data;

	f->waiting = request;
	http_on_cancel(request, on_cancelled, f);
}

static const struct http_route routes[] = {
	{.method = "POST", .path = "/echo", .handler = handle_echo, .body_max = 64},
	{.method = "POST", .path = "/late", .handler = handle_late, .body_max = 64},
};

static void on_guard(uv_timer_t *guard)
{
	(void)guard;
	fail_msg("nothing happened for %d ms", GUARD_MS);
}

static void server_is_closed(void *data)
{
	((struct fixture *)data)->server_closed = true;
}

static struct fixture *fixture_open(void)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct http_config config = {.socket_path = f->path,
	                             .mode = 0600,
	                             .group = (gid_t)-1,
	                             .routes = routes,
	                             .n = array_size(routes),
	                             .data = f};

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/blix-upgrade-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	(void)uv_timer_init(&f->loop, &f->guard);
	(void)uv_timer_start(&f->guard, on_guard, GUARD_MS, 0);
	config.idle_ms = 1000; /* an upgraded connection may be idle for longer */
	assert_int_equal(http_server_open(&f->loop, &config, &f->server, NULL), 0);
	return f;
}

static void fixture_close(struct fixture *f)
{
	if (f->server != NULL)
		http_server_close(f->server, server_is_closed, f);
	while (!f->server_closed || f->echo != NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&f->guard, NULL);
	(void)uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
}

/* A client: asks, takes the head of the answer off, counts and checks what follows. */
struct client {
	struct fixture *f;
	struct wire *wire;
	struct buf head;
	struct upgrade_head answer;
	bool answered, ended;
	size_t sent, got;
	bool wrong;
};

static char byte_at(size_t i)
{
	return (char)('a' + i % 25);
}

static void client_read(void *data, const char *bytes, size_t n)
{
	struct client *c = data;

	if (!c->answered) {
		assert_int_equal(buf_add(&c->head, bytes, n), 0);
		c->answered = upgrade_read(c->head.data, c->head.len, &c->answer, NULL) == 1;
		if (!c->answered)
			return;
		bytes = c->head.data + c->answer.n;
		n = c->head.len - c->answer.n;
	}
	for (size_t i = 0; i < n; i++)
		c->wrong = c->wrong || bytes[i] != byte_at(c->got + i);
	c->got += n;
}

static void client_more(void *data)
{
	struct client *c = data;
	char piece[50000];

	while (c->sent < MUCH_BYTES && !wire_full(c->wire)) {
		for (size_t i = 0; i < sizeof(piece); i++)
			piece[i] = byte_at(c->sent + i);
		assert_int_equal(wire_write(c->wire, piece, sizeof(piece), NULL), 0);
		c->sent += sizeof(piece);
	}
}

static void client_ended(void *data, int status)
{
	(void)status;
	((struct client *)data)->ended = true;
}

static const struct wire_events client_events = {client_read, client_more, client_ended};

static void client_open(struct fixture *f, struct client *c, const char *path)
{
	struct buf ask;

	memset(c, 0, sizeof(*c));
	c->f = f;
	buf_init(&c->head, 1u << 20);
	buf_init(&ask, 4096);
	assert_int_equal(upgrade_ask(&ask, path, NULL, "{}"), 0);
	assert_int_equal(wire_connect(&f->loop, f->path, &client_events, c, &c->wire, NULL), 0);
	assert_int_equal(wire_write(c->wire, ask.data, ask.len, NULL), 0);
	buf_done(&ask);
	wire_resume(c->wire);
}

static void client_close(struct client *c)
{
	wire_close(c->wire, NULL, NULL);
	buf_done(&c->head);
}

#define wait_until(f, condition)                                                                   \
	do {                                                                                       \
		while (!(condition))                                                               \
			(void)uv_run(&(f)->loop, UV_RUN_ONCE);                                     \
	} while (0)

static void much_both_ways(void **state)
{
	struct fixture *f = fixture_open();
	struct client c;

	(void)state;
	client_open(f, &c, "/echo");
	wait_until(f, c.answered);
	assert_int_equal(c.answer.status, 101);
	client_more(&c);
	wait_until(f, c.got >= MUCH_BYTES);
	assert_int_equal(c.got, c.sent);
	assert_false(c.wrong);
	assert_int_equal(http_server_connections(f->server), 1);
	wire_end(c.wire);
	wait_until(f, c.ended);
	assert_int_equal(f->ended, 1);
	wait_until(f, http_server_connections(f->server) == 0);
	client_close(&c);
	fixture_close(f);
}

/* A client that reads nothing: the echo stops reading, and holds its queue at most. */
static void slow_reader(void **state)
{
	struct fixture *f = fixture_open();
	struct client c;
	size_t before = SIZE_MAX;

	(void)state;
	client_open(f, &c, "/echo");
	wait_until(f, c.answered);
	wire_pause(c.wire);
	client_more(&c);
	/* Until no more leaves: both queues and the sockets' buffers are full. */
	while (before != c.sent) {
		before = c.sent;
		for (int i = 0; i < 100; i++)
			(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	}
	assert_true(c.sent < 2 * LIMIT_WIRE_QUEUE + (2u << 20));
	wire_resume(c.wire);
	wait_until(f, c.got >= MUCH_BYTES);
	assert_false(c.wrong);
	client_close(&c);
	fixture_close(f);
}

static void idle_is_no_end(void **state)
{
	struct fixture *f = fixture_open();
	struct client c;
	uint64_t until;

	(void)state;
	client_open(f, &c, "/echo");
	wait_until(f, c.answered);
	until = uv_now(&f->loop) + 2500; /* the server's idle limit is 1000 */
	while (uv_now(&f->loop) < until) {
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
		uv_update_time(&f->loop);
	}
	assert_false(c.ended);
	assert_int_equal(wire_write(c.wire, "abc", 3, NULL), 0);
	wait_until(f, c.got == 3);
	client_close(&c);
	fixture_close(f);
}

/* What is queued still leaves when the server's end is closed. */
static void last_words(void **state)
{
	struct fixture *f = fixture_open();
	char *much = xcalloc(1, 900000);
	struct client c;

	(void)state;
	for (size_t i = 0; i < 900000; i++)
		much[i] = byte_at(i);
	client_open(f, &c, "/echo");
	wait_until(f, c.answered);
	wire_pause(c.wire);
	assert_int_equal(wire_write(f->echo->wire, much, 900000, NULL), 0);
	assert_int_equal(wire_write(f->echo->wire, much, 900000, NULL), -(int)BLIX_E_BUSY);
	echo_close(f->echo);
	assert_int_equal(http_server_connections(f->server), 1);
	wire_resume(c.wire);
	wait_until(f, c.ended);
	assert_int_equal(c.got, 900000);
	wait_until(f, http_server_connections(f->server) == 0);
	assert_false(c.wrong);
	client_close(&c);
	free(much);
	fixture_close(f);
}

static void server_closes(void **state)
{
	struct fixture *f = fixture_open();
	struct client a, b;

	(void)state;
	client_open(f, &a, "/echo");
	wait_until(f, a.answered);
	client_open(f, &b, "/late");
	wait_until(f, f->waiting != NULL);
	http_server_close(f->server, server_is_closed, f);
	f->server = NULL;
	wait_until(f, a.ended && f->server_closed);
	assert_int_equal(f->ended, 1);
	assert_int_equal(f->cancelled, 1);
	client_close(&a);
	client_close(&b);
	fixture_close(f);
}

/* The client leaves when its request was taken and the 101 has not left. */
static void client_leaves(void **state)
{
	struct fixture *f = fixture_open();
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct buf ask;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	buf_init(&ask, 4096);
	assert_int_equal(upgrade_ask(&ask, "/late", NULL, ""), 0);
	memcpy(address.sun_path, f->path, strlen(f->path));
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(send(fd, ask.data, ask.len, 0), ask.len);
	buf_done(&ask);
	wait_until(f, f->waiting != NULL);
	(void)close(fd);
	http_answer_upgrade(f->waiting, UPGRADE_PROTOCOL, on_taken, f);
	wait_until(f, f->missed == 1);
	wait_until(f, http_server_connections(f->server) == 0);
	assert_int_equal(f->opened, 0);
	fixture_close(f);
}

static void answered_late(void **state)
{
	struct fixture *f = fixture_open();
	struct client c;

	(void)state;
	client_open(f, &c, "/late");
	wait_until(f, f->waiting != NULL);
	assert_true(http_wants_upgrade(f->waiting, UPGRADE_PROTOCOL));
	assert_false(http_wants_upgrade(f->waiting, "websocket"));
	http_answer_upgrade(f->waiting, UPGRADE_PROTOCOL, on_taken, f);
	wait_until(f, c.answered);
	assert_int_equal(c.answer.status, 101);
	assert_int_equal(wire_write(c.wire, "abcd", 4, NULL), 0);
	wait_until(f, c.got == 4);
	assert_false(c.wrong);
	client_close(&c);
	fixture_close(f);
}

static void not_asked(void **state)
{
	struct fixture *f = fixture_open();
	static const char plain[] =
		"POST /echo HTTP/1.1\r\nHost: blix\r\nContent-Length: 0\r\n\r\n";
	struct client c;

	(void)state;
	memset(&c, 0, sizeof(c));
	buf_init(&c.head, 1u << 20);
	assert_int_equal(wire_connect(&f->loop, f->path, &client_events, &c, &c.wire, NULL), 0);
	assert_int_equal(wire_write(c.wire, plain, strlen(plain), NULL), 0);
	wire_resume(c.wire);
	wait_until(f, c.answered);
	assert_int_equal(c.answer.status, 400);
	assert_true(c.answer.content_length > 0);
	client_close(&c);
	fixture_close(f);
}

static void nobody_listens(void **state)
{
	struct fixture *f = fixture_open();
	struct wire *wire = NULL;
	char path[128];

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/other", f->dir);
	assert_int_equal(wire_connect(&f->loop, path, &client_events, f, &wire, NULL),
	                 -(int)BLIX_E_NOTFOUND);
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(wire_connect(&f->loop, path, &client_events, f, &wire, NULL),
	                 -(int)BLIX_E_INVALID);
	fixture_close(f);
}

static void heads(void **state)
{
	static const char good[] = "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nrest";
	static const char error[] = "HTTP/1.1 404 Not Found\r\ncontent-length: 12\r\n\r\n";
	static const char *const bad[] = {
		"HTTP/1.0 101 X\r\n\r\n",
		"HTTP/1.1 1x1 X\r\n\r\n",
		"HTTP/1.1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
	};
	struct upgrade_head head;
	char long_head[9000];

	(void)state;
	assert_int_equal(upgrade_read(good, strlen(good), &head, NULL), 1);
	assert_int_equal(head.status, 101);
	assert_string_equal(good + head.n, "rest");
	for (size_t n = 0; n < strlen(good) - strlen("rest"); n++)
		assert_int_equal(upgrade_read(good, n, &head, NULL), 0);
	assert_int_equal(upgrade_read(error, strlen(error), &head, NULL), 1);
	assert_int_equal(head.content_length, 12);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(upgrade_read(bad[i], strlen(bad[i]), &head, NULL),
		                 -(int)BLIX_E_INTERNAL);
	memset(long_head, 'x', sizeof(long_head));
	assert_int_equal(upgrade_read(long_head, sizeof(long_head), &head, NULL),
	                 -(int)BLIX_E_INTERNAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(much_both_ways), cmocka_unit_test(slow_reader),
		cmocka_unit_test(idle_is_no_end), cmocka_unit_test(last_words),
		cmocka_unit_test(server_closes),  cmocka_unit_test(client_leaves),
		cmocka_unit_test(answered_late),  cmocka_unit_test(not_asked),
		cmocka_unit_test(nobody_listens), cmocka_unit_test(heads),
	};

	return cmocka_run_group_tests_name("upgrade", tests, NULL, NULL);
}
