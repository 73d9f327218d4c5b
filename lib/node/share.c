/* Counts by principal: see share.h. As many as have something under way are few: a list will do. */
#include "node/share.h"

#include "base/alloc.h"

#include <assert.h>
#include <string.h>

struct share {
	char *who;
	unsigned n;
};

static struct share *share_find(const struct shares *shares, const char *who)
{
	for (size_t i = 0; i < shares->n; i++) {
		if (strcmp(shares->items[i].who, who) == 0)
			return &shares->items[i];
	}
	return NULL;
}

int share_take(struct shares *shares, const char *who, unsigned max, const char *what,
               struct blix_error *err)
{
	struct share *share = share_find(shares, who);

	if (share != NULL && share->n >= max) {
		(void)blix_fail(err, BLIX_E_TOOMANY, "%s has %u %s under way", who, share->n, what);
		blix_hint(err, "wait until some of them were answered");
		return -(int)BLIX_E_TOOMANY;
	}
	if (share == NULL && shares->n == shares->size) {
		shares->size = shares->size == 0 ? 4 : shares->size * 2;
		shares->items = xreallocarray(shares->items, shares->size, sizeof(*shares->items));
	}
	if (share == NULL) {
		share = &shares->items[shares->n++];
		*share = (struct share){.who = xstrdup(who)};
	}
	share->n++;
	return 0;
}

void share_give(struct shares *shares, const char *who)
{
	struct share *share = share_find(shares, who);

	assert(share != NULL && share->n > 0);
	if (--share->n > 0)
		return;
	free(share->who);
	*share = shares->items[--shares->n];
	if (shares->n > 0)
		return;
	free(shares->items);
	memset(shares, 0, sizeof(*shares));
}
