/* A session: it begins with the host's HELLO and ends when the host hangs up, says another HELLO,
 * or breaks a rule. Frames go to the stream they name; those for streams that are no more are
 * dropped, since both ends may speak at once. What streams have to say goes into `out`, which the
 * port empties. */
#include "agent.h"

#include "base/alloc.h"

#include <assert.h>
#include <stdio.h>

static const struct stream_kind *const stream_kinds[] = {
	&exec_kind,     &copy_in_kind,  &copy_out_kind, &freeze_kind,
	&shutdown_kind, &identity_kind, &secret_kind,
};

bool session_has_room(const struct agent *a)
{
	return a->out.len - a->out_sent < OUT_ENOUGH;
}

static void put_json(struct agent *a, uint32_t id, enum frame_type type, json_t *body)
{
	cleanup(freep) char *text = json_dumps(body, JSON_COMPACT);

	json_decref(body);
	if (text != NULL && strlen(text) <= LIMIT_FRAME)
		(void)frame_put_text(&a->out, id, type, text);
}

void session_hello(struct agent *a, bool always)
{
	json_t *hello = guest_hello(a);
	cleanup(freep) char *text = json_dumps(hello, JSON_COMPACT | JSON_SORT_KEYS);

	json_decref(hello);
	if (text == NULL || (!always && a->told != NULL && strcmp(text, a->told) == 0))
		return;
	xreplace(&a->told, text);
	(void)frame_put_text(&a->out, 0, FRAME_HELLO, text);
}

static void stream_free(struct stream *s)
{
	LIST_REMOVE(s, entry);
	s->agent->n_streams--;
	s->kind->free(s);
	free(s);
}

static void stream_let_go(struct stream *s)
{
	s->id = 0;
	if (!s->ended)
		s->kind->hangup(s);
}

/* A session of the past has nothing more to say. */
void session_end(struct agent *a)
{
	struct stream *s;

	a->talking = false;
	a->session[0] = '\0';
	frame_reader_clear(&a->in);
	LIST_FOREACH(s, &a->streams, entry)
	stream_let_go(s);
}

/* A rule was broken: there is no telling where the next frame begins. */
static void session_break(struct agent *a, const struct blix_error *err)
{
	(void)fprintf(stderr, "blix-agent: session ended: %s\n", err->text);
	session_end(a);
	a->deaf = true;
	session_hello(a, true); /* without a session: the host sees that it is over */
}

static int session_begin(struct agent *a, const struct frame *f, struct blix_error *err)
{
	json_t *hello = json_loadb(f->data, f->len, JSON_REJECT_DUPLICATES, NULL);
	const char *session = "";
	int version = 0;
	bool good = json_unpack(hello, "{s:i, s:s}", "version", &version, "session", &session) == 0;

	if (!good || session[0] == '\0' || strlen(session) >= sizeof(a->session)) {
		json_decref(hello);
		return blix_fail(err, BLIX_E_CORRUPT, "no hello");
	}
	if (strcmp(session, a->session) != 0) {
		struct stream *s;

		LIST_FOREACH(s, &a->streams, entry)
		stream_let_go(s);
		memcpy(a->session, session, strlen(session) + 1);
		a->talking = true;
	}
	json_decref(hello);
	session_hello(a, true);
	return 0;
}

static struct stream *stream_find(struct agent *a, uint32_t id)
{
	struct stream *s;

	LIST_FOREACH(s, &a->streams, entry)
	{
		if (s->id == id && !s->ended)
			return s;
	}
	return NULL;
}

static int stream_refuse(struct agent *a, uint32_t id, const struct blix_error *err)
{
	put_json(a, id, FRAME_ERROR,
	         json_pack("{s:s, s:s, s:s}", "code", blix_code_info(err->code)->slug, "reason",
	                   blix_error_reason(err), "message", err->text));
	return 0;
}

static const struct stream_kind *kind_find(const char *name)
{
	for (size_t i = 0; i < array_size(stream_kinds); i++) {
		if (strcmp(stream_kinds[i]->name, name) == 0)
			return stream_kinds[i];
	}
	return NULL;
}

static int stream_open(struct agent *a, const struct frame *f)
{
	json_t *request = json_loadb(f->data, f->len, JSON_REJECT_DUPLICATES, NULL);
	const char *name = "";
	struct blix_error err = {0};
	struct stream *s;
	int rc;

	if (json_unpack(request, "{s:s}", "kind", &name) < 0 || kind_find(name) == NULL) {
		(void)blix_fail(&err, BLIX_E_INVALID, "this agent has no '%.32s'", name);
		json_decref(request);
		return stream_refuse(a, f->stream, &err);
	}
	if (a->n_streams >= STREAMS) {
		(void)blix_fail(&err, BLIX_E_BUSY, "the agent has %u streams already", STREAMS);
		json_decref(request);
		return stream_refuse(a, f->stream, &err);
	}
	s = xcalloc(1, sizeof(*s));
	s->agent = a;
	s->id = f->stream;
	s->kind = kind_find(name);
	frame_window_init(&s->window);
	LIST_INSERT_HEAD(&a->streams, s, entry);
	a->n_streams++;
	rc = s->kind->open(s, request, &err);
	json_decref(request);
	if (rc < 0)
		stream_error(s, &err);
	return 0;
}

static int stream_take(struct stream *s, const struct frame *f, struct blix_error *err)
{
	int rc = 0;

	switch (f->type) {
	case FRAME_CREDIT:
		return frame_window_credit(&s->window, frame_credit(f), err);
	case FRAME_CLOSE:
		stream_let_go(s);
		return 0;
	case FRAME_STDIN:
		rc = frame_window_receive(&s->window, f->len, err);
		break;
	case FRAME_EOF:
	case FRAME_RESIZE:
	case FRAME_SIGNAL:
		break;
	case FRAME_HELLO:
	case FRAME_OPEN:
	case FRAME_OPENED:
	case FRAME_ERROR:
	case FRAME_STDOUT:
	case FRAME_STDERR:
	case FRAME_EXIT:
	default:
		return blix_fail(err, BLIX_E_CORRUPT, "the host sent %s", frame_type_name(f->type));
	}
	if (rc == 0 && s->kind->frame != NULL)
		s->kind->frame(s, f);
	return rc;
}

static int session_take(struct agent *a, const struct frame *f, struct blix_error *err)
{
	struct stream *s;

	if (f->type == FRAME_HELLO)
		return session_begin(a, f, err);
	if (!a->talking)
		return blix_fail(err, BLIX_E_CORRUPT, "the host did not say hello");
	s = stream_find(a, f->stream);
	if (f->type == FRAME_OPEN)
		return s == NULL ? stream_open(a, f)
		                 : blix_fail(err, BLIX_E_CORRUPT, "stream %u is open", f->stream);
	return s == NULL ? 0 : stream_take(s, f, err);
}

void session_feed(struct agent *a, const char *data, size_t n)
{
	struct blix_error err = {0};
	struct frame f;
	int rc = frame_reader_feed(&a->in, data, n, &err);

	while (rc >= 0 && (rc = frame_reader_next(&a->in, &f, &err)) == 1)
		rc = session_take(a, &f, &err);
	if (rc == 0 && buf_failed(&a->out))
		rc = blix_fail(&err, BLIX_E_TOOBIG, "the host reads too slowly");
	if (rc >= 0)
		return;
	if (buf_failed(&a->out)) {
		buf_done(&a->out);
		buf_init(&a->out, OUT_MOST);
		a->out_sent = 0;
	}
	session_break(a, &err);
}

unsigned streams_poll(struct agent *a, struct pollfd *fds)
{
	struct stream *s;
	unsigned n = 0;

	LIST_FOREACH(s, &a->streams, entry)
	{
		s->n_fds = s->kind->poll == NULL ? 0 : s->kind->poll(s, fds + n);
		assert(s->n_fds <= STREAM_FDS);
		n += s->n_fds;
	}
	return n;
}

void streams_work(struct agent *a, const struct pollfd *fds)
{
	struct stream *s;
	struct stream *next;

	for (s = LIST_FIRST(&a->streams); s != NULL; s = next) {
		next = LIST_NEXT(s, entry);
		if (!s->ended && s->kind->work != NULL)
			s->kind->work(s, fds, s->n_fds);
		fds += s->n_fds;
		s->n_fds = 0;
		if (s->ended)
			stream_free(s);
	}
}

uint64_t streams_deadline(const struct agent *a)
{
	const struct stream *s;
	uint64_t first = 0;

	LIST_FOREACH(s, &a->streams, entry)
	{
		if (s->ended || !s->idle)
			return now_ms();
		if (s->deadline_ms != 0 && (first == 0 || s->deadline_ms < first))
			first = s->deadline_ms;
	}
	return first;
}

void stream_put(struct stream *s, enum frame_type type, const void *data, size_t n)
{
	if (s->id == 0)
		return;
	if (type == FRAME_STDOUT || type == FRAME_STDERR)
		frame_window_send(&s->window, n);
	(void)frame_put(&s->agent->out, s->id, type, data, n);
}

void stream_opened(struct stream *s, json_t *body)
{
	if (s->id == 0)
		json_decref(body);
	else
		put_json(s->agent, s->id, FRAME_OPENED, body);
}

void stream_eof(struct stream *s, uint8_t which)
{
	stream_put(s, FRAME_EOF, &which, 1);
}

void stream_consumed(struct stream *s, size_t n)
{
	uint32_t grant = frame_window_consume(&s->window, n);

	if (grant > 0 && s->id != 0)
		(void)frame_put_credit(&s->agent->out, s->id, grant);
}

void stream_end(struct stream *s)
{
	s->ended = true;
}

void stream_exit(struct stream *s, json_t *body)
{
	if (s->id == 0)
		json_decref(body);
	else
		put_json(s->agent, s->id, FRAME_EXIT, body);
	stream_end(s);
}

void stream_error(struct stream *s, const struct blix_error *err)
{
	if (s->id != 0)
		(void)stream_refuse(s->agent, s->id, err);
	stream_end(s);
}
