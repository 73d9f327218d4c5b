/* Routes about the members of the cluster: nodes, the tokens by which they join, who leads, and
 * this node's own certificate. Joining itself is in api_join.c. */
#include "node/membership.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/member_json.h"
#include "core/object_json.h"
#include "node/api_internal.h"
#include "node/book.h"
#include "node/read.h"
#include "tls/credentials.h"

#include <stdio.h>

#define TOKEN_TTL_MS 900000
#define HAND_ON_MS   20000 /* a transfer ends within two election timeouts */

const char *api_vote(const struct daemon *d, uint64_t id)
{
	static const char *const names[] = {
		[CONSENSUS_SPARE] = "spare",
		[CONSENSUS_STANDBY] = "standby",
		[CONSENSUS_VOTER] = "voter",
	};
	struct consensus_peer peers[LIMIT_SERVERS];
	size_t n = consensus_members(d->consensus, peers, array_size(peers));

	for (size_t i = 0; i < n && i < array_size(peers); i++) {
		if (peers[i].id == id)
			return names[peers[i].vote];
	}
	return "";
}

/* What the state says, and what the log does. */
static cJSON *member_json(const struct daemon *d, const struct node *node)
{
	cJSON *object = node_json(node);
	cJSON *status = cJSON_GetObjectItemCaseSensitive(object, "status");
	cJSON *raft = json_object();

	json_add_string(raft, "vote", api_vote(d, node->id));
	json_add_bool(raft, "leader", node->id == d->leader_id);
	json_add(status, "raft", raft);
	return object;
}

static int by_name(const void *a, const void *b)
{
	const struct node *const *one = a, *const *other = b;

	return strcmp((*one)->name, (*other)->name);
}

static void node_list_read(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	size_t n = d->state->n_nodes;
	cleanup(freep) const struct node **nodes = xcalloc(n + 1, sizeof(struct node *));
	cleanup(json_freep) cJSON *list = json_object();
	cJSON *items = json_array();

	json_add_string(list, "kind", "NodeList");
	json_add_string(list, "apiVersion", BLIX_API_VERSION);
	api_add_staleness(d, list);
	for (size_t i = 0; i < n; i++)
		nodes[i] = d->state->nodes[i];
	qsort(nodes, n, sizeof(struct node *), by_name);
	for (size_t i = 0; i < n; i++)
		json_push(items, member_json(d, nodes[i]));
	json_add(list, "items", items);
	http_answer_json(request, 200, list);
}

static void node_show_read(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	const char *name = http_path_param(request, "name");
	const struct node *node = state_node_named(d->state, name);
	cleanup(json_freep) cJSON *object = NULL;
	struct blix_error err;

	if (node == NULL) {
		(void)blix_fail(&err, BLIX_E_NOTFOUND, "node %s: no such node", name);
		blix_reason(&err, "node-missing");
		blix_hint(&err, "'blix node list' shows those there are");
		http_answer_error(request, &err, NULL);
		return;
	}
	object = member_json(d, node);
	api_add_stale(d, object);
	http_answer_json(request, 200, object);
}

void node_list_handle(struct http_request *request, void *data)
{
	api_read(data, request, node_list_read);
}

void node_show_handle(struct http_request *request, void *data)
{
	api_read(data, request, node_show_read);
}

/* A worker, and a node that never was in the log, is gone at once. */
static void answer_node(const struct daemon *d, struct http_request *request, const char *name,
                        int status, uint64_t uid)
{
	const struct node *node = state_node_named(d->state, name);
	cleanup(json_freep) cJSON *object = node != NULL ? member_json(d, node) : json_object();

	(void)uid;
	if (node == NULL)
		json_add_bool(object, "deleted", true);
	http_answer_json(request, status, object);
}

static int take_bool(const cJSON *body, const char *key, enum node_set_field field, bool *ret,
                     uint32_t *fields, struct blix_error *err)
{
	if (cJSON_GetObjectItemCaseSensitive(body, key) != NULL)
		*fields |= (uint32_t)field;
	return json_get_bool(body, key, ret, err);
}

static int set_parse(const struct http_request *request, struct command *command,
                     struct blix_error *err)
{
	static const char *const keys[] = {"schedulable", "maintenance", "vote", "zone", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	const char *vote = NULL, *zone = NULL;
	uint32_t *fields = &command->node_set.fields;
	int rc;

	if ((rc = api_parse_body(request, &body, err)) < 0 ||
	    (rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = take_bool(body, "schedulable", NODE_SET_SCHEDULABLE,
	                    &command->node_set.schedulable, fields, err)) < 0 ||
	    (rc = take_bool(body, "maintenance", NODE_SET_MAINTENANCE,
	                    &command->node_set.maintenance, fields, err)) < 0 ||
	    (rc = json_get_string(body, "vote", &vote, err)) < 0 ||
	    (rc = json_get_string(body, "zone", &zone, err)) < 0 ||
	    (vote != NULL && (rc = node_vote_parse(vote, &command->node_set.vote, err)) < 0) ||
	    (zone != NULL && zone[0] != '\0' && (rc = parse_name("zone", zone, err)) < 0))
		return rc;
	if (vote != NULL)
		*fields |= NODE_SET_VOTE;
	if (zone != NULL) {
		*fields |= NODE_SET_ZONE;
		(void)snprintf(command->node_set.zone, sizeof(command->node_set.zone), "%s", zone);
	}
	return *fields != 0 ? 0 : blix_fail(err, BLIX_E_INVALID, "nothing to set");
}

void node_set_handle(struct http_request *request, void *data)
{
	const char *name = api_path_name(request);
	struct command command;
	struct blix_error err;

	if (name == NULL)
		return;
	command_init(&command, COMMAND_NODE_SET);
	(void)snprintf(command.node_set.name, sizeof(command.node_set.name), "%s", name);
	if (set_parse(request, &command, &err) < 0 ||
	    api_if_version(request, &command.node_set.if_version, &err) < 0) {
		http_answer_error(request, &err, NULL);
		command_done(&command);
		return;
	}
	api_propose_of(data, request, &command,
	               &(struct api_object){"node", name, 200, answer_node});
}

void node_remove_handle(struct http_request *request, void *data)
{
	const char *name = api_path_name(request), *dead = http_query(request, "dead");
	struct command command;
	struct blix_error err;

	if (name == NULL)
		return;
	command_init(&command, COMMAND_NODE_REMOVE);
	(void)snprintf(command.node_remove.name, sizeof(command.node_remove.name), "%s", name);
	command.node_remove.dead = dead != NULL && strcmp(dead, "true") == 0;
	if (api_if_version(request, &command.node_remove.if_version, &err) < 0) {
		http_answer_error(request, &err, NULL);
		command_done(&command);
		return;
	}
	api_propose_of(data, request, &command,
	               &(struct api_object){"node", name, 200, answer_node});
}

void token_list_handle(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	const struct members *members = &d->state->members;
	cleanup(json_freep) cJSON *list = json_object();
	cJSON *items = json_array();

	json_add_string(list, "kind", "TokenList");
	json_add_string(list, "apiVersion", BLIX_API_VERSION);
	api_add_staleness(d, list);
	for (size_t i = 0; i < members->n_tokens; i++)
		json_push(items, token_json(&members->tokens[i], d->state));
	json_add(list, "items", items);
	http_answer_json(request, 200, list);
}

/* Where a joiner may ask: this server first, then the others. */
static cJSON *addresses_json(const struct daemon *d)
{
	cJSON *list = json_array();
	const struct node *self = state_node(d->state, d->config->id);

	if (self != NULL)
		json_push_string(list, d->identity.advertise);
	for (size_t i = 0; i < d->state->n_nodes; i++) {
		const struct node *node = d->state->nodes[i];

		if (node != self && node->role == NODE_SERVER && node_is_up(node) &&
		    !node->leaving && daemon_server(d, node->id) != NULL &&
		    cJSON_GetArraySize(list) < (int)LIMIT_TOKEN_ADDRESSES)
			json_push_string(list, daemon_server(d, node->id)->api);
	}
	return list;
}

/* What the client needs to write the line: it holds the secret, and only it. */
static void answer_token(const struct daemon *d, struct http_request *request, const char *name,
                         int status, uint64_t uid)
{
	const struct token *token = members_token(&d->state->members, name);
	cleanup(json_freep) cJSON *object = NULL;
	struct blix_error err;

	if (token == NULL || token->uid != uid) {
		(void)blix_fail(&err, BLIX_E_NOTFOUND, "token %s: it has expired, or was replaced",
		                name);
		http_answer_error(request, &err, NULL);
		return;
	}
	object = token_json(token, d->state);
	json_add_string(object, "caFingerprint", d->state->members.cluster.ca);
	json_add(object, "addresses", addresses_json(d));
	http_answer_json(request, status, object);
}

static int token_parse(const struct http_request *request, struct command *command,
                       struct blix_error *err)
{
	static const char *const keys[] = {"name", "hash", "role", "ttlMs", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	const char *name = "", *hash = "", *role = "server";
	int rc;

	command->token_create.ttl_ms = TOKEN_TTL_MS;
	if ((rc = api_parse_body(request, &body, err)) < 0 ||
	    (rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = json_get_string(body, "name", &name, err)) < 0 ||
	    (rc = json_get_string(body, "hash", &hash, err)) < 0 ||
	    (rc = json_get_string(body, "role", &role, err)) < 0 ||
	    (rc = json_get_u64(body, "ttlMs", &command->token_create.ttl_ms, err)) < 0 ||
	    (rc = parse_name("name", name, err)) < 0)
		return rc;
	if (!hex_is(hash, DIGEST_LENGTH))
		return blix_fail(err, BLIX_E_INVALID, "key 'hash' is not 64 hex digits");
	if (strcmp(role, node_role_name(NODE_SERVER)) != 0)
		return blix_fail(err, BLIX_E_INVALID, "role must be server");
	if (command->token_create.ttl_ms == 0 || command->token_create.ttl_ms > LIMIT_TOKEN_TTL)
		return blix_fail(err, BLIX_E_INVALID, "ttlMs must be from 1 to %u",
		                 LIMIT_TOKEN_TTL);
	(void)snprintf(command->token_create.name, sizeof(command->token_create.name), "%s", name);
	(void)snprintf(command->token_create.hash, sizeof(command->token_create.hash), "%s", hash);
	command->token_create.role = NODE_SERVER;
	return 0;
}

void token_create_handle(struct http_request *request, void *data)
{
	char name[LIMIT_NAME + 1];
	struct command command;
	struct blix_error err;

	command_init(&command, COMMAND_TOKEN_CREATE);
	if (token_parse(request, &command, &err) < 0) {
		http_answer_error(request, &err, NULL);
		command_done(&command);
		return;
	}
	memcpy(name, command.token_create.name, sizeof(name));
	api_propose_of(data, request, &command,
	               &(struct api_object){"token", name, 201, answer_token});
}

static void answer_deleted(const struct daemon *d, struct http_request *request, const char *name,
                           int status, uint64_t uid)
{
	cleanup(json_freep) cJSON *object = json_object();

	(void)d;
	(void)uid;
	json_add_string(object, "name", name);
	json_add_bool(object, "deleted", true);
	http_answer_json(request, status, object);
}

void token_delete_handle(struct http_request *request, void *data)
{
	const char *name = api_path_name(request);
	struct command command;

	if (name == NULL)
		return;
	command_init(&command, COMMAND_TOKEN_DELETE);
	(void)snprintf(command.token_delete.name, sizeof(command.token_delete.name), "%s", name);
	api_propose_of(data, request, &command,
	               &(struct api_object){"token", name, 200, answer_deleted});
}

/* POST /v1/node/init and join, of a node that has a cluster. */
void entered_handle(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	struct blix_error err;

	http_body_wipe(request);
	(void)blix_fail(&err, BLIX_E_REFUSED, "this node is %s of cluster %s already",
	                d->config->name, d->config->cluster);
	blix_reason(&err, "already-joined");
	blix_hint(&err, "a node is in one cluster: 'blix node remove %s' takes it out",
	          d->config->name);
	http_answer_error(request, &err, NULL);
}

/* A request that waits for a transfer or a renewal. */
struct asked {
	struct daemon *daemon;
	struct http_request *request; /* NULL: the client went away */
	struct fetch *fetch;
};

static void asked_cancelled(void *data)
{
	struct asked *asked = data;

	asked->request = NULL;
	if (asked->fetch == NULL)
		return;
	fetch_cancel(asked->fetch);
	free(asked);
}

static struct asked *asked_new(struct daemon *d, struct http_request *request)
{
	struct asked *asked = xcalloc(1, sizeof(*asked));

	asked->daemon = d;
	asked->request = request;
	http_on_cancel(request, asked_cancelled, asked);
	return asked;
}

static void renewed(void *data, int status)
{
	struct asked *asked = data;
	const struct daemon *d = asked->daemon;
	cleanup(json_freep) cJSON *object = json_object();
	const struct tls_identity *own = credentials_own(d->credentials);
	struct blix_error err;

	if (asked->request != NULL && status < 0) {
		(void)daemon_propose_error(d, status, &err);
		http_answer_error(asked->request, &err, NULL);
	} else if (asked->request != NULL) {
		json_add_string(object, "name", own->name);
		json_add_string(object, "certificateSerial", own->serial);
		json_add_time(object, "expiresAt", own->not_after_ms);
		http_answer_json(asked->request, 200, object);
	}
	free(asked);
}

void renew_handle(struct http_request *request, void *data)
{
	struct asked *asked = asked_new(data, request);
	struct blix_error err;

	if (membership_renew(data, renewed, asked, &err) == 0)
		return;
	http_answer_error(request, &err, NULL);
	free(asked);
}

static void transferred(void *data, int status)
{
	struct asked *asked = data;
	cleanup(json_freep) cJSON *object = json_object();
	struct blix_error err;

	if (asked->request != NULL && status < 0) {
		(void)daemon_propose_error(asked->daemon, status, &err);
		if (status == -(int)BLIX_E_NOTFOUND)
			(void)blix_fail(&err, BLIX_E_REFUSED, "no other voter can lead now");
		http_answer_error(asked->request, &err, NULL);
	} else if (asked->request != NULL) {
		json_add_bool(object, "transferred", true);
		http_answer_json(asked->request, 200, object);
	}
	free(asked);
}

static void transfer_answered(void *data, int status, int http, struct buf *answer,
                              const char *content_type)
{
	struct asked *asked = data;
	struct blix_error err;

	asked->fetch = NULL;
	if (status == 0) {
		size_t n = answer->len;

		http_answer(asked->request, http,
		            content_type != NULL ? content_type : "application/json",
		            buf_take(answer), n);
	} else {
		(void)daemon_propose_error(asked->daemon, -(int)BLIX_E_UNKNOWN, &err);
		http_answer_error(asked->request, &err, NULL);
	}
	free(asked);
}

/* Only the leader can: it is asked, once. */
static int transfer_hand_on(struct asked *asked, struct blix_error *err)
{
	struct daemon *d = asked->daemon;
	const struct config_server *leader = daemon_server(d, d->leader_id);
	struct api_hop hop;
	size_t n;
	struct fetch_options options = {.method = "POST",
	                                .path = "/v1/cluster/transfer-leader",
	                                .body = http_body(asked->request, &n),
	                                .headers = hop.headers,
	                                .server_name = hop.server_name,
	                                .deadline_ms = HAND_ON_MS,
	                                .answer_max = LIMIT_BODY};

	if (leader == NULL || http_header(asked->request, "Blix-For") != NULL)
		return daemon_propose_error(d, -(int)BLIX_E_NOLEADER, err);
	api_hop(d, asked->request, leader, &hop);
	options.n = n;
	options.address = hop.address;
	return fetch_start(d->fetch, &options, transfer_answered, asked, &asked->fetch, err);
}

static int transfer_parse(const struct daemon *d, const struct http_request *request,
                          uint64_t *ret_id, struct blix_error *err)
{
	static const char *const keys[] = {"node", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	const char *name = NULL;
	const struct node *node;
	size_t n;
	int rc = 0;

	(void)http_body(request, &n);
	if (n > 0 && ((rc = api_parse_body(request, &body, err)) < 0 ||
	              (rc = json_only_keys(body, keys, err)) < 0 ||
	              (rc = json_get_string(body, "node", &name, err)) < 0))
		return rc;
	node = name != NULL ? state_node_named(d->state, name) : NULL;
	*ret_id = node != NULL ? node->id : 0;
	if (name == NULL || node != NULL)
		return 0;
	(void)blix_fail(err, BLIX_E_NOTFOUND, "node %s: no such node", name);
	blix_reason(err, "node-missing");
	return -(int)BLIX_E_NOTFOUND;
}

void transfer_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	struct asked *asked;
	struct blix_error err;
	uint64_t id = 0;

	if (transfer_parse(d, request, &id, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	asked = asked_new(d, request);
	if (d->role == CONSENSUS_LEADER) {
		consensus_transfer(d->consensus, id, transferred, asked);
	} else if (transfer_hand_on(asked, &err) < 0) {
		http_answer_error(request, &err, NULL);
		free(asked);
	}
}
