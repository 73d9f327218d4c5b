/* From the end of a runner to a reason that a person can act on: what it printed last, in the
 * hypervisor's own words, and how it ended. */
#ifndef BLIX_MICROVM_RUNNER_ERROR_H
#define BLIX_MICROVM_RUNNER_ERROR_H

#include "base/error.h"

#include <stdint.h>

/* Fills *err: code, reason, hint, and as text the last useful lines of `console`, which may be "".
 * exit_code as of the shim: 128+n for signal n.  */
void runner_error_explain(const char *console, int32_t exit_code, struct blix_error *err);

#endif
