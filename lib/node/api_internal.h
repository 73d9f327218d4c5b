/* Between the files of the API only. docs/api.md describes every route. */
#ifndef BLIX_NODE_API_INTERNAL_H
#define BLIX_NODE_API_INTERNAL_H

#include "node/daemon_internal.h"

enum { API_PEER = 1, API_MUTATION = 2 }; /* http_route.flags */

void vm_list_handle(struct http_request *request, void *data);
void vm_create_handle(struct http_request *request, void *data);
void vm_show_handle(struct http_request *request, void *data);
void vm_start_handle(struct http_request *request, void *data);
void vm_stop_handle(struct http_request *request, void *data);
void vm_restart_handle(struct http_request *request, void *data);
void vm_delete_handle(struct http_request *request, void *data);
void vm_why_handle(struct http_request *request, void *data);
void vm_logs_handle(struct http_request *request, void *data);
void event_list_handle(struct http_request *request, void *data);

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
/* Per node: fits, or why not. */
cJSON *api_nodes_verdict(const struct daemon *d, const struct vm *vm, bool *ret_fits);
void api_not_found(struct http_request *request, const char *name);

#endif
