/* The words and the environment of every program that deals with microVMs: `microvm`, `nix`,
 * `blix-shim`, `microvm-status`. Flags come first, one name per call, and nothing of our own
 * environment leaks into a child. */
#ifndef BLIX_MICROVM_COMMAND_LINE_H
#define BLIX_MICROVM_COMMAND_LINE_H

#include "exec/argv.h"

#include <stdbool.h>
#include <stdint.h>

/* Strings are borrowed from the configuration and live as long as it does. */
struct microvm_host {
	const char *microvm; /* absolute paths of the programs */
	const char *status;
	const char *shim;
	const char *path; /* PATH of every child */
	const char *home; /* a private one: Nix keeps its caches there */
	const char *nix_config;
	const char *microvms_dir;
	const char *gcroots_dir;
	const char *run_dir;
	const char *state_dir;
	const char *cgroups;     /* beginning of the names of control groups; NULL: no cgroup v2 */
	const char *systemd_dir; /* exists where systemd is the init */
	bool single_user;        /* nobody but us can build here: no daemon, no build users */
};

/* Looks for a nix-daemon socket and the group of build users. */
bool microvm_single_user(void);

/* The host's own `microvm` in PATH, the caller's to free; NULL when there is none. */
char *microvm_find(const char *path);

/* tmp_dir: the call's own TMPDIR, NULL for none. accel: "kvm", "tcg" or "" for the runner. */
void microvm_env(const struct microvm_host *host, const char *tmp_dir, const char *accel,
                 struct argv *env);
void microvm_argv_create(const struct microvm_host *host, const char *flake_dir, const char *name,
                         struct argv *argv);
void microvm_argv_update(const struct microvm_host *host, const char *name, struct argv *argv);
/* name NULL: all VMs of the host. */
void microvm_argv_status(const struct microvm_host *host, const char *name, struct argv *argv);
/* blix-shim ... -- microvm -r NAME */
void microvm_argv_start(const struct microvm_host *host, const char *name, uint64_t uid,
                        uint64_t epoch, struct argv *argv);

void nix_argv_version(struct argv *argv);
/* refresh: what Nix fetched a while ago does not count. */
void nix_argv_metadata(const char *flake, bool refresh, struct argv *argv);
/* The one whitelisted evaluation of the wrapper in `flake_dir`; writes flake.lock there. */
void nix_argv_eval(const char *flake_dir, const char *name, struct argv *argv);

#endif
