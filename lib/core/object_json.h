/* Objects <-> JSON, for node and client alike: {"kind","apiVersion","metadata","spec","status"}.
 * camelCase, RFC 3339 UTC, bytes as integers, unknown = absent. */
#ifndef BLIX_CORE_OBJECT_JSON_H
#define BLIX_CORE_OBJECT_JSON_H

#include "base/json.h"
#include "core/state.h"

#define BLIX_API_VERSION "blix/v1"

/* The answers' objects. `state` gives node names. */
cJSON *vm_json(const struct vm *vm, const struct state *state);
/* The columns of a list only, under the same keys as the whole object: metadata.{name,uid,
 * createdAt}, status.{phase,node,ready,reason}, and under status.resolved the resolved or wanted
 * cpus and memoryBytes. Appends the text. */
int vm_summary_print(const struct vm *vm, const struct state *state, struct buf *out);
cJSON *node_json(const struct node *node);
cJSON *event_json(const struct event *event);

/* The body of POST /v1/vms:
 * {"kind":"VM","apiVersion":"blix/v1","metadata":{"name","labels"},"spec":{...}}. Unknown keys are
 * errors that name the key. *spec is initialised by it on success only. */
int vm_create_parse(const cJSON *body, char *ret_name, struct vm_spec *spec,
                    struct blix_error *err);
/* The body of POST /v1/vms/NAME/set: {"cpus","memoryBytes","restartPolicy","labels":{...}}, each
 * optional, one at least; fills command->vm_set but its name. */
int vm_set_parse(const cJSON *body, struct command *command, struct blix_error *err);
cJSON *vm_create_json(const char *name, const struct vm_spec *spec);

/* {"code","reason","message","hint","retryable","definite","details"}; details may be NULL, else
 * taken. */
cJSON *error_json(const struct blix_error *err, cJSON *details);
/* Reads such an object back; anything else becomes INTERNAL with `http` in its text. */
void error_parse(const cJSON *object, int http, struct blix_error *ret);

/* What every object begins with: its kind and the API's version. */
cJSON *object_json_begin(const char *kind);
/* An id, as a string: it may pass what JSON keeps exact. */
void object_json_add_uid(cJSON *object, const char *key, uint64_t uid);

#endif
