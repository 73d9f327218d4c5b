/* One blixd: the loop's composition. It owns the state, the consensus, the API server, the link to
 * the other servers, the leader's duties and the executor of this host.
 *
 * Happy path: open, start, run the loop; SIGTERM calls daemon_close, whose callback ends the loop.
 * VMs live on. A failure of the log or of the disk under it is final: `fatal` is told and the
 * program exits, to be started again by its supervisor.
 */
#ifndef BLIX_NODE_DAEMON_H
#define BLIX_NODE_DAEMON_H

#include "node/config.h"

#include <uv.h>

struct daemon;

/* The lock of the state directory: *ret_fd holds it. -BLIX_E_BUSY: another blixd does. */
int daemon_lock(const struct config *config, int *ret_fd, struct blix_error *err);

/* `config` is finished (config_finish) and stays the caller's; it must outlive the daemon. `fatal`
 * must not return: nothing may be applied or answered after it. */
struct daemon *daemon_open(uv_loop_t *loop, const struct config *config,
                           void (*fatal)(const struct blix_error *err));
/* When it fails, daemon_close is still the caller's to call. */
int daemon_start(struct daemon *daemon, struct blix_error *err);
/* The node's certificate was renewed: connections that begin from now on take the new one. */
void daemon_reload(struct daemon *daemon);
void daemon_close(struct daemon *daemon, void (*cb)(void *data), void *data);

#endif
