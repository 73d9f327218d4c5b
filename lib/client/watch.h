/* Watching what changes: POST /v1/watch, and the same again at another server when one is lost,
 * from where the lines ended, so that no line is missed and none comes twice. */
#ifndef BLIX_CLIENT_WATCH_H
#define BLIX_CLIENT_WATCH_H

#include "client/client.h"

struct client_watch {
	const char *kind;   /* "vm", "node" or "event" */
	const char *name;   /* NULL: all */
	const char *labels; /* NULL: whatever they are */
	uint64_t revision;  /* up to which everything is known; 0: nothing. Kept up to date */
};

/* Calls on_line(data, line) for each line of docs/api.md, marks included, until it returns 1 (this
 * returns 0 then), fails (its failure is returned), or the watches cannot go on: -BLIX_E_GONE when
 * the servers' history does not reach back to their revisions, UNAVAILABLE when no server answers
 * for 10 s, TIMEOUT by the client's own limit or tick. on_line must not use the client. */
int client_watch(struct client *client, struct client_watch *watches, size_t n,
                 int (*on_line)(void *data, const cJSON *line, struct blix_error *err), void *data,
                 struct blix_error *err);

#endif
