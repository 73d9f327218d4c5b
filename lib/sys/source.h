/* How a tree of files is named: the SHA-256 of its NAR (Nix's archive of it), the store path that
 * Nix gives to such a tree under the name "source", and the flake reference that says both. Nothing
 * here needs Nix, and each of the three follows from the hash alone. */
#ifndef BLIX_SYS_SOURCE_H
#define BLIX_SYS_SOURCE_H

#include "base/error.h"

#include <stdbool.h>

#define SOURCE_HASH  32
#define SOURCE_HEX   65 /* with the NUL */
#define SOURCE_STORE 51 /* "/nix/store/", 32 characters, "-source", with the NUL */

struct source_name {
	unsigned char hash[SOURCE_HASH];
};

bool source_same(const struct source_name *a, const struct source_name *b);
/* The SHA-256 of a file, from its beginning to its end. */
int source_sum(int fd, struct source_name *ret, struct blix_error *err);
/* 64 hexadecimal digits, in lower case. */
void source_hex(const struct source_name *name, char out[SOURCE_HEX]);
int source_parse(const char *hex, struct source_name *ret, struct blix_error *err);
void source_store_path(const struct source_name *name, char out[SOURCE_STORE]);
/* "path:/nix/store/...-source?narHash=sha256-...", the caller's to free. */
char *source_url(const struct source_name *name);
/* True when the reference names a tree so: a path below /nix/store that is the one of its narHash.
 */
bool source_of_url(const char *url, struct source_name *ret);

#endif
