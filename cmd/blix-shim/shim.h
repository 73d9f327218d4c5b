/* The parts of blix-shim. The shim stands by one VM: see shim.c. */
#ifndef BLIX_SHIM_H
#define BLIX_SHIM_H

#include "base/buf.h"
#include "base/error.h"
#include "sys/halves.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct shim_options {
	const char *run;     /* directory of alive, shim.sock, status.json and exit.json */
	const char *console; /* log of what the program prints */
	uint64_t console_max;
	bool ended;      /* only record how the unit's process ended */
	bool hold;       /* only hold a terminal, for a program that systemd starts */
	const char *uid; /* "" when not given */
	uint64_t epoch;
	const char *cgroup; /* to stand in, NULL: none */
	const char *chdir;  /* NULL: where the shim was called */
	char **argv;
};

/* Stands by the program until it ends; writes one byte to `ready` once it runs and is on record.
 * Returns the exit code of a start that failed, after one line on stderr; else 0. */
int shim_run(const struct shim_options *options, int ready);

/* record.c: the two files that say what runs, and how it ended. */
struct record {
	pid_t pid;
	uint64_t start_time;
	const char *cgroup; /* the shim's; the program is in its `program`. NULL: none, and why */
	char *cgroup_error;
};
int record_status(int run, const struct shim_options *options, const struct record *program,
                  struct blix_error *err);
/* `status` as of waitid: the exit code, or the signal. *ret is what was written. */
int record_exit(int run, bool signaled, int status, struct buf *ret, struct blix_error *err);
/* The program of an earlier shim that died before it; false when there is none alive. */
bool record_orphan(int run, pid_t *ret_pid);
void record_clear(int run);

/* serve.c: RUN/shim.sock, and those who came by it. */
#define SERVE_CLIENTS 16  /* terminals that look at one guest, and those that wait for its end */
#define SERVE_LINE    256 /* bytes of a request: three short members */
#define SERVE_POLLS   (SERVE_CLIENTS + 2)

struct client {
	int fd; /* -1: free */
	enum { CLIENT_ASKS, CLIENT_ATTACHED, CLIENT_WAITS } state;
	size_t n; /* bytes of the request */
	char line[SERVE_LINE];
};

/* What clients may do to the program. */
struct serve {
	int run;
	int terminal;       /* master side: what is written there, the program reads */
	int pidfd;          /* -1: somebody else's program */
	const char *cgroup; /* of the program alone, NULL: none */
	const struct halves_writer *console;
	int listener;
	struct client clients[SERVE_CLIENTS];
	char input[1024]; /* typed, and not yet taken by the program */
	size_t n_input;
};
int serve_open(struct serve *serve, struct blix_error *err);
/* Fills SERVE_POLLS descriptors, the first the terminal's; later looks at what came. */
void serve_polls(const struct serve *serve, struct pollfd *polls);
void serve_polled(struct serve *serve, const struct pollfd *polls);
/* To all that are attached; who does not keep up misses it. */
void serve_output(struct serve *serve, const char *data, size_t n);
/* SIGKILL to all that the program started. */
void serve_kill(const struct serve *serve);
/* Answers those who wait, and closes all. */
void serve_done(struct serve *serve, const char *answer, size_t n);

/* ended.c: writes RUN/exit.json from what systemd tells an ExecStopPost. Returns the exit code. */
int ended_record(const char *run);

#endif
