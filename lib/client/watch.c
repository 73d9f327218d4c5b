/* Watches of a client: see watch.h.
 *
 * The bytes of the answer are cut into lines; a line that is not whole when a connection ends was
 * not received. Each line moves the position of its watch, a mark that of all. A revision that
 * comes in several lines moves it with the last; which of them came is remembered, since after a
 * lost connection all of them come again. */
#include "client/watch.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "client/client_internal.h"
#include "core/object_json.h"
#include "sys/clock.h"

#include <poll.h>
#include <string.h>

#define SILENT_MS  10000 /* without a server that answers; an election takes less */
#define BACKOFF_MS 100

struct following {
	struct client_watch *watches;
	size_t n;
	int (*on_line)(void *data, const cJSON *line, struct blix_error *err);
	void *data;
	struct buf rest; /* of a line that is not whole */
	uint64_t partial,
		index;     /* the revision and watch that more lines are to come of; 0: none */
	cJSON *parts;      /* of those that came */
	uint64_t heard_ms; /* when the last line came */
	int status;        /* 1: on_line has enough; negative: why it ends */
	struct blix_error error; /* of that */
};

static void forward(struct client_watch *watch, uint64_t revision)
{
	if (revision > watch->revision)
		watch->revision = revision;
}

/* What tells a line of a revision from its others; the caller's to free. */
static char *part_of(const cJSON *line)
{
	const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(
		cJSON_GetObjectItemCaseSensitive(line, "object"), "metadata");
	const char *uid = NULL;
	uint64_t part = 0;

	(void)json_get_string(line, "uid", &uid, NULL);
	if (uid == NULL && metadata != NULL)
		(void)json_get_string(metadata, "uid", &uid, NULL);
	(void)json_get_u64(line, "part", &part, NULL);
	return xasprintf("%s/%llu", uid != NULL ? uid : "", (unsigned long long)part);
}

/* One line of a revision that has several; true: it came before. */
static bool take_part(struct following *f, const cJSON *line, uint64_t index, uint64_t revision)
{
	cleanup(freep) char *key = part_of(line);
	const cJSON *part;

	if (f->partial != revision || f->index != index) {
		cJSON_Delete(f->parts);
		f->parts = json_array();
		f->partial = revision;
		f->index = index;
	}
	cJSON_ArrayForEach (part, f->parts) {
		if (strcmp(part->valuestring, key) == 0)
			return true;
	}
	json_push_string(f->parts, key);
	return false;
}

/* Moves the positions; false: it is no line of a watch. *ret_known: it came before. */
static bool take_position(struct following *f, const cJSON *line, bool *ret_known)
{
	uint64_t revision = 0, index = 0;
	bool more = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(line, "more"));

	if (json_get_u64(line, "revision", &revision, NULL) < 0 ||
	    json_get_u64(line, "watch", &index, NULL) < 0 || index >= f->n)
		return false;
	if (cJSON_GetObjectItemCaseSensitive(line, "watch") == NULL) {
		for (size_t i = 0; i < f->n; i++)
			forward(&f->watches[i], revision);
		return true;
	}
	if (more || (f->partial == revision && f->index == index))
		*ret_known = take_part(f, line, index, revision);
	if (!more)
		forward(&f->watches[index], revision);
	return true;
}

static int take_end(struct following *f, const cJSON *line)
{
	const char *code = NULL, *message = NULL;

	(void)json_get_string(line, "code", &code, NULL);
	(void)json_get_string(line, "message", &message, NULL);
	return blix_fail(&f->error, blix_code_find(code != NULL ? code : ""), "%s",
	                 message != NULL ? message : "the server ended the watch");
}

static int take_line(struct following *f, const char *text, size_t n)
{
	cleanup(json_freep) cJSON *line = NULL;
	const char *type = NULL;
	bool known = false;
	int rc = json_parse(text, n, &json_limits_answer, &line, &f->error);

	if (rc == 0)
		rc = json_get_string(line, "type", &type, &f->error);
	if (rc < 0 || type == NULL) {
		(void)blix_wrap(&f->error, "a line of the watch");
		return -(int)(f->error.code = BLIX_E_INTERNAL);
	}
	f->heard_ms = clock_boot_ms();
	if (strcmp(type, "end") == 0)
		return take_end(f, line);
	if (!take_position(f, line, &known))
		return blix_fail(&f->error, BLIX_E_INTERNAL, "a line of the watch is not valid");
	return known ? 0 : f->on_line(f->data, line, &f->error);
}

static bool on_bytes(void *data, const char *bytes, size_t n)
{
	struct following *f = data;
	const char *end;

	while (f->status == 0 && (end = memchr(bytes, '\n', n)) != NULL) {
		size_t length = (size_t)(end - bytes);

		if (buf_add(&f->rest, bytes, length) < 0) {
			f->status = blix_fail(&f->error, BLIX_E_TOOBIG,
			                      "a line of the watch is too long");
			break;
		}
		f->status = take_line(f, f->rest.data != NULL ? f->rest.data : "", f->rest.len);
		buf_clear(&f->rest);
		bytes += length + 1;
		n -= length + 1;
	}
	if (f->status == 0 && buf_add(&f->rest, bytes, n) < 0)
		f->status = blix_fail(&f->error, BLIX_E_TOOBIG, "a line of the watch is too long");
	return f->status == 0;
}

static char *make_body(const struct following *f)
{
	cleanup(json_freep) cJSON *body = json_object();
	cJSON *list = json_array();

	for (size_t i = 0; i < f->n; i++) {
		cJSON *item = json_object();

		json_add_string(item, "kind", f->watches[i].kind);
		json_add_text(item, "name", f->watches[i].name);
		json_add_text(item, "labels", f->watches[i].labels);
		if (f->watches[i].revision != 0)
			json_add_u64(item, "revision", f->watches[i].revision);
		json_push(list, item);
	}
	json_add(body, "watches", list);
	return json_text(body);
}

/* One connection. */
static int follow_once(struct client *client, struct following *f, struct blix_error *err)
{
	cleanup(freep) char *body = make_body(f);
	int rc;

	f->status = 0;
	buf_clear(&f->rest);
	rc = client_lines(client, "/v1/watch", body, on_bytes, f, err);
	if (f->status < 0) {
		*err = f->error;
		return f->status;
	}
	if (f->status > 0)
		return 0;
	if (rc == 0)
		rc = blix_fail(err, BLIX_E_UNAVAILABLE, "the server ended the watch");
	return rc;
}

static bool may_go_on(int rc)
{
	return rc == -(int)BLIX_E_UNAVAILABLE || rc == -(int)BLIX_E_BUSY ||
	       rc == -(int)BLIX_E_TOOMANY;
}

int client_watch(struct client *client, struct client_watch *watches, size_t n,
                 int (*on_line)(void *data, const cJSON *line, struct blix_error *err), void *data,
                 struct blix_error *err)
{
	struct following f = {.watches = watches, .n = n, .on_line = on_line, .data = data};
	bool heard = false;
	int rc;

	buf_init(&f.rest, LIMIT_ANSWER);
	f.heard_ms = clock_boot_ms();
	for (;;) {
		uint64_t before_ms = f.heard_ms;

		rc = follow_once(client, &f, err);
		heard = heard || f.heard_ms != before_ms;
		if (!may_go_on(rc) || clock_boot_ms() >= f.heard_ms + SILENT_MS)
			break;
		client_next_endpoint(client);
		if (!heard && client_endpoints(client) == 1)
			break; /* where nobody listens nobody is waited for */
		(void)poll(NULL, 0, BACKOFF_MS);
		if (client_interrupted(client, err)) {
			rc = -(int)BLIX_E_TIMEOUT;
			break;
		}
	}
	buf_done(&f.rest);
	cJSON_Delete(f.parts);
	return rc;
}
