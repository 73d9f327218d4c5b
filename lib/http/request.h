/* Inside lib/http only: the structs that its files share.
 *
 * server.c      requests on their way, deadlines, the timer, open and close
 * listener.c    one listening socket and its libmicrohttpd; who connects, and how many may
 * listen.c      the listening sockets themselves
 * request.c     one request: parts, route, checks
 * answer.c, upgrade.c, openapi.c
 */
#ifndef BLIX_HTTP_REQUEST_H
#define BLIX_HTTP_REQUEST_H

#include "http/server.h"

#include <microhttpd.h>
#include <stdbool.h>

#define REQUEST_SEGMENTS 16 /* parts of a path; no route has as many */
#define REQUEST_PARAMS   32 /* query parameters; no route allows as many */

struct http_connection;
struct body_file; /* body_file.c */

/* RECEIVING -> HANDLING -> (WAITING ->) ANSWERED or CANCELLED. A request that breaks a rule is
 * ANSWERED while its body still comes, which is then dropped. */
enum http_state {
	HTTP_RECEIVING,
	HTTP_HANDLING,
	HTTP_WAITING, /* suspended in libmicrohttpd */
	HTTP_ANSWERED,
	HTTP_CANCELLED,
};

struct http_param {
	const char *name;
	const char *value;
};

struct http_line {
	char *name;
	char *value;
};

/* Watches the socket of a connection that libmicrohttpd does not look at. Freed in the close
 * callback of its poll. */
struct http_watch {
	uv_poll_t poll;
	struct http_server *server;
	int events;
	void (*cb)(void *data); /* must close the watch */
	void *data;
};

struct http_request {
	struct http_connection *connection;
	enum http_state state;
	bool begun; /* headers were seen */
	bool queued;
	const struct http_route *route; /* NULL until routed */
	char *uri;                      /* owns what the pointers below point to */
	bool uri_valid;
	const char *segments[REQUEST_SEGMENTS];
	size_t n_segments;
	struct http_param params[REQUEST_PARAMS];
	size_t n_params;
	struct buf body;
	size_t dropped;            /* body bytes read and not kept */
	struct body_file *file;    /* where the body goes; NULL: memory */
	struct http_line *headers; /* of the answer */
	size_t n_headers;
	struct MHD_Response *response;
	unsigned status;
	void (*cancel)(void *data);
	void *cancel_data;
	struct http_watch *watch;
	bool asleep;         /* its stream has nothing to send: suspended in libmicrohttpd */
	bool gone;           /* its client is, while it slept */
	http_upgraded taken; /* owed to who answered with an upgrade */
	void *taken_data;
};

/* One per connection. In at most one of the server's two lists of deadlines. */
struct http_connection {
	struct http_server *server;
	struct http_listener *listener;
	struct MHD_Connection *mhd;
	struct http_peer peer;
	bool known;             /* who it is has been looked at: over TLS after the handshake */
	struct tls_hosted *tls; /* NULL: a Unix socket; ends after its session */
	struct http_watch *handshake; /* suspended until more of it comes */
	int fd;
	bool refused; /* too many of this peer */
	struct http_request *request;
	struct http_upgrade *upgrade;        /* NULL: it speaks HTTP */
	struct http_connection *next, *prev; /* all of the server's */
	struct http_deadlines *deadlines;
	struct http_connection *later, *sooner;
	uint64_t deadline_ms;
};

/* Connections in the order of their deadlines, as all wait equally long. */
struct http_deadlines {
	struct http_connection *first, *last;
	unsigned wait_ms;
};

/* One listening socket: libmicrohttpd either speaks TLS on all of its sockets or on none. */
struct http_listener {
	struct http_listener *next;
	struct http_server *server;
	int fd;
	struct MHD_Daemon *daemon;
	uv_poll_t poll;
	struct tls_credentials *tls; /* NULL: the Unix socket */
};

struct http_server {
	uv_loop_t *loop;
	struct http_config config;
	dev_t socket_dev;
	ino_t socket_ino;
	struct http_listener *listeners;
	uv_timer_t timer;
	uv_idle_t soon; /* active: a turn of all is due, after the loop has looked at everything */
	struct http_connection *connections;
	size_t n_connections;
	size_t body_bytes;             /* held by all requests */
	unsigned n_files;              /* bodies that go to files */
	struct http_deadlines idle;    /* no request line yet */
	struct http_deadlines receive; /* not whole yet, or not even begun after a TCP connect */
	bool run_again;
	unsigned more_turns; /* after the next one */
	bool closing;
	unsigned handles; /* loop objects not yet closed */
	void (*closed)(void *data);
	void *closed_data;
};

/* request.c */
struct http_request *request_open(struct http_connection *connection, const char *uri);
void request_free(struct http_request *request);
/* Headers are there: finds the route and checks all that can be checked now; answers an error if
 * need be. False: the body is not worth reading. */
bool request_begin(struct http_request *request, const char *method);
/* 0, or -1 when the client sends far too much. */
int request_body(struct http_request *request, const char *data, size_t n);

/* answer.c */
/* The one end of all answers: takes the response. */
void request_answer(struct http_request *request, int status, const char *content_type,
                    struct MHD_Response *response);
void request_refuse(struct http_request *request, enum blix_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* server.c: the response is there; the connection goes on. */
void request_answered(struct http_request *request);
void request_unwatch(struct http_request *request);
/* NULL: it cannot be watched. */
struct http_watch *watch_open(struct http_connection *connection, int events,
                              void (*cb)(void *data), void *data);
void watch_close(struct http_watch **watch); /* *watch may be NULL, and is afterwards */
/* A loop object of the server is gone; the last one frees it. */
void server_handle_closed(struct http_server *server);
/* Libmicrohttpd has something to do. */
void server_readable(struct http_listener *listener);

/* Something of the body has come: there is time for more. */
void connection_progress(struct http_connection *connection);
/* server.c: the stream of an answer has nothing to send. Called while libmicrohttpd asks for it. */
void request_sleep(struct http_request *request);

/* Has libmicrohttpd look at the connection in the next turn. */
void connection_kick(struct http_connection *connection);
void connection_resume(struct http_connection *connection);

/* body_file.c */
/* Headers are there: opens the file, unless the route has answered or refuses. */
int body_file_begin(struct http_request *request, uint64_t n, struct blix_error *err);
/* May suspend the connection. */
void body_file_write(struct http_request *request, const char *data, size_t n);
/* All has come. False: it is not on the disk yet; the connection is suspended until it is. */
bool body_file_end(struct http_request *request);
/* The server closes: a connection that is suspended for it is looked at again. */
void body_file_cut(struct http_request *request);
void body_file_free(struct http_request *request);

/* upgrade.c */
/* The request is freed before its upgrade began. */
void upgrade_missed(struct http_request *request);
/* The server closes. */
void upgrade_cut(struct http_connection *connection);

/* listener.c */
/* The callbacks of libmicrohttpd, with a listener as their data; server.c has them. */
struct http_callbacks {
	MHD_AccessHandlerCallback request;
	void *(*uri)(void *data, const char *uri, struct MHD_Connection *mhd);
	MHD_RequestCompletedCallback completed;
};
/* Takes the descriptor, also when it fails. */
int listener_open(struct http_server *server, int fd, struct tls_credentials *tls,
                  const struct http_callbacks *callbacks, struct blix_error *err);
/* After the last run: ends all connections that are left. Freed by its poll's close. */
void listener_stop(struct http_listener *listener);
struct http_connection *connection_of(struct MHD_Connection *mhd);
/* The handshake is over: who it is, and whether there are too many of it. */
void connection_identify(struct http_connection *connection);
/* The server closes. */
void handshake_cut(struct http_connection *connection);
void deadline_set(struct http_connection *connection, struct http_deadlines *list);
void deadline_clear(struct http_connection *connection);

/* listen.c */
int listen_unix(const struct http_config *config, int *ret_fd, struct blix_error *err);
int listen_tcp(const char *address, int *ret_fd, unsigned *ret_port, struct blix_error *err);

#endif
