/* Connections of libraft: see peer.h.
 *
 * Happy path of a connection: connect -> check the peer's uid, or let secure.c check its
 * certificate
 * -> write our hello -> read the answer -> give the stream to libraft. Of an accepted one: the same
 * check -> read the hello -> write ours as the answer -> give the stream to libraft.
 *
 * Everything before the last step belongs to a peer_link with a deadline. Whatever goes wrong
 * closes its handles, and a connect request is answered in the last close callback: exactly once
 * and never inside connect(). libraft frees the streams that it gets with raft_free.
 */
#include "raft/peer.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "raft/bytes.h"
#include "sys/file.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define HELLO_MAGIC      0x52584c42u /* "BLXR" */
#define HELLO_VERSION    1
#define HELLO_TIMEOUT_MS 1000
#define CALL_TIMEOUT_MS  3000 /* a TLS handshake, and our hello after it */
#define BACKLOG          64
#define INCOMING_MAX     64u

enum hello_status { HELLO_OK, HELLO_VERSION_REFUSED, HELLO_CLUSTER_REFUSED, HELLO_SERVER_REFUSED };

struct peer_link {
	LIST_ENTRY(peer_link) entry;
	struct peer_transport *t;
	uv_pipe_t *pipe; /* NULL once it is libraft's, or closed */
	uv_timer_t timer;
	uv_connect_t connect;
	struct raft_uv_connect *req; /* NULL: an accepted connection */
	struct secure_call *call;    /* under way */
	uint64_t certified;          /* who the certificate says; 0: a Unix socket */
	const struct peer *peer;     /* who is called; who called, once known */
	int status;                  /* for req */
	bool closing;
	unsigned n_handles; /* not closed yet */
	size_t n_in;
	size_t want;
	uint8_t in[PEER_HELLO];
};

/* Header: magic, version, status, length of the cluster, length of the address, id, reserved. */
static size_t hello_write(const struct peer_transport *t, enum hello_status status, uint8_t *out)
{
	size_t n_cluster = strlen(t->cluster);
	size_t n_address = t->address == NULL ? 0 : strlen(t->address);

	if (n_address > PEER_ADDRESS)
		n_address = 0;
	memset(out, 0, PEER_HEADER);
	put_u32(out, HELLO_MAGIC);
	put_u16(out + 4, HELLO_VERSION);
	put_u16(out + 6, (uint16_t)status);
	put_u16(out + 8, (uint16_t)n_cluster);
	put_u16(out + 10, (uint16_t)n_address);
	put_u64(out + 12, t->id);
	memcpy(out + PEER_HEADER, t->cluster, n_cluster);
	if (n_address > 0)
		memcpy(out + PEER_HEADER + n_cluster, t->address, n_address);
	return PEER_HEADER + n_cluster + n_address;
}

/* The whole length of the hello that begins at `in`, 0 when it cannot be one. */
static size_t hello_length(const uint8_t *in)
{
	size_t n_cluster = get_u16(in + 8);
	size_t n_address = get_u16(in + 10);

	if (get_u32(in) != HELLO_MAGIC || n_cluster > PEER_CLUSTER || n_address > PEER_ADDRESS)
		return 0;
	return PEER_HEADER + n_cluster + n_address;
}

static enum hello_status hello_judge(struct peer_link *link)
{
	const struct peer_transport *t = link->t;
	const uint8_t *in = link->in;
	const struct peer *peer;
	size_t n_cluster = get_u16(in + 8);
	char address[PEER_ADDRESS + 1] = "";

	if (get_u16(in + 4) != HELLO_VERSION)
		return HELLO_VERSION_REFUSED;
	if (n_cluster != strlen(t->cluster) || memcmp(in + PEER_HEADER, t->cluster, n_cluster) != 0)
		return HELLO_CLUSTER_REFUSED;
	if (link->certified != 0 && link->certified != get_u64(in + 12))
		return HELLO_SERVER_REFUSED;
	memcpy(address, in + PEER_HEADER + n_cluster, get_u16(in + 10));
	peer = t->find(t->find_data, get_u64(in + 12), address);
	if (peer == NULL || peer->id == t->id || (link->peer != NULL && link->peer != peer))
		return HELLO_SERVER_REFUSED;
	link->peer = peer;
	return HELLO_OK;
}

static void transport_maybe_closed(struct peer_transport *t)
{
	if (t->closing && !t->listening && t->secure == NULL && LIST_EMPTY(&t->links) &&
	    t->close_cb != NULL) {
		raft_uv_transport_close_cb cb = take(t->close_cb);

		cb(&t->base);
	}
}

/* All handles of the link are closed, or its stream may go to libraft: the end of both paths. */
static void link_finish(struct peer_link *link)
{
	struct peer_transport *t = link->t;
	uv_stream_t *stream = (uv_stream_t *)link->pipe;
	struct raft_uv_connect *req = link->req;
	int status = link->status;
	const struct peer *peer = link->peer;

	LIST_REMOVE(link, entry);
	if (req == NULL)
		t->n_incoming--;
	free(link);
	if (req != NULL)
		req->cb(req, stream, status);
	else if (stream != NULL)
		t->accept_cb(&t->base, peer->id, peer->logged, stream);
	transport_maybe_closed(t);
}

static void on_pipe_closed(uv_handle_t *handle)
{
	struct peer_link *link = handle->data;

	raft_free(handle);
	link->pipe = NULL;
	if (--link->n_handles == 0)
		link_finish(link);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct peer_link *link = handle->data;

	if (--link->n_handles == 0)
		link_finish(link);
}

static void link_close_timer(struct peer_link *link)
{
	if (!uv_is_closing((uv_handle_t *)&link->timer))
		uv_close((uv_handle_t *)&link->timer, on_timer_closed);
}

static void link_fail(struct peer_link *link, int status)
{
	if (link->closing)
		return;
	link->closing = true;
	link->status = status;
	if (link->call != NULL)
		secure_cancel(take(link->call));
	/* A stream that waits to be handed over was not counted as open any more. */
	if (uv_is_closing((uv_handle_t *)&link->timer))
		link->n_handles++;
	uv_close((uv_handle_t *)link->pipe, on_pipe_closed);
	link_close_timer(link);
}

static void on_timeout(uv_timer_t *timer)
{
	link_fail(timer->data, RAFT_NOCONNECTION);
}

/* The stream is good. It is handed over when the timer's memory is free. */
static void link_hand_over(struct peer_link *link)
{
	(void)uv_read_stop((uv_stream_t *)link->pipe);
	link->n_handles--;
	link_close_timer(link);
}

static bool link_write_hello(struct peer_link *link, enum hello_status status)
{
	uint8_t out[PEER_HELLO];
	size_t n = hello_write(link->t, status, out);
	uv_buf_t buf = uv_buf_init((char *)out, (unsigned)n);

	/* A fresh socket takes so little at once; one that does not is no peer. */
	return uv_try_write((uv_stream_t *)link->pipe, &buf, 1) == (int)n;
}

/* Over TLS the certificate has said so. */
static bool link_peer_allowed(const struct peer_link *link)
{
	struct ucred cred;
	socklen_t n = sizeof(cred);
	uv_os_fd_t fd;

	if (uv_fileno((uv_handle_t *)link->pipe, &fd) != 0)
		return false;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0 || n != sizeof(cred))
		return false;
	return cred.uid == 0 || cred.uid == geteuid();
}

static void link_greeted(struct peer_link *link)
{
	enum hello_status status = hello_judge(link);
	bool answered = link->req != NULL || link_write_hello(link, status);

	if (link->req != NULL && get_u16(link->in + 6) != HELLO_OK)
		status = HELLO_SERVER_REFUSED;
	if (status != HELLO_OK || !answered) {
		link_fail(link, RAFT_NOCONNECTION);
		return;
	}
	link_hand_over(link);
}

/* Never asks for a byte beyond the hello: those are libraft's. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct peer_link *link = handle->data;

	(void)suggested;
	*buf = uv_buf_init((char *)link->in + link->n_in, (unsigned)(link->want - link->n_in));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct peer_link *link = stream->data;

	(void)buf;
	if (n < 0) {
		link_fail(link, RAFT_NOCONNECTION);
		return;
	}
	link->n_in += (size_t)n;
	if (link->n_in < link->want)
		return;
	if (link->want == PEER_HEADER) {
		link->want = hello_length(link->in);
		if (link->want == 0) {
			link_fail(link, RAFT_MALFORMED);
			return;
		}
	}
	if (link->n_in == link->want)
		link_greeted(link);
}

static struct peer_link *link_new(struct peer_transport *t)
{
	struct peer_link *link = xcalloc(1, sizeof(*link));

	link->t = t;
	link->want = PEER_HEADER;
	link->pipe = raft_malloc(sizeof(*link->pipe));
	if (link->pipe == NULL)
		abort();
	(void)uv_pipe_init(t->loop, link->pipe, 0);
	link->pipe->data = link;
	(void)uv_timer_init(t->loop, &link->timer);
	link->timer.data = link;
	link->n_handles = 2;
	LIST_INSERT_HEAD(&t->links, link, entry);
	(void)uv_timer_start(&link->timer, on_timeout, HELLO_TIMEOUT_MS, 0);
	return link;
}

static bool link_read(struct peer_link *link)
{
	return uv_read_start((uv_stream_t *)link->pipe, on_alloc, on_read) == 0;
}

static void on_connected(uv_connect_t *connect, int status)
{
	struct peer_link *link = connect->data;

	if (link->closing)
		return;
	if (status != 0 || !link_peer_allowed(link) || !link_write_hello(link, HELLO_OK) ||
	    !link_read(link))
		link_fail(link, RAFT_NOCONNECTION);
}

/* The plain end of a TLS connection. */
static bool link_adopt(struct peer_link *link, int fd, uint64_t id)
{
	link->certified = id;
	if (uv_pipe_open(link->pipe, fd) == 0)
		return true;
	closep(&fd);
	return false;
}

static void on_called(void *data, int fd, uint64_t id)
{
	struct peer_link *link = data;

	link->call = NULL;
	if (fd < 0 || !link_adopt(link, fd, id) || !link_write_hello(link, HELLO_OK) ||
	    !link_read(link))
		link_fail(link, RAFT_NOCONNECTION);
}

static int connect_secure(struct peer_link *link)
{
	struct peer_transport *t = link->t;

	(void)uv_timer_start(&link->timer, on_timeout, CALL_TIMEOUT_MS, 0);
	if (t->secure != NULL)
		link->call = secure_connect(t->secure, link->peer->address, link->peer->id,
		                            on_called, link);
	if (link->call == NULL)
		link_fail(link, RAFT_NOCONNECTION);
	return 0;
}

static int peer_connect(struct raft_uv_transport *base, struct raft_uv_connect *req, raft_id id,
                        const char *address, raft_uv_connect_cb cb)
{
	struct peer_transport *t = base->impl;
	/* Where a server listens may be known better than by the log: a socket may move. */
	const struct peer *member = t->find(t->find_data, id, address);
	struct peer_link *link;

	if (member == NULL)
		return RAFT_BADID;
	if (!secure_address(member->address) && strlen(member->address) > PEER_SOCKET)
		return RAFT_NAMETOOLONG;
	req->cb = cb;
	link = link_new(t);
	link->req = req;
	link->peer = member;
	link->connect.data = link;
	if (secure_address(member->address))
		return connect_secure(link);
	uv_pipe_connect(&link->connect, link->pipe, member->address, on_connected);
	return 0;
}

static void on_incoming(uv_stream_t *listener, int status)
{
	struct peer_transport *t = listener->data;
	struct peer_link *link;

	if (status != 0 || t->closing)
		return;
	link = link_new(t);
	t->n_incoming++;
	if (uv_accept(listener, (uv_stream_t *)link->pipe) != 0 || t->n_incoming > INCOMING_MAX ||
	    !link_peer_allowed(link) || !link_read(link))
		link_fail(link, RAFT_NOCONNECTION);
}

/* A server whose certificate is good. */
static void on_incoming_secure(void *data, int fd, uint64_t id)
{
	struct peer_transport *t = data;
	struct peer_link *link;

	if (fd < 0)
		return;
	link = link_new(t);
	t->n_incoming++;
	if (!link_adopt(link, fd, id) || t->n_incoming > INCOMING_MAX || !link_read(link))
		link_fail(link, RAFT_NOCONNECTION);
}

/* Removes the socket that a dead process of ours left at `path`; anything else stays and fails. */
static int remove_stale(const char *path, struct blix_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	cleanup(closep) int fd = -1;
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : blix_fail_sys(err, errno, "stat %s", path);
	if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid())
		return blix_fail(err, BLIX_E_EXISTS, "%s is not a socket of this user", path);
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return blix_fail_sys(err, errno, "socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN)
		return blix_fail(err, BLIX_E_BUSY, "another process listens on %s", path);
	if (errno != ECONNREFUSED)
		return blix_fail_sys(err, errno, "probe %s", path);
	if (unlink(path) < 0)
		return blix_fail_sys(err, errno, "remove stale socket %s", path);
	return 0;
}

static int listener_start(struct peer_transport *t, const char *path, struct blix_error *err)
{
	cleanup(freep) char *parent = xstrdup(path);
	char *slash = strrchr(parent, '/');
	int rc;

	if (strlen(path) > PEER_SOCKET)
		return blix_fail(err, BLIX_E_SPEC, "socket path %s is longer than %u bytes", path,
		                 PEER_SOCKET);
	if (slash != NULL && slash != parent) {
		*slash = '\0';
		rc = file_make_dirs(parent, 0700, err);
		if (rc < 0)
			return rc;
	}
	rc = remove_stale(path, err);
	if (rc < 0)
		return rc;
	(void)uv_pipe_init(t->loop, &t->listener, 0);
	t->listener.data = t;
	t->listening = true;
	rc = uv_pipe_bind(&t->listener, path);
	/* Nobody can connect before listen, so the mode is never too wide for anyone. */
	if (rc == 0 && chmod(path, 0600) < 0)
		rc = uv_translate_sys_error(errno);
	if (rc == 0)
		rc = uv_listen((uv_stream_t *)&t->listener, BACKLOG, on_incoming);
	return rc == 0 ? 0 : blix_fail_sys(err, -rc, "listen on %s", path);
}

static int listen_secure(struct peer_transport *t, struct blix_error *err)
{
	if (t->secure == NULL)
		return blix_fail(err, BLIX_E_SPEC, "listen on %s: no TLS credentials", t->address);
	return secure_listen(t->secure, t->address, on_incoming_secure, t, err);
}

static int peer_listen(struct raft_uv_transport *base, raft_uv_accept_cb cb)
{
	struct peer_transport *t = base->impl;
	struct secure_config secure = {
		.loop = t->loop,
		.credentials = t->credentials,
		.denied = t->denied,
		.data = t->denied_data,
	};
	int rc;

	t->accept_cb = cb;
	/* libraft calls this first, and peer_close() in any case. */
	if (t->credentials != NULL)
		t->secure = secure_open(&secure);
	if (t->address == NULL)
		return 0;
	rc = secure_address(t->address) ? listen_secure(t, &t->error)
	                                : listener_start(t, t->address, &t->error);
	if (rc < 0) {
		(void)snprintf(base->errmsg, sizeof(base->errmsg), "%.200s", t->error.text);
		return RAFT_IOERR;
	}
	return 0;
}

static void on_listener_closed(uv_handle_t *handle)
{
	struct peer_transport *t = handle->data;

	t->listening = false;
	transport_maybe_closed(t);
}

static void on_secure_closed(void *data)
{
	struct peer_transport *t = data;

	t->secure = NULL;
	transport_maybe_closed(t);
}

static void peer_close(struct raft_uv_transport *base, raft_uv_transport_close_cb cb)
{
	struct peer_transport *t = base->impl;
	struct peer_link *link;

	t->closing = true;
	t->close_cb = cb;
	if (t->listening)
		uv_close((uv_handle_t *)&t->listener, on_listener_closed);
	for (link = LIST_FIRST(&t->links); link != NULL; link = LIST_NEXT(link, entry))
		link_fail(link, RAFT_CANCELED);
	if (t->secure != NULL)
		secure_close(t->secure, on_secure_closed, t);
	else
		transport_maybe_closed(t);
}

static int peer_start(struct raft_uv_transport *base, raft_id id, const char *address)
{
	struct peer_transport *t = base->impl;

	(void)address;
	assert(id == t->id);
	return 0;
}

void peer_init(struct peer_transport *t)
{
	LIST_INIT(&t->links);
	t->base = (struct raft_uv_transport){
		.version = 1,
		.impl = t,
		.init = peer_start,
		.listen = peer_listen,
		.connect = peer_connect,
		.close = peer_close,
	};
}
