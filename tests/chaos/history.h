/* What clients did and saw: one struct record for each operation, one line of JSON in a file.
 *
 *   {"client":3,"op":"cas","key":"r1","arg":17,"expect":4,"call":1200345,"return":1203111,
 *    "kind":"ok","server":2,"life":1,"uid":3,"version":5,"value":17,"revision":214}
 *
 * `kind` is what the client may conclude: ok, it happened; fail, it did not, and `reason` says why;
 * info, nobody knows: it may happen at any time after its call, or never. uid, version, value,
 * elements and revision are what the answer showed of the object, whatever was asked; the answer to
 * a mutation shows the object at that time or later, as one server had it.
 *
 * The file is written as the run goes on, so that a run that dies leaves what it saw.
 */
#ifndef BLIX_TESTS_HISTORY_H
#define BLIX_TESTS_HISTORY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HISTORY_KEY      64
#define HISTORY_ELEMENTS 32 /* labels of one VM */
#define HISTORY_NEVER    UINT64_MAX

/* clang-format off */
#define HISTORY_OPS(X)                                                                         \
	X(CREATE, "create")   /* arg: the first value */                                       \
	X(DELETE, "delete")                                                                    \
	X(WRITE,  "write")    /* arg: the value */                                             \
	X(CAS,    "cas")      /* the same if the version is `expect` */                        \
	X(APPEND, "append")   /* arg: the element */                                           \
	X(READ,   "read")     /* linearizable */                                               \
	X(LOCAL,  "local")    /* what one server has */                                        \
	X(LIST,   "list")     /* the same, out of a list */                                    \
	X(AGAIN,  "again")    /* an answered request sent once more; first: what it got then */
/* clang-format on */

enum history_op {
#define X(name, text) HISTORY_##name,
	HISTORY_OPS(X)
#undef X
		HISTORY_OP_COUNT
};

enum history_kind { HISTORY_OK, HISTORY_FAIL, HISTORY_INFO, HISTORY_KIND_COUNT };

struct record {
	unsigned client;
	enum history_op op;
	char key[HISTORY_KEY];
	uint64_t arg;
	uint64_t expect;
	uint64_t call, ret; /* us since the run began; ret is HISTORY_NEVER for info */
	enum history_kind kind;
	char reason[40]; /* of fail: "vm-missing", or why it was not done at all */
	char first[40];  /* of again: "ok" or a reason */
	unsigned server; /* that answered, from 1; 0: none */
	unsigned life;   /* of that server's process, from 1 */

	uint64_t uid; /* 0: the answer shows no object */
	uint64_t version;
	uint64_t value;
	uint64_t revision; /* that last changed the object */
	size_t n_elements;
	uint64_t elements[HISTORY_ELEMENTS]; /* ascending */
};

struct history {
	struct record *events;
	size_t n, size;
};

const char *history_op_name(enum history_op op);
const char *history_kind_name(enum history_kind kind);
void history_add(struct history *h, const struct record *e);
void history_done(struct history *h);
/* One line, without its newline; the caller's to free. */
char *record_text(const struct record *e);
int record_parse(const char *line, size_t n, struct record *ret, struct blix_error *err);
/* Reads a whole file; *h must be empty, and is the caller's also on failure. */
int history_load(const char *path, struct history *h, struct blix_error *err);

/* The refusals that say something of the object. */
bool record_missing(const struct record *e);  /* there was no such VM */
bool record_exists(const struct record *e);   /* there was one already */
bool record_conflict(const struct record *e); /* there was one, of another version */
/* Nothing was done, and nothing was learned. */
bool record_is_void(const struct record *e);
bool record_mutates(const struct record *e);

#endif
