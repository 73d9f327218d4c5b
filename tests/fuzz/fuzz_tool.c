/* What other programs print: microvm-status, nix, and the errors of nix. The first byte chooses. */
#include "fuzz.h"

#include "base/alloc.h"
#include "base/json.h"
#include "microvm/nix_error.h"
#include "microvm/nix_json.h"
#include "microvm/status.h"

#include <string.h>

static void check_status(const char *text, size_t n)
{
	struct blix_error err;
	struct status status;

	if (status_parse(text, n, &status, &err) < 0)
		return;
	for (size_t i = 0; i < status.n; i++)
		assert(status_find(&status, status.vms[i].name) != NULL);
	status_done(&status);
}

static void check_nix(const char *text, size_t n)
{
	struct vm_resolved resolved;
	struct blix_error err;
	unsigned count = 0;
	char *url = NULL;

	if (nix_metadata_parse(text, n, &url, &count, &err) == 0)
		free(url);
	(void)nix_lock_count(text, n, &count, &err);
	if (nix_resolved_parse(text, n, &resolved, &err) < 0)
		return;
	assert(resolved.cpus >= 1 && resolved.cpus <= LIMIT_CPUS);
	assert(resolved.memory_bytes <= LIMIT_MEMORY);
	vm_resolved_done(&resolved);
}

static void check_words(const char *text)
{
	struct blix_error err = {.code = BLIX_OK};
	char *tail = nix_error_tail(text);

	assert(strlen(tail) <= LIMIT_MESSAGE);
	free(tail);
	(void)nix_version_parse(text);
	(void)nix_error_explain(text, &err);
	assert(err.code != BLIX_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text;

	if (n == 0)
		return 0;
	text = xstrndup((const char *)data + 1, strnlen((const char *)data + 1, n - 1));
	if (data[0] == 's')
		check_status(text, strlen(text));
	else if (data[0] == 'n')
		check_nix(text, strlen(text));
	else
		check_words(text);
	free(text);
	return 0;
}
