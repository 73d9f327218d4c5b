/* Growing a vector of words, which cannot fail, and finding the program that the first one names.
 */
#include "exec/argv.h"

#include "base/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

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

int program_find(const char *name, const char *path, char **ret, struct blix_error *err)
{
	const char *at = path != NULL ? path : "";

	if (strchr(name, '/') != NULL) {
		*ret = xstrdup(name);
		return 0;
	}
	while (*at != '\0') {
		size_t n = strcspn(at, ":");
		cleanup(freep) char *full = xasprintf("%.*s/%s", (int)n, at, name);

		if (at[0] == '/' && access(full, X_OK) == 0) {
			*ret = take(full);
			return 0;
		}
		at += at[n] == ':' ? n + 1 : n;
	}
	return blix_fail(err, BLIX_E_NOTFOUND, "%s: not found in PATH (%s)", name,
	                 path != NULL ? path : "");
}
