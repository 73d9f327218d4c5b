/* The links that a runner says it makes for a run. */
#ifndef BLIX_MICROVM_RUNNER_LINKS_H
#define BLIX_MICROVM_RUNNER_LINKS_H

#include "base/buf.h"

#include <stdbool.h>

#define RUNNER_TAPS     "tap-interfaces"
#define RUNNER_MACVTAPS "macvtap-interfaces"

/* Adds the names in RUNNER/share/microvm/LIST to `names`, one a line; false: there is no such list,
 * or it cannot be read. What cannot be a link's name is left out. */
bool runner_links(const char *runner, const char *list, struct buf *names);

#endif
