/* The port: a virtio-serial port found by its name, one that the loader has opened, a connection
 * that systemd accepted, one of the host that came by vsock, or a Unix socket for tests. A virtio
 * port stays open while the host comes and goes, which poll() tells by POLLHUP and read() by 0; it
 * is then left alone for a moment, since poll() would return at once. */
#include "agent.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include <linux/vm_sockets.h> /* wants sys/socket.h before it */

#define PORT_NAME  "blix.agent.0"
#define PORTS      "/sys/class/virtio-ports"
#define AGAIN_MS   250  /* the host hung up */
#define MISSING_MS 1000 /* there is no port: its driver may come */

uint64_t now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* /dev/vportNpM of our port, or NULL. */
static char *port_find(void)
{
	DIR *dir = opendir(PORTS);
	const struct dirent *entry;
	char *found = NULL;

	while (dir != NULL && found == NULL && (entry = readdir(dir)) != NULL) {
		cleanup(freep) char *path = xasprintf(PORTS "/%s/name", entry->d_name);
		cleanup(buf_done) struct buf name;

		buf_init(&name, 256);
		if (entry->d_name[0] != '.' && file_read(path, &name, NULL) == 0 &&
		    name.data != NULL && strcmp(name.data, PORT_NAME "\n") == 0)
			found = xasprintf("/dev/%s", entry->d_name);
	}
	if (dir != NULL)
		(void)closedir(dir);
	return found;
}

static int open_socket(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -1;
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		closep(&fd);
		return -1;
	}
	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

/* What the loader spoke to the host over. */
static int port_take(int fd)
{
	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

static int listen_vsock(uint32_t port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 &&
	    (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)) {
		closep(&fd);
		return -1;
	}
	return fd;
}

static void port_begin(struct agent *a)
{
	a->retry_ms = 0;
	a->deaf = false;
	session_hello(a, true); /* an agent before this one may have left the host waiting */
}

/* Whoever is in the guest could connect as well, and would be served as root. */
void port_accept(struct agent *a)
{
	struct sockaddr_vm peer = {0};
	socklen_t size = sizeof(peer);
	int fd =
		accept4(a->listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (peer.svm_cid != a->vsock_host) {
		closep(&fd);
		return;
	}
	if (a->port >= 0)
		port_lost(a);
	a->port = fd;
	port_begin(a);
}

void port_open(struct agent *a)
{
	cleanup(freep) char *found = a->port_path == NULL ? port_find() : xstrdup(a->port_path);
	struct stat st;

	if (a->vsock_port != 0) {
		if (a->listener < 0 && (a->listener = listen_vsock(a->vsock_port)) < 0)
			a->retry_ms = now_ms() + MISSING_MS; /* its driver may come */
		return;
	}
	if (a->given >= 0)
		a->port = port_take(a->given);
	else if (found != NULL && stat(found, &st) == 0 && S_ISSOCK(st.st_mode))
		a->port = open_socket(found);
	else if (found != NULL)
		a->port = open(found, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (a->port < 0) {
		a->retry_ms = now_ms() + (found == NULL ? MISSING_MS : AGAIN_MS);
		return;
	}
	port_begin(a);
}

void port_lost(struct agent *a)
{
	struct stat st;

	session_end(a);
	a->deaf = false;
	a->retry_ms = now_ms() + AGAIN_MS;
	if (a->port >= 0 && (fstat(a->port, &st) < 0 || S_ISSOCK(st.st_mode))) {
		closep(&a->port);
		a->port = -1;
		a->over = a->given >= 0;
	}
}

void port_read(struct agent *a)
{
	char data[32768];

	/* A bounded number of reads: commands and timers get their turn. */
	for (unsigned i = 0; i < 8 && a->port >= 0; i++) {
		ssize_t n = read(a->port, data, sizeof(data));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			port_lost(a);
			return;
		}
		if (!a->deaf)
			session_feed(a, data, (size_t)n);
	}
}

void port_write(struct agent *a)
{
	while (a->port >= 0 && a->out.len > a->out_sent) {
		size_t n = a->out.len - a->out_sent;
		ssize_t put = write(a->port, a->out.data + a->out_sent, n < 32768 ? n : 32768);

		if (put < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (put <= 0) {
			port_lost(a);
			return;
		}
		a->out_sent += (size_t)put;
	}
	if (a->out_sent == a->out.len || a->out_sent > OUT_ENOUGH / 2) {
		buf_consume(&a->out, a->out_sent);
		a->out_sent = 0;
	}
}
