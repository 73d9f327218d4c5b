/* GET and POST /v1/watch: what changes, as lines of JSON, for as long as the client reads. One
 * connection carries up to LIMIT_WATCHES watches.
 *
 * A watch has a position: the revision up to which everything was sent. Nothing is queued for a
 * reader: when it can take more, what lies after its positions is looked up in the state as it is
 * then. So a slow reader costs one piece of an answer and gets the newest of each object; what it
 * skipped in between is nowhere. A deleted VM leaves an event, and events are sent one by one, so a
 * reader that falls behind the ring of events is told so and cut, like one that asks to go on from
 * before it. All positions are revisions, so another server can go on where this one ended.
 */
#ifndef BLIX_NODE_WATCH_H
#define BLIX_NODE_WATCH_H

#include "node/daemon_internal.h"

void watch_get_handle(struct http_request *request, void *data);
void watch_post_handle(struct http_request *request, void *data);

/* Once a turn, after changes: wakes the connections that have something to say. */
void watches_changed(struct daemon *d);
/* Ends all with a last line; before the server closes. */
void watches_close(struct daemon *d);

#endif
