/* Upgrades: a connection leaves HTTP and its socket goes to the caller, as a descriptor of its own.
 *
 * Happy path: http_answer_upgrade() queues a 101; when its head has left, libmicrohttpd calls
 * on_upgraded, which hands out a duplicate of the socket. Libmicrohttpd keeps its own descriptor,
 * idle, until http_upgrade_close(), so that the connection stays in the server's counts. A client
 * that goes before that is told to the caller by a descriptor of -1; a server that closes cuts the
 * socket, and the caller's http_upgrade_close() then only frees. */
#include "http/request.h"

#include "base/alloc.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/socket.h>

struct http_upgrade {
	struct http_connection *connection; /* NULL: the server has let go */
	struct MHD_UpgradeResponseHandle *handle;
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

static void on_upgraded(void *data, struct MHD_Connection *mhd, void *context, const char *extra,
                        size_t n, MHD_socket sock, struct MHD_UpgradeResponseHandle *handle)
{
	struct http_request *request = data;
	struct http_upgrade *upgrade = xcalloc(1, sizeof(*upgrade));
	http_upgraded taken = request->taken;
	int fd = fcntl(sock, F_DUPFD_CLOEXEC, 3);

	(void)mhd;
	(void)context;
	request->taken = NULL;
	upgrade->connection = request->connection;
	upgrade->handle = handle;
	request->connection->upgrade = upgrade;
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

	if (connection != NULL) {
		connection->upgrade = NULL;
		(void)MHD_upgrade_action(upgrade->handle, MHD_UPGRADE_ACTION_CLOSE);
		connection_kick(connection);
	}
	free(upgrade);
}

void upgrade_cut(struct http_connection *connection)
{
	struct http_upgrade *upgrade = connection->upgrade;

	if (upgrade == NULL)
		return;
	upgrade->connection = NULL;
	connection->upgrade = NULL;
	(void)shutdown(connection->fd, SHUT_RDWR);
	(void)MHD_upgrade_action(upgrade->handle, MHD_UPGRADE_ACTION_CLOSE);
}
