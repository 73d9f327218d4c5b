/* What one VM uses, as the kernel counts it: CPU and memory of its process, or of its cgroup where
 * it has one of its own, and the bytes of its taps.
 *
 * Files are opened once per run of a VM and read again at each sample. A file of /proc/PID that is
 * held open belongs to that process for ever: when it has ended, reading fails, whoever has the pid
 * by then. */
#ifndef BLIX_NODE_USAGE_H
#define BLIX_NODE_USAGE_H

#include "base/error.h"
#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>

/* All counted since the VM's start; what is not known is left out. */
struct usage {
	bool cpu_known, memory_known, disk_known, net_known;
	uint64_t cpu_ms, memory_bytes;
	uint64_t disk_read_bytes, disk_write_bytes; /* as its hypervisor said last */
	uint64_t net_rx_bytes, net_tx_bytes;        /* as the guest sees it */
	uint64_t sampled_ms;                        /* wall clock; 0: never */
};

/* The trees that are read; tests have their own. */
struct usage_roots {
	const char *proc;   /* "/proc" */
	const char *cgroup; /* "/sys/fs/cgroup" */
};
extern const struct usage_roots usage_roots_host;

struct usage_reader;

/* Of the process `pid` that began at start_time; `runner` is the runner's package, whose
 * share/microvm names the taps, `name` the VM's. NULL when that process is gone. */
struct usage_reader *usage_reader_open(const struct usage_roots *roots, uint64_t pid,
                                       uint64_t start_time, const char *name, const char *runner);
void usage_reader_free(struct usage_reader *reader);
bool usage_has_taps(const struct usage_reader *reader);

/* The interfaces of this network namespace, read at once for all VMs (net/dev has the counters of
 * /sys/class/net/TAP/statistics). */
struct usage_interface {
	char name[16];               /* IFNAMSIZ */
	uint64_t rx_bytes, tx_bytes; /* as the host sees it */
};
struct usage_interfaces {
	struct usage_interface *items; /* by name */
	size_t n;
};
/* *ret is initialised by it, empty when they cannot be read. */
void usage_interfaces_read(const struct usage_roots *roots, struct usage_interfaces *ret);
void usage_interfaces_done(struct usage_interfaces *interfaces);
/* Writes what it could read, and sampled_ms; disk figures stay. */
void usage_sample(struct usage_reader *reader, const struct usage_interfaces *interfaces,
                  struct usage *usage);

/* {cpuMs, memoryBytes, ..., sampledAt}; NULL when it was never sampled. */
cJSON *usage_json(const struct usage *usage);

#endif
