/* One HTTP request to a hypervisor's API over its unix socket: Cloud Hypervisor and Firecracker.
 * Blocking, within a deadline; safe to use from any thread. Errors carry the reasons of
 * vmm/address.h. */
#ifndef BLIX_VMM_REST_H
#define BLIX_VMM_REST_H

#include "base/error.h"
#include "base/json.h"

/* *ret, the caller's, is the object that was answered. */
int rest_get(const char *socket, const char *path, unsigned deadline_ms, cJSON **ret,
             struct blix_error *err);
/* `body` is JSON, "" for none; whatever is answered with a status of success is passed over. */
int rest_put(const char *socket, const char *path, const char *body, unsigned deadline_ms,
             struct blix_error *err);

#endif
