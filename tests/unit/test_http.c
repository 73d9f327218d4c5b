/* lib/http over real sockets: client and server share one loop; fetch plays the good client, raw
 * sockets the bad ones. Each test waits for a condition; a guard timer turns a hang into a failure.
 */
#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "curl/fetch.h"
#include "http/openapi.h"
#include "http/server.h"
#include "sys/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#define GUARD_MS     20000
#define STREAM_BYTES (10u << 20)

struct fixture {
	uv_loop_t loop;
	uv_timer_t guard;
	char dir[64];
	char path[96];
	struct http_server *server;
	struct fetch_pool *pool;
	bool server_closed, pool_closed;
	/* what the handlers and callbacks saw */
	struct http_request *waiting;
	unsigned waits;
	unsigned cancelled;
	unsigned denied;
	unsigned produced, stream_done;
	unsigned stream_fail_after;
	struct http_peer peer;
};

struct answer {
	bool done;
	int status;
	int http_status;
	char *body;
	size_t n;
	char *type;
};

static void handle_vm(struct http_request *request, void *data)
{
	struct fixture *f = data;
	const char *wait = http_query(request, "wait");
	char *text = xasprintf("%s|%s", http_path_param(request, "name"), wait ? wait : "-");

	f->peer = *http_peer(request);
	http_answer(request, 200, "text/plain", text, strlen(text));
}

static void handle_echo(struct http_request *request, void *data)
{
	size_t n;
	const char *body = http_body(request, &n);

	(void)data;
	http_answer(request, 201, http_header(request, "content-type"), xstrndup(body, n), n);
}

static void on_cancelled(void *data)
{
	struct fixture *f = data;

	f->cancelled++;
	f->waiting = NULL;
}

static void handle_wait(struct http_request *request, void *data)
{
	struct fixture *f = data;

	f->waits++;
	f->waiting = request;
	http_on_cancel(request, on_cancelled, f);
}

static int produce(void *data, struct buf *out)
{
	struct fixture *f = data;
	char *room;
	size_t n = 64u << 10;

	if (f->stream_fail_after > 0 && f->produced >= f->stream_fail_after)
		return -1;
	room = buf_room(out, n);
	for (size_t i = 0; i < n; i++)
		room[i] = (char)('a' + (f->produced + i) % 26);
	buf_grew(out, n);
	f->produced += (unsigned)n;
	return f->produced < STREAM_BYTES;
}

static void on_stream_done(void *data)
{
	((struct fixture *)data)->stream_done++;
}

static void handle_stream(struct http_request *request, void *data)
{
	http_answer_stream(request, 200, "text/plain", produce, on_stream_done, data);
}

static void server_is_closed(void *data)
{
	((struct fixture *)data)->server_closed = true;
}

static void handle_close(struct http_request *request, void *data)
{
	struct fixture *f = data;

	http_server_close(f->server, server_is_closed, f);
	f->server = NULL;
	http_answer(request, 204, NULL, NULL, 0);
}

static void handle_fail(struct http_request *request, void *data)
{
	struct blix_error err;
	cleanup(json_freep) cJSON *details = json_object();

	(void)data;
	json_add_u64(details, "nodes", 3);
	(void)blix_fail(&err, BLIX_E_NOLEADER, "lost \xff\xfe it");
	blix_hint(&err, "wait");
	http_answer_error(request, &err, details);
}

static const struct http_route routes[] = {
	{.method = "GET",
         .path = "/v1/vms/{name}",
         .handler = handle_vm,
         .summary = "Show one VM",
         .query = "wait=duration revision=u64",
         .answer_schema = "Vm"},
	{.method = "PUT", .path = "/v1/vms/{name}", .handler = handle_echo, .body_max = 16},
	{.method = "POST",
         .path = "/v1/echo",
         .handler = handle_echo,
         .body_max = LIMIT_BODY,
         .request_schema = "Vm"},
	{.method = "GET", .path = "/v1/wait", .handler = handle_wait},
	{.method = "POST", .path = "/v1/wait", .handler = handle_wait, .body_max = 64},
	{.method = "GET", .path = "/v1/stream", .handler = handle_stream},
	{.method = "POST", .path = "/v1/close", .handler = handle_close},
	{.method = "GET", .path = "/v1/fail", .handler = handle_fail},
	{.method = "GET", .path = "/v1/denied", .handler = handle_vm, .flags = 1},
};

static int allow(void *data, const struct http_request *request, const struct http_route *route,
                 struct blix_error *err)
{
	struct fixture *f = data;

	if (route->flags == 0)
		return 0;
	f->denied++;
	return blix_fail(err, BLIX_E_DENIED, "user %u may not", (unsigned)http_peer(request)->uid);
}

static void on_guard(uv_timer_t *guard)
{
	(void)guard;
	fail_msg("nothing happened for %d ms", GUARD_MS);
}

static void wait_true(struct fixture *f, const bool *condition)
{
	while (!*condition)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
}

static struct http_config config_of(struct fixture *f)
{
	return (struct http_config){.socket_path = f->path,
	                            .mode = 0660,
	                            .group = (gid_t)-1,
	                            .routes = routes,
	                            .n = array_size(routes),
	                            .data = f,
	                            .allow = allow};
}

static void pool_is_closed(void *data)
{
	((struct fixture *)data)->pool_closed = true;
}

static struct fixture *fixture_open(const struct http_config *changes)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct http_config config;
	struct blix_error err = {0};

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/blix-http-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	config = config_of(f);
	if (changes != NULL) {
		config.connections_max = changes->connections_max;
		config.receive_ms = changes->receive_ms;
		config.idle_ms = changes->idle_ms;
	}
	assert_int_equal(uv_loop_init(&f->loop), 0);
	(void)uv_timer_init(&f->loop, &f->guard);
	(void)uv_timer_start(&f->guard, on_guard, GUARD_MS, 0);
	if (http_server_open(&f->loop, &config, &f->server, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fetch_pool_open(&f->loop, &f->pool, &err), 0);
	return f;
}

static void fixture_close(struct fixture *f)
{
	if (f->server != NULL)
		http_server_close(f->server, server_is_closed, f);
	fetch_pool_close(f->pool, pool_is_closed, f);
	wait_true(f, &f->server_closed);
	wait_true(f, &f->pool_closed);
	uv_close((uv_handle_t *)&f->guard, NULL);
	(void)uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	assert_false(file_exists(f->path));
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
}

static void on_answer(void *data, int status, int http_status, struct buf *body, const char *type)
{
	struct answer *a = data;

	assert_false(a->done);
	a->done = true;
	a->status = status;
	a->http_status = http_status;
	a->n = body->len;
	a->body = buf_take(body);
	a->type = type != NULL ? xstrdup(type) : NULL;
}

static void answer_clear(struct answer *a)
{
	free(a->body);
	free(a->type);
	memset(a, 0, sizeof(*a));
}

static struct fetch *ask(struct fixture *f, const char *method, const char *path, const char *body,
                         struct answer *a)
{
	struct fetch_options options = {.address = f->path,
	                                .method = method,
	                                .path = path,
	                                .body = body,
	                                .n = body != NULL ? strlen(body) : 0};
	struct fetch *fetch = NULL;

	memset(a, 0, sizeof(*a));
	assert_int_equal(fetch_start(f->pool, &options, on_answer, a, &fetch, NULL), 0);
	return fetch;
}

static void get(struct fixture *f, const char *path, struct answer *a)
{
	(void)ask(f, "GET", path, NULL, a);
	wait_true(f, &a->done);
	assert_int_equal(a->status, 0);
}

/* Asserts an error answer: its HTTP status, code and reason. */
static void refused(struct answer *a, int http_status, const char *code, const char *reason)
{
	cleanup(json_freep) cJSON *tree = NULL;
	const cJSON *details = NULL;
	const char *text = NULL;

	assert_int_equal(a->status, 0);
	assert_int_equal(a->http_status, http_status);
	assert_string_equal(a->type, "application/json");
	assert_int_equal(json_parse(a->body, a->n, &json_limits_answer, &tree, NULL), 0);
	assert_int_equal(json_get_string(tree, "code", &text, NULL), 0);
	assert_string_equal(text, code);
	assert_int_equal(json_get_string(tree, "reason", &text, NULL), 0);
	assert_string_equal(text, reason);
	assert_int_equal(json_get_object(tree, "details", &details, NULL), 0);
	assert_non_null(details);
	assert_non_null(cJSON_GetObjectItem(tree, "retryable"));
	assert_non_null(cJSON_GetObjectItem(tree, "definite"));
	answer_clear(a);
}

/* A client that may say anything. */
struct raw {
	uv_poll_t poll;
	int fd;
	struct buf in;
	bool ended;
	const char *wanted;
	bool found;
	bool closed;
};

static void raw_check(struct raw *raw)
{
	raw->found = raw->wanted != NULL && raw->in.data != NULL &&
	             strstr(raw->in.data, raw->wanted) != NULL;
}

static void raw_event(uv_poll_t *poll, int status, int events)
{
	struct raw *raw = poll->data;
	char piece[4096];
	ssize_t n;

	(void)events;
	/* An error may stand behind an answer; uv stops watching then. */
	if (status < 0)
		(void)uv_poll_start(poll, UV_READABLE, raw_event);
	n = recv(raw->fd, piece, sizeof(piece), MSG_DONTWAIT);
	if (n > 0) {
		(void)buf_add(&raw->in, piece, (size_t)n);
		raw_check(raw);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		raw->ended = true;
		(void)uv_poll_stop(poll);
	}
}

static void raw_open(struct fixture *f, struct raw *raw)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memset(raw, 0, sizeof(*raw));
	memcpy(address.sun_path, f->path, strlen(f->path));
	buf_init(&raw->in, 1u << 20);
	raw->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(raw->fd >= 0);
	assert_int_equal(connect(raw->fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(uv_poll_init(&f->loop, &raw->poll, raw->fd), 0);
	raw->poll.data = raw;
	(void)uv_poll_start(&raw->poll, UV_READABLE, raw_event);
}

static void raw_send_bytes(struct raw *raw, const char *bytes, size_t n)
{
	assert_int_equal(send(raw->fd, bytes, n, MSG_NOSIGNAL), n);
}

static void raw_send(struct raw *raw, const char *text)
{
	raw_send_bytes(raw, text, strlen(text));
}

static void raw_expect(struct fixture *f, struct raw *raw, const char *wanted)
{
	raw->wanted = wanted;
	raw_check(raw);
	while (!raw->found && !raw->ended)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	if (!raw->found)
		fail_msg("wanted \"%s\", got \"%s\"", wanted, raw->in.data ? raw->in.data : "");
}

static void raw_is_closed(uv_handle_t *handle)
{
	struct raw *raw = handle->data;

	raw->closed = true;
}

static void raw_close(struct fixture *f, struct raw *raw)
{
	uv_close((uv_handle_t *)&raw->poll, raw_is_closed);
	(void)close(raw->fd);
	wait_true(f, &raw->closed);
	buf_done(&raw->in);
}

static void wait_connections(struct fixture *f, size_t n)
{
	while (http_server_connections(f->server) != n)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
}

static void round_trip(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct answer a;
	struct stat st;

	(void)state;
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	get(f, "/v1/vms/web-1", &a);
	assert_int_equal(a.http_status, 200);
	assert_string_equal(a.body, "web-1|-");
	assert_string_equal(a.type, "text/plain");
	answer_clear(&a);
	assert_int_equal(f->peer.uid, getuid());
	assert_int_equal(f->peer.gid, getgid());
	assert_int_equal(f->peer.pid, getpid());
	get(f, "/v1/vms/a%2Fb%20c?wait=30s&revision=7", &a);
	assert_string_equal(a.body, "a/b c|30s");
	answer_clear(&a);
	(void)ask(f, "POST", "/v1/echo", "{\"a\":1}", &a);
	wait_true(f, &a.done);
	assert_int_equal(a.http_status, 201);
	assert_string_equal(a.body, "{\"a\":1}");
	assert_string_equal(a.type, "application/json");
	answer_clear(&a);
	/* The four came over one connection. */
	assert_int_equal(http_server_connections(f->server), 1);
	fixture_close(f);
}

static void large_body(void **state)
{
	struct fixture *f = fixture_open(NULL);
	char *body = xcalloc(LIMIT_BODY + 2, 1);
	struct answer a;

	(void)state;
	memset(body, 'x', LIMIT_BODY);
	(void)ask(f, "POST", "/v1/echo", body, &a);
	wait_true(f, &a.done);
	assert_int_equal(a.http_status, 201);
	assert_int_equal(a.n, LIMIT_BODY);
	assert_string_equal(a.body, body);
	answer_clear(&a);
	body[LIMIT_BODY] = 'x';
	(void)ask(f, "POST", "/v1/echo", body, &a);
	wait_true(f, &a.done);
	refused(&a, 413, "too-big", "too-big");
	free(body);
	fixture_close(f);
}

static void refusals(void **state)
{
	static const struct {
		const char *method, *path, *body;
		int status;
		const char *code, *reason;
	} cases[] = {
		{"GET", "/v1/nothing", NULL, 404, "not-found", "no-route"},
		{"GET", "/v1/vms/", NULL, 404, "not-found", "no-route"},
		{"GET", "/v1/vms/a/b", NULL, 404, "not-found", "no-route"},
		{"GET", "/", NULL, 404, "not-found", "no-route"},
		{"DELETE", "/v1/vms/a", NULL, 405, "bad-method", "bad-method"},
		{"GET", "/v1/vms/a?colour=red", NULL, 400, "invalid", "unknown-parameter"},
		{"GET", "/v1/vms/a?wai=1s", NULL, 400, "invalid", "unknown-parameter"},
		{"GET", "/v1/wait?wait=1s", NULL, 400, "invalid", "unknown-parameter"},
		{"GET", "/v1/vms/a?%ff=1", NULL, 400, "invalid", "unknown-parameter"},
		{"GET", "/v1/vms/a?wait=soon", NULL, 400, "invalid", "invalid"},
		{"GET", "/v1/vms/a?revision=-1", NULL, 400, "invalid", "invalid"},
		{"GET", "/v1/vms/a?revision=1&revision=2", NULL, 400, "invalid", "invalid"},
		{"GET", "/v1/vms/a%00b", NULL, 400, "invalid", "invalid"},
		{"GET", "/v1/vms/a%zz", NULL, 400, "invalid", "invalid"},
		{"GET", "/v1/vms/a%2", NULL, 400, "invalid", "invalid"},
		{"GET", "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17", NULL, 400, "invalid",
	         "invalid"},
		{"POST", "/v1/close", "x", 400, "invalid", "invalid"},
		{"PUT", "/v1/vms/a", "12345678901234567", 413, "too-big", "too-big"},
		{"GET", "/v1/denied", NULL, 403, "denied", "denied"},
		{"GET", "/v1/fail", NULL, 503, "no-leader", "no-leader"},
	};
	struct fixture *f = fixture_open(NULL);
	struct answer a;

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		(void)ask(f, cases[i].method, cases[i].path, cases[i].body, &a);
		wait_true(f, &a.done);
		refused(&a, cases[i].status, cases[i].code, cases[i].reason);
	}
	assert_int_equal(f->denied, 1);
	/* None of them cost its connection, so all used the same. */
	assert_int_equal(http_server_connections(f->server), 1);
	fixture_close(f);
}

static void error_object(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw;

	(void)state;
	raw_open(f, &raw);
	raw_send(&raw, "GET /v1/fail HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_expect(f, &raw, "\"details\":{\"nodes\":3}}");
	raw_expect(f, &raw, "Retry-After: 1");
	raw_expect(f, &raw, "\"message\":\"lost ?? it\",\"hint\":\"wait\",\"retryable\":true,");
	raw_send(&raw, "DELETE /v1/vms/a HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_expect(f, &raw, "Allow: GET, PUT");
	raw_close(f, &raw);
	fixture_close(f);
}

/* Sends one request on a connection of its own, wants `wanted` in the answer, and that the server
 * serves the next client. */
static void raw_case(struct fixture *f, const char *text, size_t n, const char *wanted)
{
	struct answer a;
	struct raw raw;

	raw_open(f, &raw);
	raw_send_bytes(&raw, text, n);
	if (wanted != NULL)
		raw_expect(f, &raw, wanted);
	get(f, "/v1/vms/alive", &a);
	assert_string_equal(a.body, "alive|-");
	answer_clear(&a);
	raw_close(f, &raw);
}

static void bad_clients(void **state)
{
	static const struct {
		const char *text, *wanted;
	} cases[] = {
		{"\x16\x03\x01\x02 garbage\r\n\r\n", NULL},
		{"GET\r\n\r\n", NULL},
		{"GET /v1/vms/a HTTP/9.9\r\n\r\n", " 505 "},
		{"GET http://x/v1/vms/a HTTP/1.1\r\nHost: x\r\n\r\n", " 400 "},
		{"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
	         "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	         " 400 "},
		{"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
	         "Content-Length: 6\r\n\r\nabcdef",
	         " 400 "},
		{"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", " 400 "},
		{"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: "
	         "99999999999999999999\r\n\r\n",
	         " 413 "},
		{"GET /v1/vms/a HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\n\r\n", "comes twice"},
		{"POST /v1/close HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	         "0\r\n\r\n",
	         "takes no body"},
		{"PUT /v1/vms/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	         "11\r\n12345678901234567\r\n0\r\n\r\n",
	         " 413 "},
		{"PUT /v1/vms/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	         "5\r\n12345\r\n0\r\n\r\n",
	         "\r\n\r\n12345"},
		{"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\ntruncated", NULL},
		{"GET /v1/vms/a HT", NULL},
	};
	struct fixture *f = fixture_open(NULL);
	cleanup(buf_done) struct buf text;

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++)
		raw_case(f, cases[i].text, strlen(cases[i].text), cases[i].wanted);
	buf_init(&text, 1u << 20);
	(void)buf_add_string(&text, "GET /v1/vms/a HTTP/1.1\r\nHost: x\r\n");
	for (unsigned i = 0; i < LIMIT_HTTP_HEADERS; i++)
		(void)buf_printf(&text, "X-%u: y\r\n", i);
	(void)buf_add_string(&text, "\r\n");
	raw_case(f, text.data, text.len, "more than 64 headers");
	buf_clear(&text);
	(void)buf_printf(&text, "GET /v1/vms/%020000d HTTP/1.1\r\nHost: x\r\n\r\n", 1);
	raw_case(f, text.data, text.len, " 414 ");
	fixture_close(f);
}

static void endless_body(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw;
	char piece[1024 + 8];
	ssize_t n = 0;

	(void)state;
	raw_open(f, &raw);
	raw_send(&raw, "PUT /v1/vms/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
	memset(piece, 'x', sizeof(piece));
	memcpy(piece, "400\r\n", 5);
	memcpy(piece + 5 + 1024, "\r\n", 2);
	/* Until the server has enough of it. */
	for (size_t sent = 0; !raw.ended; sent += n > 0 ? (size_t)n : 0) {
		n = send(raw.fd, piece, 1031, MSG_NOSIGNAL | MSG_DONTWAIT);
		assert_true(sent < (16u << 20));
		(void)uv_run(&f->loop, n < 0 ? UV_RUN_ONCE : UV_RUN_NOWAIT);
	}
	raw_close(f, &raw);
	fixture_close(f);
}

static void long_poll(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct answer waits[2];
	struct answer a;
	char *text;

	(void)state;
	(void)ask(f, "GET", "/v1/wait", NULL, &waits[0]);
	while (f->waiting == NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	/* Others are served meanwhile. */
	get(f, "/v1/vms/web", &a);
	answer_clear(&a);
	assert_false(waits[0].done);
	text = xstrdup("late");
	http_answer(f->waiting, 200, "text/plain", text, 4);
	f->waiting = NULL;
	wait_true(f, &waits[0].done);
	assert_int_equal(waits[0].http_status, 200);
	assert_string_equal(waits[0].body, "late");
	answer_clear(&waits[0]);
	/* Once more, with a body, whose connection then serves on. */
	(void)ask(f, "POST", "/v1/wait", "{}", &waits[1]);
	while (f->waiting == NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	http_answer_stream(f->waiting, 200, "text/plain", produce, on_stream_done, f);
	wait_true(f, &waits[1].done);
	assert_int_equal(waits[1].n, STREAM_BYTES);
	answer_clear(&waits[1]);
	get(f, "/v1/vms/web", &a);
	answer_clear(&a);
	assert_int_equal(f->waits, 2);
	assert_int_equal(f->cancelled, 0);
	fixture_close(f);
}

static void client_gone(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct answer a;
	struct fetch *fetch;
	struct raw raw;

	(void)state;
	fetch = ask(f, "GET", "/v1/wait", NULL, &a);
	while (f->waits < 1)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_int_equal(f->cancelled, 0);
	fetch_cancel(fetch);
	while (f->cancelled < 1)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_false(a.done);
	wait_connections(f, 0);
	/* A client that leaves a second request unread behind. */
	raw_open(f, &raw);
	raw_send(&raw, "GET /v1/wait HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/wait HTTP/1.1\r\n");
	while (f->waits < 2)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	raw_close(f, &raw);
	while (f->cancelled < 2)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	wait_connections(f, 0);
	assert_int_equal(f->waits, 2);
	assert_int_equal(f->cancelled, 2);
	fixture_close(f);
}

static void pipelined(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw;

	(void)state;
	raw_open(f, &raw);
	raw_send(&raw, "GET /v1/wait HTTP/1.1\r\nHost: x\r\n\r\n"
	               "GET /v1/vms/second HTTP/1.1\r\nHost: x\r\n\r\n");
	while (f->waiting == NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	http_answer(f->waiting, 200, "text/plain", xstrdup("first"), 5);
	raw_expect(f, &raw, "second|-");
	assert_non_null(strstr(raw.in.data, "first"));
	raw_close(f, &raw);
	fixture_close(f);
}

static void streams(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct answer a;
	struct fetch *fetch;

	(void)state;
	get(f, "/v1/stream", &a);
	assert_int_equal(a.http_status, 200);
	assert_int_equal(a.n, STREAM_BYTES);
	for (size_t i = 0; i < a.n; i += 4099)
		assert_int_equal(a.body[i], 'a' + (i - i % (64u << 10) + i % (64u << 10)) % 26);
	assert_int_equal(f->stream_done, 1);
	answer_clear(&a);
	/* A producer that fails must not look like a short list. */
	f->produced = 0;
	f->stream_fail_after = 1u << 20;
	(void)ask(f, "GET", "/v1/stream", NULL, &a);
	wait_true(f, &a.done);
	assert_int_equal(a.status, -(int)BLIX_E_UNKNOWN);
	assert_int_equal(f->stream_done, 2);
	answer_clear(&a);
	/* A client that leaves in the middle. */
	f->produced = 0;
	f->stream_fail_after = 0;
	fetch = ask(f, "GET", "/v1/stream", NULL, &a);
	while (f->produced == 0)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	fetch_cancel(fetch);
	while (f->stream_done < 3)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_true(f->produced < STREAM_BYTES);
	fixture_close(f);
}

static void stream_to_old_client(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct raw raw;

	(void)state;
	raw_open(f, &raw);
	raw.in.cap = 2 * STREAM_BYTES;
	raw_send(&raw, "GET /v1/stream HTTP/1.0\r\n\r\n");
	wait_true(f, &raw.ended);
	assert_true(raw.in.len > STREAM_BYTES);
	assert_true(raw.in.len < STREAM_BYTES + 1024);
	raw_close(f, &raw);
	fixture_close(f);
}

static void slow_clients(void **state)
{
	const struct http_config changes = {.receive_ms = 50, .idle_ms = 1000};
	struct fixture *f = fixture_open(&changes);
	struct answer a;
	struct raw half;
	struct raw silent;
	struct raw body;

	(void)state;
	raw_open(f, &silent);
	raw_open(f, &half);
	raw_open(f, &body);
	raw_send(&half, "GET /v1/vms/a HTTP/1.1\r\nHost:");
	raw_send(&body, "POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
	get(f, "/v1/vms/web", &a);
	answer_clear(&a);
	wait_true(f, &half.ended);
	wait_true(f, &body.ended);
	assert_false(silent.ended);
	wait_true(f, &silent.ended);
	raw_close(f, &half);
	raw_close(f, &body);
	raw_close(f, &silent);
	fixture_close(f);
}

/* A request that waits for longer than every limit on clients is not slow. */
static void waiting_is_not_slow(void **state)
{
	const struct http_config changes = {.receive_ms = 20, .idle_ms = 1000};
	struct fixture *f = fixture_open(&changes);
	struct answer a;
	struct raw silent;

	(void)state;
	(void)ask(f, "GET", "/v1/wait", NULL, &a);
	while (f->waiting == NULL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	raw_open(f, &silent);
	wait_true(f, &silent.ended);
	assert_int_equal(f->cancelled, 0);
	http_answer(f->waiting, 200, "text/plain", xstrdup("x"), 1);
	wait_true(f, &a.done);
	assert_int_equal(a.http_status, 200);
	answer_clear(&a);
	raw_close(f, &silent);
	fixture_close(f);
}

static void many_connections(void **state)
{
	enum { ALL = 200, LIMIT = 150 };
	const struct http_config changes = {.connections_max = LIMIT};
	struct fixture *f = fixture_open(&changes);
	struct raw *raws = xcalloc(ALL, sizeof(*raws));

	(void)state;
	for (size_t i = 0; i < ALL; i++) {
		raw_open(f, &raws[i]);
		raw_send(&raws[i], "GET /v1/vms/web HTTP/1.1\r\nHost: x\r\n\r\n");
	}
	for (size_t i = 0; i < LIMIT; i++)
		raw_expect(f, &raws[i], "web|-");
	assert_int_equal(http_server_connections(f->server), LIMIT);
	for (size_t i = LIMIT; i < ALL; i++)
		assert_int_equal(raws[i].in.len, 0);
	/* Those behind the limit are served as others leave. */
	for (size_t i = 0; i < ALL - LIMIT; i++)
		raw_close(f, &raws[i]);
	for (size_t i = LIMIT; i < ALL; i++)
		raw_expect(f, &raws[i], "web|-");
	for (size_t i = ALL - LIMIT; i < ALL; i++)
		raw_close(f, &raws[i]);
	wait_connections(f, 0);
	free(raws);
	fixture_close(f);
}

/* How long the loop would sleep now; the guard alone would let it sleep to its own end. */
static uint64_t sleep_ms(struct fixture *f)
{
	while (uv_backend_timeout(&f->loop) == 0)
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	uv_update_time(&f->loop);
	return (uint64_t)uv_backend_timeout(&f->loop);
}

/* Nothing but the end of the one connection tells that the next may come in. */
static void one_at_a_time(void **state)
{
	const struct http_config changes = {.connections_max = 1};
	struct fixture *f = fixture_open(&changes);
	struct raw first;
	struct raw second;

	(void)state;
	raw_open(f, &first);
	wait_connections(f, 1);
	raw_open(f, &second);
	raw_send(&second, "GET /v1/vms/web HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)sleep_ms(f);
	assert_int_equal(second.in.len, 0);
	raw_close(f, &first);
	raw_expect(f, &second, "web|-");
	raw_close(f, &second);
	fixture_close(f);
}

static void many_waiting(void **state)
{
	enum { ALL = 100 };
	struct fixture *f = fixture_open(NULL);
	struct answer *answers = xcalloc(ALL, sizeof(*answers));

	(void)state;
	for (size_t i = 0; i < ALL; i++)
		(void)ask(f, "GET", "/v1/wait", NULL, &answers[i]);
	while (f->waits < ALL)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	/* All of them are told, and get an answer, when the server closes. */
	http_server_close(f->server, server_is_closed, f);
	f->server = NULL;
	wait_true(f, &f->server_closed);
	assert_int_equal(f->cancelled, ALL);
	for (size_t i = 0; i < ALL; i++) {
		wait_true(f, &answers[i].done);
		refused(&answers[i], 503, "unavailable", "unavailable");
	}
	free(answers);
	fixture_close(f);
}

static void close_from_handler(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct answer a;

	(void)state;
	(void)ask(f, "POST", "/v1/close", NULL, &a);
	wait_true(f, &a.done);
	assert_int_equal(a.http_status, 204);
	answer_clear(&a);
	fixture_close(f);
}

static void socket_files(void **state)
{
	struct fixture *f = fixture_open(NULL);
	struct http_config config = config_of(f);
	struct http_server *second = NULL;
	struct blix_error err = {0};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char path[96];
	int fd;

	(void)state;
	assert_int_equal(http_server_open(&f->loop, &config, &second, &err), -(int)BLIX_E_BUSY);
	assert_string_equal(err.reason, "already-running");
	(void)snprintf(path, sizeof(path), "%s/other", f->dir);
	config.socket_path = path;
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	(void)close(fd);
	assert_int_equal(http_server_open(&f->loop, &config, &second, &err), -(int)BLIX_E_REFUSED);
	assert_int_equal(unlink(path), 0);
	/* What a killed daemon leaves: a socket file without a listener. */
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	(void)close(fd);
	assert_int_equal(http_server_open(&f->loop, &config, &second, &err), 0);
	f->server_closed = false;
	http_server_close(second, server_is_closed, f);
	wait_true(f, &f->server_closed);
	f->server_closed = false;
	assert_false(file_exists(path));
	config.socket_path = "";
	assert_int_equal(http_server_open(&f->loop, &config, &second, &err), -(int)BLIX_E_INVALID);
	fixture_close(f);
}

static void idle_has_no_timer(void **state)
{
	const struct http_config changes = {.idle_ms = 5000};
	struct fixture *f = fixture_open(&changes);
	struct raw raw;
	uint64_t slept;

	(void)state;
	slept = sleep_ms(f);
	assert_int_equal(slept, uv_timer_get_due_in(&f->guard));
	raw_open(f, &raw);
	raw_send(&raw, "GET /v1/vms/web HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_expect(f, &raw, "web|-");
	assert_true(sleep_ms(f) <= 5000);
	raw_close(f, &raw);
	wait_connections(f, 0);
	slept = sleep_ms(f);
	assert_int_equal(slept, uv_timer_get_due_in(&f->guard));
	fixture_close(f);
}

static void openapi(void **state)
{
	cleanup(json_freep) cJSON *tree = NULL;
	cleanup(freep) char *text = NULL;
	struct blix_error err = {0};

	(void)state;
	assert_int_equal(http_openapi(routes, array_size(routes), "1.2.3", NULL, &tree, &err),
	                 -(int)BLIX_E_INVALID);
	assert_non_null(strstr(err.text, "Vm"));
	assert_int_equal(http_openapi(routes, array_size(routes), "1.2.3",
	                              "{\"Vm\":{\"type\":\"object\"}}", &tree, &err),
	                 0);
	text = json_text(tree);
	assert_non_null(strstr(text, "\"openapi\":\"3.0.3\""));
	assert_non_null(strstr(text, "\"/v1/vms/{name}\":{\"get\":{"));
	assert_non_null(strstr(text, "\"put\":{"));
	assert_non_null(strstr(text, "{\"name\":\"name\",\"in\":\"path\",\"required\":true"));
	assert_non_null(strstr(text, "{\"name\":\"revision\",\"in\":\"query\""));
	assert_non_null(strstr(text, "\"#/components/schemas/Vm\""));
	assert_non_null(strstr(text, "\"summary\":\"Show one VM\""));
	assert_non_null(strstr(text, "\"Error\":{"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(large_body),
		cmocka_unit_test(refusals),
		cmocka_unit_test(error_object),
		cmocka_unit_test(bad_clients),
		cmocka_unit_test(endless_body),
		cmocka_unit_test(long_poll),
		cmocka_unit_test(client_gone),
		cmocka_unit_test(pipelined),
		cmocka_unit_test(streams),
		cmocka_unit_test(stream_to_old_client),
		cmocka_unit_test(slow_clients),
		cmocka_unit_test(waiting_is_not_slow),
		cmocka_unit_test(many_connections),
		cmocka_unit_test(one_at_a_time),
		cmocka_unit_test(many_waiting),
		cmocka_unit_test(close_from_handler),
		cmocka_unit_test(socket_files),
		cmocka_unit_test(idle_has_no_timer),
		cmocka_unit_test(openapi),
	};

	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
