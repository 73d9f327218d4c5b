/* One HTTP request to a hypervisor's API over its unix socket: Cloud Hypervisor and Firecracker.
 * Blocking, within a deadline; safe to use from any thread. Errors carry the reasons of
 * vmm/address.h. */
#ifndef BLIX_VMM_REST_H
#define BLIX_VMM_REST_H

#include "base/error.h"
#include "base/json.h"

struct rest_request {
	const char *method;
	const char *path;
	const char *body; /* JSON, "" for an empty one; NULL: none, as of a GET */
};

/* Success is an answer with a status of success. With `ret` it must be an object, the caller's; ret
 * NULL: whatever is answered is passed over. */
int rest_call(const char *socket, const struct rest_request *request, unsigned deadline_ms,
              cJSON **ret, struct blix_error *err);

#endif
