/* What a GET may ask of the state that answers it: `?consistency=` and `?minRevision=`.
 *
 * local, the default, is answered from this server's own copy at once. minRevision waits until that
 * copy has got there. linearizable asks the leader for its revision behind a barrier, and waits
 * until the own copy has got there: the answer then shows everything that was acknowledged, by
 * whatever server, before the request came. The leader only tells a number; the answer is made
 * here, so that readers share the work out among the servers
 * (docs/decisions/032-a-follower-asks-for-the-revision-to-read-at.md).
 *
 * All readers that wait for a barrier share it: at most one question is under way, and those who
 * come meanwhile share the next.
 *
 * It fails with NOLEADER when nobody can say what is current, and with UNAVAILABLE, reason
 * "behind", when the own copy does not get there in time: both say nothing about the object.
 */
#ifndef BLIX_NODE_READ_H
#define BLIX_NODE_READ_H

#include "node/daemon_internal.h"

/* Answers the request, now or later, exactly once. */
typedef void api_read_fn(struct http_request *request, void *data);

/* The handler of a route that reads objects: calls answer(request, d) as soon as the state is what
 * the request's query asks for, or answers why not. */
void api_read(struct daemon *d, struct http_request *request, api_read_fn *answer);

/* POST /v1/internal/barrier */
void barrier_handle(struct http_request *request, void *data);

#endif
