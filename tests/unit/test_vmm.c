/* lib/vmm against servers that answer, dawdle, babble and hang up. Each server is a thread that
 * plays one script to one or more clients on a unix socket in a directory of its own. */
#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "vmm/address.h"
#include "vmm/qmp.h"
#include "vmm/rest.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#define SOON         10000u /* a deadline that no test reaches unless it fails */
#define SHORT        60u    /* one that is meant to be reached */
#define GREETING     "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n"
#define RETURN_EMPTY "{\"return\": {}}\r\n"

/* What a server does: '>' sends the text after it, '<' waits for a whole request that holds it, '#'
 * sends so many MiB of 'x', '.' waits until the client hangs up. Then it hangs up itself. */
struct step {
	char what;
	const char *text;
};

struct server {
	char dir[64];
	char path[512];
	int listener;
	const struct step *steps;
	pthread_t thread;
	bool started;
	char seen[4096]; /* all that the clients sent */
	size_t seen_len;
};

static void server_read(struct server *s, int fd, const char *until)
{
	size_t from = s->seen_len;

	while (s->seen_len + 1 < sizeof(s->seen)) {
		ssize_t n = recv(fd, s->seen + s->seen_len, sizeof(s->seen) - 1 - s->seen_len, 0);

		if (n <= 0)
			return;
		s->seen_len += (size_t)n;
		s->seen[s->seen_len] = '\0';
		if (until != NULL && strstr(s->seen + from, until) != NULL)
			return;
	}
}

static void server_flood(int fd, const char *text)
{
	static char data[65536];

	memset(data, text[1] == '\n' ? '\n' : 'x', sizeof(data));
	for (int i = 0; i < (text[0] - '0') * 16; i++) {
		if (send(fd, data, sizeof(data), MSG_NOSIGNAL) < 0)
			return;
	}
}

static void *server_run(void *arg)
{
	struct server *s = arg;
	int fd = accept(s->listener, NULL, NULL);

	for (const struct step *step = s->steps; fd >= 0 && step->what != '\0'; step++) {
		if (step->what == '>')
			(void)send(fd, step->text, strlen(step->text), MSG_NOSIGNAL);
		else if (step->what == '#')
			server_flood(fd, step->text);
		else
			server_read(s, fd, step->what == '<' ? step->text : NULL);
	}
	if (fd >= 0)
		(void)close(fd);
	return NULL;
}

static void server_listen(struct server *s, const char *folder, int backlog)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	memset(s, 0, sizeof(*s));
	(void)snprintf(s->dir, sizeof(s->dir), "/tmp/blix-vmm-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	(void)snprintf(s->path, sizeof(s->path), "%s/%s", s->dir, folder);
	assert_int_equal(file_make_dirs(s->path, 0700, NULL), 0);
	assert_int_equal(chdir(s->path), 0);
	(void)snprintf(to.sun_path, sizeof(to.sun_path), "vm.sock");
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->listener, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(listen(s->listener, backlog), 0);
	assert_int_equal(fchdir(cwd), 0);
	(void)close(cwd);
	(void)snprintf(s->path + strlen(s->path), sizeof(s->path) - strlen(s->path), "/vm.sock");
}

static void server_start(struct server *s, const struct step *steps)
{
	server_listen(s, "", 8);
	s->steps = steps;
	assert_int_equal(pthread_create(&s->thread, NULL, server_run, s), 0);
	s->started = true;
}

static void server_stop(struct server *s)
{
	if (s->started)
		(void)pthread_join(s->thread, NULL);
	(void)close(s->listener);
	assert_int_equal(file_remove_tree(s->dir, NULL), 0);
}

static const struct step qmp_good[] = {{'>', GREETING},
                                       {'<', "\"qmp_capabilities\""},
                                       {'>', RETURN_EMPTY},
                                       {'<', "\"query-status\""},
                                       {'>', "{\"return\": {\"status\": \"running\"}}\r\n"},
                                       {0}};

static const struct step qmp_events[] = {
	{'>', GREETING},
	{'>', "{\"event\": \"RESUME\", \"timestamp\": {}}\r\n"},
	{'<', "\"qmp_capabilities\""},
	{'>', "{\"event\": \"STOP\"}\n{\"event\": \"RESUME\"}\n{\"retu"},
	{'>', "rn\": {}}\r\n{\"event\": \"POWERDOWN\"}\r\n"},
	{'<', "\"query-status\""},
	{'>', "{\"event\": \"X\"}\r\n{\"return\": {\"status\": \"paused\"}}\r\n"},
	{0}};

static void qmp_answers(void **state)
{
	static const struct {
		const struct step *steps;
		const char *status;
	} rows[] = {{qmp_good, "running"}, {qmp_events, "paused"}};

	(void)state;
	for (size_t i = 0; i < array_size(rows); i++) {
		struct vmm_status status;
		struct server s;

		server_start(&s, rows[i].steps);
		assert_int_equal(vmm_status(VMM_QEMU, s.path, SOON, &status, NULL), 0);
		assert_string_equal(status.text, rows[i].status);
		server_stop(&s);
	}
}

/* One row: what a server does, and how the client must call it. */
struct failure {
	const struct step *steps;
	unsigned deadline_ms;
	enum blix_code code;
	const char *reason;
};

static void expect_failures(enum vmm_kind kind, const struct failure *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t start = clock_boot_ms();
		struct vmm_status status;
		struct blix_error err;
		struct server s;

		server_start(&s, rows[i].steps);
		assert_int_equal(vmm_status(kind, s.path, rows[i].deadline_ms, &status, &err),
		                 -(int)rows[i].code);
		assert_string_equal(err.reason, rows[i].reason);
		assert_true(clock_boot_ms() - start < SOON);
		server_stop(&s);
	}
}

static void qmp_failures(void **state)
{
	static const struct step silent[] = {{'.', NULL}, {0}};
	static const struct step half[] = {{'>', "{\"QMP\": "}, {'.', NULL}, {0}};
	static const struct step mute[] = {{'>', GREETING}, {'.', NULL}, {0}};
	static const struct step closing[] = {{0}};
	static const struct step leaving[] = {{'>', GREETING}, {'<', "capabilities"}, {0}};
	static const struct step garbage[] = {{'>', "SSH-2.0-OpenSSH\r\n"}, {'.', NULL}, {0}};
	static const struct step other[] = {{'>', "{\"hello\": 1}\n"}, {'.', NULL}, {0}};
	static const struct step binary[] = {{'>', "{\"QMP\": \"\xff\xfe\"}\n"}, {'.', NULL}, {0}};
	static const struct step list[] = {{'>', "[1]\n"}, {'.', NULL}, {0}};
	static const struct step empty[] = {{'>', "\n\n\n"}, {'.', NULL}, {0}};
	static const struct step huge[] = {{'#', "2"}, {'.', NULL}, {0}};
	static const struct step neither[] = {
		{'>', GREETING}, {'<', "capabilities"}, {'>', "{\"id\": 4}\n"}, {'.', NULL}, {0}};
	static const struct step error[] = {
		{'>', GREETING},
		{'<', "capabilities"},
		{'>', "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n"},
		{'.', NULL},
		{0}};
	static const struct failure rows[] = {
		{silent, SHORT, BLIX_E_TIMEOUT, REASON_SILENT},
		{half, SHORT, BLIX_E_TIMEOUT, REASON_SILENT},
		{mute, SHORT, BLIX_E_TIMEOUT, REASON_SILENT},
		{closing, SOON, BLIX_E_UNAVAILABLE, REASON_CLOSED},
		{leaving, SOON, BLIX_E_UNAVAILABLE, REASON_CLOSED},
		{garbage, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{other, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{binary, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{list, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{empty, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{huge, SOON, BLIX_E_TOOBIG, REASON_TOO_BIG},
		{neither, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{error, SOON, BLIX_E_REFUSED, REASON_ERROR},
	};

	(void)state;
	expect_failures(VMM_QEMU, rows, array_size(rows));
}

/* A stream of events is traffic, but no answer: the deadline holds all the same. */
static void qmp_event_flood(void **state)
{
	static struct step steps[4096] = {{'>', GREETING}};
	struct vmm_status status;
	struct blix_error err;
	struct server s;

	(void)state;
	for (size_t i = 1; i + 1 < array_size(steps); i++)
		steps[i] = (struct step){'>', "{\"event\": \"X\"}\n"};
	steps[array_size(steps) - 2] = (struct step){'.', NULL};
	server_start(&s, steps);
	assert_int_equal(vmm_status(VMM_QEMU, s.path, SHORT, &status, &err), -BLIX_E_TIMEOUT);
	server_stop(&s);
}

static void nobody_there(void **state)
{
	static const enum vmm_kind kinds[] = {VMM_QEMU, VMM_CLOUD_HYPERVISOR, VMM_FIRECRACKER};
	struct vmm_status status;
	struct blix_error err;
	struct server s;
	char path[640];

	(void)state;
	server_listen(&s, "", 0);
	(void)close(s.listener);
	s.listener = -1;
	for (size_t i = 0; i < array_size(kinds); i++) {
		assert_int_equal(vmm_status(kinds[i], s.path, SOON, &status, &err),
		                 -BLIX_E_UNAVAILABLE);
		assert_string_equal(err.reason, REASON_REFUSED);
		(void)snprintf(path, sizeof(path), "%s.absent", s.path);
		assert_int_equal(vmm_status(kinds[i], path, SOON, &status, &err), -BLIX_E_NOTFOUND);
		assert_string_equal(err.reason, REASON_NO_SOCKET);
		(void)snprintf(path, sizeof(path), "%s.fifo", s.path);
		assert_true(mkfifo(path, 0600) == 0 || errno == EEXIST);
		assert_int_equal(vmm_status(kinds[i], path, SOON, &status, &err), -BLIX_E_NOTFOUND);
		assert_string_equal(err.reason, REASON_NO_SOCKET);
	}
	server_stop(&s);
}

/* A hypervisor busy with another client, whose queue of waiting ones is full too. */
static void queue_full(void **state)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct vmm_status status;
	struct blix_error err;
	struct server s;
	int waiting;

	(void)state;
	server_listen(&s, "", 0);
	(void)snprintf(to.sun_path, sizeof(to.sun_path), "%.100s", s.path);
	waiting = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(waiting, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(vmm_status(VMM_QEMU, s.path, SHORT, &status, &err), -BLIX_E_TIMEOUT);
	assert_string_equal(err.reason, REASON_SILENT);
	(void)close(waiting);
	server_stop(&s);
}

#define HTTP(status, body_length, body)                                                            \
	"HTTP/1.1 " status "\r\nContent-Length: " #body_length "\r\n\r\n" body

static const struct step cloud_good[] = {
	{'<', "\r\n\r\n"},
	{'>', HTTP("200 OK", 31, "{\"config\":{},\"state\":\"Running\"} ")},
	{0}};

static const struct step firecracker_good[] = {
	{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 23, "{\"state\":\"Not started\"}")}, {0}};

static void long_paths(void **state)
{
	static const struct {
		enum vmm_kind kind;
		const struct step *steps;
	} rows[] = {{VMM_QEMU, qmp_good}, {VMM_CLOUD_HYPERVISOR, cloud_good}};
	char folder[200];

	(void)state;
	memset(folder, 'd', sizeof(folder));
	folder[sizeof(folder) - 1] = '\0';
	for (size_t i = 0; i < array_size(rows); i++) {
		struct vmm_status status;
		struct server s;

		server_listen(&s, folder, 8);
		assert_true(strlen(s.path) > 200);
		s.steps = rows[i].steps;
		assert_int_equal(pthread_create(&s.thread, NULL, server_run, &s), 0);
		s.started = true;
		assert_int_equal(vmm_status(rows[i].kind, s.path, SOON, &status, NULL), 0);
		assert_string_equal(status.text, "running");
		server_stop(&s);
	}
}

static void rest_answers(void **state)
{
	struct vmm_status status;
	struct server s;

	(void)state;
	server_start(&s, cloud_good);
	assert_int_equal(vmm_status(VMM_CLOUD_HYPERVISOR, s.path, SOON, &status, NULL), 0);
	server_stop(&s);
	assert_string_equal(status.text, "running");
	assert_memory_equal(s.seen, "GET /api/v1/vm.info HTTP/1.1\r\n", 30);
	server_start(&s, firecracker_good);
	assert_int_equal(vmm_status(VMM_FIRECRACKER, s.path, SOON, &status, NULL), 0);
	server_stop(&s);
	assert_string_equal(status.text, "not-started");
	assert_memory_equal(s.seen, "GET / HTTP/1.1\r\n", 16);
}

static void rest_failures(void **state)
{
	static const struct step silent[] = {{'.', NULL}, {0}};
	static const struct step half[] = {
		{'>', "HTTP/1.1 200 OK\r\nContent-Len"}, {'.', NULL}, {0}};
	static const struct step closing[] = {{'<', "\r\n\r\n"}, {0}};
	static const struct step cut[] = {
		{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 500, "{\"state\":")}, {0}};
	static const struct step garbage[] = {{'<', "\r\n\r\n"}, {'>', "{\"QMP\": 1}\r\n"}, {0}};
	static const struct step text[] = {{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 2, "hi")}, {0}};
	static const struct step stateless[] = {
		{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 2, "{}")}, {0}};
	static const struct step number[] = {
		{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 11, "{\"state\":1}")}, {0}};
	static const struct step none[] = {
		{'<', "\r\n\r\n"}, {'>', "HTTP/1.1 204 No Content\r\n\r\n"}, {0}};
	static const struct step error[] = {
		{'<', "\r\n\r\n"}, {'>', HTTP("500 Bad", 9, "VM is bad")}, {0}};
	static const struct step announced[] = {
		{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 99999999, "")}, {'.', NULL}, {0}};
	static const struct step huge[] = {
		{'<', "\r\n\r\n"}, {'>', "HTTP/1.1 200 OK\r\n\r\n"}, {'#', "2"}, {0}};
	static const struct step away[] = {
		{'<', "\r\n\r\n"},
		{'>', "HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\n"
	              "Content-Length: 0\r\n\r\n"},
		{0}};
	static const struct failure rows[] = {
		{silent, SHORT, BLIX_E_TIMEOUT, REASON_SILENT},
		{half, SHORT, BLIX_E_TIMEOUT, REASON_SILENT},
		{closing, SOON, BLIX_E_UNAVAILABLE, REASON_CLOSED},
		{cut, SOON, BLIX_E_UNAVAILABLE, REASON_CLOSED},
		{garbage, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{text, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{stateless, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{number, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{none, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{error, SOON, BLIX_E_REFUSED, REASON_ERROR},
		{announced, SOON, BLIX_E_TOOBIG, REASON_TOO_BIG},
		{huge, SOON, BLIX_E_TOOBIG, REASON_TOO_BIG},
		{away, SOON, BLIX_E_REFUSED, REASON_ERROR},
	};

	(void)state;
	expect_failures(VMM_CLOUD_HYPERVISOR, rows, array_size(rows));
}

static void power_buttons(void **state)
{
	static const struct step qemu[] = {{'>', GREETING},     {'<', "capabilities"},
	                                   {'>', RETURN_EMPTY}, {'<', "\"system_powerdown\""},
	                                   {'>', RETURN_EMPTY}, {'<', "input-send-event"},
	                                   {'>', RETURN_EMPTY}, {0}};
	static const struct step done[] = {
		{'<', "\r\n\r\n"}, {'>', "HTTP/1.1 204 No Content\r\n\r\n"}, {0}};
	static const struct step done_body[] = {
		{'<', "CtrlAltDel\"}"}, {'>', "HTTP/1.1 204 No Content\r\n\r\n"}, {0}};
	struct server s;

	(void)state;
	server_start(&s, qemu);
	assert_int_equal(vmm_power_button(VMM_QEMU, s.path, SOON, NULL), 0);
	server_stop(&s);
	assert_non_null(
		strstr(s.seen, "{\"down\":true,\"key\":{\"type\":\"qcode\",\"data\":\"ctrl\"}}"));
	assert_non_null(strstr(
		s.seen, "{\"down\":false,\"key\":{\"type\":\"qcode\",\"data\":\"delete\"}}"));
	server_start(&s, done);
	assert_int_equal(vmm_power_button(VMM_CLOUD_HYPERVISOR, s.path, SOON, NULL), 0);
	server_stop(&s);
	assert_memory_equal(s.seen, "PUT /api/v1/vm.power-button HTTP/1.1\r\n", 38);
	assert_non_null(strstr(s.seen, "Content-Length: 0\r\n"));
	server_start(&s, done_body);
	assert_int_equal(vmm_power_button(VMM_FIRECRACKER, s.path, SOON, NULL), 0);
	server_stop(&s);
	assert_memory_equal(s.seen, "PUT /actions HTTP/1.1\r\n", 23);
	assert_non_null(strstr(s.seen, "Content-Type: application/json\r\n"));
	assert_non_null(strstr(s.seen, "\r\n\r\n{\"action_type\":\"SendCtrlAltDel\"}"));
}

/* Either way of asking is enough; neither is an error, and the first one's words are told. */
static void qemu_without_keys(void **state)
{
	static const struct step deaf[] = {{'>', GREETING},
	                                   {'<', "capabilities"},
	                                   {'>', RETURN_EMPTY},
	                                   {'<', "\"system_powerdown\""},
	                                   {'>', RETURN_EMPTY},
	                                   {'<', "input-send-event"},
	                                   {'>', "{\"error\": {\"desc\": \"no keyboard\"}}\n"},
	                                   {0}};
	static const struct step neither[] = {{'>', GREETING},
	                                      {'<', "capabilities"},
	                                      {'>', RETURN_EMPTY},
	                                      {'<', "\"system_powerdown\""},
	                                      {'>', "{\"error\": {\"desc\": \"no button\"}}\n"},
	                                      {'<', "input-send-event"},
	                                      {'>', "{\"error\": {\"desc\": \"no keyboard\"}}\n"},
	                                      {0}};
	struct blix_error err;
	struct server s;

	(void)state;
	server_start(&s, deaf);
	assert_int_equal(vmm_power_button(VMM_QEMU, s.path, SOON, NULL), 0);
	server_stop(&s);
	server_start(&s, neither);
	assert_int_equal(vmm_power_button(VMM_QEMU, s.path, SOON, &err), -BLIX_E_REFUSED);
	assert_string_equal(err.text, "no button");
	server_stop(&s);
}

/* Firecracker's requests, byte for byte; the answer's status alone decides. */
static void pause_requests(void **state)
{
	static const struct step done[] = {
		{'<', "\"}"}, {'>', "HTTP/1.1 204 No Content\r\n\r\n"}, {0}};
	struct server s;

	(void)state;
	server_start(&s, done);
	assert_int_equal(vmm_pause(VMM_FIRECRACKER, s.path, SOON, NULL), 0);
	server_stop(&s);
	assert_memory_equal(s.seen, "PATCH /vm HTTP/1.1\r\n", 20);
	assert_non_null(strstr(s.seen, "\r\n\r\n{\"state\":\"Paused\"}"));
	server_start(&s, done);
	assert_int_equal(vmm_resume(VMM_FIRECRACKER, s.path, SOON, NULL), 0);
	server_stop(&s);
	assert_non_null(strstr(s.seen, "\r\n\r\n{\"state\":\"Resumed\"}"));
}

/* The words of a refusal are told, not those of the question that came after it. */
static void pause_failures(void **state)
{
	static const struct step refused[] = {
		{'<', "\r\n\r\n"}, {'>', HTTP("405 No", 10, "not booted")}, {0}};
	static const struct step half[] = {
		{'<', "\r\n\r\n"}, {'>', "HTTP/1.1 2"}, {'.', NULL}, {0}};
	static const struct step silent[] = {{'.', NULL}, {0}};
	static const struct step closing[] = {{'<', "\r\n\r\n"}, {0}};
	static const struct step garbage[] = {
		{'<', "\r\n\r\n"}, {'>', "{\"return\": {}}\r\n"}, {0}};
	static const struct step huge[] = {
		{'<', "\r\n\r\n"}, {'>', "HTTP/1.1 200 OK\r\n\r\n"}, {'#', "2"}, {0}};
	static const struct failure rows[] = {
		{refused, SHORT, BLIX_E_REFUSED, REASON_ERROR},
		{half, SHORT, BLIX_E_TIMEOUT, REASON_SILENT},
		{silent, SHORT, BLIX_E_TIMEOUT, REASON_SILENT},
		{closing, SOON, BLIX_E_UNAVAILABLE, REASON_CLOSED},
		{garbage, SOON, BLIX_E_CORRUPT, REASON_MALFORMED},
		{huge, SOON, BLIX_E_TOOBIG, REASON_TOO_BIG},
	};
	static const enum vmm_kind kinds[] = {VMM_CLOUD_HYPERVISOR, VMM_FIRECRACKER};

	(void)state;
	for (size_t i = 0; i < array_size(rows) * array_size(kinds); i++) {
		const struct failure *row = &rows[i / array_size(kinds)];
		struct blix_error err;
		struct server s;

		server_start(&s, row->steps);
		assert_int_equal(vmm_pause(kinds[i % 2], s.path, row->deadline_ms, &err),
		                 -(int)row->code);
		assert_string_equal(err.reason, row->reason);
		if (row->steps == refused)
			assert_string_equal(err.text, "HTTP 405: not booted");
		server_stop(&s);
	}
}

#define QMP_SESSION                                                                                \
	{'>', GREETING}, {'<', "capabilities"},                                                    \
	{                                                                                          \
		'>', RETURN_EMPTY                                                                  \
	}
#define NO_DEVICE "{\"error\": {\"desc\": \"no such device\"}}\n"

/* Two disks, no balloon, two CPUs. */
static const struct step counters_good[] = {
	QMP_SESSION,
	{'<', "query-blockstats"},
	{'>', "{\"return\": [{\"stats\": {\"rd_bytes\": 5, \"wr_bytes\": 7}}, "
              "{\"stats\": {\"rd_bytes\": 10, \"wr_bytes\": 0}}]}\n"},
	{'<', "query-balloon"},
	{'>', NO_DEVICE},
	{'<', "query-cpus-fast"},
	{'>', "{\"return\": [{}, {}]}\n"},
	{0}};

static void qmp_counters(void **state)
{
	static const struct step odd[] = {QMP_SESSION,
	                                  {'<', "query-blockstats"},
	                                  {'>', "{\"return\": [{\"stats\": 1}]}\n"},
	                                  {'<', "balloon"},
	                                  {'>', NO_DEVICE},
	                                  {'<', "cpus"},
	                                  {'>', NO_DEVICE},
	                                  {0}};
	static const struct step leaving[] = {QMP_SESSION, {'<', "query-blockstats"}, {0}};
	static const struct step balloon[] = {QMP_SESSION,
	                                      {'<', "query-balloon"},
	                                      {'>', "{\"return\": {\"actual\": 4096}}\n"},
	                                      {0}};
	struct vmm_counters c;
	struct blix_error err;
	struct server s;

	(void)state;
	server_start(&s, counters_good);
	assert_int_equal(vmm_counters(VMM_QEMU, s.path, SOON, &c, NULL), 0);
	server_stop(&s);
	assert_true(c.disk_known && c.cpus_known && !c.memory_known);
	assert_int_equal(c.disk_read_bytes, 15);
	assert_int_equal(c.disk_write_bytes, 7);
	assert_int_equal(c.cpus, 2);
	server_start(&s, odd);
	assert_int_equal(vmm_counters(VMM_QEMU, s.path, SOON, &c, &err), -BLIX_E_CORRUPT);
	server_stop(&s);
	server_start(&s, leaving);
	assert_int_equal(vmm_counters(VMM_QEMU, s.path, SOON, &c, &err), -BLIX_E_UNAVAILABLE);
	assert_string_equal(err.reason, REASON_CLOSED);
	server_stop(&s);
	server_start(&s, balloon);
	assert_int_equal(vmm_counters(VMM_STRATOVIRT, s.path, SOON, &c, NULL), 0);
	server_stop(&s);
	assert_true(c.memory_known && !c.disk_known && !c.cpus_known);
	assert_int_equal(c.memory_bytes, 4096);
}

static void rest_counters(void **state)
{
	static const struct step text[] = {
		{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 13, "{\"_disk0\": 1}")}, {0}};
	static const struct step none[] = {{'<', "\r\n\r\n"}, {'>', HTTP("200 OK", 2, "{}")}, {0}};
	struct vmm_counters c;
	struct blix_error err;
	struct server s;

	(void)state;
	server_start(&s, text);
	assert_int_equal(vmm_counters(VMM_CLOUD_HYPERVISOR, s.path, SOON, &c, &err),
	                 -BLIX_E_CORRUPT);
	assert_string_equal(err.reason, REASON_MALFORMED);
	server_stop(&s);
	server_start(&s, none);
	assert_int_equal(vmm_counters(VMM_CLOUD_HYPERVISOR, s.path, SOON, &c, NULL), 0);
	server_stop(&s);
	assert_memory_equal(s.seen, "GET /api/v1/vm.counters HTTP/1.1\r\n", 34);
	assert_false(c.disk_known || c.net_known || c.memory_known);
}

/* Each kind can do an operation, or has words for why it cannot. */
static void capabilities(void **state)
{
	(void)state;
	for (int kind = VMM_UNKNOWN; kind <= VMM_VFKIT; kind++) {
		struct blix_error err;
		const char *why = vmm_cannot((enum vmm_kind)kind, VMM_PAUSE);
		int rc = vmm_pause((enum vmm_kind)kind, "/nowhere", SOON, &err);

		assert_int_equal(rc, why != NULL ? -BLIX_E_REFUSED : -BLIX_E_NOTFOUND);
		if (why != NULL) {
			assert_string_equal(err.reason, REASON_NOT_KNOWN);
			assert_non_null(strstr(err.text, why));
		}
	}
	assert_null(vmm_cannot(VMM_STRATOVIRT, VMM_PAUSE));
	assert_non_null(vmm_cannot(VMM_STRATOVIRT, VMM_POWER_BUTTON));
	assert_non_null(vmm_cannot(VMM_FIRECRACKER, VMM_QUIT));
	assert_non_null(vmm_cannot(VMM_KVMTOOL, VMM_STATUS));
	assert_true(vmm_runner_shuts_down(VMM_CROSVM));
	assert_false(vmm_runner_shuts_down(VMM_QEMU) || vmm_runner_shuts_down(VMM_ALIOTH));
}

static void kinds(void **state)
{
	struct vmm_status status;
	struct blix_error err;

	(void)state;
	assert_int_equal(vmm_kind_parse("qemu\n"), VMM_QEMU);
	assert_int_equal(vmm_kind_parse("cloud-hypervisor"), VMM_CLOUD_HYPERVISOR);
	assert_int_equal(vmm_kind_parse("qem"), VMM_UNKNOWN);
	assert_int_equal(vmm_kind_parse("qemu2"), VMM_UNKNOWN);
	assert_int_equal(vmm_kind_parse(""), VMM_UNKNOWN);
	assert_int_equal(vmm_kind_parse("unknown"), VMM_UNKNOWN);
	assert_string_equal(vmm_kind_name(VMM_VFKIT), "vfkit");
	assert_true(vmm_kind_answers(VMM_STRATOVIRT));
	assert_false(vmm_kind_answers(VMM_CROSVM));
	assert_int_equal(vmm_status(VMM_CROSVM, "/nowhere", SOON, &status, &err), -BLIX_E_REFUSED);
	assert_string_equal(err.reason, REASON_NOT_KNOWN);
	assert_int_equal(vmm_quit(VMM_FIRECRACKER, "/nowhere", SOON, &err), -BLIX_E_REFUSED);
	assert_int_equal(vmm_power_button(VMM_UNKNOWN, "/nowhere", SOON, &err), -BLIX_E_REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds),
		cmocka_unit_test(qmp_answers),
		cmocka_unit_test(qmp_failures),
		cmocka_unit_test(qmp_event_flood),
		cmocka_unit_test(nobody_there),
		cmocka_unit_test(queue_full),
		cmocka_unit_test(long_paths),
		cmocka_unit_test(rest_answers),
		cmocka_unit_test(rest_failures),
		cmocka_unit_test(power_buttons),
		cmocka_unit_test(qemu_without_keys),
		cmocka_unit_test(pause_requests),
		cmocka_unit_test(pause_failures),
		cmocka_unit_test(qmp_counters),
		cmocka_unit_test(rest_counters),
		cmocka_unit_test(capabilities),
	};

	(void)setenv("http_proxy", "http://127.0.0.1:9", 1); /* must be ignored */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
