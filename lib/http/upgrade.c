/* Upgrades: a connection leaves HTTP and its socket goes to the caller, as a descriptor of its own.
 *
 * Happy path: http_answer_upgrade() queues a 101; when its head has left, libmicrohttpd calls
 * on_upgraded, which hands out a duplicate of the socket. Libmicrohttpd keeps its own descriptor,
 * idle, until http_upgrade_close(), so that the connection stays in the server's counts. A client
 * that goes before that is told to the caller by a descriptor of -1; a server that closes cuts the
 * socket, and the caller's http_upgrade_close() then only frees.
 *
 * Over TLS libmicrohttpd would pass bytes on between the client and a socket pair, but never says
 * that the client has ended, and loses the last bytes of who closes. So it is left with an idle
 * pair, and tls/tunnel.h has another whose end the caller gets. What the caller has written still
 * leaves after its http_upgrade_close(), for as long as a request may take to come in. */
#include "http/request.h"

#include "base/alloc.h"
#include "tls/tunnel.h"

#include <fcntl.h>
#include <sys/socket.h>

struct http_upgrade {
	struct http_connection *connection; /* NULL: the server has let go */
	struct MHD_UpgradeResponseHandle *handle;
	struct tls_tunnel *tunnel; /* NULL: a Unix socket */
	bool closing;              /* the caller has let go */
};

/* "keep-alive, Upgrade" has the token "upgrade". */
static bool has_token(const char *list, const char *token)
{
	size_t n = strlen(token);

	while (list != NULL && *list != '\0') {
		list += strspn(list, ", \t");
		if (strncasecmp(list, token, n) == 0 &&
		    (list[n] == '\0' || strchr(", \t", list[n]) != NULL))
			return true;
		list += strcspn(list, ", \t");
	}
	return false;
}

bool http_wants_upgrade(const struct http_request *request, const char *protocol)
{
	const char *wanted = http_header(request, "Upgrade");

	return has_token(http_header(request, "Connection"), "upgrade") && wanted != NULL &&
	       strcasecmp(wanted, protocol) == 0;
}

static void on_tunnel_freed(void *data)
{
	server_handle_closed(data);
}

/* Libmicrohttpd closes the connection; the caller, if it has not yet, closes only its upgrade. */
static void upgrade_end(struct http_upgrade *upgrade)
{
	struct http_connection *connection = upgrade->connection;

	if (upgrade->tunnel != NULL)
		tls_tunnel_free(upgrade->tunnel, on_tunnel_freed, connection->server);
	upgrade->tunnel = NULL;
	upgrade->connection = NULL;
	connection->upgrade = NULL;
	(void)MHD_upgrade_action(upgrade->handle, MHD_UPGRADE_ACTION_CLOSE);
	connection_kick(connection);
	/* Over TLS it first sees that its own pair has ended, and cleans up at the run after that.
	 */
	connection->server->more_turns = 2;
	if (upgrade->closing)
		free(upgrade);
}

static void on_tunnel_ended(void *data)
{
	upgrade_end(data);
}

/* -1: there is none. */
static int upgrade_fd(struct http_upgrade *upgrade, MHD_socket sock)
{
	struct http_server *server = upgrade->connection->server;
	int fd = -1;

	if (upgrade->connection->tls == NULL)
		return fcntl(sock, F_DUPFD_CLOEXEC, 3);
	if (tls_tunnel_open(server->loop, upgrade->connection->tls, on_tunnel_ended, upgrade, &fd,
	                    &upgrade->tunnel, NULL) == 0)
		server->handles++;
	return fd;
}

static void on_upgraded(void *data, struct MHD_Connection *mhd, void *context, const char *extra,
                        size_t n, MHD_socket sock, struct MHD_UpgradeResponseHandle *handle)
{
	struct http_request *request = data;
	struct http_upgrade *upgrade = xcalloc(1, sizeof(*upgrade));
	http_upgraded taken = request->taken;
	int fd;

	(void)mhd;
	(void)context;
	request->taken = NULL;
	upgrade->connection = request->connection;
	upgrade->handle = handle;
	request->connection->upgrade = upgrade;
	fd = upgrade_fd(upgrade, sock);
	taken(request->taken_data, fd < 0 ? NULL : upgrade, fd, extra, fd < 0 ? 0 : n);
	if (fd < 0)
		http_upgrade_close(upgrade);
}

void http_answer_upgrade(struct http_request *request, const char *protocol, http_upgraded taken,
                         void *data)
{
	request->taken = taken;
	request->taken_data = data;
	http_answer_header(request, "Upgrade", protocol);
	request_answer(request, MHD_HTTP_SWITCHING_PROTOCOLS, NULL,
	               MHD_create_response_for_upgrade(on_upgraded, request));
}

void upgrade_missed(struct http_request *request)
{
	http_upgraded taken = request->taken;

	request->taken = NULL;
	if (taken != NULL)
		taken(request->taken_data, NULL, -1, NULL, 0);
}

void http_upgrade_close(struct http_upgrade *upgrade)
{
	struct http_connection *connection = upgrade->connection;

	upgrade->closing = true;
	if (connection == NULL) {
		free(upgrade);
	} else if (upgrade->tunnel == NULL) {
		upgrade_end(upgrade);
	} else {
		/* The last bytes may wait for a client that takes none. */
		deadline_set(connection, &connection->server->receive);
		tls_tunnel_finish(upgrade->tunnel);
	}
}

void upgrade_cut(struct http_connection *connection)
{
	if (connection->upgrade == NULL)
		return;
	(void)shutdown(connection->fd, SHUT_RDWR);
	upgrade_end(connection->upgrade);
}
