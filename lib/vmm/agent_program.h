/* The blix-agent of this node, which guests without one load (docs/guest-contract.md). It is read
 * when the first guest asks and kept only while somebody holds it: a host whose VMs all boot at
 * once holds one copy, a host at rest none. */
#ifndef BLIX_VMM_AGENT_PROGRAM_H
#define BLIX_VMM_AGENT_PROGRAM_H

#include "base/error.h"

#include <stddef.h>

struct agent_program; /* a path */
struct agent_bytes;   /* what the file held when it was read */

struct agent_program *agent_program_new(const char *path);
/* Its bytes stay with those who hold them. NULL is nothing. */
void agent_program_free(struct agent_program *p);
/* Reason `no-agent-program`, with a hint, when there is none to give. */
int agent_program_hold(struct agent_program *p, struct agent_bytes **ret, struct blix_error *err);
void agent_bytes_release(struct agent_bytes *b);
char *agent_bytes_data(struct agent_bytes *b);
size_t agent_bytes_size(const struct agent_bytes *b);
const char *agent_bytes_sha256(const struct agent_bytes *b);

#endif
