/* The servers' processes: see chaos.h.
 *
 * Happy path: server_start spawns blixd on DIR/nN/blix.json, its output goes to DIR/nN/log; a poll
 * of /v1/cluster tells who leads and what each has; servers_end ends them by SIGTERM.
 *
 * A server that ends though nobody killed it fails the run, unless its disk was full in that life:
 * then ending is one of the things it may do, and it is started again as a supervisor would.
 */
#include "chaos.h"

#include "base/alloc.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RESTART_MS       200
#define MONITOR_MS       150
#define MONITOR_DEADLINE 1000

static void on_again(uv_timer_t *timer)
{
	struct server *s = timer->data;

	if (s->wanted && !s->running)
		server_start(s);
}

static void on_ended(uv_process_t *process, int64_t status, int signal)
{
	struct server *s = process->data;
	struct chaos *c = s->chaos;

	s->running = s->stopped = s->answers = false;
	s->leader = 0;
	if (c->phase == PHASE_STOP && (status != 0 || signal != 0))
		chaos_fail(c, "server %u did not end well: status %" PRId64 ", signal %d",
		           s->number, status, signal);
	else if (c->phase != PHASE_STOP && !s->killed && !s->starved)
		chaos_fail(c, "server %u ended by itself: status %" PRId64 ", signal %d", s->number,
		           status, signal);
	uv_close((uv_handle_t *)process, NULL);
	if (s->wanted)
		(void)uv_timer_start(&s->again, on_again, RESTART_MS, 0);
}

void server_start(struct server *s)
{
	struct chaos *c = s->chaos;
	cleanup(freep) char *config = xasprintf("%s/n%u/blix.json", c->dir, s->number);
	cleanup(freep) char *log = xasprintf("%s/n%u/log", c->dir, s->number);
	cleanup(freep) char *program = xstrdup(c->blixd);
	char flag[] = "--config";
	char *args[] = {program, flag, config, NULL};
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE},
	                                 {.flags = UV_INHERIT_FD, .data.fd = fd},
	                                 {.flags = UV_INHERIT_FD, .data.fd = fd}};
	uv_process_options_t options = {.exit_cb = on_ended,
	                                .file = program,
	                                .args = args,
	                                .stdio = stdio,
	                                .stdio_count = 3};

	s->wanted = true;
	if (s->running)
		return;
	s->process.data = s;
	if (fd < 0 || uv_spawn(&c->loop, &s->process, &options) != 0)
		chaos_fail(c, "server %u cannot be started", s->number);
	s->process.data = s;
	s->running = true;
	s->killed = false;
	s->starved = s->balloon >= 0;
	s->life++;
	if (fd >= 0)
		(void)close(fd);
}

static void send_signal(struct server *s, int signal)
{
	if (s->running)
		(void)uv_process_kill(&s->process, signal);
}

void server_kill(struct server *s)
{
	s->wanted = false;
	s->killed = true;
	send_signal(s, SIGKILL);
}

void server_stop(struct server *s)
{
	s->stopped = true;
	send_signal(s, SIGSTOP);
}

/* Takes what is free of its disk; what it frees meanwhile is taken at the next look. */
static void balloon_grow(struct server *s)
{
	struct statvfs fs;
	off_t size = lseek(s->balloon, 0, SEEK_END);

	if (fstatvfs(s->balloon, &fs) == 0 && fs.f_bavail > 0)
		(void)posix_fallocate(s->balloon, size, (off_t)(fs.f_bavail * fs.f_frsize));
}

void server_fill(struct server *s)
{
	cleanup(freep) char *path = xasprintf("%s/n%u/state/balloon", s->chaos->dir, s->number);

	s->balloon = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	s->starved = true;
	if (s->balloon < 0)
		chaos_fail(s->chaos, "balloon %s: %s", path, strerror(errno));
	else
		balloon_grow(s);
}

static void server_empty(struct server *s)
{
	cleanup(freep) char *path = xasprintf("%s/n%u/state/balloon", s->chaos->dir, s->number);

	if (s->balloon < 0)
		return;
	(void)unlink(path);
	(void)close(s->balloon);
	s->balloon = -1;
}

void servers_heal(struct chaos *c)
{
	for (unsigned i = 0; i < c->n_servers; i++) {
		struct server *s = &c->servers[i];

		server_empty(s);
		if (s->stopped)
			send_signal(s, SIGCONT);
		s->stopped = false;
		s->wanted = true;
		if (!s->running)
			(void)uv_timer_start(&s->again, on_again, 0, 0);
	}
}

void servers_end(struct chaos *c)
{
	for (unsigned i = 0; i < c->n_servers; i++) {
		c->servers[i].wanted = false;
		send_signal(&c->servers[i], SIGTERM);
	}
}

bool servers_gone(const struct chaos *c)
{
	for (unsigned i = 0; i < c->n_servers; i++) {
		if (c->servers[i].running)
			return false;
	}
	return true;
}

bool servers_agree(const struct chaos *c)
{
	for (unsigned i = 0; i < c->n_servers; i++) {
		const struct server *s = &c->servers[i], *first = &c->servers[0];

		if (!s->answers || s->leader == 0 || s->leader != first->leader ||
		    s->revision != first->revision || strcmp(s->hash, first->hash) != 0)
			return false;
	}
	return true;
}

unsigned servers_leader(const struct chaos *c)
{
	for (unsigned i = 0; i < c->n_servers; i++) {
		if (c->servers[i].answers && c->servers[i].leader == i + 1)
			return i + 1;
	}
	return 0;
}

static void on_status(void *data, int status, int http, struct buf *answer, const char *type)
{
	struct server *s = data;
	cleanup(json_freep) cJSON *tree = NULL;
	const char *leader = "", *hash = "";
	uint64_t revision = 0;
	bool quorum = false;

	(void)type;
	s->answers = false;
	s->leader = 0;
	if (status < 0 || http != 200 ||
	    json_parse(answer->data, answer->len, &json_limits_answer, &tree, NULL) < 0)
		return;
	(void)json_get_string(tree, "leader", &leader, NULL);
	(void)json_get_string(tree, "stateHash", &hash, NULL);
	(void)json_get_u64(tree, "revision", &revision, NULL);
	(void)json_get_bool(tree, "quorum", &quorum, NULL);
	s->answers = true;
	if (quorum && leader[0] == 'n')
		s->leader = (unsigned)(leader[1] - '0');
	s->revision = revision;
	(void)snprintf(s->hash, sizeof(s->hash), "%s", hash);
}

static void on_monitor(uv_timer_t *timer)
{
	struct chaos *c = timer->data;

	for (unsigned i = 0; i < c->n_servers; i++) {
		struct server *s = &c->servers[i];
		struct fetch_options options = {.address = s->socket,
		                                .path = "/v1/cluster",
		                                .deadline_ms = MONITOR_DEADLINE};

		if (s->balloon >= 0)
			balloon_grow(s);
		if (fetch_start(s->pool, &options, on_status, s, NULL, NULL) < 0)
			s->answers = false;
	}
}

void servers_init(struct chaos *c)
{
	struct blix_error err;

	for (unsigned i = 0; i < c->n_servers; i++) {
		struct server *s = &c->servers[i];

		s->chaos = c;
		s->number = i + 1;
		s->balloon = -1;
		(void)snprintf(s->socket, sizeof(s->socket), "%s/n%u/sock", c->dir, s->number);
		(void)uv_timer_init(&c->loop, &s->again);
		s->again.data = s;
		if (fetch_pool_open(&c->loop, &s->pool, &err) < 0)
			chaos_fail(c, "%s", err.text);
		server_start(s);
	}
	(void)uv_timer_init(&c->loop, &c->monitor);
	c->monitor.data = c;
	(void)uv_timer_start(&c->monitor, on_monitor, MONITOR_MS, MONITOR_MS);
}
