/* What exec, cp and run do inside a guest, by its agent. */
#ifndef BLIX_CMD_GUEST_H
#define BLIX_CMD_GUEST_H

#include "pump.h"

#define EXIT_NOT_BEGUN 125 /* blix failed before the guest's command ran */

/* vm_exec.c: runs the command line's command in the VM; pump->stream is opened and closed here.
 * The exit code of the program. */
int guest_exec(struct cli *cli, const char *name, struct pump *pump);

/* vm_cp.c: one copy. */
struct copy {
	const char *vm;
	const char *local, *remote;
	bool in; /* to the guest */
};
/* "A:B"; NULL without a colon. */
int guest_copy(struct cli *cli, const struct copy *copy, struct blix_error *err);

#endif
