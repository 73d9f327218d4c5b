/* SHA-256 in hexadecimal, by libsodium, which needs no set-up for it: see sha256.h. */
#include "sys/sha256.h"

#include <sodium.h>

void sha256_hex(const void *data, size_t n, char out[SHA256_HEX])
{
	unsigned char digest[crypto_hash_sha256_BYTES];

	(void)crypto_hash_sha256(digest, data, n);
	(void)sodium_bin2hex(out, SHA256_HEX, digest, sizeof(digest));
}
