/* blix vm cp: files and trees into a guest and out of it. A tree (sys/tree.h) goes over a stream,
 * read or written here as fast as the other end allows; the modes of files are kept. */
#include "guest.h"

#include "base/parse.h"
#include "core/object_json.h"
#include "sys/clock.h"
#include "sys/tree.h"

#include <poll.h>
#include <string.h>

#define PROGRESS_MS 200
#define SLICE_MS    250 /* a signal is seen this soon */

struct transfer {
	struct cli *cli;
	const struct copy *copy;
	struct client_stream *stream;
	struct tree_reader *reader; /* in */
	struct tree_writer *writer; /* out */
	struct tree_counts counts;
	uint64_t bytes; /* of the stream */
	uint64_t shown_ms;
	bool read_all; /* the whole tree was sent */
	bool done;
};

static void progress(struct transfer *t)
{
	uint64_t now = clock_boot_ms();
	char size[32];

	if (!t->cli->talk_is_terminal || given(t->cli, OPTION_QUIET) ||
	    now < t->shown_ms + PROGRESS_MS)
		return;
	t->shown_ms = now;
	format_size(size, sizeof(size), t->bytes >> 10 << 10);
	(void)fprintf(stderr, "\r\033[Kvm %s: copied %s", t->copy->vm, size);
	(void)fflush(stderr);
	t->cli->line_is_open = true;
}

static int send_more(struct transfer *t, struct blix_error *err)
{
	static char bytes[LIMIT_FRAME];
	size_t room, n = 1;

	while (!t->read_all && n > 0 && (room = client_stream_room(t->stream)) > 0) {
		int rc = tree_reader_read(t->reader, bytes, room, &n, err);

		if (rc < 0)
			return rc;
		if (n > 0)
			client_stream_input(t->stream, bytes, n);
		t->bytes += n;
		t->read_all = n == 0;
		if (t->read_all)
			client_stream_end_input(t->stream);
	}
	return 0;
}

static int frame_take(struct transfer *t, const struct frame *frame, struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;
	int rc = 0;

	if (frame->type == FRAME_STDOUT && t->writer != NULL) {
		rc = tree_writer_write(t->writer, frame->data, frame->len, err);
		t->bytes += frame->len;
		client_stream_consumed(t->stream, frame->len);
	} else if (frame->type == FRAME_EXIT) {
		t->done = true;
	} else if (frame->type == FRAME_ERROR) {
		(void)json_parse(frame->data, frame->len, &json_limits_request, &tree, NULL);
		error_parse(tree, 500, err);
		rc = -(int)err->code;
	} else if (frame->type == FRAME_CLOSE) {
		rc = blix_fail(err, BLIX_E_UNAVAILABLE, "the stream ended before the copy");
	}
	return rc;
}

static int transfer_turn(struct transfer *t, struct blix_error *err)
{
	struct pollfd fd = {.fd = client_stream_fd(t->stream),
	                    .events = client_stream_events(t->stream)};
	struct blix_error lost = {0};
	struct frame frame;
	int turned = 0, rc = 0;

	progress(t);
	if (poll(&fd, 1, SLICE_MS) > 0)
		turned = client_stream_turn(t->stream, &lost);
	while (rc >= 0 && !t->done && (rc = client_stream_next(t->stream, &frame, err)) == 1)
		rc = frame_take(t, &frame, err);
	if (rc == 0 && turned < 0 && !t->done) {
		*err = lost;
		return turned;
	}
	if (rc >= 0 && t->reader != NULL && !t->done)
		rc = send_more(t, err);
	if (rc >= 0 && cli_interrupted()) {
		(void)blix_fail(err, BLIX_E_TIMEOUT, "interrupted; what was copied stays");
		blix_reason(err, "interrupted");
		return -(int)BLIX_E_TIMEOUT;
	}
	return rc < 0 ? rc : 0;
}

/* What follows the last slash, "" for "/", "." and "..". */
static char *last_part(const char *path)
{
	size_t n = strlen(path), start;

	while (n > 1 && path[n - 1] == '/')
		n--;
	for (start = n; start > 0 && path[start - 1] != '/'; start--)
		;
	if (n - start <= 2 && strncmp(path + start, "..", n - start) == 0)
		return xstrdup("");
	return xstrndup(path + start, n - start);
}

static int transfer_open(struct transfer *t, struct blix_error *err)
{
	const struct copy *copy = t->copy;
	cleanup(freep) char *path = xasprintf("/v1/vms/%s/copy", copy->vm);
	cleanup(freep) char *name = last_part(copy->in ? copy->local : copy->remote);
	cleanup(json_freep) cJSON *body = json_object();
	struct client *client = cli_client(t->cli, err);
	int rc;

	if (client == NULL)
		return -(int)err->code;
	rc = copy->in ? tree_reader_open(copy->local, &t->reader, err)
	              : tree_writer_open(copy->local, name, &t->writer, err);
	if (rc < 0)
		return rc;
	json_add_string(body, "direction", copy->in ? "in" : "out");
	json_add_string(body, "path", copy->remote);
	if (copy->in)
		json_add_string(body, "name", name);
	rc = client_stream_open(client, path, body, &t->stream, err);
	return rc;
}

int guest_copy(struct cli *cli, const struct copy *copy, struct blix_error *err)
{
	struct transfer t = {.cli = cli, .copy = copy};
	int rc = transfer_open(&t, err);
	char size[32];

	while (rc == 0 && !t.done)
		rc = transfer_turn(&t, err);
	talk_close(cli);
	if (rc == 0 && t.writer != NULL)
		rc = tree_writer_end(t.writer, &t.counts, err);
	if (rc == 0 && t.reader != NULL)
		t.counts = *tree_reader_counts(t.reader);
	if (rc == 0 && t.counts.skipped > 0)
		talk_note(cli, "vm %s: %llu sockets, pipes or devices were not copied", copy->vm,
		          (unsigned long long)t.counts.skipped);
	format_size(size, sizeof(size), t.counts.bytes);
	if (rc == 0)
		talk_note(cli, "vm %s: copied %llu files, %s", copy->vm,
		          (unsigned long long)t.counts.files, size);
	tree_reader_free(t.reader);
	tree_writer_free(t.writer);
	client_stream_close(t.stream);
	return rc;
}

/* NAME:PATH, where NAME may be a VM's; "./a:b" is a file. The path begins behind the colon. */
static const char *remote_path(const char *text, char **ret_vm)
{
	const char *colon = strchr(text, ':'), *slash = strchr(text, '/');

	if (colon == NULL || (slash != NULL && slash < colon))
		return NULL;
	*ret_vm = xstrndup(text, (size_t)(colon - text));
	return colon + 1;
}

static int copy_parse(const struct cli *cli, struct copy *copy, char **ret_vm,
                      struct blix_error *err)
{
	cleanup(freep) char *from_vm = NULL;
	cleanup(freep) char *to_vm = NULL;
	const char *source = cli->arguments.names[0], *target = cli->arguments.names[1];
	const char *from = remote_path(source, &from_vm), *to = remote_path(target, &to_vm);
	int rc;

	if ((from != NULL) == (to != NULL)) {
		(void)blix_fail(err, BLIX_E_INVALID,
		                "one of SRC and DST is NAME:PATH, in the guest");
		blix_hint(err, "for example: %s", cli->verb->example);
		return -(int)BLIX_E_INVALID;
	}
	copy->in = to != NULL;
	copy->local = copy->in ? source : target;
	copy->remote = copy->in ? to : from;
	*ret_vm = copy->in ? take(to_vm) : take(from_vm);
	copy->vm = *ret_vm;
	rc = parse_name("VM name", copy->vm, err);
	if (rc == 0 && copy->remote[0] != '/')
		rc = blix_fail(err, BLIX_E_INVALID, "'%.64s' in the guest must begin with a '/'",
		               copy->remote);
	return rc;
}

int vm_cp_run(struct cli *cli)
{
	cleanup(freep) char *vm = NULL;
	struct copy copy = {.vm = NULL};
	struct blix_error err;

	if (copy_parse(cli, &copy, &vm, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	cli_catch_interrupt();
	return guest_copy(cli, &copy, &err) < 0 ? talk_error(cli, "vm", vm, &err) : 0;
}
