/* A VM: what the user wants (spec), what the log says of it (status), and its lifecycle as one
 * table.
 *
 * The state holds each VM by pointer and changes it only through state_apply(). A VM is shared with
 * a snapshot that is being written by way of `refs`; whoever wants to change it first takes a copy
 * of its own (vm_own()). Strings are never NULL: an unset one is "" (vm_text_empty()).
 */
#ifndef BLIX_CORE_VM_H
#define BLIX_CORE_VM_H

#include "base/error.h"
#include "base/limits.h"
#include "core/operation.h"
#include "core/secret.h"
#include "core/update.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* phase -> the phases that may follow. The only place that knows; docs/architecture.md prints it.
 */
#define VM_PHASES(X)                                                                               \
	X(PENDING, "Pending")     /* waits for the leader: to be resolved, then to be placed */    \
	X(RESOLVING, "Resolving") /* a node locks and evaluates the flake */                       \
	X(SCHEDULED, "Scheduled") /* placed on a node, which has not begun */                      \
	X(BUILDING, "Building")   /* microvm -c or -u runs */                                      \
	X(STARTING, "Starting")   /* the runner is being started */                                \
	X(RUNNING, "Running")     /* the runner's process lives */                                 \
	X(PAUSED, "Paused")       /* the same, and its hypervisor holds the guest's CPUs */        \
	X(STOPPING, "Stopping")   /* the guest was asked, or the runner is being ended */          \
	X(STOPPED, "Stopped")     /* no process; the directory stays */                            \
	X(FAILED, "Failed")       /* gave up; reason and message say why */                        \
	X(CRASHLOOP, "CrashLoop") /* ended again and again; waits for its next start */            \
	X(UNKNOWN, "Unknown")     /* its process cannot be identified */                           \
	X(DELETING, "Deleting")   /* a tombstone: leaves the state when every holder confirmed */

enum vm_phase {
#define X(name, text) VM_##name,
	VM_PHASES(X)
#undef X
		VM_PHASE_COUNT
};

enum vm_power { VM_POWER_RUNNING, VM_POWER_STOPPED, VM_POWER_PAUSED, VM_POWER_COUNT };

/* What follows when a runner ends that was not asked to. A host that was restarted is no such end:
 * what should run is started again then, whatever the policy. */
#define VM_RESTARTS(X)                                                                             \
	X(ON_FAILURE, "on-failure") /* the default: a guest that powers itself off stays off */    \
	X(ALWAYS, "always")                                                                        \
	X(NEVER, "never")

enum vm_restart {
#define X(name, text) VM_RESTART_##name,
	VM_RESTARTS(X)
#undef X
		VM_RESTART_COUNT
};

struct label {
	char *key; /* the name rule, but '.', '/' and '_' are allowed inside */
	char *value;
};
struct labels {
	struct label *items; /* sorted by key */
	size_t n;
};

struct vm_spec {
	char *flake;           /* the base: a flake reference without #attr */
	char *attr;            /* of nixosConfigurations; never "" */
	uint32_t cpus;         /* 0: as the flake says */
	uint64_t memory_bytes; /* 0: as the flake says; a whole number of MiB */
	char *hypervisor;      /* "": as the flake says */
	enum vm_power power;
	enum vm_restart restart;
	char *ready; /* "", "agent" or "console:TEXT" */
	char *node;  /* "" or the only node it may run on */
	bool plain;  /* the base is passed untouched */
	struct labels labels;
	struct secrets secrets; /* their names: the values are on its node */
};

/* What one evaluation found: all that placement must know. */
struct vm_resolved {
	uint32_t cpus;
	uint64_t memory_bytes;
	char *hypervisor;   /* "qemu", ... */
	char *out_path;     /* store path of the runner that this lock and spec give */
	uint64_t lock;      /* hash of the flake.lock in the state's lock table, 0: none */
	char *base_url;     /* the locked URL of the base, as the wrapper flake names it */
	uint32_t n_volumes; /* volume images kept in the VM's directory */
	uint32_t n_shares;  /* shares that the guest may write */
	uint32_t n_devices;
};

struct vm_timings {
	uint32_t queue_ms, resolve_ms, build_ms, start_ms;
	uint32_t boot_ms;  /* from the runner's start until the guest was ready */
	uint32_t ready_ms; /* of all: from the operation's begin until then */
};

/* What the runner that lives holds on its node: after an edit of the spec or the system it may be
 * more than what is wanted. */
struct vm_held {
	uint32_t cpus;
	uint64_t bytes; /* with the hypervisor's own */
};

/* What an edit of the resources began with, until it is rendered and built: it is put back when
 * that fails. */
struct vm_before {
	bool set;
	uint32_t cpus;
	uint64_t memory_bytes;
	struct vm_resolved resolved;
};

#define VM_HOLDERS_MAX    8
#define VM_CRASHES_LOOP   3     /* ends in a row that are a crash loop */
#define VM_BACKOFF_MS_MAX 60000 /* the longest pause before a start */

struct generation; /* core/generation.h */

struct vm {
	uint32_t refs;
	uint64_t uid;      /* from the state's counter: unique in the cluster, never reused */
	uint64_t version;  /* counts edits of the spec, from 1: compare-and-set */
	uint64_t revision; /* the state's revision when anything of it last changed */
	uint64_t created_ms;
	char name[LIMIT_NAME + 1];
	struct vm_spec spec;

	enum vm_phase phase;
	uint64_t phase_ms; /* cluster clock when the phase began */
	uint64_t node;     /* placed on, 0: nowhere */
	uint64_t epoch;    /* the fencing token: raised by each assignment */
	uint64_t resolver; /* the node that resolves it, 0: none */
	bool resolved_set;
	struct vm_resolved resolved;    /* of the wanted generation */
	struct vm_held held;            /* 0: nothing runs */
	struct generation *generations; /* oldest first */
	uint32_t n_generations;
	uint64_t generation; /* wanted; 0: none was locked yet */
	uint64_t generation_current, generation_booted, generation_last;
	struct vm_update update;
	struct vm_before before;
	uint64_t adopt; /* the node where its directory was before it; 0: it was made by blix */
	bool ready;
	bool secrets_given;  /* the agent of this run has them */
	bool restart;        /* Stopping, to be started again */
	bool ending;         /* Deleting, and was committed when that began */
	bool drop_volumes;   /* Deleting: its volume images go too */
	uint32_t grace_ms;   /* of the stop in progress; 0: force */
	enum blix_code code; /* why it is not as it should be; BLIX_OK: all is well */
	char *reason;
	char *message;
	char *runner; /* store path that runs, or ran last */
	uint64_t pid;
	uint64_t started_ms;
	uint32_t restarts; /* starts that nobody asked for: after an end, or after a failed attempt
	                    */
	uint32_t crashes;  /* ends in a row, no stable run between them */
	uint64_t retry_ms; /* cluster clock of the start after the last of them */
	int32_t exit_code; /* of the last run; 128+n for signal n; -1: never ended */
	struct vm_timings timings;
	uint64_t operation;               /* id of the operation under way or last ended */
	char *operation_verb;             /* "create", "start", ... */
	uint64_t operation_ms;            /* cluster clock at its begin */
	struct operation_marks marks;     /* the steps it took */
	uint64_t holders[VM_HOLDERS_MAX]; /* nodes that may keep something of it */
	uint32_t n_holders;
	uint64_t rejected[VM_HOLDERS_MAX]; /* nodes where it failed for good */
	uint32_t n_rejected;
};

const char *vm_phase_name(enum vm_phase phase);
bool vm_may_move(enum vm_phase from, enum vm_phase to);
/* Moves vm to `to` and notes the time; asserts that the table allows it. A move to the same phase
 * keeps the time. */
void vm_move(struct vm *vm, enum vm_phase to, uint64_t clock_ms);
const char *vm_power_name(enum vm_power power);
const char *vm_restart_name(enum vm_restart restart);
int vm_restart_parse(const char *text, enum vm_restart *ret, struct blix_error *err);
/* True when a runner that ended by itself is started again; clean: with exit code 0. */
bool vm_restarts(const struct vm_spec *spec, bool clean);
/* True in the phases that hold CPU and memory on vm->node. */
bool vm_is_committed(const struct vm *vm);
/* What it holds there: the larger of what is wanted and what runs. */
struct vm_held vm_commits(const struct vm *vm);
/* Data in its directory ties it to vm->node; or it was adopted there, and blix has not run it yet.
 */
bool vm_is_pinned(const struct vm *vm);
bool vm_held_by(const struct vm *vm, uint64_t node);
void vm_hold(struct vm *vm, uint64_t node);
void vm_release(struct vm *vm, uint64_t node);
/* What a runner costs beside the guest's memory, by hypervisor (measured: docs/operations.md). */
uint64_t vm_overhead_bytes(const char *hypervisor);

struct vm *vm_new(void);      /* every string "", refs 1 */
void vm_unref(struct vm *vm); /* frees at 0; NULL is fine */
struct vm *vm_ref(struct vm *vm);
/* *slot itself when nobody else holds it, else a copy that replaces it. */
struct vm *vm_own(struct vm **slot);

void vm_spec_init(struct vm_spec *spec); /* strings "", power Running */
void vm_spec_done(struct vm_spec *spec);
void vm_spec_copy(struct vm_spec *to, const struct vm_spec *from); /* `to` must be fresh */
/* Everything that can be said about a spec without a cluster; used by client, API and state alike.
 */
int vm_spec_check(const struct vm_spec *spec, struct blix_error *err);
/* A flake reference that blix accepts: github:, gitlab:, sourcehut:, git+https:, git+ssh:, https:
 * (tarballs) and path:/absolute, without #, control or shell characters. */
int vm_flake_check(const char *flake, struct blix_error *err);
void vm_resolved_done(struct vm_resolved *resolved);
void vm_resolved_copy(struct vm_resolved *to, const struct vm_resolved *from); /* `to` fresh */

void labels_done(struct labels *labels);
/* Replaces the value of an existing key. */
int labels_set(struct labels *labels, const char *key, const char *value, struct blix_error *err);
const char *labels_get(const struct labels *labels, const char *key);
/* Selector "a=b,c=d": all must match. */
int labels_match(const struct labels *labels, const char *selector, bool *ret,
                 struct blix_error *err);

#endif
