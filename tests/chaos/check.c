/* Sorts a history by key and call, and lets each checker look: see check.h. */
#include "check.h"

#include "base/alloc.h"
#include "sys/clock.h"

#include <stdarg.h>
#include <string.h>

#define VIOLATIONS_TOLD 20
#define TEXT_MAX        (1u << 20)

void check_result_init(struct check_result *r)
{
	*r = (struct check_result){0};
	buf_init(&r->text, TEXT_MAX);
}

void check_result_done(struct check_result *r)
{
	buf_done(&r->text);
}

void check_violation(struct check_result *r, const char *what, const char *key,
                     const struct record *const *events, size_t n, const char *fmt, ...)
{
	char words[256];
	va_list args;

	if (++r->n > VIOLATIONS_TOLD)
		return;
	va_start(args, fmt);
	(void)vsnprintf(words, sizeof(words), fmt, args);
	va_end(args);
	(void)buf_printf(&r->text, "%s: %s: %s\n", what, key, words);
	for (size_t i = 0; i < n; i++) {
		cleanup(freep) char *line = events[i] != NULL ? record_text(events[i]) : NULL;

		if (line != NULL)
			(void)buf_printf(&r->text, "\t%s\n", line);
	}
}

static int by_key_and_call(const void *a, const void *b)
{
	const struct record *x = *(const struct record *const *)a;
	const struct record *y = *(const struct record *const *)b;
	int order = strcmp(x->key, y->key);

	if (order != 0)
		return order;
	return (x->call > y->call) - (x->call < y->call);
}

static void check_key(const struct record *const *events, size_t n, unsigned deadline_ms,
                      struct check_result *r)
{
	uint64_t begin = clock_boot_us(), took;

	check_linear(events, n, deadline_ms, r);
	check_appends(events, n, r);
	took = clock_boot_us() - begin;
	if (took > r->slowest)
		r->slowest = took;
	r->n_keys++;
}

void check_history(const struct history *h, unsigned deadline_ms, struct check_result *r)
{
	const struct record **events = xcalloc(h->n + 1, sizeof(*events));
	size_t end;

	for (size_t i = 0; i < h->n; i++)
		events[i] = &h->events[i];
	qsort((void *)events, h->n, sizeof(*events), by_key_and_call);
	for (size_t begin = 0; begin < h->n; begin = end) {
		for (end = begin + 1; end < h->n; end++) {
			if (strcmp(events[end]->key, events[begin]->key) != 0)
				break;
		}
		check_key(events + begin, end - begin, deadline_ms, r);
	}
	check_revisions(h, r);
	free((void *)events);
}
