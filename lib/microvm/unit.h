/* systemd's side of a microVM: the words of systemctl and systemd-run, what `systemctl show`
 * answers, and the text of a drop-in. Two kinds of unit:
 *
 *   microvm@NAME.service     the host's own, as the NixOS module of microvm.nix makes it; blix adds
 *                            a drop-in under SYSTEMD_DIR and leaves the rest as it is
 *   blix-vm-NAME.service     a transient one, where the host has no such units
 *
 * A unit is a VM's by its working directory, and ours by BLIX_UID in its environment.
 */
#ifndef BLIX_MICROVM_UNIT_H
#define BLIX_MICROVM_UNIT_H

#include "microvm/command_line.h"

enum unit_kind { UNIT_HOST, UNIT_TRANSIENT };

/* What systemd says of one unit. */
struct unit_state {
	char *load, *active, *sub; /* "loaded", "active", "running" */
	char *fragment;            /* its file, "" none */
	char *drop_ins, *environment, *directory;
	char *invocation; /* of its run, "" none: another one has another */
	bool stale;       /* its files changed since systemd read them */
	uint64_t main_pid;
};

/* Only such paths need no quoting in a unit. */
bool unit_path_is_plain(const char *path);
/* The caller's to free. */
char *unit_name(enum unit_kind kind, const char *name);
char *unit_drop_in_dir(const struct microvm_host *host, const char *name);
char *unit_drop_in_path(const struct microvm_host *host, const char *name);
/* Restart=no since blix restarts; the console is the terminal that microvm-blix-console@NAME holds;
 * the end to RUN/exit.json. Then the unit is stopped although it has ended: only that takes its
 * taps, virtiofsd and console down. accel may be "". */
char *unit_drop_in(const struct microvm_host *host, const char *name, uint64_t uid, uint64_t epoch,
                   const char *accel, const char *systemctl);
/* The unit that holds the terminals of all such VMs, a template. */
char *unit_console_path(const struct microvm_host *host);
char *unit_console(const struct microvm_host *host);

void unit_argv_show(enum unit_kind kind, const char *name, struct argv *argv);
/* *ret is initialised by it on success: exactly what was asked for, once each. */
int unit_parse(const char *text, size_t n, struct unit_state *ret, struct blix_error *err);
void unit_state_done(struct unit_state *state);
bool unit_is_at_work(const struct unit_state *state);
/* Is BLIX_UID that one? *ret_other: another one is there. */
bool unit_is_of(const struct unit_state *state, uint64_t uid, bool *ret_other);

void unit_argv_reload(struct argv *argv);
void unit_argv_start(enum unit_kind kind, const char *name, struct argv *argv);
/* The host's unit, at rest or not, and those that did something for it: taps, virtiofsd. */
void unit_argv_stop(const char *name, struct argv *argv);
/* Lets systemd forget how they ended. */
void unit_argv_forget(const char *name, struct argv *argv);

/* The transient unit of a VM. `steps` says which scripts its runner has. */
enum unit_step {
	UNIT_TAP = 1,
	UNIT_MACVTAP = 2,
	UNIT_PCI = 4,
	UNIT_VIRTIOFSD = 8,
	UNIT_SHUTDOWN = 16
};
struct unit_run {
	const char *name;
	uint64_t uid, epoch;
	unsigned steps;
	const char *accel;
	const char *systemctl, *rm; /* absolute paths */
};
/* Waits until it has ended, the VM's unit or that of its virtiofsd; systemctl ends with
 * UNIT_NOT_LOADED when there is none. */
#define UNIT_NOT_LOADED 5
void unit_argv_end(const char *name, struct argv *argv);
void unit_argv_end_virtiofsd(const char *name, struct argv *argv);
void unit_argv_virtiofsd(const struct microvm_host *host, const struct unit_run *run,
                         struct argv *argv);
void unit_argv_run(const struct microvm_host *host, const struct unit_run *run, struct argv *argv);

#endif
