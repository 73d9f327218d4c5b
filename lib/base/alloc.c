/* Allocation that cannot fail: see alloc.h for when it is the right one. */
#include "base/alloc.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n > 0 ? n : 1, size > 0 ? size : 1);

	if (p == NULL)
		abort();
	return p;
}

void *xreallocarray(void *p, size_t n, size_t size)
{
	void *grown;

	if (size != 0 && n > SIZE_MAX / size)
		abort();
	grown = realloc(p, n * size > 0 ? n * size : 1);
	if (grown == NULL)
		abort();
	return grown;
}

char *xstrndup(const char *s, size_t n)
{
	char *copy = xcalloc(n + 1, 1);

	memcpy(copy, s, n);
	return copy;
}

char *xstrdup(const char *s)
{
	return xstrndup(s, strlen(s));
}

char *xasprintf(const char *fmt, ...)
{
	va_list args;
	char *text;
	int n;

	va_start(args, fmt);
	n = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0)
		abort();
	text = xcalloc((size_t)n + 1, 1);
	va_start(args, fmt);
	(void)vsnprintf(text, (size_t)n + 1, fmt, args);
	va_end(args);
	return text;
}

void xreplace(char **p, const char *s)
{
	char *copy = s != NULL ? xstrdup(s) : NULL;

	free(*p);
	*p = copy;
}
