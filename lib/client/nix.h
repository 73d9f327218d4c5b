/* A flake on the caller's disk, made into a reference that every node of this host's store can
 * read: it is copied to the Nix store and named by its store path and narHash. */
#ifndef BLIX_CLIENT_NIX_H
#define BLIX_CLIENT_NIX_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* ".", "./x", "../x", "/x" and "path:..." (but not one that is in the store and carries narHash).
 */
bool nix_is_local(const char *flake);
/* Locks the flake at `flake` with the caller's `nix`. *ret_locked,
 * "path:/nix/store/HASH-source?narHash=...", is the caller's to free. -BLIX_E_IMAGE with reason
 * "flake-missing", "nix-missing" or "flake-metadata"; -BLIX_E_TIMEOUT after timeout_ms. */
int nix_lock(const char *flake, uint64_t timeout_ms, char **ret_locked, struct blix_error *err);

#endif
