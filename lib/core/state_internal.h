/* Between the files of the state only: state.c, state_apply.c, state_snapshot.c. */
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

/* Locks are counted by the VMs that were resolved with them; 0 for an empty text. */
uint64_t state_lock_add(struct state *s, const char *text, size_t n);
void state_lock_drop(struct state *s, uint64_t hash);

void state_emit(struct state *s, const char *kind, uint64_t uid, const char *name,
                const char *reason, const char *message);

#endif
