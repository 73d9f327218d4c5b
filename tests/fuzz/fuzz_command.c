/* Commands as the log and other servers bring them. Words of outsiders are cleaned when they are
 * read; what is left has one encoding. */
#include "fuzz.h"

#include "core/command.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct command command, again;
	struct blix_error err;
	struct buf one, two;

	if (command_decode(data, n, &command, &err) < 0)
		return 0;
	buf_init(&one, LIMIT_COMMAND);
	buf_init(&two, LIMIT_COMMAND);
	if (command_encode(&command, &one, &err) == 0) {
		assert(command_decode((const uint8_t *)one.data, one.len, &again, &err) == 0);
		assert(command_encode(&again, &two, &err) == 0);
		assert(one.len == two.len);
		assert(memcmp(one.data, two.data, one.len) == 0);
		command_done(&again);
	}
	command_done(&command);
	buf_done(&one);
	buf_done(&two);
	return 0;
}
