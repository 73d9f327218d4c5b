/* The capped buffer: see buf.h. */
#include "base/buf.h"

#include "base/alloc.h"
#include "base/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

void buf_init(struct buf *b, size_t cap)
{
	memset(b, 0, sizeof(*b));
	b->cap = cap;
}

void buf_done(struct buf *b)
{
	if (b == NULL)
		return;
	free(b->data);
	b->data = NULL;
	b->len = b->size = 0;
}

void buf_clear(struct buf *b)
{
	b->len = 0;
	b->failed = false;
	if (b->data != NULL)
		b->data[0] = '\0';
}

static int buf_fail(struct buf *b, enum blix_code code)
{
	buf_done(b);
	b->failed = true;
	return -(int)code;
}

char *buf_room(struct buf *b, size_t n)
{
	size_t size;
	char *grown;

	if (b->failed)
		return NULL;
	if (n > b->cap || b->len > b->cap - n) {
		(void)buf_fail(b, BLIX_E_TOOBIG);
		return NULL;
	}
	if (b->len + n + 1 > b->size) {
		size = b->size < 256 ? 256 : b->size * 2;
		if (size > b->cap + 1)
			size = b->cap + 1;
		if (size < b->len + n + 1)
			size = b->len + n + 1;
		grown = realloc(b->data, size);
		if (grown == NULL) {
			(void)buf_fail(b, BLIX_E_NOMEM);
			return NULL;
		}
		b->data = grown;
		b->size = size;
	}
	return b->data + b->len;
}

void buf_grew(struct buf *b, size_t n)
{
	assert(b->len + n < b->size);
	b->len += n;
	b->data[b->len] = '\0';
}

int buf_add(struct buf *b, const void *data, size_t n)
{
	char *room = buf_room(b, n);

	if (room == NULL)
		return -(int)BLIX_E_TOOBIG;
	if (n > 0)
		memcpy(room, data, n);
	buf_grew(b, n);
	return 0;
}

int buf_add_string(struct buf *b, const char *s)
{
	return buf_add(b, s, strlen(s));
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list args;
	char *room;
	int n;

	va_start(args, fmt);
	n = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0)
		return buf_fail(b, BLIX_E_INTERNAL);
	room = buf_room(b, (size_t)n);
	if (room == NULL)
		return -(int)BLIX_E_TOOBIG;
	va_start(args, fmt);
	(void)vsnprintf(room, (size_t)n + 1, fmt, args);
	va_end(args);
	buf_grew(b, (size_t)n);
	return 0;
}

void buf_consume(struct buf *b, size_t n)
{
	assert(n <= b->len);
	if (n == 0)
		return;
	memmove(b->data, b->data + n, b->len - n + 1);
	b->len -= n;
}

char *buf_take(struct buf *b)
{
	char *data;

	if (b->failed)
		return NULL;
	if (b->data == NULL)
		(void)buf_add(b, "", 0);
	data = take(b->data);
	b->len = b->size = 0;
	return data;
}
