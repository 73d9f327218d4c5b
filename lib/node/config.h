/* The daemon's configuration: /etc/blix/blix.json, or what --dev implies. Unknown keys are errors.
 */
#ifndef BLIX_NODE_CONFIG_H
#define BLIX_NODE_CONFIG_H

#include "base/error.h"
#include "node/identity.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CONFIG_MICROVMS_DIR "/var/lib/microvms" /* where the host's own units have theirs */

struct config_server {
	uint64_t id;
	char *name;
	char *raft; /* Unix socket of its raft listener */
	char *api;  /* of its API: Unix socket, or HOST:PORT of a node that has certificates */
};

struct config {
	char *name;         /* of this node; default: the host name */
	bool named;         /* the file says so */
	char *cluster;      /* id shared by its servers; made at first start under --dev */
	uint64_t id;        /* of this server in `servers` */
	char *state_dir;    /* /var/lib/blix */
	char *run_dir;      /* /run/blix: one folder per VM under run_dir/vms */
	char *socket;       /* /run/blix/blix.sock */
	char *group;        /* of the socket: "blix"; "" none */
	char *microvms_dir; /* /var/lib/microvms */
	char *microvm;      /* the `microvm` command; "": the host's own where the directory is the
	                       standard one, else ours */
	char *libexec_dir;  /* where blix-shim, microvm-status, microvm and toy.elf are */
	char *gcroots_dir;  /* /nix/var/nix/gcroots/microvm */
	char *nix_config;   /* lines added to NIX_CONFIG of every child */
	char *path;         /* PATH of every child */
	char *systemd_dir;  /* /run/systemd/system: exists where systemd is the init */
	char *supervision;  /* "auto", or a row of supervisor.h */
	unsigned election_timeout_ms, heartbeat_ms;
	unsigned builds_max;        /* resolves and builds at once */
	unsigned build_deadline_ms; /* of one build */
	unsigned keep, keep_days;   /* generations of a VM: how many, how old; 0: no bound */
	uint64_t sources_bytes;     /* of packed flakes that this node keeps, all together */
	unsigned sources_grace_ms;  /* until one goes that no VM names */
	unsigned retry_ms;          /* backoff after a failed attempt, doubled each time */
	unsigned overcommit_cpu, overcommit_memory; /* per cent */
	uint32_t cpus;                              /* 0: what the machine has */
	uint64_t memory_bytes;                      /* 0: what the machine has */
	uint32_t reserved_cpus;
	uint64_t reserved_bytes;
	bool dev;
	struct node_identity
		*identity; /* of a node that made a cluster or joined one; NULL: none */
	bool waits;        /* it is of no cluster yet: lobby.h */
	struct config_server *servers;
	size_t n_servers;
	char **listen; /* IP:PORT each, for the API by TLS */
	size_t n_listen;
};

/* The group of the API's socket, when the configuration names one that exists; (gid_t)-1. */
gid_t config_group(const struct config *config);

/* The defaults above. */
void config_init(struct config *config);
void config_done(struct config *config);
/* Everything under `dir`: one server, DIR/blix.sock, DIR/microvms, DIR/run. */
void config_dev(struct config *config, const char *dir);
int config_load(struct config *config, const char *path, struct blix_error *err);
int config_parse(struct config *config, const char *text, size_t n, struct blix_error *err);
/* The part of config_finish() that makes nothing: libexec_dir, microvm and name are filled, paths
 * checked. */
int config_settle(struct config *config, const char *program, struct blix_error *err);
/* Fills what depends on others (name, libexec_dir beside the program, ids) and checks the whole. */
int config_finish(struct config *config, const char *program, struct blix_error *err);
/* Takes the identity that is on the disk; also when the lobby is done. -BLIX_E_NOTFOUND: none. */
int config_enter(struct config *config, struct blix_error *err);

#endif
