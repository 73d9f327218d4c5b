/* A flake on the caller's disk, packed so that it can travel: as one archive (sys/nar.h), named by
 * its contents. Nix is not needed here. */
#ifndef BLIX_CLIENT_FLAKE_H
#define BLIX_CLIENT_FLAKE_H

#include "sys/nar.h"

#include <stdbool.h>
#include <stdint.h>

struct flake_pack {
	int fd; /* of a file without a name, which holds the archive; -1: none */
	struct nar nar;
};

/* ".", "./x", "../x", "/x" and "path:..." (but not one that is in the store and carries narHash).
 */
bool flake_is_local(const char *flake);
/* Packs the directory that `flake` names. In a git checkout that is what git tracks, as it is on
 * the disk now; with "path:" before it, or outside of git, everything. -BLIX_E_IMAGE with reason
 * "flake-missing", "flake-untracked", "git-missing" or "git-failed"; -BLIX_E_TOOBIG;
 * -BLIX_E_TIMEOUT when git takes longer than timeout_ms. */
int flake_pack(const char *flake, uint64_t timeout_ms, struct flake_pack *ret,
               struct blix_error *err);
void flake_pack_done(struct flake_pack *pack);

#endif
