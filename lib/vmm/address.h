/* Where a control socket is. The kernel takes at most 107 bytes of path in a socket address; a VM
 * directory may lie deeper. A longer path is then said as /proc/self/fd/N/NAME, N being the
 * directory, which must stay open until the connection is made. */
#ifndef BLIX_VMM_ADDRESS_H
#define BLIX_VMM_ADDRESS_H

#include "base/error.h"

#include <sys/un.h>

struct address {
	int dirfd; /* -1: `path` is what was given */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* -BLIX_E_NOTFOUND (reason no-socket) when there is nothing at `path` or it is no socket. */
int address_init(struct address *a, const char *path, struct blix_error *err);
void address_done(struct address *a);

/* What went wrong with a control socket, in the same words for every protocol. */
#define REASON_NO_SOCKET "no-socket"   /* NOTFOUND: nothing there */
#define REASON_REFUSED   "refused"     /* UNAVAILABLE: nobody listens; the hypervisor is dead */
#define REASON_CLOSED    "closed"      /* UNAVAILABLE: hung up before it had answered */
#define REASON_SILENT    "timeout"     /* TIMEOUT: connected or queued, but no answer in time */
#define REASON_MALFORMED "malformed"   /* CORRUPT: an answer outside the protocol */
#define REASON_TOO_BIG   "too-big"     /* TOOBIG: more than LIMIT_QMP bytes */
#define REASON_ERROR     "vmm-error"   /* REFUSED: understood, and answered with an error */
#define REASON_NOT_KNOWN "unsupported" /* REFUSED: this hypervisor has no such request */

int address_fail(struct blix_error *err, enum blix_code code, const char *reason, const char *fmt,
                 ...) __attribute__((format(printf, 4, 5)));
/* A failed connect: errno `sys` in the words above. */
int address_connect_failed(struct blix_error *err, int sys);

#endif
