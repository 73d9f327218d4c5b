/* Children that outlived the process which started them: what a killed blixd leaves.
 *
 * A child that must not do so is started with a mark in its environment, which all that it starts
 * inherits, whatever sessions and groups they make. The mark is the identity of a directory that
 * the starter has a lock on, so that another blixd's children never bear it, seen through whatever
 * mounts. Nothing is recorded, so there is no moment at which a child is not known yet.
 *
 * Nix clears the environment of a builder but tells it of its folder in our TMPDIR. So the mark
 * counts wherever it stands in an environment, and a child's TMPDIR bears it in its name.
 */
#ifndef BLIX_EXEC_STRAY_H
#define BLIX_EXEC_STRAY_H

#include "base/error.h"
#include "exec/argv.h"

/* The mark of a directory as a part of a path, which '.', '/' or nothing must follow. The caller's
 * to free. */
int stray_name(const char *dir, char **ret, struct blix_error *err);
/* Adds the mark of `dir` to the environment of a child. */
void stray_mark(const char *dir, struct argv *env);
/* SIGKILL to every process that bears it, until there is none. *ret_n: how many there were, also on
 * failure: -BLIX_E_BUSY when some are still there after STRAY_WAIT_MS; such a process sits in the
 * kernel and will do nothing more of its own. */
int strays_end(const char *dir, unsigned *ret_n, struct blix_error *err);

#define STRAY_WAIT_MS 5000

#endif
