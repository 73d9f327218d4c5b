/* Generations: every system that a VM was locked to, numbered from 1 in the state, never reused.
 *
 * A VM keeps a bounded list, oldest first. One is wanted (vm->generation), one is built on its node
 * (generation_current), one runs or ran last (generation_booted). vm->resolved is always that of
 * the wanted one. Whoever edits the list of a VM in the state keeps the lock table's counts right:
 * state_generation.c does.
 */
#ifndef BLIX_CORE_GENERATION_H
#define BLIX_CORE_GENERATION_H

#include "core/vm.h"

struct generation {
	uint64_t number;
	uint64_t created_ms; /* cluster clock */
	char *flake, *attr;  /* what was locked */
	char *by;            /* who asked for it: "uid:0", "" the cluster */
	struct vm_resolved resolved;
};

/* NULL: not kept, or never was. */
const struct generation *generation_find(const struct vm *vm, uint64_t number);
/* Adds one behind the others with the next number; copies. */
const struct generation *generation_add(struct vm *vm, const struct vm_resolved *resolved,
                                        const char *flake, const char *attr, const char *by,
                                        uint64_t clock_ms);
void generation_remove(struct vm *vm, uint64_t number);
/* The generation that gives this runner: the wanted one if it does, else the newest; 0: none. */
uint64_t generation_of_runner(const struct vm *vm, const char *runner);
/* Wanted, built, booted, or part of an update under way: must not go. */
bool generation_in_use(const struct vm *vm, uint64_t number);
/* The oldest one that may go because there are more than `keep` (0: no bound) or because it is
 * older than keep_ms (0: no bound); 0: none. */
uint64_t generation_victim(const struct vm *vm, uint64_t keep, uint64_t keep_ms, uint64_t clock_ms);
/* The newest one before the wanted; 0: none. */
uint64_t generation_before(const struct vm *vm);
/* It runs another runner than the wanted one. */
bool vm_is_stale(const struct vm *vm);

/* Of vm.c, for owners of a whole VM. */
void generations_done(struct vm *vm);
void generations_copy(struct vm *to, const struct vm *from); /* `to` has none */
/* An empty one behind the others, for who reads bytes. */
struct generation *generation_push(struct vm *vm);

#endif
