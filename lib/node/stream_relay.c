/* The relay: a stream of a VM that is on another node, passed on to that node's daemon.
 *
 * Happy path: connect to its socket, or over TLS (dial.h), ask for the same stream with ?here=true
 * and the same body; its 101 is answered with our own, and from then on bytes are passed both ways
 * as they are: the window of the frames is kept by the two ends. An error answer of the other
 * daemon is passed on too. One that does not answer is node-unreachable. Each side is read only
 * while the other takes it. */
#include "node/stream.h"

#include "base/alloc.h"
#include "base/upgrade.h"
#include "node/api_internal.h"
#include "node/dial.h"
#include "sys/wire.h"

#define HEAD_MS 30000 /* a guest that must be asked first may be slow */

struct relay {
	struct stream_link link;
	struct daemon *daemon;
	struct http_request *request; /* until answered */
	struct http_upgrade *upgrade;
	struct wire *near, *far; /* client, daemon of the node */
	struct dial *dial;       /* to it; NULL: not under way */
	struct buf ask;          /* what it is asked, until it is */
	struct buf head;         /* of the far answer, and what came behind it */
	struct upgrade_head answer;
	uv_timer_t timer;
	bool ended;
	unsigned open; /* what is still to close: far, near, timer, the 101 */
};

static void relay_closed(void *data)
{
	struct relay *relay = data;

	if (--relay->open > 0)
		return;
	if (relay->upgrade != NULL)
		http_upgrade_close(relay->upgrade);
	buf_done(&relay->head);
	buf_done(&relay->ask);
	free(relay);
}

static void on_timer_closed(uv_handle_t *handle)
{
	relay_closed(handle->data);
}

static void relay_end(struct relay *relay)
{
	if (relay->ended)
		return;
	relay->ended = true;
	stream_unlink(relay->daemon, &relay->link);
	uv_close((uv_handle_t *)&relay->timer, on_timer_closed);
	if (relay->dial != NULL)
		dial_cancel(relay->dial);
	relay->dial = NULL;
	if (relay->near != NULL)
		wire_close(relay->near, relay_closed, relay);
	if (relay->far != NULL)
		wire_close(relay->far, relay_closed, relay);
}

static void relay_cut(struct stream_link *link)
{
	struct relay *relay = container_of(link, struct relay, link);

	if (relay->request != NULL)
		http_on_cancel(relay->request, NULL, NULL);
	relay_end(relay);
}

static void on_cancelled(void *data)
{
	struct relay *relay = data;

	relay->request = NULL;
	relay_end(relay);
}

static void relay_fail(struct relay *relay, const char *why)
{
	struct http_request *request = relay->request;
	struct blix_error err;

	if (request != NULL) {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "vm %s: its node %s",
		                http_path_param(request, "name"), why);
		blix_reason(&err, "node-unreachable");
		relay->request = NULL;
		http_answer_error(request, &err, NULL);
	}
	relay_end(relay);
}

static void near_read(void *data, const char *bytes, size_t n)
{
	struct relay *relay = data;

	(void)wire_write(relay->far, bytes, n, NULL);
	if (wire_full(relay->far))
		wire_pause(relay->near);
}

static void near_drained(void *data)
{
	wire_resume(((struct relay *)data)->far);
}

static void on_ended(void *data, int status)
{
	(void)status;
	relay_end(data);
}

static const struct wire_events near_events = {near_read, near_drained, on_ended};

static void on_taken(void *data, struct http_upgrade *upgrade, int fd, const char *bytes, size_t n)
{
	struct relay *relay = data;
	struct blix_error err;

	relay->upgrade = upgrade;
	if (relay->ended && fd >= 0)
		(void)close(fd);
	if (!relay->ended && fd >= 0 &&
	    wire_open(relay->daemon->loop, fd, &near_events, relay, &relay->near, &err) == 0) {
		relay->open++;
		(void)wire_write(relay->near, relay->head.data + relay->answer.n,
		                 relay->head.len - relay->answer.n, NULL);
		if (n > 0)
			near_read(relay, bytes, n);
		wire_resume(relay->near);
		wire_resume(relay->far);
	} else {
		relay_end(relay);
	}
	relay_closed(relay); /* the 101 has gone */
}

/* The far answer is whole: ours is the same. */
static void relay_answer(struct relay *relay)
{
	struct http_request *request = relay->request;
	const char *body = relay->head.data + relay->answer.n;
	size_t n = relay->answer.content_length;

	relay->request = NULL;
	(void)uv_timer_stop(&relay->timer);
	if (relay->answer.status == 101) {
		wire_pause(relay->far);
		relay->open++;
		http_answer_upgrade(request, UPGRADE_PROTOCOL, on_taken, relay);
		return;
	}
	http_answer(request, relay->answer.status, "application/json", xstrndup(body, n), n);
	relay_end(relay);
}

static void head_read(struct relay *relay, const char *bytes, size_t n)
{
	struct blix_error err;
	int rc = buf_add(&relay->head, bytes, n);

	if (rc == 0)
		rc = upgrade_read(relay->head.data, relay->head.len, &relay->answer, &err);
	if (rc < 0)
		relay_fail(relay, "gives an answer that cannot be read");
	else if (rc == 1 && (relay->answer.status == 101 ||
	                     relay->head.len - relay->answer.n >= relay->answer.content_length))
		relay_answer(relay);
}

static void far_read(void *data, const char *bytes, size_t n)
{
	struct relay *relay = data;

	if (relay->near == NULL) {
		head_read(relay, bytes, n);
		return;
	}
	(void)wire_write(relay->near, bytes, n, NULL);
	if (wire_full(relay->near))
		wire_pause(relay->far);
}

static void far_drained(void *data)
{
	struct relay *relay = data;

	if (relay->near != NULL)
		wire_resume(relay->near);
}

static void far_ended(void *data, int status)
{
	(void)status;
	relay_fail(data, "ended the connection before it answered");
}

static const struct wire_events far_events = {far_read, far_drained, far_ended};

static void on_timer(uv_timer_t *timer)
{
	relay_fail(timer->data, "does not answer in time");
}

/* The far daemon is there. */
static void relay_ask(struct relay *relay)
{
	struct blix_error err;

	relay->open++;
	if (wire_write(relay->far, relay->ask.data, relay->ask.len, &err) < 0)
		relay_fail(relay, "cannot be asked");
	else
		wire_resume(relay->far);
	buf_done(&relay->ask);
}

static void on_dialed(void *data, int fd)
{
	struct relay *relay = data;

	relay->dial = NULL;
	if (fd < 0 || wire_open(relay->daemon->loop, fd, &far_events, relay, &relay->far, NULL) < 0)
		relay_fail(relay, "cannot be reached");
	else
		relay_ask(relay);
}

static void relay_connect(struct relay *relay, const struct api_hop *hop)
{
	struct daemon *d = relay->daemon;
	bool is_unix = hop->address[0] == '/';
	int rc =
		is_unix ? wire_connect(d->loop, hop->address, &far_events, relay, &relay->far, NULL)
			: dial_start(d->loop, d->credentials, hop->address, hop->server_name,
	                             on_dialed, relay, &relay->dial, NULL);

	if (rc < 0)
		relay_fail(relay, "cannot be reached");
	else if (is_unix)
		relay_ask(relay);
}

void relay_start(struct daemon *d, struct http_request *request, const struct config_server *server,
                 const char *path)
{
	struct relay *relay = xcalloc(1, sizeof(*relay));
	struct api_hop hop;
	size_t n;

	if (!stream_link(d, request, &relay->link, relay_cut)) {
		free(relay);
		return;
	}
	relay->daemon = d;
	relay->request = request;
	relay->open = 1;
	buf_init(&relay->head, 2 * LIMIT_BODY);
	(void)uv_timer_init(d->loop, &relay->timer);
	relay->timer.data = relay;
	(void)uv_timer_start(&relay->timer, on_timer, HEAD_MS, 0);
	http_on_cancel(request, on_cancelled, relay);
	buf_init(&relay->ask, 2 * LIMIT_BODY);
	api_hop(d, request, server, &hop);
	if (upgrade_ask(&relay->ask, path, hop.headers[0], http_body(request, &n)) < 0)
		relay_fail(relay, "cannot be asked");
	else
		relay_connect(relay, &hop);
}
