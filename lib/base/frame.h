/* The frames that client, daemon and guest agent speak alike: many streams over one connection,
 * each with its own window, so that a slow reader stops only its own writer.
 *
 *   u32 length of the payload, u32 stream, u8 type, 3 bytes zero, payload       (little endian)
 *
 * Stream 0 is the connection itself and carries HELLO alone. A stream begins with OPEN; the answer
 * is OPENED or ERROR. STDIN, STDOUT and STDERR spend the window of their direction, CREDIT gives it
 * back, all else is free. EXIT says how it went, CLOSE ends the stream from either side.
 *
 * The writer appends to a buf, the reader takes bytes as they come. A frame that breaks a rule here
 * is -BLIX_E_CORRUPT: there is no way to find the next one, so the connection ends, and only it.
 */
#ifndef BLIX_BASE_FRAME_H
#define BLIX_BASE_FRAME_H

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"

#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER 12
#define FRAME_WHOLE  (FRAME_HEADER + LIMIT_FRAME)

/* Numbers are part of the protocol: a new type takes a new one. */
/* clang-format off */
/*        name     number  payload: least, most */
#define FRAME_TYPES(X)                                                                          \
	X(HELLO,   1,  2, LIMIT_FRAME)  /* JSON object, on stream 0 */                           \
	X(OPEN,    2,  2, LIMIT_FRAME)  /* JSON object: what the stream is for */                \
	X(OPENED,  3,  0, LIMIT_FRAME)  /* JSON object or nothing */                             \
	X(ERROR,   4,  2, LIMIT_FRAME)  /* JSON object {code, reason, message}; ends the stream */ \
	X(STDIN,   5,  1, LIMIT_FRAME)  /* bytes towards the guest */                            \
	X(STDOUT,  6,  1, LIMIT_FRAME)  /* bytes from the guest */                               \
	X(STDERR,  7,  1, LIMIT_FRAME)                                                           \
	X(EOF,     8,  1, 1)            /* u8: 0, 1 or 2, which of the three has ended */        \
	X(CREDIT,  9,  4, 4)            /* u32 bytes that were consumed */                       \
	X(RESIZE,  10, 4, 4)            /* u16 rows, u16 columns */                              \
	X(SIGNAL,  11, 1, 1)            /* u8, the signal's number on Linux */                   \
	X(EXIT,    12, 2, LIMIT_FRAME)  /* JSON object {exitCode} or {signal}, or a result */    \
	X(CLOSE,   13, 0, 0)
/* clang-format on */

enum frame_type {
#define X(name, number, least, most) FRAME_##name = (number),
	FRAME_TYPES(X)
#undef X
};

struct frame {
	uint32_t stream;
	enum frame_type type;
	const char *data; /* `len` bytes, not terminated */
	size_t len;
};

/* "STDOUT"; "?" for what is no type. */
const char *frame_type_name(enum frame_type type);

/* Appends one frame. 0, or the error of buf_add() when `out` is full. Asserts that the payload fits
 * the type. */
int frame_put(struct buf *out, uint32_t stream, enum frame_type type, const void *data, size_t n);
int frame_put_text(struct buf *out, uint32_t stream, enum frame_type type, const char *text);
int frame_put_byte(struct buf *out, uint32_t stream, enum frame_type type, uint8_t value);
int frame_put_credit(struct buf *out, uint32_t stream, uint32_t bytes);
int frame_put_size(struct buf *out, uint32_t stream, uint16_t rows, uint16_t columns);
/* Of payloads that the reader let through. */
uint8_t frame_byte(const struct frame *f);
uint32_t frame_credit(const struct frame *f);
void frame_size(const struct frame *f, uint16_t *ret_rows, uint16_t *ret_columns);

struct frame_reader {
	struct buf in; /* bytes not yet returned; holds memory only while there are some */
	size_t used;   /* of the frame that was returned last */
};

void frame_reader_init(struct frame_reader *r);
void frame_reader_done(struct frame_reader *r);
/* Forgets a torn frame: the connection is another one. */
void frame_reader_clear(struct frame_reader *r);
/* Copies n bytes in. Draw all frames before the next bytes: more than LIMIT_FRAME_INPUT undrawn is
 * -BLIX_E_TOOBIG. */
int frame_reader_feed(struct frame_reader *r, const void *data, size_t n, struct blix_error *err);
/* 1 and *ret, whose data lives until the next call on r; 0: more bytes are needed;
 * -BLIX_E_CORRUPT, now and ever after. */
int frame_reader_next(struct frame_reader *r, struct frame *ret, struct blix_error *err);

/* One end's account of one stream: both directions have LIMIT_FRAME_WINDOW. */
struct frame_window {
	uint32_t may_send;    /* what the other end has room for */
	uint32_t may_receive; /* what the other end was told that it may send */
	uint32_t owed;        /* consumed, and not yet told */
};

void frame_window_init(struct frame_window *w);
/* n bytes were sent; asserts n <= may_send. */
void frame_window_send(struct frame_window *w, size_t n);
/* A CREDIT came; -BLIX_E_CORRUPT when it gives more than was spent. */
int frame_window_credit(struct frame_window *w, uint32_t bytes, struct blix_error *err);
/* n bytes came; -BLIX_E_CORRUPT when the other end sent more than it may. */
int frame_window_receive(struct frame_window *w, size_t n, struct blix_error *err);
/* n of the bytes that came have left for good: returns what to put in a CREDIT now, or 0 (small
 * amounts are gathered to a quarter of the window). */
uint32_t frame_window_consume(struct frame_window *w, size_t n);

#endif
