/* What this host is, as far as it must be found out: CPUs, memory, hypervisors on the PATH, and
 * whether KVM works, which only booting something can tell: a host may open /dev/kvm and still run
 * guests a thousand times too slowly, or abort.
 */
#ifndef BLIX_NODE_PROBE_H
#define BLIX_NODE_PROBE_H

#include "core/node.h"
#include "node/config.h"

#include <uv.h>

/* Everything but `accel` and `supervision`, which stay "". *facts is initialised by it. */
void probe_facts(const struct config *config, struct node_facts *facts);

struct probe;
/* Boots libexec's toy.elf under KVM; cb gets "kvm" when its line came within two seconds, else
 * "tcg". Without QEMU or /dev/kvm that is "tcg" too. cb is called once, from the loop. */
int probe_start(uv_loop_t *loop, const struct config *config,
                void (*cb)(void *data, const char *accel), void *data, struct probe **ret,
                struct blix_error *err);
/* cb does not come any more; the child is ended, which may outlast the caller. */
void probe_cancel(struct probe *probe);

#endif
