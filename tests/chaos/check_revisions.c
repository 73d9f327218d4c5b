/* What the revisions and versions in answers allow without a search: see check.h.
 *
 * Happy path: all that shows an object is sorted by (key, revision), then by (server, life, key,
 * call), and neighbours are compared; values are looked up among those that were written.
 *
 * It fails by naming the two answers that cannot both be true.
 */
#include "check.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <string.h>

#define complain(r, first, second, ...)                                                            \
	check_violation((r), "revisions", (second)->key,                                           \
	                (const struct record *const[]){(first), (second)}, 2, __VA_ARGS__)

static int compare(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static int by_revision(const void *a, const void *b)
{
	const struct record *x = *(const struct record *const *)a;
	const struct record *y = *(const struct record *const *)b;
	int order = strcmp(x->key, y->key);

	return order != 0 ? order : compare(x->revision, y->revision);
}

static int by_server(const void *a, const void *b)
{
	const struct record *x = *(const struct record *const *)a;
	const struct record *y = *(const struct record *const *)b;
	int order = compare(x->server, y->server);

	if (order == 0)
		order = compare(x->life, y->life);
	if (order == 0)
		order = strcmp(x->key, y->key);
	return order != 0 ? order : compare(x->call, y->call);
}

static bool same_content(const struct record *x, const struct record *y)
{
	return x->version == y->version && x->value == y->value && x->n_elements == y->n_elements &&
	       memcmp(x->elements, y->elements, x->n_elements * sizeof(x->elements[0])) == 0;
}

static void check_contents(const struct record **seen, size_t n, struct check_result *r)
{
	qsort((void *)seen, n, sizeof(*seen), by_revision);
	for (size_t i = 1; i < n; i++) {
		const struct record *x = seen[i - 1], *y = seen[i];

		if (strcmp(x->key, y->key) != 0 || x->revision == 0)
			continue;
		if (x->revision == y->revision && (x->uid != y->uid || !same_content(x, y)))
			complain(r, x, y, "one revision, two contents");
		else if (x->uid == y->uid && x->version > y->version)
			complain(r, x, y, "the version went back");
		else if (x->uid == y->uid && x->version == y->version && !same_content(x, y))
			complain(r, x, y, "one version, two contents");
		else if (x->uid > y->uid)
			complain(r, x, y, "a deleted object is back");
	}
}

/* Until it dies, a server only goes forward. An answer may be about any moment between its call and
 * its return: only those that did not overlap are compared. */
static void check_lives(const struct record **seen, size_t n, struct check_result *r)
{
	const struct record *newest = NULL;

	qsort((void *)seen, n, sizeof(*seen), by_server);
	for (size_t i = 1; i < n; i++) {
		const struct record *x = seen[i - 1], *y = seen[i];

		if (x->server != y->server || x->life != y->life || strcmp(x->key, y->key) != 0)
			newest = NULL;
		else if (newest == NULL || x->revision > newest->revision)
			newest = x;
		if (newest != NULL && newest->server != 0 && newest->ret < y->call &&
		    newest->revision > y->revision)
			complain(r, newest, y, "server %u went back", y->server);
	}
}

static int by_arg(const void *a, const void *b)
{
	const struct record *x = *(const struct record *const *)a;
	const struct record *y = *(const struct record *const *)b;

	return compare(x->arg, y->arg);
}

/* Who wrote the value that `e` saw; NULL: nobody. */
static const struct record *writer_of(const struct record *const *written, size_t n, uint64_t value)
{
	size_t low = 0;

	while (low < n) {
		size_t middle = low + (n - low) / 2;

		if (written[middle]->arg == value)
			return written[middle];
		if (written[middle]->arg < value)
			low = middle + 1;
		else
			n = middle;
	}
	return NULL;
}

static void check_values(const struct history *h, const struct record *const *seen, size_t n,
                         struct check_result *r)
{
	const struct record **written = xcalloc(h->n + 1, sizeof(*written));
	size_t n_written = 0;

	for (size_t i = 0; i < h->n; i++) {
		const struct record *e = &h->events[i];

		if (e->op == HISTORY_CREATE || e->op == HISTORY_WRITE || e->op == HISTORY_CAS)
			written[n_written++] = e;
	}
	qsort((void *)written, n_written, sizeof(*written), by_arg);
	for (size_t i = 0; i < n; i++) {
		const struct record *from = writer_of(written, n_written, seen[i]->value);

		if (seen[i]->value == 0)
			continue;
		if (from == NULL || strcmp(from->key, seen[i]->key) != 0)
			complain(r, from, seen[i], "a value that nobody wrote there");
		else if (from->kind == HISTORY_FAIL)
			complain(r, from, seen[i],
			         "a value of a write that was said not to happen");
		else if (from->call > seen[i]->ret)
			complain(r, from, seen[i], "a value was read before it was written");
	}
	free((void *)written);
}

static void check_repeats(const struct history *h, struct check_result *r)
{
	for (size_t i = 0; i < h->n; i++) {
		const struct record *e = &h->events[i];
		const char *now = e->kind == HISTORY_OK ? "ok" : e->reason;

		if (strcmp(e->reason, "session-gap") == 0 ||
		    strcmp(e->reason, "outcome-forgotten") == 0)
			complain(r, NULL, e, "its session does not remember what it answered");
		else if (e->op == HISTORY_AGAIN && e->kind != HISTORY_INFO && !record_is_void(e) &&
		         strcmp(e->first, now) != 0)
			complain(r, NULL, e, "sent again it got another answer: %s, not %s", now,
			         e->first);
	}
}

void check_revisions(const struct history *h, struct check_result *r)
{
	const struct record **seen = xcalloc(h->n + 1, sizeof(*seen));
	size_t n = 0;

	for (size_t i = 0; i < h->n; i++) {
		if (h->events[i].uid != 0 && h->events[i].kind == HISTORY_OK)
			seen[n++] = &h->events[i];
	}
	check_contents(seen, n, r);
	check_values(h, seen, n, r);
	check_lives(seen, n, r);
	check_repeats(h, r);
	free((void *)seen);
}
