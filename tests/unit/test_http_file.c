/* Bodies that go to files and come from them: lib/http as the server, lib/curl as the client that
 * takes an answer in pieces, raw sockets for the clients that stop half-way. */
#include "base/alloc.h"
#include "base/limits.h"
#include "curl/fetch.h"
#include "http/server.h"
#include "sys/file.h"
#include "sys/sink.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#define GUARD_MS 20000
#define BODY     ((5u << 20) + 3)

struct fixture {
	uv_loop_t loop;
	uv_timer_t guard;
	char dir[64], path[96];
	struct http_server *server;
	struct fetch_pool *pool;
	bool server_closed, pool_closed;
	unsigned begun, handled;
	struct http_file file;
	struct blix_error err;
	/* the client */
	bool done;
	int status, http_status;
	struct buf got;
	struct fetch *fetch;
	unsigned pauses, pieces;
	uv_timer_t later;
};

static int body_file(void *data, struct http_request *request, uint64_t n, int *ret_fd,
                     struct blix_error *err)
{
	const char *name = http_path_param(request, "name");
	struct fixture *f = data;

	(void)n;
	f->begun++;
	if (strcmp(name, "known") == 0)
		http_answer(request, 200, NULL, NULL, 0);
	else if (strcmp(name, "refused") == 0)
		return blix_fail(err, BLIX_E_DISKFULL, "no room");
	else if (strcmp(name, "full") == 0)
		*ret_fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	else
		*ret_fd = open(f->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return 0;
}

static void handle_put(struct http_request *request, void *data)
{
	struct fixture *f = data;

	f->handled++;
	if (http_body_file(request, &f->file, &f->err) < 0)
		http_answer_error(request, &f->err, NULL);
	else
		http_answer(request, 201, NULL, NULL, 0);
}

static void handle_get(struct http_request *request, void *data)
{
	struct fixture *f = data;

	http_answer_file(request, 200, "application/octet-stream", f->file.fd, f->file.size);
	f->file.fd = -1;
}

static const struct http_route routes[] = {
	{.method = "PUT", .path = "/{name}", .handler = handle_put, .body_max = 8 * LIMIT_BODY},
	{.method = "GET", .path = "/{name}", .handler = handle_get},
};

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

static struct fixture *fixture_open(void)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct http_config config = {.mode = 0600,
	                             .group = (gid_t)-1,
	                             .routes = routes,
	                             .n = array_size(routes),
	                             .data = f,
	                             .body_file = body_file};

	f->file.fd = -1;
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/blix-http-file-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	config.socket_path = f->path;
	buf_init(&f->got, 2 * (size_t)BODY);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	(void)uv_timer_init(&f->loop, &f->guard);
	(void)uv_timer_start(&f->guard, on_guard, GUARD_MS, 0);
	(void)uv_timer_init(&f->loop, &f->later);
	f->later.data = f;
	assert_int_equal(http_server_open(&f->loop, &config, &f->server, NULL), 0);
	assert_int_equal(fetch_pool_open(&f->loop, &f->pool, NULL), 0);
	return f;
}

static void server_is_closed(void *data)
{
	((struct fixture *)data)->server_closed = true;
}

static void pool_is_closed(void *data)
{
	((struct fixture *)data)->pool_closed = true;
}

static void fixture_close(struct fixture *f)
{
	fetch_pool_close(f->pool, pool_is_closed, f);
	wait_true(f, &f->pool_closed);
	http_server_close(f->server, server_is_closed, f);
	wait_true(f, &f->server_closed);
	uv_close((uv_handle_t *)&f->guard, NULL);
	uv_close((uv_handle_t *)&f->later, NULL);
	(void)uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	if (f->file.fd >= 0)
		(void)close(f->file.fd);
	buf_done(&f->got);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
}

static void on_answer(void *data, int status, int http_status, struct buf *answer, const char *type)
{
	struct fixture *f = data;

	(void)answer;
	(void)type;
	f->status = status;
	f->http_status = http_status;
	f->done = true;
	uv_stop(&f->loop);
}

static char *bytes_make(void)
{
	char *bytes = xcalloc(BODY, 1);

	for (size_t i = 0; i < BODY; i++)
		bytes[i] = (char)(i * 7 + i / 4099);
	return bytes;
}

static void put(struct fixture *f, const char *path, const char *bytes, size_t n)
{
	const struct fetch_options options = {
		.address = f->path, .method = "PUT", .path = path, .body = bytes, .n = n};

	f->done = false;
	assert_int_equal(fetch_start(f->pool, &options, on_answer, f, &f->fetch, NULL), 0);
	wait_true(f, &f->done);
}

static void on_later(uv_timer_t *timer)
{
	struct fixture *f = timer->data;

	fetch_resume(f->fetch);
}

/* Every third piece has to wait, and comes again. */
static int on_piece(void *data, const char *bytes, size_t n)
{
	struct fixture *f = data;

	if (++f->pieces % 3 == 0) {
		f->pauses++;
		(void)uv_timer_start(&f->later, on_later, 0, 0);
		return 1;
	}
	assert_int_equal(buf_add(&f->got, bytes, n), 0);
	return 0;
}

static void there_and_back(void **state)
{
	struct fixture *f = fixture_open();
	cleanup(freep) char *bytes = bytes_make();
	const struct fetch_options options = {.address = f->path,
	                                      .path = "/a",
	                                      .answer_max = BODY,
	                                      .piece = on_piece,
	                                      .piece_data = f};
	struct source_name name;

	(void)state;
	put(f, "/a", bytes, BODY);
	assert_int_equal(f->http_status, 201);
	assert_int_equal(f->file.size, BODY);
	assert_int_equal(source_sum(f->file.fd, &name, NULL), 0);
	assert_true(source_same(&name, &f->file.name));
	f->done = false;
	assert_int_equal(fetch_start(f->pool, &options, on_answer, f, &f->fetch, NULL), 0);
	wait_true(f, &f->done);
	assert_int_equal(f->status, 0);
	assert_true(f->pauses > 0);
	assert_int_equal(f->got.len, BODY);
	assert_memory_equal(f->got.data, bytes, BODY);
	fixture_close(f);
}

static void small_and_empty(void **state)
{
	struct fixture *f = fixture_open();

	(void)state;
	put(f, "/a", "x", 1);
	assert_int_equal(f->file.size, 1);
	(void)close(f->file.fd);
	put(f, "/a", "", 0);
	assert_int_equal(f->http_status, 201);
	assert_int_equal(f->file.size, 0);
	fixture_close(f);
}

static void answered_before_the_body(void **state)
{
	struct fixture *f = fixture_open();

	(void)state;
	put(f, "/known", "some", 4);
	assert_int_equal(f->http_status, 200);
	put(f, "/refused", "some", 4);
	assert_int_equal(f->http_status, 507);
	assert_int_equal(f->handled, 0);
	fixture_close(f);
}

static void full_disk(void **state)
{
	struct fixture *f = fixture_open();
	cleanup(freep) char *bytes = bytes_make();

	(void)state;
	put(f, "/full", bytes, BODY);
	assert_int_equal(f->http_status, 507);
	assert_int_equal(f->err.code, BLIX_E_DISKFULL);
	fixture_close(f);
}

static int half(struct fixture *f)
{
	static const char head[] = "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf";
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	unsigned begun = f->begun;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(write(fd, head, strlen(head)), strlen(head));
	while (f->begun == begun)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	return fd;
}

static void clients_that_stop(void **state)
{
	struct fixture *f = fixture_open();
	int fds[LIMIT_HTTP_FILES];

	(void)state;
	for (size_t i = 0; i < array_size(fds); i++)
		fds[i] = half(f);
	put(f, "/a", "x", 1);
	assert_int_equal(f->http_status, 503);
	/* One that goes makes room for another. */
	(void)close(fds[0]);
	do
		put(f, "/a", "x", 1);
	while (f->http_status == 503);
	assert_int_equal(f->http_status, 201);
	assert_int_equal(f->handled, 1);
	/* The others are there while the server closes. */
	fixture_close(f);
	for (size_t i = 1; i < array_size(fds); i++)
		(void)close(fds[i]);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),           cmocka_unit_test(small_and_empty),
		cmocka_unit_test(answered_before_the_body), cmocka_unit_test(full_disk),
		cmocka_unit_test(clients_that_stop),
	};

	return cmocka_run_group_tests_name("http files", tests, NULL, NULL);
}
