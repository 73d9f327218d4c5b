/* The listening sockets. A Unix socket is bound closed, then opened to its group and mode; a TCP
 * one is bound to a number, never to a name, so that nothing waits for a resolver.
 *
 * A file in the way is removed only when it is a socket and nobody answers on it. Two daemons that
 * start at once are kept apart by the caller's lock on its state directory, not here. */
#include "base/alloc.h"
#include "base/parse.h"
#include "http/request.h"
#include "sys/file.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define LISTEN_BACKLOG 512

static int address_of(const char *path, struct sockaddr_un *ret, struct blix_error *err)
{
	size_t n = strlen(path);

	if (n == 0 || n >= sizeof(ret->sun_path))
		return blix_fail(err, BLIX_E_INVALID, "socket path \"%s\" must have 1 to %zu bytes",
		                 path, sizeof(ret->sun_path) - 1);
	memset(ret, 0, sizeof(*ret));
	ret->sun_family = AF_UNIX;
	memcpy(ret->sun_path, path, n + 1);
	return 0;
}

/* Removes what a daemon that died left behind. */
static int remove_stale(const char *path, const struct sockaddr_un *address, struct blix_error *err)
{
	cleanup(closep) int fd = -1;
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : blix_fail_sys(err, errno, "look at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return blix_fail(err, BLIX_E_REFUSED, "%s is in the way: it is not a socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return blix_fail_sys(err, errno, "make a socket");
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
	    errno == EAGAIN) {
		(void)blix_fail(err, BLIX_E_BUSY, "another blixd is running on %s", path);
		blix_reason(err, "already-running");
		return -(int)BLIX_E_BUSY;
	}
	if (errno != ECONNREFUSED && errno != ENOENT)
		return blix_fail_sys(err, errno, "ask who listens on %s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return blix_fail_sys(err, errno, "remove the stale socket %s", path);
	return 0;
}

static int open_to_group(const struct http_config *config, struct blix_error *err)
{
	if (config->group != (gid_t)-1 && lchown(config->socket_path, (uid_t)-1, config->group) < 0)
		return blix_fail_sys(err, errno, "give %s to group %u", config->socket_path,
		                     (unsigned)config->group);
	if (chmod(config->socket_path, config->mode) < 0)
		return blix_fail_sys(err, errno, "set the mode of %s", config->socket_path);
	return 0;
}

static int fd_take(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

int listen_unix(const struct http_config *config, int *ret_fd, struct blix_error *err)
{
	cleanup(closep) int fd = -1;
	struct sockaddr_un address;
	int r;

	r = address_of(config->socket_path, &address, err);
	if (r == 0)
		r = remove_stale(config->socket_path, &address, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return blix_fail_sys(err, errno, "make a socket");
	/* The mode of the socket becomes that of the file: at no time can others connect. */
	if (fchmod(fd, 0600) < 0 ||
	    bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return blix_fail_sys(err, errno, "bind %s", config->socket_path);
	r = open_to_group(config, err);
	if (r == 0 && listen(fd, LISTEN_BACKLOG) < 0)
		r = blix_fail_sys(err, errno, "listen on %s", config->socket_path);
	if (r < 0) {
		(void)unlink(config->socket_path);
		return r;
	}
	*ret_fd = fd_take(&fd);
	return 0;
}

/* Of all addresses, of IPv4 too, when there is no host. */
static int tcp_address(const char *text, struct sockaddr_storage *ret, socklen_t *ret_n,
                       struct blix_error *err)
{
	char host[PARSE_HOST];
	uint16_t port;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)ret;
	struct sockaddr_in *four = (struct sockaddr_in *)ret;
	int r = parse_address(text, host, &port, err);

	if (r < 0)
		return r;
	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		*ret_n = sizeof(*four);
		return 0;
	}
	if (host[0] != '\0' && inet_pton(AF_INET6, host, &six->sin6_addr) != 1)
		return blix_fail(err, BLIX_E_INVALID, "'%s' is not an IP address", host);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	*ret_n = sizeof(*six);
	return 0;
}

static unsigned bound_port(int fd)
{
	/* The port of both families stands at the same place. */
	struct sockaddr_in6 address = {0};
	socklen_t n = sizeof(address);

	(void)getsockname(fd, (struct sockaddr *)&address, &n);
	return ntohs(address.sin6_port);
}

int listen_tcp(const char *address, int *ret_fd, unsigned *ret_port, struct blix_error *err)
{
	cleanup(closep) int fd = -1;
	struct sockaddr_storage bound;
	socklen_t n = 0;
	int on = 1;
	int r = tcp_address(address, &bound, &n, err);

	if (r < 0)
		return r;
	fd = socket(bound.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return blix_fail_sys(err, errno, "make a socket");
	/* A daemon that starts again must not wait for connections of the last one to be forgotten.
	 */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, (const struct sockaddr *)&bound, n) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
		return blix_fail_sys(err, errno, "bind");
	*ret_port = bound_port(fd);
	*ret_fd = fd_take(&fd);
	return 0;
}
