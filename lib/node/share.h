/* How much of what all share each principal holds, so that one cannot have it all. */
#ifndef BLIX_NODE_SHARE_H
#define BLIX_NODE_SHARE_H

#include "base/error.h"

#include <stddef.h>

struct share;

/* Who holds nothing takes no room. Zero it to begin; empty when all was given back. */
struct shares {
	struct share *items;
	size_t n, size;
};

/* One more for `who`, who may hold `max`; else -BLIX_E_TOOMANY, and nothing is taken. `what` is for
 * the message: "mutations". */
int share_take(struct shares *shares, const char *who, unsigned max, const char *what,
               struct blix_error *err);
/* Gives one back that was taken. */
void share_give(struct shares *shares, const char *who);

#endif
