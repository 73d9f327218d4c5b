/* POST /v1/vms/NAME/adopt: only the node that has the directory can say what is in it, so a server
 * that is asked about another node hands the request on to it, once. That one looks, and proposes
 * the VM as it is there: placed on it, Stopped or, if it runs and can be taken over so, to run. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "core/object_json.h"
#include "node/book.h"

#include <inttypes.h>
#include <stdio.h>

#define HAND_ON_MS 20000

struct adoption {
	struct daemon *daemon;
	struct http_request *request; /* NULL: the client went away */
	struct fetch *fetch;
	char name[LIMIT_NAME + 1];
	bool plain;
	uint64_t session, number; /* of this request; 0: it has none */
};

static void adoption_cancelled(void *data)
{
	struct adoption *a = data;

	a->request = NULL;
	if (a->fetch == NULL)
		return; /* freed when the node has looked */
	fetch_cancel(a->fetch);
	free(a);
}

static void on_inspected(void *data, const char *flake, bool runs, const struct blix_error *err)
{
	struct adoption *a = data;
	struct http_request *request = a->request;
	struct vm_spec *spec;
	struct command command;
	struct blix_error wrong;

	if (request == NULL || flake == NULL) {
		if (request != NULL)
			http_answer_error(request, err, NULL);
		free(a);
		return;
	}
	command_init(&command, COMMAND_VM_CREATE);
	spec = &command.vm_create.spec;
	memcpy(command.vm_create.name, a->name, sizeof(a->name));
	command.vm_create.adopt = a->daemon->config->id;
	xreplace(&spec->flake, flake);
	xreplace(&spec->attr, a->name);
	spec->power = runs ? VM_POWER_RUNNING : VM_POWER_STOPPED;
	spec->plain = a->plain;
	if (vm_spec_check(spec, &wrong) < 0) {
		http_answer_error(request, &wrong, NULL);
		command_done(&command);
	} else {
		api_propose(a->daemon, request, &command, a->name, 201);
	}
	free(a);
}

static void on_handed_on(void *data, int status, int http, struct buf *answer,
                         const char *content_type)
{
	struct adoption *a = data;
	struct blix_error err;

	a->fetch = NULL;
	if (status == 0) {
		size_t n = answer->len;

		http_answer(a->request, http,
		            content_type != NULL ? content_type : "application/json",
		            buf_take(answer), n);
	} else {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the node does not answer");
		blix_reason(&err, "node-unreachable");
		http_answer_error(a->request, &err, NULL);
	}
	free(a);
}

static void hand_on(struct adoption *a, const struct config_server *server, const char *node)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s/adopt", a->name);
	cleanup(json_freep) cJSON *body = json_object();
	cleanup(freep) char *text = NULL;
	char session[48], number[48];
	const char *headers[4] = {NULL};
	size_t n_headers = 0;
	struct api_hop hop;
	struct fetch_options options = {.address = server->api,
	                                .server_name = hop.server_name,
	                                .headers = headers,
	                                .method = "POST",
	                                .path = path,
	                                .deadline_ms = HAND_ON_MS,
	                                .answer_max = LIMIT_BODY};
	struct blix_error err;

	json_add_string(body, "node", node);
	json_add_bool(body, "plain", a->plain);
	text = json_text(body);
	options.body = text;
	options.n = strlen(text);
	api_hop(a->daemon, a->request, server, &hop);
	if (hop.headers[0] != NULL)
		headers[n_headers++] = hop.headers[0];
	(void)snprintf(session, sizeof(session), "Blix-Session: %" PRIu64, a->session);
	(void)snprintf(number, sizeof(number), "Blix-Request: %" PRIu64, a->number);
	if (a->session != 0) {
		headers[n_headers++] = session;
		headers[n_headers++] = number;
	}
	if (fetch_start(a->daemon->fetch, &options, on_handed_on, a, &a->fetch, &err) < 0) {
		http_answer_error(a->request, &err, NULL);
		free(a);
		return;
	}
	http_on_cancel(a->request, adoption_cancelled, a);
}

/* What is remembered is answered before anything is looked at: a directory that was adopted is no
 * longer one that can be. */
static bool answer_remembered(struct daemon *d, struct http_request *request, const char *name,
                              uint64_t session, uint64_t number)
{
	const struct session_result *outcome = state_outcome(d->state, session, number);

	if (outcome == NULL)
		return false;
	api_answer_outcome(d, request, name, 201, &outcome->result);
	return true;
}

/* Another node knows nothing of our user's keys: it is told the session that one stands for. */
static int take_numbers(const struct daemon *d, const struct http_request *request,
                        uint64_t *ret_session, uint64_t *ret_number, struct blix_error *err)
{
	struct command command;
	int rc;

	command_init(&command, COMMAND_VM_CREATE);
	rc = api_identify(d, request, &command, err);
	*ret_session = command.session;
	*ret_number = command.request;
	command_done(&command);
	return rc;
}

static int adopt_parse(const struct http_request *request, const char **ret_node, bool *ret_plain,
                       cJSON **ret_body, struct blix_error *err)
{
	static const char *const keys[] = {"node", "plain", NULL};
	int rc = api_parse_body(request, ret_body, err);

	if (rc == 0)
		rc = json_only_keys(*ret_body, keys, err);
	if (rc == 0)
		rc = json_get_string(*ret_body, "node", ret_node, err);
	if (rc == 0)
		rc = json_get_bool(*ret_body, "plain", ret_plain, err);
	if (rc == 0 && *ret_node == NULL)
		rc = blix_fail(err, BLIX_E_INVALID, "key 'node' is missing");
	return rc;
}

void vm_adopt_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *name = api_path_name(request), *node_name = NULL;
	cleanup(json_freep) cJSON *body = NULL;
	const struct config_server *server;
	const struct node *node;
	struct adoption *a;
	uint64_t session = 0, number = 0;
	struct blix_error err;
	bool plain = false;
	int rc;

	if (name == NULL)
		return;
	rc = take_numbers(d, request, &session, &number, &err);
	if (rc == 0 && answer_remembered(d, request, name, session, number))
		return;
	if (rc == 0)
		rc = adopt_parse(request, &node_name, &plain, &body, &err);
	node = rc == 0 ? state_node_named(d->state, node_name) : NULL;
	server = node != NULL ? daemon_server(d, node->id) : NULL;
	if (rc == 0 && server == NULL) {
		rc = blix_fail(&err, BLIX_E_NOTFOUND, "node %s: no such node", node_name);
		blix_reason(&err, "node-missing");
	} else if (rc == 0 && state_vm(d->state, name) != NULL) {
		rc = blix_fail(&err, BLIX_E_EXISTS, "vm %s: a VM of this name exists", name);
		blix_reason(&err, "vm-exists");
	}
	if (rc < 0 || server == NULL) {
		http_answer_error(request, &err, NULL);
		return;
	}
	a = xcalloc(1, sizeof(*a));
	*a = (struct adoption){.daemon = d,
	                       .request = request,
	                       .plain = plain,
	                       .session = session,
	                       .number = number};
	(void)snprintf(a->name, sizeof(a->name), "%s", name);
	if (server->id != d->config->id) {
		hand_on(a, server, node_name);
		return;
	}
	http_on_cancel(request, adoption_cancelled, a); /* before: it may be answered at once */
	if (node_executor_inspect(d->executor, name, on_inspected, a, &err) < 0) {
		http_answer_error(request, &err, NULL);
		free(a);
	}
}
