/* blix-shim: starts one program and stands by it. This file reads the options and is the process
 * that the caller sees: it forks the shim, waits until the program runs or cannot, and ends. */
#include "shim.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"

#include <argp.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef BLIX_VERSION
#define BLIX_VERSION "0.1.0"
#endif

#define CONSOLE_MIN 1024u

enum {
	OPTION_RUN = 0x100,
	OPTION_CONSOLE,
	OPTION_MAX,
	OPTION_UID,
	OPTION_EPOCH,
	OPTION_CGROUP,
	OPTION_CHDIR,
	OPTION_ENDED,
	OPTION_HOLD
};

const char *argp_program_version = "blix-shim " BLIX_VERSION;

static uint64_t number(struct argp_state *state, const char *option, const char *text)
{
	struct blix_error err;
	uint64_t value = 0;

	if (parse_u64(text, &value, &err) < 0)
		argp_error(state, "%s: %s", option, err.text);
	return value;
}

/* What is missing or wrong, or NULL. */
static const char *problem(const struct shim_options *options)
{
	if (options->ended)
		return options->run == NULL || options->argv != NULL
		               ? "--ended goes with --run, without a program"
		               : NULL;
	if (options->hold && options->argv != NULL)
		return "--hold goes without a program";
	if (options->run == NULL || options->console == NULL)
		return "--run and --console are needed";
	if (options->console[0] == '\0' || options->console[strlen(options->console) - 1] == '/')
		return "--console needs the name of a file";
	if (options->console_max < CONSOLE_MIN)
		return "--console-max is too small for a log";
	return options->argv == NULL && !options->hold ? "no program given" : NULL;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct shim_options *options = state->input;

	switch (key) {
	case OPTION_RUN:
		options->run = arg;
		return 0;
	case OPTION_CONSOLE:
		options->console = arg;
		return 0;
	case OPTION_MAX:
		options->console_max = number(state, "--console-max", arg);
		return 0;
	case OPTION_UID:
		options->uid = arg;
		return 0;
	case OPTION_EPOCH:
		options->epoch = number(state, "--epoch", arg);
		return 0;
	case OPTION_CGROUP:
		options->cgroup = arg;
		return 0;
	case OPTION_ENDED:
		options->ended = true;
		return 0;
	case OPTION_HOLD:
		options->hold = true;
		return 0;
	case OPTION_CHDIR:
		options->chdir = arg;
		return 0;
	case ARGP_KEY_ARGS:
		options->argv = state->argv + state->next;
		return 0;
	case ARGP_KEY_END:
		if (problem(options) != NULL)
			argp_error(state, "%s", problem(options));
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* Descriptors 0 to 2 exist and no other does: what the caller forgot to close, such as the write
 * end of a pipe that somebody reads to its end, must not live as long as the VM. */
static void tidy_descriptors(void)
{
	int fd;

	(void)close_range(3, ~0u, 0);
	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd < 3);
	if (fd >= 3)
		(void)close(fd);
}

static int invoke(const struct shim_options *options)
{
	struct sigaction standard = {.sa_handler = SIG_DFL};
	int ready[2], status = 0;
	char byte;
	pid_t pid;

	tidy_descriptors();
	(void)sigaction(SIGCHLD, &standard, NULL);
	if (pipe2(ready, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		perror("blix-shim");
		return 1;
	}
	if (pid == 0) {
		(void)close(ready[0]);
		_exit(shim_run(options, ready[1]));
	}
	(void)close(ready[1]);
	if (TEMP_FAILURE_RETRY(read(ready[0], &byte, 1)) == 1)
		return 0;
	if (TEMP_FAILURE_RETRY(waitpid(pid, &status, 0)) == pid && WIFEXITED(status) &&
	    WEXITSTATUS(status) != 0)
		return WEXITSTATUS(status);
	(void)fprintf(stderr, "blix-shim: ended before the program ran\n");
	return 1;
}

int main(int argc, char **argv)
{
	static const struct argp_option table[] = {
		{"run", OPTION_RUN, "DIR", 0,
	         "Directory of alive, shim.sock, status.json and exit.json", 0},
		{"console", OPTION_CONSOLE, "FILE", 0, "Append what PROGRAM prints to FILE", 0},
		{"console-max", OPTION_MAX, "BYTES", 0,
	         "Keep at most BYTES in FILE and FILE.1 (8388608)", 0},
		{"uid", OPTION_UID, "UID", 0, "Written to status.json", 0},
		{"epoch", OPTION_EPOCH, "N", 0, "Written to status.json", 0},
		{"cgroup", OPTION_CGROUP, "DIR", 0,
	         "Stand in this control group, made when missing", 0},
		{"chdir", OPTION_CHDIR, "DIR", 0, "Start PROGRAM in DIR", 0},
		{"ended", OPTION_ENDED, NULL, 0,
	         "Run nothing: write to exit.json how the process of a systemd unit ended", 0},
		{"hold", OPTION_HOLD, NULL, 0,
	         "Run nothing: hold a terminal for a unit of systemd, at RUN/terminal", 0},
		{0},
	};
	static const struct argp argp = {
		table,
		parse,
		"--run DIR --console FILE -- PROGRAM [ARG...]",
		"Starts PROGRAM, keeps its output and exit status, and stays until it ends.",
		NULL,
		NULL,
		NULL,
	};
	struct shim_options options = {.uid = "", .console_max = LIMIT_CONSOLE};

	argp_err_exit_status = blix_code_info(BLIX_E_INVALID)->exit;
	(void)argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &options);
	return options.ended ? ended_record(options.run) : invoke(&options);
}
