/* A NULL-terminated vector of owned strings: the arguments or the environment of a child. */
#ifndef BLIX_EXEC_ARGV_H
#define BLIX_EXEC_ARGV_H

#include "base/error.h"

#include <stddef.h>

struct argv {
	char **items; /* items[n] is NULL; NULL while empty */
	size_t n;
};

#define ARGV_EMPTY                                                                                 \
	{                                                                                          \
		NULL, 0                                                                            \
	}

void argv_push(struct argv *argv, const char *word);
void argv_pushf(struct argv *argv, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void argv_done(struct argv *argv);

/* Where `path` (a PATH; only its absolute parts count) has an executable `name`; a name with a
 * slash is its own answer. *ret is the caller's. -BLIX_E_NOTFOUND. */
int program_find(const char *name, const char *path, char **ret, struct blix_error *err);

#endif
