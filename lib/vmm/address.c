/* Addresses of control sockets, and the words for their failures: see address.h. */
#include "vmm/address.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int address_fail(struct blix_error *err, enum blix_code code, const char *reason, const char *fmt,
                 ...)
{
	char text[256];
	va_list args;
	int rc;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	rc = blix_fail(err, code, "%s", text);
	blix_reason(err, reason);
	return rc;
}

int address_connect_failed(struct blix_error *err, int sys)
{
	int rc;

	switch (sys) {
	case ENOENT:
		return address_fail(err, BLIX_E_NOTFOUND, REASON_NO_SOCKET, "no socket");
	case ECONNREFUSED:
		return address_fail(err, BLIX_E_UNAVAILABLE, REASON_REFUSED,
		                    "connection refused: nobody listens");
	default:
		rc = blix_fail_sys(err, sys, "connect");
		return rc;
	}
}

int address_init(struct address *a, const char *path, struct blix_error *err)
{
	const char *slash = strrchr(path, '/');
	cleanup(freep) char *dir = NULL;
	struct stat st;

	a->dirfd = -1;
	if (stat(path, &st) < 0)
		return address_connect_failed(err, errno);
	if (!S_ISSOCK(st.st_mode))
		return address_fail(err, BLIX_E_NOTFOUND, REASON_NO_SOCKET, "not a socket");
	if (strlen(path) < sizeof(a->path)) {
		(void)snprintf(a->path, sizeof(a->path), "%s", path);
		return 0;
	}
	if (slash == NULL || strlen(slash) > sizeof(a->path) - 32)
		return blix_fail(err, BLIX_E_INVALID, "the name of the socket is too long");
	dir = xstrndup(path, (size_t)(slash - path) + 1);
	a->dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (a->dirfd < 0)
		return address_connect_failed(err, errno);
	(void)snprintf(a->path, sizeof(a->path), "/proc/self/fd/%d%.*s", a->dirfd,
	               (int)sizeof(a->path) - 32, slash);
	return 0;
}

void address_done(struct address *a)
{
	if (a->dirfd >= 0)
		(void)close(a->dirfd);
	a->dirfd = -1;
}
