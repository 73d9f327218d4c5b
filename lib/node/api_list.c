/* Lists that stream: VMs from a set of references taken when the answer begins, so that a list
 * shows one revision however long its client takes; events from the ring. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "core/object_json.h"
#include "node/read.h"

#include <stdio.h>

#define PIECE_BYTES 32768

struct vm_list {
	struct daemon *daemon;
	struct http_request *request;
	uint64_t revision;
	bool summary;
	char *labels;
	char *head;      /* made with the references: it must not name a later revision */
	struct vm **vms; /* references */
	size_t n, at;
};

static void vm_list_free(void *data)
{
	struct vm_list *list = data;

	for (size_t i = list->at; i < list->n; i++)
		vm_unref(list->vms[i]);
	free((void *)list->vms);
	free(list->labels);
	free(list->head);
	free(list);
}

/* {"kind":"VMList",...} */
static char *make_head(const struct vm_list *list)
{
	cleanup(json_freep) cJSON *head = json_object();

	json_add_string(head, "kind", "VMList");
	json_add_string(head, "apiVersion", BLIX_API_VERSION);
	api_add_staleness(list->daemon, head);
	return json_text(head);
}

/* The head without its end, open for items. */
static void put_head(const struct vm_list *list, struct buf *out)
{
	(void)buf_add(out, list->head, strlen(list->head) - 1);
	(void)buf_add_string(out, ",\"items\":[");
}

static void put_vm(const struct vm_list *list, const struct vm *vm, struct buf *out)
{
	cleanup(json_freep) cJSON *item = NULL;

	if (list->summary) {
		(void)vm_summary_print(vm, list->daemon->state, out);
		return;
	}
	item = vm_json(vm, list->daemon->state);
	(void)json_print(item, out);
}

static int vm_list_produce(void *data, struct buf *out)
{
	struct vm_list *list = data;
	bool more;

	if (list->at == 0)
		put_head(list, out);
	while (list->at < list->n && out->len < PIECE_BYTES) {
		struct vm *vm = list->vms[list->at];

		if (list->at > 0)
			(void)buf_add_string(out, ",");
		put_vm(list, vm, out);
		vm_unref(vm);
		list->at++;
	}
	more = list->at < list->n;
	if (!more)
		(void)buf_add_string(out, "]}");
	if (buf_failed(out))
		return -1;
	return more;
}

/* Takes the references and begins to answer. */
static void vm_list_answer(struct vm_list *list)
{
	const struct state *state = list->daemon->state;
	struct http_request *request = list->request;

	list->head = make_head(list);
	list->vms = xcalloc(state->n_vms, sizeof(*list->vms));
	for (size_t i = 0; i < state->n_vms; i++) {
		bool match = true;

		if (list->labels != NULL)
			(void)labels_match(&state->vms[i]->spec.labels, list->labels, &match, NULL);
		if (match)
			list->vms[list->n++] = vm_ref(state->vms[i]);
	}
	http_answer_stream(request, 200, "application/json", vm_list_produce, vm_list_free, list);
}

static bool vm_list_ready(const struct daemon *d, const void *data)
{
	return d->state->revision > ((const struct vm_list *)data)->revision;
}

static void vm_list_done(struct daemon *d, void *data, bool cancelled)
{
	(void)d;
	if (cancelled)
		vm_list_free(data);
	else
		vm_list_answer(data);
}

static int list_check(const char *view, const char *labels, struct blix_error *err)
{
	const struct labels none = {0};
	bool match;

	if (view != NULL && strcmp(view, "summary") != 0 && strcmp(view, "full") != 0)
		return blix_fail(err, BLIX_E_INVALID, "view must be summary or full");
	return labels != NULL ? labels_match(&none, labels, &match, err) : 0;
}

static void vm_list_read(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *view = http_query(request, "view"), *labels = http_query(request, "labels");
	struct vm_list *list;
	struct api_wait wait;
	struct blix_error err;

	if (list_check(view, labels, &err) < 0 || api_wait_parse(request, &wait, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	list = xcalloc(1, sizeof(*list));
	*list = (struct vm_list){.daemon = d,
	                         .request = request,
	                         .revision = wait.revision,
	                         .summary = view != NULL && strcmp(view, "summary") == 0,
	                         .labels = labels != NULL ? xstrdup(labels) : NULL};
	if (!wait.set || vm_list_ready(d, list))
		vm_list_answer(list);
	else
		daemon_wait(d, &(struct wait_options){.ready = vm_list_ready,
		                                      .cb = vm_list_done,
		                                      .data = list,
		                                      .request = request,
		                                      .deadline_ms = wait.wait_ms});
}

void vm_list_handle(struct http_request *request, void *data)
{
	api_read(data, request, vm_list_read);
}

struct event_poll {
	struct http_request *request;
	uint64_t revision;
	char name[LIMIT_NAME + 1]; /* "": all */
};

static bool event_matches(const struct event_poll *poll, const struct event *event)
{
	return event->revision > poll->revision &&
	       (poll->name[0] == '\0' || strcmp(event->name, poll->name) == 0);
}

static bool event_poll_ready(const struct daemon *d, const void *data)
{
	for (size_t i = d->state->n_events; i > 0; i--) {
		const struct event *event = state_event(d->state, i - 1);

		if (event_matches(data, event))
			return true;
		if (event->revision <= ((const struct event_poll *)data)->revision)
			break;
	}
	return false;
}

static void event_poll_done(struct daemon *d, void *data, bool cancelled)
{
	struct event_poll *poll = data;
	cleanup(json_freep) cJSON *list = json_object();
	cJSON *items = json_array();

	json_add_string(list, "kind", "EventList");
	json_add_string(list, "apiVersion", BLIX_API_VERSION);
	api_add_staleness(d, list);
	for (size_t i = 0; i < d->state->n_events; i++) {
		if (event_matches(poll, state_event(d->state, i)))
			json_push(items, event_json(state_event(d->state, i)));
	}
	json_add(list, "items", items);
	/* The ring forgets: a reader that asks from before its oldest event is told. */
	json_add_bool(list, "truncated",
	              d->state->n_events == LIMIT_EVENTS &&
	                      state_event(d->state, 0)->revision > poll->revision + 1);
	if (!cancelled)
		http_answer_json(poll->request, 200, list);
	free(poll);
}

static void event_list_read(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *name = http_query(request, "name");
	struct event_poll *poll;
	struct api_wait wait;
	struct blix_error err;

	if (api_wait_parse(request, &wait, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	poll = xcalloc(1, sizeof(*poll));
	*poll = (struct event_poll){.request = request, .revision = wait.revision};
	(void)snprintf(poll->name, sizeof(poll->name), "%s", name != NULL ? name : "");
	if (!wait.set || event_poll_ready(d, poll))
		event_poll_done(d, poll, false);
	else
		daemon_wait(d, &(struct wait_options){.ready = event_poll_ready,
		                                      .cb = event_poll_done,
		                                      .data = poll,
		                                      .request = request,
		                                      .deadline_ms = wait.wait_ms});
}

void event_list_handle(struct http_request *request, void *data)
{
	api_read(data, request, event_list_read);
}
