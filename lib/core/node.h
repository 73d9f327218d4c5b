/* A node: a host that runs VMs (and, as a server, votes). Strings are never NULL. */
#ifndef BLIX_CORE_NODE_H
#define BLIX_CORE_NODE_H

#include "base/error.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum node_phase { NODE_READY, NODE_OFFLINE, NODE_PHASE_COUNT };

/* What a node says of itself when it starts, and again when it changes. */
struct node_facts {
	uint32_t cpus;
	uint64_t memory_bytes;
	uint32_t reserved_cpus; /* kept for the host */
	uint64_t reserved_bytes;
	uint32_t overcommit_cpu;    /* per cent of (cpus - reserved): 400 = four VM cpus on one */
	uint32_t overcommit_memory; /* per cent, 100 = none */
	uint32_t builds_max;        /* flakes it resolves or builds at once */
	char *hypervisors;          /* "qemu firecracker": those found, in order */
	char *accel;                /* "kvm" or "tcg", found by booting; "" while unknown */
	char *supervision;          /* "shim" */
	char *microvm_command;      /* absolute path */
	char *version;              /* of blixd */
	char *boot_id;
};

struct node {
	uint32_t refs;
	uint64_t id; /* of its server in the static list; never reused */
	uint64_t revision;
	uint64_t created_ms;
	uint64_t phase_ms;
	enum node_phase phase;
	char name[LIMIT_NAME + 1];
	struct node_facts facts;
	/* Sums over its committed VMs, kept by the state, so that placing needs no scan. */
	uint64_t committed_cpus;
	uint64_t committed_bytes;
	uint32_t vms; /* committed ones */
};

const char *node_phase_name(enum node_phase phase);
/* capacity x overcommit - reserve; never below 0 */
uint64_t node_usable_cpus(const struct node *node);
uint64_t node_usable_bytes(const struct node *node);
bool node_has_hypervisor(const struct node *node, const char *hypervisor);

struct node *node_new(void);
struct node *node_ref(struct node *node);
void node_unref(struct node *node);
struct node *node_own(struct node **slot);
void node_facts_init(struct node_facts *facts);
void node_facts_done(struct node_facts *facts);
void node_facts_copy(struct node_facts *to, const struct node_facts *from);
bool node_facts_equal(const struct node_facts *a, const struct node_facts *b);

#endif
