/* Generations and updates of a VM as JSON: see object_json.h. */
#ifndef BLIX_CORE_GENERATION_JSON_H
#define BLIX_CORE_GENERATION_JSON_H

#include "base/json.h"
#include "core/command.h"

/* Adds status.generation, status.update and the condition Stale. */
void generation_status_add(cJSON *status, const struct vm *vm);
/* What GET /v1/vms/NAME/generations answers: the newest first. */
cJSON *generations_json(const struct vm *vm);
/* The bodies of POST .../update and .../rollback, into a command of that kind. NULL: empty. */
int update_parse(const cJSON *body, struct command *command, struct blix_error *err);
int rollback_parse(const cJSON *body, struct command *command, struct blix_error *err);

#endif
