/* lib/base/frame: what is written comes out again however the bytes arrive, what breaks a rule ends
 * the reader, and the accounts of two ends agree. */
#include "base/alloc.h"
#include "base/frame.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void write_all(struct buf *out)
{
	char large[LIMIT_FRAME];

	memset(large, 'x', sizeof(large));
	assert_int_equal(frame_put_text(out, 0, FRAME_HELLO, "{}"), 0);
	assert_int_equal(frame_put_text(out, 7, FRAME_OPEN, "{\"kind\":\"exec\"}"), 0);
	assert_int_equal(frame_put(out, 7, FRAME_OPENED, NULL, 0), 0);
	assert_int_equal(frame_put(out, 7, FRAME_STDIN, large, sizeof(large)), 0);
	assert_int_equal(frame_put_credit(out, 7, 0x01020304), 0);
	assert_int_equal(frame_put_size(out, 0xfffffffe, 24, 300), 0);
	assert_int_equal(frame_put_byte(out, 7, FRAME_SIGNAL, 15), 0);
	assert_int_equal(frame_put_byte(out, 7, FRAME_EOF, 1), 0);
	assert_int_equal(frame_put_text(out, 7, FRAME_EXIT, "{\"exitCode\":3}"), 0);
	assert_int_equal(frame_put(out, 7, FRAME_CLOSE, NULL, 0), 0);
}

static void expect(const struct frame *f, size_t nth)
{
	static const enum frame_type types[] = {
		FRAME_HELLO,  FRAME_OPEN,   FRAME_OPENED, FRAME_STDIN, FRAME_CREDIT,
		FRAME_RESIZE, FRAME_SIGNAL, FRAME_EOF,    FRAME_EXIT,  FRAME_CLOSE,
	};
	uint16_t rows = 0;
	uint16_t columns = 0;

	assert_true(nth < array_size(types));
	assert_int_equal(f->type, types[nth]);
	if (nth == 1)
		assert_memory_equal(f->data, "{\"kind\":\"exec\"}", f->len);
	if (nth == 3)
		assert_int_equal(f->len, LIMIT_FRAME);
	if (nth == 4)
		assert_int_equal(frame_credit(f), 0x01020304);
	if (nth == 5) {
		assert_int_equal(f->stream, 0xfffffffe);
		frame_size(f, &rows, &columns);
		assert_int_equal(rows, 24);
		assert_int_equal(columns, 300);
	}
	if (nth == 6)
		assert_int_equal(frame_byte(f), 15);
}

/* Bytes may arrive one by one, in odd pieces, or all at once. */
static void any_pieces(void **state)
{
	static const size_t steps[] = {1, 11, 12, 13, 4099, 1 << 20};
	cleanup(buf_done) struct buf bytes;

	(void)state;
	buf_init(&bytes, LIMIT_FRAME_INPUT);
	write_all(&bytes);
	for (size_t i = 0; i < array_size(steps); i++) {
		cleanup(frame_reader_done) struct frame_reader r;
		struct frame f;
		size_t n = 0;

		frame_reader_init(&r);
		for (size_t at = 0; at < bytes.len; at += steps[i]) {
			size_t left = bytes.len - at;

			assert_int_equal(frame_reader_feed(&r, bytes.data + at,
			                                   left < steps[i] ? left : steps[i], NULL),
			                 0);
			while (frame_reader_next(&r, &f, NULL) == 1)
				expect(&f, n++);
		}
		assert_int_equal(n, 10);
		assert_int_equal(frame_reader_next(&r, &f, NULL), 0);
		assert_null(r.in.data); /* an idle reader holds no memory */
	}
}

static void little_endian(void **state)
{
	static const unsigned char bytes[] = {4, 0, 0, 0, 2, 1, 0, 0, 9, 0, 0, 0, 0x78, 0x56, 0, 0};
	cleanup(buf_done) struct buf out;

	(void)state;
	buf_init(&out, 64);
	assert_int_equal(frame_put_credit(&out, 0x102, 0x5678), 0);
	assert_int_equal(out.len, sizeof(bytes));
	assert_memory_equal(out.data, bytes, sizeof(bytes));
	assert_string_equal(frame_type_name(FRAME_STDERR), "STDERR");
	assert_string_equal(frame_type_name((enum frame_type)0), "?");
}

static void refuses(void **state)
{
	static const struct {
		const char *what;
		unsigned char bytes[FRAME_HEADER + 4];
		size_t n;
	} bad[] = {
		{"type 0", {0, 0, 0, 0, 1, 0, 0, 0, 0}, 12},
		{"type 14", {0, 0, 0, 0, 1, 0, 0, 0, 14}, 12},
		{"padding", {0, 0, 0, 0, 1, 0, 0, 0, 13, 0, 1}, 12},
		{"too long", {1, 0, 1, 0, 1, 0, 0, 0, 5}, 12},
		{"negative", {255, 255, 255, 255, 1, 0, 0, 0, 5}, 12},
		{"empty bytes", {0, 0, 0, 0, 1, 0, 0, 0, 6}, 12},
		{"short credit", {3, 0, 0, 0, 1, 0, 0, 0, 9}, 12},
		{"no credit", {4, 0, 0, 0, 1, 0, 0, 0, 9}, 16},
		{"a close that talks", {1, 0, 0, 0, 1, 0, 0, 0, 13}, 12},
		{"end of file 3", {1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 3}, 13},
		{"signal 0", {1, 0, 0, 0, 1, 0, 0, 0, 11}, 13},
		{"signal 65", {1, 0, 0, 0, 1, 0, 0, 0, 11, 0, 0, 0, 65}, 13},
		{"data on stream 0", {1, 0, 0, 0, 0, 0, 0, 0, 5}, 12},
		{"a hello on stream 1", {2, 0, 0, 0, 1, 0, 0, 0, 1}, 12},
	};

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++) {
		cleanup(frame_reader_done) struct frame_reader r;
		struct blix_error err;
		struct frame f;

		frame_reader_init(&r);
		assert_int_equal(frame_reader_feed(&r, bad[i].bytes, bad[i].n, &err), 0);
		if (frame_reader_next(&r, &f, &err) != -(int)BLIX_E_CORRUPT)
			fail_msg("%s was let in", bad[i].what);
		assert_int_equal(frame_reader_next(&r, &f, NULL), -(int)BLIX_E_CORRUPT);
		frame_reader_clear(&r);
		assert_int_equal(frame_reader_next(&r, &f, NULL), 0);
	}
}

static void input_is_capped(void **state)
{
	cleanup(freep) char *much = xcalloc(1, LIMIT_FRAME_INPUT);
	cleanup(frame_reader_done) struct frame_reader r;
	struct frame f;

	(void)state;
	frame_reader_init(&r);
	assert_int_equal(frame_reader_feed(&r, much, LIMIT_FRAME_INPUT, NULL), 0);
	assert_int_equal(frame_reader_feed(&r, much, 1, NULL), -(int)BLIX_E_TOOBIG);
	assert_int_equal(frame_reader_next(&r, &f, NULL), -(int)BLIX_E_CORRUPT);
}

static void a_full_buffer(void **state)
{
	cleanup(buf_done) struct buf out;

	(void)state;
	buf_init(&out, FRAME_HEADER + 3);
	assert_int_equal(frame_put_credit(&out, 1, 1), -(int)BLIX_E_TOOBIG);
	assert_true(buf_failed(&out));
}

/* A sender that always sends what it may, a receiver that consumes in odd amounts: all arrives, and
 * neither end waits for the other for ever. */
static void windows_agree(void **state)
{
	struct frame_window sender;
	struct frame_window receiver;
	size_t held = 0;
	size_t sent = 0;

	(void)state;
	frame_window_init(&sender);
	frame_window_init(&receiver);
	for (size_t round = 0; sent < 8u * LIMIT_FRAME_WINDOW; round++) {
		size_t n = sender.may_send < LIMIT_FRAME ? sender.may_send : LIMIT_FRAME;
		size_t eaten;
		uint32_t grant;

		assert_true(n > 0 || held > 0);
		frame_window_send(&sender, n);
		assert_int_equal(frame_window_receive(&receiver, n, NULL), 0);
		sent += n;
		held += n;
		eaten = held < 1 + round * 977 % 40000 ? held : 1 + round * 977 % 40000;
		grant = frame_window_consume(&receiver, eaten);
		held -= eaten;
		if (grant > 0)
			assert_int_equal(frame_window_credit(&sender, grant, NULL), 0);
		assert_true(receiver.may_receive + receiver.owed + held == LIMIT_FRAME_WINDOW);
	}
}

static void windows_refuse(void **state)
{
	struct frame_window w;

	(void)state;
	frame_window_init(&w);
	assert_int_equal(frame_window_credit(&w, 1, NULL), -(int)BLIX_E_CORRUPT);
	frame_window_send(&w, 10);
	assert_int_equal(frame_window_credit(&w, 11, NULL), -(int)BLIX_E_CORRUPT);
	assert_int_equal(frame_window_credit(&w, 0xffffffff, NULL), -(int)BLIX_E_CORRUPT);
	assert_int_equal(frame_window_credit(&w, 10, NULL), 0);
	assert_int_equal(frame_window_receive(&w, LIMIT_FRAME_WINDOW + 1u, NULL),
	                 -(int)BLIX_E_CORRUPT);
	assert_int_equal(frame_window_receive(&w, LIMIT_FRAME_WINDOW, NULL), 0);
	assert_int_equal(frame_window_receive(&w, 1, NULL), -(int)BLIX_E_CORRUPT);
	assert_int_equal(frame_window_consume(&w, 100), 0);
	assert_int_equal(frame_window_consume(&w, LIMIT_FRAME_WINDOW - 100u), LIMIT_FRAME_WINDOW);
	assert_int_equal(w.may_receive, LIMIT_FRAME_WINDOW);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_pieces),     cmocka_unit_test(little_endian),
		cmocka_unit_test(refuses),        cmocka_unit_test(input_is_capped),
		cmocka_unit_test(a_full_buffer),  cmocka_unit_test(windows_agree),
		cmocka_unit_test(windows_refuse),
	};

	return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
