/* Keys whose elements are only added: see check.h.
 *
 * Happy path: what was seen of the object, by whatever answer, is sorted by version; each sight
 * must hold the one before it, and as many elements as the object was edited. Then each element is
 * looked for in every sight that began after it was acknowledged, and each that is there for who
 * added it.
 *
 * Nothing is searched: each failure names the two or three events that contradict each other.
 */
#include "check.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <string.h>

struct appends {
	struct check_result *r;
	const char *key;
	const struct record **added; /* appends that may have happened */
	size_t n_added;
	const struct record **seen; /* events that show the object, by version */
	size_t n_seen;
};

#define complain(a, first, second, ...)                                                            \
	check_violation((a)->r, "appends", (a)->key,                                               \
	                (const struct record *const[]){(first), (second)}, 2, __VA_ARGS__)

static bool holds(const struct record *e, uint64_t element)
{
	for (size_t i = 0; i < e->n_elements; i++) {
		if (e->elements[i] == element)
			return true;
	}
	return false;
}

static int by_version(const void *a, const void *b)
{
	const struct record *x = *(const struct record *const *)a;
	const struct record *y = *(const struct record *const *)b;

	if (x->version != y->version)
		return x->version > y->version ? 1 : -1;
	return (x->n_elements > y->n_elements) - (x->n_elements < y->n_elements);
}

/* Each sight is a prefix of the next, and each edit added one element. */
static void check_chain(const struct appends *a)
{
	for (size_t i = 0; i < a->n_seen; i++) {
		const struct record *now = a->seen[i];
		const struct record *before = i > 0 ? a->seen[i - 1] : NULL;

		if (now->version > 0 && now->n_elements + 1 < now->version)
			complain(a, now, NULL,
			         "%" PRIu64 " edits left %zu elements: one was done twice, or its "
			         "element is lost",
			         now->version - 1, now->n_elements);
		else if (now->version > 0 && now->n_elements + 1 > now->version)
			complain(a, now, NULL, "%zu elements by %" PRIu64 " edits", now->n_elements,
			         now->version - 1);
		for (size_t k = 0; before != NULL && k < before->n_elements; k++) {
			if (!holds(now, before->elements[k]))
				complain(a, before, now, "%" PRIu64 " was there, and later is not",
				         before->elements[k]);
		}
	}
}

/* What is there was added, by somebody who had begun, and who was not told that it was not done. */
static void check_origins(const struct appends *a)
{
	for (size_t i = 0; i < a->n_seen; i++) {
		for (size_t k = 0; k < a->seen[i]->n_elements; k++) {
			const struct record *from = NULL;

			for (size_t j = 0; j < a->n_added && from == NULL; j++) {
				if (a->added[j]->arg == a->seen[i]->elements[k])
					from = a->added[j];
			}
			if (from == NULL)
				complain(a, a->seen[i], NULL,
				         "%" PRIu64 " is there, and nobody added it",
				         a->seen[i]->elements[k]);
			else if (from->call > a->seen[i]->ret)
				complain(a, from, a->seen[i],
				         "%" PRIu64 " was read before it was added", from->arg);
		}
	}
}

/* What was acknowledged is there for each linearizable read that begins after it. */
static void check_kept(const struct appends *a)
{
	for (size_t j = 0; j < a->n_added; j++) {
		for (size_t i = 0; i < a->n_seen; i++) {
			const struct record *e = a->seen[i];

			if (e->op == HISTORY_READ && a->added[j]->ret < e->call &&
			    !holds(e, a->added[j]->arg))
				complain(a, a->added[j], e,
				         "%" PRIu64 " was acknowledged and is not there",
				         a->added[j]->arg);
		}
	}
}

/* Whoever sees an element sees all that were acknowledged before its call. */
static void check_order(const struct appends *a)
{
	for (size_t j = 0; j < a->n_added; j++) {
		for (size_t i = 0; i < a->n_seen; i++) {
			if (!holds(a->seen[i], a->added[j]->arg))
				continue;
			for (size_t k = 0; k < a->n_added; k++) {
				if (a->added[k]->ret < a->added[j]->call &&
				    !holds(a->seen[i], a->added[k]->arg))
					complain(a, a->added[k], a->seen[i],
					         "%" PRIu64 " comes after %" PRIu64
					         ", and is there without it",
					         a->added[j]->arg, a->added[k]->arg);
			}
		}
	}
}

/* A linearizable read never sees less than one that ended before it began. The events are in the
 * order of their calls; those that ended are taken in the order of their returns. */
static int by_return(const void *a, const void *b)
{
	const struct record *x = *(const struct record *const *)a;
	const struct record *y = *(const struct record *const *)b;

	return (x->ret > y->ret) - (x->ret < y->ret);
}

static void check_reads(const struct appends *a, const struct record *const *events, size_t n)
{
	const struct record **ended = xcalloc(a->n_seen + 1, sizeof(*ended));
	const struct record *newest = NULL;
	size_t at = 0;

	if (a->n_seen > 0)
		memcpy((void *)ended, (const void *)a->seen, a->n_seen * sizeof(*ended));
	qsort((void *)ended, a->n_seen, sizeof(*ended), by_return);
	for (size_t i = 0; i < n; i++) {
		const struct record *e = events[i];

		if (e->op != HISTORY_READ || e->uid == 0)
			continue;
		for (; at < a->n_seen && ended[at]->ret < e->call; at++) {
			if (newest == NULL || ended[at]->n_elements > newest->n_elements)
				newest = ended[at];
		}
		if (newest != NULL && e->n_elements < newest->n_elements)
			complain(a, newest, e, "a later read sees less");
	}
	free((void *)ended);
}

void check_appends(const struct record *const *events, size_t n, struct check_result *r)
{
	struct appends a = {.r = r, .key = n > 0 ? events[0]->key : ""};

	a.added = xcalloc(n + 1, sizeof(*a.added));
	a.seen = xcalloc(n + 1, sizeof(*a.seen));
	for (size_t i = 0; i < n; i++) {
		if (events[i]->op == HISTORY_APPEND && events[i]->kind != HISTORY_FAIL)
			a.added[a.n_added++] = events[i];
		if (events[i]->uid != 0 && events[i]->kind == HISTORY_OK)
			a.seen[a.n_seen++] = events[i];
	}
	if (a.n_added > 0) {
		qsort((void *)a.seen, a.n_seen, sizeof(*a.seen), by_version);
		check_chain(&a);
		check_origins(&a);
		check_kept(&a);
		check_order(&a);
		check_reads(&a, events, n);
	}
	free((void *)a.added);
	free((void *)a.seen);
}
