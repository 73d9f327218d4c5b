/* The search of check.h: Wing and Gong's, with Lowe's memory of what was tried.
 *
 * Happy path: calls and returns stand in one list by time. The first call whose effect fits the
 * object is done: it and its return leave the list, and the search begins again at its front. A
 * return that is met means that its call should have been done before: the last one done is put
 * back, and the next call tried. It ends well when every operation with a known outcome is done.
 * One that is `info` has no return: it may be done anywhere after its call, or never.
 *
 * What was tried is remembered as (set of the done, object), both folded into 128 bits: a set is
 * the sum of a random number for each of its members, so that it costs one addition to change it.
 *
 * Failure: no order fits, and the return that could not be passed at the deepest point is told; or
 * the deadline or the memory ran out, which is told as undecided.
 */
#include "check.h"

#include "base/alloc.h"
#include "sys/clock.h"

#include <string.h>
#include <xxhash.h>

#define MEMORY_MAX  (4u << 20) /* remembered pairs: 64 MiB */
#define CLOCK_EVERY 4096       /* steps between two looks at the clock */

struct object {
	bool exists;
	uint64_t version;
	uint64_t value;
};

struct digest {
	uint64_t low, high;
};

struct node {
	const struct record *event;
	struct digest digest;
	struct node *match; /* of a call: its return, NULL for info; of a return: itself */
	struct node *prev, *next;
	bool is_call;
};

struct done {
	struct node *call;
	struct object before;
};

struct search {
	struct node *nodes;
	struct node head;
	size_t required; /* operations with a known outcome that are not done */
	struct done *stack;
	size_t n_stack;
	struct object object;
	struct digest set;
	struct digest *seen; /* open addressing; {0, 0}: free */
	size_t n_seen, size_seen;
	size_t deepest;
	const struct record *blocked; /* at the deepest point */
	uint64_t until_us;
	unsigned steps;
	bool undecided;
};

static bool seen_insert(struct search *s, struct digest d)
{
	size_t at = d.low & (s->size_seen - 1);

	while (s->seen[at].low != 0 || s->seen[at].high != 0) {
		if (s->seen[at].low == d.low && s->seen[at].high == d.high)
			return false;
		at = (at + 1) & (s->size_seen - 1);
	}
	s->seen[at] = d;
	s->n_seen++;
	return true;
}

static void seen_grow(struct search *s)
{
	struct digest *old = s->seen;
	size_t size = s->size_seen;

	s->size_seen = size == 0 ? 4096 : size * 2;
	s->seen = xcalloc(s->size_seen, sizeof(*s->seen));
	s->n_seen = 0;
	for (size_t i = 0; i < size; i++) {
		if (old[i].low != 0 || old[i].high != 0)
			(void)seen_insert(s, old[i]);
	}
	free(old);
}

/* True when this set with this object was not tried before. */
static bool is_new(struct search *s, struct digest set, const struct object *object)
{
	uint64_t bytes[5] = {set.low, set.high, object->exists, object->version, object->value};
	XXH128_hash_t hash = XXH3_128bits(bytes, sizeof(bytes));
	struct digest d = {hash.low64 | 1, hash.high64};

	if ((s->n_seen + 1) * 2 > s->size_seen)
		seen_grow(s);
	return seen_insert(s, d);
}

static bool sees(const struct record *e, const struct object *o)
{
	return e->uid == 0 ||
	       ((e->version == 0 || e->version == o->version) && e->value == o->value);
}

static bool edit(const struct record *e, const struct object *o, struct object *ret)
{
	if (record_missing(e))
		return !o->exists;
	if (!o->exists)
		return false;
	if (record_conflict(e))
		return o->version != e->expect;
	if (e->op == HISTORY_CAS && o->version != e->expect)
		return false;
	ret->version++;
	if (e->op != HISTORY_APPEND)
		ret->value = e->arg;
	return true;
}

/* Whether the operation, done now, explains its answer; *ret is the object after it. */
static bool apply(const struct record *e, const struct object *o, struct object *ret)
{
	*ret = *o;
	switch (e->op) {
	case HISTORY_CREATE:
		if (record_exists(e))
			return o->exists;
		*ret = (struct object){.exists = true, .version = 1, .value = e->arg};
		return !o->exists;
	case HISTORY_DELETE:
		if (record_missing(e))
			return !o->exists;
		*ret = (struct object){0};
		return o->exists;
	case HISTORY_WRITE:
	case HISTORY_CAS:
	case HISTORY_APPEND:
		return edit(e, o, ret);
	case HISTORY_READ:
		return record_missing(e) ? !o->exists : o->exists && sees(e, o);
	case HISTORY_LOCAL:
	case HISTORY_LIST:
	case HISTORY_AGAIN:
	case HISTORY_OP_COUNT:
		break;
	}
	return true;
}

static void unlink_node(struct node *node)
{
	node->prev->next = node->next;
	if (node->next != NULL)
		node->next->prev = node->prev;
}

static void relink_node(struct node *node)
{
	node->prev->next = node;
	if (node->next != NULL)
		node->next->prev = node;
}

static void do_call(struct search *s, struct node *call, const struct object *after,
                    struct digest set)
{
	s->stack[s->n_stack++] = (struct done){call, s->object};
	s->object = *after;
	s->set = set;
	unlink_node(call);
	if (call->match != NULL) {
		unlink_node(call->match);
		s->required--;
	}
}

/* Returns where to go on. */
static struct node *undo_call(struct search *s)
{
	struct done *last = &s->stack[--s->n_stack];
	struct node *call = last->call;

	if (call->match != NULL) {
		relink_node(call->match);
		s->required++;
	}
	relink_node(call);
	s->object = last->before;
	s->set.low -= call->digest.low;
	s->set.high -= call->digest.high;
	return call->next;
}

static bool out_of_bounds(struct search *s)
{
	if (s->n_seen >= MEMORY_MAX)
		s->undecided = true;
	else if (++s->steps % CLOCK_EVERY == 0 && clock_boot_us() > s->until_us)
		s->undecided = true;
	return s->undecided;
}

static bool find_order(struct search *s)
{
	struct node *node = s->head.next;

	while (s->required > 0 && !out_of_bounds(s)) {
		struct object after;
		struct digest set;

		if (!node->is_call) {
			if (s->blocked == NULL || s->n_stack > s->deepest) {
				s->deepest = s->n_stack;
				s->blocked = node->event;
			}
			if (s->n_stack == 0)
				return false;
			node = undo_call(s);
			continue;
		}
		set = (struct digest){s->set.low + node->digest.low,
		                      s->set.high + node->digest.high};
		if (apply(node->event, &s->object, &after) && is_new(s, set, &after)) {
			do_call(s, node, &after, set);
			node = s->head.next;
		} else {
			node = node->next;
		}
	}
	return s->required == 0;
}

static uint64_t time_of(const struct node *node)
{
	return node->is_call ? node->event->call : node->event->ret;
}

static int by_time(const void *a, const void *b)
{
	const struct node *x = *(const struct node *const *)a;
	const struct node *y = *(const struct node *const *)b;

	if (time_of(x) != time_of(y))
		return time_of(x) > time_of(y) ? 1 : -1;
	return (int)y->is_call - (int)x->is_call; /* at one moment: they may have met */
}

/* Whether the search has to do with it. */
static bool concerns(const struct record *e)
{
	return !record_is_void(e) &&
	       (record_mutates(e) || (e->op == HISTORY_READ && e->kind != HISTORY_INFO));
}

static void link_nodes(struct search *s, size_t n)
{
	struct node **sorted = xcalloc(n + 1, sizeof(*sorted));
	struct node *last = &s->head;

	for (size_t i = 0; i < n; i++)
		sorted[i] = &s->nodes[i];
	qsort((void *)sorted, n, sizeof(struct node *), by_time);
	for (size_t i = 0; i < n; i++) {
		sorted[i]->prev = last;
		last->next = sorted[i];
		last = sorted[i];
	}
	free((void *)sorted);
}

static void search_init(struct search *s, const struct record *const *events, size_t n)
{
	size_t at = 0;

	*s = (struct search){0};
	s->nodes = xcalloc(2 * n + 1, sizeof(*s->nodes));
	s->stack = xcalloc(n + 1, sizeof(*s->stack));
	for (size_t i = 0; i < n; i++) {
		struct node *call = &s->nodes[at];
		XXH128_hash_t hash = XXH3_128bits_withSeed(&i, sizeof(i), 1);

		if (!concerns(events[i]))
			continue;
		call->event = events[i];
		call->is_call = true;
		call->digest = (struct digest){hash.low64, hash.high64};
		at++;
		if (events[i]->kind == HISTORY_INFO)
			continue;
		s->nodes[at].event = events[i];
		call->match = s->nodes[at].match = &s->nodes[at];
		s->required++;
		at++;
	}
	link_nodes(s, at);
}

void check_linear(const struct record *const *events, size_t n, unsigned deadline_ms,
                  struct check_result *r)
{
	struct search s;

	if (n == 0)
		return;
	search_init(&s, events, n);
	s.until_us = clock_boot_us() + (uint64_t)deadline_ms * 1000;
	if (!find_order(&s) && s.undecided)
		check_violation(r, "linear", events[0]->key, &s.blocked, 1,
		                "undecided after %u ms and %zu of the ways tried", deadline_ms,
		                s.n_seen);
	else if (s.required > 0)
		check_violation(r, "linear", events[0]->key, &s.blocked, 1,
		                "no order explains the answers; this one fits nowhere after %zu "
		                "others:",
		                s.deepest);
	free(s.nodes);
	free(s.stack);
	free(s.seen);
}
