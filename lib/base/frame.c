/* Frames and windows: see frame.h. The reader keeps bytes in one capped buffer and gives its memory
 * back when it is empty, since a daemon holds a reader per VM and most say nothing. */
#include "base/frame.h"

#include "base/alloc.h"

#include <assert.h>

struct frame_rule {
	const char *name;
	size_t least;
	size_t most;
};

static const struct frame_rule rules[] = {
#define X(name, number, least, most) [number] = {#name, least, most},
	FRAME_TYPES(X)
#undef X
};

static const struct frame_rule *frame_rule(unsigned type)
{
	return type < array_size(rules) && rules[type].name != NULL ? &rules[type] : NULL;
}

const char *frame_type_name(enum frame_type type)
{
	const struct frame_rule *rule = frame_rule(type);

	return rule == NULL ? "?" : rule->name;
}

static void put_u32(unsigned char *at, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		at[i] = (unsigned char)(v >> (8 * i));
}

static uint32_t get_u32(const void *from)
{
	const unsigned char *at = from;
	uint32_t v = 0;

	for (unsigned i = 0; i < 4; i++)
		v |= (uint32_t)at[i] << (8 * i);
	return v;
}

int frame_put(struct buf *out, uint32_t stream, enum frame_type type, const void *data, size_t n)
{
	const struct frame_rule *rule = frame_rule(type);
	unsigned char *room;

	assert(rule != NULL && n >= rule->least && n <= rule->most);
	assert((stream == 0) == (type == FRAME_HELLO));
	room = (unsigned char *)buf_room(out, FRAME_HEADER + n);
	if (room == NULL)
		return -(int)BLIX_E_TOOBIG;
	memset(room, 0, FRAME_HEADER);
	put_u32(room, (uint32_t)n);
	put_u32(room + 4, stream);
	room[8] = (unsigned char)type;
	if (n > 0)
		memcpy(room + FRAME_HEADER, data, n);
	buf_grew(out, FRAME_HEADER + n);
	return 0;
}

int frame_put_text(struct buf *out, uint32_t stream, enum frame_type type, const char *text)
{
	return frame_put(out, stream, type, text, strlen(text));
}

int frame_put_byte(struct buf *out, uint32_t stream, enum frame_type type, uint8_t value)
{
	return frame_put(out, stream, type, &value, 1);
}

int frame_put_credit(struct buf *out, uint32_t stream, uint32_t bytes)
{
	unsigned char data[4];

	put_u32(data, bytes);
	return frame_put(out, stream, FRAME_CREDIT, data, sizeof(data));
}

int frame_put_size(struct buf *out, uint32_t stream, uint16_t rows, uint16_t columns)
{
	unsigned char data[4];

	put_u32(data, (uint32_t)rows | (uint32_t)columns << 16);
	return frame_put(out, stream, FRAME_RESIZE, data, sizeof(data));
}

uint8_t frame_byte(const struct frame *f)
{
	assert(f->len == 1);
	return (uint8_t)f->data[0];
}

uint32_t frame_credit(const struct frame *f)
{
	assert(f->len == 4);
	return get_u32(f->data);
}

void frame_size(const struct frame *f, uint16_t *ret_rows, uint16_t *ret_columns)
{
	uint32_t both = frame_credit(f);

	*ret_rows = (uint16_t)(both & 0xffff);
	*ret_columns = (uint16_t)(both >> 16);
}

void frame_reader_init(struct frame_reader *r)
{
	buf_init(&r->in, LIMIT_FRAME_INPUT);
	r->used = 0;
}

void frame_reader_done(struct frame_reader *r)
{
	if (r == NULL)
		return;
	buf_done(&r->in);
	r->used = 0;
}

void frame_reader_clear(struct frame_reader *r)
{
	frame_reader_done(r);
	frame_reader_init(r);
}

/* The frame that was returned last is the caller's no more. */
static void reader_settle(struct frame_reader *r)
{
	buf_consume(&r->in, r->used);
	r->used = 0;
	if (r->in.len == 0 && !buf_failed(&r->in))
		frame_reader_clear(r);
}

int frame_reader_feed(struct frame_reader *r, const void *data, size_t n, struct blix_error *err)
{
	reader_settle(r);
	if (buf_add(&r->in, data, n) < 0)
		return blix_fail(err, BLIX_E_TOOBIG, "more than %u bytes of frames at once",
		                 LIMIT_FRAME_INPUT);
	return 0;
}

static int header_check(const unsigned char *header, struct blix_error *err)
{
	const struct frame_rule *rule = frame_rule(header[8]);
	uint32_t n = get_u32(header);
	uint32_t stream = get_u32(header + 4);

	if (rule == NULL || (header[9] | header[10] | header[11]) != 0)
		return blix_fail(err, BLIX_E_CORRUPT, "no frame begins with type %u", header[8]);
	if (n < rule->least || n > rule->most)
		return blix_fail(err, BLIX_E_CORRUPT, "a frame %s of %u bytes", rule->name, n);
	if ((stream == 0) != (header[8] == FRAME_HELLO))
		return blix_fail(err, BLIX_E_CORRUPT, "a frame %s on stream %u", rule->name,
		                 stream);
	return 0;
}

static int payload_check(const struct frame *f, struct blix_error *err)
{
	if (f->type == FRAME_EOF && frame_byte(f) > 2)
		return blix_fail(err, BLIX_E_CORRUPT, "end of file %u", frame_byte(f));
	if (f->type == FRAME_CREDIT && frame_credit(f) == 0)
		return blix_fail(err, BLIX_E_CORRUPT, "a credit of nothing");
	if (f->type == FRAME_SIGNAL && (frame_byte(f) == 0 || frame_byte(f) > 64))
		return blix_fail(err, BLIX_E_CORRUPT, "signal %u", frame_byte(f));
	return 0;
}

int frame_reader_next(struct frame_reader *r, struct frame *ret, struct blix_error *err)
{
	const unsigned char *header;
	struct frame f;
	int rc;

	reader_settle(r);
	if (buf_failed(&r->in))
		return blix_fail(err, BLIX_E_CORRUPT, "bytes of a frame are lost");
	if (r->in.len < FRAME_HEADER)
		return 0;
	header = (const unsigned char *)r->in.data;
	rc = header_check(header, err);
	if (rc < 0)
		return rc;
	f.len = get_u32(header);
	if (r->in.len < FRAME_HEADER + f.len)
		return 0;
	f.stream = get_u32(header + 4);
	f.type = (enum frame_type)header[8];
	f.data = r->in.data + FRAME_HEADER;
	rc = payload_check(&f, err);
	if (rc < 0)
		return rc;
	r->used = FRAME_HEADER + f.len;
	*ret = f;
	return 1;
}

void frame_window_init(struct frame_window *w)
{
	w->may_send = LIMIT_FRAME_WINDOW;
	w->may_receive = LIMIT_FRAME_WINDOW;
	w->owed = 0;
}

void frame_window_send(struct frame_window *w, size_t n)
{
	assert(n <= w->may_send);
	w->may_send -= (uint32_t)n;
}

int frame_window_credit(struct frame_window *w, uint32_t bytes, struct blix_error *err)
{
	if (bytes > LIMIT_FRAME_WINDOW - w->may_send)
		return blix_fail(err, BLIX_E_CORRUPT, "a credit of %u bytes where %u were sent",
		                 bytes, LIMIT_FRAME_WINDOW - w->may_send);
	w->may_send += bytes;
	return 0;
}

int frame_window_receive(struct frame_window *w, size_t n, struct blix_error *err)
{
	if (n > w->may_receive)
		return blix_fail(err, BLIX_E_CORRUPT, "%zu bytes where %u are allowed", n,
		                 w->may_receive);
	w->may_receive -= (uint32_t)n;
	return 0;
}

uint32_t frame_window_consume(struct frame_window *w, size_t n)
{
	uint32_t grant;

	assert(n <= LIMIT_FRAME_WINDOW - w->may_receive - w->owed);
	w->owed += (uint32_t)n;
	if (w->owed < LIMIT_FRAME_WINDOW / 4)
		return 0;
	grant = w->owed;
	w->owed = 0;
	w->may_receive += grant;
	return grant;
}
