/* copy-in and copy-out: a tree (sys/tree.h) from the host into the filesystem and back. Writing to
 * the disk blocks the agent for as long as the disk does, one frame at a time. */
#include "agent.h"

#include "sys/tree.h"

static json_t *counts_json(const struct tree_counts *counts)
{
	return json_pack("{s:i, s:I, s:I, s:I}", "exitCode", 0, "files", (json_int_t)counts->files,
	                 "bytes", (json_int_t)counts->bytes, "skipped",
	                 (json_int_t)counts->skipped);
}

static int copy_in_open(struct stream *s, json_t *request, struct blix_error *err)
{
	const char *path = "";
	const char *name = "";
	struct tree_writer *w = NULL;
	int rc;

	if (json_unpack(request, "{s:s, s:s, s?s !}", "kind", &path, "path", &path, "name", &name) <
	    0)
		return blix_fail(err, BLIX_E_INVALID, "copy-in needs path, and may have name");
	rc = tree_writer_open(path, name, &w, err);
	if (rc < 0)
		return rc;
	s->data = w;
	s->idle = true;
	stream_opened(s, json_object());
	return 0;
}

static void copy_in_frame(struct stream *s, const struct frame *f)
{
	struct tree_counts counts;
	struct blix_error err;
	int rc = 0;

	if (f->type == FRAME_STDIN) {
		rc = tree_writer_write(s->data, f->data, f->len, &err);
		stream_consumed(s, f->len);
	} else if (f->type == FRAME_EOF) {
		rc = tree_writer_end(s->data, &counts, &err);
		if (rc == 0)
			stream_exit(s, counts_json(&counts));
	}
	if (rc < 0)
		stream_error(s, &err);
}

static void copy_in_free(struct stream *s)
{
	tree_writer_free(s->data);
}

const struct stream_kind copy_in_kind = {
	.name = "copy-in",
	.open = copy_in_open,
	.frame = copy_in_frame,
	.hangup = stream_end,
	.free = copy_in_free,
};

static int copy_out_open(struct stream *s, json_t *request, struct blix_error *err)
{
	const char *path = "";
	struct tree_reader *r = NULL;
	int rc;

	if (json_unpack(request, "{s:s, s:s !}", "kind", &path, "path", &path) < 0)
		return blix_fail(err, BLIX_E_INVALID, "copy-out needs path");
	rc = tree_reader_open(path, &r, err);
	if (rc < 0)
		return rc;
	s->data = r;
	stream_opened(s, json_object());
	return 0;
}

static void copy_out_work(struct stream *s, const struct pollfd *fds, unsigned n)
{
	char data[32768];
	struct blix_error err;

	(void)fds;
	(void)n;
	while (!s->ended && s->window.may_send > 0 && session_has_room(s->agent)) {
		size_t most = sizeof(data) < s->window.may_send ? sizeof(data) : s->window.may_send;
		size_t got = 0;

		if (tree_reader_read(s->data, data, most, &got, &err) < 0) {
			stream_error(s, &err);
		} else if (got > 0) {
			stream_put(s, FRAME_STDOUT, data, got);
		} else {
			stream_eof(s, 1);
			stream_exit(s, counts_json(tree_reader_counts(s->data)));
		}
	}
}

/* Nothing to wait for, but the turn must not sleep while there is something to send. */
static unsigned copy_out_poll(struct stream *s, struct pollfd *fds)
{
	(void)fds;
	s->idle = s->window.may_send == 0 || !session_has_room(s->agent);
	return 0;
}

static void copy_out_free(struct stream *s)
{
	tree_reader_free(s->data);
}

const struct stream_kind copy_out_kind = {
	.name = "copy-out",
	.open = copy_out_open,
	.poll = copy_out_poll,
	.work = copy_out_work,
	.hangup = stream_end,
	.free = copy_out_free,
};
