/* Between watch.c and watch_item.c: one watch, and what of the state lies after its position. Knows
 * nothing of connections. */
#ifndef BLIX_NODE_WATCH_ITEM_H
#define BLIX_NODE_WATCH_ITEM_H

#include "base/buf.h"
#include "core/state.h"
#include "node/change.h"

enum watch_kind { WATCH_VM, WATCH_NODE, WATCH_EVENT, WATCH_KIND_COUNT };

struct watch {
	enum watch_kind kind;
	bool fresh;   /* nothing was sent yet: it begins with what there is */
	uint64_t at;  /* everything up to this revision was sent, or is in its items */
	size_t part;  /* events of the next revision that were sent: it has too many for one line */
	char *name;   /* NULL: all */
	char *labels; /* NULL: whatever they are */
};

/* One line to be sent. */
struct watch_item {
	uint64_t revision;
	/* References: they are sent as they were when the items were collected. NULL: not this. */
	struct vm *vm;
	struct node *node;
	char *name; /* of a VM that was deleted, or does not match; NULL: not this */
	bool deleted;
	uint64_t uid;    /* of that VM */
	size_t first, n; /* of an event's: which of its revision, and how many */
	bool more;       /* another line of this revision follows */
};

struct watch_items {
	struct watch_item *items; /* in the order of their revisions */
	size_t n, at, size;
};

/* Copies its texts. revision 0: it begins with what there is. */
int watch_init(struct watch *watch, const char *kind, const char *name, const char *labels,
               uint64_t revision, struct blix_error *err);
void watch_done(struct watch *watch);
void watch_items_done(struct watch_items *items);

/* False: all that there is was sent. */
bool watch_is_behind(const struct watch *watch, const struct state *state);
/* False: what lies after its position is not known any more. */
bool watch_reaches(const struct watch *watch, const struct state *state);
/* Replaces *items, all of which were sent, by what lies after the position, and moves that. Of
 * events there is one item at a time, to be sent before the state changes. */
void watch_collect(struct watch *watch, const struct state *state, const struct changes *changes,
                   struct watch_items *items);
/* Appends the line of the next item, there must be one: it is sent then. `index` is the watch's. */
void watch_put(const struct watch *watch, size_t index, const struct state *state,
               struct watch_items *items, struct buf *out);
/* True when watch_collect() may give something; else the position is moved. `nodes` is the newest
 * revision of any node. */
bool watch_has_news(struct watch *watch, const struct state *state, const struct changes *changes,
                    uint64_t nodes);

#endif
