/* SHA-256 (FIPS 180-4), for what the other end checks by sha256sum(1). */
#ifndef BLIX_SYS_SHA256_H
#define BLIX_SYS_SHA256_H

#include <stddef.h>

#define SHA256_HEX 65 /* with the NUL */

void sha256_hex(const void *data, size_t n, char out[SHA256_HEX]);

#endif
