/* Bytes of the cluster's record, tokens, people, ids and audit records, for snapshots. A failure
 * shows in the reader. */
#ifndef BLIX_CORE_MEMBER_CODEC_H
#define BLIX_CORE_MEMBER_CODEC_H

#include "core/audit.h"
#include "core/codec.h"
#include "core/member.h"

void put_cluster(struct buf *out, const struct cluster *cluster);
void get_cluster(struct codec *in, struct cluster *cluster);
void put_token(struct buf *out, const struct token *token);
void get_token(struct codec *in, struct token *token);
void put_user(struct buf *out, const struct user *user);
void get_user(struct codec *in, struct user *user);
void put_id_set(struct buf *out, const struct ids *ids);
void get_id_set(struct codec *in, struct ids *ids, uint32_t max);
void put_audit_record(struct buf *out, const struct audit_record *record);
void get_audit_record(struct codec *in, struct audit_record *record);

#endif
