/* HTTP requests over Unix sockets, and over TLS, on a uv loop, by one curl multi handle per pool.
 * Connections are kept and used again.
 *
 * Over TLS both ends prove themselves: we by the pool's certificate, the other end by one of the
 * same CA for exactly the name that was asked for, whatever its address. Nothing else is believed:
 * no CA of the system, no proxy, no .netrc, no redirection. The files of fetch_pool_tls() are read
 * for each new connection, so that replacing them needs no word to the pool.
 *
 * What the caller may conclude from a failure:
 *   -BLIX_E_UNAVAILABLE  nothing was sent (no socket, nobody listens, queue full, not who it
 *                        should be): definite
 *   -BLIX_E_TIMEOUT      the deadline passed; nothing was sent, or it was a GET: definite
 *   -BLIX_E_UNKNOWN      it was sent, or part of it, and no whole answer came: it may have happened
 *   -BLIX_E_TOOBIG       an answer came and is larger than answer_max: it did happen
 * An answer is whole when its own headers say where it ends and it came so far.
 * A request other than GET is sent at most once: curl's own second try, on a connection that died
 * under the first, is not let through once bytes of it were written.
 */
#ifndef BLIX_CURL_FETCH_H
#define BLIX_CURL_FETCH_H

#include "base/buf.h"
#include "base/error.h"

#include <uv.h>

struct fetch_pool;
struct fetch;

int fetch_pool_open(uv_loop_t *loop, struct fetch_pool **ret, struct blix_error *err);
/* The PEM files for all addresses that are no Unix sockets. */
struct fetch_tls {
	const char *ca, *cert, *key; /* cert NULL: none is shown */
};
void fetch_pool_tls(struct fetch_pool *pool, const struct fetch_tls *files);
/* At the next turn those under way answer (UNKNOWN if sent, else UNAVAILABLE), then all is freed
 * and cb, which may be NULL, is called. May be called from a fetch_cb. Nothing new is started. */
void fetch_pool_close(struct fetch_pool *pool, void (*cb)(void *data), void *data);

struct fetch_options {
	const char *address;     /* the path of a Unix socket, or HOST:PORT for TLS */
	const char *server_name; /* what the certificate at HOST:PORT must be for */
	const char *method;      /* NULL: GET */
	const char *path;        /* with its query, already percent-encoded */
	const void *body;        /* copied; NULL: none */
	size_t n;
	const char *content_type;   /* of the body; NULL: application/json */
	const char *const *headers; /* "Name: value", NULL-terminated; NULL: none */
	unsigned deadline_ms;       /* from now to the last byte; 0: none */
	size_t answer_max;          /* 0: LIMIT_ANSWER */
	/* An answer's header with this name ("Blix-Offset:") and a number: written to *ret_number,
	 * which stays valid until cb or the cancel. NULL: none. */
	const char *number_header;
	uint64_t *ret_number;
	/* The body of an answer of 200 is given away in pieces instead of being kept: 0 to go on, 1
	 * to get this piece again after fetch_resume(), negative to end it (TOOBIG). NULL: it is
	 * kept.
	 */
	int (*piece)(void *data, const char *bytes, size_t n);
	void *piece_data;
};

/* Success: (0, http status, body, its type or NULL). The body may be taken with buf_take, else it
 * is freed after the call. Failure: (-BLIX_E_x, 0, empty, NULL). The handle is gone either way. */
typedef void (*fetch_cb)(void *data, int status, int http_status, struct buf *answer,
                         const char *content_type);

/* -BLIX_E_INVALID for a path, address or header with bytes that cannot stand there, or TLS without
 * files, -BLIX_E_BUSY past
 * LIMIT_FETCHES, -BLIX_E_UNAVAILABLE when the pool closes; else cb is called later, never from
 * here, exactly once unless cancelled. ret_handle may be NULL. */
int fetch_start(struct fetch_pool *pool, const struct fetch_options *options, fetch_cb cb,
                void *data, struct fetch **ret_handle, struct blix_error *err);
/* After piece() said 1; the piece comes from the loop or from here. */
void fetch_resume(struct fetch *fetch);
/* cb is not called; whether the request had an effect stays unknown. */
void fetch_cancel(struct fetch *fetch);

#endif
