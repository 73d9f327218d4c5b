/* An HTTP/1.1 server on a uv loop, by libmicrohttpd: on a Unix socket, and on any number of TCP
 * ports by TLS 1.3.
 *
 * Over TLS both sides prove who they are by certificates of the cluster's own CA. A client may show
 * none: then it is a stranger, and config.allow decides what that may. A certificate that does not
 * hold ends the handshake.
 *
 * Routes are a table: method, path template, allowed query parameters and largest body. What does
 * not fit the table is answered here (404, 405 with Allow, 400, 413), so a handler sees only
 * well-formed requests, whole: http_body() is complete when it is called. A handler answers
 * exactly once, at once or later; until then the connection is suspended and costs no CPU.
 *
 * Errors are JSON: {"code","reason","message","hint"?,"retryable","definite","details":{}}, with
 * the HTTP status of the table in base/error.h; 429 and 503 carry Retry-After.
 *
 * Held here: headers of a request fit one buffer of 16 KiB with its request line and are at most
 * LIMIT_HTTP_HEADERS; a header name comes once; never both Content-Length and Transfer-Encoding;
 * the request is whole LIMIT_HTTP_RECEIVE ms after its request line, which comes within
 * LIMIT_HTTP_IDLE ms, the first one over TLS within LIMIT_HTTP_RECEIVE ms of the connection; a
 * client that takes no byte of its answer for as long is dropped; bodies held at once by all
 * connections together stay under LIMIT_HTTP_BODIES, those that go to files are at most
 * LIMIT_HTTP_FILES, and each 256 KiB of them come within LIMIT_HTTP_RECEIVE ms; LIMIT_CONNECTIONS
 * of each socket (more wait in the listen queue); LIMIT_HTTP_USER of one uid, node or user, unless
 * it is root, our own uid, a server or an admin; as many of one address that have not proved who
 * they are (429). Not enforced, since libmicrohttpd hides it: chunk extensions and trailers (read
 * and dropped), a least rate in bytes per second. Errors that libmicrohttpd itself finds while
 * reading a request line or headers (400, 413, 414, 431, 501, 505) have its own body, not JSON.
 *
 * Half-closing: a client that shuts down its writing side while it waits counts as gone.
 */
#ifndef BLIX_HTTP_SERVER_H
#define BLIX_HTTP_SERVER_H

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "sys/source.h"
#include "tls/authority.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <uv.h>

struct tls_credentials; /* tls/credentials.h */
struct http_server;
struct http_request; /* owned by the server, valid until answered or cancelled */
struct http_upgrade; /* a connection that has left HTTP */

enum http_peer_kind {
	HTTP_PEER_UNIX,        /* uid, gid, pid: as of connect(), not of this request */
	HTTP_PEER_CERTIFICATE, /* identity: as of the handshake */
	HTTP_PEER_STRANGER,    /* TLS, and no certificate */
};

/* Who connected. Over TLS uid and gid are nobody's. */
struct http_peer {
	enum http_peer_kind kind;
	uid_t uid;
	gid_t gid;
	pid_t pid;
	struct tls_identity identity;
	char address[INET6_ADDRSTRLEN]; /* of a TCP connection, else "" */
};

#define HTTP_PEER_TEXT 80
/* "uid:0", "node:7", "user:ann", "anyone". */
void http_peer_text(const struct http_peer *peer, char ret[HTTP_PEER_TEXT]);

/* `data` is that of struct http_config. */
typedef void (*http_handler)(struct http_request *request, void *data);

struct http_route {
	const char *method;
	/* "/v1/vms/{name}/start": a {part} stands for one whole non-empty segment. The first route
	 * that matches is taken, so literal ones stand before. */
	const char *path;
	http_handler handler;
	const char *summary;
	/* "wait=duration revision=u64 all=bool": every parameter that may come, with its type
	 * (string, u64, bool, duration, size, name), which is checked. NULL: none. */
	const char *query;
	unsigned flags;  /* the caller's own */
	size_t body_max; /* 0: a body is refused; above LIMIT_BODY: the body goes to a file */
	const char *request_schema, *answer_schema; /* names for http_openapi(); NULL: none */
};

/* A body that went to a file: synced, whole. */
struct http_file {
	int fd; /* the taker's */
	uint64_t size;
	struct source_name name; /* its SHA-256 */
};

struct http_config {
	const char *socket_path;
	mode_t mode;
	gid_t group; /* (gid_t)-1: leave it */
	const struct http_route *routes;
	size_t n;
	void *data;
	/* Asked for each request before its handler; a failure is the answer. NULL: all may. */
	int (*allow)(void *data, const struct http_request *request, const struct http_route *route,
	             struct blix_error *err);
	/* For routes whose body goes to a file as its bytes come; its length must be announced.
	 * Called when the headers are there, before anything of the body is read: gives the
	 * descriptor to write to, or leaves it -1 when it has answered (then the body is not read);
	 * a failure is the answer. NULL: there are no such routes. */
	int (*body_file)(void *data, struct http_request *request, uint64_t n, int *ret_fd,
	                 struct blix_error *err);
	/* Called before each answer to a request that has a route: may add headers. NULL: nobody.
	 */
	void (*answering)(void *data, struct http_request *request, const struct http_route *route);
	/* 0: the limits of base/limits.h. */
	unsigned connections_max;
	unsigned receive_ms;
	unsigned idle_ms;
};

/* Listens. The config is copied, what it points to must outlive the server. A socket file on which
 * nobody answers is replaced; one with a server behind it is -BLIX_E_BUSY, anything that is not a
 * socket -BLIX_E_REFUSED. */
int http_server_open(uv_loop_t *loop, const struct http_config *config, struct http_server **ret,
                     struct blix_error *err);
/* Listens on one more socket: `address` is IP:PORT, [IP6]:PORT or :PORT for all addresses; port 0
 * takes any. `tls` must outlive the server; what it loads anew holds for new connections. ret_port
 * may be NULL. */
int http_server_listen(struct http_server *server, const char *address, struct tls_credentials *tls,
                       unsigned *ret_port, struct blix_error *err);
/* Stops accepting and removes the socket file at the next turn, cancels the requests that wait
 * (their cancel callbacks run) and answers them 503, then frees and calls cb, which may be NULL.
 * Answers still under way are cut. May be called from a handler. */
void http_server_close(struct http_server *server, void (*cb)(void *data), void *data);
/* Connections open now. */
size_t http_server_connections(const struct http_server *server);

/* Strings stay the request's. Decoded; NULL when absent. */
const char *http_path_param(const struct http_request *request, const char *name);
const char *http_query(const struct http_request *request, const char *name);
const char *http_header(const struct http_request *request, const char *name);
/* NUL-terminated behind its n bytes; "" when there is none. */
const char *http_body(const struct http_request *request, size_t *ret_n);
/* Of a route whose body goes to a file; fails when its bytes could not be written. */
int http_body_file(struct http_request *request, struct http_file *ret, struct blix_error *err);
/* Overwrites the body: nobody reads it any more. */
void http_body_wipe(struct http_request *request);
const struct http_peer *http_peer(const struct http_request *request);

/* A header for the answer to come. Name and value must be valid: no control bytes. */
void http_answer_header(struct http_request *request, const char *name, const char *value);

/* Each answers and thereby ends the request: it must not be touched afterwards. */
/* The body was malloc'ed and is taken; NULL with n = 0 is an empty one. */
void http_answer(struct http_request *request, int status, const char *content_type,
                 char *body_taken, size_t n);
/* n bytes of a file, as the client takes them; fd is taken. */
void http_answer_file(struct http_request *request, int status, const char *content_type, int fd,
                      uint64_t n);
void http_answer_json(struct http_request *request, int status, const cJSON *tree);
/* `details` (an object, or NULL) is copied. */
void http_answer_error(struct http_request *request, const struct blix_error *err,
                       const cJSON *details);
/* The body comes in pieces, as the client takes them: produce() appends the next one (at most
 * LIMIT_HTTP_PIECE bytes) to `out`, which is empty, and returns 1 for more, 0 for the end, negative
 * to cut the connection so that the client sees a broken answer. HTTP_LATER, with nothing appended,
 * says that there is nothing yet: the connection sleeps, and costs no CPU, until
 * http_stream_wake(). done() is called once, at the end or when the client went away. Neither may
 * call into this server. */
#define HTTP_LATER 2
void http_answer_stream(struct http_request *request, int status, const char *content_type,
                        int (*produce)(void *data, struct buf *out), void (*done)(void *data),
                        void *data);

/* Has produce() asked again, at a later turn, if it slept. Any time before done(). When the server
 * closes it is asked once more without this. */
void http_stream_wake(struct http_request *request);

/* True when the client asks for `protocol` by its headers Connection and Upgrade. */
bool http_wants_upgrade(const struct http_request *request, const char *protocol);
/* 101: the connection leaves HTTP. taken() is called once, at a later turn: with a descriptor of
 * the socket, which is the callee's to close, and the n bytes that the client has sent already; or
 * with NULL and -1 when it went away before. The connection counts for the server's limits until
 * http_upgrade_close(), which must be called once, may be called from taken(), and ends the
 * connection whatever still waits in it. A server that closes shuts the socket down, so that its
 * reader sees the end. */
typedef void (*http_upgraded)(void *data, struct http_upgrade *upgrade, int fd, const char *bytes,
                              size_t n);
void http_answer_upgrade(struct http_request *request, const char *protocol, http_upgraded taken,
                         void *data);
void http_upgrade_close(struct http_upgrade *upgrade);

/* Who does not answer before the handler returns must set this: cb is called once, instead of an
 * answer, when the client goes away or the server closes; after it the request is gone. Answering
 * forgets it. */
void http_on_cancel(struct http_request *request, void (*cb)(void *data), void *data);

#endif
