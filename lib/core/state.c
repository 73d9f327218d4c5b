/* The state's containers: lookup, editing under copy on write with the sums kept right, events,
 * locks, and the shared view that a snapshot is written from. What commands do is state_apply.c. */
#include "core/state_internal.h"

#include "base/alloc.h"
#include "base/json.h"
#include "core/generation.h"
#include "core/node.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct state *state_new(void)
{
	struct state *s = xcalloc(1, sizeof(*s));

	members_init(&s->members);
	return s;
}

static void lock_unref(struct lock *lock)
{
	if (--lock->refs > 0)
		return;
	free(lock->text);
	free(lock);
}

void state_done(struct state *s)
{
	for (size_t i = 0; i < s->n_vms; i++)
		vm_unref(s->vms[i]);
	for (size_t i = 0; i < s->n_nodes; i++)
		node_unref(s->nodes[i]);
	for (size_t i = 0; i < s->n_locks; i++)
		lock_unref(s->locks[i]);
	for (size_t i = 0; i < s->n_sessions; i++)
		session_unref(s->sessions[i]);
	free((void *)s->vms);
	free((void *)s->by_uid);
	free((void *)s->nodes);
	free((void *)s->locks);
	free((void *)s->sessions);
	free(s->events);
	members_done(&s->members);
	audit_done(&s->audit);
	memset(s, 0, sizeof(*s));
}

void state_free(struct state *s)
{
	if (s == NULL)
		return;
	state_done(s);
	free(s);
}

/* Lookups: the index of the first element not before the key; *ret_found says if it is the key's.
 */
size_t state_find_name(const struct state *s, const char *name, bool *ret_found)
{
	size_t low = 0, high = s->n_vms;

	*ret_found = false;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = strcmp(s->vms[mid]->name, name);

		if (order == 0) {
			*ret_found = true;
			return mid;
		}
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

#define FIND_BY(array_, n_, key_of_, key_)                                                         \
	size_t low = 0, high = (n_);                                                               \
	while (low < high) {                                                                       \
		size_t mid = low + (high - low) / 2;                                               \
		if ((array_)[mid]->key_of_ < (key_))                                               \
			low = mid + 1;                                                             \
		else                                                                               \
			high = mid;                                                                \
	}                                                                                          \
	*ret_found = low < (n_) && (array_)[low]->key_of_ == (key_);                               \
	return low

size_t state_find_uid(const struct state *s, uint64_t uid, bool *ret_found)
{
	FIND_BY(s->by_uid, s->n_vms, uid, uid);
}

size_t state_find_node(const struct state *s, uint64_t id, bool *ret_found)
{
	FIND_BY(s->nodes, s->n_nodes, id, id);
}

size_t state_find_session(const struct state *s, uint64_t id, bool *ret_found)
{
	FIND_BY(s->sessions, s->n_sessions, id, id);
}

static size_t state_find_lock(const struct state *s, uint64_t hash, bool *ret_found)
{
	FIND_BY(s->locks, s->n_locks, hash, hash);
}

const struct vm *state_vm(const struct state *s, const char *name)
{
	bool found;
	size_t i = state_find_name(s, name, &found);

	return found ? s->vms[i] : NULL;
}

const struct vm *state_vm_uid(const struct state *s, uint64_t uid)
{
	bool found;
	size_t i = state_find_uid(s, uid, &found);

	return found ? s->by_uid[i] : NULL;
}

const struct node *state_node(const struct state *s, uint64_t id)
{
	bool found;
	size_t i = state_find_node(s, id, &found);

	return found ? s->nodes[i] : NULL;
}

const struct node *state_node_named(const struct state *s, const char *name)
{
	for (size_t i = 0; i < s->n_nodes; i++) {
		if (strcmp(s->nodes[i]->name, name) == 0)
			return s->nodes[i];
	}
	return NULL;
}

const char *state_lock(const struct state *s, uint64_t hash)
{
	bool found;
	size_t i = state_find_lock(s, hash, &found);

	return found ? s->locks[i]->text : NULL;
}

const struct event *state_event(const struct state *s, size_t i)
{
	assert(i < s->n_events);
	return &s->events[(s->first_event + i) % s->size_events];
}

/* Inserts a pointer at `at` of an array of n with room for *size. */
void state_insert(void ***array, size_t *n, size_t *size, size_t at, void *item)
{
	if (*n == *size) {
		*size = *size < 16 ? 16 : *size * 2;
		*array = xreallocarray((void *)*array, *size, sizeof(void *));
	}
	memmove((void *)(*array + at + 1), (void *)(*array + at), (*n - at) * sizeof(void *));
	(*array)[at] = item;
	(*n)++;
}

void state_remove(void **array, size_t *n, size_t at)
{
	assert(at < *n);
	memmove((void *)(array + at), (void *)(array + at + 1), (*n - at - 1) * sizeof(void *));
	(*n)--;
}

/* Adds or takes away what a committed VM holds on its node. */
static void account(struct state *s, const struct vm *vm, bool add)
{
	struct vm_held held = vm_commits(vm);
	struct node *node;
	bool found;
	size_t i;

	s->phases[vm->phase] += add ? 1 : (uint64_t)-1;
	s->generations += add ? vm->n_generations : (uint64_t) - (int64_t)vm->n_generations;
	if (vm->update.step != UPDATE_IDLE)
		s->updates += add ? 1 : (uint64_t)-1;
	if (!vm_is_committed(vm))
		return;
	i = state_find_node(s, vm->node, &found);
	if (!found)
		return;
	node = node_own(&s->nodes[i]);
	if (!add)
		assert(node->committed_bytes >= held.bytes && node->vms > 0);
	node->committed_cpus += add ? held.cpus : (uint64_t) - (int64_t)held.cpus;
	node->committed_bytes += add ? held.bytes : (uint64_t) - (int64_t)held.bytes;
	node->vms += add ? 1 : (uint32_t)-1;
}

struct vm *state_edit(struct state *s, const struct vm *vm)
{
	bool found;
	size_t by_name = state_find_name(s, vm->name, &found);
	size_t by_uid;

	assert(found);
	by_uid = state_find_uid(s, vm->uid, &found);
	assert(found);
	account(s, vm, false);
	s->by_uid[by_uid] = vm_own(&s->vms[by_name]);
	return s->vms[by_name];
}

void state_edited(struct state *s, struct vm *vm)
{
	account(s, vm, true);
	vm->revision = s->revision;
	/* The results of commands are the same for two states that differ: some of what decides
	 * about a VM is in the chain too. */
	chain_add(s, vm->uid);
	chain_add(s, vm->epoch << 8 | (uint64_t)vm->phase);
}

void state_add_vm(struct state *s, struct vm *vm)
{
	size_t size = s->size_vms, n = s->n_vms;
	bool found;
	size_t at = state_find_name(s, vm->name, &found);

	assert(!found);
	state_insert((void ***)(void *)&s->vms, &n, &size, at, vm);
	if (size != s->size_vms)
		s->by_uid = xreallocarray((void *)s->by_uid, size, sizeof(*s->by_uid));
	s->size_vms = size;
	at = state_find_uid(s, vm->uid, &found); /* uids grow: this is the end */
	memmove((void *)(s->by_uid + at + 1), (void *)(s->by_uid + at),
	        (s->n_vms - at) * sizeof(*s->by_uid));
	s->by_uid[at] = vm;
	s->n_vms = n;
	state_edited(s, vm);
}

void state_remove_vm(struct state *s, struct vm *vm)
{
	size_t n = s->n_vms;
	bool found;

	account(s, vm, false);
	for (uint32_t i = 0; i < vm->n_generations; i++)
		state_lock_drop(s, vm->generations[i].resolved.lock);
	state_remove((void **)s->vms, &n, state_find_name(s, vm->name, &found));
	n = s->n_vms;
	state_remove((void **)s->by_uid, &n, state_find_uid(s, vm->uid, &found));
	s->n_vms = n;
	vm_unref(vm);
}

uint64_t state_lock_add(struct state *s, const char *text, size_t n)
{
	uint64_t hash = XXH3_64bits(text, n);
	size_t size = s->n_locks, at;
	struct lock *lock;
	bool found;

	if (n == 0)
		return 0;
	hash = hash != 0 ? hash : 1;
	at = state_find_lock(s, hash, &found);
	if (found) {
		s->locks[at]->users++;
		return hash;
	}
	lock = xcalloc(1, sizeof(*lock));
	*lock = (struct lock){.refs = 1, .hash = hash, .users = 1, .text = xstrndup(text, n)};
	state_insert((void ***)(void *)&s->locks, &s->n_locks, &size, at, lock);
	return hash;
}

void state_lock_drop(struct state *s, uint64_t hash)
{
	bool found;
	size_t at = state_find_lock(s, hash, &found);

	if (!found || --s->locks[at]->users > 0)
		return;
	lock_unref(s->locks[at]);
	state_remove((void **)s->locks, &s->n_locks, at);
}

void state_emit(struct state *s, const char *kind, uint64_t uid, const char *name,
                const char *reason, const char *message)
{
	struct event *event;

	if (s->n_events == s->size_events && s->size_events < LIMIT_EVENTS) {
		assert(s->first_event == 0);
		s->size_events = s->size_events == 0 ? 64 : s->size_events * 2;
		s->events = xreallocarray(s->events, s->size_events, sizeof(*s->events));
	}
	if (s->n_events == s->size_events) {
		s->first_event = (s->first_event + 1) % s->size_events;
		s->n_events--;
	}
	event = &s->events[(s->first_event + s->n_events) % s->size_events];
	s->n_events++;
	memset(event, 0, sizeof(*event));
	event->revision = s->revision;
	event->clock_ms = s->clock_ms;
	event->uid = uid;
	(void)snprintf(event->kind, sizeof(event->kind), "%s", kind);
	(void)snprintf(event->name, sizeof(event->name), "%s", name);
	(void)snprintf(event->reason, sizeof(event->reason), "%s", reason);
	(void)snprintf(event->message, sizeof(event->message), "%s", message);
	json_clean(event->message);
}

struct state *state_view(struct state *s)
{
	struct state *view = xcalloc(1, sizeof(*view));

	*view = *s;
	members_copy(&view->members, &s->members);
	audit_copy(&view->audit, &s->audit);
	view->vms = xreallocarray(NULL, s->n_vms, sizeof(*s->vms));
	view->by_uid = NULL;
	view->nodes = xreallocarray(NULL, s->n_nodes, sizeof(*s->nodes));
	view->locks = xreallocarray(NULL, s->n_locks, sizeof(*s->locks));
	view->sessions = xreallocarray(NULL, s->n_sessions, sizeof(*s->sessions));
	view->events = xreallocarray(NULL, s->size_events, sizeof(*s->events));
	for (size_t i = 0; i < s->n_vms; i++)
		view->vms[i] = vm_ref(s->vms[i]);
	for (size_t i = 0; i < s->n_nodes; i++)
		view->nodes[i] = node_ref(s->nodes[i]);
	for (size_t i = 0; i < s->n_locks; i++) {
		view->locks[i] = s->locks[i];
		view->locks[i]->refs++;
	}
	for (size_t i = 0; i < s->n_sessions; i++) {
		view->sessions[i] = s->sessions[i];
		view->sessions[i]->refs++;
	}
	if (s->size_events > 0)
		memcpy(view->events, s->events, s->size_events * sizeof(*s->events));
	return view;
}

void state_view_free(struct state *view)
{
	state_free(view);
}
