/* Strict JSON over cJSON: see json.h. One scan before cJSON looks at depth, node count, UTF-8 and
 * control bytes; one walk after it looks for duplicate keys and numbers past all bounds. */
#include "base/json.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define JSON_INTEGER_MAX 9007199254740992.0 /* 2^53: above it a double loses units */

const struct json_limits json_limits_request = {LIMIT_JSON_DEPTH, LIMIT_JSON_NODES};
const struct json_limits json_limits_answer = {LIMIT_JSON_DEPTH, 8u << 20};

/* Length of the UTF-8 sequence at p (RFC 3629: no overlong forms, no surrogates), 0 if none. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
	static const struct {
		unsigned char first_min, first_max, second_min, second_max, length;
	} forms[] = {{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2},
	             {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
	             {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
	             {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
	             {0xf4, 0xf4, 0x80, 0x8f, 4}};

	if (p[0] < 0x80)
		return 1; /* nearly all of a large answer */
	for (size_t i = 0; i < array_size(forms); i++) {
		if (p[0] < forms[i].first_min || p[0] > forms[i].first_max)
			continue;
		if (forms[i].length > n)
			return 0;
		if (forms[i].length > 1 &&
		    (p[1] < forms[i].second_min || p[1] > forms[i].second_max))
			return 0;
		for (size_t k = 2; k < forms[i].length; k++) {
			if ((p[k] & 0xc0) != 0x80)
				return 0;
		}
		return forms[i].length;
	}
	return 0;
}

struct json_scan {
	unsigned depth;
	unsigned nodes;
	bool quoted;
};

/* Looks at one character; false when a limit is passed or a byte cannot stand in JSON. */
static bool scan_char(struct json_scan *scan, const struct json_limits *limits,
                      const unsigned char *p, size_t n, size_t *ret_skip)
{
	*ret_skip = utf8_length(p, n);
	if (*ret_skip == 0)
		return false;
	if (scan->quoted) {
		if (*p == '\\')
			*ret_skip = 2;
		else if (*p == '"')
			scan->quoted = false;
		return *p >= 0x20;
	}
	switch (*p) {
	case '"':
		scan->quoted = true;
		break;
	case '{':
	case '[':
		scan->nodes++;
		scan->depth++;
		break;
	case '}':
	case ']':
		if (scan->depth > 0)
			scan->depth--;
		break;
	case ',':
		scan->nodes++;
		break;
	case '\0':
		return false;
	default:
		break;
	}
	return scan->depth <= limits->depth && scan->nodes <= limits->nodes;
}

/* Bytes that mean nothing to the scan wherever they stand: letters, digits and most of the rest. */
static bool is_dull(char c)
{
	return (c >= 0x2d && c <= 0x5a) || (c >= 0x5e && c <= 0x7a);
}

static int json_scan(const char *text, size_t n, const struct json_limits *limits,
                     struct blix_error *err)
{
	struct json_scan scan = {0};
	size_t skip;

	for (size_t i = 0; i < n; i += skip) {
		if (is_dull(text[i])) {
			skip = 1;
			continue;
		}
		if (scan_char(&scan, limits, (const unsigned char *)text + i, n - i, &skip))
			continue;
		if (scan.depth > limits->depth)
			return blix_fail(err, BLIX_E_INVALID, "JSON is nested deeper than %u",
			                 limits->depth);
		if (scan.nodes > limits->nodes)
			return blix_fail(err, BLIX_E_TOOBIG, "JSON has more than %u values",
			                 limits->nodes);
		return blix_fail(err, BLIX_E_INVALID, "JSON has an invalid byte at offset %zu", i);
	}
	return 0;
}

static int json_check(const cJSON *tree, struct blix_error *err)
{
	unsigned keys = 0;

	/* cJSON reads 1e999 as infinity and prints that as null. */
	if (cJSON_IsNumber(tree) && !isfinite(tree->valuedouble))
		return blix_fail(err, BLIX_E_INVALID, "JSON has a number that is too large");
	for (const cJSON *item = tree->child; item != NULL; item = item->next) {
		if (cJSON_IsObject(tree)) {
			if (++keys > LIMIT_JSON_KEYS)
				return blix_fail(err, BLIX_E_INVALID,
				                 "a JSON object has more than %u keys",
				                 LIMIT_JSON_KEYS);
			for (const cJSON *o = tree->child; o != item; o = o->next) {
				if (strcmp(o->string, item->string) == 0)
					return blix_fail(err, BLIX_E_INVALID,
					                 "JSON key '%.64s' stands twice",
					                 item->string);
			}
		}
		if (json_check(item, err) < 0)
			return -(int)BLIX_E_INVALID;
	}
	return 0;
}

int json_parse(const char *text, size_t n, const struct json_limits *limits, cJSON **ret,
               struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;
	cleanup(freep) char *copy = NULL;
	const char *end = NULL;
	int rc;

	if (n == 0)
		return blix_fail(err, BLIX_E_INVALID, "JSON is empty");
	rc = json_scan(text, n, limits, err);
	if (rc < 0)
		return rc;
	copy = xstrndup(text, n); /* cJSON wants the NUL inside the length */
	tree = cJSON_ParseWithLengthOpts(copy, n + 1, &end, true);
	if (tree == NULL)
		return blix_fail(err, BLIX_E_INVALID, "JSON is malformed at offset %zu",
		                 end != NULL ? (size_t)(end - copy) : 0);
	rc = json_check(tree, err);
	if (rc < 0)
		return rc;
	*ret = take(tree);
	return 0;
}

void json_freep(cJSON **tree)
{
	cJSON_Delete(*tree);
}

int json_only_keys(const cJSON *object, const char *const *keys, struct blix_error *err)
{
	if (!cJSON_IsObject(object))
		return blix_fail(err, BLIX_E_INVALID, "a JSON object is expected");
	for (const cJSON *item = object->child; item != NULL; item = item->next) {
		const char *near = NULL;
		size_t i = 0;

		while (keys[i] != NULL && strcmp(keys[i], item->string) != 0) {
			if (parse_distance(keys[i], item->string) <= 2)
				near = keys[i];
			i++;
		}
		if (keys[i] != NULL)
			continue;
		(void)blix_fail(err, BLIX_E_INVALID, "unknown key '%.64s'", item->string);
		blix_reason(err, "unknown-key");
		if (near != NULL)
			blix_hint(err, "did you mean '%s'?", near);
		return -(int)BLIX_E_INVALID;
	}
	return 0;
}

static int json_find(const cJSON *object, const char *key, cJSON_bool (*is)(const cJSON *),
                     const char *what, const cJSON **ret, struct blix_error *err)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);

	*ret = NULL;
	if (item == NULL || cJSON_IsNull(item))
		return 0;
	if (!is(item))
		return blix_fail(err, BLIX_E_INVALID, "key '%s' must be %s", key, what);
	*ret = item;
	return 0;
}

int json_get_string(const cJSON *object, const char *key, const char **ret, struct blix_error *err)
{
	const cJSON *item;
	int rc = json_find(object, key, cJSON_IsString, "a string", &item, err);

	if (rc == 0 && item != NULL)
		*ret = item->valuestring;
	return rc;
}

int json_get_u64(const cJSON *object, const char *key, uint64_t *ret, struct blix_error *err)
{
	const cJSON *item;
	int rc = json_find(object, key, cJSON_IsNumber, "a number", &item, err);

	if (rc < 0 || item == NULL)
		return rc;
	if (!(item->valuedouble >= 0) || item->valuedouble > JSON_INTEGER_MAX ||
	    item->valuedouble != floor(item->valuedouble))
		return blix_fail(err, BLIX_E_INVALID, "key '%s' must be a whole number", key);
	*ret = (uint64_t)item->valuedouble;
	return 0;
}

int json_get_bool(const cJSON *object, const char *key, bool *ret, struct blix_error *err)
{
	const cJSON *item;
	int rc = json_find(object, key, cJSON_IsBool, "true or false", &item, err);

	if (rc == 0 && item != NULL)
		*ret = cJSON_IsTrue(item);
	return rc;
}

int json_get_object(const cJSON *object, const char *key, const cJSON **ret, struct blix_error *err)
{
	return json_find(object, key, cJSON_IsObject, "an object", ret, err);
}

int json_get_array(const cJSON *object, const char *key, const cJSON **ret, struct blix_error *err)
{
	return json_find(object, key, cJSON_IsArray, "an array", ret, err);
}

/* A node that cJSON could not allocate is memory of our own that failed. */
static cJSON *must(cJSON *item)
{
	if (item == NULL)
		abort();
	return item;
}

cJSON *json_object(void)
{
	return must(cJSON_CreateObject());
}

cJSON *json_array(void)
{
	return must(cJSON_CreateArray());
}

void json_add(cJSON *object, const char *key, cJSON *child)
{
	if (!cJSON_AddItemToObject(object, key, must(child)))
		abort();
}

void json_push(cJSON *array, cJSON *child)
{
	if (!cJSON_AddItemToArray(array, must(child)))
		abort();
}

void json_push_string(cJSON *array, const char *value)
{
	json_push(array, cJSON_CreateString(value));
}

void json_add_string(cJSON *object, const char *key, const char *value)
{
	if (value != NULL && value[0] != '\0')
		json_add(object, key, cJSON_CreateString(value));
}

void json_add_text(cJSON *object, const char *key, const char *text)
{
	cleanup(freep) char *clean = text != NULL ? xstrdup(text) : NULL;
	size_t left = clean != NULL ? strlen(clean) : 0;
	size_t n;

	for (char *at = clean; left > 0; at += n, left -= n) {
		n = utf8_length((const unsigned char *)at, left);
		if (n == 0) {
			*at = '?';
			n = 1;
		}
	}
	json_add_string(object, key, clean);
}

void json_add_u64(cJSON *object, const char *key, uint64_t value)
{
	assert(value <= (uint64_t)JSON_INTEGER_MAX);
	json_add(object, key, cJSON_CreateNumber((double)value));
}

void json_add_bool(cJSON *object, const char *key, bool value)
{
	json_add(object, key, cJSON_CreateBool(value));
}

/* Days since 1970-01-01 to a date, by the proleptic Gregorian calendar (Howard Hinnant,
 * "chrono-Compatible Low-Level Date Algorithms", civil_from_days). gmtime_r would read the
 * environment, which the core must not. */
static void civil_from_days(uint64_t days, unsigned *ret_y, unsigned *ret_m, unsigned *ret_d)
{
	uint64_t z = days + 719468;
	uint64_t era = z / 146097, doe = z % 146097;
	uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	uint64_t mp = (5 * doy + 2) / 153;

	*ret_d = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
	*ret_m = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
	*ret_y = (unsigned)(yoe + era * 400 + (*ret_m <= 2));
}

void json_format_time(char *out, size_t n, uint64_t wall_ms)
{
	uint64_t s = wall_ms / 1000;
	unsigned y, m, d;

	civil_from_days(s / 86400, &y, &m, &d);
	(void)snprintf(out, n, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", y, m, d,
	               (unsigned)(s / 3600 % 24), (unsigned)(s / 60 % 60), (unsigned)(s % 60),
	               (unsigned)(wall_ms % 1000));
}

void json_add_time(cJSON *object, const char *key, uint64_t wall_ms)
{
	char text[48];

	if (wall_ms == 0)
		return;
	json_format_time(text, sizeof(text), wall_ms);
	json_add_string(object, key, text);
}

void json_clean(char *text)
{
	size_t n = strlen(text), skip;

	for (size_t i = 0; i < n; i += skip) {
		unsigned char *p = (unsigned char *)text + i;

		skip = utf8_length(p, n - i);
		if (skip == 0 && *p >= 0xc2 && n - i < 4) {
			*p = '\0';
			return;
		}
		if (skip == 0 || (*p < 0x20 && *p != '\n' && *p != '\t') || *p == 0x7f) {
			*p = '?';
			skip = 1;
		}
	}
}

char *json_text(const cJSON *tree)
{
	char *text = cJSON_PrintUnformatted(tree);

	if (text == NULL)
		abort();
	return text;
}

int json_print(const cJSON *tree, struct buf *out)
{
	cleanup(freep) char *text = json_text(tree);

	return buf_add_string(out, text);
}
