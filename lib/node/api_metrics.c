/* GET /metrics: what this server knows, in the text format of Prometheus (version 0.0.4). VMs are
 * counted over the cluster, since each server holds the state; usage is that of the VMs that run
 * here, for at most LIMIT_METRICS_VMS of them. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "base/version.h"

#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "sys/file.h"

#define TEXT_MAX (8u << 20) /* LIMIT_METRICS_VMS times six samples of 80 bytes, and room */

/* One family of per-VM samples; `known` and `value` are members of struct usage. */
struct usage_family {
	const char *name, *type, *help;
	size_t known, value;
	unsigned scale;
};

#define FAMILY(name, type, help, known, value, scale)                                              \
	{                                                                                          \
		name, type, help, offsetof(struct usage, known), offsetof(struct usage, value),    \
			scale                                                                      \
	}

static const struct usage_family families[] = {
	FAMILY("blix_vm_cpu_seconds_total", "counter", "CPU time of the VM since it started.",
               cpu_known, cpu_ms, 1000),
	FAMILY("blix_vm_memory_bytes", "gauge", "Memory of the host that the VM holds.",
               memory_known, memory_bytes, 1),
	FAMILY("blix_vm_disk_read_bytes_total", "counter", "Read from its disks.", disk_known,
               disk_read_bytes, 1),
	FAMILY("blix_vm_disk_written_bytes_total", "counter", "Written to its disks.", disk_known,
               disk_write_bytes, 1),
	FAMILY("blix_vm_network_received_bytes_total", "counter", "Received by the guest.",
               net_known, net_rx_bytes, 1),
	FAMILY("blix_vm_network_sent_bytes_total", "counter", "Sent by the guest.", net_known,
               net_tx_bytes, 1),
};

struct usage_writer {
	struct buf *out;
	const struct usage_family *family;
	size_t n;
};

static void write_usage(void *data, const struct vm *vm, const struct usage *usage)
{
	struct usage_writer *w = data;
	const char *base = (const char *)usage;
	char labels[LIMIT_NAME + 16];
	uint64_t value;
	bool known;

	if (w->n++ >= LIMIT_METRICS_VMS)
		return;
	memcpy(&known, base + w->family->known, sizeof(known));
	memcpy(&value, base + w->family->value, sizeof(value));
	if (!known)
		return;
	(void)snprintf(labels, sizeof(labels), "vm=\"%s\"", vm->name);
	metrics_sample_scaled(w->out, w->family->name, labels, value, w->family->scale);
}

static void write_usages(const struct daemon *d, struct buf *out)
{
	size_t n = 0;

	for (size_t i = 0; i < array_size(families); i++) {
		struct usage_writer w = {.out = out, .family = &families[i]};

		metrics_family(out, families[i].name, families[i].type, families[i].help);
		if (d->executor != NULL)
			node_executor_each_usage(d->executor, write_usage, &w);
		n = w.n;
	}
	metrics_family(out, "blix_vms_sampled", "gauge", "VMs of this node whose usage is known.");
	metrics_sample(out, "blix_vms_sampled", "", n);
}

static void write_vms(const struct daemon *d, struct buf *out)
{
	char labels[48];

	metrics_family(out, "blix_vms", "gauge", "VMs of the cluster by phase.");
	for (unsigned i = 0; i < VM_PHASE_COUNT; i++) {
		(void)snprintf(labels, sizeof(labels), "phase=\"%s\"",
		               vm_phase_name((enum vm_phase)i));
		metrics_sample(out, "blix_vms", labels, d->state->phases[i]);
	}
}

static void write_raft(const struct daemon *d, struct buf *out)
{
	static const struct {
		enum consensus_role role;
		const char *labels;
	} roles[] = {{CONSENSUS_LEADER, "role=\"leader\""},
	             {CONSENSUS_CANDIDATE, "role=\"candidate\""},
	             {CONSENSUS_FOLLOWER, "role=\"follower\""}};
	struct consensus_status raft;
	uint64_t age;

	consensus_status(d->consensus, &raft);
	metrics_family(out, "blix_raft_role", "gauge", "1 for the role that this server has.");
	for (size_t i = 0; i < array_size(roles); i++)
		metrics_sample(out, "blix_raft_role", roles[i].labels, d->role == roles[i].role);
	metrics_family(out, "blix_raft_term", "gauge", "Term of the log.");
	metrics_sample(out, "blix_raft_term", "", raft.term);
	metrics_family(out, "blix_raft_commit_index", "gauge", "Last committed entry.");
	metrics_sample(out, "blix_raft_commit_index", "", raft.commit_index);
	metrics_family(out, "blix_raft_applied_index", "gauge", "Last applied entry.");
	metrics_sample(out, "blix_raft_applied_index", "", raft.applied_index);
	metrics_family(out, "blix_raft_last_index", "gauge", "Last entry of this server's log.");
	metrics_sample(out, "blix_raft_last_index", "", raft.last_index);
	metrics_family(out, "blix_loop_stall_seconds", "gauge",
	               "Longest turn of the loop since the start.");
	metrics_sample_scaled(out, "blix_loop_stall_seconds", "", stall_worst_us(&d->stall),
	                      1000000);
	metrics_family(out, "blix_raft_disk_full", "gauge",
	               "1 while this server writes no commands for lack of disk space.");
	metrics_sample(out, "blix_raft_disk_full", "", raft.is_short);
	metrics_family(out, "blix_stale", "gauge",
	               "1 when this server cannot tell that its state is current.");
	metrics_sample(out, "blix_stale", "", !daemon_is_current(d, &age));
}

static uint64_t open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t n = 0;

	while (dir != NULL && readdir(dir) != NULL)
		n++;
	if (dir != NULL)
		(void)closedir(dir);
	return n > 3 ? n - 3 : 0; /* ".", ".." and the one that reads them */
}

/* Size and resident set, in pages, as /proc/self/statm begins. */
static void memory_pages(uint64_t *ret_size, uint64_t *ret_resident)
{
	cleanup(buf_done) struct buf text;
	char *space;

	buf_init(&text, 256);
	*ret_size = *ret_resident = 0;
	if (file_read("/proc/self/statm", &text, NULL) < 0 || text.data == NULL)
		return;
	*ret_size = strtoull(text.data, &space, 10);
	*ret_resident = strtoull(space, NULL, 10);
}

static void write_process(const struct daemon *d, struct buf *out)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), size, resident;
	struct rusage self;
	struct rlimit files = {0};

	(void)getrusage(RUSAGE_SELF, &self);
	(void)getrlimit(RLIMIT_NOFILE, &files);
	memory_pages(&size, &resident);
	metrics_family(out, "process_cpu_seconds_total", "counter", "CPU time of blixd.");
	metrics_sample_scaled(out, "process_cpu_seconds_total", "",
	                      (uint64_t)(self.ru_utime.tv_sec + self.ru_stime.tv_sec) * 1000000 +
	                              (uint64_t)(self.ru_utime.tv_usec + self.ru_stime.tv_usec),
	                      1000000);
	metrics_family(out, "process_resident_memory_bytes", "gauge", "Memory of blixd.");
	metrics_sample(out, "process_resident_memory_bytes", "", resident * page);
	metrics_family(out, "process_virtual_memory_bytes", "gauge", "Address space of blixd.");
	metrics_sample(out, "process_virtual_memory_bytes", "", size * page);
	metrics_family(out, "process_open_fds", "gauge", "Open files of blixd.");
	metrics_sample(out, "process_open_fds", "", open_files());
	metrics_family(out, "process_max_fds", "gauge", "Files that it may open.");
	metrics_sample(out, "process_max_fds", "", (uint64_t)files.rlim_cur);
	metrics_family(out, "process_start_time_seconds", "gauge", "When it started, since 1970.");
	metrics_sample_scaled(out, "process_start_time_seconds", "", metrics_started_ms(d->metrics),
	                      1000);
}

void metrics_handle(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	struct blix_error err;
	struct buf out;
	size_t n;

	buf_init(&out, TEXT_MAX);
	metrics_family(&out, "blix_build_info", "gauge", "1, with the version of blixd.");
	metrics_sample(&out, "blix_build_info", "version=\"" BLIX_VERSION "\"", 1);
	write_vms(d, &out);
	write_usages(d, &out);
	write_raft(d, &out);
	metrics_write(d->metrics, &out);
	write_process(d, &out);
	if (buf_failed(&out)) {
		(void)blix_fail(&err, BLIX_E_TOOBIG, "more than %u bytes of metrics", TEXT_MAX);
		http_answer_error(request, &err, NULL);
		buf_done(&out);
		return;
	}
	n = out.len;
	http_answer(request, 200, "text/plain; version=0.0.4; charset=utf-8", buf_take(&out), n);
}
