/* Words of command lines and query strings: numbers, sizes, durations, names, flakes,
 * sources, selectors. */
#include "fuzz.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/vm.h"
#include "sys/source.h"

#include <string.h>

static void check_flake(const char *text)
{
	if (vm_flake_check(text, NULL) < 0)
		return;
	assert(strlen(text) <= LIMIT_FLAKE);
	assert(text[0] != '-' && strpbrk(text, " #'\"$`\\;|<>(){}[]\n") == NULL);
	assert(strstr(text, "/../") == NULL);
}

/* What is taken for a source is named again in the same words, whatever it was spelled like. */
static void check_source(const char *text)
{
	struct source_name name, again;
	char hex[SOURCE_HEX];
	char *url;

	if (source_parse(text, &name, NULL) == 0) {
		source_hex(&name, hex);
		assert(strcmp(hex, text) == 0);
	}
	if (!source_of_url(text, &name))
		return;
	url = source_url(&name);
	assert(source_of_url(url, &again) && source_same(&name, &again));
	free(url);
}

static void check_labels(const char *text)
{
	const char *value = strchr(text, '=');
	struct labels labels = {0};
	char *key;
	bool match = false;

	(void)labels_match(&labels, text, &match, NULL);
	if (value == NULL)
		return;
	key = xstrndup(text, (size_t)(value - text));
	if (labels_set(&labels, key, value + 1, NULL) == 0) {
		assert(strcmp(labels_get(&labels, key), value + 1) == 0);
		assert(labels_match(&labels, text, &match, NULL) == 0 && match);
	}
	free(key);
	labels_done(&labels);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = xstrndup((const char *)data, strnlen((const char *)data, n));
	struct blix_error err;
	uint64_t value = 0, again = 1;
	char out[64];

	(void)parse_u64(text, &value, &err);
	if (parse_duration(text, &value, &err) == 0)
		format_duration(out, sizeof(out), value);
	/* Whole units are printed as they are read. */
	if (parse_size(text, &value, &err) == 0 && value != 0 && value % 1024 != 0 &&
	    value < 1024) {
		format_size(out, sizeof(out), value);
		assert(parse_size(out, &again, &err) == 0 && again == value);
	}
	if (parse_name("name", text, &err) == 0)
		assert(strlen(text) <= LIMIT_NAME && strchr(text, '/') == NULL);
	(void)parse_distance(text, "memoryBytes");
	check_source(text);
	check_flake(text);
	check_labels(text);
	free(text);
	return 0;
}
