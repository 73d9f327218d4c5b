/* Between command.c and command_member.c only: how the commands about members are written and read.
 */
#ifndef BLIX_CORE_COMMAND_INTERNAL_H
#define BLIX_CORE_COMMAND_INTERNAL_H

#include "core/codec.h"
#include "core/command.h"

void put_cluster_init(struct buf *out, const struct command *c);
void get_cluster_init(struct codec *in, struct command *c);
void put_cluster_set(struct buf *out, const struct command *c);
void get_cluster_set(struct codec *in, struct command *c);
void put_feature_level(struct buf *out, const struct command *c);
void get_feature_level(struct codec *in, struct command *c);
void put_token_create(struct buf *out, const struct command *c);
void get_token_create(struct codec *in, struct command *c);
void put_token_delete(struct buf *out, const struct command *c);
void get_token_delete(struct codec *in, struct command *c);
void put_token_expire(struct buf *out, const struct command *c);
void get_token_expire(struct codec *in, struct command *c);
void put_node_join(struct buf *out, const struct command *c);
void get_node_join(struct codec *in, struct command *c);
void put_node_set(struct buf *out, const struct command *c);
void get_node_set(struct codec *in, struct command *c);
void put_node_certificate(struct buf *out, const struct command *c);
void get_node_certificate(struct codec *in, struct command *c);
void put_node_remove(struct buf *out, const struct command *c);
void get_node_remove(struct codec *in, struct command *c);
void put_node_left(struct buf *out, const struct command *c);
void get_node_left(struct codec *in, struct command *c);
void put_user_create(struct buf *out, const struct command *c);
void get_user_create(struct codec *in, struct command *c);
void put_user_set(struct buf *out, const struct command *c);
void get_user_set(struct codec *in, struct command *c);
void put_user_delete(struct buf *out, const struct command *c);
void get_user_delete(struct codec *in, struct command *c);
void put_deny(struct buf *out, const struct command *c);
void get_deny(struct codec *in, struct command *c);

#endif
