/* The JSON of microvm-status, as structs. */
#ifndef BLIX_MICROVM_STATUS_H
#define BLIX_MICROVM_STATUS_H

#include "base/error.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum status_state { STATUS_STOPPED, STATUS_RUNNING, STATUS_UNKNOWN };

struct status_vm {
	char name[LIMIT_NAME + 1];
	bool ours; /* a .blix.json stands there; uid, epoch and cluster are its */
	char *cluster;
	uint64_t uid, epoch;
	char *runner; /* what `current` points to, "" none */
	char *booted;
	enum status_state state;
	uint64_t pid, start_time; /* of the runner; 0 when it does not run */
	uint64_t shim_pid, shim_start_time;
	char boot_id[40];
	uint64_t started_ms; /* wall clock */
	bool exited;         /* the shim noted an end */
	int32_t exit_code;   /* 128+n for signal n */
	uint64_t ended_ms;
	char *error; /* this one VM could not be looked at, "" fine */
};

struct status {
	struct status_vm *vms;
	size_t n;
};

/* *ret is initialised by it, on success only. */
int status_parse(const char *text, size_t n, struct status *ret, struct blix_error *err);
void status_done(struct status *status);
/* NULL when it is not there. */
const struct status_vm *status_find(const struct status *status, const char *name);

#endif
