/* Joins this program's stdin, stdout, stderr, signals and terminal to a stream of blixd. */
#ifndef BLIX_CMD_PUMP_H
#define BLIX_CMD_PUMP_H

#include "cli.h"
#include "client/stream.h"

enum pump_end {
	PUMP_NOT_RUN,
	PUMP_EXIT,    /* the guest said how it ended: `exit` */
	PUMP_CLOSED,  /* the stream ended without a word */
	PUMP_ESCAPED, /* the key was typed */
	PUMP_SIGNAL,  /* by a signal, kept in `code` */
	PUMP_LOST,    /* err says what broke */
};

struct pump {
	struct client_stream *stream;
	bool input;        /* stdin goes to the guest */
	bool raw;          /* stdin is a terminal: each key does, and its size */
	char escape;       /* this key ends it, 0: none does */
	int signal;        /* SIGNAL: which one ended it */
	bool forward;      /* signals go to the guest, else the first one ends it */
	enum pump_end end; /* how it ended */
};

/* Runs until one of them; the terminal is as before then. *ret_exit (EXIT) is the caller's. */
enum pump_end pump_run(struct pump *pump, int *ret_code, cJSON **ret_exit, struct blix_error *err);

#endif
