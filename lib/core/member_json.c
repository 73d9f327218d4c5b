/* See member_json.h and docs/api.md. */
#include "core/member_json.h"

#include "core/object_json.h"

#include <inttypes.h>
#include <stdio.h>

void cluster_json_add(cJSON *object, const struct cluster *cluster)
{
	cJSON *metadata;

	json_add_u64(object, "featureLevel", cluster->level);
	if (cluster->id[0] == '\0')
		return;
	metadata = json_object();
	json_add_u64(metadata, "version", cluster->version);
	json_add_u64(metadata, "revision", cluster->revision);
	json_add_time(metadata, "createdAt", cluster->created_ms);
	json_add(object, "metadata", metadata);
	json_add_string(object, "caFingerprint", cluster->ca);
	json_add_u64(object, "incarnation", cluster->incarnation);
	json_add_u64(object, "voters", cluster->voters);
}

cJSON *token_json(const struct token *token, const struct state *state)
{
	cJSON *object = object_json_begin("Token"), *metadata = json_object(),
	      *spec = json_object();
	cJSON *status = json_object();
	const struct node *node = state_node(state, token->node);

	json_add_string(metadata, "name", token->name);
	object_json_add_uid(metadata, "uid", token->uid);
	json_add_time(metadata, "createdAt", token->created_ms);
	json_add_time(metadata, "expiresAt", token->expires_ms);
	json_add_string(metadata, "owner", token->by);
	json_add(object, "metadata", metadata);
	json_add_string(spec, "role", node_role_name(token->role));
	json_add(object, "spec", spec);
	json_add_bool(status, "used", token->node != 0);
	if (node != NULL)
		json_add_string(status, "node", node->name);
	json_add(object, "status", status);
	return object;
}

cJSON *user_json(const struct user *user)
{
	cJSON *object = object_json_begin("User"), *metadata = json_object(), *spec = json_object();
	cJSON *status = json_object();

	json_add_string(metadata, "name", user->name);
	object_json_add_uid(metadata, "uid", user->uid);
	json_add_u64(metadata, "version", user->version);
	json_add_u64(metadata, "revision", user->revision);
	json_add_time(metadata, "createdAt", user->created_ms);
	json_add_string(metadata, "owner", user->by);
	json_add(object, "metadata", metadata);
	json_add_string(spec, "role", user_role_name(user->role));
	json_add(object, "spec", spec);
	json_add_string(status, "certificateSerial", user->serial);
	json_add(object, "status", status);
	return object;
}

cJSON *audit_json(const struct audit_record *record)
{
	const struct command_result result = {.code = record->code, .why = record->why};
	cJSON *object = json_object();
	struct blix_error err;
	char hash[24];

	json_add_u64(object, "sequence", record->sequence);
	json_add_time(object, "time", record->clock_ms);
	json_add_u64(object, "revision", record->revision);
	json_add_text(object, "principal", record->principal);
	json_add_string(object, "verb", record->verb);
	/* The name that was asked for may be none. */
	json_add_text(object, "object", record->object);
	json_add_string(object, "result", blix_code_info(record->code)->slug);
	if (record->code != BLIX_OK) {
		(void)refusal_error(&result, "", &err);
		json_add_string(object, "reason", err.reason);
	}
	(void)snprintf(hash, sizeof(hash), "%016" PRIx64, record->hash);
	json_add_string(object, "hash", hash);
	return object;
}
