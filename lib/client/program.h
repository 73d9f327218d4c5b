/* One program of the caller's, run to its end with the caller's environment. The client waits for
 * it: there is no loop here. */
#ifndef BLIX_CLIENT_PROGRAM_H
#define BLIX_CLIENT_PROGRAM_H

#include "base/buf.h"
#include "base/error.h"

/* Runs argv[0], found in PATH, with stdin on /dev/null. What it prints is appended to *out and
 * *error: one that is past its cap has failed. *ret_status is that of waitpid(). -BLIX_E_NOTFOUND:
 * there is no such program; -BLIX_E_TIMEOUT after timeout_ms. */
int program_run(char *const argv[], uint64_t timeout_ms, struct buf *out, struct buf *error,
                int *ret_status, struct blix_error *err);

#endif
