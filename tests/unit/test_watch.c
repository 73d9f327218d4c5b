/* lib/node/watch_item.c and change.c: whatever a reader's pace, it gets the last of each object, in
 * order and once, by the ring of changes as by a look through the state. */
#include "base/alloc.h"
#include "base/json.h"
#include "core/state_internal.h"
#include "node/watch_item.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define NAMES 8

struct world {
	struct state *state;
	struct changes changes;
	uint64_t seed;
};

static unsigned roll(struct world *w, unsigned n)
{
	w->seed ^= w->seed >> 12;
	w->seed ^= w->seed << 25;
	w->seed ^= w->seed >> 27;
	return (unsigned)((w->seed * 0x2545f4914f6cdd1dULL) >> 33) % n;
}

static void apply(struct world *w, struct command *c)
{
	struct command_result result;
	uint64_t before = w->state->revision;

	state_begin(w->state, before == 0 ? UINT64_MAX : 1, 1);
	state_apply(w->state, c, &result);
	command_done(c);
	if (w->state->revision > before)
		changes_note(&w->changes, w->state->revision, result.uid);
}

/* Creates, edits or deletes one of a few VMs. */
static void happen(struct world *w)
{
	char name[8];
	struct command c;

	(void)snprintf(name, sizeof(name), "vm-%u", roll(w, NAMES));
	if (state_vm(w->state, name) == NULL) {
		command_init(&c, COMMAND_VM_CREATE);
		(void)snprintf(c.vm_create.name, sizeof(c.vm_create.name), "%s", name);
		xreplace(&c.vm_create.spec.flake, "github:me/vms");
		xreplace(&c.vm_create.spec.attr, "web");
	} else if (roll(w, 4) == 0) {
		command_init(&c, COMMAND_VM_DELETE);
		(void)snprintf(c.vm_delete.name, sizeof(c.vm_delete.name), "%s", name);
	} else {
		command_init(&c, COMMAND_VM_POWER);
		(void)snprintf(c.vm_power.name, sizeof(c.vm_power.name), "%s", name);
		c.vm_power.verb = roll(w, 2) == 0 ? VM_VERB_STOP : VM_VERB_START;
	}
	apply(w, &c);
}

/* What a reader has: of each name the version that it saw last, 0 for none. */
struct reader {
	struct watch watch;
	uint64_t last; /* revision of the last line */
	uint64_t versions[NAMES];
};

static void read_line(struct reader *r, const char *text, size_t n)
{
	cleanup(json_freep) cJSON *line = NULL;
	const char *type = NULL, *name = NULL;
	uint64_t revision = 0, version = 0;
	const cJSON *metadata;

	assert_int_equal(json_parse(text, n, &json_limits_answer, &line, NULL), 0);
	assert_int_equal(json_get_string(line, "type", &type, NULL), 0);
	assert_int_equal(json_get_u64(line, "revision", &revision, NULL), 0);
	assert_true(revision > r->last);
	r->last = revision;
	if (strcmp(type, "deleted") == 0) {
		assert_int_equal(json_get_string(line, "name", &name, NULL), 0);
		r->versions[name[3] - '0'] = 0;
		return;
	}
	assert_string_equal(type, "object");
	metadata = cJSON_GetObjectItemCaseSensitive(
		cJSON_GetObjectItemCaseSensitive(line, "object"), "metadata");
	assert_int_equal(json_get_string(metadata, "name", &name, NULL), 0);
	assert_int_equal(json_get_u64(metadata, "revision", &version, NULL), 0);
	assert_int_equal(version, revision);
	r->versions[name[3] - '0'] = version;
}

static void read_next(const struct world *w, struct reader *r, struct watch_items *items)
{
	cleanup(buf_done) struct buf out;

	buf_init(&out, LIMIT_HTTP_PIECE);
	watch_put(&r->watch, 0, w->state, items, &out);
	assert_false(buf_failed(&out));
	assert_int_equal(out.data[out.len - 1], '\n');
	read_line(r, out.data, out.len - 1);
}

static void read_all(const struct world *w, struct reader *r)
{
	struct watch_items items = {0};

	assert_true(watch_reaches(&r->watch, w->state));
	if (watch_is_behind(&r->watch, w->state))
		watch_collect(&r->watch, w->state, &w->changes, &items);
	while (items.at < items.n)
		read_next(w, r, &items);
	watch_items_done(&items);
}

static void check_reader(const struct world *w, const struct reader *r)
{
	char name[8];

	for (unsigned i = 0; i < NAMES; i++) {
		const struct vm *vm;

		(void)snprintf(name, sizeof(name), "vm-%u", i);
		vm = state_vm(w->state, name);
		if (r->watch.name == NULL || strcmp(r->watch.name, name) == 0)
			assert_int_equal(r->versions[i], vm != NULL ? vm->revision : 0);
		else
			assert_int_equal(r->versions[i], 0);
	}
}

/* Readers of different paces, one by name; one is moved to another server, which knows no changes.
 */
static void each_gets_the_last(void **state)
{
	struct world w = {.state = state_new(), .seed = 7};
	struct reader readers[4] = {0};

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(
			watch_init(&readers[i].watch, "vm", i == 3 ? "vm-3" : NULL, NULL, 0, NULL),
			0);
	for (unsigned turn = 0; turn < 3000; turn++) {
		for (unsigned n = roll(&w, 6); n > 0; n--)
			happen(&w);
		for (unsigned i = 0; i < 4; i++) {
			if (i > 0 && roll(&w, i * 8) != 0)
				continue;
			if (i == 2)
				changes_forget(&w.changes, w.state->revision);
			read_all(&w, &readers[i]);
			check_reader(&w, &readers[i]);
		}
	}
	for (unsigned i = 0; i < 4; i++)
		watch_done(&readers[i].watch);
	state_free(w.state);
}

/* What has no news is moved along without a look, and what has some says so. */
static void news_are_news(void **state)
{
	struct world w = {.state = state_new(), .seed = 9};
	struct watch named, all, event;
	uint64_t at;

	(void)state;
	for (unsigned i = 0; i < 50; i++)
		happen(&w);
	at = w.state->revision;
	assert_int_equal(watch_init(&named, "vm", "none", NULL, at, NULL), 0);
	assert_int_equal(watch_init(&all, "vm", NULL, NULL, at, NULL), 0);
	assert_int_equal(watch_init(&event, "event", "none", NULL, at, NULL), 0);
	assert_false(watch_has_news(&all, w.state, &w.changes, 0));
	while (w.state->revision == at)
		happen(&w);
	assert_true(watch_has_news(&all, w.state, &w.changes, 0));
	assert_int_equal(all.at, at);
	assert_false(watch_has_news(&named, w.state, &w.changes, 0));
	assert_int_equal(named.at, w.state->revision);
	assert_false(watch_has_news(&event, w.state, &w.changes, 0));
	assert_int_equal(event.at, w.state->revision);
	watch_done(&named);
	watch_done(&all);
	watch_done(&event);
	state_free(w.state);
}

/* Past the ring of events nothing is made up. */
static void history_ends(void **state)
{
	struct world w = {.state = state_new(), .seed = 11};
	struct watch old, node;
	uint64_t oldest;

	(void)state;
	while (w.state->n_events < LIMIT_EVENTS)
		happen(&w);
	happen(&w);
	happen(&w);
	oldest = state_event(w.state, 0)->revision;
	assert_int_equal(watch_init(&old, "event", NULL, NULL, oldest - 1, NULL), 0);
	assert_false(watch_reaches(&old, w.state));
	assert_true(watch_has_news(&old, w.state, &w.changes, 0)); /* that it is over */
	old.at = oldest;
	assert_true(watch_reaches(&old, w.state));
	assert_int_equal(watch_init(&node, "node", NULL, NULL, 1, NULL), 0);
	assert_true(watch_reaches(&node, w.state));
	watch_done(&old);
	watch_done(&node);
	state_free(w.state);
}

static void line_of(struct world *w, struct watch *watch, struct watch_items *items, cJSON **ret)
{
	cleanup(buf_done) struct buf out;

	if (items->at == items->n)
		watch_collect(watch, w->state, &w->changes, items);
	buf_init(&out, LIMIT_HTTP_PIECE);
	watch_put(watch, 0, w->state, items, &out);
	assert_int_equal(json_parse(out.data, out.len - 1, &json_limits_answer, ret, NULL), 0);
}

/* A host that is gone changes all its VMs at once: their lines hang together, and so do events that
 * are too many for one line. */
static void a_revision_of_many(void **state)
{
	struct world w = {.state = state_new(), .seed = 13};
	struct watch_items items = {0};
	struct watch vms, events;
	uint64_t revision, part;

	(void)state;
	while (w.state->n_vms < NAMES)
		happen(&w);
	revision = ++w.state->revision;
	for (size_t i = 0; i < w.state->n_vms; i++) {
		w.state->vms[i]->revision = revision;
		changes_note(&w.changes, revision, w.state->vms[i]->uid);
	}
	for (unsigned i = 0; i < 250; i++)
		state_emit(w.state, "vm", 7, "web", "vm-node-removed", "");
	assert_int_equal(watch_init(&vms, "vm", NULL, NULL, revision - 1, NULL), 0);
	assert_int_equal(watch_init(&events, "event", NULL, NULL, revision - 1, NULL), 0);
	for (unsigned i = 0; i < NAMES; i++) {
		cleanup(json_freep) cJSON *line = NULL;

		line_of(&w, &vms, &items, &line);
		assert_int_equal(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(line, "more")),
		                 i + 1 < NAMES);
	}
	assert_false(watch_is_behind(&vms, w.state));
	for (unsigned i = 0; i < 3; i++) {
		cleanup(json_freep) cJSON *line = NULL;

		assert_int_equal(events.at, revision - 1);
		line_of(&w, &events, &items, &line);
		part = 99;
		assert_int_equal(json_get_u64(line, "part", &part, NULL), 0);
		assert_int_equal(part, i * 100);
		assert_int_equal(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(line, "more")),
		                 i < 2);
		assert_int_equal(
			cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(line, "events")),
			i < 2 ? 100 : 50);
	}
	assert_int_equal(events.at, revision);
	watch_done(&vms);
	watch_done(&events);
	state_free(w.state);
}

static void changes_go_round(void **state)
{
	struct changes *changes = xcalloc(1, sizeof(*changes));

	(void)state;
	for (uint64_t i = 1; i <= LIMIT_CHANGES + 10; i++)
		changes_note(changes, i, i * 2);
	assert_int_equal(changes->n, LIMIT_CHANGES);
	assert_int_equal(changes->since, 10);
	assert_int_equal(changes_at(changes, 0)->revision, LIMIT_CHANGES + 10);
	assert_int_equal(changes_at(changes, LIMIT_CHANGES - 1)->revision, 11);
	assert_int_equal(changes_at(changes, LIMIT_CHANGES - 1)->uid, 22);
	changes_forget(changes, 99);
	assert_int_equal(changes->n, 0);
	assert_int_equal(changes->since, 99);
	free(changes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_gets_the_last), cmocka_unit_test(news_are_news),
		cmocka_unit_test(history_ends),       cmocka_unit_test(a_revision_of_many),
		cmocka_unit_test(changes_go_round),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
