/* The order of the fields is the format: see object_codec.c. */
#include "core/member_codec.h"

#include "core/state.h"

#include <string.h>

void put_cluster(struct buf *out, const struct cluster *cluster)
{
	put_string(out, cluster->id);
	put_string(out, cluster->ca);
	put_u64(out, cluster->incarnation);
	put_u32(out, cluster->level);
	put_u32(out, cluster->voters);
	put_u64(out, cluster->version);
	put_u64(out, cluster->revision);
	put_u64(out, cluster->created_ms);
}

void get_cluster(struct codec *in, struct cluster *cluster)
{
	memset(cluster, 0, sizeof(*cluster));
	get_name(in, cluster->id, sizeof(cluster->id));
	get_name(in, cluster->ca, sizeof(cluster->ca));
	cluster->incarnation = get_u64(in);
	cluster->level = get_u32(in);
	cluster->voters = get_u32(in);
	cluster->version = get_u64(in);
	cluster->revision = get_u64(in);
	cluster->created_ms = get_u64(in);
	if (cluster->level < 1 || !voters_are(cluster->voters))
		in->failed = true;
}

void put_token(struct buf *out, const struct token *token)
{
	put_string(out, token->name);
	put_u32(out, token->role);
	put_string(out, token->hash);
	put_u64(out, token->uid);
	put_u64(out, token->created_ms);
	put_u64(out, token->expires_ms);
	put_u64(out, token->node);
	put_string(out, token->by);
}

void get_token(struct codec *in, struct token *token)
{
	memset(token, 0, sizeof(*token));
	get_name(in, token->name, sizeof(token->name));
	token->role = (enum node_role)get_enum(in, NODE_ROLE_COUNT);
	get_name(in, token->hash, sizeof(token->hash));
	token->uid = get_u64(in);
	token->created_ms = get_u64(in);
	token->expires_ms = get_u64(in);
	token->node = get_u64(in);
	get_name(in, token->by, sizeof(token->by));
}

void put_user(struct buf *out, const struct user *user)
{
	put_string(out, user->name);
	put_u32(out, user->role);
	put_string(out, user->serial);
	put_u64(out, user->uid);
	put_u64(out, user->version);
	put_u64(out, user->revision);
	put_u64(out, user->created_ms);
	put_string(out, user->by);
}

void get_user(struct codec *in, struct user *user)
{
	memset(user, 0, sizeof(*user));
	get_name(in, user->name, sizeof(user->name));
	user->role = (enum user_role)get_enum(in, USER_ROLE_COUNT);
	get_name(in, user->serial, sizeof(user->serial));
	user->uid = get_u64(in);
	user->version = get_u64(in);
	user->revision = get_u64(in);
	user->created_ms = get_u64(in);
	get_name(in, user->by, sizeof(user->by));
}

void put_id_set(struct buf *out, const struct ids *ids)
{
	put_u32(out, (uint32_t)ids->n);
	for (size_t i = 0; i < ids->n; i++)
		put_u64(out, ids->items[i]);
}

void get_id_set(struct codec *in, struct ids *ids, uint32_t max)
{
	uint32_t n = get_enum(in, max + 1);

	for (uint32_t i = 0; i < n && !in->failed; i++)
		ids_add(ids, get_u64(in));
}

void put_audit_record(struct buf *out, const struct audit_record *record)
{
	put_u64(out, record->clock_ms);
	put_u64(out, record->revision);
	put_string(out, record->principal);
	put_string(out, record->verb);
	put_string(out, record->object);
	put_u32(out, record->code);
	put_u32(out, record->why);
	put_u64(out, record->hash);
}

void get_audit_record(struct codec *in, struct audit_record *record)
{
	memset(record, 0, sizeof(*record));
	record->clock_ms = get_u64(in);
	record->revision = get_u64(in);
	get_name(in, record->principal, sizeof(record->principal));
	get_name(in, record->verb, sizeof(record->verb));
	get_name(in, record->object, sizeof(record->object));
	record->code = (enum blix_code)get_enum(in, BLIX_CODE_COUNT);
	record->why = get_enum(in, REFUSAL_COUNT);
	record->hash = get_u64(in);
}
