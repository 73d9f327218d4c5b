/* What each VM of this node uses, in memory only.
 *
 * Every few seconds one pass reads the kernel's figures of all VMs from files that are kept open, a
 * few microseconds each. Hypervisors, which alone know of disks, are asked on a thread of the pool:
 * a few in each pass, in turn, and the one that somebody wants to see at that moment. A hypervisor
 * that does not answer leaves the figures as they were. */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "sys/clock.h"

#include <stdio.h>

#define SAMPLE_MS       5000
#define ASK_EACH_PASS   4 /* 1,000 VMs are asked in 21 minutes, ten in 15 seconds */
#define ASK_DEADLINE_MS 500

struct usage_vm {
	struct usage_reader *reader;
	uint64_t pid, start_time;
	enum vmm_kind kind;
	bool asking;
	struct usage usage;
};

/* One question to a hypervisor. */
struct ask {
	uv_work_t work;
	struct node_executor *e;
	uint64_t uid, pid;
	enum vmm_kind kind;
	char *dir, *name;
	int rc;
	struct vmm_counters counters;
	node_executor_usage_cb cb; /* NULL: nobody waits */
	void *data;
};

void usage_forget(struct local *local)
{
	if (local->usage == NULL)
		return;
	usage_reader_free(local->usage->reader);
	free(local->usage);
	local->usage = NULL;
}

static void usage_open(struct local *local)
{
	const struct identity *who = &local->identity;
	cleanup(freep) char *dir = host_dir(local->e, local->vm->name);
	cleanup(freep) char *booted = xasprintf("%s/booted", dir);
	struct usage_reader *reader = usage_reader_open(&usage_roots_host, who->pid,
	                                                who->start_time, local->vm->name, booted);

	if (reader == NULL)
		return;
	local->usage = xcalloc(1, sizeof(*local->usage));
	*local->usage = (struct usage_vm){.reader = reader,
	                                  .pid = who->pid,
	                                  .start_time = who->start_time,
	                                  .kind = host_hypervisor(dir)};
}

/* The sampled VM, or NULL when it does not run. */
static struct usage_vm *usage_take(struct local *local, const struct usage_interfaces *interfaces)
{
	const struct identity *who = &local->identity;

	if (local->usage != NULL && (!watch_exists(local) || local->usage->pid != who->pid ||
	                             local->usage->start_time != who->start_time))
		usage_forget(local);
	if (local->usage == NULL && watch_exists(local))
		usage_open(local);
	if (local->usage != NULL)
		usage_sample(local->usage->reader, interfaces, &local->usage->usage);
	return local->usage;
}

/* A host's own counters of taps are newer than what a hypervisor says. */
static void take_counters(struct usage *usage, bool taps, const struct vmm_counters *counters)
{
	if (counters->disk_known) {
		usage->disk_known = true;
		usage->disk_read_bytes = counters->disk_read_bytes;
		usage->disk_write_bytes = counters->disk_write_bytes;
	}
	if (counters->net_known && !taps) {
		usage->net_known = true;
		usage->net_rx_bytes = counters->net_rx_bytes;
		usage->net_tx_bytes = counters->net_tx_bytes;
	}
}

static void ask_work(uv_work_t *work)
{
	struct ask *ask = work->data;
	cleanup(freep) char *socket = host_control_socket(ask->dir, ask->name);

	ask->rc = socket == NULL
	                  ? -BLIX_E_NOTFOUND
	                  : vmm_counters(ask->kind, socket, ASK_DEADLINE_MS, &ask->counters, NULL);
}

static void ask_done(uv_work_t *work, int status)
{
	struct ask *ask = work->data;
	struct node_executor *e = ask->e;
	struct local *local = local_find(e, ask->uid);
	struct usage_vm *vm = local != NULL ? local->usage : NULL;

	if (vm != NULL && vm->pid == ask->pid) {
		vm->asking = false;
		if (status == 0 && ask->rc == 0)
			take_counters(&vm->usage, usage_has_taps(vm->reader), &ask->counters);
	}
	if (ask->cb != NULL)
		ask->cb(ask->data, vm != NULL ? &vm->usage : NULL);
	free(ask->dir);
	free(ask->name);
	free(ask);
	node_executor_handle_closed(e);
}

/* False when it cannot be asked; then cb is not called. */
static bool ask_start(struct local *local, node_executor_usage_cb cb, void *data)
{
	struct node_executor *e = local->e;
	struct ask *ask;

	if (vmm_cannot(local->usage->kind, VMM_COUNTERS) != NULL || e->closing)
		return false;
	ask = xcalloc(1, sizeof(*ask));
	*ask = (struct ask){.e = e,
	                    .uid = local->uid,
	                    .pid = local->usage->pid,
	                    .kind = local->usage->kind,
	                    .dir = host_dir(e, local->vm->name),
	                    .name = xstrdup(local->vm->name),
	                    .cb = cb,
	                    .data = data};
	ask->work.data = ask;
	if (uv_queue_work(e->config.loop, &ask->work, ask_work, ask_done) != 0) {
		free(ask->dir);
		free(ask->name);
		free(ask);
		return false;
	}
	local->usage->asking = true;
	e->handles++;
	return true;
}

/* The next few by uid after the one that was asked last. */
static void ask_in_turn(struct node_executor *e)
{
	unsigned asked = 0;
	size_t from = 0;

	while (from < e->n_locals && e->locals[from]->uid <= e->usage_asked)
		from++;
	for (size_t i = 0; i < e->n_locals && asked < ASK_EACH_PASS; i++) {
		struct local *local = e->locals[(from + i) % e->n_locals];

		if (local->usage == NULL || local->usage->asking || !ask_start(local, NULL, NULL))
			continue;
		e->usage_asked = local->uid;
		asked++;
	}
}

static void on_pass(uv_timer_t *timer)
{
	struct node_executor *e = timer->data;
	struct usage_interfaces interfaces;

	if (e->n_locals == 0)
		return;
	usage_interfaces_read(&usage_roots_host, &interfaces);
	for (size_t i = 0; i < e->n_locals; i++)
		(void)usage_take(e->locals[i], &interfaces);
	usage_interfaces_done(&interfaces);
	ask_in_turn(e);
}

void node_executor_usage(struct node_executor *e, uint64_t uid, node_executor_usage_cb cb,
                         void *data)
{
	struct local *local = local_find(e, uid);
	struct usage_vm *vm = NULL;
	struct usage_interfaces interfaces;

	if (local != NULL) {
		usage_interfaces_read(&usage_roots_host, &interfaces);
		vm = usage_take(local, &interfaces);
		usage_interfaces_done(&interfaces);
	}
	if (vm == NULL || vm->asking || !ask_start(local, cb, data))
		cb(data, vm != NULL ? &vm->usage : NULL);
}

void node_executor_each_usage(const struct node_executor *e,
                              void (*each)(void *data, const struct vm *vm,
                                           const struct usage *usage),
                              void *data)
{
	for (size_t i = 0; i < e->n_locals; i++) {
		const struct local *local = e->locals[i];

		if (local->usage != NULL && watch_exists(local) &&
		    local->usage->usage.sampled_ms != 0)
			each(data, local->vm, &local->usage->usage);
	}
}

static void on_closed(uv_handle_t *handle)
{
	node_executor_handle_closed(handle->data);
}

void usage_start(struct node_executor *e)
{
	(void)uv_timer_init(e->config.loop, &e->usage_timer);
	e->usage_timer.data = e;
	e->handles++;
	(void)uv_timer_start(&e->usage_timer, on_pass, SAMPLE_MS, SAMPLE_MS);
}

void usage_close(struct node_executor *e)
{
	uv_close((uv_handle_t *)&e->usage_timer, on_closed);
}
