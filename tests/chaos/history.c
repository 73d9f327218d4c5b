/* Events and their lines: see history.h. A line that does not fit is an error that names its key; a
 * file with such a line is not checked at all. */
#include "history.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"

#include <errno.h>
#include <string.h>

static const char *const op_names[HISTORY_OP_COUNT] = {
#define X(name, text) [HISTORY_##name] = text,
	HISTORY_OPS(X)
#undef X
};

static const char *const kind_names[HISTORY_KIND_COUNT] = {"ok", "fail", "info"};

const char *history_op_name(enum history_op op)
{
	return op_names[op];
}

const char *history_kind_name(enum history_kind kind)
{
	return kind_names[kind];
}

void history_add(struct history *h, const struct record *e)
{
	if (h->n == h->size) {
		h->size = h->size == 0 ? 1024 : h->size * 2;
		h->events = xreallocarray(h->events, h->size, sizeof(*h->events));
	}
	h->events[h->n++] = *e;
}

void history_done(struct history *h)
{
	free(h->events);
	*h = (struct history){0};
}

static bool refused(const struct record *e, const char *reason)
{
	return e->kind == HISTORY_FAIL && strcmp(e->reason, reason) == 0;
}

bool record_missing(const struct record *e)
{
	return refused(e, "vm-missing");
}

bool record_exists(const struct record *e)
{
	return refused(e, "vm-exists");
}

bool record_conflict(const struct record *e)
{
	return refused(e, "version-conflict");
}

bool record_is_void(const struct record *e)
{
	return e->kind == HISTORY_FAIL && !record_missing(e) && !record_exists(e) &&
	       !record_conflict(e);
}

bool record_mutates(const struct record *e)
{
	return e->op == HISTORY_CREATE || e->op == HISTORY_DELETE || e->op == HISTORY_WRITE ||
	       e->op == HISTORY_CAS || e->op == HISTORY_APPEND;
}

static void add_number(cJSON *line, const char *key, uint64_t value)
{
	if (value != 0)
		json_add_u64(line, key, value);
}

char *record_text(const struct record *e)
{
	cleanup(json_freep) cJSON *line = json_object();
	cJSON *elements;

	json_add_u64(line, "client", e->client);
	json_add_string(line, "op", op_names[e->op]);
	json_add_string(line, "key", e->key);
	add_number(line, "arg", e->arg);
	add_number(line, "expect", e->expect);
	json_add_u64(line, "call", e->call);
	if (e->ret != HISTORY_NEVER)
		json_add_u64(line, "return", e->ret);
	json_add_string(line, "kind", kind_names[e->kind]);
	json_add_string(line, "reason", e->reason);
	json_add_string(line, "first", e->first);
	add_number(line, "server", e->server);
	add_number(line, "life", e->life);
	add_number(line, "uid", e->uid);
	add_number(line, "version", e->version);
	add_number(line, "value", e->value);
	add_number(line, "revision", e->revision);
	if (e->n_elements > 0) {
		elements = json_array();
		for (size_t i = 0; i < e->n_elements; i++)
			json_push(elements, cJSON_CreateNumber((double)e->elements[i]));
		json_add(line, "elements", elements);
	}
	return json_text(line);
}

static int get_name(const cJSON *line, const char *key, const char *const *names, unsigned n,
                    unsigned *ret, struct blix_error *err)
{
	const char *text = "";
	int rc = json_get_string(line, key, &text, err);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < n; i++) {
		if (strcmp(names[i], text) == 0) {
			*ret = i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_INVALID, "%s: unknown '%s'", key, text);
}

static int get_text(const cJSON *line, const char *key, char *ret, size_t n, struct blix_error *err)
{
	const char *text = "";
	int rc = json_get_string(line, key, &text, err);

	if (rc == 0)
		(void)snprintf(ret, n, "%s", text);
	return rc;
}

static int get_small(const cJSON *line, const char *key, unsigned *ret, struct blix_error *err)
{
	uint64_t value = 0;
	int rc = json_get_u64(line, key, &value, err);

	*ret = (unsigned)value;
	return rc;
}

static int get_elements(const cJSON *line, struct record *ret, struct blix_error *err)
{
	const cJSON *array = NULL, *item;
	int rc = json_get_array(line, "elements", &array, err);

	if (rc < 0 || array == NULL)
		return rc;
	cJSON_ArrayForEach (item, array) {
		if (!cJSON_IsNumber(item) || ret->n_elements == HISTORY_ELEMENTS)
			return blix_fail(err, BLIX_E_INVALID, "elements: not as expected");
		ret->elements[ret->n_elements++] = (uint64_t)item->valuedouble;
	}
	return 0;
}

static int parse_fields(const cJSON *line, struct record *e, struct blix_error *err)
{
	unsigned op = 0, kind = 0;
	int rc;

	e->ret = HISTORY_NEVER;
	if ((rc = get_name(line, "op", op_names, HISTORY_OP_COUNT, &op, err)) < 0 ||
	    (rc = get_name(line, "kind", kind_names, HISTORY_KIND_COUNT, &kind, err)) < 0 ||
	    (rc = get_text(line, "key", e->key, sizeof(e->key), err)) < 0 ||
	    (rc = get_text(line, "reason", e->reason, sizeof(e->reason), err)) < 0 ||
	    (rc = get_text(line, "first", e->first, sizeof(e->first), err)) < 0 ||
	    (rc = get_small(line, "client", &e->client, err)) < 0 ||
	    (rc = get_small(line, "server", &e->server, err)) < 0 ||
	    (rc = get_small(line, "life", &e->life, err)) < 0 ||
	    (rc = json_get_u64(line, "arg", &e->arg, err)) < 0 ||
	    (rc = json_get_u64(line, "expect", &e->expect, err)) < 0 ||
	    (rc = json_get_u64(line, "call", &e->call, err)) < 0 ||
	    (rc = json_get_u64(line, "return", &e->ret, err)) < 0 ||
	    (rc = json_get_u64(line, "uid", &e->uid, err)) < 0 ||
	    (rc = json_get_u64(line, "version", &e->version, err)) < 0 ||
	    (rc = json_get_u64(line, "value", &e->value, err)) < 0 ||
	    (rc = json_get_u64(line, "revision", &e->revision, err)) < 0 ||
	    (rc = get_elements(line, e, err)) < 0)
		return rc;
	e->op = op;
	e->kind = kind;
	if ((e->ret == HISTORY_NEVER) != (e->kind == HISTORY_INFO) || e->ret < e->call)
		return blix_fail(err, BLIX_E_INVALID, "return: does not fit its call and kind");
	return 0;
}

int record_parse(const char *line, size_t n, struct record *ret, struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;
	struct record e = {0};
	int rc = json_parse(line, n, &json_limits_request, &tree, err);

	if (rc == 0)
		rc = parse_fields(tree, &e, err);
	if (rc == 0)
		*ret = e;
	return rc;
}

static void closep(FILE **file)
{
	if (*file != NULL)
		(void)fclose(*file);
}

int history_load(const char *path, struct history *h, struct blix_error *err)
{
	cleanup(closep) FILE *file = fopen(path, "re");
	cleanup(freep) char *line = NULL;
	size_t size = 0;
	ssize_t n;

	if (file == NULL)
		return blix_fail_sys(err, errno, "open %s", path);
	while ((n = getline(&line, &size, file)) > 0) {
		struct record e;

		if (record_parse(line, (size_t)n, &e, err) < 0)
			return blix_wrap(err, "%s:%zu", path, h->n + 1);
		history_add(h, &e);
	}
	return ferror(file) ? blix_fail_sys(err, errno, "read %s", path) : 0;
}
