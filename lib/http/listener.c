/* One listening socket: its libmicrohttpd, and who connects there.
 *
 * Happy path: libmicrohttpd accepts and calls on_connection; over a Unix socket the peer is known
 * at once, over TLS when its first request line is there (connection_identify), since then the
 * handshake is over. What a listener is for, requests, is in server.c.
 *
 * A peer that has too many connections gets its answer on the one too many (request.c). One that is
 * not known yet and has too many is cut: there is nobody to answer.
 */
#include "http/request.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "tls/hosted.h"

#include <assert.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define POOL_BYTES (16u << 10) /* per connection: request line, headers, then answer pieces */

void http_peer_text(const struct http_peer *peer, char ret[HTTP_PEER_TEXT])
{
	if (peer->kind == HTTP_PEER_UNIX)
		(void)snprintf(ret, HTTP_PEER_TEXT, "uid:%u", (unsigned)peer->uid);
	else if (peer->kind == HTTP_PEER_STRANGER)
		(void)snprintf(ret, HTTP_PEER_TEXT, "anyone");
	else if (peer->identity.kind == TLS_USER)
		(void)snprintf(ret, HTTP_PEER_TEXT, "user:%s", peer->identity.name);
	else
		(void)snprintf(ret, HTTP_PEER_TEXT, "node:%llu",
		               (unsigned long long)peer->identity.node);
}

static bool same_peer(const struct http_peer *a, const struct http_peer *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == HTTP_PEER_UNIX)
		return a->uid == b->uid;
	if (a->kind == HTTP_PEER_STRANGER)
		return strcmp(a->address, b->address) == 0;
	return (a->identity.kind == TLS_USER) == (b->identity.kind == TLS_USER) &&
	       a->identity.node == b->identity.node &&
	       strcmp(a->identity.name, b->identity.name) == 0;
}

/* Those who could do worse than to connect often. */
static bool is_trusted(const struct http_peer *peer)
{
	if (peer->kind == HTTP_PEER_UNIX)
		return peer->uid == 0 || peer->uid == geteuid();
	return peer->kind == HTTP_PEER_CERTIFICATE &&
	       (peer->identity.kind == TLS_SERVER || peer->identity.role == TLS_ADMIN);
}

static bool has_too_many(const struct http_connection *connection)
{
	size_t n = 0;

	if (is_trusted(&connection->peer))
		return false;
	for (const struct http_connection *c = connection->server->connections; c != NULL;
	     c = c->next)
		n += c != connection && same_peer(&c->peer, &connection->peer);
	return n >= LIMIT_HTTP_USER;
}

static void unix_peer(int fd, struct http_peer *ret)
{
	struct ucred credentials;
	socklen_t n = sizeof(credentials);

	ret->kind = HTTP_PEER_UNIX;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &n) < 0)
		return;
	ret->uid = credentials.uid;
	ret->gid = credentials.gid;
	ret->pid = credentials.pid;
}

static void tcp_peer(int fd, struct http_peer *ret)
{
	struct sockaddr_storage address;
	socklen_t n = sizeof(address);

	ret->kind = HTTP_PEER_STRANGER;
	if (getpeername(fd, (struct sockaddr *)&address, &n) == 0)
		(void)getnameinfo((const struct sockaddr *)&address, n, ret->address,
		                  sizeof(ret->address), NULL, 0, NI_NUMERICHOST);
}

static void on_handshake_goes_on(void *data)
{
	struct http_connection *connection = data;

	watch_close(&connection->handshake);
	connection_resume(connection);
}

/* Within a handshake libmicrohttpd tries again and again, as if there always were something to
 * read: a client that sends half of one would keep the loop busy. So the connection is suspended
 * until there is. We are called from within MHD_run(), where it reads; suspending is as good here
 * as in a handler, since nothing is done with the connection afterwards but to see that it is
 * suspended. */
static void on_handshake_waits(void *data)
{
	struct http_connection *connection = data;

	if (connection->handshake != NULL)
		return;
	connection->handshake = watch_open(connection, UV_READABLE | UV_DISCONNECT,
	                                   on_handshake_goes_on, connection);
	if (connection->handshake != NULL)
		MHD_suspend_connection(connection->mhd);
}

void handshake_cut(struct http_connection *connection)
{
	if (connection->handshake == NULL)
		return;
	(void)shutdown(connection->fd, SHUT_RDWR);
	on_handshake_goes_on(connection);
}

/* The handshake takes what the credentials are now. */
static void tls_begin(struct http_connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);

	tcp_peer(connection->fd, &connection->peer);
	connection->tls = tls_hosted_open(connection->listener->tls, info->tls_session,
	                                  connection->fd, on_handshake_waits, connection);
	deadline_set(connection, &connection->server->receive);
	if (has_too_many(connection))
		(void)shutdown(connection->fd, SHUT_RDWR);
}

void connection_identify(struct http_connection *connection)
{
	if (connection->known)
		return;
	connection->known = true;
	if (connection->tls != NULL &&
	    tls_hosted_identity(connection->tls, &connection->peer.identity))
		connection->peer.kind = HTTP_PEER_CERTIFICATE;
	connection->refused = has_too_many(connection);
}

static void connection_open(struct http_listener *listener, struct MHD_Connection *mhd,
                            void **context)
{
	struct http_connection *connection = xcalloc(1, sizeof(*connection));
	struct http_server *server = listener->server;

	connection->server = server;
	connection->listener = listener;
	connection->mhd = mhd;
	connection->fd =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	/* Unknown is nobody, never root. */
	connection->peer.uid = (uid_t)-1;
	connection->peer.gid = (gid_t)-1;
	connection->next = server->connections;
	if (connection->next != NULL)
		connection->next->prev = connection;
	server->connections = connection;
	server->n_connections++;
	*context = connection;
	if (listener->tls != NULL) {
		tls_begin(connection);
		return;
	}
	unix_peer(connection->fd, &connection->peer);
	connection_identify(connection);
	deadline_set(connection, &server->idle);
}

static void connection_free(struct http_connection *connection)
{
	struct http_server *server = connection->server;

	deadline_clear(connection);
	watch_close(&connection->handshake);
	request_free(connection->request);
	tls_hosted_free(connection->tls);
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
		connection_open(data, mhd, context);
	} else if (*context != NULL) {
		connection_free(*context);
		*context = NULL;
	}
}

struct http_connection *connection_of(struct MHD_Connection *mhd)
{
	return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static struct MHD_Daemon *daemon_start(struct http_listener *listener,
                                       const struct http_callbacks *callbacks)
{
	const struct http_config *config = &listener->server->config;
	unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_UPGRADE | MHD_ALLOW_SUSPEND_RESUME;
	/* The credentials are given to each session as it begins (tls_begin). */
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_CERT_CALLBACK, 0, tls_hosted_retrieve()},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES},
		{MHD_OPTION_END, 0, NULL},
	};

	if (listener->tls != NULL)
		flags |= MHD_USE_TLS;
	else
		tls[0].option = MHD_OPTION_END;
	return MHD_start_daemon(flags, 0, NULL, NULL, callbacks->request, listener,
	                        MHD_OPTION_LISTEN_SOCKET, listener->fd, MHD_OPTION_CONNECTION_LIMIT,
	                        config->connections_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
	                        (size_t)POOL_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
	                        (config->idle_ms + 999) / 1000, MHD_OPTION_STRICT_FOR_CLIENT, 1,
	                        MHD_OPTION_URI_LOG_CALLBACK, callbacks->uri, listener,
	                        MHD_OPTION_NOTIFY_CONNECTION, on_connection, listener,
	                        MHD_OPTION_NOTIFY_COMPLETED, callbacks->completed, listener,
	                        MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	server_readable(container_of(poll, struct http_listener, poll));
}

int listener_open(struct http_server *server, int fd, struct tls_credentials *tls,
                  const struct http_callbacks *callbacks, struct blix_error *err)
{
	struct http_listener *listener = xcalloc(1, sizeof(*listener));
	const union MHD_DaemonInfo *info;
	int r;

	listener->server = server;
	listener->fd = fd;
	listener->tls = tls;
	listener->daemon = daemon_start(listener, callbacks);
	if (listener->daemon == NULL) {
		(void)close(fd);
		free(listener);
		return blix_fail(err, BLIX_E_IO, "start the HTTP server");
	}
	info = MHD_get_daemon_info(listener->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	/* An epoll descriptor of our own, just made: nothing in uv_poll_init can refuse it. */
	r = uv_poll_init(server->loop, &listener->poll, info->epoll_fd);
	assert(r == 0);
	server->handles++;
	(void)uv_poll_start(&listener->poll, UV_READABLE, on_readable);
	listener->next = server->listeners;
	server->listeners = listener;
	return 0;
}

static void on_poll_closed(uv_handle_t *handle)
{
	struct http_listener *listener =
		container_of((uv_poll_t *)handle, struct http_listener, poll);
	struct http_server *server = listener->server;

	free(listener);
	server_handle_closed(server);
}

void listener_stop(struct http_listener *listener)
{
	/* First, while the descriptor it watches still exists. */
	uv_close((uv_handle_t *)&listener->poll, on_poll_closed);
	MHD_stop_daemon(listener->daemon);
	(void)close(listener->fd);
}
