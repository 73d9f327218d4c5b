/* The client's end of a stream: see stream.h.
 *
 * Happy path: stream_open() holds the request; stream_accept() answers 101 and what is sent until
 * the socket is there waits in `early`; then frames come and go over the wire. A torn frame, a
 * window that was overrun and a type that a client does not send end the stream. */
#include "node/stream.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/upgrade.h"
#include "node/api_internal.h"
#include "node/book.h"
#include "sys/wire.h"

#include <assert.h>

struct stream {
	struct stream_link link;
	struct daemon *daemon;
	struct http_request *request; /* until answered */
	struct http_upgrade *upgrade;
	struct wire *wire; /* NULL: not yet */
	struct buf early;  /* sent before there was a wire */
	struct frame_reader reader;
	struct frame_window window;
	const struct stream_far *far;
	void *data;
	bool accepted; /* the 101 is under way */
	bool finished; /* the far end has let go */
	bool paused;
	unsigned inside; /* calls of the reader that are not over */
};

bool stream_link(struct daemon *d, struct http_request *request, struct stream_link *link,
                 void (*cut)(struct stream_link *link))
{
	struct blix_error err;

	if (d->n_streams >= LIMIT_STREAMS) {
		(void)blix_fail(&err, BLIX_E_BUSY, "%d streams are open", LIMIT_STREAMS);
		blix_reason(&err, "too-many-streams");
		http_answer_error(request, &err, NULL);
		return false;
	}
	d->n_streams++;
	link->cut = cut;
	link->next = d->streams;
	link->at = &d->streams;
	if (link->next != NULL)
		link->next->at = &link->next;
	d->streams = link;
	return true;
}

void stream_unlink(struct daemon *d, struct stream_link *link)
{
	if (link->at == NULL)
		return;
	*link->at = link->next;
	if (link->next != NULL)
		link->next->at = link->at;
	link->at = NULL;
	d->n_streams--;
}

void streams_close(struct daemon *d)
{
	while (d->streams != NULL)
		d->streams->cut(d->streams);
}

static void stream_free(void *data)
{
	struct stream *stream = data;

	if (stream->upgrade != NULL)
		http_upgrade_close(stream->upgrade);
	buf_done(&stream->early);
	frame_reader_done(&stream->reader);
	free(stream);
}

/* The stream's own end: no call of it or of the far end comes after this. */
static void stream_end(struct stream *stream)
{
	stream_unlink(stream->daemon, &stream->link);
	stream->finished = true;
	if (stream->inside > 0)
		return; /* the reader sees it */
	if (stream->wire != NULL)
		wire_close(stream->wire, stream_free, stream);
	else if (!stream->accepted)
		stream_free(stream);
	/* else on_taken() frees it */
}

/* The client has gone. */
static void stream_gone(struct stream *stream)
{
	if (!stream->finished)
		stream->far->gone(stream->data);
	stream_end(stream);
}

static void stream_cut(struct stream_link *link)
{
	struct stream *stream = container_of(link, struct stream, link);

	if (stream->request != NULL)
		http_on_cancel(stream->request, NULL, NULL);
	stream_gone(stream);
}

static void on_cancelled(void *data)
{
	struct stream *stream = data;

	stream->request = NULL;
	stream_gone(stream);
}

struct stream *stream_open(struct daemon *d, struct http_request *request,
                           const struct stream_far *far, void *data)
{
	struct stream *stream = xcalloc(1, sizeof(*stream));

	if (!stream_link(d, request, &stream->link, stream_cut)) {
		free(stream);
		return NULL;
	}
	stream->daemon = d;
	stream->request = request;
	stream->far = far;
	stream->data = data;
	buf_init(&stream->early, LIMIT_WIRE_QUEUE);
	frame_reader_init(&stream->reader);
	frame_window_init(&stream->window);
	http_on_cancel(request, on_cancelled, stream);
	return stream;
}

void stream_refuse(struct stream *stream, const struct blix_error *err)
{
	struct http_request *request = stream->request;

	stream->request = NULL;
	stream_end(stream);
	http_answer_error(request, err, NULL);
}

static void stream_has_room(struct stream *stream)
{
	if (stream->far->room != NULL)
		stream->far->room(stream->data);
}

/* What a client may send; credit is kept here, the rest is the far end's. */
static int frame_take(struct stream *stream, const struct frame *frame, struct blix_error *err)
{
	int rc = 0;

	if (frame->stream != STREAM_ID)
		return blix_fail(err, BLIX_E_CORRUPT, "stream %u is not open", frame->stream);
	switch (frame->type) {
	case FRAME_CREDIT:
		rc = frame_window_credit(&stream->window, frame_credit(frame), err);
		if (rc < 0 || stream->far->passes_credit)
			break;
		stream_has_room(stream);
		return 0;
	case FRAME_STDIN:
		rc = frame_window_receive(&stream->window, frame->len, err);
		break;
	case FRAME_EOF:
	case FRAME_RESIZE:
	case FRAME_SIGNAL:
	case FRAME_CLOSE:
		break;
	case FRAME_HELLO:
	case FRAME_OPEN:
	case FRAME_OPENED:
	case FRAME_ERROR:
	case FRAME_STDOUT:
	case FRAME_STDERR:
	case FRAME_EXIT:
		return blix_fail(err, BLIX_E_CORRUPT, "a client sends no %s",
		                 frame_type_name(frame->type));
	}
	if (rc == 0)
		stream->far->frame(stream->data, frame);
	return rc;
}

static void on_read(void *data, const char *bytes, size_t n)
{
	struct stream *stream = data;
	struct blix_error err;
	struct frame frame;
	int rc = frame_reader_feed(&stream->reader, bytes, n, &err);

	stream->inside++;
	while (rc >= 0 && !stream->finished &&
	       (rc = frame_reader_next(&stream->reader, &frame, &err)) == 1)
		rc = frame_take(stream, &frame, &err);
	stream->inside--;
	if (stream->finished)
		stream_end(stream);
	else if (rc < 0)
		stream_gone(stream);
}

static void on_drained(void *data)
{
	stream_has_room(data);
}

static void on_ended(void *data, int status)
{
	(void)status;
	stream_gone(data);
}

static const struct wire_events wire_events = {on_read, on_drained, on_ended};

/* The client's socket is there. */
static int wire_begin(struct stream *stream, int fd)
{
	struct blix_error err;
	int rc = wire_open(stream->daemon->loop, fd, &wire_events, stream, &stream->wire, &err);

	if (rc == 0)
		rc = wire_write(stream->wire, stream->early.data, stream->early.len, &err);
	buf_done(&stream->early);
	return rc;
}

static void on_taken(void *data, struct http_upgrade *upgrade, int fd, const char *bytes, size_t n)
{
	struct stream *stream = data;

	stream->accepted = false;
	stream->upgrade = upgrade;
	if (fd < 0 || wire_begin(stream, fd) < 0) {
		stream_gone(stream);
	} else if (stream->finished) {
		stream_end(stream);
	} else {
		if (!stream->paused)
			wire_resume(stream->wire);
		if (n > 0)
			on_read(stream, bytes, n);
	}
}

void stream_accept(struct stream *stream)
{
	struct http_request *request = stream->request;

	stream->request = NULL;
	stream->accepted = true;
	http_answer_upgrade(request, UPGRADE_PROTOCOL, on_taken, stream);
}

size_t stream_room(const struct stream *stream)
{
	if (stream->wire != NULL && wire_full(stream->wire))
		return 0;
	return stream->window.may_send;
}

/* Only a client that never reads lets the queue fill up with control frames: they are lost to it.
 */
bool stream_may_send(const struct stream *stream, const struct frame *frame)
{
	return (frame->type != FRAME_STDOUT && frame->type != FRAME_STDERR) ||
	       frame->len <= stream->window.may_send;
}

static void stream_write(struct stream *stream, const struct buf *frames)
{
	struct blix_error err;

	if (stream->wire == NULL)
		(void)buf_add(&stream->early, frames->data, frames->len);
	else
		(void)wire_write(stream->wire, frames->data, frames->len, &err);
}

void stream_send(struct stream *stream, enum frame_type type, const void *data, size_t n)
{
	cleanup(buf_done) struct buf out;
	size_t part, done = 0;

	buf_init(&out, LIMIT_FRAME_WINDOW * 2);
	if (type == FRAME_STDOUT || type == FRAME_STDERR)
		frame_window_send(&stream->window, n);
	if (type == FRAME_CREDIT)
		stream->window.may_receive += frame_credit(&(struct frame){.data = data, .len = n});
	do {
		part = n - done < LIMIT_FRAME ? n - done : LIMIT_FRAME;
		(void)frame_put(&out, STREAM_ID, type, (const char *)data + done, part);
		done += part;
	} while (done < n);
	stream_write(stream, &out);
}

void stream_consumed(struct stream *stream, size_t n)
{
	uint32_t credit = frame_window_consume(&stream->window, n);
	cleanup(buf_done) struct buf out;

	buf_init(&out, FRAME_WHOLE);
	if (credit == 0)
		return;
	(void)frame_put_credit(&out, STREAM_ID, credit);
	stream_write(stream, &out);
}

void stream_pause(struct stream *stream)
{
	stream->paused = true;
	if (stream->wire != NULL)
		wire_pause(stream->wire);
}

void stream_resume(struct stream *stream)
{
	stream->paused = false;
	if (stream->wire != NULL)
		wire_resume(stream->wire);
}

void stream_finish(struct stream *stream)
{
	assert(stream->request == NULL);
	stream_send(stream, FRAME_CLOSE, "", 0);
	stream_end(stream);
}

static int asks_stream(const struct http_request *request, struct blix_error *err)
{
	if (http_wants_upgrade(request, UPGRADE_PROTOCOL))
		return 0;
	(void)blix_fail(err, BLIX_E_INVALID, "this is a stream");
	blix_reason(err, "upgrade-needed");
	blix_hint(err, "send 'Connection: Upgrade' and 'Upgrade: " UPGRADE_PROTOCOL "'");
	return -(int)BLIX_E_INVALID;
}

const struct vm *stream_vm(struct daemon *d, struct http_request *request, const char *what)
{
	const char *name = http_path_param(request, "name"), *here = http_query(request, "here");
	const struct vm *vm = state_vm(d->state, name);
	const struct config_server *server;
	cleanup(freep) char *path = NULL;
	struct blix_error err;

	if (vm == NULL) {
		api_not_found(request, name);
		return NULL;
	}
	if (asks_stream(request, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return NULL;
	}
	server = daemon_server(d, vm->node);
	if (server == NULL || vm->node == d->config->id ||
	    (here != NULL && strcmp(here, "true") == 0))
		return vm;
	path = xasprintf("/v1/vms/%s/%s?here=true", vm->name, what);
	relay_start(d, request, server, path);
	return NULL;
}

bool stream_is_down(const struct daemon *d, const char *name, struct blix_error *err)
{
	const struct vm *vm = state_vm(d->state, name);

	if (vm != NULL && (vm->phase == VM_RUNNING || vm->phase == VM_STOPPING))
		return false;
	(void)blix_fail(err, BLIX_E_REFUSED, "vm %s: it does not run, it is %s", name,
	                vm == NULL ? "gone" : vm_phase_name(vm->phase));
	blix_reason(err, "not-running");
	blix_hint(err, "'blix vm start %s' starts it", name);
	return true;
}

int stream_body(const struct http_request *request, const char *const *keys, cJSON **ret,
                struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;
	const char *text;
	size_t n;
	int rc;

	text = http_body(request, &n);
	if (n == 0)
		tree = json_object();
	else if ((rc = json_parse(text, n, &json_limits_request, &tree, err)) < 0)
		return rc;
	if (!cJSON_IsObject(tree))
		return blix_fail(err, BLIX_E_INVALID, "the body is not an object");
	rc = json_only_keys(tree, keys, err);
	if (rc == 0)
		*ret = take(tree);
	return rc;
}
