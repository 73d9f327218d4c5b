/* The configuration file of blixd. */
#include "fuzz.h"

#include "node/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct config config;
	struct blix_error err;

	config_init(&config);
	if (config_parse(&config, (const char *)data, n, &err) < 0)
		assert(err.code == BLIX_E_SPEC && err.text[0] != '\0');
	else
		assert(config.heartbeat_ms >= 10 && config.builds_max >= 1);
	config_done(&config);
	return 0;
}
