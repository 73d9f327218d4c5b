/* A growable byte buffer whose maximum is part of its construction, for all that an outsider sizes.
 *
 * `data` is NULL or points to `len` bytes followed by a NUL that does not count. The first append
 * that would pass `cap` fails, frees the contents and marks the buffer; every later append fails
 * too, so a caller may append at will and check once, by buf_failed().
 */
#ifndef BLIX_BASE_BUF_H
#define BLIX_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	char *data;
	size_t len;
	size_t size; /* allocated */
	size_t cap;  /* the most `len` may become */
	bool failed;
};

void buf_init(struct buf *b, size_t cap);
void buf_done(struct buf *b);
/* Empties b, keeps its memory and cap, and forgets a failure. */
void buf_clear(struct buf *b);
/* 0, or -BLIX_E_TOOBIG / -BLIX_E_NOMEM. */
int buf_add(struct buf *b, const void *data, size_t n);
int buf_add_string(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Room for n more bytes at the end: returns where to write, or NULL; buf_grew() then counts them.
 */
char *buf_room(struct buf *b, size_t n);
void buf_grew(struct buf *b, size_t n);
/* Drops the first n bytes. */
void buf_consume(struct buf *b, size_t n);
/* The bytes, NUL-terminated, now the caller's to free; the buffer is empty. Never NULL unless
 * failed. */
char *buf_take(struct buf *b);
static inline bool buf_failed(const struct buf *b)
{
	return b->failed;
}

#endif
