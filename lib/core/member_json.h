/* The cluster's record, tokens, people and the audit as JSON: see object_json.h. A token's hash is
 * in none of them. */
#ifndef BLIX_CORE_MEMBER_JSON_H
#define BLIX_CORE_MEMBER_JSON_H

#include "base/json.h"
#include "core/state.h"

/* Adds metadata.{version,revision,createdAt}, the CA's fingerprint, incarnation, feature level and
 * wanted voters, to an object about the cluster; where it has no members of its own, the feature
 * level alone. */
void cluster_json_add(cJSON *object, const struct cluster *cluster);
cJSON *token_json(const struct token *token, const struct state *state);
cJSON *user_json(const struct user *user);
/* {"sequence","time","revision","principal","verb","object","result","reason","hash"} */
cJSON *audit_json(const struct audit_record *record);

#endif
