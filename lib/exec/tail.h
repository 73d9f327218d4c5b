/* The last `cap` bytes of a stream: what is worth keeping of a child that talks too much. */
#ifndef BLIX_EXEC_TAIL_H
#define BLIX_EXEC_TAIL_H

#include <stdbool.h>
#include <stddef.h>

struct tail {
	char *data; /* NUL-terminated once tail_end() was called */
	size_t len;
	size_t size;
	size_t cap;
	bool cut; /* the head was dropped */
};

void tail_init(struct tail *tail, size_t cap);
void tail_add(struct tail *tail, const char *data, size_t n);
/* Leaves at most `cap` bytes and terminates them. */
void tail_end(struct tail *tail);
void tail_done(struct tail *tail);

#endif
