/* lib/curl: what a caller is told for each way a server can fail it, by a scripted server that
 * shares the loop: request number i gets step i. */
#include "base/alloc.h"
#include "base/limits.h"
#include "curl/fetch.h"
#include "sys/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#define GUARD_MS 20000
#define OK       "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

struct step {
	const char *answer; /* NULL: none */
	bool close;
};

struct fixture {
	uv_loop_t loop;
	uv_timer_t guard;
	char dir[64];
	char path[96];
	uv_pipe_t listener;
	const struct step *steps;
	size_t n_steps;
	unsigned connections;
	unsigned requests;
	unsigned open;
	struct buf seen; /* all that clients sent */
	struct fetch_pool *pool;
	bool pool_closed;
	struct fetch *other; /* to be cancelled by a callback */
};

struct client {
	uv_pipe_t pipe;
	uv_write_t write;
	struct fixture *f;
	struct buf in;
};

struct answer {
	struct fixture *f;
	bool done;
	int status;
	int http_status;
	char body[64];
	char type[64];
};

static void on_client_closed(uv_handle_t *handle)
{
	struct client *client = handle->data;

	client->f->open--;
	buf_done(&client->in);
	free(client);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
	static char bytes[65536];

	(void)handle;
	(void)suggested;
	*ret = uv_buf_init(bytes, sizeof(bytes));
}

static void client_close(struct client *client)
{
	if (!uv_is_closing((uv_handle_t *)&client->pipe))
		uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

static void client_serve(struct client *client)
{
	struct fixture *f = client->f;
	const struct step *step;
	size_t n;
	uv_buf_t out;

	assert_true(f->requests < f->n_steps);
	step = &f->steps[f->requests++];
	if (step->answer != NULL) {
		n = strlen(step->answer);
		out = uv_buf_init((char *)(uintptr_t)step->answer, (unsigned)n);
		assert_int_equal(uv_try_write((uv_stream_t *)&client->pipe, &out, 1), n);
	}
	if (step->close)
		client_close(client);
}

static void on_bytes(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
	struct client *client = stream->data;
	char *end;

	if (n < 0) {
		client_close(client);
		return;
	}
	(void)buf_add(&client->in, bytes->base, (size_t)n);
	(void)buf_add(&client->f->seen, bytes->base, (size_t)n);
	end = client->in.data != NULL ? strstr(client->in.data, "\r\n\r\n") : NULL;
	if (end == NULL)
		return;
	buf_clear(&client->in);
	client_serve(client);
}

static void on_client(uv_stream_t *listener, int status)
{
	struct fixture *f = listener->data;
	struct client *client = xcalloc(1, sizeof(*client));

	assert_int_equal(status, 0);
	client->f = f;
	buf_init(&client->in, 1u << 20);
	assert_int_equal(uv_pipe_init(&f->loop, &client->pipe, 0), 0);
	client->pipe.data = client;
	assert_int_equal(uv_accept(listener, (uv_stream_t *)&client->pipe), 0);
	(void)uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_bytes);
	f->connections++;
	f->open++;
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

static struct fixture *fixture_open(const struct step *steps, size_t n)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/blix-fetch-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	(void)uv_timer_init(&f->loop, &f->guard);
	(void)uv_timer_start(&f->guard, on_guard, GUARD_MS, 0);
	f->steps = steps;
	f->n_steps = n;
	buf_init(&f->seen, 4u << 20);
	assert_int_equal(uv_pipe_init(&f->loop, &f->listener, 0), 0);
	f->listener.data = f;
	assert_int_equal(uv_pipe_bind(&f->listener, f->path), 0);
	assert_int_equal(uv_listen((uv_stream_t *)&f->listener, 16, on_client), 0);
	assert_int_equal(fetch_pool_open(&f->loop, &f->pool, NULL), 0);
	return f;
}

static void pool_is_closed(void *data)
{
	((struct fixture *)data)->pool_closed = true;
}

static void listener_close(struct fixture *f)
{
	if (!uv_is_closing((uv_handle_t *)&f->listener))
		uv_close((uv_handle_t *)&f->listener, NULL);
}

static void fixture_close(struct fixture *f)
{
	if (f->pool != NULL)
		fetch_pool_close(f->pool, pool_is_closed, f);
	wait_true(f, &f->pool_closed);
	while (f->open > 0)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	listener_close(f);
	uv_close((uv_handle_t *)&f->guard, NULL);
	(void)uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	(void)unlink(f->path);
	assert_int_equal(rmdir(f->dir), 0);
	buf_done(&f->seen);
	free(f);
}

static void on_answer(void *data, int status, int http_status, struct buf *body, const char *type)
{
	struct answer *a = data;

	assert_false(a->done);
	a->done = true;
	/* Timers run before the loop sleeps: it must not sleep on this one. */
	uv_stop(&a->f->loop);
	a->status = status;
	a->http_status = http_status;
	(void)snprintf(a->body, sizeof(a->body), "%s", body->data != NULL ? body->data : "");
	(void)snprintf(a->type, sizeof(a->type), "%s", type != NULL ? type : "");
}

static struct fetch *ask(struct fixture *f, const char *method, struct answer *a,
                         unsigned deadline_ms)
{
	const struct fetch_options options = {
		.address = f->path,
		.method = method,
		.path = "/v1/../x?a=b",
		.body = strcmp(method, "POST") == 0 ? "" : NULL,
		.deadline_ms = deadline_ms,
		.answer_max = 1000,
	};
	struct fetch *fetch = NULL;

	memset(a, 0, sizeof(*a));
	a->f = f;
	assert_int_equal(fetch_start(f->pool, &options, on_answer, a, &fetch, NULL), 0);
	assert_false(a->done);
	return fetch;
}

static void wants(struct fixture *f, const char *method, int status, int http_status)
{
	struct answer a;

	(void)ask(f, method, &a, 0);
	wait_true(f, &a.done);
	assert_int_equal(a.status, status);
	assert_int_equal(a.http_status, http_status);
}

static unsigned count(const char *text, const char *part)
{
	unsigned n = 0;

	for (; (text = strstr(text, part)) != NULL; text += strlen(part))
		n++;
	return n;
}

static void answers(void **state)
{
	static const struct step steps[] = {
		{OK, false},
		{"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n", false},
		{"HTTP/1.1 204 None\r\n\r\n", false},
		{OK, false},
	};
	static const char *const headers[] = {"Blix-Session: 7", "Blix-Request: 1", NULL};
	struct fixture *f = fixture_open(steps, array_size(steps));
	struct fetch_options options = {
		.address = f->path, .method = "POST", .path = "/p", .body = "", .headers = headers};
	struct answer a = {.f = f};

	(void)state;
	(void)ask(f, "GET", &a, 0);
	wait_true(f, &a.done);
	assert_int_equal(a.http_status, 200);
	assert_string_equal(a.body, "ok");
	assert_string_equal(a.type, "text/plain");
	wants(f, "GET", 0, 302);
	wants(f, "DELETE", 0, 204);
	a.done = false;
	assert_int_equal(fetch_start(f->pool, &options, on_answer, &a, NULL, NULL), 0);
	wait_true(f, &a.done);
	assert_int_equal(f->connections, 1);
	assert_int_equal(f->requests, 4);
	assert_int_equal(count(f->seen.data, "GET /v1/../x?a=b HTTP/1.1\r\n"), 2);
	assert_int_equal(count(f->seen.data, "Blix-Session: 7\r\n"), 1);
	assert_int_equal(count(f->seen.data, "Content-Type: application/json\r\n"), 1);
	assert_int_equal(count(f->seen.data, "Expect"), 0);
	fixture_close(f);
}

static void nobody_there(void **state)
{
	struct fixture *f = fixture_open(NULL, 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fds[3] = {-1, -1, -1};

	(void)state;
	/* A server too busy to accept: its queue is full. Nothing can have been sent. */
	listener_close(f);
	(void)unlink(f->path);
	memcpy(address.sun_path, f->path, strlen(f->path));
	for (size_t i = 0; i < array_size(fds); i++)
		fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(fds[0], (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fds[0], 0), 0);
	assert_int_equal(connect(fds[1], (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(connect(fds[2], (struct sockaddr *)&address, sizeof(address)), -1);
	wants(f, "POST", -(int)BLIX_E_UNAVAILABLE, 0);
	for (size_t i = 0; i < array_size(fds); i++)
		(void)close(fds[i]);
	/* A socket file that a dead server left. */
	wants(f, "POST", -(int)BLIX_E_UNAVAILABLE, 0);
	assert_int_equal(unlink(f->path), 0);
	wants(f, "POST", -(int)BLIX_E_UNAVAILABLE, 0);
	wants(f, "GET", -(int)BLIX_E_UNAVAILABLE, 0);
	fixture_close(f);
}

static void no_whole_answer(void **state)
{
	static const struct step steps[] = {
		{NULL, true},
		{"HTTP/1.1 200 OK\r\nContent-Le", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", true},
		{"HTTP/1.1 200 OK\r\n\r\nuntil the end", true},
		{"garbage\r\n\r\n", true},
	};
	struct fixture *f = fixture_open(steps, array_size(steps));

	(void)state;
	for (unsigned i = 0; i < array_size(steps); i++) {
		wants(f, "POST", -(int)BLIX_E_UNKNOWN, 0);
		assert_int_equal(f->requests, i + 1);
	}
	fixture_close(f);
}

/* The connection is used again and dies under the second request, which was read. */
static void sent_once(void **state)
{
	static const struct step steps[] = {{OK, false}, {NULL, true}, {OK, false},
	                                    {OK, false}, {NULL, true}, {OK, false}};
	struct fixture *f = fixture_open(steps, array_size(steps));

	(void)state;
	wants(f, "POST", 0, 200);
	wants(f, "POST", -(int)BLIX_E_UNKNOWN, 0);
	assert_int_equal(f->requests, 2);
	wants(f, "DELETE", 0, 200);
	/* Reading again does no harm, so a GET has a second try. */
	wants(f, "GET", 0, 200);
	wants(f, "GET", 0, 200);
	assert_int_equal(f->requests, 6);
	fixture_close(f);
}

/* The same, and the server is gone for good: still not "nothing was sent". */
static void sent_then_gone(void **state)
{
	static const struct step steps[] = {{OK, false}, {NULL, true}};
	struct fixture *f = fixture_open(steps, array_size(steps));

	(void)state;
	wants(f, "DELETE", 0, 200);
	listener_close(f);
	wants(f, "DELETE", -(int)BLIX_E_UNKNOWN, 0);
	assert_int_equal(f->requests, 2);
	fixture_close(f);
}

/* A connection that the server closed while it was idle: the request goes out on a new one. */
static void stale_connection(void **state)
{
	static const struct step steps[] = {{OK, true}, {OK, false}};
	struct fixture *f = fixture_open(steps, array_size(steps));

	(void)state;
	wants(f, "POST", 0, 200);
	while (f->open > 0)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	wants(f, "POST", 0, 200);
	assert_int_equal(f->connections, 2);
	fixture_close(f);
}

static void deadlines(void **state)
{
	static const struct step steps[] = {{NULL, false}, {NULL, false}};
	struct fixture *f = fixture_open(steps, array_size(steps));
	struct answer a;

	(void)state;
	(void)ask(f, "POST", &a, 30);
	wait_true(f, &a.done);
	assert_int_equal(a.status, -(int)BLIX_E_UNKNOWN);
	(void)ask(f, "GET", &a, 30);
	wait_true(f, &a.done);
	assert_int_equal(a.status, -(int)BLIX_E_TIMEOUT);
	assert_int_equal(f->requests, 2);
	fixture_close(f);
}

static void answer_cap(void **state)
{
	cleanup(freep) char *announced = NULL;
	cleanup(freep) char *sneaky = NULL;
	struct step steps[3] = {{NULL, false}, {NULL, false}, {NULL, false}};
	struct fixture *f;

	(void)state;
	announced = xasprintf("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n%01001d", 0);
	sneaky = xasprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	                   "3e9\r\n%01001d\r\n0\r\n\r\n",
	                   0);
	steps[0].answer = announced;
	steps[1].answer = sneaky;
	steps[2].answer = OK;
	f = fixture_open(steps, array_size(steps));
	wants(f, "GET", -(int)BLIX_E_TOOBIG, 0);
	wants(f, "GET", -(int)BLIX_E_TOOBIG, 0);
	wants(f, "GET", 0, 200);
	fixture_close(f);
}

static void on_answer_cancel(void *data, int status, int http_status, struct buf *body,
                             const char *type)
{
	struct answer *a = data;

	on_answer(data, status, http_status, body, type);
	fetch_cancel(a->f->other);
}

static void cancels(void **state)
{
	static const struct step steps[] = {{NULL, false}, {OK, false}};
	struct fixture *f = fixture_open(steps, array_size(steps));
	const struct fetch_options options = {.address = f->path, .path = "/"};
	struct answer a;
	struct answer b = {.f = f};

	(void)state;
	f->other = ask(f, "GET", &a, 0);
	while (f->requests == 0)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_int_equal(fetch_start(f->pool, &options, on_answer_cancel, &b, NULL, NULL), 0);
	wait_true(f, &b.done);
	while (f->open > 1)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_false(a.done);
	/* Before it has begun. */
	fetch_cancel(ask(f, "GET", &a, 0));
	fixture_close(f);
	assert_false(a.done);
}

static void on_answer_again(void *data, int status, int http_status, struct buf *body,
                            const char *type)
{
	struct answer *a = data;
	struct fetch_options options = {.address = a->f->path, .path = "/"};
	struct blix_error err = {0};

	on_answer(data, status, http_status, body, type);
	assert_int_equal(fetch_start(a->f->pool, &options, on_answer, a, NULL, &err),
	                 -(int)BLIX_E_UNAVAILABLE);
}

static void pool_closes(void **state)
{
	static const struct step steps[] = {{NULL, false}};
	struct fixture *f = fixture_open(steps, array_size(steps));
	const struct fetch_options options = {.address = f->path, .path = "/"};
	struct answer sent;
	struct answer fresh = {.f = f};

	(void)state;
	(void)ask(f, "GET", &sent, 0);
	while (f->requests == 0)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	assert_int_equal(fetch_start(f->pool, &options, on_answer_again, &fresh, NULL, NULL), 0);
	fetch_pool_close(f->pool, pool_is_closed, f);
	assert_false(sent.done);
	wait_true(f, &f->pool_closed);
	f->pool = NULL;
	assert_true(sent.done);
	assert_int_equal(sent.status, -(int)BLIX_E_UNKNOWN);
	assert_true(fresh.done);
	assert_int_equal(fresh.status, -(int)BLIX_E_UNAVAILABLE);
	fixture_close(f);
}

static void bad_options(void **state)
{
	static const char *const paths[] = {"", "x", "/a b", "/a\r\nX: y", "/\x7f"};
	static const char *const headers[] = {"X: a\r\nY: b", NULL};
	static const char *const shapeless[] = {"nothing", NULL};
	struct fixture *f = fixture_open(NULL, 0);
	struct fetch_options options = {.address = f->path};
	char path[200];

	(void)state;
	for (size_t i = 0; i < array_size(paths); i++) {
		options.path = paths[i];
		assert_int_equal(fetch_start(f->pool, &options, on_answer, NULL, NULL, NULL),
		                 -(int)BLIX_E_INVALID);
	}
	options.path = "/";
	options.headers = headers;
	assert_int_equal(fetch_start(f->pool, &options, on_answer, NULL, NULL, NULL),
	                 -(int)BLIX_E_INVALID);
	options.headers = shapeless;
	assert_int_equal(fetch_start(f->pool, &options, on_answer, NULL, NULL, NULL),
	                 -(int)BLIX_E_INVALID);
	options.headers = NULL;
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	options.address = path;
	assert_int_equal(fetch_start(f->pool, &options, on_answer, NULL, NULL, NULL),
	                 -(int)BLIX_E_INVALID);
	fixture_close(f);
}

static void environment_ignored(void **state)
{
	static const struct step steps[] = {{OK, false}};
	struct fixture *f;

	(void)state;
	assert_int_equal(setenv("http_proxy", "http://127.0.0.1:1", 1), 0);
	assert_int_equal(setenv("ALL_PROXY", "socks5://127.0.0.1:1", 1), 0);
	f = fixture_open(steps, array_size(steps));
	wants(f, "GET", 0, 200);
	assert_int_equal(unsetenv("http_proxy"), 0);
	assert_int_equal(unsetenv("ALL_PROXY"), 0);
	fixture_close(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers),         cmocka_unit_test(nobody_there),
		cmocka_unit_test(no_whole_answer), cmocka_unit_test(sent_once),
		cmocka_unit_test(sent_then_gone),  cmocka_unit_test(stale_connection),
		cmocka_unit_test(deadlines),       cmocka_unit_test(answer_cap),
		cmocka_unit_test(cancels),         cmocka_unit_test(pool_closes),
		cmocka_unit_test(bad_options),     cmocka_unit_test(environment_ignored),
	};

	return cmocka_run_group_tests_name("fetch", tests, NULL, NULL);
}
