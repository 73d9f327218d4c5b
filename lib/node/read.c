/* Reads that ask for more than this server's own copy: see read.h. */
#include "node/read.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/codec.h"
#include "node/api_internal.h"
#include "node/book.h"

#include <inttypes.h>

#define QUESTION_MS 5000 /* a leader that lost its majority knows after an election timeout */
#define BEHIND_MS   5000 /* how long a read waits for the own copy when it does not say */

struct read {
	STAILQ_ENTRY(read) entry;
	struct daemon *daemon;
	struct http_request *request; /* NULL: the client went away */
	api_read_fn *answer;
	uint64_t revision; /* that the own copy must have reached */
	uint64_t wait_ms;
};

static bool is_there(const struct daemon *d, const void *data)
{
	return d->state->revision >= ((const struct read *)data)->revision;
}

static void read_end(struct daemon *d, void *data, bool cancelled)
{
	struct read *read = data;
	struct blix_error err;

	if (cancelled || read->request == NULL) {
		free(read);
		return;
	}
	if (is_there(d, read)) {
		read->answer(read->request, d);
	} else {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE,
		                "this server is at revision %" PRIu64 ", not yet at %" PRIu64,
		                d->state->revision, read->revision);
		blix_reason(&err, "behind");
		http_answer_error(read->request, &err, NULL);
	}
	free(read);
}

static void read_wait(struct read *read)
{
	if (read->request == NULL || is_there(read->daemon, read))
		read_end(read->daemon, read, false);
	else
		daemon_wait(read->daemon, &(struct wait_options){.ready = is_there,
		                                                 .cb = read_end,
		                                                 .data = read,
		                                                 .request = read->request,
		                                                 .deadline_ms = read->wait_ms});
}

static void read_fail(struct read *read, int status)
{
	struct blix_error err;

	if (read->request != NULL) {
		(void)daemon_propose_error(read->daemon, status, &err);
		http_answer_error(read->request, &err, NULL);
	}
	free(read);
}

static void ask(struct daemon *d);

static void take_waiting(struct daemon *d, struct reads *own)
{
	STAILQ_CONCAT(own, &d->reads_waiting);
}

/* The barrier stands at `revision`, or why there is none. */
static void asked(struct daemon *d, int status, uint64_t revision)
{
	struct reads own = STAILQ_HEAD_INITIALIZER(own);
	struct read *read;

	d->asking = false;
	STAILQ_CONCAT(&own, &d->reads_asked);
	if (d->closing) {
		take_waiting(d, &own);
		status = -(int)BLIX_E_NOLEADER;
	}
	while ((read = STAILQ_FIRST(&own)) != NULL) {
		STAILQ_REMOVE_HEAD(&own, entry);
		if (status < 0) {
			read_fail(read, status);
			continue;
		}
		read->revision = revision > read->revision ? revision : read->revision;
		read_wait(read);
	}
	if (!STAILQ_EMPTY(&d->reads_waiting) && !d->asking)
		ask(d);
}

static void asked_here(void *data, int status)
{
	struct daemon *d = data;

	asked(d, status, d->state->revision);
}

static void asked_leader(void *data, int status, int http, struct buf *answer,
                         const char *content_type)
{
	struct codec in = {.at = (const uint8_t *)answer->data, .left = answer->len};
	uint64_t revision = get_u64(&in);

	(void)content_type;
	/* Whatever went wrong, nothing was done: that there is no leader for us is all it says. */
	if (status < 0 || http != 200 || !codec_end(&in))
		status = -(int)BLIX_E_NOLEADER;
	asked(data, status, revision);
}

/* One question for all that wait. */
static void ask(struct daemon *d)
{
	const struct config_server *leader = daemon_server(d, d->leader_id);
	struct api_hop hop = {0};
	struct fetch_options options = {
		.server_name = hop.server_name,
		.method = "POST",
		.path = "/v1/internal/barrier",
		.deadline_ms = QUESTION_MS,
		.answer_max = LIMIT_FILE,
	};

	d->asking = true;
	STAILQ_CONCAT(&d->reads_asked, &d->reads_waiting);
	if (d->role == CONSENSUS_LEADER) {
		consensus_barrier(d->consensus, asked_here, d);
		return;
	}
	if (leader != NULL)
		api_hop(d, NULL, leader, &hop);
	if (leader != NULL)
		options.address = hop.address;
	if (leader == NULL || leader->id == d->config->id ||
	    fetch_start(d->fetch, &options, asked_leader, d, NULL, NULL) < 0)
		asked(d, -(int)BLIX_E_NOLEADER, 0);
}

static void read_cancelled(void *data)
{
	((struct read *)data)->request = NULL;
}

static int read_parse(const struct http_request *request, struct read *read, bool *ret_linearizable,
                      struct blix_error *err)
{
	const char *consistency = http_query(request, "consistency");
	const char *wait = http_query(request, "wait");
	int rc = 0;

	*ret_linearizable = consistency != NULL && strcmp(consistency, "linearizable") == 0;
	if (consistency != NULL && !*ret_linearizable && strcmp(consistency, "local") != 0)
		return blix_fail(err, BLIX_E_INVALID, "consistency is linearizable or local");
	rc = api_query_number(request, "minRevision", UINT64_MAX, &read->revision, err);
	if (rc == 0 && wait != NULL)
		rc = parse_duration(wait, &read->wait_ms, err);
	if (read->wait_ms > LIMIT_WAIT)
		read->wait_ms = LIMIT_WAIT;
	return rc;
}

void api_read(struct daemon *d, struct http_request *request, api_read_fn *answer)
{
	struct read wanted = {
		.daemon = d, .request = request, .answer = answer, .wait_ms = BEHIND_MS};
	struct read *read;
	struct blix_error err;
	bool linearizable;

	if (read_parse(request, &wanted, &linearizable, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	if (!linearizable && is_there(d, &wanted)) {
		answer(request, d);
		return;
	}
	read = xcalloc(1, sizeof(*read));
	*read = wanted;
	if (!linearizable) {
		read_wait(read);
		return;
	}
	http_on_cancel(request, read_cancelled, read);
	STAILQ_INSERT_TAIL(&d->reads_waiting, read, entry);
	if (!d->asking)
		ask(d);
}

/* Another server's question. */
struct question {
	struct daemon *daemon;
	struct http_request *request; /* NULL: it went away */
};

static void question_cancelled(void *data)
{
	((struct question *)data)->request = NULL;
}

static void question_done(void *data, int status)
{
	struct question *q = data;
	struct blix_error err;
	struct buf out;

	if (q->request != NULL && status == 0) {
		buf_init(&out, LIMIT_FILE);
		put_u64(&out, q->daemon->state->revision);
		http_answer(q->request, 200, "application/octet-stream", out.data, out.len);
	} else if (q->request != NULL) {
		(void)daemon_propose_error(q->daemon, status, &err);
		http_answer_error(q->request, &err, NULL);
	}
	free(q);
}

void barrier_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	struct question *q = xcalloc(1, sizeof(*q));

	*q = (struct question){.daemon = d, .request = request};
	http_on_cancel(request, question_cancelled, q);
	consensus_barrier(d->consensus, question_done, q);
}
