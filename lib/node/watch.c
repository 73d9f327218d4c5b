/* Watches: see watch.h. What one connection sends, and when it is woken; what of the state lies
 * after a position is found in watch_item.c.
 *
 * Happy path: the request is parsed into a watcher, whose answer is a stream. produce() takes the
 * watches in turn, sends for each what lies after its position, and moves the position; with
 * nothing left it says so by a mark, and the connection sleeps until the state has changed or a
 * heartbeat is due. It fails before the answer (bad request, history gone, too many) by an error
 * object, later by a last line of type "end". */
#include "node/watch.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/object_json.h"
#include "node/api_internal.h"
#include "node/watch_item.h"

#define PIECE_BYTES      32768
#define HEARTBEAT_MS     15000
#define HEARTBEAT_MS_MIN 1000
#define HEARTBEAT_MS_MAX 60000

struct watcher {
	LIST_ENTRY(watcher) entry;
	struct daemon *daemon;
	struct http_request *request;
	struct watch *watches;
	size_t n;
	size_t turn; /* the watch whose items are being sent, or the next to be asked */
	struct watch_items items; /* of that watch */
	uint64_t heartbeat_ms;
	uv_timer_t timer;
	bool mark_due;
	bool asleep;
	enum blix_code ended; /* BLIX_OK: it goes on */
};

static void timer_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void watcher_free(void *data)
{
	struct watcher *w = data;

	LIST_REMOVE(w, entry);
	w->daemon->n_watches -= w->n;
	for (size_t i = 0; i < w->n; i++)
		watch_done(&w->watches[i]);
	free(w->watches);
	watch_items_done(&w->items);
	uv_close((uv_handle_t *)&w->timer, timer_closed);
}

static void wake(struct watcher *w)
{
	if (!w->asleep)
		return;
	w->asleep = false;
	http_stream_wake(w->request);
}

static void on_heartbeat(uv_timer_t *timer)
{
	struct watcher *w = timer->data;

	w->mark_due = true;
	wake(w);
}

static void put_line(struct buf *out, const cJSON *line)
{
	(void)json_print(line, out);
	(void)buf_add_string(out, "\n");
}

/* Everything up to here was sent. */
static void put_mark(struct watcher *w, struct buf *out)
{
	cleanup(json_freep) cJSON *line = json_object();

	w->mark_due = false;
	json_add_string(line, "type", "mark");
	api_add_staleness(w->daemon, line);
	put_line(out, line);
}

static void put_end(const struct watcher *w, struct buf *out)
{
	const struct blix_code_info *info = blix_code_info(w->ended);
	cleanup(json_freep) cJSON *line = json_object();

	json_add_string(line, "type", "end");
	json_add_string(line, "code", info->slug);
	json_add_string(line, "message",
	                w->ended == BLIX_E_GONE ? info->text : "the daemon is stopping");
	if (w->ended == BLIX_E_GONE)
		json_add_u64(line, "watch", w->turn);
	put_line(out, line);
}

/* The next watch that has something to send: its items are there. False: none has, or one cannot
 * go on. */
static bool next_items(struct watcher *w)
{
	const struct daemon *d = w->daemon;

	for (size_t i = 0; i < w->n; i++) {
		struct watch *watch = &w->watches[(w->turn + i) % w->n];

		if (!watch_is_behind(watch, d->state))
			continue;
		if (!watch_reaches(watch, d->state)) {
			w->turn = (w->turn + i) % w->n;
			w->ended = BLIX_E_GONE;
			return false;
		}
		watch_collect(watch, d->state, d->changes, &w->items);
		if (w->items.n > 0) {
			w->turn = (w->turn + i) % w->n;
			return true;
		}
	}
	return false;
}

static int watcher_produce(void *data, struct buf *out)
{
	struct watcher *w = data;

	w->asleep = false;
	while (out->len < PIECE_BYTES && w->ended == BLIX_OK) {
		if (w->items.at == w->items.n && !next_items(w))
			break;
		watch_put(&w->watches[w->turn], w->turn, w->daemon->state, &w->items, out);
		if (w->items.at == w->items.n)
			w->turn = (w->turn + 1) % w->n;
	}
	if (buf_failed(out))
		return -1;
	if (w->ended != BLIX_OK) {
		put_end(w, out);
		return 0;
	}
	if (out->len < PIECE_BYTES && w->mark_due)
		put_mark(w, out);
	w->asleep = out->len == 0;
	return w->asleep ? HTTP_LATER : 1;
}

void watches_changed(struct daemon *d)
{
	uint64_t nodes = 0;
	struct watcher *w;

	if (LIST_EMPTY(&d->watchers))
		return;
	for (size_t i = 0; i < d->state->n_nodes; i++) {
		if (d->state->nodes[i]->revision > nodes)
			nodes = d->state->nodes[i]->revision;
	}
	LIST_FOREACH(w, &d->watchers, entry)
	{
		bool news = false;

		for (size_t i = 0; i < w->n && w->asleep && !news; i++)
			news = watch_has_news(&w->watches[i], d->state, d->changes, nodes);
		if (news)
			wake(w);
	}
}

void watches_close(struct daemon *d)
{
	struct watcher *w;

	LIST_FOREACH(w, &d->watchers, entry)
	{
		w->ended = BLIX_E_UNAVAILABLE;
		wake(w);
	}
}

static int check_history(const struct watcher *w, size_t *ret_watch, struct blix_error *err)
{
	for (size_t i = 0; i < w->n; i++) {
		if (watch_reaches(&w->watches[i], w->daemon->state))
			continue;
		*ret_watch = i;
		(void)blix_fail(err, BLIX_E_GONE, "what came after this revision is forgotten");
		blix_hint(err, "watch without a revision: it begins with what there is");
		return -(int)BLIX_E_GONE;
	}
	return 0;
}

static int check_room(const struct watcher *w, struct blix_error *err)
{
	if (w->daemon->n_watches + w->n <= LIMIT_WATCHES_ALL)
		return 0;
	(void)blix_fail(err, BLIX_E_BUSY, "this server holds %u watches already",
	                (unsigned)w->daemon->n_watches);
	blix_reason(err, "too-many-watches");
	return -(int)BLIX_E_BUSY;
}

/* Takes the watches of *w. */
static void start(struct daemon *d, struct http_request *request, struct watcher *w)
{
	cleanup(json_freep) cJSON *details = NULL;
	struct blix_error err;
	size_t wrong = 0;

	w->daemon = d;
	w->request = request;
	if (check_room(w, &err) < 0 || check_history(w, &wrong, &err) < 0) {
		details = json_object();
		if (err.code == BLIX_E_GONE)
			json_add_u64(details, "watch", wrong);
		http_answer_error(request, &err, details);
		for (size_t i = 0; i < w->n; i++)
			watch_done(&w->watches[i]);
		free(w->watches);
		free(w);
		return;
	}
	d->n_watches += w->n;
	w->mark_due = true;
	LIST_INSERT_HEAD(&d->watchers, w, entry);
	(void)uv_timer_init(d->loop, &w->timer);
	w->timer.data = w;
	(void)uv_timer_start(&w->timer, on_heartbeat, w->heartbeat_ms, w->heartbeat_ms);
	http_answer_stream(request, 200, "application/jsonl", watcher_produce, watcher_free, w);
}

static int heartbeat_take(struct watcher *w, uint64_t heartbeat_ms, struct blix_error *err)
{
	if (heartbeat_ms < HEARTBEAT_MS_MIN || heartbeat_ms > HEARTBEAT_MS_MAX)
		return blix_fail(err, BLIX_E_INVALID, "a heartbeat comes every 1 to 60 seconds");
	w->heartbeat_ms = heartbeat_ms;
	return 0;
}

void watch_get_handle(struct http_request *request, void *data)
{
	const char *heartbeat = http_query(request, "heartbeat");
	struct watcher *w = xcalloc(1, sizeof(*w));
	uint64_t revision = 0, heartbeat_ms = HEARTBEAT_MS;
	struct blix_error err;
	int rc = api_query_number(request, "revision", UINT64_MAX, &revision, &err);

	w->watches = xcalloc(1, sizeof(*w->watches));
	if (rc == 0 && heartbeat != NULL)
		rc = parse_duration(heartbeat, &heartbeat_ms, &err);
	if (rc == 0)
		rc = heartbeat_take(w, heartbeat_ms, &err);
	if (rc == 0)
		rc = watch_init(&w->watches[0], http_query(request, "kind"),
		                http_query(request, "name"), http_query(request, "labels"),
		                revision, &err);
	if (rc < 0) {
		http_answer_error(request, &err, NULL);
		free(w->watches);
		free(w);
		return;
	}
	w->n = 1;
	start(data, request, w);
}

static int watch_parse(const cJSON *item, struct watch *watch, struct blix_error *err)
{
	static const char *const keys[] = {"kind", "name", "labels", "revision", NULL};
	const char *kind = NULL, *name = NULL, *labels = NULL;
	uint64_t revision = 0;
	int rc;

	if (!cJSON_IsObject(item))
		return blix_fail(err, BLIX_E_INVALID, "a watch is an object");
	if ((rc = json_only_keys(item, keys, err)) < 0 ||
	    (rc = json_get_string(item, "kind", &kind, err)) < 0 ||
	    (rc = json_get_string(item, "name", &name, err)) < 0 ||
	    (rc = json_get_string(item, "labels", &labels, err)) < 0 ||
	    (rc = json_get_u64(item, "revision", &revision, err)) < 0)
		return rc;
	return watch_init(watch, kind, name, labels, revision, err);
}

static int watches_parse(struct watcher *w, const cJSON *body, struct blix_error *err)
{
	static const char *const keys[] = {"watches", "heartbeatMs", NULL};
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(body, "watches"), *item;
	uint64_t heartbeat_ms = HEARTBEAT_MS;
	int rc;

	if ((rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = json_get_u64(body, "heartbeatMs", &heartbeat_ms, err)) < 0 ||
	    (rc = heartbeat_take(w, heartbeat_ms, err)) < 0)
		return rc;
	if (!cJSON_IsArray(list) || list->child == NULL)
		return blix_fail(err, BLIX_E_INVALID, "key 'watches' is a list of one at least");
	if (cJSON_GetArraySize(list) > (int)LIMIT_WATCHES)
		return blix_fail(err, BLIX_E_TOOBIG, "at most %u watches on one connection",
		                 LIMIT_WATCHES);
	w->watches = xcalloc((size_t)cJSON_GetArraySize(list), sizeof(*w->watches));
	cJSON_ArrayForEach (item, list) {
		if ((rc = watch_parse(item, &w->watches[w->n], err)) < 0)
			return blix_wrap(err, "watch %zu", w->n);
		w->n++;
	}
	return 0;
}

void watch_post_handle(struct http_request *request, void *data)
{
	cleanup(json_freep) cJSON *body = NULL;
	struct watcher *w = xcalloc(1, sizeof(*w));
	struct blix_error err;

	if (api_parse_body(request, &body, &err) == 0 && watches_parse(w, body, &err) == 0) {
		start(data, request, w);
		return;
	}
	http_answer_error(request, &err, NULL);
	for (size_t i = 0; i < w->n; i++)
		watch_done(&w->watches[i]);
	free(w->watches);
	free(w);
}
