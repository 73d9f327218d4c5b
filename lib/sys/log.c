/* logfmt records on stderr: see log.h. */
#include "sys/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int log_max = LOG_INFO;

void log_level(int priority)
{
	log_max = priority;
}

/* Appends at out[*used], never past n. */
static void put(char *out, size_t n, size_t *used, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
static void put(char *out, size_t n, size_t *used, const char *fmt, ...)
{
	va_list args;
	int more;

	va_start(args, fmt);
	more = vsnprintf(out + *used, n - *used, fmt, args);
	va_end(args);
	if (more > 0)
		*used = *used + (size_t)more < n ? *used + (size_t)more : n - 1;
}

static void put_quoted(char *out, size_t n, size_t *used, const char *text)
{
	put(out, n, used, "\"");
	for (; *text != '\0'; text++) {
		if (*text == '"' || *text == '\\')
			put(out, n, used, "\\%c", *text);
		else if (*text == '\n')
			put(out, n, used, "\\n");
		else
			put(out, n, used, "%c", (unsigned char)*text < 0x20 ? '?' : *text);
	}
	put(out, n, used, "\"");
}

static size_t begin(char *out, size_t n, int priority, const char *event)
{
	static const char *const levels[] = {"emerg", "alert",  "crit", "error",
	                                     "warn",  "notice", "info", "debug"};
	size_t used = 0;

	if (getenv("JOURNAL_STREAM") != NULL) /* NOLINT(concurrency-mt-unsafe): no setenv */
		put(out, n, &used, "<%d>", priority);
	put(out, n, &used, "level=%s event=%s", levels[priority & 7], event);
	return used;
}

static void finish(char *out, size_t n, size_t used)
{
	if (used > n - 2)
		used = n - 2;
	out[used] = '\n';
	(void)fwrite(out, 1, used + 1, stderr);
}

/* The record up to its fields; 0 when the level drops it. */
static size_t record(char *line, size_t n, int priority, const char *event, const char *fmt,
                     va_list args) __attribute__((format(printf, 5, 0)));
static size_t record(char *line, size_t n, int priority, const char *event, const char *fmt,
                     va_list args)
{
	size_t used;
	int more;

	if (priority > log_max)
		return 0;
	used = begin(line, n, priority, event);
	if (fmt[0] == '\0')
		return used;
	put(line, n, &used, " ");
	more = vsnprintf(line + used, n - used, fmt, args);
	if (more > 0)
		used = used + (size_t)more < n ? used + (size_t)more : n - 1;
	return used;
}

void log_event(int priority, const char *event, const char *fmt, ...)
{
	char line[4096];
	va_list args;
	size_t used;

	va_start(args, fmt);
	used = record(line, sizeof(line), priority, event, fmt, args);
	va_end(args);
	if (used > 0)
		finish(line, sizeof(line), used);
}

void log_error(int priority, const char *event, const struct blix_error *err, const char *fmt, ...)
{
	char line[4096];
	va_list args;
	size_t used;

	va_start(args, fmt);
	used = record(line, sizeof(line), priority, event, fmt, args);
	va_end(args);
	if (used == 0)
		return;
	put(line, sizeof(line), &used, " reason=%s err=", blix_error_reason(err));
	put_quoted(line, sizeof(line), &used, err->text);
	finish(line, sizeof(line), used);
}
