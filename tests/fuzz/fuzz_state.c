/* Snapshots as the disk and other servers bring them: refused whole, or a state that has one
 * encoding (lists that came unsorted are sorted). */
#include "fuzz.h"

#include "core/state.h"

#include <string.h>

static void check(const struct state *state)
{
	struct state *again = state_new();
	struct blix_error err;
	struct buf one, two;

	buf_init(&one, LIMIT_SNAPSHOT);
	buf_init(&two, LIMIT_SNAPSHOT);
	assert(state_encode(state, &one, &err) == 0);
	assert(state_decode(again, (const uint8_t *)one.data, one.len, &err) == 0);
	assert(state_encode(again, &two, &err) == 0);
	assert(one.len == two.len);
	assert(memcmp(one.data, two.data, one.len) == 0);
	buf_done(&one);
	buf_done(&two);
	state_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct state *state = state_new();
	uint64_t empty = state_hash(state);
	struct blix_error err;

	if (state_decode(state, data, n, &err) < 0)
		assert(state_hash(state) == empty);
	else
		check(state);
	state_free(state);
	return 0;
}
