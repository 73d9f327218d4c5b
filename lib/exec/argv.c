/* Growing a vector of words: see argv.h. Memory is our own, so nothing here fails. */
#include "exec/argv.h"

#include "base/alloc.h"

#include <stdarg.h>
#include <stdio.h>

static void argv_own(struct argv *argv, char *word)
{
	argv->items = xreallocarray(argv->items, argv->n + 2, sizeof(*argv->items));
	argv->items[argv->n++] = word;
	argv->items[argv->n] = NULL;
}

void argv_push(struct argv *argv, const char *word)
{
	argv_own(argv, xstrdup(word));
}

void argv_pushf(struct argv *argv, const char *fmt, ...)
{
	va_list args;
	char *word = NULL;
	int n;

	va_start(args, fmt);
	n = vasprintf(&word, fmt, args);
	va_end(args);
	if (n < 0)
		abort();
	argv_own(argv, word);
}

void argv_done(struct argv *argv)
{
	for (size_t i = 0; i < argv->n; i++)
		free(argv->items[i]);
	free(argv->items);
	argv->items = NULL;
	argv->n = 0;
}
