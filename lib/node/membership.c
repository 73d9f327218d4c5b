/* This node's own place in a cluster that has members.
 *
 * Happy path: the node that made the cluster leads alone, and proposes what the cluster is; once a
 * node is in the state its identity says that it has a log to keep; its certificate is signed anew
 * when a third of its life is left, told to the cluster, written and taken, without a restart. A
 * server that was removed says so once: nobody speaks to it any more.
 *
 * Failure: whatever could not be proposed or written is tried again at the next tick. */
#include "node/membership.h"

#include "base/alloc.h"
#include "core/object_json.h"
#include "node/book.h"
#include "sys/clock.h"
#include "sys/log.h"
#include "sys/seal.h"
#include "tls/credentials.h"

#include <inttypes.h>
#include <stdio.h>

#define RENEW_MS (122ULL * 86400000) /* a third of the year that a certificate lasts */
#define ASK_MS   5000
#define VOTERS   3 /* until somebody wants another number */

static void founded(void *data, int status, const struct command_result *result)
{
	struct daemon *d = data;
	struct blix_error err;

	d->founding = false;
	if (status < 0 || result->code == BLIX_OK)
		return;
	(void)refusal_error(result, "this cluster", &err);
	log_error(LOG_ERR, "node.cluster.refused", &err, "node=%s", d->config->name);
}

/* The cluster's first command. */
static void found(struct daemon *d)
{
	const struct node_identity *identity = &d->identity;
	struct command command;
	char ca[TLS_HASH];
	cleanup(buf_done) struct buf cert = {0};

	if (d->founding || d->role != CONSENSUS_LEADER || state_is_managed(d->state) ||
	    tls_file_read(d->config->state_dir, TLS_FILE_CA, &cert, NULL) < 0 ||
	    authority_fingerprint(&cert, ca, NULL) < 0)
		return;
	d->founding = true;
	command_init(&command, COMMAND_CLUSTER_INIT);
	xreplace(&command.principal, "uid:0");
	memcpy(command.cluster_init.id, identity->cluster, sizeof(command.cluster_init.id));
	memcpy(command.cluster_init.ca, ca, sizeof(command.cluster_init.ca));
	command.cluster_init.level = FEATURE_LEVEL;
	command.cluster_init.voters = VOTERS;
	command.cluster_init.node = identity->node;
	memcpy(command.cluster_init.name, identity->name, sizeof(identity->name));
	memcpy(command.cluster_init.zone, identity->zone, sizeof(identity->zone));
	memcpy(command.cluster_init.serial, credentials_own(d->credentials)->serial, TLS_SERIAL);
	daemon_propose(d, &command, founded, d);
	command_done(&command);
}

/* From here on this node's log holds what others count on. */
static void keep_log(struct daemon *d)
{
	struct blix_error err;

	if (d->identity.log == IDENTITY_LOG_KEPT || state_node(d->state, d->config->id) == NULL)
		return;
	if (node_identity_keep_log(d->config->state_dir, &d->identity, &err) < 0)
		log_error(LOG_ERR, "node.identity.failed", &err, "node=%s", d->config->name);
}

static void left_asked(void *data, int status, int http, struct buf *answer,
                       const char *content_type)
{
	struct daemon *d = data;
	cleanup(json_freep) cJSON *tree = NULL;
	struct blix_error err;

	(void)content_type;
	d->asking_left = false;
	if (status < 0 || http != 403 ||
	    json_parse(answer->data, answer->len, &json_limits_answer, &tree, NULL) < 0)
		return;
	error_parse(tree, http, &err);
	if (strcmp(err.reason, "certificate-denied") != 0)
		return;
	d->left = true;
	log_event(LOG_NOTICE, "node.left", "node=%s id=%" PRIu64, d->config->name, d->config->id);
}

/* Who is removed is not told by the log, nobody sends it anything. While it hears of no leader it
 * asks one server after the other, which say so of its certificate. */
static void notice_left(struct daemon *d)
{
	const struct node *node = NULL;
	const struct config_server *server;
	uint64_t age_ms;
	char name[TLS_DNS];
	struct fetch_options options = {.path = "/v1/version",
	                                .server_name = name,
	                                .deadline_ms = ASK_MS,
	                                .answer_max = LIMIT_BODY};

	if (d->left || d->asking_left || d->state->n_nodes == 0 || daemon_is_current(d, &age_ms) ||
	    age_ms < duties_grace_ms(d->config))
		return;
	node = d->state->nodes[d->ask_next++ % d->state->n_nodes];
	server = node->role == NODE_SERVER && node->id != d->config->id ? daemon_server(d, node->id)
	                                                                : NULL;
	if (server == NULL)
		return;
	tls_dns_name(server->id, d->config->cluster, name);
	options.address = server->api;
	d->asking_left = fetch_start(d->fetch, &options, left_asked, d, NULL, NULL) == 0;
}

int membership_sign(const struct daemon *d, const struct buf *request, struct tls_identity *who,
                    struct buf *ret_cert, struct blix_error *err)
{
	const char *dir = d->config->state_dir;
	cleanup(tls_pem_done) struct tls_pem ca;
	int rc;

	tls_pem_init(&ca);
	rc = tls_file_read(dir, TLS_FILE_CA_KEY, &ca.key, err);
	if (rc == -(int)BLIX_E_NOTFOUND)
		return blix_fail(err, BLIX_E_REFUSED, "this node does not hold the CA's key");
	if (rc < 0 || (rc = tls_file_read(dir, TLS_FILE_CA, &ca.cert, err)) < 0)
		return rc;
	return authority_issue(&ca, request, clock_wall_ms(), who, ret_cert, err);
}

struct renewal {
	struct daemon *daemon;
	struct buf cert;
	void (*cb)(void *data, int status);
	void *data;
};

static void renewal_end(struct renewal *renewal, int status)
{
	renewal->daemon->renewing = false;
	if (renewal->cb != NULL)
		renewal->cb(renewal->data, status);
	buf_done(&renewal->cert);
	free(renewal);
}

/* The cluster knows the serial: only now the certificate is shown. */
static void renewal_told(void *data, int status, const struct command_result *result)
{
	struct renewal *renewal = data;
	struct daemon *d = renewal->daemon;
	struct blix_error err;

	if (status == 0 && result->code != BLIX_OK) {
		status = refusal_error(result, "the new certificate", &err);
		log_error(LOG_ERR, "node.certificate.refused", &err, "node=%s", d->config->name);
	} else if (status == 0 && !d->closing) {
		status = tls_file_write(d->config->state_dir, TLS_FILE_NODE, &renewal->cert, &err);
		if (status < 0)
			log_error(LOG_ERR, "node.certificate.refused", &err, "node=%s",
			          d->config->name);
		else
			daemon_reload(d);
	}
	renewal_end(renewal, status);
}

static int sign_own(const struct daemon *d, struct tls_identity *who, struct buf *ret_cert,
                    struct blix_error *err)
{
	cleanup(seal_wipe) struct buf key = {0};
	cleanup(buf_done) struct buf request = {0};
	int rc;

	*who = (struct tls_identity){.kind = d->identity.kind, .node = d->identity.node};
	(void)snprintf(who->name, sizeof(who->name), "%s", d->identity.name);
	buf_init(&key, LIMIT_PEM);
	if ((rc = tls_file_read(d->config->state_dir, TLS_FILE_NODE_KEY, &key, err)) < 0 ||
	    (rc = tls_request_make(&key, &request, err)) < 0)
		return rc;
	return membership_sign(d, &request, who, ret_cert, err);
}

int membership_renew(struct daemon *d, void (*cb)(void *data, int status), void *data,
                     struct blix_error *err)
{
	struct renewal *renewal;
	struct tls_identity who;
	struct command command;
	struct buf cert = {0};
	int rc;

	if (d->config->identity == NULL)
		return blix_fail(err, BLIX_E_REFUSED, "this node has no certificate of a cluster");
	if (d->renewing)
		return blix_fail(err, BLIX_E_BUSY, "its certificate is being renewed");
	rc = sign_own(d, &who, &cert, err);
	if (rc < 0) {
		buf_done(&cert);
		return rc;
	}
	d->renewing = true;
	renewal = xcalloc(1, sizeof(*renewal));
	*renewal = (struct renewal){.daemon = d, .cert = cert, .cb = cb, .data = data};
	command_init(&command, COMMAND_NODE_CERTIFICATE);
	free(command.principal);
	command.principal = xasprintf("node:%" PRIu64, d->config->id);
	command.node_certificate.id = d->config->id;
	memcpy(command.node_certificate.serial, who.serial, sizeof(who.serial));
	daemon_propose(d, &command, renewal_told, renewal);
	command_done(&command);
	return 0;
}

static void renew_in_time(struct daemon *d)
{
	uint64_t until_ms = credentials_own(d->credentials)->not_after_ms, now_ms = clock_wall_ms();
	struct blix_error err;

	if (d->renewing || d->leader_id == 0 || until_ms > now_ms + RENEW_MS)
		return;
	if (membership_renew(d, NULL, NULL, &err) < 0)
		log_error(LOG_ERR, "node.certificate.refused", &err, "node=%s", d->config->name);
}

void membership_tick(struct daemon *d)
{
	if (d->config->identity == NULL)
		return;
	found(d);
	keep_log(d);
	notice_left(d);
	renew_in_time(d);
}

void membership_changed(struct daemon *d)
{
	if (d->config->identity == NULL)
		return;
	found(d);
	keep_log(d);
	consensus_recheck_peers(d->consensus);
}
