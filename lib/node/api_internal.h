/* Between the files of the API only. docs/api.md describes every route. */
#ifndef BLIX_NODE_API_INTERNAL_H
#define BLIX_NODE_API_INTERNAL_H

#include "node/daemon_internal.h"

/* http_route.flags: the least role, one of these; a route without one is nobody's. */
enum {
	API_VIEWER = 1,
	API_OPERATOR,
	API_ADMIN,
	API_NODE, /* certificates of nodes; the handler looks whether it is the node's own matter */
	API_SERVER, /* what servers say to each other */
	API_ANYONE, /* without a certificate too: who joins has none yet */
	API_ROLES = 15,
	API_MUTATION = 16,
};

/* api_who.c: who asks. */
struct api_who {
	enum tls_role role; /* of a person; TLS_NO_ROLE: none */
	uint64_t node;      /* by its certificate; 0: no node */
	bool is_server;     /* root and our own user too */
	char principal[HTTP_PEER_TEXT];
};
/* -BLIX_E_DENIED: a certificate that holds no longer, or who is no server and names somebody else.
 */
int api_who(const struct daemon *d, const struct http_request *request, struct api_who *ret,
            struct blix_error *err);
bool api_may(const struct api_who *who, unsigned flags);
/* For a command: "user:ann"; the caller's to free. */
char *api_principal(const struct daemon *d, const struct http_request *request);

/* How a request is handed on to another node's daemon, in the name of who sent it. */
struct api_hop {
	const char *address;
	char server_name[TLS_DNS];
	char line[HTTP_PEER_TEXT + 32];
	const char *headers[2];
};
/* *ret must stay until the request is sent. `request` NULL: in our own name. */
void api_hop(const struct daemon *d, const struct http_request *request,
             const struct config_server *server, struct api_hop *ret);

void vm_list_handle(struct http_request *request, void *data);
void vm_create_handle(struct http_request *request, void *data);
void vm_show_handle(struct http_request *request, void *data);
void vm_start_handle(struct http_request *request, void *data);
void vm_stop_handle(struct http_request *request, void *data);
void vm_restart_handle(struct http_request *request, void *data);
void vm_pause_handle(struct http_request *request, void *data);
void vm_resume_handle(struct http_request *request, void *data);
void vm_delete_handle(struct http_request *request, void *data);
void vm_why_handle(struct http_request *request, void *data);
void vm_usage_handle(struct http_request *request, void *data);
void vm_logs_handle(struct http_request *request, void *data);
void vm_adopt_handle(struct http_request *request, void *data);
void vm_update_handle(struct http_request *request, void *data);
void vm_set_handle(struct http_request *request, void *data);
void vm_rollback_handle(struct http_request *request, void *data);
void vm_generations_handle(struct http_request *request, void *data);
void vm_secret_handle(struct http_request *request, void *data);
void source_put_handle(struct http_request *request, void *data);
void source_get_handle(struct http_request *request, void *data);
void metrics_handle(struct http_request *request, void *data);
void event_list_handle(struct http_request *request, void *data);
void join_handle(struct http_request *request, void *data);
void entered_handle(struct http_request *request, void *data);
void renew_handle(struct http_request *request, void *data);
void token_create_handle(struct http_request *request, void *data);
void token_list_handle(struct http_request *request, void *data);
void token_delete_handle(struct http_request *request, void *data);
void node_list_handle(struct http_request *request, void *data);
void node_show_handle(struct http_request *request, void *data);
void node_set_handle(struct http_request *request, void *data);
void node_remove_handle(struct http_request *request, void *data);
void transfer_handle(struct http_request *request, void *data);

/* "voter", "standby", "spare"; "" for who is no member of the log. */
const char *api_vote(const struct daemon *d, uint64_t id);
/* GET /v1/version, of the lobby too. */
cJSON *api_version_json(const struct config *config);

/* Takes the command, proposes it, and answers with the VM or why not. */
void api_propose(struct daemon *d, struct http_request *request, struct command *command,
                 const char *name, int status);
/* api_mutation.c: who asks, and which request of theirs it is: session, request and principal of
 * the command. */
int api_identify(const struct daemon *d, const struct http_request *request,
                 struct command *command, struct blix_error *err);
/* The version that the object must have, by ?ifVersion= or If-Match; 0: any. */
int api_if_version(const struct http_request *request, uint64_t *ret, struct blix_error *err);
/* Answers with what became of a request that is remembered already. */
void api_answer_outcome(struct daemon *d, struct http_request *request, const char *name,
                        int status, const struct command_result *result);
/* The same for another kind of object. */
struct api_object {
	const char *kind, *name; /* begin an error: "node n1"; kind is a literal */
	int status;              /* HTTP, of success */
	/* uid: of the one that is meant; 0: whichever has the name. */
	void (*answer)(const struct daemon *d, struct http_request *request, const char *name,
	               int status, uint64_t uid);
};
void api_propose_of(struct daemon *d, struct http_request *request, struct command *command,
                    const struct api_object *object);
int api_parse_body(const struct http_request *request, cJSON **ret, struct blix_error *err);
/* The name in the path; NULL: there is none, and that was answered. */
const char *api_path_name(struct http_request *request);
int api_query_number(const struct http_request *request, const char *key, uint64_t max,
                     uint64_t *ret, struct blix_error *err);

/* The ?revision= and ?wait= of a request; without revision nothing is waited for. */
struct api_wait {
	bool set;
	uint64_t revision;
	uint64_t wait_ms;
};
int api_wait_parse(const struct http_request *request, struct api_wait *ret,
                   struct blix_error *err);
/* Adds revision, stale, stalenessMs and server: what a reader must know of a local read. */
void api_add_staleness(const struct daemon *d, cJSON *object);
/* The same for one object, and only where it is stale: one that is not bears no word of it. */
void api_add_stale(const struct daemon *d, cJSON *object);
/* Per node: fits, or why not. */
cJSON *api_nodes_verdict(const struct daemon *d, const struct vm *vm, bool *ret_fits);
/* Answers with the usage of a VM, from its node, or with the whole VM and its usage. */
void api_answer_usage(struct daemon *d, struct http_request *request, const struct vm *vm,
                      bool whole, bool here);
/* ETag: the version of the object that follows, as If-Match takes it. */
void api_answer_version(struct http_request *request, const struct vm *vm);
void api_not_found(struct http_request *request, const char *name);

#endif
