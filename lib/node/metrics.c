/* Counting and writing: see metrics.h. */
#include "node/metrics.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#define VERBS_MAX 24 /* of a table of the core; what is beyond is counted as "other" */

static const uint32_t bounds_ms[] = {5,    10,   25,    50,    100,   250,    500,    1000,
                                     2500, 5000, 10000, 30000, 60000, 120000, 300000, 600000};

static const struct {
	const char *name;
	size_t offset;
} steps[] = {{"queue", offsetof(struct vm_timings, queue_ms)},
             {"resolve", offsetof(struct vm_timings, resolve_ms)},
             {"build", offsetof(struct vm_timings, build_ms)},
             {"start", offsetof(struct vm_timings, start_ms)},
             {"boot", offsetof(struct vm_timings, boot_ms)},
             {"ready", offsetof(struct vm_timings, ready_ms)}};

struct histogram {
	uint64_t counts[array_size(bounds_ms) + 1]; /* not cumulative; the last is +Inf */
	uint64_t sum_ms, n;
};

struct verb {
	char name[24];
	struct histogram steps[array_size(steps)];
};

struct metrics {
	uint64_t node, started_ms;
	bool live; /* the entry under way was written since we started */
	uint64_t entries, commands;
	size_t n_verbs;
	struct verb verbs[VERBS_MAX];
};

struct metrics *metrics_new(uint64_t node, uint64_t wall_ms)
{
	struct metrics *metrics = xcalloc(1, sizeof(*metrics));

	metrics->node = node;
	metrics->started_ms = wall_ms;
	return metrics;
}

void metrics_free(struct metrics *metrics)
{
	free(metrics);
}

uint64_t metrics_started_ms(const struct metrics *metrics)
{
	return metrics->started_ms;
}

void metrics_entry(struct metrics *metrics, uint64_t wall_ms)
{
	metrics->live = wall_ms >= metrics->started_ms;
	metrics->entries++;
}

static uint64_t command_uid(const struct command *command)
{
	if (command->kind == COMMAND_VM_ASSIGN)
		return command->vm_assign.uid;
	if (command->kind == COMMAND_VM_RESOLVED)
		return command->vm_resolved.uid;
	return command->kind == COMMAND_VM_REPORT ? command->vm_report.uid : 0;
}

void metrics_before(const struct state *state, const struct command *command,
                    struct metrics_before *ret)
{
	const struct vm *vm;

	*ret = (struct metrics_before){.uid = command_uid(command)};
	vm = ret->uid != 0 ? state_vm_uid(state, ret->uid) : NULL;
	if (vm == NULL) {
		ret->uid = 0;
		return;
	}
	ret->operation = vm->operation;
	ret->node = vm->node;
	ret->timings = vm->timings;
}

static uint32_t step_ms(const struct vm_timings *timings, size_t step)
{
	uint32_t ms;

	memcpy(&ms, (const char *)timings + steps[step].offset, sizeof(ms));
	return ms;
}

static struct verb *find_verb(struct metrics *metrics, const char *name)
{
	for (size_t i = 0; i < metrics->n_verbs; i++) {
		if (strcmp(metrics->verbs[i].name, name) == 0)
			return &metrics->verbs[i];
	}
	if (metrics->n_verbs + 1 == VERBS_MAX && strcmp(name, "other") != 0)
		return find_verb(metrics, "other");
	if (metrics->n_verbs == VERBS_MAX)
		return &metrics->verbs[VERBS_MAX - 1];
	(void)snprintf(metrics->verbs[metrics->n_verbs].name, sizeof(metrics->verbs[0].name), "%s",
	               name);
	return &metrics->verbs[metrics->n_verbs++];
}

static void observe(struct histogram *histogram, uint32_t ms)
{
	size_t i = 0;

	while (i < array_size(bounds_ms) && ms > bounds_ms[i])
		i++;
	histogram->counts[i]++;
	histogram->sum_ms += ms;
	histogram->n++;
}

/* A VM gets its node when queue and resolve are over: then they count for that node. */
void metrics_after(struct metrics *metrics, const struct state *state,
                   const struct metrics_before *before)
{
	const struct vm *vm = before->uid != 0 ? state_vm_uid(state, before->uid) : NULL;

	metrics->commands++;
	if (vm == NULL || !metrics->live || vm->node != metrics->node)
		return;
	for (size_t i = 0; i < array_size(steps); i++) {
		uint32_t ms = step_ms(&vm->timings, i);
		bool placed = before->node != vm->node;

		if (ms == 0 || (!placed && before->operation == vm->operation &&
		                step_ms(&before->timings, i) == ms))
			continue;
		observe(&find_verb(metrics, vm->operation_verb)->steps[i], ms);
	}
}

void metrics_family(struct buf *out, const char *name, const char *type, const char *help)
{
	(void)buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_name(struct buf *out, const char *name, const char *labels)
{
	if (labels[0] != '\0')
		(void)buf_printf(out, "%s{%s} ", name, labels);
	else
		(void)buf_printf(out, "%s ", name);
}

void metrics_sample(struct buf *out, const char *name, const char *labels, uint64_t value)
{
	write_name(out, name, labels);
	(void)buf_printf(out, "%" PRIu64 "\n", value);
}

void metrics_sample_scaled(struct buf *out, const char *name, const char *labels, uint64_t value,
                           unsigned scale)
{
	int digits = 0;

	if (scale <= 1) {
		metrics_sample(out, name, labels, value);
		return;
	}
	for (unsigned s = scale; s > 1; s /= 10)
		digits++;
	write_name(out, name, labels);
	(void)buf_printf(out, "%" PRIu64 ".%0*" PRIu64 "\n", value / scale, digits, value % scale);
}

static void write_histogram(const struct histogram *h, const char *verb, const char *step,
                            struct buf *out)
{
	static const char name[] = "blix_operation_step_duration_seconds";
	uint64_t below = 0;
	char labels[80];

	for (size_t i = 0; i < array_size(bounds_ms); i++) {
		below += h->counts[i];
		(void)buf_printf(
			out, "%s_bucket{operation=\"%s\",step=\"%s\",le=\"%u.%03u\"} %" PRIu64 "\n",
			name, verb, step, bounds_ms[i] / 1000, bounds_ms[i] % 1000, below);
	}
	(void)buf_printf(out, "%s_bucket{operation=\"%s\",step=\"%s\",le=\"+Inf\"} %" PRIu64 "\n",
	                 name, verb, step, h->n);
	(void)snprintf(labels, sizeof(labels), "operation=\"%s\",step=\"%s\"", verb, step);
	metrics_sample_scaled(out, "blix_operation_step_duration_seconds_sum", labels, h->sum_ms,
	                      1000);
	metrics_sample(out, "blix_operation_step_duration_seconds_count", labels, h->n);
}

void metrics_write(const struct metrics *metrics, struct buf *out)
{
	metrics_family(out, "blix_raft_entries_applied_total", "counter",
	               "Entries of the log that this process has applied.");
	metrics_sample(out, "blix_raft_entries_applied_total", "", metrics->entries);
	metrics_family(out, "blix_raft_commands_applied_total", "counter",
	               "Commands in these entries.");
	metrics_sample(out, "blix_raft_commands_applied_total", "", metrics->commands);
	metrics_family(out, "blix_operation_step_duration_seconds", "histogram",
	               "How long the steps of operations on VMs of this node took.");
	for (size_t v = 0; v < metrics->n_verbs; v++) {
		for (size_t i = 0; i < array_size(steps); i++) {
			if (metrics->verbs[v].steps[i].n > 0)
				write_histogram(&metrics->verbs[v].steps[i], metrics->verbs[v].name,
				                steps[i].name, out);
		}
	}
}
