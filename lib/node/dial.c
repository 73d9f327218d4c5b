/* Connections to other nodes' daemons: see dial.h.
 *
 * Happy path: the host is resolved, by the pool -> connect under way -> a session of tls/session.h,
 * which expects the node's own name -> its plain end is handed over. The dial stays until the
 * session is gone: when the plain end was closed and its last bytes have left, or the connection
 * broke. */
#include "node/dial.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/file.h"
#include "tls/session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS  5000 /* until the handshake is done */
#define KEEPALIVE_S 15   /* idle before a peer that vanished is looked for */

struct dial {
	uv_loop_t *loop;
	uv_getaddrinfo_t resolve;
	const struct tls_credentials *credentials; /* until cb */
	char name[TLS_DNS];
	struct tls_session *session; /* NULL: not yet */
	dial_cb cb;                  /* NULL: called, or cancelled */
	void *data;
};

static void dial_tell(struct dial *dial, int fd)
{
	dial_cb cb = take(dial->cb);

	if (cb != NULL)
		cb(dial->data, fd);
	else
		closep(&fd);
}

static void on_opened(void *data, int fd, const struct tls_identity *peer)
{
	(void)peer;
	dial_tell(data, fd);
}

static void on_closed(void *data, int status, const struct blix_error *err)
{
	struct dial *dial = data;

	(void)status;
	(void)err;
	dial_tell(dial, -1);
	free(dial);
}

static const struct tls_session_events events = {.opened = on_opened, .closed = on_closed};

static int dial_connect(struct dial *dial, const struct addrinfo *to)
{
	const struct tls_session_config config = {.loop = dial->loop,
	                                          .credentials = dial->credentials,
	                                          .expect = dial->name,
	                                          .deadline_ms = CONNECT_MS};
	int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){KEEPALIVE_S}, sizeof(int));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){KEEPALIVE_S}, sizeof(int));
	if (connect(fd, to->ai_addr, to->ai_addrlen) < 0 && errno != EINPROGRESS) {
		(void)close(fd);
		return -1;
	}
	return tls_session_open(&config, fd, &events, dial, &dial->session, NULL);
}

static void on_resolved(uv_getaddrinfo_t *resolve, int status, struct addrinfo *found)
{
	struct dial *dial = resolve->data;
	int rc = -1;

	for (const struct addrinfo *to = found; to != NULL && rc < 0 && dial->cb != NULL;
	     to = to->ai_next)
		rc = status == 0 ? dial_connect(dial, to) : -1;
	uv_freeaddrinfo(found);
	if (rc < 0) {
		dial_tell(dial, -1);
		free(dial);
	}
}

int dial_start(uv_loop_t *loop, const struct tls_credentials *credentials, const char *address,
               const char *name, dial_cb cb, void *data, struct dial **ret, struct blix_error *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	char host[PARSE_HOST], service[8];
	struct dial *dial;
	uint16_t port = 0;
	int rc = parse_address(address, host, &port, err);

	if (rc < 0)
		return rc;
	if (credentials == NULL)
		return blix_fail(err, BLIX_E_UNAVAILABLE,
		                 "there are no certificates to reach %s with", address);
	(void)snprintf(service, sizeof(service), "%u", (unsigned)port);
	dial = xcalloc(1, sizeof(*dial));
	dial->loop = loop;
	dial->credentials = credentials;
	(void)snprintf(dial->name, sizeof(dial->name), "%s", name);
	dial->cb = cb;
	dial->data = data;
	dial->resolve.data = dial;
	if (uv_getaddrinfo(loop, &dial->resolve, on_resolved, host, service, &hints) < 0) {
		free(dial);
		return blix_fail(err, BLIX_E_UNAVAILABLE, "look up %s", host);
	}
	*ret = dial;
	return 0;
}

void dial_cancel(struct dial *dial)
{
	dial->cb = NULL;
	if (dial->session != NULL)
		tls_session_close(dial->session);
	else
		(void)uv_cancel((uv_req_t *)&dial->resolve);
}
