/* The daemon before it is of a cluster: see lobby.h.
 *
 * It serves the daemon's own table of routes, with every handler but three replaced by one that
 * says what to do. One init or join is under way at a time; one that fails leaves the lobby as it
 * was. */
#include "node/lobby.h"

#include "base/alloc.h"
#include "base/version.h"
#include "core/object_json.h"
#include "node/api_internal.h"
#include "node/joining.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/seal.h"

#include <grp.h>
#include <unistd.h>

#define FLUSH_MS    10
#define FLUSH_TRIES 100 /* a client that does not read its answer is not waited for longer */

struct lobby {
	uv_loop_t *loop;
	const struct config *config;
	void (*joined)(void *data);
	void *data;
	int lock_fd;
	struct http_route *routes;
	struct http_server *http;
	struct joining *joining;
	struct http_request *request; /* of the join under way; NULL: its client went away */
	uv_timer_t flush;
	unsigned n_flushes;
	bool done, closing;
	void (*close_cb)(void *data);
	void *close_data;
};

static void refuse_handle(struct http_request *request, void *data)
{
	const struct lobby *lobby = data;
	struct blix_error err;

	(void)blix_fail(&err, lobby->done ? BLIX_E_UNAVAILABLE : BLIX_E_REFUSED, "%s",
	                lobby->done ? "this node is starting" : "this node is in no cluster yet");
	blix_reason(&err, "not-joined");
	if (!lobby->done)
		blix_hint(&err, "'blix node init' makes a cluster, 'blix node join' enters one");
	http_answer_header(request, "Connection", "close");
	http_answer_error(request, &err, NULL);
}

static void version_handle(struct http_request *request, void *data)
{
	const struct lobby *lobby = data;
	cleanup(json_freep) cJSON *object = api_version_json(lobby->config);

	http_answer_json(request, 200, object);
}

static void on_flush(uv_timer_t *timer)
{
	struct lobby *lobby = timer->data;

	if (http_server_connections(lobby->http) > 0 && ++lobby->n_flushes < FLUSH_TRIES)
		return;
	(void)uv_timer_stop(timer);
	lobby->joined(lobby->data);
}

/* The identity is on the disk: answers, and leaves when the answer has. */
static void enter(struct lobby *lobby, struct http_request *request,
                  const struct node_identity *identity)
{
	cleanup(json_freep) cJSON *object = json_object();

	log_event(LOG_NOTICE, "node.entered", "node=%s cluster=%s id=%llu", identity->name,
	          identity->cluster, (unsigned long long)identity->node);
	lobby->done = true;
	(void)uv_timer_start(&lobby->flush, on_flush, FLUSH_MS, FLUSH_MS);
	if (request == NULL)
		return;
	json_add_string(object, "kind", "Identity");
	json_add_string(object, "apiVersion", BLIX_API_VERSION);
	json_add_string(object, "cluster", identity->cluster);
	json_add_u64(object, "node", identity->node);
	json_add_string(object, "name", identity->name);
	json_add_string(object, "role", tls_kind_text(identity->kind));
	json_add_string(object, "address", identity->advertise);
	http_answer_header(request, "Connection", "close");
	http_answer_json(request, 200, object);
}

/* The file's name would contradict the identity's at the next start. */
static int check_name(const struct lobby *lobby, const char *name, struct blix_error *err)
{
	if (!lobby->config->named || strcmp(lobby->config->name, name) == 0)
		return 0;
	return blix_fail(err, BLIX_E_REFUSED, "the configuration of this node calls it %s, not %s",
	                 lobby->config->name, name);
}

static int parse_where(const cJSON *body, struct node_identity *identity, struct blix_error *err)
{
	const char *listen = "", *advertise = "", *zone = "";
	int rc;

	if ((rc = json_get_string(body, "listen", &listen, err)) < 0 ||
	    (rc = json_get_string(body, "advertise", &advertise, err)) < 0 ||
	    (rc = json_get_string(body, "zone", &zone, err)) < 0 ||
	    (zone[0] != '\0' && (rc = parse_name("zone", zone, err)) < 0))
		return rc;
	(void)snprintf(identity->zone, sizeof(identity->zone), "%s", zone);
	return node_identity_addresses(identity, listen, advertise, err);
}

static int init_parse(const struct lobby *lobby, const struct http_request *request,
                      struct node_identity *identity, struct blix_error *err)
{
	static const char *const keys[] = {"name", "listen", "advertise", "zone", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	const char *name = lobby->config->name;
	int rc;

	if ((rc = api_parse_body(request, &body, err)) < 0 ||
	    (rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = json_get_string(body, "name", &name, err)) < 0 ||
	    (rc = parse_name("name", name, err)) < 0 || (rc = check_name(lobby, name, err)) < 0)
		return rc;
	(void)snprintf(identity->name, sizeof(identity->name), "%s", name);
	return parse_where(body, identity, err);
}

static int check_idle(const struct lobby *lobby, struct blix_error *err)
{
	if (!lobby->done && lobby->joining == NULL && !lobby->closing)
		return 0;
	return blix_fail(err, BLIX_E_BUSY, "this node enters a cluster already");
}

static void found_handle(struct http_request *request, void *data)
{
	struct lobby *lobby = data;
	struct node_identity identity = {0};
	struct blix_error err;

	if (check_idle(lobby, &err) < 0 || init_parse(lobby, request, &identity, &err) < 0 ||
	    node_identity_found(lobby->config->state_dir, &identity, &err) < 0)
		http_answer_error(request, &err, NULL);
	else
		enter(lobby, request, &identity);
}

static void join_cancelled(void *data)
{
	((struct lobby *)data)->request = NULL;
}

static void join_done(void *data, int status, const struct node_identity *identity,
                      const struct blix_error *err)
{
	struct lobby *lobby = data;
	struct http_request *request = take(lobby->request);

	lobby->joining = NULL;
	if (status == 0) {
		enter(lobby, request, identity);
		return;
	}
	log_error(LOG_WARNING, "node.join.failed", err, "node=%s", lobby->config->name);
	if (request != NULL)
		http_answer_error(request, err, NULL);
}

/* Wipes the line of the token with the body that it came in. */
static int join_parse(struct http_request *request, struct join_token *token,
                      struct node_identity *identity, char address[JOIN_ADDRESS],
                      struct blix_error *err)
{
	static const char *const keys[] = {"token", "address", "listen", "advertise", "zone", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	const char *line = NULL, *at = "";
	int rc;

	if ((rc = api_parse_body(request, &body, err)) < 0 ||
	    (rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = json_get_string(body, "token", &line, err)) < 0 ||
	    (rc = json_get_string(body, "address", &at, err)) < 0)
		return rc;
	if (line == NULL || strlen(at) >= JOIN_ADDRESS)
		return blix_fail(err, BLIX_E_INVALID,
		                 "a token is needed, and an address of "
		                 "HOST:PORT");
	(void)snprintf(address, JOIN_ADDRESS, "%s", at);
	rc = join_token_read(line, token, err);
	explicit_bzero((char *)(uintptr_t)line, strlen(line));
	http_body_wipe(request);
	return rc < 0 ? rc : parse_where(body, identity, err);
}

static int check_kind(const struct join_token *token, struct blix_error *err)
{
	if (token->kind == TLS_SERVER)
		return 0;
	return blix_fail(err, BLIX_E_REFUSED, "this blixd can join as a server only");
}

static void enter_handle(struct http_request *request, void *data)
{
	struct lobby *lobby = data;
	struct node_identity identity = {0};
	struct join_token token = {0};
	char address[JOIN_ADDRESS];
	struct blix_error err;
	struct joining_options options = {.loop = lobby->loop,
	                                  .state_dir = lobby->config->state_dir,
	                                  .token = &token,
	                                  .address = address,
	                                  .identity = &identity};
	int rc = check_idle(lobby, &err);

	if (rc == 0)
		rc = join_parse(request, &token, &identity, address, &err);
	if (rc == 0)
		rc = check_kind(&token, &err);
	if (rc == 0)
		rc = check_name(lobby, token.name, &err);
	if (rc == 0)
		rc = joining_start(&options, join_done, lobby, &lobby->joining, &err);
	join_token_wipe(&token);
	if (rc < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	lobby->request = request;
	http_on_cancel(request, join_cancelled, lobby);
}

/* The socket's group may see that it waits; to enter a cluster is root's. */
static int lobby_allow(void *data, const struct http_request *request,
                       const struct http_route *route, struct blix_error *err)
{
	const struct http_peer *peer = http_peer(request);

	(void)data;
	if (peer->uid == 0 || peer->uid == geteuid() ||
	    (route->handler != found_handle && route->handler != enter_handle))
		return 0;
	return blix_fail(err, BLIX_E_DENIED, "user %u may not do this: be root",
	                 (unsigned)peer->uid);
}

static struct http_route *lobby_routes(void)
{
	static const struct {
		const char *path;
		http_handler handler;
	} own[] = {{"/v1/version", version_handle},
	           {"/v1/node/init", found_handle},
	           {"/v1/node/join", enter_handle}};
	struct http_route *routes = xcalloc(api_n_routes, sizeof(*routes));

	for (size_t i = 0; i < api_n_routes; i++) {
		routes[i] = api_routes[i];
		routes[i].handler = refuse_handle;
		for (size_t k = 0; k < array_size(own); k++) {
			if (strcmp(routes[i].path, own[k].path) == 0)
				routes[i].handler = own[k].handler;
		}
	}
	return routes;
}

static void lobby_free(uv_handle_t *handle)
{
	struct lobby *lobby = handle->data;

	free(lobby->routes);
	if (lobby->lock_fd >= 0)
		(void)close(lobby->lock_fd);
	if (lobby->close_cb != NULL)
		lobby->close_cb(lobby->close_data);
	free(lobby);
}

int lobby_open(uv_loop_t *loop, const struct config *config, void (*joined)(void *data), void *data,
               struct lobby **ret, struct blix_error *err)
{
	struct lobby *lobby = xcalloc(1, sizeof(*lobby));
	struct http_config http = {.socket_path = config->socket,
	                           .mode = 0660,
	                           .group = config_group(config),
	                           .n = api_n_routes,
	                           .data = lobby,
	                           .allow = lobby_allow};
	int rc;

	*lobby = (struct lobby){
		.loop = loop, .config = config, .joined = joined, .data = data, .lock_fd = -1};
	http.routes = lobby->routes = lobby_routes();
	(void)uv_timer_init(loop, &lobby->flush);
	lobby->flush.data = lobby;
	rc = daemon_lock(config, &lobby->lock_fd, err);
	if (rc == 0)
		rc = http_server_open(loop, &http, &lobby->http, err);
	if (rc < 0) {
		uv_close((uv_handle_t *)&lobby->flush, lobby_free);
		return rc;
	}
	log_event(LOG_NOTICE, "node.waits", "node=%s socket=%s", config->name, config->socket);
	*ret = lobby;
	return 0;
}

static void close_timer(void *data)
{
	struct lobby *lobby = data;

	uv_close((uv_handle_t *)&lobby->flush, lobby_free);
}

static void close_http(void *data)
{
	struct lobby *lobby = data;

	lobby->joining = NULL;
	http_server_close(lobby->http, close_timer, lobby);
}

void lobby_close(struct lobby *lobby, void (*cb)(void *data), void *data)
{
	if (lobby->closing)
		return;
	lobby->closing = true;
	lobby->close_cb = cb;
	lobby->close_data = data;
	if (lobby->joining != NULL)
		joining_cancel(lobby->joining, close_http, lobby);
	else
		close_http(lobby);
}
