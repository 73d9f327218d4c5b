/* Bytes of the commands about the cluster itself, its nodes, people and denials: fields in the
 * order of their structs. What a field may say is checked when it is applied; here only what would
 * not fit. */
#include "core/command_internal.h"
#include "core/object_codec.h"

void put_cluster_init(struct buf *out, const struct command *c)
{
	put_string(out, c->cluster_init.id);
	put_string(out, c->cluster_init.ca);
	put_u32(out, c->cluster_init.level);
	put_u32(out, c->cluster_init.voters);
	put_u64(out, c->cluster_init.node);
	put_string(out, c->cluster_init.name);
	put_string(out, c->cluster_init.zone);
	put_string(out, c->cluster_init.serial);
}

void get_cluster_init(struct codec *in, struct command *c)
{
	get_name(in, c->cluster_init.id, sizeof(c->cluster_init.id));
	get_name(in, c->cluster_init.ca, sizeof(c->cluster_init.ca));
	c->cluster_init.level = get_u32(in);
	c->cluster_init.voters = get_u32(in);
	c->cluster_init.node = get_u64(in);
	get_name(in, c->cluster_init.name, sizeof(c->cluster_init.name));
	get_name(in, c->cluster_init.zone, sizeof(c->cluster_init.zone));
	get_name(in, c->cluster_init.serial, sizeof(c->cluster_init.serial));
}

void put_cluster_set(struct buf *out, const struct command *c)
{
	put_u64(out, c->cluster_set.if_version);
	put_u32(out, c->cluster_set.voters);
}

void get_cluster_set(struct codec *in, struct command *c)
{
	c->cluster_set.if_version = get_u64(in);
	c->cluster_set.voters = get_u32(in);
}

void put_feature_level(struct buf *out, const struct command *c)
{
	put_u32(out, c->feature_level.level);
}

void get_feature_level(struct codec *in, struct command *c)
{
	c->feature_level.level = get_u32(in);
}

void put_token_create(struct buf *out, const struct command *c)
{
	put_string(out, c->token_create.name);
	put_u32(out, c->token_create.role);
	put_string(out, c->token_create.hash);
	put_u64(out, c->token_create.ttl_ms);
}

void get_token_create(struct codec *in, struct command *c)
{
	get_name(in, c->token_create.name, sizeof(c->token_create.name));
	c->token_create.role = (enum node_role)get_enum(in, NODE_ROLE_COUNT);
	get_name(in, c->token_create.hash, sizeof(c->token_create.hash));
	c->token_create.ttl_ms = get_u64(in);
}

void put_token_delete(struct buf *out, const struct command *c)
{
	put_string(out, c->token_delete.name);
	put_u64(out, c->token_delete.uid);
}

void get_token_delete(struct codec *in, struct command *c)
{
	get_name(in, c->token_delete.name, sizeof(c->token_delete.name));
	c->token_delete.uid = get_u64(in);
}

void put_token_expire(struct buf *out, const struct command *c)
{
	put_u64(out, c->token_expire.uid);
}

void get_token_expire(struct codec *in, struct command *c)
{
	c->token_expire.uid = get_u64(in);
}

void put_node_join(struct buf *out, const struct command *c)
{
	put_string(out, c->node_join.token);
	put_u64(out, c->node_join.id);
	put_string(out, c->node_join.name);
	put_string(out, c->node_join.key);
	put_string(out, c->node_join.serial);
	put_string(out, c->node_join.zone);
	put_facts(out, &c->node_join.facts);
}

void get_node_join(struct codec *in, struct command *c)
{
	get_name(in, c->node_join.token, sizeof(c->node_join.token));
	c->node_join.id = get_u64(in);
	get_name(in, c->node_join.name, sizeof(c->node_join.name));
	get_name(in, c->node_join.key, sizeof(c->node_join.key));
	get_name(in, c->node_join.serial, sizeof(c->node_join.serial));
	get_name(in, c->node_join.zone, sizeof(c->node_join.zone));
	get_facts(in, &c->node_join.facts);
}

void put_node_set(struct buf *out, const struct command *c)
{
	put_string(out, c->node_set.name);
	put_u64(out, c->node_set.if_version);
	put_u32(out, c->node_set.fields);
	put_u8(out, c->node_set.schedulable);
	put_u8(out, c->node_set.maintenance);
	put_u32(out, c->node_set.vote);
	put_string(out, c->node_set.zone);
}

void get_node_set(struct codec *in, struct command *c)
{
	get_name(in, c->node_set.name, sizeof(c->node_set.name));
	c->node_set.if_version = get_u64(in);
	c->node_set.fields = get_u32(in);
	c->node_set.schedulable = get_bool(in);
	c->node_set.maintenance = get_bool(in);
	c->node_set.vote = (enum node_vote)get_enum(in, NODE_VOTE_COUNT);
	get_name(in, c->node_set.zone, sizeof(c->node_set.zone));
	in->failed = in->failed || c->node_set.fields > NODE_SET_ALL;
}

void put_node_certificate(struct buf *out, const struct command *c)
{
	put_u64(out, c->node_certificate.id);
	put_string(out, c->node_certificate.serial);
}

void get_node_certificate(struct codec *in, struct command *c)
{
	c->node_certificate.id = get_u64(in);
	get_name(in, c->node_certificate.serial, sizeof(c->node_certificate.serial));
}

void put_node_remove(struct buf *out, const struct command *c)
{
	put_string(out, c->node_remove.name);
	put_u64(out, c->node_remove.if_version);
	put_u8(out, c->node_remove.dead);
}

void get_node_remove(struct codec *in, struct command *c)
{
	get_name(in, c->node_remove.name, sizeof(c->node_remove.name));
	c->node_remove.if_version = get_u64(in);
	c->node_remove.dead = get_bool(in);
}

void put_node_left(struct buf *out, const struct command *c)
{
	put_u64(out, c->node_left.id);
}

void get_node_left(struct codec *in, struct command *c)
{
	c->node_left.id = get_u64(in);
}

void put_user_create(struct buf *out, const struct command *c)
{
	put_string(out, c->user_create.name);
	put_u32(out, c->user_create.role);
	put_string(out, c->user_create.serial);
}

void get_user_create(struct codec *in, struct command *c)
{
	get_name(in, c->user_create.name, sizeof(c->user_create.name));
	c->user_create.role = (enum user_role)get_enum(in, USER_ROLE_COUNT);
	get_name(in, c->user_create.serial, sizeof(c->user_create.serial));
}

void put_user_set(struct buf *out, const struct command *c)
{
	put_string(out, c->user_set.name);
	put_u64(out, c->user_set.if_version);
	put_u32(out, c->user_set.role);
	put_string(out, c->user_set.serial);
}

void get_user_set(struct codec *in, struct command *c)
{
	get_name(in, c->user_set.name, sizeof(c->user_set.name));
	c->user_set.if_version = get_u64(in);
	c->user_set.role = (enum user_role)get_enum(in, USER_ROLE_COUNT);
	get_name(in, c->user_set.serial, sizeof(c->user_set.serial));
}

void put_user_delete(struct buf *out, const struct command *c)
{
	put_string(out, c->user_delete.name);
	put_u64(out, c->user_delete.if_version);
}

void get_user_delete(struct codec *in, struct command *c)
{
	get_name(in, c->user_delete.name, sizeof(c->user_delete.name));
	c->user_delete.if_version = get_u64(in);
}

void put_deny(struct buf *out, const struct command *c)
{
	put_string(out, c->deny.serial);
	put_u64(out, c->deny.node);
}

void get_deny(struct codec *in, struct command *c)
{
	get_name(in, c->deny.serial, sizeof(c->deny.serial));
	c->deny.node = get_u64(in);
}
