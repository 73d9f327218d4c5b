/* The server on the loop: libmicrohttpd without a thread, its epoll descriptor in a uv_poll.
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
 * client to go (request_watch).
 */
#include "http/request.h"

#include "base/alloc.h"
#include "base/limits.h"

#include <assert.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define POOL_BYTES (16u << 10) /* per connection: request line, headers, then answer pieces */
/* Turns given to answers that the closing of the server made. */
#define LAST_RUNS 8

static void server_turn(struct http_server *server);

static void on_timer(uv_timer_t *timer)
{
	server_turn(timer->data);
}

static void deadline_clear(struct http_connection *connection)
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

static void deadline_set(struct http_connection *connection, struct http_deadlines *list)
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

static size_t user_connections(const struct http_server *server, uid_t uid)
{
	size_t n = 0;

	for (const struct http_connection *c = server->connections; c != NULL; c = c->next)
		n += c->peer.uid == uid;
	return n;
}

static struct http_connection *connection_open(struct http_server *server,
                                               struct MHD_Connection *mhd)
{
	struct http_connection *connection = xcalloc(1, sizeof(*connection));
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred credentials;
	socklen_t n = sizeof(credentials);

	connection->server = server;
	connection->mhd = mhd;
	connection->fd = info->connect_fd;
	/* Unknown is nobody, never root. */
	connection->peer = (struct http_peer){.uid = (uid_t)-1, .gid = (gid_t)-1, .pid = 0};
	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &n) == 0) {
		connection->peer.uid = credentials.uid;
		connection->peer.gid = credentials.gid;
		connection->peer.pid = credentials.pid;
	}
	if (connection->peer.uid != 0 && connection->peer.uid != geteuid())
		connection->refused =
			user_connections(server, connection->peer.uid) >= LIMIT_HTTP_USER;
	connection->next = server->connections;
	if (connection->next != NULL)
		connection->next->prev = connection;
	server->connections = connection;
	server->n_connections++;
	deadline_set(connection, &server->idle);
	return connection;
}

static void connection_free(struct http_connection *connection)
{
	struct http_server *server = connection->server;

	deadline_clear(connection);
	request_free(connection->request);
	if (connection->prev != NULL)
		connection->prev->next = connection->next;
	else
		server->connections = connection->next;
	if (connection->next != NULL)
		connection->next->prev = connection->prev;
	server->n_connections--;
	/* Libmicrohttpd listens again, after its limit was reached, only at its next run. */
	server->run_again = true;
	free(connection);
}

static void on_connection(void *data, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		*context = connection_open(data, mhd);
	} else if (*context != NULL) {
		connection_free(*context);
		*context = NULL;
	}
}

static struct http_connection *connection_of(struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info->socket_context;
}

static void *on_uri(void *data, const char *uri, struct MHD_Connection *mhd)
{
	struct http_connection *connection = connection_of(mhd);

	(void)data;
	assert(connection->request == NULL);
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
	deadline_clear(request->connection);
	if (request->state == HTTP_RECEIVING)
		return request_handle(request);
	return request->state == HTTP_ANSWERED ? queue(request) : MHD_NO;
}

/* Libmicrohttpd looks at a resumed connection at its next run and has no means to ask for one. */
void connection_kick(struct http_connection *connection)
{
	struct http_server *server = connection->server;

	server->run_again = true;
	(void)uv_timer_start(&server->timer, on_timer, 0, 0);
}

static void connection_resume(struct http_connection *connection)
{
	MHD_resume_connection(connection->mhd);
	connection_kick(connection);
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

void request_unwatch(struct http_request *request)
{
	struct http_watch *watch = request->watch;

	if (watch == NULL)
		return;
	request->watch = NULL;
	watch->request = NULL;
	uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
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

static void on_gone(uv_poll_t *poll, int status, int events)
{
	struct http_watch *watch = container_of(poll, struct http_watch, poll);
	struct http_request *request = watch->request;

	if (status == 0 && (events & UV_DISCONNECT) == 0)
		return;
	request_unwatch(request);
	request->state = HTTP_CANCELLED;
	connection_resume(request->connection);
	request_cancel(request);
}

void request_watch(struct http_request *request)
{
	struct http_server *server = request->connection->server;
	struct http_watch *watch = xcalloc(1, sizeof(*watch));

	watch->server = server;
	watch->request = request;
	if (uv_poll_init(server->loop, &watch->poll, request->connection->fd) < 0) {
		/* Without a watch the request is still answered, only not cancelled early. */
		free(watch);
		return;
	}
	server->handles++;
	request->watch = watch;
	(void)uv_poll_start(&watch->poll, UV_DISCONNECT, on_gone);
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

	if (MHD_get_timeout(server->daemon, &wait_ms) == MHD_YES)
		due_ms = now + wait_ms;
	due_ms = sooner_of(due_ms, &server->idle);
	due_ms = sooner_of(due_ms, &server->receive);
	if (server->run_again)
		due_ms = now;
	server->run_again = false;
	if (due_ms == UINT64_MAX)
		(void)uv_timer_stop(&server->timer);
	else
		(void)uv_timer_start(&server->timer, on_timer, due_ms > now ? due_ms - now : 0, 0);
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
		request = c->request;
		if (request == NULL || request->state != HTTP_WAITING)
			continue;
		request_cancel(request);
		http_answer_error(request, &err, NULL);
	}
}

static void server_stop(struct http_server *server)
{
	MHD_UNSIGNED_LONG_LONG wait_ms = 0;

	(void)MHD_quiesce_daemon(server->daemon);
	socket_remove(server);
	cancel_waiting(server);
	for (unsigned i = 0; i < LAST_RUNS; i++) {
		(void)MHD_run(server->daemon);
		if (MHD_get_timeout(server->daemon, &wait_ms) != MHD_YES || wait_ms > 0)
			break;
	}
	/* First, while the descriptor it watches still exists. */
	uv_close((uv_handle_t *)&server->poll, on_handle_closed);
	uv_close((uv_handle_t *)&server->timer, on_handle_closed);
	MHD_stop_daemon(server->daemon);
	server->daemon = NULL;
	(void)close(server->listen_fd);
	assert(server->n_connections == 0);
}

static void server_turn(struct http_server *server)
{
	if (server->closing) {
		server_stop(server);
		return;
	}
	deadlines_expire(server, &server->receive);
	deadlines_expire(server, &server->idle);
	(void)MHD_run(server->daemon);
	if (server->closing)
		(void)uv_timer_start(&server->timer, on_timer, 0, 0);
	else
		timer_arm(server);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct http_server *server = poll->data;

	(void)status;
	(void)events;
	if (!server->closing)
		server_turn(server);
}

static struct MHD_Daemon *daemon_start(struct http_server *server)
{
	const struct http_config *config = &server->config;

	return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_UPGRADE | MHD_ALLOW_SUSPEND_RESUME, 0,
	                        NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET,
	                        server->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
	                        config->connections_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
	                        (size_t)POOL_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
	                        (config->idle_ms + 999) / 1000, MHD_OPTION_STRICT_FOR_CLIENT, 1,
	                        MHD_OPTION_URI_LOG_CALLBACK, on_uri, server,
	                        MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
	                        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_END);
}

static void loop_start(struct http_server *server)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	int r;

	r = uv_timer_init(server->loop, &server->timer);
	assert(r == 0);
	/* An epoll descriptor of our own, just made: nothing in uv_poll_init can refuse it. */
	r = uv_poll_init(server->loop, &server->poll, info->epoll_fd);
	assert(r == 0);
	server->timer.data = server->poll.data = server;
	server->handles = 2;
	(void)uv_poll_start(&server->poll, UV_READABLE, on_readable);
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

int http_server_open(uv_loop_t *loop, const struct http_config *config, struct http_server **ret,
                     struct blix_error *err)
{
	cleanup(freep) struct http_server *server = xcalloc(1, sizeof(*server));
	struct stat st = {0};
	int r;

	server->loop = loop;
	server->config = *config;
	config_defaults(&server->config);
	server->idle.wait_ms = server->config.idle_ms;
	server->receive.wait_ms = server->config.receive_ms;
	r = listen_open(config, &server->listen_fd, err);
	if (r < 0)
		return r;
	if (lstat(config->socket_path, &st) == 0) {
		server->socket_dev = st.st_dev;
		server->socket_ino = st.st_ino;
	}
	server->daemon = daemon_start(server);
	if (server->daemon == NULL) {
		socket_remove(server);
		(void)close(server->listen_fd);
		return blix_fail(err, BLIX_E_IO, "start the HTTP server on %s",
		                 config->socket_path);
	}
	loop_start(server);
	*ret = take(server);
	return 0;
}

void http_server_close(struct http_server *server, void (*cb)(void *data), void *data)
{
	assert(!server->closing);
	server->closing = true;
	server->closed = cb;
	server->closed_data = data;
	/* Not here: the caller may be a handler, inside MHD_run. */
	(void)uv_timer_start(&server->timer, on_timer, 0, 0);
}

size_t http_server_connections(const struct http_server *server)
{
	return server->n_connections;
}
