/* The agents inside the guests of this node (vmm/agent.h): one connection per running VM, over
 * which any number of streams go to whoever opened them.
 *
 * A connection is kept while its VM runs and made again when it breaks; streams die with it. All
 * calls are the loop's; no callback fires inside a call. A stream is sent to and closed by
 * agent_stream_send() and agent_stream_close(). */
#ifndef BLIX_NODE_GUEST_H
#define BLIX_NODE_GUEST_H

#include "node/executor.h"
#include "vmm/agent.h"

/* Opens a stream to the agent of the VM `uid`, which runs on this node; `request` is the JSON of
 * OPEN. -BLIX_E_UNAVAILABLE, reason `no-agent`, when none is connected; -BLIX_E_BUSY at
 * LIMIT_GUEST_STREAMS. */
int guest_open(struct node_executor *e, uint64_t uid, const char *request,
               const struct agent_stream_ops *ops, void *data, struct agent_stream **ret,
               struct blix_error *err);
/* What the agent says of its guest; NULL when the VM does not run here. */
const struct agent_info *guest_info(const struct node_executor *e, uint64_t uid);

#endif
