/* What of the state lies after a watch's position: see watch_item.h.
 *
 * VMs and nodes bear the revision that changed them last, and nearly every command of the log
 * changes one of them, so a watch sends one line for a revision. A host that restarts or is removed
 * changes all its VMs at once: all lines of such a revision but the last say that more follow. A VM
 * that is gone is known by its event. Events are sent by revision, all of one together, up to
 * EVENTS_LINE. */
#include "node/watch_item.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/parse.h"
#include "core/object_json.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#define EVENTS_LINE 100 /* about 50 KiB, a fifth of what a piece of an answer holds */

static const char *const kind_names[WATCH_KIND_COUNT] = {"vm", "node", "event"};

int watch_init(struct watch *watch, const char *kind, const char *name, const char *labels,
               uint64_t revision, struct blix_error *err)
{
	const struct labels none = {0};
	unsigned found = 0;
	bool match;
	int rc = 0;

	if (kind == NULL)
		return blix_fail(err, BLIX_E_INVALID, "kind is missing: vm, node or event");
	while (found < WATCH_KIND_COUNT && strcmp(kind_names[found], kind) != 0)
		found++;
	if (found == WATCH_KIND_COUNT)
		return blix_fail(err, BLIX_E_INVALID, "kind is vm, node or event");
	if (labels != NULL && found != WATCH_VM)
		return blix_fail(err, BLIX_E_INVALID, "only VMs have labels");
	if (name != NULL)
		rc = parse_name("name", name, err);
	if (rc == 0 && labels != NULL)
		rc = labels_match(&none, labels, &match, err);
	if (rc < 0)
		return rc;
	*watch = (struct watch){
		.kind = (enum watch_kind)found, .fresh = revision == 0, .at = revision};
	watch->name = name != NULL ? xstrdup(name) : NULL;
	watch->labels = labels != NULL ? xstrdup(labels) : NULL;
	return 0;
}

void watch_done(struct watch *watch)
{
	free(watch->name);
	free(watch->labels);
}

static void item_done(struct watch_item *item)
{
	if (item->vm != NULL)
		vm_unref(item->vm);
	if (item->node != NULL)
		node_unref(item->node);
	free(item->name);
}

void watch_items_done(struct watch_items *items)
{
	for (size_t i = items->at; i < items->n; i++)
		item_done(&items->items[i]);
	free(items->items);
	memset(items, 0, sizeof(*items));
}

static struct watch_item *item_add(struct watch_items *items, uint64_t revision, uint64_t uid)
{
	struct watch_item *item;

	if (items->n == items->size) {
		items->size = items->size == 0 ? 1 : items->size * 2;
		items->items = xreallocarray(items->items, items->size, sizeof(*items->items));
	}
	item = &items->items[items->n++];
	*item = (struct watch_item){.revision = revision, .uid = uid};
	return item;
}

static int by_revision(const void *a, const void *b)
{
	uint64_t left = ((const struct watch_item *)a)->revision;
	uint64_t right = ((const struct watch_item *)b)->revision;

	return left < right ? -1 : left > right;
}

bool watch_is_behind(const struct watch *watch, const struct state *state)
{
	return watch->fresh || watch->at < state->revision;
}

bool watch_reaches(const struct watch *watch, const struct state *state)
{
	return watch->fresh || watch->kind == WATCH_NODE || watch->at >= state->revision ||
	       state->n_events < LIMIT_EVENTS || state_event(state, 0)->revision <= watch->at;
}

/* The first event after the revision. */
static size_t first_event(const struct state *state, uint64_t revision)
{
	size_t low = 0, high = state->n_events;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (state_event(state, mid)->revision <= revision)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool is_named(const struct watch *watch, const char *name)
{
	return watch->name == NULL || strcmp(watch->name, name) == 0;
}

static bool is_deletion(const struct watch *watch, const struct event *event)
{
	return strcmp(event->kind, "vm") == 0 && strcmp(event->reason, "vm-deleted") == 0 &&
	       is_named(watch, event->name);
}

static void collect_vm(const struct watch *watch, struct vm *vm, struct watch_items *items)
{
	bool match = true;

	if (vm->revision <= watch->at || !is_named(watch, vm->name))
		return;
	if (watch->labels != NULL)
		(void)labels_match(&vm->spec.labels, watch->labels, &match, NULL);
	if (match)
		item_add(items, vm->revision, vm->uid)->vm = vm_ref(vm);
	else if (!watch->fresh && vm->version > 1) /* one that was edited may have matched once */
		item_add(items, vm->revision, vm->uid)->name = xstrdup(vm->name);
}

static struct vm *vm_of(const struct state *state, uint64_t uid)
{
	/* The state's own pointer: only what it points to is to be left alone. */
	return (struct vm *)(uintptr_t)state_vm_uid(state, uid);
}

static void collect_vms(const struct watch *watch, const struct state *state,
                        const struct changes *changes, struct watch_items *items)
{
	struct vm *vm = NULL;

	if (watch->name != NULL) {
		vm = (struct vm *)(uintptr_t)state_vm(state, watch->name);
		if (vm != NULL)
			collect_vm(watch, vm, items);
	} else if (watch->fresh || watch->at < changes->since) {
		for (size_t i = 0; i < state->n_vms; i++)
			collect_vm(watch, state->vms[i], items);
	} else {
		for (size_t i = 0; i < changes->n && changes_at(changes, i)->revision > watch->at;
		     i++) {
			vm = vm_of(state, changes_at(changes, i)->uid);
			/* Else it changed again, and comes with that. */
			if (vm != NULL && vm->revision == changes_at(changes, i)->revision)
				collect_vm(watch, vm, items);
		}
	}
	if (watch->fresh)
		return;
	for (size_t i = first_event(state, watch->at); i < state->n_events; i++) {
		const struct event *event = state_event(state, i);
		struct watch_item *item;

		if (!is_deletion(watch, event))
			continue;
		item = item_add(items, event->revision, event->uid);
		item->name = xstrdup(event->name);
		item->deleted = true;
	}
}

static void collect_nodes(const struct watch *watch, const struct state *state,
                          struct watch_items *items)
{
	for (size_t i = 0; i < state->n_nodes; i++) {
		struct node *node = state->nodes[i];

		if (node->revision > watch->at && is_named(watch, node->name))
			item_add(items, node->revision, 0)->node = node_ref(node);
	}
}

/* The next revision that has some, or the next part of it; the position is there with the last. */
static bool collect_event(struct watch *watch, const struct state *state, struct watch_items *items)
{
	struct watch_item *item;
	uint64_t revision = 0;
	size_t n = 0;

	for (size_t i = first_event(state, watch->at); i < state->n_events; i++) {
		const struct event *event = state_event(state, i);

		if (revision != 0 && event->revision != revision)
			break;
		if (!is_named(watch, event->name))
			continue;
		revision = event->revision;
		n++;
	}
	if (n == 0)
		return false;
	item = item_add(items, revision, 0);
	item->first = watch->part;
	item->n = n - watch->part < EVENTS_LINE ? n - watch->part : EVENTS_LINE;
	item->more = item->first + item->n < n;
	watch->part = item->more ? item->first + item->n : 0;
	if (!item->more)
		watch->at = revision;
	return true;
}

void watch_collect(struct watch *watch, const struct state *state, const struct changes *changes,
                   struct watch_items *items)
{
	bool more = false;

	assert(items->at == items->n);
	items->n = items->at = 0;
	if (watch->kind == WATCH_VM)
		collect_vms(watch, state, changes, items);
	else if (watch->kind == WATCH_NODE)
		collect_nodes(watch, state, items);
	else
		more = collect_event(watch, state, items);
	if (items->n > 1)
		qsort(items->items, items->n, sizeof(*items->items), by_revision);
	for (size_t i = 0; i + 1 < items->n; i++)
		items->items[i].more = items->items[i].revision == items->items[i + 1].revision;
	watch->fresh = false;
	if (!more && state->revision > watch->at)
		watch->at = state->revision;
}

static cJSON *events_json(const struct watch *watch, const struct state *state,
                          const struct watch_item *item)
{
	cJSON *list = json_array();
	size_t k = 0;

	for (size_t i = first_event(state, item->revision - 1);
	     i < state->n_events && state_event(state, i)->revision == item->revision; i++) {
		if (!is_named(watch, state_event(state, i)->name))
			continue;
		if (k >= item->first && k < item->first + item->n)
			json_push(list, event_json(state_event(state, i)));
		k++;
	}
	return list;
}

static void put_vm(const struct watch_item *item, const struct state *state, cJSON *line)
{
	char uid[24];

	if (item->vm != NULL) {
		json_add_string(line, "type", "object");
		json_add_u64(line, "revision", item->revision);
		json_add(line, "object", vm_json(item->vm, state));
		return;
	}
	json_add_string(line, "type", item->deleted ? "deleted" : "left");
	json_add_u64(line, "revision", item->revision);
	json_add_string(line, "name", item->name);
	(void)snprintf(uid, sizeof(uid), "%" PRIu64, item->uid);
	json_add_string(line, "uid", uid);
}

void watch_put(const struct watch *watch, size_t index, const struct state *state,
               struct watch_items *items, struct buf *out)
{
	cleanup(json_freep) cJSON *line = json_object();
	struct watch_item *item;

	assert(items->at < items->n);
	item = &items->items[items->at++];
	json_add_u64(line, "watch", index);
	if (watch->kind == WATCH_VM) {
		put_vm(item, state, line);
	} else {
		json_add_string(line, "type", watch->kind == WATCH_NODE ? "object" : "events");
		json_add_u64(line, "revision", item->revision);
	}
	if (item->more || item->first > 0)
		json_add_u64(line, "part", item->first);
	if (item->more)
		json_add_bool(line, "more", true);
	if (watch->kind == WATCH_NODE)
		json_add(line, "object", node_json(item->node));
	else if (watch->kind == WATCH_EVENT)
		json_add(line, "events", events_json(watch, state, item));
	(void)json_print(line, out);
	(void)buf_add_string(out, "\n");
	item_done(item);
	if (items->at == items->n) {
		free(items->items);
		memset(items, 0, sizeof(*items));
	}
}

static bool event_is_new(const struct watch *watch, const struct state *state)
{
	for (size_t i = first_event(state, watch->at); i < state->n_events; i++) {
		const struct event *event = state_event(state, i);

		if (watch->kind == WATCH_EVENT ? is_named(watch, event->name)
		                               : is_deletion(watch, event))
			return true;
	}
	return false;
}

bool watch_has_news(struct watch *watch, const struct state *state, const struct changes *changes,
                    uint64_t nodes)
{
	const struct vm *vm;
	bool news = watch->fresh || !watch_reaches(watch, state);

	if (news || watch->at >= state->revision)
		return news;
	if (watch->kind == WATCH_NODE) {
		news = nodes > watch->at;
	} else if (watch->kind == WATCH_VM && watch->name == NULL) {
		news = changes->n == 0 || watch->at < changes->since ||
		       changes_at(changes, 0)->revision > watch->at;
	} else if (watch->kind == WATCH_VM) {
		vm = state_vm(state, watch->name);
		news = (vm != NULL && vm->revision > watch->at) || event_is_new(watch, state);
	} else {
		news = event_is_new(watch, state);
	}
	if (!news)
		watch->at = state->revision;
	return news;
}
