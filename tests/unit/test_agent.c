/* lib/vmm/agent against a guest of the test's own making: a socket that speaks frames, well or
 * badly. Streams end once, whatever ends them, and the connection comes back. */
#include "base/alloc.h"
#include "sys/file.h"
#include "vmm/agent.h"
#include "vmm/agent_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define PROGRAM "the bytes of an agent\n"
#define SHA256                                                                                     \
	"f2425358a66f51316f2b9fd179390f334256297141a742ea2202b060e20c5154" /* of PROGRAM, by       \
	                                                                      sha256sum */
#define ANSWER "\nblix-agent 1 22 " SHA256 "\n" PROGRAM

struct seen {
	unsigned frames, ended, changes;
	enum frame_type last;
	char text[64];
	char reason[40];
	bool present;
	bool closed;
	struct agent_stream *close_in_frame;
};

struct fixture {
	uv_loop_t loop;
	char dir[32], *path, *program;
	struct agent_program *loaded;
	int listener, guest; /* the guest's end, -1 none */
	struct frame_reader in;
	struct agent *agent;
	struct seen seen;
	char session[64];
};

static void on_changed(void *data, const struct agent_info *info)
{
	struct seen *seen = data;

	seen->changes++;
	seen->present = info->present;
}

static void on_frame(void *data, const struct frame *f)
{
	struct seen *seen = data;
	struct agent_stream *s = take(seen->close_in_frame);

	seen->frames++;
	seen->last = f->type;
	(void)snprintf(seen->text, sizeof(seen->text), "%.*s", (int)f->len, f->data);
	agent_stream_close(s);
}

static void on_ended(void *data, const struct blix_error *err)
{
	struct seen *seen = data;

	seen->ended++;
	(void)snprintf(seen->reason, sizeof(seen->reason), "%s",
	               err == NULL ? "" : blix_error_reason(err));
}

static const struct agent_stream_ops ops = {on_frame, on_ended};

static void on_closed(void *data)
{
	((struct seen *)data)->closed = true;
}

#define VSOCK_PORT 2549

static int setup_way(void **state, unsigned vsock_port)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct agent_config config;

	memcpy(f->dir, "/tmp/blix-agent-XXXXXX", 23);
	assert_non_null(mkdtemp(f->dir));
	f->path = xasprintf("%s/blix.agent", f->dir);
	memcpy(address.sun_path, f->path, strlen(f->path));
	f->guest = -1;
	f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(f->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(f->listener, 4), 0);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	frame_reader_init(&f->in);
	f->program = xasprintf("%s/blix-agent", f->dir);
	assert_int_equal(file_put(f->program, PROGRAM, strlen(PROGRAM), 0755, NULL), 0);
	f->loaded = agent_program_new(f->program);
	config = (struct agent_config){.loop = &f->loop,
	                               .path = f->path,
	                               .vsock_port = vsock_port,
	                               .program = f->loaded,
	                               .changed = on_changed,
	                               .data = &f->seen};
	f->agent = agent_open(&config);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_way(state, 0);
}

static int setup_vsock(void **state)
{
	return setup_way(state, VSOCK_PORT);
}

static void hang_up(struct fixture *f)
{
	if (f->guest >= 0)
		(void)close(f->guest);
	f->guest = -1;
	frame_reader_clear(&f->in);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->agent != NULL)
		agent_close(f->agent, on_closed, &f->seen);
	assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
	assert_true(f->seen.closed);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	hang_up(f);
	frame_reader_done(&f->in);
	(void)close(f->listener);
	agent_program_free(f->loaded);
	(void)unlink(f->path);
	(void)unlink(f->program);
	(void)rmdir(f->dir);
	free(f->path);
	free(f->program);
	free(f);
	return 0;
}

/* Turns the loop until the guest has a frame. */
static struct frame guest_get(struct fixture *f)
{
	struct frame frame = {0};
	char data[65536];

	for (;;) {
		ssize_t n;

		if (frame_reader_next(&f->in, &frame, NULL) == 1)
			return frame;
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
		if (f->guest < 0)
			continue;
		n = recv(f->guest, data, sizeof(data), MSG_DONTWAIT);
		assert_int_not_equal(n, 0);
		if (n > 0)
			assert_int_equal(frame_reader_feed(&f->in, data, (size_t)n, NULL), 0);
	}
}

static void guest_connected(struct fixture *f)
{
	while (f->guest < 0) {
		(void)uv_run(&f->loop, UV_RUN_ONCE);
		f->guest = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	}
}

static void guest_greeted(struct fixture *f)
{
	struct frame hello;
	const char *text;

	hello = guest_get(f);
	assert_int_equal(hello.type, FRAME_HELLO);
	text = memmem(hello.data, hello.len, "\"session\":\"", 11);
	assert_non_null(text);
	(void)snprintf(f->session, sizeof(f->session), "%.*s", (int)strcspn(text + 11, "\""),
	               text + 11);
}

/* Waits for the connection and its HELLO. */
static void guest_accept(struct fixture *f)
{
	guest_connected(f);
	guest_greeted(f);
}

static void guest_put(struct fixture *f, struct buf *out)
{
	assert_int_equal(send(f->guest, out->data, out->len, MSG_NOSIGNAL), out->len);
	buf_clear(out);
}

static void guest_say(struct fixture *f, uint32_t id, enum frame_type type, const char *text)
{
	cleanup(buf_done) struct buf out;

	buf_init(&out, FRAME_WHOLE);
	assert_int_equal(frame_put_text(&out, id, type, text), 0);
	guest_put(f, &out);
}

static void guest_hello(struct fixture *f, const char *session, const char *more)
{
	cleanup(freep) char *text =
		xasprintf("{\"version\":1,\"session\":\"%s\",\"agent\":\"1.2\"%s}", session, more);

	guest_say(f, 0, FRAME_HELLO, text);
}

#define turn_until(f, condition)                                                                   \
	while (!(condition))                                                                       \
	(void)uv_run(&(f)->loop, UV_RUN_ONCE)

static void guest_up(struct fixture *f)
{
	guest_accept(f);
	guest_hello(f, f->session,
	            ",\"hostname\":\"web\",\"addresses\":[\"10.0.2.15\"],\"ready\":true");
	turn_until(f, f->seen.present);
}

static struct agent_stream *stream_new(struct fixture *f, uint32_t *ret_id)
{
	struct agent_stream *s = NULL;
	struct frame open;

	assert_int_equal(
		agent_stream_open(f->agent, "{\"kind\":\"exec\"}", &ops, &f->seen, &s, NULL), 0);
	open = guest_get(f);
	assert_int_equal(open.type, FRAME_OPEN);
	*ret_id = open.stream;
	return s;
}

static void says_hello(void **state)
{
	struct fixture *f = *state;
	struct agent_stream *s = NULL;
	struct blix_error err;

	assert_int_equal(agent_stream_open(f->agent, "{}", &ops, NULL, &s, &err),
	                 -(int)BLIX_E_UNAVAILABLE);
	assert_string_equal(blix_error_reason(&err), "no-agent");
	guest_up(f);
	assert_string_equal(agent_info(f->agent)->version, "1.2");
	assert_string_equal(agent_info(f->agent)->hostname, "web");
	assert_string_equal(agent_info(f->agent)->addresses[0], "10.0.2.15");
	assert_true(agent_info(f->agent)->ready);
}

/* An agent that starts after we came announces itself, and is answered at once. */
static void announced(void **state)
{
	struct fixture *f = *state;
	struct frame again;

	guest_accept(f);
	guest_say(f, 9, FRAME_STDOUT, "of a session before");
	guest_hello(f, "other", "");
	guest_hello(f, "", "");
	again = guest_get(f);
	assert_int_equal(again.type, FRAME_HELLO);
	assert_non_null(memmem(again.data, again.len, f->session, strlen(f->session)));
	assert_int_equal(f->seen.changes, 0);
	guest_hello(f, f->session, "");
	turn_until(f, f->seen.present);
}

static void streams(void **state)
{
	struct fixture *f = *state;
	struct agent_stream *s;
	struct blix_error err;
	char credit[4] = {5, 0, 0, 0};
	uint32_t id = 0;

	guest_up(f);
	s = stream_new(f, &id);
	guest_say(f, id, FRAME_OPENED, "{}");
	guest_say(f, id + 1, FRAME_STDOUT, "nobody's");
	guest_say(f, id, FRAME_STDOUT, "hello");
	turn_until(f, f->seen.frames == 2);
	assert_string_equal(f->seen.text, "hello");
	assert_int_equal(agent_stream_send(s, FRAME_STDIN, "abc", 3, NULL), 0);
	assert_int_equal(guest_get(f).type, FRAME_STDIN);
	assert_int_equal(agent_stream_send(s, FRAME_CREDIT, credit, 4, NULL), 0);
	assert_int_equal(guest_get(f).type, FRAME_CREDIT);
	assert_int_equal(agent_stream_send(s, FRAME_CREDIT, credit, 4, &err), -(int)BLIX_E_CORRUPT);
	assert_int_equal(agent_stream_send(s, FRAME_OPEN, "{}", 2, &err), -(int)BLIX_E_CORRUPT);
	guest_say(f, id, FRAME_EXIT, "{\"exitCode\":3}");
	turn_until(f, f->seen.ended == 1);
	assert_string_equal(f->seen.text, "{\"exitCode\":3}");
	assert_string_equal(f->seen.reason, "");
	assert_int_equal(agent_stream_send(s, FRAME_STDIN, "abc", 3, NULL), 0);
	agent_stream_close(s);
}

static void input_is_bounded(void **state)
{
	struct fixture *f = *state;
	cleanup(freep) char *much = xcalloc(1, LIMIT_FRAME);
	struct agent_stream *s;
	uint32_t id = 0;

	guest_up(f);
	s = stream_new(f, &id);
	for (unsigned i = 0; i < LIMIT_FRAME_WINDOW / LIMIT_FRAME; i++)
		assert_int_equal(agent_stream_send(s, FRAME_STDIN, much, LIMIT_FRAME, NULL), 0);
	assert_int_equal(agent_stream_send(s, FRAME_STDIN, much, 1, NULL), -(int)BLIX_E_CORRUPT);
	agent_stream_close(s);
	do
		id = (uint32_t)guest_get(f).type;
	while (id == FRAME_STDIN);
	assert_int_equal(id, FRAME_CLOSE);
	assert_int_equal(f->seen.ended, 0);
}

static void closed_in_its_own_call(void **state)
{
	struct fixture *f = *state;
	uint32_t id = 0;

	guest_up(f);
	f->seen.close_in_frame = stream_new(f, &id);
	guest_say(f, id, FRAME_EXIT, "{\"exitCode\":0}");
	turn_until(f, f->seen.frames == 1);
	assert_int_equal(f->seen.ended, 0);
}

static void lost_and_found(void **state)
{
	struct fixture *f = *state;
	struct agent_stream *s;
	uint32_t id = 0;

	guest_up(f);
	s = stream_new(f, &id);
	hang_up(f);
	turn_until(f, f->seen.ended == 1);
	assert_string_equal(f->seen.reason, "agent-lost");
	assert_false(f->seen.present);
	agent_stream_close(s);
	guest_up(f);
	assert_int_equal(f->seen.changes, 3);
}

/* What no agent says ends the connection: bad frames, more than the window, frames for the host. */
static void liars(void **state)
{
	static const char *const lies[] = {"garbage", "window", "stdin", "anew"};
	struct fixture *f = *state;
	cleanup(freep) char *much = xcalloc(1, LIMIT_FRAME + 1);
	cleanup(buf_done) struct buf out;

	buf_init(&out, LIMIT_FRAME_INPUT);
	memset(much, 'x', LIMIT_FRAME);
	for (unsigned i = 0; i < array_size(lies); i++) {
		struct agent_stream *s;
		uint32_t id = 0;
		char ignored[64];

		guest_up(f);
		s = stream_new(f, &id);
		if (i == 0)
			assert_int_equal(send(f->guest, much, 100, 0), 100);
		for (unsigned n = 0; i == 1 && n < 5 && f->seen.ended == i; n++) {
			guest_say(f, id, FRAME_STDOUT, much);
			turn_until(f, f->seen.frames > n || f->seen.ended > i);
		}
		if (i == 2)
			guest_say(f, id, FRAME_STDIN, "x");
		if (i == 3)
			guest_hello(f, "", "");
		turn_until(f, f->seen.ended == i + 1);
		assert_string_equal(f->seen.reason, "agent-lost");
		assert_false(f->seen.present);
		agent_stream_close(s);
		while (recv(f->guest, ignored, sizeof(ignored), 0) > 0)
			continue;
		hang_up(f);
		f->seen.frames = 0;
	}
}

static void guest_ask(struct fixture *f, const char *line)
{
	assert_int_equal(send(f->guest, line, strlen(line), MSG_NOSIGNAL), (ssize_t)strlen(line));
}

/* Reads until `want` bytes came that are not frames; turns the loop meanwhile. */
static void guest_expect(struct fixture *f, const char *want)
{
	char got[512] = "";
	size_t n = 0;

	while (n < strlen(want)) {
		ssize_t more = recv(f->guest, got + n, strlen(want) - n, MSG_DONTWAIT);

		assert_int_not_equal(more, 0);
		n += more > 0 ? (size_t)more : 0;
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	}
	assert_string_equal(got, want);
}

static void guest_is_left(struct fixture *f)
{
	char byte;

	for (;;) {
		ssize_t n = recv(f->guest, &byte, 1, MSG_DONTWAIT);

		assert_false(n > 0);
		if (n == 0)
			break;
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	}
	hang_up(f);
}

/* In pieces, as a slow port gives them; then what was loaded speaks over the same connection. */
static void loads(void **state)
{
	struct fixture *f = *state;

	guest_accept(f);
	guest_ask(f, "blix-");
	(void)uv_run(&f->loop, UV_RUN_ONCE);
	guest_ask(f, "loader 1\n");
	guest_expect(f, ANSWER);
	turn_until(f, f->seen.changes == 1);
	assert_int_equal(agent_info(f->agent)->loads, 1);
	assert_false(agent_info(f->agent)->present);
	guest_hello(f, "", "");
	assert_int_equal(guest_get(f).type, FRAME_HELLO);
	guest_hello(f, f->session, "");
	turn_until(f, f->seen.present);
	assert_int_equal(agent_info(f->agent)->loads, 1);
}

/* What asks again has lost count of the bytes; what asks in the middle of a session has lost its
 * agent; what asks for another protocol gets none. Each finds a fresh connection. */
static void loads_again(void **state)
{
	struct fixture *f = *state;

	guest_accept(f);
	guest_ask(f, "blix-loader 1\n");
	guest_expect(f, ANSWER);
	guest_ask(f, "blix-loader 1\n");
	guest_is_left(f);
	for (unsigned torn = 0; torn < 2; torn++) {
		guest_up(f);
		if (torn != 0)
			assert_int_equal(send(f->guest, "\377\0\0\0\7\0\0\0", 8, 0), 8);
		(void)uv_run(&f->loop, UV_RUN_NOWAIT);
		guest_ask(f, "blix-loader 1\n");
		turn_until(f, !f->seen.present);
		guest_is_left(f);
	}
	guest_accept(f);
	guest_ask(f, "blix-loader 2\n");
	guest_is_left(f);
	guest_accept(f);
	guest_ask(f, "blix-loader 1\n");
	guest_expect(f, ANSWER);
	assert_int_equal(agent_info(f->agent)->loads, 2);
}

static void nothing_to_load(void **state)
{
	struct fixture *f = *state;
	cleanup(freep) char *problem =
		xasprintf("this node has no agent for the guest to load: %s", f->program);
	cleanup(freep) char *answer = xasprintf("\nblix-error %s\n", problem);
	struct agent_stream *s;
	struct blix_error err;

	(void)unlink(f->program);
	guest_accept(f);
	guest_ask(f, "blix-loader 1\n");
	guest_expect(f, answer);
	assert_string_equal(agent_info(f->agent)->problem, problem);
	assert_int_equal(agent_stream_open(f->agent, "{}", &ops, NULL, &s, &err),
	                 -(int)BLIX_E_UNAVAILABLE);
	assert_string_equal(blix_error_reason(&err), "no-agent");
	assert_non_null(strstr(err.text, problem));
	hang_up(f);
	assert_int_equal(file_put(f->program, PROGRAM, strlen(PROGRAM), 0755, NULL), 0);
	guest_accept(f);
	assert_string_equal(agent_info(f->agent)->problem, problem);
	guest_ask(f, "blix-loader 1\n");
	turn_until(f, agent_info(f->agent)->problem[0] == '\0');
}

/* A stand-in for Firecracker and Cloud Hypervisor, by their documents: one line in, one line out,
 * then the guest's bytes; a port that nobody listens at is a connection that is closed. */
static void dialed(struct fixture *f)
{
	guest_connected(f);
	guest_expect(f, "CONNECT 2549\n");
}

static void by_vsock(void **state)
{
	struct fixture *f = *state;
	cleanup(buf_done) struct buf out;
	char byte;

	dialed(f);
	assert_true(recv(f->guest, &byte, 1, MSG_DONTWAIT) < 0); /* nothing before the OK */
	guest_ask(f, "O");
	(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	guest_ask(f, "K 10737");
	(void)uv_run(&f->loop, UV_RUN_NOWAIT);
	guest_ask(f, "41824\n");
	guest_greeted(f);
	guest_ask(f, "blix-loader 1\n");
	guest_expect(f, ANSWER);
	guest_hello(f, "", "");
	assert_int_equal(guest_get(f).type, FRAME_HELLO);
	guest_hello(f, f->session, "");
	turn_until(f, f->seen.present);
	hang_up(f);
	turn_until(f, !f->seen.present);
	dialed(f);
	buf_init(&out, FRAME_WHOLE); /* an agent's first words come along */
	assert_int_equal(buf_add_string(&out, "OK 1073741825\n"), 0);
	assert_int_equal(frame_put_text(&out, 0, FRAME_HELLO, "{\"version\":1,\"session\":\"\"}"),
	                 0);
	guest_put(f, &out);
	guest_greeted(f);
	assert_int_equal(guest_get(f).type, FRAME_HELLO);
	guest_hello(f, f->session, "");
	turn_until(f, f->seen.present);
}

static void vsock_refuses(void **state)
{
	static const char *const lies[] = {"", "ERR no\n", "OK\n", "OK x\n",
	                                   "OK 1111111111111111111111111111111111111111"};
	struct fixture *f = *state;

	for (unsigned i = 0; i < array_size(lies); i++) {
		dialed(f);
		guest_ask(f, lies[i]);
		if (i == 0)
			hang_up(f); /* nobody listens there */
		else
			guest_is_left(f);
	}
	assert_int_equal(f->seen.changes, 0);
	dialed(f);
	guest_ask(f, "OK 1\n");
	guest_greeted(f);
}

static void closed_with_streams(void **state)
{
	struct fixture *f = *state;
	struct agent_stream *s;
	uint32_t id = 0;

	guest_up(f);
	s = stream_new(f, &id);
	agent_close(take(f->agent), on_closed, &f->seen);
	assert_int_equal(f->seen.ended, 0);
	turn_until(f, f->seen.closed);
	assert_int_equal(f->seen.ended, 1);
	agent_stream_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(says_hello, setup, teardown),
		cmocka_unit_test_setup_teardown(announced, setup, teardown),
		cmocka_unit_test_setup_teardown(streams, setup, teardown),
		cmocka_unit_test_setup_teardown(input_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(closed_in_its_own_call, setup, teardown),
		cmocka_unit_test_setup_teardown(lost_and_found, setup, teardown),
		cmocka_unit_test_setup_teardown(liars, setup, teardown),
		cmocka_unit_test_setup_teardown(loads, setup, teardown),
		cmocka_unit_test_setup_teardown(loads_again, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_to_load, setup, teardown),
		cmocka_unit_test_setup_teardown(by_vsock, setup_vsock, teardown),
		cmocka_unit_test_setup_teardown(vsock_refuses, setup_vsock, teardown),
		cmocka_unit_test_setup_teardown(closed_with_streams, setup, teardown),
	};

	return cmocka_run_group_tests_name("agent", tests, NULL, NULL);
}
