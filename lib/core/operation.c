/* The steps of an operation: see operation.h. */
#include "core/operation.h"

#include <assert.h>
#include <string.h>

const char *operation_step_name(enum operation_step step)
{
	static const char *const names[OPERATION_STEP_COUNT] = {
#define X(name, text) [OPERATION_##name] = (text),
		OPERATION_STEPS(X)
#undef X
	};

	assert((unsigned)step < OPERATION_STEP_COUNT);
	return names[step];
}

void operation_mark(struct operation_marks *marks, enum operation_step step, uint64_t after_ms)
{
	if (marks->n == OPERATION_STEPS_MAX) {
		memmove(&marks->items[1], &marks->items[2],
		        (OPERATION_STEPS_MAX - 2) * sizeof(marks->items[0]));
		marks->n--;
	}
	marks->items[marks->n++] = (struct operation_mark){
		.step = (uint8_t)step,
		.after_ms = after_ms < UINT32_MAX ? (uint32_t)after_ms : UINT32_MAX};
}
