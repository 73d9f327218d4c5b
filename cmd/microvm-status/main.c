/* microvm-status: one JSON object about the microVMs of this host. Options, the list of names, a
 * few threads, so that one silent control socket does not hold up the others, and the printing. */
#include "status.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>

#ifndef BLIX_VERSION
#define BLIX_VERSION "0.1.0"
#endif

#define THREADS     8u
#define TIMEOUT_MAX 60000u

enum { OPTION_STATE = 0x100, OPTION_RUN, OPTION_TIMEOUT, OPTION_SYSTEMD };

const char *argp_program_version = "microvm-status " BLIX_VERSION;

struct work {
	struct host *host;
	int state_fd;
	char **names;
	size_t count;
	atomic_size_t next;
	atomic_bool unknown; /* a name that was asked for does not exist */
	cJSON **items;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *options = state->input;
	uint64_t timeout_ms = 0;

	switch (key) {
	case OPTION_STATE:
		options->state_dir = arg;
		return 0;
	case OPTION_RUN:
		options->run_dir = arg;
		return 0;
	case OPTION_SYSTEMD:
		options->systemd_dir = arg;
		return 0;
	case OPTION_TIMEOUT:
		if (parse_u64(arg, &timeout_ms, NULL) < 0 || timeout_ms < 1 ||
		    timeout_ms > TIMEOUT_MAX)
			argp_error(state, "--timeout: 1 to %u milliseconds", TIMEOUT_MAX);
		options->timeout_ms = (unsigned)timeout_ms;
		return 0;
	case ARGP_KEY_ARGS:
		options->names = state->argv + state->next;
		options->names_count = (size_t)(state->argc - state->next);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The directories of the state directory, dot-directories aside. */
static void list_names(struct work *w)
{
	DIR *dir = fdopendir(openat(w->state_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	const struct dirent *entry;
	struct stat st;

	if (dir == NULL)
		return;
	while (w->count < LIMIT_VMS && (entry = readdir(dir)) != NULL) {
		if (entry->d_name[0] == '.' || fstatat(w->state_fd, entry->d_name, &st, 0) < 0 ||
		    !S_ISDIR(st.st_mode))
			continue;
		if ((w->count & (w->count - 1)) == 0)
			w->names = xreallocarray(w->names, w->count == 0 ? 1 : w->count * 2,
			                         sizeof(*w->names));
		w->names[w->count++] = xstrdup(entry->d_name);
	}
	(void)closedir(dir);
	if (w->count > 0)
		qsort(w->names, w->count, sizeof(*w->names), by_name);
}

static void *work_run(void *arg)
{
	struct work *w = arg;
	size_t i;

	while ((i = atomic_fetch_add(&w->next, 1)) < w->count) {
		bool known;

		w->items[i] = item_make(w->host, w->state_fd, w->names[i], &known);
		if (!known)
			atomic_store(&w->unknown, true);
	}
	return NULL;
}

/* This thread works too: no thread at all for one VM, nor where none can be had. */
static void work_all(struct work *w)
{
	pthread_t threads[THREADS];
	size_t n = 0;

	w->items = xcalloc(w->count + 1, sizeof(*w->items));
	while (n < THREADS && n + 1 < w->count &&
	       pthread_create(&threads[n], NULL, work_run, w) == 0)
		n++;
	(void)work_run(w);
	for (size_t i = 0; i < n; i++)
		(void)pthread_join(threads[i], NULL);
}

static int print(struct work *w)
{
	cleanup(json_freep) cJSON *list = json_object();
	cJSON *items = json_array();
	cleanup(freep) char *text = NULL;

	json_add_string(list, "apiVersion", "blix/v1");
	json_add_string(list, "kind", "MicrovmList");
	json_add_string(list, "bootId", clock_boot_id());
	for (size_t i = 0; i < w->count; i++)
		json_push(items, w->items[i]);
	json_add(list, "items", items);
	text = json_text(list);
	if (puts(text) < 0 || fflush(stdout) != 0) {
		perror("microvm-status: standard output");
		return 1;
	}
	return 0;
}

static int run(const struct options *options)
{
	struct host host;
	struct work w = {.host = &host};
	int rc;

	w.state_fd = open(options->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w.state_fd < 0 && errno != ENOENT) {
		struct blix_error err;

		(void)blix_fail_sys(&err, errno, "open %s", options->state_dir);
		(void)fprintf(stderr, "microvm-status: %s\n", err.text);
		return blix_code_info(err.code)->exit;
	}
	(void)clock_boot_id(); /* remembered before there are threads */
	host_init(&host, options);
	w.names = options->names;
	w.count = options->names_count;
	if (w.count == 0 && w.state_fd >= 0)
		list_names(&w);
	work_all(&w);
	rc = print(&w);
	if (rc == 0 && options->names_count > 0 && atomic_load(&w.unknown))
		rc = blix_code_info(BLIX_E_NOTFOUND)->exit;
	for (size_t i = 0; i < w.count && options->names_count == 0; i++)
		free(w.names[i]);
	if (options->names_count == 0)
		free(w.names);
	free(w.items);
	host_done(&host);
	closep(&w.state_fd);
	return rc;
}

int main(int argc, char **argv)
{
	static const struct argp_option table[] = {
		{"state-dir", OPTION_STATE, "DIR", 0,
	         "Directory of the VMs' directories (/var/lib/microvms)", 0},
		{"run-dir", OPTION_RUN, "DIR", 0,
	         "Directory of blix-shim's run directories (/run/blix/vms)", 0},
		{"timeout", OPTION_TIMEOUT, "MS", 0,
	         "Wait at most MS for each control socket, five times MS for systemd (1000)", 0},
		{"systemd-dir", OPTION_SYSTEMD, "DIR", 0,
	         "Ask systemd only if DIR exists (/run/systemd/system)", 0},
		{0},
	};
	static const struct argp argp = {
		table,       parse,
		"[NAME...]", "Prints what every microVM on this host is, as one JSON object.",
		NULL,        NULL,
		NULL,
	};
	struct options options = {.run_dir = "/run/blix/vms",
	                          .systemd_dir = "/run/systemd/system",
	                          .timeout_ms = 1000};
	char *given = (char[]){"/var/lib/microvms"};
	int rc;

	options.state_dir = given;
	argp_err_exit_status = blix_code_info(BLIX_E_INVALID)->exit;
	(void)argp_parse(&argp, argc, argv, 0, NULL, &options);
	given = options.state_dir;
	options.state_dir = realpath(given, NULL);
	if (options.state_dir == NULL)
		options.state_dir = xstrdup(given);
	rc = run(&options);
	free(options.state_dir);
	return rc;
}
