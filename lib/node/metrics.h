/* What this server counts for GET /metrics, since it started: how long the steps of operations
 * took, and what went through the log.
 *
 * A step is counted by the server whose node the VM is on, once, when the log says how long it
 * took: the sum over servers is the cluster's. What a server applies again after a restart, because
 * it stands in its log, was counted before. */
#ifndef BLIX_NODE_METRICS_H
#define BLIX_NODE_METRICS_H

#include "base/buf.h"
#include "core/command.h"
#include "core/state.h"

struct metrics;

struct metrics *metrics_new(uint64_t node, uint64_t wall_ms);
void metrics_free(struct metrics *metrics);

/* Around state_apply() of one command. */
struct metrics_before {
	uint64_t uid; /* 0: nothing of interest */
	uint64_t operation, node;
	struct vm_timings timings;
};
/* An entry of the log with the wall clock of its leader. */
void metrics_entry(struct metrics *metrics, uint64_t wall_ms);
void metrics_before(const struct state *state, const struct command *command,
                    struct metrics_before *ret);
void metrics_after(struct metrics *metrics, const struct state *state,
                   const struct metrics_before *before);
uint64_t metrics_started_ms(const struct metrics *metrics);

/* Writing the text format, version 0.0.4: a family's head, then its samples. Labels are
 * `name="value"` lists as they stand between the braces, "" none. */
void metrics_family(struct buf *out, const char *name, const char *type, const char *help);
void metrics_sample(struct buf *out, const char *name, const char *labels, uint64_t value);
/* value / scale, exactly. scale is a power of ten up to 10^6. */
void metrics_sample_scaled(struct buf *out, const char *name, const char *labels, uint64_t value,
                           unsigned scale);
/* The families that this counts itself. */
void metrics_write(const struct metrics *metrics, struct buf *out);

#endif
