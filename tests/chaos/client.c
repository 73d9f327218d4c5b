/* The clients: see chaos.h.
 *
 * Each has its own connections, session and request numbers, and one operation under way. It asks
 * any server; while the answer says that nothing is settled it asks the next one, by the same
 * number. What it may conclude in the end is the event that it writes: ok; fail, with what refused
 * it, or with why it was not done by any attempt; info, when one attempt may have done it and no
 * later one told.
 *
 * A number that was not used is used by the next operation; after info the session is given up, as
 * a client does that never comes back. Now and then it does so at the first answer that settles
 * nothing, so that there are operations which happen late or never; and now and then it sends an
 * answered request again, as a network does.
 */
#include "chaos.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/parse.h"
#include "core/object_json.h"

#include <inttypes.h>
#include <string.h>

#define ATTEMPT_MS  400  /* most are impatient */
#define PATIENT_MS  1500 /* some wait until a leader without followers knows it */
#define PATIENT_PCT 40
#define GIVE_UP_US  4000000
#define PAUSE_MS    60 /* between attempts */
#define THINK_MS    20 /* at most, between operations */
#define GIVE_UP_PCT 12 /* of the operations whose outcome is unknown */
#define LEAST_PCT   50

static void client_next(struct client *cl);

static void on_timer(uv_timer_t *timer);

static void client_wait(struct client *cl, unsigned ms)
{
	(void)uv_timer_start(&cl->timer, on_timer, ms, 0);
}

/* What to ask. */

static void ask(struct client *cl, enum history_op op, const char *method, const char *key)
{
	free(take(cl->body));
	cl->record = (struct record){.client = cl->number, .op = op};
	(void)snprintf(cl->record.key, sizeof(cl->record.key), "%s", key);
	(void)snprintf(cl->method, sizeof(cl->method), "%s", method);
	(void)snprintf(cl->path, sizeof(cl->path), "/v1/vms/%s", key);
}

static void ask_create(struct client *cl, const char *key)
{
	struct chaos *c = cl->chaos;

	ask(cl, HISTORY_CREATE, "POST", key);
	(void)snprintf(cl->path, sizeof(cl->path), "/v1/vms");
	cl->record.arg = ++c->next_value;
	cl->body = xasprintf(
		"{\"kind\":\"VM\",\"apiVersion\":\"blix/v1\",\"metadata\":{\"name\":\"%s\","
		"\"labels\":{\"v\":\"%" PRIu64 "\"%s}},\"spec\":{\"flake\":\"%s\","
		"\"attr\":\"demo\",\"powerState\":\"Stopped\"}}",
		key, cl->record.arg, key[0] == 'a' ? "" : ",\"set\":\"listed\"", c->flake);
}

static void ask_set(struct client *cl, enum history_op op, const char *key, uint64_t expect)
{
	ask(cl, op, "POST", key);
	cl->record.arg = ++cl->chaos->next_value;
	cl->record.expect = op == HISTORY_CAS ? expect : 0;
	if (op == HISTORY_CAS)
		(void)snprintf(cl->path, sizeof(cl->path), "/v1/vms/%s/set?ifVersion=%" PRIu64, key,
		               expect);
	else
		(void)snprintf(cl->path, sizeof(cl->path), "/v1/vms/%s/set", key);
	if (op == HISTORY_APPEND)
		cl->body = xasprintf("{\"labels\":{\"e%" PRIu64 "\":\"1\"}}", cl->record.arg);
	else
		cl->body = xasprintf("{\"labels\":{\"v\":\"%" PRIu64 "\"}}", cl->record.arg);
}

static void ask_list(struct client *cl)
{
	ask(cl, HISTORY_LIST, "GET", "");
	(void)snprintf(cl->path, sizeof(cl->path), "/v1/vms?labels=set%%3Dlisted");
}

static void ask_read(struct client *cl, enum history_op op, const char *key)
{
	ask(cl, op, "GET", key);
	if (op == HISTORY_READ)
		(void)snprintf(cl->path, sizeof(cl->path), "/v1/vms/%s?consistency=linearizable",
		               key);
}

static void ask_append(struct client *cl)
{
	struct chaos *c = cl->chaos;
	char key[16];

	if (c->n_appends < ELEMENTS_MAX) {
		c->n_appends++;
		(void)snprintf(key, sizeof(key), "a%u", c->list);
		ask_set(cl, HISTORY_APPEND, key, 0);
	} else if (!c->rolling) {
		c->rolling = cl->rolls = true;
		(void)snprintf(key, sizeof(key), "a%u", c->list + 1);
		ask_create(cl, key);
	} else {
		ask_list(cl);
	}
}

/* Most often one that changes all the time: an old answer about it is a wrong one. */
static void some_key(struct client *cl, char *out, size_t n)
{
	unsigned which = dice_below(&cl->dice, 100);

	if (which < 50)
		(void)snprintf(out, n, "a%u", cl->chaos->list);
	else if (which < 80)
		(void)snprintf(out, n, "v%u", 1 + which % VALUES);
	else
		(void)snprintf(out, n, "c%u", 1 + which % COMERS);
}

/* The last mutation that was answered once more, by its number. */
static void ask_again(struct client *cl)
{
	const struct request *last = &cl->last;

	ask(cl, HISTORY_AGAIN, last->method, last->key);
	memcpy(cl->path, last->path, sizeof(cl->path));
	memcpy(cl->record.first, last->answer, sizeof(last->answer));
	cl->body = last->body != NULL ? xstrdup(last->body) : NULL;
}

/* By weight; but when something is done to the cluster, most often what was tried least under it.
 */
static enum history_op choose(struct client *cl)
{
	static const unsigned char weights[HISTORY_OP_COUNT] = {
		[HISTORY_CREATE] = 8, [HISTORY_DELETE] = 8,  [HISTORY_WRITE] = 15,
		[HISTORY_CAS] = 15,   [HISTORY_APPEND] = 20, [HISTORY_READ] = 20,
		[HISTORY_LOCAL] = 6,  [HISTORY_LIST] = 4,    [HISTORY_AGAIN] = 4,
	};
	const struct chaos *c = cl->chaos;
	unsigned at = dice_below(&cl->dice, 100), op = 0, least = 0;

	if (c->active >= 0 && dice_percent(&cl->dice, LEAST_PCT)) {
		for (unsigned i = 1; i < HISTORY_OP_COUNT; i++) {
			if (c->tried[i][c->active] < c->tried[least][c->active] &&
			    (i != HISTORY_AGAIN || cl->last.answer[0] != '\0'))
				least = i;
		}
		return least;
	}
	for (; at >= weights[op]; op++)
		at -= weights[op];
	return op;
}

static void ask_anything(struct client *cl)
{
	unsigned number = dice_below(&cl->dice, VALUES);
	enum history_op op = choose(cl);
	char value[16], comer[16], any[16];

	(void)snprintf(value, sizeof(value), "v%u", number + 1);
	(void)snprintf(comer, sizeof(comer), "c%u", 1 + dice_below(&cl->dice, COMERS));
	some_key(cl, any, sizeof(any));
	switch (op) {
	case HISTORY_CREATE:
		ask_create(cl, comer);
		break;
	case HISTORY_DELETE:
		ask(cl, op, "DELETE", comer);
		break;
	case HISTORY_WRITE:
	case HISTORY_CAS:
		ask_set(cl, op, value, cl->versions[number]);
		break;
	case HISTORY_APPEND:
		ask_append(cl);
		break;
	case HISTORY_READ:
	case HISTORY_LOCAL:
		ask_read(cl, op, any);
		break;
	case HISTORY_AGAIN:
		if (cl->last.answer[0] != '\0') {
			ask_again(cl);
			break;
		}
		ask_list(cl);
		break;
	case HISTORY_LIST:
	case HISTORY_OP_COUNT:
		ask_list(cl);
		break;
	}
}

/* What came back. */

static void add_element(struct record *e, uint64_t element)
{
	size_t at = e->n_elements;

	if (at == HISTORY_ELEMENTS)
		return;
	for (; at > 0 && e->elements[at - 1] > element; at--)
		e->elements[at] = e->elements[at - 1];
	e->elements[at] = element;
	e->n_elements++;
}

/* Writes what `object` shows into *e; false: it shows none. */
static bool look(const cJSON *object, struct record *e)
{
	const cJSON *metadata = NULL, *labels = NULL, *label;
	const char *uid = "";
	uint64_t number;

	if (json_get_object(object, "metadata", &metadata, NULL) < 0 || metadata == NULL ||
	    json_get_string(metadata, "uid", &uid, NULL) < 0 || parse_u64(uid, &e->uid, NULL) < 0)
		return false;
	(void)json_get_u64(metadata, "version", &e->version, NULL);
	(void)json_get_u64(metadata, "revision", &e->revision, NULL);
	(void)json_get_object(metadata, "labels", &labels, NULL);
	cJSON_ArrayForEach (label, labels) {
		if (strcmp(label->string, "v") == 0)
			(void)parse_u64(label->valuestring, &e->value, NULL);
		else if (label->string[0] == 'e' &&
		         parse_u64(label->string + 1, &number, NULL) == 0)
			add_element(e, number);
	}
	return true;
}

static void write_down(struct chaos *c, const struct record *e)
{
	cleanup(freep) char *line = record_text(e);

	history_add(&c->history, e);
	if (e->kind == HISTORY_OK)
		c->done[e->op]++;
	if (fprintf(c->file, "%s\n", line) < 0 || fflush(c->file) != 0)
		chaos_fail(c, "the history cannot be written");
}

static void write_list(struct client *cl, const cJSON *tree)
{
	const cJSON *items = NULL, *item;

	(void)json_get_array(tree, "items", &items, NULL);
	cJSON_ArrayForEach (item, items) {
		struct record e = cl->record;
		const cJSON *metadata = NULL;
		const char *name = "";

		(void)json_get_object(item, "metadata", &metadata, NULL);
		(void)json_get_string(metadata, "name", &name, NULL);
		(void)snprintf(e.key, sizeof(e.key), "%s", name);
		if (look(item, &e))
			write_down(cl->chaos, &e);
	}
}

static void new_session(struct client *cl)
{
	cl->session = dice_next(&cl->dice) | 1;
	cl->request = 0;
}

static void keep_request(struct client *cl, const char *answer)
{
	struct request *last = &cl->last;

	memcpy(last->key, cl->record.key, sizeof(last->key));
	memcpy(last->method, cl->method, sizeof(last->method));
	memcpy(last->path, cl->path, sizeof(last->path));
	free(last->body);
	last->body = take(cl->body);
	last->session = cl->session;
	last->number = cl->request;
	(void)snprintf(last->answer, sizeof(last->answer), "%s", answer);
}

static void settle_number(struct client *cl)
{
	const struct record *e = &cl->record;

	if (!record_mutates(e))
		return;
	if (e->kind == HISTORY_INFO)
		new_session(cl);
	else if (record_is_void(e))
		cl->request--;
	else
		keep_request(cl, e->kind == HISTORY_OK ? "ok" : e->reason);
}

static void note_versions(struct client *cl)
{
	const struct record *e = &cl->record;

	if (e->key[0] == 'v' && e->uid != 0)
		cl->versions[e->key[1] - '1'] = e->version;
	if (cl->rolls && e->op == HISTORY_CREATE) {
		cl->chaos->rolling = cl->rolls = false;
		if (e->kind == HISTORY_OK || record_exists(e)) {
			cl->chaos->list++;
			cl->chaos->n_appends = 0;
		}
	}
}

static void finish(struct client *cl, enum history_kind kind, const char *reason)
{
	struct record *e = &cl->record;

	e->kind = kind;
	e->ret = kind == HISTORY_INFO ? HISTORY_NEVER : chaos_us(cl->chaos);
	(void)snprintf(e->reason, sizeof(e->reason), "%s", reason);
	if (e->op != HISTORY_LIST)
		write_down(cl->chaos, e);
	settle_number(cl);
	note_versions(cl);
	cl->busy = false;
	client_wait(cl, cl->chaos->phase == PHASE_RUN ? 1 + dice_below(&cl->dice, THINK_MS) : 0);
}

/* Nothing is settled, or it was not done. */
static void try_again(struct client *cl, const char *reason)
{
	bool mutates = record_mutates(&cl->record);
	bool late = chaos_us(cl->chaos) > cl->until_us || cl->chaos->phase == PHASE_HEAL;

	if (cl->record.op == HISTORY_AGAIN || late ||
	    (mutates && cl->may_have_happened && dice_percent(&cl->dice, GIVE_UP_PCT)))
		finish(cl, !mutates || cl->may_have_happened ? HISTORY_INFO : HISTORY_FAIL, reason);
	else
		client_wait(cl, PAUSE_MS);
}

static bool is_answer(const struct blix_error *err)
{
	const char *reason = blix_error_reason(err);

	return strcmp(reason, "vm-missing") == 0 || strcmp(reason, "vm-exists") == 0 ||
	       strcmp(reason, "version-conflict") == 0 || strcmp(reason, "session-gap") == 0 ||
	       strcmp(reason, "outcome-forgotten") == 0;
}

static void on_refused(struct client *cl, const struct blix_error *err)
{
	const char *reason = blix_error_reason(err);

	if (is_answer(err)) {
		finish(cl, HISTORY_FAIL, reason);
		if (err->code == BLIX_E_FORGOTTEN || err->code == BLIX_E_INVALID)
			new_session(cl);
	} else if (blix_code_info(err->code)->retryable) {
		cl->may_have_happened |= !blix_code_info(err->code)->definite;
		try_again(cl, reason);
	} else {
		chaos_fail(cl->chaos, "server %u answered %s %s: %s", cl->server, cl->method,
		           cl->path, err->text);
	}
}

static void on_answer(void *data, int status, int http, struct buf *answer, const char *type)
{
	struct client *cl = data;
	cleanup(json_freep) cJSON *tree = NULL;
	struct blix_error err;

	(void)type;
	if (status == 0)
		status = json_parse(answer->data != NULL ? answer->data : "", answer->len,
		                    &json_limits_answer, &tree, &err);
	if (status < 0)
		(void)blix_fail(&err, (enum blix_code) - status, "no answer");
	else if (http >= 400)
		error_parse(tree, http, &err);
	if (status < 0 || http >= 400) {
		on_refused(cl, &err);
		return;
	}
	if (cl->record.op == HISTORY_LIST) {
		cl->record.ret = chaos_us(cl->chaos);
		write_list(cl, tree);
	} else {
		(void)look(tree, &cl->record);
	}
	finish(cl, HISTORY_OK, "");
}

static void on_late_failure(struct client *cl)
{
	struct blix_error err;

	(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "not sent");
	on_refused(cl, &err);
}

static unsigned choose_server(struct client *cl)
{
	const struct chaos *c = cl->chaos;
	unsigned any = 1 + dice_below(&cl->dice, c->n_servers);

	if (cl->pinned != 0)
		return cl->pinned;
	if (c->asked != 0 && !record_mutates(&cl->record))
		return c->asked;
	return any != c->shunned ? any : 1 + any % c->n_servers;
}

static void client_send(struct client *cl)
{
	struct chaos *c = cl->chaos;
	char session[64], request[64];
	const char *headers[] = {session, request, NULL};
	bool again = cl->record.op == HISTORY_AGAIN;
	struct fetch_options options = {
		.method = cl->method,
		.path = cl->path,
		.body = cl->body,
		.n = cl->body != NULL ? strlen(cl->body) : 0,
		.headers = again || record_mutates(&cl->record) ? headers : NULL,
		.deadline_ms = dice_percent(&cl->dice, PATIENT_PCT) ? PATIENT_MS : ATTEMPT_MS,
	};

	(void)snprintf(session, sizeof(session), "Blix-Session: %" PRIu64,
	               again ? cl->last.session : cl->session);
	(void)snprintf(request, sizeof(request), "Blix-Request: %" PRIu64,
	               again ? cl->last.number : cl->request);
	cl->server = choose_server(cl);
	cl->record.server = cl->server;
	cl->record.life = c->servers[cl->server - 1].life;
	options.address = c->servers[cl->server - 1].socket;
	if (cl->attempts++ == 0 || !record_mutates(&cl->record))
		cl->record.call = chaos_us(c);
	if (fetch_start(cl->pool, &options, on_answer, cl, NULL, NULL) < 0)
		on_late_failure(cl);
}

static void client_begin(struct client *cl)
{
	struct chaos *c = cl->chaos;

	cl->busy = true;
	cl->attempts = 0;
	cl->may_have_happened = false;
	cl->until_us = chaos_us(c) + GIVE_UP_US;
	if (record_mutates(&cl->record))
		cl->request++;
	if (c->active >= 0)
		c->tried[cl->record.op][c->active]++;
	client_send(cl);
}

static void setup_next(struct client *cl)
{
	struct chaos *c = cl->chaos;
	bool made = c->n_setup > 0 && (cl->record.kind == HISTORY_OK || record_exists(&cl->record));
	char key[16];

	if (c->n_setup == 0 || made)
		c->n_setup++;
	if (c->n_setup > VALUES + 1) {
		c->step_done(c);
		return;
	}
	(void)snprintf(key, sizeof(key), c->n_setup <= VALUES ? "v%u" : "a%u",
	               c->n_setup <= VALUES ? c->n_setup : 1);
	ask_create(cl, key);
	client_begin(cl);
}

/* Everything of every server. */
static void read_next(struct client *cl)
{
	struct chaos *c = cl->chaos;
	size_t n = VALUES + COMERS + c->list;
	size_t which = c->next_read / c->n_servers;
	char key[16];

	if (c->next_read > 0 && cl->record.kind == HISTORY_INFO) {
		chaos_fail(c, "a read of %s fails though all is well: %s", cl->record.key,
		           cl->record.reason);
		return;
	}
	if (which >= n) {
		c->step_done(c);
		return;
	}
	if (which < VALUES)
		(void)snprintf(key, sizeof(key), "v%zu", which + 1);
	else if (which < VALUES + COMERS)
		(void)snprintf(key, sizeof(key), "c%zu", which - VALUES + 1);
	else
		(void)snprintf(key, sizeof(key), "a%zu", which - VALUES - COMERS + 1);
	cl->pinned = 1 + (unsigned)(c->next_read++ % c->n_servers);
	ask_read(cl, HISTORY_READ, key);
	client_begin(cl);
}

static void client_next(struct client *cl)
{
	switch (cl->chaos->phase) {
	case PHASE_SETUP:
		if (cl->number == 1)
			setup_next(cl);
		break;
	case PHASE_RUN:
		ask_anything(cl);
		client_begin(cl);
		break;
	case PHASE_READ:
		if (cl->number == 1)
			read_next(cl);
		break;
	case PHASE_WAIT:
	case PHASE_HEAL:
	case PHASE_STOP:
		break;
	}
}

static void on_timer(uv_timer_t *timer)
{
	struct client *cl = timer->data;

	if (cl->busy)
		client_send(cl);
	else
		client_next(cl);
}

void clients_init(struct chaos *c)
{
	struct blix_error err;

	for (unsigned i = 0; i < c->n_clients; i++) {
		struct client *cl = &c->clients[i];

		cl->chaos = c;
		cl->number = i + 1;
		cl->dice.state = c->seed * 1000 + cl->number;
		new_session(cl);
		for (unsigned k = 0; k < VALUES; k++)
			cl->versions[k] = 1;
		(void)uv_timer_init(&c->loop, &cl->timer);
		cl->timer.data = cl;
		if (fetch_pool_open(&c->loop, &cl->pool, &err) < 0)
			chaos_fail(c, "%s", err.text);
	}
	c->list = 1;
}

void clients_setup(struct chaos *c, void (*done)(struct chaos *c))
{
	c->step_done = done;
	client_wait(&c->clients[0], 0);
}

void clients_run(struct chaos *c)
{
	for (unsigned i = 0; i < c->n_clients; i++)
		client_wait(&c->clients[i], i);
}

bool clients_idle(const struct chaos *c)
{
	for (unsigned i = 0; i < c->n_clients; i++) {
		if (c->clients[i].busy)
			return false;
	}
	return true;
}

void clients_read_all(struct chaos *c, void (*done)(struct chaos *c))
{
	c->step_done = done;
	client_wait(&c->clients[0], 0);
}
