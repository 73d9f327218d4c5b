/* The wrapper flake of one VM: a constant flake.nix whose only variable text is the base's locked
 * URL, the lock that the cluster agreed on, and spec.json, which is data and never code. NixOS also
 * gets blix-loader, the script of its service blix-agent (docs/guest-contract.md); it is the same
 * for all VMs and names no version, so that they share one system. */
#ifndef BLIX_MICROVM_WRAPPER_H
#define BLIX_MICROVM_WRAPPER_H

#include "base/error.h"
#include "core/vm.h"

#include <stdbool.h>

/* The base may stand between the quotes of a Nix string: only characters that mean nothing there.
 */
int wrapper_url_check(const char *url, struct blix_error *err);
/* It names its contents already: by narHash, or by a revision. */
bool wrapper_url_is_locked(const char *url);
/* Writes flake.nix, spec.json and, unless lock is "", flake.lock into `dir`, which is made. Without
 * a lock, one that is there is removed. */
int wrapper_write(const char *dir, const char *name, const struct vm_spec *spec,
                  const char *base_url, const char *lock, struct blix_error *err);

#endif
