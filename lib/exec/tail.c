/* Keeps up to twice the cap and moves the newest half down when that is full, so that a flood costs
 * one copy per byte. */
#include "exec/tail.h"

#include "base/alloc.h"

void tail_init(struct tail *tail, size_t cap)
{
	*tail = (struct tail){.cap = cap};
}

static void tail_trim(struct tail *tail)
{
	if (tail->len <= tail->cap)
		return;
	memmove(tail->data, tail->data + tail->len - tail->cap, tail->cap);
	tail->len = tail->cap;
	tail->cut = true;
}

static void tail_room(struct tail *tail, size_t n)
{
	size_t size = tail->size != 0 ? tail->size : 4096;

	while (size < tail->len + n + 1)
		size *= 2;
	if (size == tail->size)
		return;
	tail->data = xreallocarray(tail->data, size, 1);
	tail->size = size;
}

void tail_add(struct tail *tail, const char *data, size_t n)
{
	if (n > tail->cap) {
		data += n - tail->cap;
		n = tail->cap;
		tail->cut = true;
	}
	if (tail->len + n > 2 * tail->cap)
		tail_trim(tail);
	tail_room(tail, n);
	if (n > 0)
		memcpy(tail->data + tail->len, data, n);
	tail->len += n;
}

void tail_end(struct tail *tail)
{
	tail_trim(tail);
	tail_room(tail, 0);
	tail->data[tail->len] = '\0';
}

void tail_done(struct tail *tail)
{
	free(tail->data);
	tail->data = NULL;
	tail->len = tail->size = 0;
}
