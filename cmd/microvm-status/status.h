/* The parts of microvm-status. main.c lists; item.c tells all about one VM; supervision.c whether
 * it runs and who stands by it; host.c what is asked once for all VMs: systemd's units and the
 * processes of this machine. Everything that waits has the deadline of --timeout. */
#ifndef BLIX_STATUS_H
#define BLIX_STATUS_H

#include "base/error.h"
#include "base/json.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

struct options {
	char *state_dir; /* absolute */
	const char *run_dir;
	const char *systemd_dir; /* exists where systemd is the init */
	unsigned timeout_ms;
	char **names;
	size_t names_count;
};

struct unit {
	char *name; /* "microvm@web.service", or "blix-vm-web.service" of blix */
	char *active_state;
	char *sub_state;
	char *directory;
	char *invocation;  /* id of this run of the unit */
	char *environment; /* BLIX_UID tells whose it is */
	uint64_t main_pid;
};

struct candidate {
	pid_t pid;
	dev_t dev; /* of its working directory */
	ino_t ino;
};

struct host {
	const struct options *options;
	pthread_mutex_t lock; /* held while the rest is filled, which happens once */
	bool asked;           /* systemd */
	struct unit *units;
	size_t units_count;
	char *units_error; /* NULL, or why systemd could not be asked */
	bool scanned;      /* /proc */
	struct candidate *candidates;
	size_t candidates_count;
	bool hidden; /* a hypervisor runs whose directory this user may not see */
};

void host_init(struct host *host, const struct options *options);
void host_done(struct host *host);
/* At work: not at rest, neither well nor failed. */
bool unit_is_busy(const struct unit *u);
/* The unit of the VM `name` whose directory is `dir`, or NULL; one at work if there is one. */
const struct unit *host_unit(struct host *host, const char *name, const char *dir);
/* Processes that are a hypervisor in the directory `st`; *ret_pid is the first of them. */
unsigned host_find(struct host *host, const struct stat *st, pid_t *ret_pid);

/* One VM while it is looked at. */
struct item {
	struct host *host;
	const char *name;
	char *dir;
	int fd;       /* of dir */
	char uid[64]; /* of .blix.json; "" when foreign */
	bool ended;   /* the run directory may tell how the last run ended */
	cJSON *json;
	char error[1024];
};

/* Adds to what is wrong with this VM. */
void item_error(struct item *item, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* All that is known of the VM; *ret_known is false when it has no directory. */
cJSON *item_make(struct host *host, int state_fd, const char *name, bool *ret_known);

enum vm_state { VM_STOPPED, VM_RUNNING, VM_UNKNOWN };
/* Adds supervision, unit, process and exit to the item, and returns the state. */
enum vm_state supervision_look(struct item *item);

#endif
