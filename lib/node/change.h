/* What changed lately: which VM each of the last commands of the log was about. It is not
 * replicated and not kept: it only saves watches from looking through all VMs after each change. */
#ifndef BLIX_NODE_CHANGE_H
#define BLIX_NODE_CHANGE_H

#include "base/limits.h"

#include <stddef.h>
#include <stdint.h>

struct change {
	uint64_t revision;
	uint64_t uid; /* of a VM; that of nothing when the command was about something else */
};

struct changes {
	struct change ring[LIMIT_CHANGES];
	size_t first, n;
	uint64_t since; /* every change after this revision is in the ring */
};

void changes_note(struct changes *changes, uint64_t revision, uint64_t uid);
/* The state was replaced by another, of this revision. */
void changes_forget(struct changes *changes, uint64_t revision);
/* The i-th, newest first. */
const struct change *changes_at(const struct changes *changes, size_t i);

#endif
