/* One way for every command: to the consensus here when this server leads, else to the leader's
 * daemon over its socket, once. The receiving side never sends it on: a second hop is `no-leader`.
 *
 * What a follower gets back is the result as the leader applied it; its own state follows a moment
 * later, and the answer waits for that, so that a client reads what it wrote.
 */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "core/codec.h"
#include "core/object_json.h"
#include "node/book.h"
#include "sys/log.h"

#include <inttypes.h>

#define FORWARD_DEADLINE_MS 10000
#define CATCH_UP_MS         5000

struct proposal {
	struct daemon *daemon;
	daemon_propose_cb cb;
	void *data;
	int status;
	struct command_result result;
	uv_timer_t later; /* answers a failure found inside the call */
};

static void proposal_answer(struct proposal *p)
{
	p->cb(p->data, p->status, p->status == 0 ? &p->result : NULL);
	free(p);
}

static void proposal_closed(uv_handle_t *handle)
{
	proposal_answer(handle->data);
}

static void proposal_fail_now(uv_timer_t *timer)
{
	uv_close((uv_handle_t *)timer, proposal_closed);
}

static void proposal_fail(struct proposal *p, int status)
{
	p->status = status;
	(void)uv_timer_init(p->daemon->loop, &p->later);
	p->later.data = p;
	(void)uv_timer_start(&p->later, proposal_fail_now, 0, 0);
}

static void proposed_here(void *data, int status, const struct command_result *result)
{
	struct proposal *p = data;

	p->status = status;
	if (status == 0)
		p->result = *result;
	proposal_answer(p);
}

static bool caught_up(const struct daemon *d, const void *data)
{
	const struct proposal *p = data;

	return d->state->revision >= p->result.revision;
}

static void proposal_caught_up(struct daemon *d, void *data, bool cancelled)
{
	(void)d;
	(void)cancelled;
	proposal_answer(data);
}

static void put_result(struct buf *out, const struct command_result *r)
{
	put_u32(out, r->code);
	put_u32(out, r->why);
	put_u64(out, r->revision);
	put_u64(out, r->uid);
}

static bool get_result(const struct buf *in, struct command_result *ret)
{
	struct codec codec = {.at = (const uint8_t *)in->data, .left = in->len};

	ret->code = (enum blix_code)get_enum(&codec, BLIX_CODE_COUNT);
	ret->why = get_enum(&codec, REFUSAL_COUNT);
	ret->revision = get_u64(&codec);
	ret->uid = get_u64(&codec);
	return codec_end(&codec);
}

/* The leader's daemon answered with an error object: its code is the status. */
static int status_of_error(const struct buf *answer, int http)
{
	cleanup(json_freep) cJSON *tree = NULL;
	struct blix_error err;

	if (answer->data == NULL ||
	    json_parse(answer->data, answer->len, &json_limits_answer, &tree, NULL) < 0)
		return -(int)BLIX_E_UNKNOWN;
	error_parse(tree, http, &err);
	return -(int)err.code;
}

static void forwarded(void *data, int status, int http, struct buf *answer,
                      const char *content_type)
{
	struct proposal *p = data;

	(void)content_type;
	if (status == 0 && http == 200)
		status = get_result(answer, &p->result) ? 0 : -(int)BLIX_E_UNKNOWN;
	else if (status == 0)
		status = status_of_error(answer, http);
	else if (status == -(int)BLIX_E_UNAVAILABLE || status == -(int)BLIX_E_TIMEOUT)
		status = -(int)BLIX_E_NOLEADER; /* nothing was sent */
	else
		status = -(int)BLIX_E_UNKNOWN;
	p->status = status;
	if (status < 0 || caught_up(p->daemon, p) || p->daemon->closing) {
		proposal_answer(p);
		return;
	}
	daemon_wait(p->daemon, &(struct wait_options){.ready = caught_up,
	                                              .cb = proposal_caught_up,
	                                              .data = p,
	                                              .deadline_ms = CATCH_UP_MS});
}

static void forward(struct proposal *p, const struct buf *bytes)
{
	const struct config_server *leader = daemon_server(p->daemon, p->daemon->leader_id);
	struct api_hop hop;
	struct fetch_options options = {
		.server_name = hop.server_name,
		.method = "POST",
		.path = "/v1/internal/propose",
		.body = bytes->data,
		.n = bytes->len,
		.content_type = "application/octet-stream",
		.deadline_ms = FORWARD_DEADLINE_MS,
		.answer_max = LIMIT_FILE,
	};
	int rc;

	if (leader == NULL) {
		proposal_fail(p, -(int)BLIX_E_NOLEADER);
		return;
	}
	api_hop(p->daemon, NULL, leader, &hop);
	options.address = hop.address;
	rc = fetch_start(p->daemon->fetch, &options, forwarded, p, NULL, NULL);
	if (rc < 0)
		proposal_fail(p, rc == -(int)BLIX_E_BUSY ? rc : -(int)BLIX_E_NOLEADER);
}

void daemon_propose(struct daemon *d, const struct command *command, daemon_propose_cb cb,
                    void *data)
{
	struct proposal *p = xcalloc(1, sizeof(*p));
	cleanup(buf_done) struct buf bytes;

	*p = (struct proposal){.daemon = d, .cb = cb, .data = data};
	buf_init(&bytes, LIMIT_COMMAND);
	if (command_encode(command, &bytes, NULL) < 0)
		proposal_fail(p, -(int)BLIX_E_TOOBIG);
	else if (d->closing)
		proposal_fail(p, -(int)BLIX_E_NOLEADER);
	else if (d->role == CONSENSUS_LEADER)
		consensus_propose(d->consensus, bytes.data, bytes.len, proposed_here, p);
	else
		forward(p, &bytes);
}

int daemon_propose_error(const struct daemon *d, int status, struct blix_error *err)
{
	enum blix_code code = (enum blix_code) - status;

	(void)blix_fail(err, code, "%s", blix_code_info(code)->text);
	if (code == BLIX_E_NOLEADER) {
		blix_hint(err, "%s",
		          d->config->n_servers > 1 || d->config->identity != NULL
		                  ? "a majority of the servers must run: see 'blix cluster status'"
		                  : "the daemon is still starting: try again");
	}
	return status;
}

struct relay {
	struct daemon *daemon;
	struct http_request *request; /* NULL: the sender went away */
};

static void relay_cancelled(void *data)
{
	((struct relay *)data)->request = NULL;
}

static void relay_done(void *data, int status, const struct command_result *result)
{
	struct relay *relay = data;
	struct blix_error err;
	struct buf out;

	if (relay->request != NULL && status == 0) {
		buf_init(&out, LIMIT_FILE);
		put_result(&out, result);
		http_answer(relay->request, 200, "application/octet-stream", out.data, out.len);
	} else if (relay->request != NULL) {
		(void)daemon_propose_error(relay->daemon, status, &err);
		http_answer_error(relay->request, &err, NULL);
	}
	free(relay);
}

void propose_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	struct blix_error err;
	struct command command;
	struct relay *relay;
	const char *body;
	size_t n;

	if (d->role != CONSENSUS_LEADER) {
		(void)daemon_propose_error(d, -(int)BLIX_E_NOLEADER, &err);
		http_answer_error(request, &err, NULL);
		return;
	}
	body = http_body(request, &n);
	if (command_decode((const uint8_t *)body, n, &command, &err) < 0) {
		err.code = BLIX_E_INVALID;
		http_answer_error(request, &err, NULL);
		return;
	}
	command_done(&command);
	relay = xcalloc(1, sizeof(*relay));
	*relay = (struct relay){.daemon = d, .request = request};
	http_on_cancel(request, relay_cancelled, relay);
	consensus_propose(d->consensus, body, n, relay_done, relay);
}
