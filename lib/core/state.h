/* The replicated state: everything the log says, and the one function that changes it.
 *
 * state_apply() is deterministic: it reads nothing but its arguments. Objects are held in sorted
 * arrays, so that a snapshot and a hash have one order. Ids, operation ids and revisions come from
 * one 64-bit counter, raised once per command that changes something.
 *
 * Readers may keep `const struct vm *` only until the next apply.
 */
#ifndef BLIX_CORE_STATE_H
#define BLIX_CORE_STATE_H

#include "core/audit.h"
#include "core/command.h"
#include "core/result.h"

/* Why a command was refused: with command_result.code, the API makes words of it. */
enum refusal {
	REFUSAL_NONE,
	REFUSAL_SESSION_FORGOTTEN, /* the request number left the window, or the session expired */
	REFUSAL_SESSION_GAP,       /* request numbers must be consecutive */
	REFUSAL_FULL,              /* one of the limits on how many there may be */
	REFUSAL_BAD_SPEC,
	REFUSAL_VM_EXISTS,
	REFUSAL_VM_MISSING,
	REFUSAL_VM_DELETING,
	REFUSAL_VM_VERSION,
	REFUSAL_STALE, /* a report or decision about something that has moved on */
	REFUSAL_NODE_MISSING,
	REFUSAL_NO_ROOM,
	REFUSAL_VM_NOT_UP,  /* neither Running nor Paused */
	REFUSAL_NODE_NAME,  /* the name belongs to another node */
	REFUSAL_UPDATING,   /* the system that an update chose is being booted */
	REFUSAL_UNRESOLVED, /* its first system is not known yet */
	REFUSAL_GENERATION_MISSING,
	REFUSAL_NO_EARLIER, /* generation */
	REFUSAL_UNKNOWN_COMMAND,
	REFUSAL_SESSION_OTHER, /* the request number stands for another request */
	REFUSAL_VERSION,       /* of a node, user or the cluster itself */
	REFUSAL_FEATURE,       /* the cluster's feature level is below the command's */
	REFUSAL_FEATURE_OLD,   /* the joiner's binary is below the cluster's level */
	REFUSAL_NOT_YOURS,     /* a node spoke for another, is denied or has left */
	REFUSAL_NO_CLUSTER,    /* its servers are those of the configuration */
	REFUSAL_OTHER_CLUSTER, /* it is another one already */
	REFUSAL_BAD_MEMBER,    /* a name, id, hash, serial, address or number is not valid */
	REFUSAL_TOKEN_MISSING,
	REFUSAL_TOKEN_USED, /* by another key */
	REFUSAL_TOKEN_EXPIRED,
	REFUSAL_TOKEN_NAME, /* it is for a node of another name */
	REFUSAL_NODE_LEFT,  /* the id is of a node that left, or denied */
	REFUSAL_NODE_ID,    /* the id is taken */
	REFUSAL_NODE_USED,  /* VMs are on it */
	REFUSAL_NODE_ALIVE, /* it is heard of: not dead */
	REFUSAL_LAST_SERVER,
	REFUSAL_NOT_SERVER, /* a vote is for servers */
	REFUSAL_USER_EXISTS,
	REFUSAL_USER_MISSING,
	REFUSAL_COUNT
};

struct event {
	uint64_t revision;
	uint64_t clock_ms;
	uint64_t uid;
	char kind[8]; /* "vm", "node", "user", "cluster" */
	char name[LIMIT_NAME + 1];
	char reason[40]; /* "vm-created", "vm-running", ... : docs/operations.md lists them */
	char message[200];
};

/* A flake.lock shared by the generations that were resolved with it, and, as sessions are, with
 * views: `refs` counts those who hold it. */
struct lock {
	uint32_t refs;
	uint64_t hash; /* XXH3-64 of text, never 0 */
	uint32_t users;
	char *text;
};

struct session_result {
	struct command_result result;
	uint64_t digest; /* of the command */
};

struct session {
	uint32_t refs;
	uint64_t id;
	uint64_t last;    /* highest request number applied */
	uint64_t used_ms; /* cluster clock of the last request */
	uint32_t n;       /* results kept: of requests last-n+1 .. last */
	uint32_t size;
	struct session_result *results;
};

/* What servers compare while they run: a hash over every command applied and what came of it, noted
 * at every STATE_CHAIN-th. It costs nothing to speak of; that the states themselves are equal shows
 * in state_hash(). */
#define STATE_CHAIN       256u
#define STATE_CHAIN_MARKS 16u

struct state_chain {
	uint64_t value;
	uint64_t count;                    /* of commands */
	uint64_t marks[STATE_CHAIN_MARKS]; /* the value at count 256 k is at (k - 1) % 16 */
};

struct state {
	uint64_t revision;
	uint64_t clock_ms; /* the cluster clock: wall time at the first entry, then the leaders'
	                      elapsed */
	uint64_t clock_jump_ms; /* how far the last leader's wall clock is off; only an alarm */
	struct vm **vms;        /* by name */
	size_t n_vms, size_vms;
	struct vm **by_uid;  /* the same VMs, by uid */
	struct node **nodes; /* by id */
	size_t n_nodes;
	struct lock **locks; /* by hash */
	size_t n_locks;
	struct session **sessions; /* by id */
	size_t n_sessions, size_sessions;
	struct event *events; /* a ring: the newest at events[(first + n - 1) % LIMIT_EVENTS] */
	size_t n_events, first_event, size_events;
	uint64_t phases[VM_PHASE_COUNT]; /* how many VMs are in each phase */
	uint64_t updates;                /* VMs whose system is being changed */
	uint64_t generations;            /* of all VMs together */
	struct members members;
	struct audit audit;
	struct state_chain chain;
};

struct state *state_new(void);
void state_free(struct state *state);

/* Begins a log entry: advances the cluster clock by what the leader measured. UINT64_MAX: it could
 * not, as at the very first entry or after a restart of all servers; then its wall clock is the
 * best there is, but time never goes back. */
void state_begin(struct state *state, uint64_t elapsed_ms, uint64_t wall_ms);
void state_apply(struct state *state, const struct command *command, struct command_result *ret);

/* What is remembered of a request; NULL: nothing, or it has not come yet. */
const struct session_result *state_outcome(const struct state *state, uint64_t session,
                                           uint64_t request);

/* The chain's value after `count` commands, a multiple of STATE_CHAIN. False: not reached, or too
 * long ago. Two servers that both know it must agree. */
bool state_chain_at(const struct state *state, uint64_t count, uint64_t *ret);
/* The newest such count; 0: none yet. */
uint64_t state_chain_newest(const struct state *state);

/* True when whoever shows this certificate is to be refused: node 0 and serial "" stand for none.
 */
bool state_denied(const struct state *state, uint64_t node, const char *serial);
/* True when members come and go by commands; false: they are those of the configuration. */
bool state_is_managed(const struct state *state);
/* An older state is put back (offline): a new incarnation of the cluster, which its nodes must be
 * told to accept. */
void state_restored(struct state *state);

/* When the leader has to decide about the trial of a new system, by the cluster's clock; 0: never.
 */
uint64_t update_due_ms(const struct vm *vm);

/* Lookup; NULL when absent. */
const struct vm *state_vm(const struct state *state, const char *name);
const struct vm *state_vm_uid(const struct state *state, uint64_t uid);
const struct node *state_node(const struct state *state, uint64_t id);
const struct node *state_node_named(const struct state *state, const char *name);
const char *state_lock(const struct state *state, uint64_t hash);
/* The i-th event, oldest first. */
const struct event *state_event(const struct state *state, size_t i);

/* A view shares the objects with the state and does not change: for a snapshot written elsewhere.
 */
struct state *state_view(struct state *state);
void state_view_free(struct state *view);
/* Snapshot bytes: the same state gives the same bytes. */
int state_encode(const struct state *state, struct buf *out, struct blix_error *err);
/* Replaces the contents of `state`; on failure it is unchanged. */
int state_decode(struct state *state, const uint8_t *bytes, size_t n, struct blix_error *err);
/* XXH3-64 of state_encode()'s bytes. */
uint64_t state_hash(const struct state *state);

/* The words for a refusal, for error objects. */
int refusal_error(const struct command_result *result, const char *subject, struct blix_error *err);

#endif
