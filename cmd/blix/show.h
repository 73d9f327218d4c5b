/* `show NAME...` for every noun: fetch each, print them all as the command line asks. */
#ifndef BLIX_CMD_SHOW_H
#define BLIX_CMD_SHOW_H

#include "cli.h"

struct show {
	const char *noun;      /* for messages: "vm" */
	const char *list_kind; /* of several in JSON: "VMList" */
	const char *path;      /* what the name is appended to: "/v1/vms/" */
	void (*print)(const cJSON *object);
};

/* Shows the names of the command line. The exit code is that of the last that failed. */
int show_run(struct cli *cli, const struct show *show);

#endif
