/* The routes of the API, the role that each takes, and the answers about the cluster itself.
 * Everything about VMs is in api_vm.c, lists that stream in api_list.c, console logs in api_logs.c,
 * who asks in api_who.c. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "base/version.h"
#include "core/member_json.h"
#include "core/object_json.h"
#include "core/place.h"
#include "http/openapi.h"
#include "node/book.h"
#include "node/read.h"
#include "node/stream.h"
#include "node/watch.h"

#include <inttypes.h>
#include <stdio.h>

void api_answering(void *data, struct http_request *request, const struct http_route *route)
{
	const struct daemon *d = data;
	char number[24];
	uint64_t age;

	if ((route->flags & API_ROLES) == API_SERVER)
		return;
	(void)daemon_is_current(d, &age);
	(void)snprintf(number, sizeof(number), "%" PRIu64, d->state->revision);
	http_answer_header(request, "Blix-Revision", number);
	(void)snprintf(number, sizeof(number), "%" PRIu64, age);
	http_answer_header(request, "Blix-Staleness-Ms", number);
}

void api_not_found(struct http_request *request, const char *name)
{
	struct blix_error err;

	(void)blix_fail(&err, BLIX_E_NOTFOUND, "vm %s: no such VM", name);
	blix_reason(&err, "vm-missing");
	blix_hint(&err, "'blix vm list' shows those there are");
	http_answer_error(request, &err, NULL);
}

int api_wait_parse(const struct http_request *request, struct api_wait *ret, struct blix_error *err)
{
	const char *revision = http_query(request, "revision"), *wait = http_query(request, "wait");
	int rc;

	memset(ret, 0, sizeof(*ret));
	if (revision != NULL && (rc = parse_u64(revision, &ret->revision, err)) < 0)
		return rc;
	if (wait != NULL && (rc = parse_duration(wait, &ret->wait_ms, err)) < 0)
		return rc;
	if (ret->wait_ms > LIMIT_WAIT)
		ret->wait_ms = LIMIT_WAIT;
	ret->set = revision != NULL && ret->wait_ms > 0;
	return 0;
}

void api_add_staleness(const struct daemon *d, cJSON *object)
{
	uint64_t age;
	bool current = daemon_is_current(d, &age);

	json_add_u64(object, "revision", d->state->revision);
	json_add_bool(object, "stale", !current);
	json_add_u64(object, "stalenessMs", age);
	json_add_string(object, "server", d->config->name);
}

void api_add_stale(const struct daemon *d, cJSON *object)
{
	uint64_t age;

	if (daemon_is_current(d, &age))
		return;
	json_add_bool(object, "stale", true);
	json_add_u64(object, "stalenessMs", age);
	json_add_string(object, "server", d->config->name);
}

cJSON *api_nodes_verdict(const struct daemon *d, const struct vm *vm, bool *ret_fits)
{
	cJSON *nodes = json_array();

	*ret_fits = false;
	for (size_t i = 0; i < d->state->n_nodes; i++) {
		struct place_verdict verdict = place_node(vm, d->state->nodes[i]);
		cJSON *node = json_object();

		json_add_string(node, "name", d->state->nodes[i]->name);
		json_add_bool(node, "fits", verdict.reject == PLACE_FITS);
		if (verdict.reject != PLACE_FITS)
			json_add_string(node, "reason", place_reject_name(verdict.reject));
		if (verdict.need != 0) {
			json_add_u64(node, "need", verdict.need);
			json_add_u64(node, "have", verdict.have);
		}
		*ret_fits = *ret_fits || verdict.reject == PLACE_FITS;
		json_push(nodes, node);
	}
	return nodes;
}

static cJSON *server_json(const struct daemon *d, uint64_t id, bool *ret_online)
{
	const struct config_server *server = daemon_server(d, id);
	cJSON *object = json_object();
	uint64_t age = 0;
	bool self = id == d->config->id;
	bool seen = self || consensus_peer_seen(d->consensus, id, &age);

	*ret_online = seen && age <= duties_grace_ms(d->config);
	json_add_u64(object, "id", id);
	json_add_string(object, "name", server != NULL ? server->name : "");
	json_add_string(object, "role", id == d->leader_id ? "leader" : "follower");
	json_add_string(object, "vote", api_vote(d, id));
	/* Followers hear only from the leader: of the others they know nothing. */
	if (!self && d->role != CONSENSUS_LEADER && id != d->leader_id)
		return object;
	if (seen)
		json_add_u64(object, "seenMsAgo", age);
	json_add_bool(object, "online", *ret_online);
	return object;
}

static void cluster_read(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	const struct config_server *leader = daemon_server(d, d->leader_id);
	cleanup(json_freep) cJSON *object = json_object();
	cJSON *servers = json_array();
	struct consensus_status raft;
	char hash[24];
	uint64_t ids[LIMIT_SERVERS], age;
	size_t online = 0, voters = 0, n;
	bool one;

	consensus_status(d->consensus, &raft);
	json_add_string(object, "kind", "Cluster");
	json_add_string(object, "apiVersion", BLIX_API_VERSION);
	json_add_string(object, "cluster", d->config->cluster);
	json_add_string(object, "leader", leader != NULL ? leader->name : "");
	json_add_u64(object, "term", raft.term);
	json_add_u64(object, "commitIndex", raft.commit_index);
	json_add_u64(object, "appliedIndex", raft.applied_index);
	api_add_staleness(d, object);
	(void)snprintf(hash, sizeof(hash), "%016" PRIx64, state_hash(d->state));
	json_add_string(object, "stateHash", hash);
	json_add_time(object, "clock", d->state->clock_ms);
	json_add_u64(object, "clockJumpMs", d->state->clock_jump_ms);
	cluster_json_add(object, &d->state->members.cluster);
	n = daemon_servers(d, ids, array_size(ids));
	for (size_t i = 0; i < n && i < array_size(ids); i++) {
		bool votes = strcmp(api_vote(d, ids[i]), "voter") == 0;

		json_push(servers, server_json(d, ids[i], &one));
		online += votes && one;
		voters += votes;
	}
	json_add(object, "servers", servers);
	json_add_bool(object, "quorum",
	              d->role == CONSENSUS_LEADER ? online > voters / 2
	                                          : daemon_is_current(d, &age));
	http_answer_json(request, 200, object);
}

static void status_read(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	cleanup(json_freep) cJSON *object = json_object();
	cJSON *phases = json_object();

	json_add_string(object, "kind", "Status");
	json_add_string(object, "apiVersion", BLIX_API_VERSION);
	json_add_string(object, "version", BLIX_VERSION);
	api_add_staleness(d, object);
	for (unsigned i = 0; i < VM_PHASE_COUNT; i++) {
		if (d->state->phases[i] > 0)
			json_add_u64(phases, vm_phase_name((enum vm_phase)i), d->state->phases[i]);
	}
	json_add(object, "vms", phases);
	http_answer_json(request, 200, object);
}

cJSON *api_version_json(const struct config *config)
{
	cJSON *object = json_object();
	cJSON *host = json_object();

	json_add_string(object, "version", BLIX_VERSION);
	json_add_string(object, "apiVersion", BLIX_API_VERSION);
	json_add_string(host, "node", config->name);
	json_add_string(host, "stateDir", config->state_dir);
	json_add_string(host, "runDir", config->run_dir);
	json_add_string(host, "microvmsDir", config->microvms_dir);
	json_add_string(host, "gcrootsDir", config->gcroots_dir);
	json_add_string(host, "libexecDir", config->libexec_dir);
	json_add_string(host, "microvm", config->microvm);
	json_add_string(host, "path", config->path);
	json_add_string(host, "group", config->group);
	json_add(object, "host", host);
	return object;
}

static void version_handle(struct http_request *request, void *data)
{
	cleanup(json_freep) cJSON *object = api_version_json(((struct daemon *)data)->config);

	http_answer_json(request, 200, object);
}

static void cluster_handle(struct http_request *request, void *data)
{
	api_read(data, request, cluster_read);
}

static void status_handle(struct http_request *request, void *data)
{
	api_read(data, request, status_read);
}

static void openapi_handle(struct http_request *request, void *data);

#define POLL_QUERY "revision=u64 wait=duration consistency=string minRevision=u64"
#define READ_QUERY "consistency=string minRevision=u64 wait=duration"

const struct http_route api_routes[] = {
	{"GET", "/v1/vms", vm_list_handle, "List VMs, whole or as a summary",
         "view=string labels=string " POLL_QUERY, API_VIEWER, 0, NULL, "VMList"},
	{"POST", "/v1/vms", vm_create_handle, "Create a VM, or ask where it would run",
         "dryRun=bool", API_OPERATOR | API_MUTATION, LIMIT_BODY, "VM", "VM"},
	{"GET", "/v1/vms/{name}", vm_show_handle, "One VM; waits for it to change", POLL_QUERY,
         API_VIEWER, 0, NULL, "VM"},
	{"DELETE", "/v1/vms/{name}", vm_delete_handle, "Stop it, remove what it left, forget it",
         "graceMs=u64 volumes=bool ifVersion=u64", API_OPERATOR | API_MUTATION, 0, NULL, "VM"},
	{"POST", "/v1/vms/{name}/start", vm_start_handle, "Start it", "ifVersion=u64",
         API_OPERATOR | API_MUTATION, LIMIT_BODY, "Power", "VM"},
	{"POST", "/v1/vms/{name}/stop", vm_stop_handle, "Stop it", "ifVersion=u64",
         API_OPERATOR | API_MUTATION, LIMIT_BODY, "Power", "VM"},
	{"POST", "/v1/vms/{name}/restart", vm_restart_handle, "Stop it, then start it",
         "ifVersion=u64", API_OPERATOR | API_MUTATION, LIMIT_BODY, "Power", "VM"},
	{"POST", "/v1/vms/{name}/pause", vm_pause_handle, "Hold its CPUs", "ifVersion=u64",
         API_OPERATOR | API_MUTATION, 0, NULL, "VM"},
	{"POST", "/v1/vms/{name}/resume", vm_resume_handle, "Let its CPUs go on", "ifVersion=u64",
         API_OPERATOR | API_MUTATION, 0, NULL, "VM"},
	{"POST", "/v1/vms/{name}/adopt", vm_adopt_handle, "Take over a microVM that is on a node",
         NULL, API_OPERATOR | API_MUTATION, LIMIT_BODY, "Adopt", "VM"},
	{"POST", "/v1/vms/{name}/update", vm_update_handle, "Lock it anew and boot that",
         "ifVersion=u64", API_OPERATOR | API_MUTATION, LIMIT_BODY, "Update", "VM"},
	{"POST", "/v1/vms/{name}/set", vm_set_handle, "Other resources, labels or restart policy",
         "ifVersion=u64", API_OPERATOR | API_MUTATION, LIMIT_BODY, "Set", "VM"},
	{"POST", "/v1/vms/{name}/rollback", vm_rollback_handle, "Back to an older generation",
         "ifVersion=u64", API_OPERATOR | API_MUTATION, LIMIT_BODY, "Rollback", "VM"},
	{"GET", "/v1/vms/{name}/generations", vm_generations_handle, "The systems that are kept",
         READ_QUERY, API_VIEWER, 0, NULL, "GenerationList"},
	{"GET", "/v1/vms/{name}/why", vm_why_handle, "Why it is in its phase", READ_QUERY,
         API_VIEWER, 0, NULL, "Why"},
	{"GET", "/v1/vms/{name}/usage", vm_usage_handle, "What it uses now", "here=bool",
         API_VIEWER, 0, NULL, "Usage"},
	{"GET", "/v1/vms/{name}/logs", vm_logs_handle, "Its console; waits for more",
         "offset=u64 wait=duration here=bool", API_VIEWER, 0, NULL, NULL},
	{"POST", "/v1/vms/{name}/console", vm_console_handle, "A terminal at its console: a stream",
         "here=bool", API_OPERATOR, LIMIT_STREAM_BODY, "Terminal", NULL},
	{"POST", "/v1/vms/{name}/exec", vm_exec_handle, "A command in the guest: a stream",
         "here=bool", API_OPERATOR, LIMIT_STREAM_BODY, "Exec", NULL},
	{"POST", "/v1/vms/{name}/copy", vm_copy_handle, "Files into the guest or out: a stream",
         "here=bool", API_OPERATOR, LIMIT_STREAM_BODY, "Copy", NULL},
	{"PUT", "/v1/vms/{name}/secrets/{secret}", vm_secret_handle,
         "The value of a secret, raw: to its node", "uid=u64 here=bool",
         API_OPERATOR | API_MUTATION, LIMIT_SECRET, NULL, NULL},
	{"PUT", "/v1/sources/{source}", source_put_handle, "A packed flake, raw, by its SHA-256",
         NULL, API_OPERATOR | API_MUTATION, LIMIT_SOURCE, NULL, "Source"},
	{"GET", "/v1/sources/{source}", source_get_handle, "A packed flake, for another server",
         NULL, API_SERVER, 0, NULL, NULL},
	{"GET", "/v1/events", event_list_handle, "What happened; waits for more",
         "name=name " POLL_QUERY, API_VIEWER, 0, NULL, "EventList"},
	{"GET", "/v1/watch", watch_get_handle, "What changes, as it does: lines of JSON",
         "kind=string name=name labels=string revision=u64 heartbeat=duration", API_VIEWER, 0, NULL,
         NULL},
	{"POST", "/v1/watch", watch_post_handle, "The same of several at once", NULL, API_VIEWER,
         LIMIT_BODY, "Watches", NULL},
	{"GET", "/v1/nodes", node_list_handle, "List nodes", READ_QUERY, API_VIEWER, 0, NULL,
         "NodeList"},
	{"GET", "/v1/nodes/{name}", node_show_handle, "One node", READ_QUERY, API_VIEWER, 0, NULL,
         "Node"},
	{"DELETE", "/v1/nodes/{name}", node_remove_handle, "Take it out of the cluster for good",
         "dead=bool ifVersion=u64", API_ADMIN | API_MUTATION, 0, NULL, "Node"},
	{"POST", "/v1/nodes/{name}/set", node_set_handle, "Whether it gets VMs, and a vote",
         "ifVersion=u64", API_ADMIN | API_MUTATION, LIMIT_BODY, "NodeSet", "Node"},
	{"POST", "/v1/node/init", entered_handle, "Make a cluster of this node", NULL,
         API_ADMIN | API_MUTATION, LIMIT_BODY, "NodeInit", "Identity"},
	{"POST", "/v1/node/join", entered_handle, "Have a cluster take this node in", NULL,
         API_ADMIN | API_MUTATION, LIMIT_BODY, "NodeJoin", "Identity"},
	{"POST", "/v1/node/renew", renew_handle, "A new certificate for this node", NULL,
         API_ADMIN | API_MUTATION, 0, NULL, "Identity"},
	{"POST", "/v1/join", join_handle, "A node with a token becomes a member", NULL,
         API_ANYONE | API_MUTATION, LIMIT_BODY, "Join", "Joined"},
	{"GET", "/v1/tokens", token_list_handle, "Tokens by which nodes may join", NULL, API_ADMIN,
         0, NULL, "TokenList"},
	{"POST", "/v1/tokens", token_create_handle, "Let a node of this name join, once", NULL,
         API_ADMIN | API_MUTATION, LIMIT_BODY, "TokenCreate", "Token"},
	{"DELETE", "/v1/tokens/{name}", token_delete_handle, "That node may not join any more",
         NULL, API_ADMIN | API_MUTATION, 0, NULL, NULL},
	{"POST", "/v1/cluster/transfer-leader", transfer_handle, "Another server is to lead", NULL,
         API_ADMIN | API_MUTATION, LIMIT_BODY, "Transfer", NULL},
	{"GET", "/v1/cluster", cluster_handle, "Servers, leader, quorum and state hash", READ_QUERY,
         API_VIEWER, 0, NULL, "Cluster"},
	{"GET", "/v1/status", status_handle, "Counts of VMs by phase", READ_QUERY, API_VIEWER, 0,
         NULL, "Status"},
	{"GET", "/v1/version", version_handle, "Version of the daemon", NULL, API_VIEWER, 0, NULL,
         "Version"},
	{"GET", "/metrics", metrics_handle, "Counters, in the text format of Prometheus", NULL,
         API_VIEWER, 0, NULL, NULL},
	{"GET", "/v1/openapi.json", openapi_handle, "These routes as OpenAPI 3", NULL, API_VIEWER,
         0, NULL, NULL},
	{"POST", "/v1/internal/propose", propose_handle, "A command from another server", NULL,
         API_SERVER | API_MUTATION, LIMIT_BODY, NULL, NULL},
	{"POST", "/v1/internal/barrier", barrier_handle, "The revision to read at", NULL,
         API_SERVER, 0, NULL, NULL},
};
const size_t api_n_routes = array_size(api_routes);

/* What the routes' schema names mean, as far as a client needs it; docs/api.md has every key. */
static const char schemas[] =
	"{\"VM\":{\"type\":\"object\",\"required\":[\"metadata\",\"spec\"],\"properties\":{"
	"\"kind\":{\"type\":\"string\"},\"apiVersion\":{\"type\":\"string\"},"
	"\"metadata\":{\"type\":\"object\"},\"spec\":{\"type\":\"object\"},"
	"\"status\":{\"type\":\"object\"}}},"
	"\"Power\":{\"type\":\"object\",\"properties\":{\"graceMs\":{\"type\":\"integer\"}}},"
	"\"Update\":{\"type\":\"object\",\"properties\":{\"flake\":{\"type\":\"string\"},"
	"\"attr\":{\"type\":\"string\"},\"restart\":{\"type\":\"string\"},"
	"\"autoRollback\":{\"type\":\"boolean\"},\"timeoutMs\":{\"type\":\"integer\"},"
	"\"graceMs\":{\"type\":\"integer\"}}},"
	"\"Adopt\":{\"type\":\"object\",\"required\":[\"node\"],\"properties\":{"
	"\"node\":{\"type\":\"string\"},\"plain\":{\"type\":\"boolean\"}}},"
	"\"Rollback\":{\"type\":\"object\",\"properties\":{\"generation\":{\"type\":\"integer\"},"
	"\"restart\":{\"type\":\"string\"},\"graceMs\":{\"type\":\"integer\"}}},"
	"\"GenerationList\":{\"type\":\"object\"},\"Source\":{\"type\":\"object\"},"
	"\"Watches\":{\"type\":\"object\",\"required\":[\"watches\"]},"
	"\"Terminal\":{\"type\":\"object\",\"properties\":{\"rows\":{\"type\":\"integer\"},"
	"\"columns\":{\"type\":\"integer\"}}},"
	"\"Exec\":{\"type\":\"object\",\"required\":[\"argv\"]},"
	"\"Copy\":{\"type\":\"object\",\"required\":[\"direction\",\"path\"]},"
	"\"VMList\":{\"type\":\"object\",\"properties\":{\"revision\":{\"type\":\"integer\"},"
	"\"stale\":{\"type\":\"boolean\"},\"stalenessMs\":{\"type\":\"integer\"},"
	"\"items\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/VM\"}}}},"
	"\"Why\":{\"type\":\"object\"},\"Usage\":{\"type\":\"object\"},\"EventList\":{\"type\":"
	"\"object\"},"
	"\"NodeSet\":{\"type\":\"object\",\"properties\":{\"schedulable\":{\"type\":"
	"\"boolean\"},\"maintenance\":{\"type\":\"boolean\"},\"vote\":{\"type\":\"string\"},"
	"\"zone\":{\"type\":\"string\"}}},"
	"\"NodeInit\":{\"type\":\"object\"},\"NodeJoin\":{\"type\":\"object\",\"required\":["
	"\"token\"]},\"Identity\":{\"type\":\"object\"},"
	"\"Join\":{\"type\":\"object\",\"required\":[\"secret\",\"name\",\"request\"]},"
	"\"Joined\":{\"type\":\"object\"},\"TokenList\":{\"type\":\"object\"},"
	"\"TokenCreate\":{\"type\":\"object\",\"required\":[\"name\",\"hash\"]},"
	"\"Token\":{\"type\":\"object\"},\"Transfer\":{\"type\":\"object\",\"properties\":{"
	"\"node\":{\"type\":\"string\"}}},"
	"\"Node\":{\"type\":\"object\"},\"NodeList\":{\"type\":\"object\"},"
	"\"Cluster\":{\"type\":\"object\"},\"Status\":{\"type\":\"object\"},"
	"\"Version\":{\"type\":\"object\"}}";

static void openapi_handle(struct http_request *request, void *data)
{
	cleanup(json_freep) cJSON *document = NULL;
	struct blix_error err;

	(void)data;
	if (http_openapi(api_routes, api_n_routes, BLIX_VERSION, schemas, &document, &err) < 0)
		http_answer_error(request, &err, NULL);
	else
		http_answer_json(request, 200, document);
}
