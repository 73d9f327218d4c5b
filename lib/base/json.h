/* cJSON behind a strict door. Parsing refuses what cJSON forgives: bad UTF-8, duplicate keys,
 * trailing bytes, depth and node counts past a limit. Reading is by typed getters that name the key
 * they failed on. Building never fails (memory of our own: alloc.h).
 *
 * The getters named json_get_* leave *ret alone and return 0 when the key is absent; a value of
 * another type is -BLIX_E_INVALID. Strings stay the tree's.
 */
#ifndef BLIX_BASE_JSON_H
#define BLIX_BASE_JSON_H

#include "base/buf.h"
#include "base/error.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

struct json_limits {
	unsigned depth;
	unsigned nodes;
};
extern const struct json_limits json_limits_request; /* LIMIT_JSON_DEPTH, LIMIT_JSON_NODES */
extern const struct json_limits json_limits_answer;  /* the same depth, 8 million nodes */

/* *ret is the caller's: cJSON_Delete, or cleanup(json_freep). */
int json_parse(const char *text, size_t n, const struct json_limits *limits, cJSON **ret,
               struct blix_error *err);
void json_freep(cJSON **tree);

/* Fails on a key of `object` that is not in the NULL-terminated list, naming it and a near one. */
int json_only_keys(const cJSON *object, const char *const *keys, struct blix_error *err);
int json_get_string(const cJSON *object, const char *key, const char **ret, struct blix_error *err);
/* Whole numbers from 0 to 2^53. */
int json_get_u64(const cJSON *object, const char *key, uint64_t *ret, struct blix_error *err);
int json_get_bool(const cJSON *object, const char *key, bool *ret, struct blix_error *err);
int json_get_object(const cJSON *object, const char *key, const cJSON **ret,
                    struct blix_error *err);
int json_get_array(const cJSON *object, const char *key, const cJSON **ret, struct blix_error *err);

cJSON *json_object(void);
cJSON *json_array(void);
/* NULL and "" are left out: unknown = absent. */
void json_add_string(cJSON *object, const char *key, const char *value);
/* The same for text of outside origin: bytes that are not UTF-8 become '?'. */
void json_add_text(cJSON *object, const char *key, const char *text);
/* Zero is written. Asserts value <= 2^53. */
void json_add_u64(cJSON *object, const char *key, uint64_t value);
void json_add_bool(cJSON *object, const char *key, bool value);
/* The child becomes the parent's. */
void json_add(cJSON *object, const char *key, cJSON *child);
void json_push(cJSON *array, cJSON *child);
void json_push_string(cJSON *array, const char *value);
/* Milliseconds since 1970 as RFC 3339 UTC, "2026-11-23T18:30:00.123Z"; 0 is left out. */
void json_add_time(cJSON *object, const char *key, uint64_t wall_ms);
void json_format_time(char *out, size_t n, uint64_t wall_ms);

/* Makes words from outside (a build log, a console) fit for JSON and a terminal, in place: bad
 * UTF-8 and control characters but newline and tab become '?'; a sequence cut at the end is
 * dropped. */
void json_clean(char *text);

/* Appends the compact text. */
int json_print(const cJSON *tree, struct buf *out);
/* Compact text, the caller's to free. */
char *json_text(const cJSON *tree);

#endif
