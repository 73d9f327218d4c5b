/* Commands: what the log says, as structs and as bytes.
 *
 * The bytes are versioned and strict: little endian, strings length-prefixed, nothing may follow
 * the last field, an unknown operation or version is an error that stops the node (an older binary
 * must not guess). command_decode() borrows nothing: the struct owns its strings.
 */
#ifndef BLIX_CORE_COMMAND_H
#define BLIX_CORE_COMMAND_H

#include "base/buf.h"
#include "core/member.h"
#include "core/vm.h"

#define COMMAND_VERSION 4

/* The feature level that this binary knows. A command newer than the cluster's level is refused;
 * the level rises only when every server's binary knows it (COMMAND_FEATURE_LEVEL), and a binary
 * that finds a higher one than its own in the log or a snapshot stops.
 *   1  VMs, nodes, sessions
 *   2  membership: the cluster's record, tokens, joining and leaving, people, denials */
#define FEATURE_LEVEL 2u

enum command_kind {
	COMMAND_VM_CREATE = 1,
	COMMAND_VM_POWER = 2, /* start, stop, restart, pause, resume */
	COMMAND_VM_DELETE = 3,
	COMMAND_VM_RESOLVE = 4,  /* the leader: this node resolves it */
	COMMAND_VM_RESOLVED = 5, /* a node: here is what I found */
	COMMAND_VM_ASSIGN = 6,   /* the leader: it runs on this node */
	COMMAND_VM_VERDICT = 7,  /* the leader: no node fits, and why */
	COMMAND_VM_REPORT = 8,   /* a node: what I saw */
	COMMAND_NODE_REPORT = 9, /* a node: who I am */
	COMMAND_NODE_PHASE = 10, /* the leader: it is there, or not */
	COMMAND_SESSION_EXPIRE = 11,
	COMMAND_VM_UPDATE = 12,       /* update, rollback */
	COMMAND_VM_UPDATE_DUE = 13,   /* the leader: the trial of a new system is over */
	COMMAND_GENERATION_DROP = 14, /* the leader: one more than is to be kept */
	COMMAND_VM_SET = 15,          /* cpus, memory, restart policy, labels */
	COMMAND_CLUSTER_INIT = 16,    /* its first server: this is the cluster, and I am its node */
	COMMAND_CLUSTER_SET = 17,     /* how many voters */
	COMMAND_FEATURE_LEVEL = 18,   /* the leader: every server knows this much */
	COMMAND_TOKEN_CREATE = 19,    /* a node of this name may join */
	COMMAND_TOKEN_DELETE = 20,
	COMMAND_TOKEN_EXPIRE = 21,     /* the leader: its time is over */
	COMMAND_NODE_JOIN = 22,        /* the server that a joiner asked: consumes the token */
	COMMAND_NODE_SET = 23,         /* cordon, maintenance, vote, zone */
	COMMAND_NODE_CERTIFICATE = 24, /* a node has a new one */
	COMMAND_NODE_REMOVE = 25,      /* a person: it is to go, or is dead */
	COMMAND_NODE_LEFT = 26,        /* the leader: the log has no such member any more */
	COMMAND_USER_CREATE = 27,
	COMMAND_USER_SET = 28,    /* another role, and the certificate that says so */
	COMMAND_USER_DELETE = 29, /* its certificate is denied from now on */
	COMMAND_DENY = 30,        /* a certificate, or all of a node's */
	COMMAND_KIND_COUNT
};

enum vm_verb {
	VM_VERB_START = 1,
	VM_VERB_STOP = 2,
	VM_VERB_RESTART = 3,
	VM_VERB_PAUSE = 4,
	VM_VERB_RESUME = 5,
	VM_VERB_COUNT
};

/* What a set changes; labels are those that its spec has. */
enum vm_set_field { VM_SET_CPUS = 1, VM_SET_MEMORY = 2, VM_SET_RESTART = 4, VM_SET_ALL = 7 };

/* The steps of a stop, in order. */
enum vm_stop { VM_STOP_NONE, VM_STOP_ASK, VM_STOP_TERM, VM_STOP_KILL, VM_STOP_COUNT };

/* What a node saw of a VM. Each names the (uid, epoch) it is about and is dropped when that is not
 * the current one; GONE is about a holder and needs only the uid. */
enum vm_report_kind {
	VM_REPORT_BUILDING = 1, /* microvm -c or -u began */
	VM_REPORT_STARTING = 2, /* built; the runner is being started. runner, build_ms */
	VM_REPORT_RUNNING = 3,  /* pid, started_ms, runner, start_ms */
	VM_REPORT_READY = 4,    /* boot_ms */
	VM_REPORT_STOPPED = 5,  /* it was asked to stop and its process is gone. exit_code */
	VM_REPORT_EXITED = 6,   /* it ended by itself. exit_code, stable, wait_ms; code, reason and
	                           message unless it ended cleanly */
	VM_REPORT_RETRY = 7,    /* an attempt failed, another follows. code, reason, message */
	VM_REPORT_FAILED = 8,   /* the node gave up. code, reason, message */
	VM_REPORT_UNKNOWN = 9,  /* a process is there that cannot be identified. reason, message */
	VM_REPORT_GONE = 10,    /* nothing of it is left on this node */
	VM_REPORT_STABLE = 11,  /* after crashes it has run long enough to count as well */
	VM_REPORT_BUILT = 12,   /* runner is built while another runs. build_ms */
	VM_REPORT_NOT_BUILT = 13, /* it could not be. code, reason, message */
	VM_REPORT_REPAIRED = 14,  /* of its image: message says what */
	VM_REPORT_STOP = 15,      /* a step of its stop begins. stop */
	VM_REPORT_PAUSED = 16,    /* its hypervisor holds it, or could not: code, reason, message */
	VM_REPORT_RESUMED = 17,   /* the same, the other way */
	VM_REPORT_SECRETS = 18,   /* its guest has them, or not yet: code, reason, message */
	VM_REPORT_FETCHING = 19,  /* the packed flake that it is made of comes to the node */
	VM_REPORT_KIND_COUNT
};

/* What a set of a node changes. */
enum node_set_field {
	NODE_SET_SCHEDULABLE = 1,
	NODE_SET_MAINTENANCE = 2,
	NODE_SET_VOTE = 4,
	NODE_SET_ZONE = 8,
	NODE_SET_ALL = 15
};

struct vm_report {
	enum vm_report_kind kind;
	uint64_t uid, node, epoch;
	enum blix_code code;
	char *reason;
	char *message;
	char *runner;
	uint64_t pid;
	uint64_t started_ms;  /* wall clock, as the supervisor noted it */
	int32_t exit_code;    /* of the run that ended; -1: none did */
	uint32_t duration_ms; /* build_ms, start_ms or boot_ms */
	uint32_t wait_ms;     /* the pause before the next start, if there is to be one */
	bool stable;          /* the run that ended was long, or ready */
	enum vm_stop stop;
};

struct command {
	enum command_kind kind;
	uint64_t session,
		request; /* 0, 0: a command of the cluster itself, idempotent by its fields */
	char *principal; /* who: "uid:0", "node:7", "user:ann"; "" for the cluster's own. A node is
	                    refused whatever is not about itself. */
	uint64_t digest; /* XXH3-64 of the bytes behind the principal, made by command_decode: tells
	                    a repeated request from another under its number, and goes into the
	                    state's chain; 0: it never was bytes */
	union {
		struct {
			char name[LIMIT_NAME + 1];
			struct vm_spec spec;
			uint64_t adopt; /* the node whose directory it takes over; 0: none */
		} vm_create;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version; /* 0: any */
			enum vm_verb verb;
			uint32_t grace_ms; /* stop and restart; 0: force */
		} vm_power;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version;
			uint32_t grace_ms;
			bool volumes; /* its volume images too */
		} vm_delete;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version;
			bool rollback;
			uint64_t generation; /* of a rollback; 0: the one before */
			char *flake, *attr;  /* of an update; "": as in the spec */
			enum update_restart restart;
			bool auto_rollback;
			uint32_t timeout_ms, grace_ms;
		} vm_update;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version;
			uint32_t fields; /* enum vm_set_field */
			struct vm_spec spec;
		} vm_set;
		struct {
			uint64_t uid, operation;
		} vm_update_due;
		struct {
			uint64_t uid, number;
		} generation_drop;
		struct {
			uint64_t uid, node;
		} vm_resolve;
		struct {
			uint64_t uid, node;
			enum blix_code code; /* BLIX_OK: resolved and lock are set */
			char *reason, *message;
			uint32_t resolve_ms;
			struct vm_resolved resolved;
			struct buf lock; /* the flake.lock, "" none */
		} vm_resolved;
		struct {
			uint64_t uid, node, epoch; /* epoch: the one it replaces */
		} vm_assign;
		struct {
			uint64_t uid;
			char *reason, *message;
		} vm_verdict;
		struct vm_report vm_report;
		struct {
			uint64_t id;
			char name[LIMIT_NAME + 1];
			struct node_facts facts;
		} node_report;
		struct {
			uint64_t id;
			enum node_phase phase;
		} node_phase;
		struct {
			uint64_t before_ms; /* cluster clock: sessions idle since then go */
		} session_expire;
		struct {
			char id[CLUSTER_ID_LENGTH + 1];
			char ca[DIGEST_LENGTH + 1];
			uint32_t level; /* what the first server knows */
			uint32_t voters;
			uint64_t node; /* the first server; its record is made if there is none */
			char name[LIMIT_NAME + 1];
			char zone[LIMIT_NAME + 1];
			char serial[SERIAL_LENGTH + 1];
		} cluster_init;
		struct {
			uint64_t if_version;
			uint32_t voters;
		} cluster_set;
		struct {
			uint32_t level; /* one more than the cluster's at least */
		} feature_level;
		/* The secret is made by whoever asks and shown by it alone: a repeated request
		 * then says the same, and its answer needs to hold nothing. A token that has the
		 * name already is replaced; result.uid is the new one's. */
		struct {
			char name[LIMIT_NAME + 1]; /* of the node that may join */
			enum node_role role;
			char hash[DIGEST_LENGTH + 1]; /* SHA-256 of the secret */
			uint64_t ttl_ms;              /* 1 to LIMIT_TOKEN_TTL */
		} token_create;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t uid; /* 0: whichever has the name */
		} token_delete;
		struct {
			uint64_t uid;
		} token_expire;
		/* Makes the node, in phase Joining, with the token's role. result.uid is its id:
		 * `id`, or, when this key has consumed the token before (a crash kept the answer
		 * from it), the id it got then; whoever signs for that id then tells the serial by
		 * COMMAND_NODE_CERTIFICATE. */
		struct {
			char token[DIGEST_LENGTH + 1]; /* SHA-256 of the secret that was shown */
			uint64_t id; /* random: proposed by the server that was asked */
			char name[LIMIT_NAME + 1];   /* the token's */
			char key[DIGEST_LENGTH + 1]; /* SHA-256 of the joiner's public key */
			char serial[SERIAL_LENGTH + 1];
			char zone[LIMIT_NAME + 1]; /* "" none */
			struct node_facts facts;   /* addresses, raft, features and version count */
		} node_join;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version;
			uint32_t fields; /* enum node_set_field */
			bool schedulable, maintenance;
			enum node_vote vote;
			char zone[LIMIT_NAME + 1];
		} node_set;
		struct {
			uint64_t id;
			char serial[SERIAL_LENGTH + 1];
		} node_certificate;
		/* A worker is gone with it; a server when the leader has taken it out of the log. A
		 * node that holds VMs is kept, unless a person says that it is dead (`dead`) and
		 * nobody hears of it either: its VMs are then free to start elsewhere. */
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version;
			bool dead;
		} node_remove;
		struct {
			uint64_t id;
		} node_left;
		struct {
			char name[LIMIT_NAME + 1];
			enum user_role role;
			char serial[SERIAL_LENGTH + 1];
		} user_create;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version;
			enum user_role role;
			char serial[SERIAL_LENGTH + 1]; /* the former is denied */
		} user_set;
		struct {
			char name[LIMIT_NAME + 1];
			uint64_t if_version;
		} user_delete;
		/* For good: there is no way back but another certificate, or to join anew. */
		struct {
			char serial[SERIAL_LENGTH + 1]; /* "" none */
			uint64_t node;                  /* 0 none; one of both */
		} deny;
	};
};

void command_init(struct command *command, enum command_kind kind);
void command_done(struct command *command);
/* The least level of the cluster at which this command is proposed and applied. */
uint32_t command_level(enum command_kind kind);
/* Appends the bytes; -BLIX_E_TOOBIG when they pass the buffer's cap. */
int command_encode(const struct command *command, struct buf *out, struct blix_error *err);
/* *command is initialised by it, on success only. */
int command_decode(const uint8_t *bytes, size_t n, struct command *command, struct blix_error *err);

#endif
