/* The parts of blix-shim. The shim stands by one VM: see shim.c. */
#ifndef BLIX_SHIM_H
#define BLIX_SHIM_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct shim_options {
	const char *run;     /* directory of alive, status.json and exit.json */
	const char *console; /* log of what the program prints */
	uint64_t console_max;
	const char *uid; /* "" when not given */
	uint64_t epoch;
	const char *chdir; /* NULL: where the shim was called */
	char **argv;
};

/* Stands by the program until it ends; writes one byte to `ready` once it runs and is on record.
 * Returns the exit code of a start that failed, after one line on stderr; else 0. */
int shim_run(const struct shim_options *options, int ready);

/* console.c: what the program prints, kept in two halves, FILE and FILE.1. */
struct console {
	int dirfd;
	char *name;
	char *name_old;
	int fd; /* -1 while the file cannot be opened: output is dropped */
	uint64_t size;
	uint64_t half;
};
int console_open(struct console *c, const char *path, uint64_t max, struct blix_error *err);
void console_done(struct console *c);
/* Never fails: what cannot be written is dropped. */
void console_write(struct console *c, const char *data, size_t n);

/* record.c: the two files that say what runs, and how it ended. */
struct record {
	pid_t pid;
	uint64_t start_time;
};
int record_status(int run, const struct shim_options *options, const struct record *program,
                  struct blix_error *err);
/* `status` as of waitid: the exit code, or the signal. */
int record_exit(int run, bool signaled, int status, struct blix_error *err);
/* The program of an earlier shim that died before it; false when there is none alive. */
bool record_orphan(int run, pid_t *ret_pid);
void record_clear(int run);

#endif
