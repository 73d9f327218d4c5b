/* Lists of objects as tables, names or JSON: columns are paths into the objects. */
#ifndef BLIX_CMD_TABLE_H
#define BLIX_CMD_TABLE_H

#include "cli.h"

enum column_kind {
	COLUMN_TEXT,
	COLUMN_NUMBER,
	COLUMN_SIZE,
	COLUMN_AGE,
	COLUMN_TIME,
	COLUMN_BOOL,
	COLUMN_PHASE,
	COLUMN_LABELS,
	COLUMN_LIST,
	COLUMN_AMOUNT /* CPUs, or bytes from 1 MiB on */
};

struct column {
	const char *key; /* for --columns */
	const char *header;
	const char *path;
	const char *path2; /* used where `path` is absent; NULL: none */
	enum column_kind kind;
	bool wide; /* only with -o wide */
};

struct table {
	const char *list_kind; /* "VMList" */
	const struct column *columns;
	size_t n_columns;
};

/* Fails with INVALID when --columns names one that does not exist. */
int table_check(const struct cli *cli, const struct table *table, struct blix_error *err);
/* True when a column that `keys` (NULL-terminated) does not have is wanted. */
bool table_needs_more(const struct cli *cli, const struct table *table, const char *const *keys);
/* Prints the array `items` as the command line asks; takes nothing. Returns the exit code. */
int table_print(struct cli *cli, const struct table *table, const cJSON *items);
/* One object as a line of its own: cells with two blanks between, or its JSON, or its name. */
void table_line(struct cli *cli, const struct table *table, const cJSON *item);
/* The same for a whole answer: with -o json also its revision and how stale it is. */
int list_print(struct cli *cli, const struct table *table, const cJSON *list);
/* Prints off a terminal (plain.c); at most 32 columns. */
void plain_print(const struct column *const *columns, size_t n, bool headers, const cJSON *items);
/* The text of one cell, the caller's to free. */
char *column_text(const struct column *column, const cJSON *object, uint64_t now_ms);

/* Prints one object, or several as a list, for -o json and jsonl. */
void print_json(const cJSON *tree, bool lines);
void print_objects(struct cli *cli, const char *list_kind, const cJSON *const *objects, size_t n);

/* What each node lacks to take a VM: the `nodes` of why and of a dry run (vm_why.c). */
extern const struct table fit_table;

/* "Key:   value" blocks. Empty values are left out. */
void print_field(const char *label, const char *value);
void print_fieldf(const char *label, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
