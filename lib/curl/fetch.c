/* The curl multi handle on the loop.
 *
 * Happy path: fetch_start adds an easy handle; curl asks by on_socket for a watched socket and by
 * on_timeout for a timer; their events go into curl_multi_socket_action, after which pool_reap
 * hands finished transfers to their callbacks. An easy handle in flight is owned by its struct
 * fetch, which is in the pool's list.
 *
 * Failure is told apart by what curl counted as sent (see outcome).
 */
#include "curl/fetch.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"

#include <assert.h>
#include <curl/curl.h>
#include <stdio.h>
#include <sys/socket.h>

#define POOL_CONNECTIONS 16 /* kept open when idle */
/* A Unix socket connects at once, or its queue is full: curl then waits for nothing to happen. */
#define CONNECT_MS    1000L
#define HANDSHAKE_MS  3000L /* from the first packet to the end of the TLS handshake */
#define KEEPALIVE_S   15L   /* idle before a peer that vanished is looked for */
#define RECEIVE_BYTES (64L << 10)
#define HOST_BYTES    "abcdefghijklmnopqrstuvwxyz0123456789-."

struct fetch {
	struct fetch_pool *pool;
	struct fetch *next, *prev;
	CURL *easy;
	struct curl_slist *headers;
	struct curl_slist *connect_to; /* the address behind a server's name */
	fetch_cb cb;
	void *data;
	struct buf answer;
	const char *number_header;
	uint64_t *ret_number;
	int (*piece)(void *data, const char *bytes, size_t n);
	void *piece_data;
	bool repeatable;
	bool too_big;
	bool head_whole; /* the empty line after the headers came */
	bool framed;     /* the headers tell where the body ends */
};

struct fetch_pool {
	uv_loop_t *loop;
	CURLM *multi;
	uv_timer_t timer;
	char *ca, *cert, *key; /* files; NULL: no TLS */
	struct fetch *fetches;
	unsigned n;
	unsigned handles;
	bool closing;
	void (*closed)(void *data);
	void *closed_data;
};

/* One per socket that curl wants watched. */
struct fetch_socket {
	uv_poll_t poll;
	struct fetch_pool *pool;
	curl_socket_t fd;
	int events;
};

static void pool_reap(struct fetch_pool *pool);
static void pool_stop(struct fetch_pool *pool);

static void handle_closed(struct fetch_pool *pool)
{
	void (*cb)(void *data) = pool->closed;
	void *data = pool->closed_data;

	assert(pool->handles > 0);
	if (--pool->handles > 0)
		return;
	free(pool->ca);
	free(pool->cert);
	free(pool->key);
	free(pool);
	if (cb != NULL)
		cb(data);
}

static void on_timer_closed(uv_handle_t *handle)
{
	handle_closed(handle->data);
}

static void on_socket_closed(uv_handle_t *handle)
{
	struct fetch_socket *watched = container_of((uv_poll_t *)handle, struct fetch_socket, poll);
	struct fetch_pool *pool = watched->pool;

	free(watched);
	handle_closed(pool);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
	struct fetch_socket *watched = container_of(poll, struct fetch_socket, poll);
	struct fetch_pool *pool = watched->pool;
	int flags = 0;
	int running;

	if (pool->closing)
		return;
	if (status < 0) {
		/* The other side hung up, perhaps after an early answer: curl shall read that, and
		 * then meets the error itself. uv has stopped watching. */
		flags = CURL_CSELECT_IN;
		(void)uv_poll_start(poll, watched->events, on_event);
	}
	if (events & UV_READABLE)
		flags |= CURL_CSELECT_IN;
	if (events & UV_WRITABLE)
		flags |= CURL_CSELECT_OUT;
	(void)curl_multi_socket_action(pool->multi, watched->fd, flags, &running);
	pool_reap(pool);
}

static struct fetch_socket *socket_watch(struct fetch_pool *pool, curl_socket_t fd)
{
	struct fetch_socket *watched = xcalloc(1, sizeof(*watched));

	watched->pool = pool;
	watched->fd = fd;
	if (uv_poll_init_socket(pool->loop, &watched->poll, fd) < 0) {
		free(watched);
		return NULL;
	}
	pool->handles++;
	(void)curl_multi_assign(pool->multi, fd, watched);
	return watched;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *socket_data)
{
	struct fetch_pool *pool = data;
	struct fetch_socket *watched = socket_data;

	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		if (watched != NULL) {
			(void)curl_multi_assign(pool->multi, fd, NULL);
			uv_close((uv_handle_t *)&watched->poll, on_socket_closed);
		}
		return 0;
	}
	if (watched == NULL)
		watched = socket_watch(pool, fd);
	if (watched == NULL)
		return -1;
	watched->events = ((what & CURL_POLL_IN) ? UV_READABLE : 0) |
	                  ((what & CURL_POLL_OUT) ? UV_WRITABLE : 0);
	(void)uv_poll_start(&watched->poll, watched->events, on_event);
	return 0;
}

static void on_timer(uv_timer_t *timer)
{
	struct fetch_pool *pool = timer->data;
	int running;

	if (pool->closing) {
		pool_stop(pool);
		return;
	}
	(void)curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	pool_reap(pool);
}

static int on_timeout(CURLM *multi, long timeout_ms, void *data)
{
	struct fetch_pool *pool = data;

	(void)multi;
	if (pool->closing)
		return 0;
	if (timeout_ms < 0)
		(void)uv_timer_stop(&pool->timer);
	else
		(void)uv_timer_start(&pool->timer, on_timer, (uint64_t)timeout_ms, 0);
	return 0;
}

/* Children must not inherit the sockets. */
static curl_socket_t on_open_socket(void *data, curlsocktype purpose, struct curl_sockaddr *address)
{
	(void)data;
	(void)purpose;
	return socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
	              address->protocol);
}

static bool begins(const char *line, size_t n, const char *word)
{
	size_t length = strlen(word);

	return n >= length && strncasecmp(line, word, length) == 0;
}

static void take_number(const struct fetch *fetch, const char *line, size_t n)
{
	size_t skip = strlen(fetch->number_header);
	cleanup(freep) char *text = NULL;

	while (n > skip && strchr("\r\n ", line[n - 1]) != NULL)
		n--;
	while (skip < n && line[skip] == ' ')
		skip++;
	text = xstrndup(line + skip, n - skip);
	(void)parse_u64(text, fetch->ret_number, NULL);
}

/* Curl takes a connection that ends among the headers, or anywhere in a body of unknown length, for
 * a good answer: what came is whole only if it says so itself. */
static size_t on_header(char *line, size_t size, size_t n, void *data)
{
	struct fetch *fetch = data;

	n *= size;
	if (begins(line, n, "HTTP/"))
		fetch->head_whole = fetch->framed = false;
	else if (begins(line, n, "Content-Length:") || begins(line, n, "Transfer-Encoding:"))
		fetch->framed = true;
	else if (n == 0 || line[0] == '\r' || line[0] == '\n')
		fetch->head_whole = true;
	else if (fetch->number_header != NULL && begins(line, n, fetch->number_header))
		take_number(fetch, line, n);
	return n;
}

static size_t give(struct fetch *fetch, const char *bytes, size_t n)
{
	int r = fetch->piece(fetch->piece_data, bytes, n);

	if (r > 0)
		return CURL_WRITEFUNC_PAUSE;
	fetch->too_big = r < 0;
	return r < 0 ? 0 : n;
}

static size_t on_data(char *bytes, size_t size, size_t n, void *data)
{
	struct fetch *fetch = data;
	long status = 0;

	if (fetch->piece != NULL)
		(void)curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status == 200)
		return give(fetch, bytes, size * n);
	if (buf_add(&fetch->answer, bytes, size * n) < 0) {
		fetch->too_big = true;
		return 0;
	}
	return size * n;
}

static bool was_sent(const struct fetch *fetch)
{
	long bytes = 0;

	(void)curl_easy_getinfo(fetch->easy, CURLINFO_REQUEST_SIZE, &bytes);
	return bytes > 0;
}

/* Called before each try on a connection. */
static int on_before_request(void *data, char *remote_ip, char *local_ip, int remote_port,
                             int local_port)
{
	const struct fetch *fetch = data;

	(void)remote_ip;
	(void)local_ip;
	(void)remote_port;
	(void)local_port;
	return was_sent(fetch) && !fetch->repeatable ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

static void fetch_free(struct fetch *fetch)
{
	struct fetch_pool *pool = fetch->pool;

	if (fetch->prev != NULL)
		fetch->prev->next = fetch->next;
	else
		pool->fetches = fetch->next;
	if (fetch->next != NULL)
		fetch->next->prev = fetch->prev;
	pool->n--;
	(void)curl_multi_remove_handle(pool->multi, fetch->easy);
	curl_easy_cleanup(fetch->easy);
	curl_slist_free_all(fetch->headers);
	curl_slist_free_all(fetch->connect_to);
	buf_done(&fetch->answer);
	free(fetch);
}

static bool is_whole(const struct fetch *fetch)
{
	long status = 0;

	(void)curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
	return fetch->head_whole && (fetch->framed || status == 204 || status == 304);
}

static int outcome(const struct fetch *fetch, CURLcode result)
{
	curl_off_t connected_us = 0;

	if (fetch->too_big || result == CURLE_FILESIZE_EXCEEDED)
		return -(int)BLIX_E_TOOBIG;
	if (result == CURLE_OK && is_whole(fetch))
		return 0;
	(void)curl_easy_getinfo(fetch->easy, CURLINFO_CONNECT_TIME_T, &connected_us);
	if (result == CURLE_OPERATION_TIMEDOUT && connected_us > 0 &&
	    (fetch->repeatable || !was_sent(fetch)))
		return -(int)BLIX_E_TIMEOUT;
	return was_sent(fetch) ? -(int)BLIX_E_UNKNOWN : -(int)BLIX_E_UNAVAILABLE;
}

/* Frees the fetch, then tells its owner. */
static void fetch_finish(struct fetch *fetch, CURLcode result)
{
	cleanup(buf_done) struct buf answer = {0};
	cleanup(freep) char *type = NULL;
	const char *text = NULL;
	int status = outcome(fetch, result);
	long http_status = 0;
	fetch_cb cb = fetch->cb;
	void *data = fetch->data;

	if (status == 0) {
		(void)curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &http_status);
		(void)curl_easy_getinfo(fetch->easy, CURLINFO_CONTENT_TYPE, &text);
		type = text != NULL ? xstrdup(text) : NULL;
		answer = fetch->answer;
		buf_init(&fetch->answer, 0);
	}
	fetch_free(fetch);
	cb(data, status, (int)http_status, &answer, type);
}

static void pool_reap(struct fetch_pool *pool)
{
	CURLMsg *message;
	struct fetch *fetch;
	int left;

	while (!pool->closing && (message = curl_multi_info_read(pool->multi, &left)) != NULL) {
		fetch = NULL;
		if (message->msg != CURLMSG_DONE)
			continue;
		(void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &fetch);
		fetch_finish(fetch, message->data.result);
	}
}

static void pool_stop(struct fetch_pool *pool)
{
	struct fetch *fetch;

	while ((fetch = pool->fetches) != NULL) {
		assert(fetch->prev == NULL);
		fetch_finish(fetch, CURLE_ABORTED_BY_CALLBACK);
	}
	(void)curl_multi_cleanup(pool->multi);
	curl_global_cleanup();
	uv_close((uv_handle_t *)&pool->timer, on_timer_closed);
}

int fetch_pool_open(uv_loop_t *loop, struct fetch_pool **ret, struct blix_error *err)
{
	cleanup(freep) struct fetch_pool *pool = xcalloc(1, sizeof(*pool));
	CURLM *multi;

	if (curl_global_init(CURL_GLOBAL_SSL) != CURLE_OK)
		return blix_fail(err, BLIX_E_INTERNAL, "start libcurl");
	multi = curl_multi_init();
	if (multi == NULL) {
		curl_global_cleanup();
		return blix_fail(err, BLIX_E_NOMEM, "start libcurl");
	}
	pool->loop = loop;
	pool->multi = multi;
	pool->handles = 1;
	(void)uv_timer_init(loop, &pool->timer);
	pool->timer.data = pool;
	(void)curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	(void)curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, pool);
	(void)curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timeout);
	(void)curl_multi_setopt(multi, CURLMOPT_TIMERDATA, pool);
	(void)curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)POOL_CONNECTIONS);
	*ret = take(pool);
	return 0;
}

void fetch_pool_tls(struct fetch_pool *pool, const struct fetch_tls *files)
{
	bool known = files->cert != NULL;

	xreplace(&pool->ca, files->ca);
	xreplace(&pool->cert, known ? files->cert : "");
	xreplace(&pool->key, known ? files->key : "");
}

void fetch_pool_close(struct fetch_pool *pool, void (*cb)(void *data), void *data)
{
	assert(!pool->closing);
	pool->closing = true;
	pool->closed = cb;
	pool->closed_data = data;
	(void)uv_timer_start(&pool->timer, on_timer, 0, 0);
}

/* No byte that would end a line or a word: what follows would be read as something else. */
static bool is_clean(const char *text, bool spaces)
{
	for (; *text != '\0'; text++) {
		if ((unsigned char)*text < 0x20 || *text == 0x7f || (*text == ' ' && !spaces))
			return false;
	}
	return true;
}

static bool is_unix(const struct fetch_options *options)
{
	return options->address[0] == '/';
}

static int address_check(const struct fetch_pool *pool, const struct fetch_options *options,
                         struct blix_error *err)
{
	char host[PARSE_HOST];
	uint16_t port;
	int r;

	if (is_unix(options) && strlen(options->address) >= 108)
		return blix_fail(err, BLIX_E_INVALID, "socket path \"%s\" is too long",
		                 options->address);
	if (is_unix(options))
		return 0;
	r = parse_address(options->address, host, &port, err);
	if (r == 0 && (host[0] == '\0' || port == 0))
		r = blix_fail(err, BLIX_E_INVALID, "address \"%s\" has no host or no port",
		              options->address);
	if (r == 0 && (options->server_name == NULL ||
	               strspn(options->server_name, HOST_BYTES) != strlen(options->server_name)))
		r = blix_fail(err, BLIX_E_INVALID, "the name of the server is not valid");
	if (r == 0 && pool->ca == NULL)
		r = blix_fail(err, BLIX_E_INVALID, "there are no certificates to reach %s with",
		              options->address);
	return r;
}

static int options_check(const struct fetch_pool *pool, const struct fetch_options *options,
                         struct blix_error *err)
{
	if (pool->closing)
		return blix_fail(err, BLIX_E_UNAVAILABLE, "the daemon is stopping");
	if (pool->n >= LIMIT_FETCHES)
		return blix_fail(err, BLIX_E_BUSY, "more than %u requests under way",
		                 LIMIT_FETCHES);
	if (options->path[0] != '/' || !is_clean(options->path, false))
		return blix_fail(err, BLIX_E_INVALID, "path \"%s\" is not valid", options->path);
	for (const char *const *h = options->headers; h != NULL && *h != NULL; h++) {
		if (!is_clean(*h, true) || strchr(*h, ':') == NULL)
			return blix_fail(err, BLIX_E_INVALID, "header \"%s\" is not valid", *h);
	}
	return address_check(pool, options, err);
}

static struct curl_slist *list_add(struct curl_slist *list, const char *line)
{
	struct curl_slist *grown = curl_slist_append(list, line);

	if (grown == NULL)
		abort();
	return grown;
}

static void header_add(struct fetch *fetch, const char *line)
{
	fetch->headers = list_add(fetch->headers, line);
}

static void headers_set(struct fetch *fetch, const struct fetch_options *options)
{
	cleanup(freep) char *type = NULL;

	/* Off: it costs a round trip, and the server refuses by the headers anyway. */
	header_add(fetch, "Expect:");
	if (options->body != NULL) {
		type = xasprintf("Content-Type: %s", options->content_type != NULL
		                                             ? options->content_type
		                                             : "application/json");
		header_add(fetch, type);
	}
	for (const char *const *h = options->headers; h != NULL && *h != NULL; h++)
		header_add(fetch, *h);
	(void)curl_easy_setopt(fetch->easy, CURLOPT_HTTPHEADER, fetch->headers);
}

/* Nothing from the environment, nowhere but where it was sent. */
static void easy_secure(CURL *easy)
{
	(void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	(void)curl_easy_setopt(easy, CURLOPT_PROXY, "");
	(void)curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	(void)curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	(void)curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	(void)curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
	(void)curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
}

static void easy_unix(CURL *easy, const struct fetch_options *options)
{
	cleanup(freep) char *url = xasprintf("http://localhost%s", options->path);

	(void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
	(void)curl_easy_setopt(easy, CURLOPT_URL, url);
	(void)curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, options->address);
	(void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
}

/* The URL has the name that is proved, CONNECT_TO the address; a session is never resumed, which
 * would leave out the proofs. */
static void easy_tls(struct fetch *fetch, const struct fetch_options *options)
{
	const char *port = strrchr(options->address, ':') + 1;
	cleanup(freep) char *url =
		xasprintf("https://%s:%s%s", options->server_name, port, options->path);
	cleanup(freep) char *to = xasprintf("::%s", options->address);
	const struct fetch_pool *pool = fetch->pool;
	CURL *easy = fetch->easy;

	fetch->connect_to = list_add(NULL, to);
	(void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
	(void)curl_easy_setopt(easy, CURLOPT_URL, url);
	(void)curl_easy_setopt(easy, CURLOPT_CONNECT_TO, fetch->connect_to);
	(void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, HANDSHAKE_MS);
	(void)curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
	(void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	(void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	(void)curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
	(void)curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	(void)curl_easy_setopt(easy, CURLOPT_CAINFO, pool->ca);
	if (pool->cert[0] != '\0') {
		(void)curl_easy_setopt(easy, CURLOPT_SSLCERT, pool->cert);
		(void)curl_easy_setopt(easy, CURLOPT_SSLKEY, pool->key);
	}
	(void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	(void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, KEEPALIVE_S);
	(void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, KEEPALIVE_S);
}

static void easy_set(struct fetch *fetch, const struct fetch_options *options)
{
	CURL *easy = fetch->easy;

	easy_secure(easy);
	if (is_unix(options))
		easy_unix(easy, options);
	else
		easy_tls(fetch, options);
	headers_set(fetch, options);
	(void)curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
	(void)curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)options->deadline_ms);
	(void)curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
	(void)curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)fetch->answer.cap);
	(void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_data);
	(void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
	(void)curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	(void)curl_easy_setopt(easy, CURLOPT_HEADERDATA, fetch);
	(void)curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_before_request);
	(void)curl_easy_setopt(easy, CURLOPT_PREREQDATA, fetch);
	if (options->body != NULL) {
		(void)curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)options->n);
		(void)curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, options->body);
	}
	(void)curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST,
	                       options->method != NULL ? options->method : "GET");
}

int fetch_start(struct fetch_pool *pool, const struct fetch_options *options, fetch_cb cb,
                void *data, struct fetch **ret_handle, struct blix_error *err)
{
	struct fetch *fetch;
	CURL *easy;
	int r = options_check(pool, options, err);

	if (r < 0)
		return r;
	easy = curl_easy_init();
	if (easy == NULL)
		return blix_fail(err, BLIX_E_NOMEM, "start a request");
	fetch = xcalloc(1, sizeof(*fetch));
	fetch->pool = pool;
	fetch->easy = easy;
	fetch->cb = cb;
	fetch->data = data;
	fetch->number_header = options->number_header;
	fetch->ret_number = options->ret_number;
	fetch->piece = options->piece;
	fetch->piece_data = options->piece_data;
	fetch->repeatable = options->method == NULL || strcmp(options->method, "GET") == 0;
	buf_init(&fetch->answer, options->answer_max > 0 ? options->answer_max : LIMIT_ANSWER);
	easy_set(fetch, options);
	fetch->next = pool->fetches;
	if (fetch->next != NULL)
		fetch->next->prev = fetch;
	pool->fetches = fetch;
	pool->n++;
	(void)curl_multi_add_handle(pool->multi, easy);
	if (ret_handle != NULL)
		*ret_handle = fetch;
	return 0;
}

void fetch_resume(struct fetch *fetch)
{
	(void)curl_easy_pause(fetch->easy, CURLPAUSE_CONT);
}

void fetch_cancel(struct fetch *fetch)
{
	fetch_free(fetch);
}
