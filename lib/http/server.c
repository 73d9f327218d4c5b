/* The server on the loop: one libmicrohttpd a socket, without a thread, its epoll descriptor in a
 * uv_poll (listener.c).
 *
 * Happy path: libmicrohttpd calls on_uri (request line), then on_request (headers, body pieces,
 * end); at the end the handler runs. If it did not answer, the connection is suspended, and
 * request_answered() resumes it for the next turn, where on_request is called again to queue the
 * response. on_completed frees the request, whatever became of it.
 *
 * Time: one timer, armed after each run for the soonest of libmicrohttpd's own timeout and our
 * deadlines; with nothing connected it is not armed. Connections past a deadline are shut down, and
 * libmicrohttpd sees their end.
 *
 * Libmicrohttpd looks away from suspended connections, so a uv_poll of their socket waits for the
 * client to go (http_watch).
 */
#include "http/request.h"

#include "base/alloc.h"
#include "base/limits.h"

#include <assert.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* Turns given to answers that the closing of the server made. */
#define LAST_RUNS 8

static void on_timer(uv_timer_t *timer);
static void on_soon(uv_idle_t *soon);

/* Not a timer of 0 ms: one that is set again in its own callback never lets the loop go on. */
static void server_soon(struct http_server *server)
{
	(void)uv_idle_start(&server->soon, on_soon);
}

void deadline_clear(struct http_connection *connection)
{
	struct http_deadlines *list = connection->deadlines;

	if (list == NULL)
		return;
	if (connection->sooner != NULL)
		connection->sooner->later = connection->later;
	else
		list->first = connection->later;
	if (connection->later != NULL)
		connection->later->sooner = connection->sooner;
	else
		list->last = connection->sooner;
	connection->deadlines = NULL;
	connection->sooner = connection->later = NULL;
}

void deadline_set(struct http_connection *connection, struct http_deadlines *list)
{
	deadline_clear(connection);
	connection->deadlines = list;
	connection->deadline_ms = uv_now(connection->server->loop) + list->wait_ms;
	connection->sooner = list->last;
	if (list->last != NULL)
		list->last->later = connection;
	else
		list->first = connection;
	list->last = connection;
}

static void deadlines_expire(struct http_server *server, struct http_deadlines *list)
{
	struct http_connection *connection;
	uint64_t now = uv_now(server->loop);

	for (connection = list->first; connection != NULL && connection->deadline_ms <= now;
	     connection = list->first) {
		deadline_clear(connection);
		(void)shutdown(connection->fd, SHUT_RDWR);
	}
}

static void *on_uri(void *data, const char *uri, struct MHD_Connection *mhd)
{
	struct http_connection *connection = connection_of(mhd);

	(void)data;
	assert(connection->request == NULL);
	connection_identify(connection);
	connection->request = request_open(connection, uri);
	deadline_set(connection, &connection->server->receive);
	return connection->request;
}

static void on_completed(void *data, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode code)
{
	struct http_connection *connection = connection_of(mhd);

	(void)data;
	(void)code;
	request_free(connection->request);
	connection->request = NULL;
	*context = NULL;
	deadline_set(connection, &connection->server->idle);
}

static void request_watch(struct http_request *request);

static enum MHD_Result queue(struct http_request *request)
{
	if (request->queued)
		return MHD_YES;
	request->queued = true;
	return MHD_queue_response(request->connection->mhd, request->status, request->response);
}

/* The request is whole: lets its handler answer, or suspends the connection. */
static enum MHD_Result request_handle(struct http_request *request)
{
	struct http_server *server = request->connection->server;

	request->state = HTTP_HANDLING;
	request->route->handler(request, server->config.data);
	if (request->state == HTTP_ANSWERED)
		return queue(request);
	assert(request->cancel != NULL);
	request->state = HTTP_WAITING;
	MHD_suspend_connection(request->connection->mhd);
	request_watch(request);
	return MHD_YES;
}

static enum MHD_Result on_request(void *data, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *body,
                                  size_t *n, void **context)
{
	struct http_request *request = *context;
	int r;

	(void)data;
	(void)mhd;
	(void)url;
	(void)version;
	if (!request->begun)
		return request_begin(request, method) ? MHD_YES : queue(request);
	if (*n > 0) {
		r = request_body(request, body, *n);
		*n = 0;
		return r < 0 ? MHD_NO : MHD_YES;
	}
	if (request->file != NULL && !body_file_end(request))
		return MHD_YES;
	deadline_clear(request->connection);
	if (request->state == HTTP_RECEIVING)
		return request_handle(request);
	return request->state == HTTP_ANSWERED ? queue(request) : MHD_NO;
}

void connection_progress(struct http_connection *connection)
{
	deadline_set(connection, &connection->server->receive);
}

/* Libmicrohttpd looks at a resumed connection at its next run and has no means to ask for one. */
void connection_kick(struct http_connection *connection)
{
	struct http_server *server = connection->server;

	server_soon(server);
}

void connection_resume(struct http_connection *connection)
{
	MHD_resume_connection(connection->mhd);
	connection_kick(connection);
}

void request_sleep(struct http_request *request)
{
	request->asleep = true;
	MHD_suspend_connection(request->connection->mhd);
	request_watch(request);
}

void http_stream_wake(struct http_request *request)
{
	if (!request->asleep)
		return;
	request->asleep = false;
	request_unwatch(request);
	connection_resume(request->connection);
}

void request_answered(struct http_request *request)
{
	bool waited = request->state == HTTP_WAITING;

	request->state = HTTP_ANSWERED;
	request->cancel = NULL;
	request_unwatch(request);
	if (waited)
		connection_resume(request->connection);
}

static void server_free(struct http_server *server)
{
	void (*cb)(void *data) = server->closed;
	void *data = server->closed_data;

	free(server);
	if (cb != NULL)
		cb(data);
}

static void handle_closed(struct http_server *server)
{
	assert(server->handles > 0);
	if (--server->handles == 0)
		server_free(server);
}

void server_handle_closed(struct http_server *server)
{
	handle_closed(server);
}

static void on_handle_closed(uv_handle_t *handle)
{
	handle_closed(handle->data);
}

static void on_watch_closed(uv_handle_t *handle)
{
	struct http_watch *watch = container_of((uv_poll_t *)handle, struct http_watch, poll);
	struct http_server *server = watch->server;

	free(watch);
	handle_closed(server);
}

static void on_watched(uv_poll_t *poll, int status, int events)
{
	struct http_watch *watch = container_of(poll, struct http_watch, poll);

	if (status != 0 || (events & watch->events) != 0)
		watch->cb(watch->data);
}

struct http_watch *watch_open(struct http_connection *connection, int events,
                              void (*cb)(void *data), void *data)
{
	struct http_server *server = connection->server;
	struct http_watch *watch = xcalloc(1, sizeof(*watch));

	watch->server = server;
	watch->events = events;
	watch->cb = cb;
	watch->data = data;
	if (uv_poll_init(server->loop, &watch->poll, connection->fd) < 0) {
		free(watch);
		return NULL;
	}
	server->handles++;
	(void)uv_poll_start(&watch->poll, events, on_watched);
	return watch;
}

void watch_close(struct http_watch **watch)
{
	if (*watch != NULL)
		uv_close((uv_handle_t *)&(*watch)->poll, on_watch_closed);
	*watch = NULL;
}

void request_unwatch(struct http_request *request)
{
	watch_close(&request->watch);
}

/* The client is gone, or the server closes: the owner hears of it once. */
static void request_cancel(struct http_request *request)
{
	void (*cb)(void *data) = request->cancel;
	void *data = request->cancel_data;

	request->cancel = NULL;
	if (cb != NULL)
		cb(data);
}

static void request_gone(void *data)
{
	struct http_request *request = data;

	if (request->asleep) {
		request->gone = true;
		http_stream_wake(request);
		return;
	}
	request_unwatch(request);
	request->state = HTTP_CANCELLED;
	connection_resume(request->connection);
	request_cancel(request);
}

/* Without a watch the request is still answered, only not cancelled early. */
static void request_watch(struct http_request *request)
{
	request->watch = watch_open(request->connection, UV_DISCONNECT, request_gone, request);
}

static uint64_t sooner_of(uint64_t due_ms, const struct http_deadlines *list)
{
	if (list->first == NULL || list->first->deadline_ms >= due_ms)
		return due_ms;
	return list->first->deadline_ms;
}

static void timer_arm(struct http_server *server)
{
	uint64_t now = uv_now(server->loop);
	uint64_t due_ms = UINT64_MAX;
	MHD_UNSIGNED_LONG_LONG wait_ms = 0;

	for (const struct http_listener *l = server->listeners; l != NULL; l = l->next) {
		if (MHD_get_timeout(l->daemon, &wait_ms) == MHD_YES && now + wait_ms < due_ms)
			due_ms = now + wait_ms;
	}
	due_ms = sooner_of(due_ms, &server->idle);
	due_ms = sooner_of(due_ms, &server->receive);
	if (server->run_again || server->more_turns > 0 || due_ms <= now)
		server_soon(server);
	server->run_again = false;
	if (due_ms == UINT64_MAX)
		(void)uv_timer_stop(&server->timer);
	else if (due_ms > now)
		(void)uv_timer_start(&server->timer, on_timer, due_ms - now, 0);
}

/* Removes the socket file if it is still ours. */
static void socket_remove(struct http_server *server)
{
	struct stat st;

	if (lstat(server->config.socket_path, &st) == 0 && st.st_dev == server->socket_dev &&
	    st.st_ino == server->socket_ino)
		(void)unlink(server->config.socket_path);
}

static void cancel_waiting(struct http_server *server)
{
	struct blix_error err;
	struct http_request *request;

	(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the daemon is stopping");
	for (struct http_connection *c = server->connections; c != NULL; c = c->next) {
		upgrade_cut(c);
		handshake_cut(c);
		request = c->request;
		if (request != NULL) {
			body_file_cut(request);
			http_stream_wake(request);
		}
		if (request == NULL || request->state != HTTP_WAITING)
			continue;
		request_cancel(request);
		http_answer_error(request, &err, NULL);
	}
}

/* Answers that the closing has made leave, as far as their clients take them now. */
static void listener_finish(struct http_listener *listener)
{
	MHD_UNSIGNED_LONG_LONG wait_ms = 0;

	for (unsigned i = 0; i < LAST_RUNS; i++) {
		(void)MHD_run(listener->daemon);
		if (MHD_get_timeout(listener->daemon, &wait_ms) != MHD_YES || wait_ms > 0)
			break;
	}
	listener_stop(listener);
}

static void server_stop(struct http_server *server)
{
	for (const struct http_listener *l = server->listeners; l != NULL; l = l->next)
		(void)MHD_quiesce_daemon(l->daemon);
	socket_remove(server);
	cancel_waiting(server);
	for (struct http_listener *next, *l = server->listeners; l != NULL; l = next) {
		next = l->next;
		listener_finish(l);
	}
	server->listeners = NULL;
	assert(server->n_connections == 0);
	uv_close((uv_handle_t *)&server->timer, on_handle_closed);
	uv_close((uv_handle_t *)&server->soon, on_handle_closed);
}

static void server_turn(struct http_server *server)
{
	if (server->closing) {
		server_stop(server);
		return;
	}
	server->more_turns -= server->more_turns > 0;
	deadlines_expire(server, &server->receive);
	deadlines_expire(server, &server->idle);
	for (struct http_listener *l = server->listeners; l != NULL; l = l->next)
		(void)MHD_run(l->daemon);
	timer_arm(server);
}

static void on_timer(uv_timer_t *timer)
{
	server_turn(timer->data);
}

static void on_soon(uv_idle_t *soon)
{
	(void)uv_idle_stop(soon);
	server_turn(soon->data);
}

void server_readable(struct http_listener *listener)
{
	struct http_server *server = listener->server;

	if (server->closing)
		return;
	(void)MHD_run(listener->daemon);
	timer_arm(server);
}

static void config_defaults(struct http_config *config)
{
	if (config->connections_max == 0)
		config->connections_max = LIMIT_CONNECTIONS;
	if (config->receive_ms == 0)
		config->receive_ms = LIMIT_HTTP_RECEIVE;
	if (config->idle_ms == 0)
		config->idle_ms = LIMIT_HTTP_IDLE;
}

static const struct http_callbacks callbacks = {on_request, on_uri, on_completed};

int http_server_open(uv_loop_t *loop, const struct http_config *config, struct http_server **ret,
                     struct blix_error *err)
{
	cleanup(freep) struct http_server *server = xcalloc(1, sizeof(*server));
	struct stat st = {0};
	int fd = -1;
	int r;

	server->loop = loop;
	server->config = *config;
	config_defaults(&server->config);
	server->idle.wait_ms = server->config.idle_ms;
	server->receive.wait_ms = server->config.receive_ms;
	r = listen_unix(config, &fd, err);
	if (r < 0)
		return r;
	if (lstat(config->socket_path, &st) == 0) {
		server->socket_dev = st.st_dev;
		server->socket_ino = st.st_ino;
	}
	r = listener_open(server, fd, NULL, &callbacks, err);
	if (r < 0) {
		socket_remove(server);
		return blix_wrap(err, "%s", config->socket_path);
	}
	r = uv_timer_init(loop, &server->timer);
	assert(r == 0);
	r = uv_idle_init(loop, &server->soon);
	assert(r == 0);
	server->timer.data = server->soon.data = server;
	server->handles += 2;
	*ret = take(server);
	return 0;
}

int http_server_listen(struct http_server *server, const char *address, struct tls_credentials *tls,
                       unsigned *ret_port, struct blix_error *err)
{
	unsigned port = 0;
	int fd = -1;
	int r = listen_tcp(address, &fd, &port, err);

	if (r == 0)
		r = listener_open(server, fd, tls, &callbacks, err);
	if (r < 0)
		return blix_wrap(err, "listen on %s", address);
	if (ret_port != NULL)
		*ret_port = port;
	return 0;
}

void http_server_close(struct http_server *server, void (*cb)(void *data), void *data)
{
	assert(!server->closing);
	server->closing = true;
	server->closed = cb;
	server->closed_data = data;
	/* Not here: the caller may be a handler, inside MHD_run. */
	server_soon(server);
}

size_t http_server_connections(const struct http_server *server)
{
	return server->n_connections;
}
