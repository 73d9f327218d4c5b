/* Decides whether a history could be that of one correct copy of the objects.
 *
 * Three checkers look at it, each from its own side:
 *
 *   linear     per key, by search: is there an order of the operations that fits their times and
 *              explains every answer (Wing and Gong, with Lowe's memory of what was tried)? Trusts
 *              nothing but what the answers show.
 *   appends    per key whose elements are only added, in time that grows with the reads: every
 *              acknowledged element is there once, every read is a prefix of the next, and
 *              elements come in the order of their calls.
 *   revisions  over all that was seen, by sorting: one revision of an object is one content, on
 *              every server; versions and revisions go forward together; one life of a server never
 *              goes back; nothing is read that nobody wrote, or before it was written; a request
 *              that is sent again gets its first answer.
 *
 * A history that cannot be decided within `deadline_ms` per key is a violation too.
 */
#ifndef BLIX_TESTS_CHECK_H
#define BLIX_TESTS_CHECK_H

#include "history.h"

#include "base/buf.h"

#define CHECK_DEADLINE_MS 5000

struct check_result {
	size_t n;         /* violations */
	size_t n_keys;    /* looked at by linear */
	uint64_t slowest; /* us, of one key */
	struct buf text;  /* one line for each of the first of them */
};

void check_result_init(struct check_result *r);
void check_result_done(struct check_result *r);
/* "what: key: ", the words, and the events of the list that are not NULL, a line each. */
void check_violation(struct check_result *r, const char *what, const char *key,
                     const struct record *const *events, size_t n, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

/* All of them. The order of the events does not matter. */
void check_history(const struct history *h, unsigned deadline_ms, struct check_result *r);

/* One key's events, in the order of their calls. */
void check_linear(const struct record *const *events, size_t n, unsigned deadline_ms,
                  struct check_result *r);
void check_appends(const struct record *const *events, size_t n, struct check_result *r);
/* The whole history. */
void check_revisions(const struct history *h, struct check_result *r);

#endif
