/* GET /v1/vms/NAME/usage, and usage and agent inside GET /v1/vms/NAME: what a VM uses and what the
 * agent in its guest says, from the memory of
 * the node that runs it: this one, whose executor samples it, else asked of the node's own daemon,
 * once, with ?here=true.
 *
 * The object of a VM is answered without it when its node does not answer, or soon enough; the
 * usage alone is then an error. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "core/object_json.h"
#include "node/book.h"
#include "node/guest.h"

#include <stdio.h>

#define FETCH_MS 1500

struct usage_call {
	struct daemon *daemon;
	struct http_request *request; /* NULL: the client went away */
	struct fetch *fetch;          /* under way at another node */
	bool whole;                   /* the VM's object is wanted */
	uint64_t uid;
	cJSON *agent; /* what is known of it, ours; NULL nothing */
	char name[LIMIT_NAME + 1];
};

static void answer_whole(struct usage_call *call, cJSON *usage)
{
	const struct vm *vm = state_vm(call->daemon->state, call->name);
	cleanup(json_freep) cJSON *object = NULL;
	cJSON *status;

	if (vm == NULL) {
		cJSON_Delete(usage);
		api_not_found(call->request, call->name);
		return;
	}
	object = vm_json(vm, call->daemon->state);
	status = cJSON_GetObjectItemCaseSensitive(object, "status");
	if (usage != NULL && cJSON_IsObject(status))
		json_add(status, "usage", usage);
	else
		cJSON_Delete(usage);
	if (call->agent != NULL && cJSON_IsObject(status))
		json_add(status, "agent", take(call->agent));
	api_add_stale(call->daemon, object);
	api_answer_version(call->request, vm);
	http_answer_json(call->request, 200, object);
}

static void answer_alone(struct usage_call *call, cJSON *usage)
{
	const struct vm *vm = state_vm(call->daemon->state, call->name);
	const struct node *node = vm != NULL ? state_node(call->daemon->state, vm->node) : NULL;
	cleanup(json_freep) cJSON *object = json_object();
	cJSON *metadata = json_object(), *status = json_object();

	json_add_string(object, "kind", "Usage");
	json_add_string(object, "apiVersion", BLIX_API_VERSION);
	json_add_string(metadata, "name", call->name);
	json_add(object, "metadata", metadata);
	json_add_string(status, "node", node != NULL ? node->name : "");
	json_add(status, "usage", usage);
	if (call->agent != NULL)
		json_add(status, "agent", take(call->agent));
	json_add(object, "status", status);
	http_answer_json(call->request, 200, object);
}

static void fail_alone(struct usage_call *call, bool unreachable)
{
	struct blix_error err;

	if (unreachable) {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE,
		                "%s: its node does not answer: usage is kept there", call->name);
		blix_reason(&err, "node-unreachable");
	} else {
		(void)blix_fail(&err, BLIX_E_REFUSED, "%s does not run: it uses nothing",
		                call->name);
		blix_reason(&err, "not-running");
	}
	http_answer_error(call->request, &err, NULL);
}

/* usage, which is taken, may be NULL. */
static void call_end(struct usage_call *call, cJSON *usage, bool unreachable)
{
	if (call->request == NULL)
		cJSON_Delete(usage);
	else if (call->whole)
		answer_whole(call, usage);
	else if (usage != NULL)
		answer_alone(call, usage);
	else
		fail_alone(call, unreachable);
	cJSON_Delete(call->agent);
	free(call);
}

static cJSON *agent_json(const struct agent_info *info)
{
	cJSON *object = json_object();
	cJSON *addresses = json_array();

	json_add_bool(object, "connected", info->present);
	json_add_text(object, "message", info->problem);
	if (info->present)
		json_add_bool(object, "ready", info->ready);
	json_add_text(object, "version", info->version);
	json_add_text(object, "hostname", info->hostname);
	json_add_text(object, "machineId", info->machine_id);
	json_add_text(object, "bootId", info->boot_id);
	for (unsigned i = 0; i < info->n_addresses; i++)
		json_push_string(addresses, info->addresses[i]);
	if (info->n_addresses > 0)
		json_add(object, "addresses", addresses);
	else
		cJSON_Delete(addresses);
	return object;
}

static void on_usage(void *data, const struct usage *usage)
{
	struct usage_call *call = data;
	const struct agent_info *info = NULL;

	/* Its answer may come when the executor is closed and the request gone. */
	if (call->request != NULL && call->daemon->executor != NULL)
		info = guest_info(call->daemon->executor, call->uid);
	if (info != NULL)
		call->agent = agent_json(info);
	call_end(data, usage != NULL ? usage_json(usage) : NULL, false);
}

static void on_fetched(void *data, int status, int http, struct buf *answer,
                       const char *content_type)
{
	struct usage_call *call = data;
	cleanup(json_freep) cJSON *tree = NULL;
	cJSON *part = NULL;
	cJSON *from;

	(void)content_type;
	call->fetch = NULL;
	if (status == 0 && http == 200 && answer->data != NULL &&
	    json_parse(answer->data, answer->len, &json_limits_request, &tree, NULL) == 0) {
		from = cJSON_GetObjectItemCaseSensitive(tree, "status");
		if (cJSON_IsObject(from)) {
			part = cJSON_DetachItemFromObjectCaseSensitive(from, "usage");
			call->agent = cJSON_DetachItemFromObjectCaseSensitive(from, "agent");
		}
	}
	call_end(call, part, status != 0 || http >= 500);
}

static void call_cancelled(void *data)
{
	struct usage_call *call = data;

	call->request = NULL;
	if (call->fetch == NULL)
		return; /* the executor still answers */
	fetch_cancel(call->fetch);
	free(call);
}

static void call_fetch(struct usage_call *call, const struct config_server *server)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s/usage?here=true", call->name);
	struct api_hop hop;
	struct fetch_options options = {
		.address = server->api,
		.server_name = hop.server_name,
		.headers = hop.headers,
		.path = path,
		.deadline_ms = FETCH_MS,
		.answer_max = 65536,
	};

	api_hop(call->daemon, call->request, server, &hop);
	if (fetch_start(call->daemon->fetch, &options, on_fetched, call, &call->fetch, NULL) < 0)
		call_end(call, NULL, true);
}

/* May be without a process, or be somebody's who does not know of it: then there is no usage. */
static bool may_run(const struct vm *vm)
{
	return vm->node != 0 &&
	       (vm->phase == VM_RUNNING || vm->phase == VM_STARTING || vm->phase == VM_STOPPING ||
	        vm->phase == VM_UNKNOWN || vm->phase == VM_DELETING);
}

void api_answer_usage(struct daemon *d, struct http_request *request, const struct vm *vm,
                      bool whole, bool here)
{
	struct usage_call *call = xcalloc(1, sizeof(*call));
	const struct config_server *server = daemon_server(d, vm->node);

	*call = (struct usage_call){.daemon = d, .request = request, .whole = whole};
	memcpy(call->name, vm->name, sizeof(call->name));
	call->uid = vm->uid;
	if (!here && !may_run(vm)) {
		call_end(call, NULL, false);
		return;
	}
	http_on_cancel(request, call_cancelled, call);
	if (!here && vm->node != d->config->id && server != NULL)
		call_fetch(call, server);
	else if (d->executor != NULL)
		node_executor_usage(d->executor, vm->uid, on_usage, call);
	else
		call_end(call, NULL, true);
}

void vm_usage_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *name = http_path_param(request, "name");
	const char *here = http_query(request, "here");
	const struct vm *vm = state_vm(d->state, name);

	if (vm == NULL)
		api_not_found(request, name);
	else
		api_answer_usage(d, request, vm, false, here != NULL && strcmp(here, "true") == 0);
}
