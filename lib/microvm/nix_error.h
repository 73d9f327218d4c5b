/* From the text that Nix and `microvm` print when they fail to an error that a person can act on.
 */
#ifndef BLIX_MICROVM_NIX_ERROR_H
#define BLIX_MICROVM_NIX_ERROR_H

#include "base/error.h"

#include <stdbool.h>

/* Fills *err (code, reason, the useful lines, a hint) from the whole stderr. Returns true when the
 * same call may succeed later. */
bool nix_error_explain(const char *text, struct blix_error *err);
/* The last useful lines of `text`, at most LIMIT_MESSAGE bytes: no colours, no empty lines, whole
 * lines, fit for JSON. The caller's to free. */
char *nix_error_tail(const char *text);

#endif
