/* What Nix prints, as values: its version, a flake's metadata, a lock, the whitelisted evaluation.
 * All of it was written by outsiders: ranges are checked here. */
#ifndef BLIX_MICROVM_NIX_JSON_H
#define BLIX_MICROVM_NIX_JSON_H

#include "base/error.h"
#include "core/vm.h"

/* "nix (Nix) 2.18.1" -> 2018 (major * 1000 + minor); 0 when it cannot be read. */
unsigned nix_version_parse(const char *text);
#define NIX_VERSION_INPUTS 2018 /* current nixpkgs needs it, so any base with inputs does */

/* `nix flake metadata --json`: the URL that names the contents (the caller's to free), and how many
 * inputs the flake locks. */
int nix_metadata_parse(const char *text, size_t n, char **ret_url, unsigned *ret_inputs,
                       struct blix_error *err);
/* The number of nodes in a flake.lock; root counts. */
int nix_lock_count(const char *text, size_t n, unsigned *ret_nodes, struct blix_error *err);
/* The evaluation's answer. *ret is initialised by it, on success only; lock and base_url stay
 * unset ("" and 0). */
int nix_resolved_parse(const char *text, size_t n, struct vm_resolved *ret, struct blix_error *err);
/* The refusal of a base with inputs under an old Nix. */
int nix_too_old(unsigned version, struct blix_error *err);

#endif
