/* TLS connections between the servers of a cluster: calls and a listener on TCP, from which come
 * descriptors of plain bytes and the id that the other end's certificate proves.
 *
 * Only servers of the own cluster that are not denied get through, in both directions, and a call
 * reaches the node that it was for or nobody.
 */
#ifndef BLIX_RAFT_SECURE_H
#define BLIX_RAFT_SECURE_H

#include "base/error.h"
#include "tls/credentials.h"

#include <uv.h>

struct secure;
struct secure_call;

struct secure_config {
	uv_loop_t *loop;
	const struct tls_credentials *credentials; /* they outlive it, and may be replaced */
	bool (*denied)(void *data, const struct tls_identity *peer); /* may be NULL */
	void *data;
};

/* The descriptor (non-blocking) becomes the callee's; -1: it did not come to that. */
typedef void (*secure_cb)(void *data, int fd, uint64_t id);

/* Whether an address is HOST:PORT, and not the path of a Unix socket. */
bool secure_address(const char *address);

struct secure *secure_open(const struct secure_config *config);
/* Calls node `id` at HOST:PORT; cb exactly once, later, unless it is cancelled before. NULL: no
 * attempt can be made now, and cb is not called. */
struct secure_call *secure_connect(struct secure *s, const char *address, uint64_t id, secure_cb cb,
                                   void *data);
/* Before cb was called. */
void secure_cancel(struct secure_call *call);
/* Once: cb for each server that calls. The host of the address is where to listen when it is an IP
 * address; one with a name listens on all, as its name may mean something else here. */
int secure_listen(struct secure *s, const char *address, secure_cb cb, void *data,
                  struct blix_error *err);
/* Ends connections whose other end is denied by now. */
void secure_recheck(struct secure *s);
/* Ends all at once; cb when it is gone. */
void secure_close(struct secure *s, void (*cb)(void *data), void *data);

#endif
