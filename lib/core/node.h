/* A node: a host that runs VMs (and, as a server, keeps the log). Strings are never NULL.
 *
 * `phase` is what the leader observes, but for Joining; the rest of the node's own fields are what
 * a person wants of it, with `version` for compare-and-set. A node that left the cluster is no
 * record any more: the state remembers its id (state.h), which is never given again. */
#ifndef BLIX_CORE_NODE_H
#define BLIX_CORE_NODE_H

#include "base/error.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NODE_ID_MAX ((1ULL << 52) - 1) /* exact in JSON */

#define DIGEST_LENGTH 64 /* a SHA-256 in lower-case hex */
#define SERIAL_LENGTH 32 /* of a certificate, the same way */

enum node_phase {
	NODE_READY,       /* heard of, and open to work */
	NODE_OFFLINE,     /* not heard of */
	NODE_JOINING,     /* has its certificate, and did not say yet what it is */
	NODE_MAINTENANCE, /* heard of; gets no work, and no vote if another can have it */
	NODE_PHASE_COUNT
};

enum node_role { NODE_SERVER, NODE_WORKER, NODE_ROLE_COUNT };

/* Of a server: whether the leader may choose it as a voter (core/membership.h). */
enum node_vote {
	NODE_VOTE_AUTO,    /* the leader chooses */
	NODE_VOTE_VOTER,   /* chosen before others */
	NODE_VOTE_STANDBY, /* a voter only if there is no other at all */
	NODE_VOTE_COUNT
};

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
	char *addresses;   /* where its API is reached: "HOST:PORT HOST:PORT", best first; "" */
	char *raft;        /* where its consensus is reached, of a server; "" */
	uint32_t features; /* the feature level that its binary knows (command.h) */
};

struct node {
	uint32_t refs;
	uint64_t id;      /* random, 1 to NODE_ID_MAX, or of the static list; never reused */
	uint64_t version; /* counts edits by people, from 1: compare-and-set */
	uint64_t revision;
	uint64_t created_ms;
	uint64_t phase_ms;
	enum node_phase phase;
	char name[LIMIT_NAME + 1];
	enum node_role role;
	enum node_vote vote;
	bool schedulable; /* false: cordoned, no new VM is placed on it */
	bool maintenance;
	bool leaving;                   /* a server that is to go, and may still be in the log */
	char zone[LIMIT_NAME + 1];      /* what fails together; "" */
	char serial[SERIAL_LENGTH + 1]; /* of its certificate, "" none */
	char key[DIGEST_LENGTH + 1];    /* of the public key that it joined with, "" none */
	struct node_facts facts;
	/* Sums over its committed VMs, kept by the state, so that placing needs no scan. */
	uint64_t committed_cpus;
	uint64_t committed_bytes;
	uint32_t vms; /* committed ones */
};

const char *node_phase_name(enum node_phase phase);
const char *node_role_name(enum node_role role);
const char *node_vote_name(enum node_vote vote);
int node_role_parse(const char *text, enum node_role *ret, struct blix_error *err);
int node_vote_parse(const char *text, enum node_vote *ret, struct blix_error *err);
/* Heard of: it can be told to do things. */
bool node_is_up(const struct node *node);
/* May be given something new to do, of any VM. */
bool node_takes_work(const struct node *node);
/* What a node says of itself, checked as an outsider's word: hosts and ports, or paths of Unix
 * sockets. */
int node_facts_check(const struct node_facts *facts, struct blix_error *err);
/* An address: a Unix socket's path when it begins with '/', else HOST:PORT. */
int node_address_check(const char *address, size_t n, struct blix_error *err);
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
