/* POST /v1/join: a node that holds a token becomes a member.
 *
 * Happy path: the token's hash is found -> the certificate is signed -> the log consumes the token
 * and makes the node, with the certificate's serial -> certificate and CA are answered, to a server
 * with the CA's key. A joiner whose answer was lost shows the same key again, and gets a new
 * certificate for the node that it became.
 *
 * Whoever connects may ask, so everything here is bounded: LIMIT_JOIN_TRIES failures a minute of
 * one address. A refusal is logged; what the log refused is in the audit too. The token is found by
 * the hash of its secret, so that how long it takes says nothing about a secret. */
#include "node/membership.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "node/api_internal.h"
#include "sys/clock.h"
#include "sys/log.h"
#include "sys/seal.h"

#include <inttypes.h>
#include <stdio.h>

#define TOKEN_WAIT_MS 3000 /* a follower may hear of a new token a little later */
#define MINUTE_MS     60000

/* Failures of one address. */
struct join_guard {
	char address[INET6_ADDRSTRLEN];
	uint64_t since_ms;
	unsigned n;
};

struct join {
	struct daemon *daemon;
	struct http_request *request; /* NULL: the joiner went away; the command goes its way */
	char peer[INET6_ADDRSTRLEN];
	char token[TLS_HASH], key[TLS_HASH];
	char zone[LIMIT_NAME + 1];
	struct tls_identity who;
	struct node_facts facts;
	struct buf csr, cert;
	bool again; /* the certificate of a node that it is already */
};

static void join_free(struct join *j)
{
	node_facts_done(&j->facts);
	buf_done(&j->csr);
	buf_done(&j->cert);
	free(j);
}

static void join_cancelled(void *data)
{
	((struct join *)data)->request = NULL;
}

/* The record of an address: its own, or the oldest one's place. */
static struct join_guard *guard_of(struct daemon *d, const char *address)
{
	uint64_t now_ms = clock_boot_ms();
	struct join_guard *oldest;

	if (d->guards == NULL)
		d->guards = xcalloc(LIMIT_JOIN_PEERS, sizeof(*d->guards));
	oldest = &d->guards[0];
	for (size_t i = 0; i < LIMIT_JOIN_PEERS; i++) {
		struct join_guard *guard = &d->guards[i];

		if (strcmp(guard->address, address) == 0) {
			oldest = guard;
			break;
		}
		if (guard->since_ms < oldest->since_ms)
			oldest = guard;
	}
	if (strcmp(oldest->address, address) != 0 || now_ms - oldest->since_ms >= MINUTE_MS) {
		*oldest = (struct join_guard){.since_ms = now_ms};
		(void)snprintf(oldest->address, sizeof(oldest->address), "%s", address);
	}
	return oldest;
}

static void join_refuse(struct join *j, const struct blix_error *err)
{
	guard_of(j->daemon, j->peer)->n++;
	log_event(LOG_WARNING, "node.join.refused", "node=%s peer=%s reason=%s",
	          j->daemon->config->name, j->peer, blix_error_reason(err));
	if (j->request != NULL)
		http_answer_error(j->request, err, NULL);
	join_free(j);
}

static int add_file(const struct daemon *d, cJSON *object, const char *key, enum tls_file file,
                    struct blix_error *err)
{
	cleanup(seal_wipe) struct buf text;
	int rc;

	buf_init(&text, LIMIT_PEM);
	rc = tls_file_read(d->config->state_dir, file, &text, err);
	if (rc == 0)
		json_add_string(object, key, text.data);
	return rc;
}

static void join_answer(struct join *j)
{
	const struct daemon *d = j->daemon;
	cleanup(json_freep) cJSON *object = json_object();
	struct blix_error err;

	log_event(LOG_NOTICE, "node.join.taken", "node=%s peer=%s name=%s id=%" PRIu64,
	          d->config->name, j->peer, j->who.name, j->who.node);
	if (j->request == NULL) {
		join_free(j);
		return;
	}
	json_add_string(object, "cluster", d->config->cluster);
	json_add_u64(object, "node", j->who.node);
	json_add_u64(object, "incarnation", d->state->members.cluster.incarnation);
	json_add_string(object, "certificate", j->cert.data);
	if (add_file(d, object, "ca", TLS_FILE_CA, &err) < 0 ||
	    (j->who.kind == TLS_SERVER && add_file(d, object, "caKey", TLS_FILE_CA_KEY, &err) < 0))
		http_answer_error(j->request, &err, NULL);
	else
		http_answer_json(j->request, 200, object);
	join_free(j);
}

static int join_sign(struct join *j, struct blix_error *err)
{
	buf_done(&j->cert);
	return membership_sign(j->daemon, &j->csr, &j->who, &j->cert, err);
}

static void joined(void *data, int status, const struct command_result *result);

static void take_principal(const struct join *j, struct command *command)
{
	free(command->principal);
	command->principal = xasprintf("node:%" PRIu64, j->who.node);
}

/* It has joined before, and did not hear of it. */
static void join_again(struct join *j, uint64_t node)
{
	struct blix_error err;
	struct command command;

	j->again = true;
	j->who.node = node;
	if (join_sign(j, &err) < 0) {
		join_refuse(j, &err);
		return;
	}
	command_init(&command, COMMAND_NODE_CERTIFICATE);
	take_principal(j, &command);
	command.node_certificate.id = node;
	memcpy(command.node_certificate.serial, j->who.serial, sizeof(j->who.serial));
	daemon_propose(j->daemon, &command, joined, j);
	command_done(&command);
}

static void joined(void *data, int status, const struct command_result *result)
{
	struct join *j = data;
	struct blix_error err;

	if (status < 0) {
		(void)daemon_propose_error(j->daemon, status, &err);
		if (j->request != NULL)
			http_answer_error(j->request, &err, NULL);
		join_free(j);
	} else if (result->code != BLIX_OK) {
		(void)refusal_error(result, "join", &err);
		join_refuse(j, &err);
	} else if (!j->again && result->uid != j->who.node) {
		join_again(j, result->uid);
	} else {
		join_answer(j);
	}
}

static void join_propose(struct join *j)
{
	struct command command;

	command_init(&command, COMMAND_NODE_JOIN);
	take_principal(j, &command);
	command.node_join.id = j->who.node;
	memcpy(command.node_join.token, j->token, sizeof(j->token));
	memcpy(command.node_join.key, j->key, sizeof(j->key));
	memcpy(command.node_join.name, j->who.name, sizeof(j->who.name));
	memcpy(command.node_join.serial, j->who.serial, sizeof(j->who.serial));
	memcpy(command.node_join.zone, j->zone, sizeof(j->zone));
	node_facts_done(&command.node_join.facts);
	node_facts_copy(&command.node_join.facts, &j->facts);
	daemon_propose(j->daemon, &command, joined, j);
	command_done(&command);
}

static bool token_known(const struct daemon *d, const void *data)
{
	const struct join *j = data;

	return d->role == CONSENSUS_LEADER ||
	       members_token_hash(&d->state->members, j->token) != NULL;
}

static void join_go_on(struct daemon *d, void *data, bool cancelled)
{
	struct join *j = data;
	const struct token *token = members_token_hash(&d->state->members, j->token);
	struct blix_error err;

	if (cancelled) {
		join_free(j);
		return;
	}
	if (token == NULL) {
		(void)refusal_error(&(struct command_result){.code = BLIX_E_DENIED,
		                                             .why = REFUSAL_TOKEN_MISSING},
		                    "join", &err);
		join_refuse(j, &err);
		return;
	}
	http_on_cancel(j->request, join_cancelled, j);
	j->who.kind = token->role == NODE_SERVER ? TLS_SERVER : TLS_WORKER;
	j->who.node = random_id() % TLS_NODE + 1;
	if (join_sign(j, &err) < 0)
		join_refuse(j, &err);
	else
		join_propose(j);
}

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int take_secret(struct join *j, const char *text, struct blix_error *err)
{
	unsigned char secret[JOIN_SECRET];
	bool good = strlen(text) == 2 * sizeof(secret);

	for (size_t i = 0; i < sizeof(secret) && good; i++) {
		int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);

		good = high >= 0 && low >= 0;
		secret[i] = (unsigned char)((unsigned)high << 4 | (unsigned)low);
	}
	if (good)
		join_token_hash(secret, j->token);
	explicit_bzero(secret, sizeof(secret));
	return good ? 0 : blix_fail(err, BLIX_E_INVALID, "key 'secret' is not 64 hex digits");
}

/* The secret is wiped where it came in. */
static int join_parse(struct join *j, const cJSON *body, struct blix_error *err)
{
	static const char *const keys[] = {"secret", "name",    "request",  "address", "raft",
	                                   "zone",   "version", "features", NULL};
	const char *secret = "", *name = "", *csr = "", *address = "", *raft = "", *zone = "";
	const char *version = "";
	uint64_t features = 0;
	int rc;

	if ((rc = json_only_keys(body, keys, err)) < 0 ||
	    (rc = json_get_string(body, "secret", &secret, err)) < 0 ||
	    (rc = json_get_string(body, "name", &name, err)) < 0 ||
	    (rc = json_get_string(body, "request", &csr, err)) < 0 ||
	    (rc = json_get_string(body, "address", &address, err)) < 0 ||
	    (rc = json_get_string(body, "raft", &raft, err)) < 0 ||
	    (rc = json_get_string(body, "zone", &zone, err)) < 0 ||
	    (rc = json_get_string(body, "version", &version, err)) < 0 ||
	    (rc = json_get_u64(body, "features", &features, err)) < 0 ||
	    (rc = take_secret(j, secret, err)) < 0 || (rc = parse_name("name", name, err)) < 0 ||
	    (zone[0] != '\0' && (rc = parse_name("zone", zone, err)) < 0))
		return rc;
	explicit_bzero((char *)(uintptr_t)secret, strlen(secret));
	if (strlen(version) > LIMIT_NAME || features > UINT32_MAX)
		return blix_fail(err, BLIX_E_INVALID, "version or features is not valid");
	(void)snprintf(j->who.name, sizeof(j->who.name), "%s", name);
	(void)snprintf(j->zone, sizeof(j->zone), "%s", zone);
	xreplace(&j->facts.addresses, address);
	xreplace(&j->facts.raft, raft);
	xreplace(&j->facts.version, version);
	j->facts.features = (uint32_t)features;
	if ((rc = node_facts_check(&j->facts, err)) < 0)
		return rc;
	buf_init(&j->csr, LIMIT_PEM);
	if (buf_add_string(&j->csr, csr) < 0)
		return blix_fail(err, BLIX_E_TOOBIG, "key 'request' is too long");
	return tls_request_hash(&j->csr, j->key, err);
}

static int join_check(struct daemon *d, const struct http_peer *peer, struct blix_error *err)
{
	if (d->config->identity == NULL)
		return refusal_error(
			&(struct command_result){.code = BLIX_E_REFUSED, .why = REFUSAL_NO_CLUSTER},
			"join", err);
	if (peer->kind == HTTP_PEER_UNIX)
		return blix_fail(err, BLIX_E_REFUSED, "a node joins over TLS");
	if (guard_of(d, peer->address)->n < LIMIT_JOIN_TRIES)
		return 0;
	(void)blix_fail(err, BLIX_E_BUSY, "too many tries: wait a minute");
	blix_reason(err, "too-many-tries");
	return -(int)BLIX_E_BUSY;
}

void join_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const struct http_peer *peer = http_peer(request);
	cleanup(json_freep) cJSON *body = NULL;
	struct blix_error err;
	struct join *j;
	int rc = join_check(d, peer, &err);

	if (rc < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	j = xcalloc(1, sizeof(*j));
	j->daemon = d;
	j->request = request;
	(void)snprintf(j->peer, sizeof(j->peer), "%s", peer->address);
	node_facts_init(&j->facts);
	rc = api_parse_body(request, &body, &err);
	http_body_wipe(request);
	if (rc == 0)
		rc = join_parse(j, body, &err);
	if (rc < 0)
		join_refuse(j, &err);
	else if (token_known(d, j))
		join_go_on(d, j, false);
	else
		daemon_wait(d, &(struct wait_options){.ready = token_known,
		                                      .cb = join_go_on,
		                                      .data = j,
		                                      .request = request,
		                                      .deadline_ms = TOKEN_WAIT_MS});
}
