/* Tables by libsmartcols on a terminal, and the other forms of a list: see table.h. */
#include "table.h"

#include "base/parse.h"
#include "core/object_json.h"
#include "sys/clock.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <locale.h>
#include <stdarg.h>
#include <string.h>

#define COLUMNS_MAX 32

static const struct column *column_find(const struct table *table, const char *key, size_t n)
{
	for (size_t i = 0; i < table->n_columns; i++) {
		if (strlen(table->columns[i].key) == n &&
		    strncasecmp(table->columns[i].key, key, n) == 0)
			return &table->columns[i];
	}
	return NULL;
}

/* The columns to print, in order; unknown names of --columns are skipped (table_check() refused
 * them before). */
static size_t columns_wanted(const struct cli *cli, const struct table *table,
                             const struct column *wanted[COLUMNS_MAX])
{
	const char *p = cli->arguments.values[OPTION_COLUMNS];
	size_t n = 0;

	for (size_t i = 0; p == NULL && i < table->n_columns; i++) {
		if (!table->columns[i].wide || cli->settings.output == OUTPUT_WIDE)
			wanted[n++] = &table->columns[i];
	}
	while (p != NULL && *p != '\0' && n < COLUMNS_MAX) {
		size_t length = strcspn(p, ",");
		const struct column *column = column_find(table, p, length);

		if (column != NULL)
			wanted[n++] = column;
		p += length + (p[length] == ',');
	}
	return n;
}

int table_check(const struct cli *cli, const struct table *table, struct blix_error *err)
{
	const char *p = cli->arguments.values[OPTION_COLUMNS];
	struct buf names;

	while (p != NULL) {
		size_t length = strcspn(p, ",");

		if (column_find(table, p, length) == NULL) {
			buf_init(&names, sizeof(err->hint));
			for (size_t i = 0; i < table->n_columns; i++)
				(void)buf_printf(&names, "%s%s", i > 0 ? "," : "",
				                 table->columns[i].key);
			(void)blix_fail(err, BLIX_E_INVALID, "unknown column '%.*s'",
			                (int)(length < 64 ? length : 64), p);
			blix_hint(err, "there are: %s", names.data != NULL ? names.data : "none");
			buf_done(&names);
			return -(int)BLIX_E_INVALID;
		}
		p = p[length] == ',' ? p + length + 1 : NULL;
	}
	return 0;
}

bool table_needs_more(const struct cli *cli, const struct table *table, const char *const *keys)
{
	const struct column *wanted[COLUMNS_MAX];
	size_t n = columns_wanted(cli, table, wanted);

	for (size_t i = 0; i < n; i++) {
		size_t k = 0;

		while (keys[k] != NULL && strcmp(keys[k], wanted[i]->key) != 0)
			k++;
		if (keys[k] == NULL)
			return true;
	}
	return false;
}

static char *labels_text(const cJSON *labels)
{
	struct buf out;
	const cJSON *item;

	buf_init(&out, LIMIT_LABELS * 256);
	cJSON_ArrayForEach (item, labels)
		(void)buf_printf(&out, "%s%s=%s", out.len > 0 ? "," : "", item->string,
		                 cJSON_IsString(item) ? item->valuestring : "");
	return buf_failed(&out) ? xstrdup("") : buf_take(&out);
}

static char *list_text(const cJSON *list)
{
	struct buf out;
	const cJSON *item;

	buf_init(&out, LIMIT_BODY);
	cJSON_ArrayForEach (item, list)
		(void)buf_printf(&out, "%s%s", out.len > 0 ? " " : "",
		                 cJSON_IsString(item) ? item->valuestring : "");
	return buf_failed(&out) ? xstrdup("") : buf_take(&out);
}

static uint64_t number_of(const cJSON *item)
{
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > 9e15)
		return 0;
	return (uint64_t)item->valuedouble;
}

static char *scalar_text(enum column_kind kind, const cJSON *item, uint64_t now_ms)
{
	uint64_t then;
	char text[48];

	if (cJSON_IsString(item) &&
	    (kind == COLUMN_NUMBER || kind == COLUMN_SIZE || kind == COLUMN_AMOUNT))
		return clean_text(item->valuestring); /* ids are text: they may pass 2^53 */
	switch (kind) {
	case COLUMN_NUMBER:
		return xasprintf("%" PRIu64, number_of(item));
	case COLUMN_AMOUNT:
		if (number_of(item) < 1u << 20)
			return xasprintf("%" PRIu64, number_of(item));
		format_size(text, sizeof(text), number_of(item));
		return xstrdup(text);
	case COLUMN_SIZE:
		format_size(text, sizeof(text), number_of(item));
		return xstrdup(text);
	case COLUMN_AGE:
		then = cJSON_IsString(item) ? stamp_ms(item->valuestring) : 0;
		format_duration(text, sizeof(text), now_ms > then + 1000 ? now_ms - then : 1000);
		return xstrdup(then == 0 ? "-" : text);
	case COLUMN_BOOL:
		return xstrdup(cJSON_IsTrue(item) ? "yes" : "no");
	case COLUMN_LABELS:
		return labels_text(item);
	case COLUMN_LIST:
		return list_text(item);
	case COLUMN_TEXT:
	case COLUMN_TIME:
	case COLUMN_PHASE:
		break;
	}
	return xstrdup(cJSON_IsString(item) ? item->valuestring : "");
}

char *column_text(const struct column *column, const cJSON *object, uint64_t now_ms)
{
	const cJSON *item = at(object, column->path);
	char *raw;

	if (item == NULL && column->path2 != NULL)
		item = at(object, column->path2);
	if (item == NULL)
		return xstrdup("-");
	raw = scalar_text(column->kind, item, now_ms);
	/* A table has one line per object. */
	raw[strcspn(raw, "\n")] = '\0';
	return clean_take(raw);
}

static const char *phase_colour(const char *phase)
{
	static const struct {
		const char *phase, *colour;
	} colours[] = {{"Running", "green"}, {"Ready", "green"},      {"Paused", "yellow"},
	               {"Failed", "red"},    {"CrashLoop", "red"},    {"Unknown", "red"},
	               {"Offline", "red"},   {"Stopped", "darkgray"}, {"Pending", "yellow"}};

	for (size_t i = 0; i < array_size(colours); i++) {
		if (strcmp(colours[i].phase, phase) == 0)
			return colours[i].colour;
	}
	return NULL;
}

static void cell_fill(struct libscols_line *line, size_t i, const struct column *column,
                      const cJSON *object, uint64_t now_ms)
{
	char *text = column_text(column, object, now_ms);
	const char *colour = column->kind == COLUMN_PHASE ? phase_colour(text) : NULL;

	if (colour != NULL && scols_cell_set_color(scols_line_get_cell(line, i), colour) != 0)
		abort();
	/* The cell owns the text from here on. */
	if (scols_line_refer_data(line, i, text) != 0)
		abort();
}

static void must(int rc)
{
	/* Only memory can fail here. */
	if (rc != 0)
		abort();
}

static int column_flags(const struct column *column)
{
	int flags = 0;

	if (column->kind == COLUMN_NUMBER || column->kind == COLUMN_SIZE ||
	    column->kind == COLUMN_AMOUNT)
		flags |= SCOLS_FL_RIGHT;
	if ((column->kind == COLUMN_TEXT || column->kind == COLUMN_LABELS) &&
	    strcmp(column->key, "name") != 0)
		flags |= SCOLS_FL_TRUNC;
	return flags;
}

static void print_table(struct cli *cli, const struct table *table, const cJSON *items)
{
	const struct column *wanted[COLUMNS_MAX];
	size_t n = columns_wanted(cli, table, wanted);
	struct libscols_table *out;
	uint64_t now_ms = clock_wall_ms();
	const cJSON *item;

	if (!cli->out_is_terminal) {
		plain_print(wanted, n, !given(cli, OPTION_NO_HEADERS), items);
		return;
	}
	out = scols_new_table();
	if (out == NULL)
		abort();
	must(scols_table_enable_noheadings(out, given(cli, OPTION_NO_HEADERS)));
	must(scols_table_enable_colors(out, cli->colour));
	/* The cells are clean already; encoding again would spoil UTF-8 under LC_ALL=C. */
	must(scols_table_enable_noencoding(out, 1));
	(void)setlocale(LC_CTYPE, ""); /* widths of characters */
	for (size_t i = 0; i < n; i++) {
		if (scols_table_new_column(out, wanted[i]->header, 0, column_flags(wanted[i])) ==
		    NULL)
			abort();
	}
	cJSON_ArrayForEach (item, items) {
		struct libscols_line *line = scols_table_new_line(out, NULL);

		if (line == NULL)
			abort();
		for (size_t i = 0; i < n; i++)
			cell_fill(line, i, wanted[i], item, now_ms);
	}
	must(scols_print_table(out) < 0);
	scols_unref_table(out);
}

void print_json(const cJSON *tree, bool lines)
{
	char *text = lines ? cJSON_PrintUnformatted(tree) : cJSON_Print(tree);

	if (text == NULL)
		abort();
	(void)fputs(text, stdout);
	(void)fputc('\n', stdout);
	cJSON_free(text);
}

void print_objects(struct cli *cli, const char *list_kind, const cJSON *const *objects, size_t n)
{
	bool lines = cli->settings.output == OUTPUT_JSONL;
	cJSON *list, *items;

	if (lines || n == 1) {
		for (size_t i = 0; i < n; i++)
			print_json(objects[i], lines);
		return;
	}
	list = json_object();
	json_add_string(list, "kind", list_kind);
	json_add_string(list, "apiVersion", BLIX_API_VERSION);
	items = json_array();
	json_add(list, "items", items);
	for (size_t i = 0; i < n; i++) {
		if (!cJSON_AddItemReferenceToArray(items, (cJSON *)(uintptr_t)objects[i]))
			abort();
	}
	print_json(list, false);
	cJSON_Delete(list);
}

static void print_list_json(const struct table *table, const cJSON *items)
{
	cJSON *list = json_object();

	json_add_string(list, "kind", table->list_kind);
	json_add_string(list, "apiVersion", BLIX_API_VERSION);
	if (!cJSON_AddItemReferenceToObject(list, "items", (cJSON *)(uintptr_t)items))
		abort();
	print_json(list, false);
	cJSON_Delete(list);
}

int list_print(struct cli *cli, const struct table *table, const cJSON *list)
{
	if (cli->settings.output != OUTPUT_JSON)
		return table_print(cli, table, at(list, "items"));
	print_json(list, false);
	return cli_flush(cli);
}

int table_print(struct cli *cli, const struct table *table, const cJSON *items)
{
	const cJSON *item;

	switch (cli->settings.output) {
	case OUTPUT_JSON:
		print_list_json(table, items);
		break;
	case OUTPUT_JSONL:
		cJSON_ArrayForEach (item, items)
			print_json(item, true);
		break;
	case OUTPUT_NAME:
		cJSON_ArrayForEach (item, items)
			(void)printf("%s\n",
			             text_at(item, at(item, "metadata") != NULL ? "metadata.name"
			                                                        : "name"));
		break;
	case OUTPUT_TABLE:
	case OUTPUT_WIDE:
		print_table(cli, table, items);
		break;
	}
	return cli_flush(cli);
}

void table_line(struct cli *cli, const struct table *table, const cJSON *item)
{
	const struct column *wanted[COLUMNS_MAX];
	uint64_t now_ms = clock_wall_ms();
	size_t n;

	if (cli->settings.output == OUTPUT_NAME) {
		(void)printf("%s\n", text_at(item, "metadata.name"));
		return;
	}
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL) {
		print_json(item, true);
		return;
	}
	n = columns_wanted(cli, table, wanted);
	for (size_t i = 0; i < n; i++) {
		cleanup(freep) char *text = column_text(wanted[i], item, now_ms);

		(void)printf("%s%s", i > 0 ? "  " : "", text);
	}
	(void)fputc('\n', stdout);
}

void print_field(const char *label, const char *value)
{
	size_t n = strlen(value);

	if (n == 0)
		return;
	/* A long label still ends before its value. */
	(void)printf("  %-13s ", label);
	for (size_t i = 0; i < n;) {
		size_t length = strcspn(value + i, "\n");

		if (i > 0)
			(void)printf("  %-14s", "");
		print_clean(stdout, value + i, length);
		(void)fputc('\n', stdout);
		i += length + 1;
	}
}

void print_fieldf(const char *label, const char *fmt, ...)
{
	cleanup(freep) char *text = NULL;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		abort();
	va_end(args);
	print_field(label, text);
}
