/* Between client.c, stream.c and watch.c only. */
#ifndef BLIX_CLIENT_CLIENT_INTERNAL_H
#define BLIX_CLIENT_CLIENT_INTERNAL_H

#include "client/client.h"

size_t client_endpoints(const struct client *client);
/* The endpoint in use, a socket's path or HOST:PORT, and the turn to the next one. */
const char *client_endpoint(const struct client *client);
bool client_is_unix(const char *endpoint);
/* For HOST:PORT. */
const struct tls_credentials *client_credentials(const struct client *client);
void client_next_endpoint(struct client *client);
/* The words for a connect() that failed. */
int client_connect_error(const char *endpoint, int sys, struct blix_error *err);
/* Calls the tick; true fills err: the call is to end. */
bool client_interrupted(const struct client *client, struct blix_error *err);

/* POST over the endpoint in use, whose answer is given to sink() as it comes, without an end, until
 * sink returns false: 0 then, or when it ended. An answer of 400 or above is the error that it
 * describes. Sent once. */
int client_lines(struct client *client, const char *path, const char *body,
                 bool (*sink)(void *data, const char *bytes, size_t n), void *data,
                 struct blix_error *err);

#endif
