/* How long a loop's turns take: the time of all that runs between two waits, as the loop itself
 * accounts for it. A turn of half an election timeout costs the leadership. */
#ifndef BLIX_SYS_STALL_H
#define BLIX_SYS_STALL_H

#include <stdint.h>
#include <uv.h>

struct stall {
	uv_prepare_t prepare; /* its data is stall_close's */
	uint64_t turn_ns;     /* when the last turn ended; 0: none has */
	uint64_t idle_ns;     /* waited until then */
	uint64_t worst_ns;
};

/* Before the loop's first run: it is told to count its idle time. Does not keep the loop alive. */
void stall_start(struct stall *s, uv_loop_t *loop);
void stall_close(struct stall *s, uv_close_cb cb, void *data);
/* Microseconds of the longest turn since the start. */
uint64_t stall_worst_us(const struct stall *s);

#endif
