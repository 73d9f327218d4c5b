/* A running hypervisor, whatever its kind: how it is, pausing it, and the polite and the plain way
 * to end it. Every call blocks, within its deadline, and may be made from any thread.
 *
 * What a kind cannot do, and why, vmm_cannot() tells; such a call fails with REFUSED, reason
 * `unsupported`, and those words. */
#ifndef BLIX_VMM_VMM_H
#define BLIX_VMM_VMM_H

#include "base/error.h"

#include <stdbool.h>

enum vmm_kind {
	VMM_UNKNOWN,
	VMM_QEMU,
	VMM_CLOUD_HYPERVISOR,
	VMM_FIRECRACKER,
	VMM_CROSVM,
	VMM_KVMTOOL,
	VMM_STRATOVIRT,
	VMM_ALIOTH,
	VMM_VFKIT,
};

/* The text of a runner's share/microvm/hypervisor, with or without white space after it. */
enum vmm_kind vmm_kind_parse(const char *text);
const char *vmm_kind_name(enum vmm_kind kind); /* "unknown" for VMM_UNKNOWN */
/* True when vmm_status can ask this kind. */
bool vmm_kind_answers(enum vmm_kind kind);

enum vmm_operation {
	VMM_STATUS,
	VMM_PAUSE,
	VMM_RESUME,
	VMM_POWER_BUTTON,
	VMM_QUIT,
	VMM_COUNTERS,
	VMM_OPERATION_COUNT
};

/* NULL when this kind can do it, else why not, as the end of a sentence: "crosvm's ...". */
const char *vmm_cannot(enum vmm_kind kind, enum vmm_operation operation);

/* How the agent in the guest is reached: by a socket in the VM's directory, which is the port
 * itself, or, with a vsock port, speaks Firecracker's and Cloud Hypervisor's CONNECT first. */
struct vmm_agent_way {
	const char *socket;
	unsigned vsock_port; /* 0: none */
};

const struct vmm_agent_way *vmm_agent_way(enum vmm_kind kind);

struct vmm_status {
	char text[32]; /* lower case, words joined by '-': "running", "paused", "not-started" ... */
};

int vmm_status(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct vmm_status *ret,
               struct blix_error *err);
/* Asks the guest to shut down. Success says that the hypervisor took the request; whether the guest
 * heeds it, only the end of the process tells.
 *
 * QEMU gets both an ACPI power button and Ctrl-Alt-Del: microvm.nix's guests are told by the keys
 * (systemd then reboots, which -no-reboot makes an exit), others by the button; QEMU takes the
 * button even when the machine has no ACPI, so its success proves nothing. */
int vmm_power_button(enum vmm_kind kind, const char *socket, unsigned deadline_ms,
                     struct blix_error *err);
/* True when the guest can be asked by the runner's own bin/microvm-shutdown alone, which returns at
 * once: crosvm, whose program presses the button. */
bool vmm_runner_shuts_down(enum vmm_kind kind);
/* Stops the guest's CPUs, and lets them go on. A guest that is so already is success, whatever the
 * hypervisor thinks of being asked twice. After TIMEOUT and `closed` only vmm_status tells. */
int vmm_pause(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct blix_error *err);
int vmm_resume(enum vmm_kind kind, const char *socket, unsigned deadline_ms,
               struct blix_error *err);
/* What the hypervisor counts since it started, summed over devices. What a kind, or this machine of
 * it, does not tell is not known. */
struct vmm_counters {
	bool disk_known, net_known, memory_known, cpus_known;
	uint64_t disk_read_bytes, disk_write_bytes;
	uint64_t net_rx_bytes, net_tx_bytes; /* as the guest sees it */
	uint64_t memory_bytes;               /* left to the guest by the balloon */
	uint64_t cpus;
};

int vmm_counters(enum vmm_kind kind, const char *socket, unsigned deadline_ms,
                 struct vmm_counters *ret, struct blix_error *err);
/* Ends the hypervisor without asking the guest. */
int vmm_quit(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct blix_error *err);

#endif
