/* One connection to an agent: see agent.h.
 *
 * A ladder of one timer: no socket -> look again; connected -> HELLO, and wait for the answer that
 * repeats our session; nothing for some time -> hang up and begin again, which is also what clears
 * a frame that an earlier daemon left torn on the way. A guest that boots slowly is given ever more
 * time, since its agent says HELLO of itself when it starts, and is then answered at once. An agent
 * that was silent for a while is asked by the same HELLO.
 *
 * Where the socket leads to all vsock ports of the guest, a connection begins with CONNECT; the
 * hypervisor says OK, or hangs up as long as nobody in the guest listens.
 *
 * A guest without an agent asks for it in one line, before any frame, and once per connection: what
 * asks again has lost count of the bytes, which hanging up sets right. Nothing is said between the
 * agent's bytes and its own HELLO, since the guest may read on beyond them. */
#include "vmm/agent.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/parse.h"
#include "vmm/address.h"
#include "vmm/agent_program.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_MS       1000  /* hung up: the guest needs a moment to see it */
#define ABSENT_MOST_MS 60000 /* between looks for the socket; from PAUSE_MS, doubled */
#define SILENT_MS      5000  /* for the first HELLO; doubled */
#define SILENT_MOST_MS 300000
#define ASK_MS         30000  /* without a frame; then it may take as long to answer */
#define DIAL_MS        5000   /* for the hypervisor to say OK */
#define DIAL_MOST_MS   5000   /* between tries, while nobody in the guest listens */
#define LOAD_MS        120000 /* for the agent's bytes to be taken, and it to begin */
#define READ_SIZE      65536
#define QUESTION       "blix-loader "
#define VERSION        "1\n" /* of the loader's protocol */

enum where { ABSENT, DIALING, CONNECTED, LOADING, TALKING, ASKED };

struct agent_stream {
	LIST_ENTRY(agent_stream) entry;
	struct agent *agent; /* NULL: ended */
	uint32_t id;
	struct frame_window window;
	const struct agent_stream_ops *ops;
	void *data;
};

LIST_HEAD(agent_streams, agent_stream);

struct agent {
	struct agent_config config;
	char *path;
	enum where where;
	uv_timer_t timer;
	uv_pipe_t *pipe; /* NULL: none; freed by its own close callback */
	struct frame_reader in;
	char dialed[32]; /* what the hypervisor has said */
	size_t n_dialed;
	char question[sizeof(QUESTION VERSION) - 1]; /* the first bytes of a connection */
	size_t n_question;
	bool questioned; /* they are no question, or one that was answered */
	char session[20];
	uint64_t absent_ms, silent_ms;
	struct agent_info info;
	char *said; /* the HELLO that it came from; NULL: not present */
	struct agent_streams streams;
	unsigned n_streams;
	uint32_t last_id;
	bool closing;
	void (*close_cb)(void *data);
	void *close_data;
};

struct write {
	uv_write_t request;
	char *bytes;
	size_t n;
	struct agent_bytes *program; /* NULL: none follows */
};

static void agent_look(uv_timer_t *timer);

static void on_written(uv_write_t *request, int status)
{
	struct write *w = container_of(request, struct write, request);

	(void)status;                   /* a broken pipe is seen by reading */
	explicit_bzero(w->bytes, w->n); /* it may have been a secret */
	if (w->program != NULL)
		agent_bytes_release(w->program);
	free(w->bytes);
	free(w);
}

/* Takes what is in `out`, and `program`, which may be NULL. */
static void agent_write(struct agent *a, struct buf *out, struct agent_bytes *program)
{
	struct write *w = xcalloc(1, sizeof(*w));
	size_t n = out->len;
	uv_buf_t pieces[2];

	w->bytes = buf_take(out);
	w->n = n;
	w->program = program;
	pieces[0] = uv_buf_init(w->bytes, (unsigned)n);
	if (program != NULL)
		pieces[1] =
			uv_buf_init(agent_bytes_data(program), (unsigned)agent_bytes_size(program));
	if (a->pipe == NULL || uv_write(&w->request, (uv_stream_t *)a->pipe, pieces,
	                                program != NULL ? 2 : 1, on_written) != 0)
		on_written(&w->request, UV_EPIPE);
}

static void agent_wait(struct agent *a, uint64_t ms)
{
	(void)uv_timer_start(&a->timer, agent_look, ms, 0);
}

static void pipe_closed(uv_handle_t *handle)
{
	free(handle);
}

static void streams_lose(struct agent *a)
{
	struct agent_stream *s;
	struct blix_error err;

	(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the connection to the guest's agent broke");
	blix_reason(&err, "agent-lost");
	while ((s = LIST_FIRST(&a->streams)) != NULL) {
		LIST_REMOVE(s, entry);
		a->n_streams--;
		s->agent = NULL;
		s->ops->ended(s->data, &err);
	}
}

/* The agent is no more; what is not its own word stays. */
static void info_clear(struct agent_info *info)
{
	struct agent_info old = *info;

	memset(info, 0, sizeof(*info));
	info->loads = old.loads;
	memcpy(info->problem, old.problem, sizeof(info->problem));
}

/* Hangs up; what was said is void. */
static void agent_drop(struct agent *a)
{
	bool was = a->info.present;

	if (a->pipe != NULL)
		uv_close((uv_handle_t *)a->pipe, pipe_closed);
	a->pipe = NULL;
	a->where = ABSENT;
	frame_reader_clear(&a->in);
	a->n_dialed = 0;
	a->n_question = 0;
	a->questioned = false;
	info_clear(&a->info);
	xreplace(&a->said, NULL);
	streams_lose(a);
	if (was && !a->closing)
		a->config.changed(a->config.data, &a->info);
}

static void agent_hello(struct agent *a)
{
	cleanup(buf_done) struct buf out;
	cleanup(freep) char *text = xasprintf("{\"version\":1,\"session\":\"%s\"}", a->session);

	buf_init(&out, 1024);
	(void)frame_put_text(&out, 0, FRAME_HELLO, text);
	agent_write(a, &out, NULL);
}

static void session_new(struct agent *a)
{
	uint64_t random = 0;

	if (uv_random(NULL, NULL, &random, sizeof(random), 0, NULL) != 0)
		random = uv_hrtime();
	(void)snprintf(a->session, sizeof(a->session), "%" PRIx64, random);
	a->where = CONNECTED;
	agent_hello(a);
	agent_wait(a, a->silent_ms);
}

static void copy_text(char *to, size_t n, const cJSON *from, const char *key)
{
	const char *text = "";

	(void)json_get_string(from, key, &text, NULL);
	(void)snprintf(to, n, "%s", text);
	json_clean(to);
}

static void info_read(struct agent_info *info, const cJSON *hello)
{
	const cJSON *list = NULL;
	const cJSON *one;

	info_clear(info);
	info->problem[0] = '\0';
	info->present = true;
	(void)json_get_bool(hello, "ready", &info->ready, NULL);
	(void)json_get_bool(hello, "identity", &info->identity, NULL);
	copy_text(info->version, sizeof(info->version), hello, "agent");
	copy_text(info->boot_id, sizeof(info->boot_id), hello, "bootId");
	copy_text(info->hostname, sizeof(info->hostname), hello, "hostname");
	copy_text(info->machine_id, sizeof(info->machine_id), hello, "machineId");
	(void)json_get_array(hello, "addresses", &list, NULL);
	cJSON_ArrayForEach (one, list) {
		if (info->n_addresses == AGENT_ADDRESSES || !cJSON_IsString(one))
			break;
		(void)snprintf(info->addresses[info->n_addresses], sizeof(info->addresses[0]), "%s",
		               one->valuestring);
		json_clean(info->addresses[info->n_addresses++]);
	}
}

static int take_hello(struct agent *a, const struct frame *f, struct blix_error *err)
{
	cleanup(json_freep) cJSON *hello = NULL;
	cleanup(freep) char *text = NULL;
	const char *session = "";
	int rc = json_parse(f->data, f->len, &json_limits_request, &hello, err);

	if (rc == 0)
		rc = json_get_string(hello, "session", &session, err);
	if (rc < 0)
		return rc;
	if (strcmp(session, a->session) != 0) {
		/* An agent that has just begun, or one that gave our session up. */
		if (a->where != CONNECTED)
			return blix_fail(err, BLIX_E_UNAVAILABLE, "the agent began anew");
		if (session[0] == '\0')
			agent_hello(a);
		return 0;
	}
	a->where = TALKING;
	a->silent_ms = SILENT_MS;
	a->absent_ms = PAUSE_MS;
	agent_wait(a, ASK_MS);
	text = xstrndup(f->data, f->len);
	if (a->said != NULL && strcmp(text, a->said) == 0)
		return 0;
	xreplace(&a->said, text);
	info_read(&a->info, hello);
	a->config.changed(a->config.data, &a->info);
	return 0;
}

static struct agent_stream *stream_find(struct agent *a, uint32_t id)
{
	struct agent_stream *s;

	LIST_FOREACH(s, &a->streams, entry)
	{
		if (s->id == id)
			return s;
	}
	return NULL;
}

static void stream_over(struct agent_stream *s)
{
	LIST_REMOVE(s, entry);
	s->agent->n_streams--;
	s->agent = NULL;
}

static int take_stream(struct agent_stream *s, const struct frame *f, struct blix_error *err)
{
	const struct agent_stream_ops *ops = s->ops;
	void *data = s->data;
	uint32_t id = s->id;
	struct agent *a = s->agent;
	int rc = 0;

	switch (f->type) {
	case FRAME_STDOUT:
	case FRAME_STDERR:
		rc = frame_window_receive(&s->window, f->len, err);
		break;
	case FRAME_CREDIT:
		rc = frame_window_credit(&s->window, frame_credit(f), err);
		break;
	case FRAME_OPENED:
	case FRAME_EOF:
	case FRAME_EXIT:
	case FRAME_ERROR:
		break;
	case FRAME_HELLO:
	case FRAME_OPEN:
	case FRAME_STDIN:
	case FRAME_RESIZE:
	case FRAME_SIGNAL:
	case FRAME_CLOSE:
	default:
		rc = blix_fail(err, BLIX_E_CORRUPT, "the agent sent %s", frame_type_name(f->type));
	}
	if (rc < 0)
		return rc;
	ops->frame(data, f);
	if (f->type != FRAME_EXIT && f->type != FRAME_ERROR)
		return 0;
	s = stream_find(a, id); /* its owner may have closed it */
	if (s != NULL) {
		stream_over(s);
		ops->ended(data, NULL);
	}
	return 0;
}

/* Answers a guest that has no agent. */
static void agent_load(struct agent *a)
{
	cleanup(buf_done) struct buf out;
	struct agent_bytes *program = NULL;
	struct blix_error err;
	int rc;

	buf_init(&out, 1024);
	if (a->config.program != NULL)
		rc = agent_program_hold(a->config.program, &program, &err);
	else
		rc = blix_fail(&err, BLIX_E_UNAVAILABLE, "this node gives no agent to its guests");
	if (rc == 0) {
		/* A line of its own, whatever of the HELLO the guest has read. */
		(void)buf_printf(&out, "\nblix-agent 1 %zu %s\n", agent_bytes_size(program),
		                 agent_bytes_sha256(program));
		a->info.loads++;
		a->info.problem[0] = '\0';
	} else {
		(void)buf_printf(&out, "\nblix-error %s\n", err.text);
		(void)snprintf(a->info.problem, sizeof(a->info.problem), "%.255s", err.text);
	}
	agent_write(a, &out, program);
	a->where = LOADING;
	agent_wait(a, LOAD_MS);
	a->config.changed(a->config.data, &a->info);
}

/* A guest whose agent was killed in the middle of a frame would ask for ever: what comes alone and
 * is the question can only be one, or a guest's own data, which that guest may break its session
 * by. */
static bool is_question(const char *data, size_t n)
{
	return n == sizeof(QUESTION VERSION) - 1 && memcmp(data, QUESTION VERSION, n) == 0;
}

/* The first bytes of a connection: takes those of a question, and hands on what is none. The first
 * frame of an agent never looks like one: its length would be out of bounds. */
static int take_question(struct agent *a, const char **data, size_t *n, struct blix_error *err)
{
	static const char question[] = QUESTION VERSION;
	size_t room = sizeof(a->question) - a->n_question;
	size_t taken = *n < room ? *n : room;

	memcpy(a->question + a->n_question, *data, taken);
	a->n_question += taken;
	*data += taken;
	*n -= taken;
	if (memcmp(a->question, question, a->n_question) == 0) {
		if (a->n_question < sizeof(a->question))
			return 0;
		a->questioned = true;
		agent_load(a);
		return 0;
	}
	a->questioned = true;
	return frame_reader_feed(&a->in, a->question, a->n_question, err);
}

static int agent_take(struct agent *a, const struct frame *f, struct blix_error *err)
{
	struct agent_stream *s;

	if (f->type == FRAME_HELLO)
		return take_hello(a, f, err);
	if (a->where == CONNECTED)
		return 0; /* of a session before */
	s = stream_find(a, f->stream);
	return s == NULL ? 0 : take_stream(s, f, err);
}

/* Begins again after a pause, which grows while a guest does not even listen. */
static void agent_again(struct agent *a)
{
	uint64_t ms = a->where == DIALING ? a->absent_ms : PAUSE_MS;

	if (a->where == DIALING)
		a->absent_ms = ms * 2 < DIAL_MOST_MS ? ms * 2 : DIAL_MOST_MS;
	agent_drop(a);
	if (!a->closing)
		agent_wait(a, ms);
}

static void agent_dial(struct agent *a)
{
	cleanup(buf_done) struct buf out;

	buf_init(&out, 64);
	(void)buf_printf(&out, "CONNECT %u\n", a->config.vsock_port);
	agent_write(a, &out, NULL);
	a->where = DIALING;
	agent_wait(a, DIAL_MS);
}

/* Takes the hypervisor's line, "OK PORT"; what follows is the guest's. */
static int take_dialed(struct agent *a, const char **data, size_t *n, struct blix_error *err)
{
	while (*n > 0) {
		char c = *(*data)++;

		(*n)--;
		if (c != '\n' && a->n_dialed + 1 < sizeof(a->dialed)) {
			a->dialed[a->n_dialed++] = c;
			continue;
		}
		a->dialed[a->n_dialed] = '\0';
		if (c != '\n' || strncmp(a->dialed, "OK ", 3) != 0 ||
		    parse_u64(a->dialed + 3, &(uint64_t){0}, NULL) < 0)
			return blix_fail(err, BLIX_E_CORRUPT, "no answer to CONNECT");
		session_new(a);
		return 0;
	}
	return 0;
}

static int agent_feed(struct agent *a, const char *data, size_t n, struct blix_error *err)
{
	int rc = 0;

	if (a->where == ASKED)
		a->where = TALKING;
	if (a->where == TALKING)
		agent_wait(a, ASK_MS);
	if (a->where == LOADING) {
		a->where = CONNECTED; /* it runs, and says HELLO */
		agent_wait(a, a->silent_ms);
	}
	if (!a->questioned)
		rc = take_question(a, &data, &n, err);
	else if (is_question(data, n))
		rc = blix_fail(err, BLIX_E_UNAVAILABLE, "the agent is no more");
	return rc == 0 && n > 0 ? frame_reader_feed(&a->in, data, n, err) : rc;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *piece)
{
	struct agent *a = stream->data;
	const char *data = piece->base;
	size_t left = n > 0 ? (size_t)n : 0;
	struct blix_error err;
	struct frame f;
	int rc = 0;

	if (n > 0 && (uv_stream_t *)a->pipe == stream) {
		if (a->where == DIALING)
			rc = take_dialed(a, &data, &left, &err);
		if (rc == 0 && left > 0)
			rc = agent_feed(a, data, left, &err);
		while (rc >= 0 && (uv_stream_t *)a->pipe == stream &&
		       (rc = frame_reader_next(&a->in, &f, &err)) == 1)
			rc = agent_take(a, &f, &err);
	}
	free(piece->base);
	if ((n < 0 || rc < 0) && (uv_stream_t *)a->pipe == stream)
		agent_again(a);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
	(void)handle;
	(void)suggested;
	*ret = uv_buf_init(xcalloc(1, READ_SIZE), READ_SIZE);
}

/* A connected socket, or -1. */
static int agent_connect(const char *path)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct address address;
	int fd = -1;

	if (address_init(&address, path, NULL) < 0)
		return -1;
	memcpy(name.sun_path, address.path, sizeof(name.sun_path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0) {
		(void)close(fd);
		fd = -1;
	}
	address_done(&address);
	return fd;
}

/* The timer: whatever was waited for did not come. */
static void agent_look(uv_timer_t *timer)
{
	struct agent *a = timer->data;
	int fd;

	switch (a->where) {
	case TALKING:
		a->where = ASKED;
		agent_hello(a);
		agent_wait(a, ASK_MS);
		return;
	case CONNECTED:
		a->silent_ms =
			a->silent_ms * 2 < SILENT_MOST_MS ? a->silent_ms * 2 : SILENT_MOST_MS;
		agent_again(a);
		return;
	case DIALING:
	case LOADING:
	case ASKED:
		agent_again(a);
		return;
	case ABSENT:
	default:
		break;
	}
	fd = agent_connect(a->path);
	if (fd < 0) {
		agent_wait(a, a->absent_ms);
		a->absent_ms =
			a->absent_ms * 2 < ABSENT_MOST_MS ? a->absent_ms * 2 : ABSENT_MOST_MS;
		return;
	}
	a->pipe = xcalloc(1, sizeof(*a->pipe));
	a->pipe->data = a;
	if (uv_pipe_init(a->config.loop, a->pipe, 0) != 0)
		abort();
	(void)uv_pipe_open(a->pipe, fd);
	(void)uv_read_start((uv_stream_t *)a->pipe, on_alloc, on_read);
	if (a->config.vsock_port != 0)
		agent_dial(a);
	else
		session_new(a);
}

struct agent *agent_open(const struct agent_config *config)
{
	struct agent *a = xcalloc(1, sizeof(*a));

	a->config = *config;
	a->path = xstrdup(config->path);
	a->absent_ms = PAUSE_MS;
	a->silent_ms = SILENT_MS;
	frame_reader_init(&a->in);
	a->timer.data = a;
	if (uv_timer_init(config->loop, &a->timer) != 0)
		abort();
	agent_wait(a, 0);
	return a;
}

const struct agent_info *agent_info(const struct agent *a)
{
	return &a->info;
}

static void agent_closed(uv_handle_t *handle)
{
	struct agent *a = handle->data;
	void (*cb)(void *data) = a->close_cb;
	void *data = a->close_data;

	streams_lose(a);
	frame_reader_done(&a->in);
	free(a->path);
	free(a->said);
	free(a);
	cb(data);
}

/* Its streams hear of it when the timer is closed: not inside this call. A pipe that is closed
 * reads no more. */
void agent_close(struct agent *a, void (*cb)(void *data), void *data)
{
	a->closing = true;
	a->close_cb = cb;
	a->close_data = data;
	a->info.present = false;
	if (a->pipe != NULL)
		uv_close((uv_handle_t *)a->pipe, pipe_closed);
	a->pipe = NULL;
	uv_close((uv_handle_t *)&a->timer, agent_closed);
}

int agent_stream_open(struct agent *a, const char *request, const struct agent_stream_ops *ops,
                      void *data, struct agent_stream **ret, struct blix_error *err)
{
	cleanup(buf_done) struct buf out;
	struct agent_stream *s;

	buf_init(&out, FRAME_WHOLE);
	if (!a->info.present || a->closing) {
		(void)blix_fail(err, BLIX_E_UNAVAILABLE, "no agent answers in the guest%s%s",
		                a->info.problem[0] != '\0' ? ": " : "", a->info.problem);
		blix_reason(err, "no-agent");
		return -BLIX_E_UNAVAILABLE;
	}
	if (a->n_streams >= LIMIT_GUEST_STREAMS)
		return blix_fail(err, BLIX_E_BUSY, "%u streams go to this guest already",
		                 a->n_streams);
	if (strlen(request) > LIMIT_FRAME)
		return blix_fail(err, BLIX_E_TOOBIG, "the request is larger than %u bytes",
		                 LIMIT_FRAME);
	s = xcalloc(1, sizeof(*s));
	s->agent = a;
	s->ops = ops;
	s->data = data;
	do
		s->id = ++a->last_id;
	while (s->id == 0 || stream_find(a, s->id) != NULL);
	frame_window_init(&s->window);
	LIST_INSERT_HEAD(&a->streams, s, entry);
	a->n_streams++;
	(void)frame_put_text(&out, s->id, FRAME_OPEN, request);
	agent_write(a, &out, NULL);
	*ret = s;
	return 0;
}

static int send_check(struct agent_stream *s, enum frame_type type, const void *data, size_t n,
                      struct blix_error *err)
{
	struct frame f = {.stream = s->id, .type = type, .data = data, .len = n};

	switch (type) {
	case FRAME_STDIN:
		if (n == 0 || n > LIMIT_FRAME || n > s->window.may_send)
			return blix_fail(err, BLIX_E_CORRUPT, "%zu bytes where %u are allowed", n,
			                 s->window.may_send);
		frame_window_send(&s->window, n);
		return 0;
	case FRAME_CREDIT:
		if (n != 4 || frame_credit(&f) == 0 ||
		    frame_credit(&f) > LIMIT_FRAME_WINDOW - s->window.may_receive)
			return blix_fail(err, BLIX_E_CORRUPT, "a credit for what never came");
		s->window.may_receive += frame_credit(&f);
		return 0;
	case FRAME_EOF:
	case FRAME_SIGNAL:
	case FRAME_RESIZE:
		if (n != (type == FRAME_RESIZE ? 4 : 1))
			return blix_fail(err, BLIX_E_CORRUPT, "%s of %zu bytes",
			                 frame_type_name(type), n);
		return 0;
	case FRAME_HELLO:
	case FRAME_OPEN:
	case FRAME_OPENED:
	case FRAME_ERROR:
	case FRAME_STDOUT:
	case FRAME_STDERR:
	case FRAME_EXIT:
	case FRAME_CLOSE:
	default:
		return blix_fail(err, BLIX_E_CORRUPT, "%s is not for the guest",
		                 frame_type_name(type));
	}
}

static void stream_write(struct agent_stream *s, enum frame_type type, const void *data, size_t n)
{
	cleanup(buf_done) struct buf out;

	buf_init(&out, FRAME_WHOLE);
	(void)frame_put(&out, s->id, type, data, n);
	agent_write(s->agent, &out, NULL);
}

int agent_stream_send(struct agent_stream *s, enum frame_type type, const void *data, size_t n,
                      struct blix_error *err)
{
	int rc;

	if (s->agent == NULL)
		return 0;
	rc = send_check(s, type, data, n, err);
	if (rc == 0)
		stream_write(s, type, data, n);
	return rc;
}

void agent_stream_close(struct agent_stream *s)
{
	if (s == NULL)
		return;
	if (s->agent != NULL) {
		if (s->agent->pipe != NULL)
			stream_write(s, FRAME_CLOSE, NULL, 0);
		stream_over(s);
	}
	free(s);
}
