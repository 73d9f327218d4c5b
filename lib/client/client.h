/* A synchronous client of blixd: HTTP over Unix sockets or TLS, one connection that is reused.
 *
 * Over TLS the other end must show a certificate of a node of the cluster whose CA the client has;
 * nothing is sent to any other, and no proxy, .netrc or redirection is heeded.
 *
 * A mutation carries the client's session and the next request number, or the key that client_key()
 * set. While the answer says that nothing is settled (outcome unknown, no leader, busy, too many
 * requests, connection lost) the same number is sent again, to the next socket, so that it happens
 * once whatever was lost on the way; the client gives up after min(timeout, 10 s). What was refused
 * may not have used its number up, so the next mutation then begins a new session. Where no socket
 * can be connected from the start it fails at once.
 */
#ifndef BLIX_CLIENT_CLIENT_H
#define BLIX_CLIENT_CLIENT_H

#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>

#define CLIENT_TIMEOUT_NONE UINT64_MAX

struct client;

struct client_options {
	const char *endpoints; /* "unix:PATH", "PATH" or "https://HOST:PORT"; several with commas */
	/* PEM files for https: the cluster's CA, the user's certificate and key. NULL: not set. */
	const char *ca, *cert, *key;
	uint64_t timeout_ms; /* of the whole client, from client_open() on */
	/* Called about once a second, and after each interrupted system call, while an answer is
	 * awaited; true ends the call with -BLIX_E_TIMEOUT and reason "interrupted". May be NULL.
	 */
	bool (*tick)(void *context);
	void *context;
};

int client_open(const struct client_options *options, struct client **ret, struct blix_error *err);
void client_free(struct client *client); /* NULL is fine */
void client_freep(struct client **client);

/* `path` begins with "/v1/". body may be NULL. *ret_answer is the caller's (cJSON_Delete). An
 * answer of 400 or above is the error that its body describes. */
int client_call(struct client *client, const char *method, const char *path, const cJSON *body,
                cJSON **ret_answer, struct blix_error *err);
/* The next mutations bear this idempotency key instead of the client's own numbers. NULL: its own
 * again. Must stay valid until then. */
void client_key(struct client *client, const char *key);
/* PUT of bytes as they are; the answer is dropped. */
int client_put(struct client *client, const char *path, const void *data, size_t n,
               struct blix_error *err);
/* PUT of the n bytes of a file, from its beginning; the answer is dropped. It may be asked for
 * again and again: a daemon that has them does not read them. */
int client_upload(struct client *client, const char *path, int fd, uint64_t n,
                  struct blix_error *err);
/* Bytes of a log. `ret_next` is the offset to go on from. */
int client_text(struct client *client, const char *path, struct buf *out, uint64_t *ret_next,
                bool *ret_ended, struct blix_error *err);
/* What is left of timeout_ms; CLIENT_TIMEOUT_NONE when there is no limit. */
uint64_t client_left_ms(const struct client *client);

/* Appends `text` to a path or query, percent-encoded. */
void client_escape(struct buf *out, const char *text);

#endif
