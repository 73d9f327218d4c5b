/* The door to every JSON text: requests, answers, configuration, status. What it lets in can be
 * printed, and the print is let in again and means the same. */
#include "fuzz.h"

#include "base/alloc.h"
#include "base/json.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	cleanup(json_freep) cJSON *tree = NULL, *again = NULL;
	cleanup(freep) char *text = NULL;
	struct blix_error err;
	char *words;

	words = xstrndup((const char *)data, strnlen((const char *)data, n));
	json_clean(words);
	free(words);
	if (json_parse((const char *)data, n, &json_limits_request, &tree, &err) < 0)
		return 0;
	text = json_text(tree);
	assert(json_parse(text, strlen(text), &json_limits_answer, &again, &err) == 0);
	assert(cJSON_Compare(tree, again, true));
	return 0;
}
