/* Between the files of the state only:
 *
 * state.c             containers
 * state_dispatch.c    state_apply(): who may, once, what it did, and the audit of it
 * state_session.c     exactly once
 * state_apply.c       VMs: what people and the leader decide
 * state_report.c      VMs: what nodes saw
 * state_generation.c  VMs: their systems
 * state_set.c         VMs: edits
 * state_node.c        nodes: facts, phases, joining, leaving
 * state_cluster.c     the cluster's record, tokens, people, denials
 * state_snapshot.c    bytes */
#ifndef BLIX_CORE_STATE_INTERNAL_H
#define BLIX_CORE_STATE_INTERNAL_H

#include "core/state.h"

void state_done(struct state *s);
size_t state_find_name(const struct state *s, const char *name, bool *ret_found);
size_t state_find_uid(const struct state *s, uint64_t uid, bool *ret_found);
size_t state_find_node(const struct state *s, uint64_t id, bool *ret_found);
size_t state_find_session(const struct state *s, uint64_t id, bool *ret_found);
void state_insert(void ***array, size_t *n, size_t *size, size_t at, void *item);
void state_remove(void **array, size_t *n, size_t at);

/* Every change of a VM stands between these two: they keep the sums per node and per phase right,
 * leave a snapshot's copy alone, and stamp the revision. */
struct vm *state_edit(struct state *s, const struct vm *vm);
void state_edited(struct state *s, struct vm *vm);
void state_add_vm(struct state *s, struct vm *vm); /* the state's from here on */
void state_remove_vm(struct state *s, struct vm *vm);

/* Locks are counted by the generations that were resolved with them; 0 for an empty text. */
uint64_t state_lock_add(struct state *s, const char *text, size_t n);
void state_lock_drop(struct state *s, uint64_t hash);

void state_emit(struct state *s, const char *kind, uint64_t uid, const char *name,
                const char *reason, const char *message);

/* state_apply.c: what the functions of its table share */
void refuse(struct command_result *r, enum blix_code code, enum refusal why);
void vm_event(struct state *s, const struct vm *vm, const char *reason, const char *message);
void vm_why(struct vm *vm, enum blix_code code, const char *reason, const char *message);
/* The VM a decision of the leader or a finding of a node is about, if it is still current. */
const struct vm *current_vm(const struct state *s, uint64_t uid, struct command_result *r);

/* The VM a user's command names, if it may be changed. */
const struct vm *named_vm(const struct state *s, const char *name, uint64_t if_version,
                          struct command_result *r);
void begin_operation(struct state *s, struct vm *vm, const char *verb);
uint32_t operation_age_ms(const struct state *s, const struct vm *vm);
void mark_step(const struct state *s, struct vm *vm, enum operation_step step);
void vm_start(struct state *s, struct vm *vm);
void vm_stop(struct state *s, struct vm *vm, uint32_t grace_ms, bool restart);

/* state_generation.c */
void apply_update(struct state *s, const struct command *c, struct command_result *r);
void apply_update_due(struct state *s, const struct command *c, struct command_result *r);
void apply_generation_drop(struct state *s, const struct command *c, struct command_result *r);
/* The first lock of a VM. */
void generation_first(struct state *s, struct vm *vm, const struct command *c);
/* A node found what an update asks for, or why it cannot be. */
void update_resolved(struct state *s, struct vm *vm, const struct command *c);
/* After a report was folded in: what it means for an update under way. */
void update_reported(struct state *s, struct vm *vm, const struct vm_report *report);
void update_stop_asked(struct state *s, struct vm *vm);

/* The wanted system by the same lock, with the resources of today; booted at the next restart. */
void update_render(struct state *s, struct vm *vm, const struct vm_spec *before, char *by);

/* state_set.c */
void apply_set(struct state *s, const struct command *c, struct command_result *r);

/* state_apply.c */
void apply_create(struct state *s, const struct command *c, struct command_result *r);
void apply_power(struct state *s, const struct command *c, struct command_result *r);
void apply_delete(struct state *s, const struct command *c, struct command_result *r);
void apply_resolve(struct state *s, const struct command *c, struct command_result *r);
void apply_resolved(struct state *s, const struct command *c, struct command_result *r);
void apply_assign(struct state *s, const struct command *c, struct command_result *r);
void apply_verdict(struct state *s, const struct command *c, struct command_result *r);

/* state_report.c */
void apply_report(struct state *s, const struct command *c, struct command_result *r);
/* The host of the node was restarted: nothing that ran there lives. */
void vms_rebooted(struct state *s, uint64_t node);
/* Nothing of the node comes back: its VMs are free. */
void vms_orphaned(struct state *s, uint64_t node, const char *name);

/* state_node.c */
void apply_node_report(struct state *s, const struct command *c, struct command_result *r);
void apply_node_phase(struct state *s, const struct command *c, struct command_result *r);
void apply_node_join(struct state *s, const struct command *c, struct command_result *r);
void apply_node_set(struct state *s, const struct command *c, struct command_result *r);
void apply_node_certificate(struct state *s, const struct command *c, struct command_result *r);
void apply_node_remove(struct state *s, const struct command *c, struct command_result *r);
void apply_node_left(struct state *s, const struct command *c, struct command_result *r);
/* A record for the node, or the one that there is; to be filled. Stamped with the revision. */
struct node *state_node_make(struct state *s, uint64_t id, const char *name);

/* state_cluster.c */
void apply_cluster_init(struct state *s, const struct command *c, struct command_result *r);
void apply_cluster_set(struct state *s, const struct command *c, struct command_result *r);
void apply_feature_level(struct state *s, const struct command *c, struct command_result *r);
void apply_token_create(struct state *s, const struct command *c, struct command_result *r);
void apply_token_delete(struct state *s, const struct command *c, struct command_result *r);
void apply_token_expire(struct state *s, const struct command *c, struct command_result *r);
void apply_user_create(struct state *s, const struct command *c, struct command_result *r);
void apply_user_set(struct state *s, const struct command *c, struct command_result *r);
void apply_user_delete(struct state *s, const struct command *c, struct command_result *r);
void apply_deny(struct state *s, const struct command *c, struct command_result *r);

void session_unref(struct session *session);
/* state_session.c: NULL when the command must not run: *r is then its answer. */
struct session *session_begin(struct state *s, const struct command *c, struct command_result *r);
void session_end(struct session *session, const struct command *c, const struct command_result *r);
void apply_session_expire(struct state *s, const struct command *c, struct command_result *r);

/* Folds eight bytes into the chain. */
void chain_add(struct state *s, uint64_t value);

#endif
