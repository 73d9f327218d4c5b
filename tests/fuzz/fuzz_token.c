/* A line that somebody pastes as a join token, and a token's bytes with the checksum that they
 * need. What is taken is written again to the same line: a token has one form. */
#include "fuzz.h"

#include "base/alloc.h"
#include "base/crc32c.h"
#include "sys/seal.h"
#include "tls/token.h"

#include <endian.h>
#include <sodium.h>
#include <string.h>

static void read_line(const char *line)
{
	struct join_token token;
	struct buf again;

	if (join_token_read(line, &token, NULL) < 0)
		return;
	assert(token.n_addresses >= 1 && token.n_addresses <= LIMIT_TOKEN_ADDRESSES);
	assert(token.kind == TLS_SERVER || token.kind == TLS_WORKER);
	assert(strlen(token.ca_fingerprint) == TLS_HASH - 1);
	assert(join_token_write(&token, &again, NULL) == 0);
	assert(strcmp(again.data, line) == 0);
	seal_wipe(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	cleanup(freep) char *line = xstrndup((const char *)data, strnlen((const char *)data, n));
	cleanup(freep) uint8_t *bytes = xcalloc(1, n + sizeof(uint32_t));
	uint32_t checksum = htole32(crc32c(0, data, n));
	char encoded[2 * LIMIT_TOKEN];

	read_line(line);
	if (n > LIMIT_TOKEN)
		return 0;
	memcpy(bytes, data, n);
	memcpy(bytes + n, &checksum, sizeof(checksum));
	read_line(sodium_bin2base64(encoded, sizeof(encoded), bytes, n + sizeof(checksum),
	                            sodium_base64_VARIANT_URLSAFE_NO_PADDING));
	return 0;
}
