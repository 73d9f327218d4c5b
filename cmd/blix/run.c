/* blix run: a fresh VM for one command, and nothing of it afterwards.
 *
 * Happy path: create with a generated name, wait until the agent says that the guest is ready, copy
 * in, run, copy out, delete with its volumes. The exit code is the command's; 125 when blix failed
 * before the command had begun. The first SIGINT or SIGTERM goes to the end of the list: the VM is
 * deleted and the code is 128+n; the second one ends the program and says what is left. A VM that
 * ends while the command runs is told apart from a connection that breaks: 9 and 69. What is
 * deleted is known by a label with a random value, so that a VM that had the name before is safe.
 * A daemon that is away is waited for while it is time. */
#include "guest.h"

#include "base/parse.h"
#include "sys/clock.h"
#include "terminal.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define LABEL       "blix-run"
#define CLEANUP_MS  120000 /* a daemon that restarts, and a guest that ends */
#define TRY_MS      30000
#define BETWEEN_MS  500
#define ENDED_MS    5000 /* until the node has seen that a guest is gone */
#define GRACE_QUERY "graceMs=0&volumes=true"

struct run {
	struct cli *cli;
	char name[LIMIT_NAME + 1];
	char mark[24]; /* the label's value */
	bool tried;    /* it may exist */
	int number;    /* the signal that ended it, 0 none */
};

/* A signal that came is taken: what follows is not ended by it. */
static void take_signal(struct run *run)
{
	if (cli_interrupted() && run->number == 0)
		run->number = cli_interrupted_by();
	cli_forget_interrupt();
}

static bool is_kept(const struct run *run, int code)
{
	const char *keep = run->cli->arguments.values[OPTION_KEEP];

	if (keep == NULL || strcmp(keep, "never") == 0)
		return false;
	return strcmp(keep, "always") == 0 || (code != 0 && run->number == 0);
}

/* Prints it; what it says of a VM that is deleted at once would lead nowhere. */
static int complain(struct run *run, struct blix_error *err)
{
	if (strstr(err->hint, run->name) != NULL && !is_kept(run, 1))
		blix_hint(err, "with '--keep on-failure' the VM stays, to be looked at");
	return talk_error(run->cli, "vm", run->name, err);
}

static int failed(struct run *run, struct blix_error *err)
{
	int code;

	take_signal(run);
	if (run->number != 0)
		return 128 + run->number;
	if (err->code == BLIX_E_NOTREADY) {
		(void)blix_fail(err, BLIX_E_NOTREADY,
		                "no agent in the guest said in time that it is ready");
		blix_hint(err, "'blix run' needs blix-agent in the guest; with '--keep on-failure' "
		               "the VM stays, to be looked at");
	}
	code = complain(run, err);
	return code == blix_code_info(BLIX_E_INVALID)->exit ? code : EXIT_NOT_BEGUN;
}

static int spec_make(struct run *run, struct vm_spec *spec, struct blix_error *err)
{
	struct arguments *arguments = &run->cli->arguments;
	const char *ref = arguments->names[0];

	if (strchr(ref, '#') == NULL && !given(run->cli, OPTION_NAME)) {
		(void)blix_fail(err, BLIX_E_INVALID, "'%.200s' names no attribute", ref);
		blix_hint(err, "write '%.160s#ATTR'", ref);
		return -(int)BLIX_E_INVALID;
	}
	arguments->values[OPTION_FLAKE] = ref;
	arguments->values[OPTION_READY] = "agent";
	arguments->restart = VM_RESTART_NEVER;
	return create_spec(run->cli, spec, err);
}

static int vm_create(struct run *run, struct blix_error *err)
{
	struct watch watch = {
		.name = run->name, .condition = CONDITION_READY, .begun = true, .gives_up = true};
	struct vm_spec spec;
	int rc;

	vm_spec_init(&spec);
	rc = spec_make(run, &spec, err);
	if (rc == 0)
		rc = labels_set(&spec.labels, LABEL, run->mark, err);
	if (rc == 0) {
		run->tried = true;
		rc = create_one(run->cli, &spec, run->name, &watch.object, err);
	}
	vm_spec_done(&spec);
	if (rc == 0)
		rc = watch_run(run->cli, &watch, err);
	cJSON_Delete(watch.object);
	talk_close(run->cli);
	run->cli->watched = NULL;
	return rc;
}

/* "SRC:DST": the side in the guest is absolute. *ret_source is the caller's. */
static int copy_parse(const char *text, bool in, struct copy *copy, char **ret_source,
                      struct blix_error *err)
{
	const char *colon = in ? strrchr(text, ':') : strchr(text, ':');
	size_t n = colon != NULL ? (size_t)(colon - text) : 0;

	if (colon == NULL || n == 0 || colon[1] == '\0' || (in ? colon[1] : text[0]) != '/') {
		(void)blix_fail(err, BLIX_E_INVALID, "--%s '%.200s' is not SRC:DST",
		                in ? "copy" : "copy-out", text);
		blix_hint(err, "the path in the guest begins with a '/'");
		return -(int)BLIX_E_INVALID;
	}
	*ret_source = xstrndup(text, n);
	copy->in = in;
	copy->local = in ? *ret_source : colon + 1;
	copy->remote = in ? colon + 1 : *ret_source;
	return 0;
}

/* What is wrong with them shows before a VM is made. */
static int copies_check(const struct arguments *arguments, struct blix_error *err)
{
	for (size_t i = 0; i < arguments->n_copies; i++) {
		cleanup(freep) char *source = NULL;
		struct copy copy;
		int rc = copy_parse(arguments->copies[i].text, arguments->copies[i].in, &copy,
		                    &source, err);

		if (rc == 0 && copy.in && access(copy.local, R_OK) < 0)
			rc = blix_fail_sys(err, errno, "--copy %s", copy.local);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int copies(struct run *run, bool in, struct blix_error *err)
{
	const struct arguments *arguments = &run->cli->arguments;
	int rc = 0;

	for (size_t i = 0; i < arguments->n_copies && rc == 0; i++) {
		cleanup(freep) char *source = NULL;
		struct copy copy = {.vm = run->name};

		if (arguments->copies[i].in != in)
			continue;
		rc = copy_parse(arguments->copies[i].text, in, &copy, &source, err);
		if (rc == 0)
			rc = guest_copy(run->cli, &copy, err);
	}
	return rc;
}

/* A client that gives up after a while. */
static void hurry(struct run *run, uint64_t ms)
{
	client_free(run->cli->client);
	run->cli->client = NULL;
	run->cli->settings.timeout_ms = ms;
}

/* The command was lost with `code`: was it with its VM? */
static int lost(struct run *run, int code)
{
	struct watch watch = {.name = run->name, .condition = CONDITION_STOPPED, .begun = true};
	struct blix_error err;
	int rc;

	hurry(run, ENDED_MS);
	rc = watch_run(run->cli, &watch, &err);
	cJSON_Delete(watch.object);
	talk_close(run->cli);
	run->cli->watched = NULL;
	if (rc == 0) {
		(void)blix_fail(&err, BLIX_E_START, "it shut down while the command ran");
		blix_hint(&err, "'blix vm logs %s' shows its console", run->name);
	} else if (err.code == BLIX_E_START) {
		(void)blix_wrap(&err, "it ended while the command ran");
	} else {
		return code;
	}
	return complain(run, &err);
}

static int work(struct run *run)
{
	struct cli *cli = run->cli;
	struct pump pump = {.input = given(cli, OPTION_INTERACTIVE), .raw = given(cli, OPTION_TTY)};
	struct blix_error err;
	int code;

	if (vm_create(run, &err) < 0 || copies(run, true, &err) < 0)
		return failed(run, &err);
	code = guest_exec(cli, run->name, &pump);
	cli_catch_end(); /* the pump had the signals */
	run->number = pump.signal != 0 ? pump.signal : signals_ended();
	take_signal(run);
	if (run->number == 0 && (pump.end == PUMP_LOST || pump.end == PUMP_CLOSED))
		code = lost(run, code);
	if (run->number != 0 || pump.end != PUMP_EXIT || copies(run, false, &err) == 0)
		return code;
	take_signal(run);
	(void)talk_error(cli, "vm", run->name, &err);
	return code != 0 ? code : blix_code_info(err.code)->exit;
}

/* 1 when it is there and ours, 0 when it is not, or why that is not known. */
static int find(struct run *run, cJSON **ret, struct blix_error *err)
{
	int rc = cli_get(run->cli, ret, err, "/v1/vms/%s", run->name);

	if (rc < 0)
		return rc == -(int)BLIX_E_NOTFOUND ? 0 : rc;
	return strcmp(text_at(*ret, "metadata.labels." LABEL), run->mark) == 0;
}

/* Deletes it if it is there and ours; 0 when it is not, or is gone. */
static int delete_once(struct run *run, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s?" GRACE_QUERY, run->name);
	struct watch watch = {.name = run->name, .condition = CONDITION_DELETED, .begun = true};
	struct cli *cli = run->cli;
	int rc;

	hurry(run, TRY_MS);
	rc = find(run, &watch.object, err);
	if (rc == 1) {
		cJSON *answer = NULL;

		rc = client_call(cli->client, "DELETE", path, NULL, &answer, err);
		cJSON_Delete(answer);
		if (rc == 0)
			rc = watch_run(cli, &watch, err);
	}
	cJSON_Delete(watch.object);
	talk_close(cli);
	cli->watched = NULL;
	return rc == -(int)BLIX_E_NOTFOUND ? 0 : rc;
}

static int delete_vm(struct run *run)
{
	uint64_t until_ms = clock_boot_ms() + CLEANUP_MS;
	struct blix_error err;
	int rc;

	take_signal(run);
	while ((rc = delete_once(run, &err)) < 0 && !cli_interrupted() &&
	       blix_code_info(err.code)->retryable && clock_boot_ms() < until_ms)
		(void)poll(NULL, 0, BETWEEN_MS);
	if (rc == 0)
		return 0;
	(void)talk_error(run->cli, "vm", run->name, &err);
	talk_note(run->cli,
	          "vm %s: it may still be there: 'blix vm delete --volumes %s' deletes it",
	          run->name, run->name);
	return blix_code_info(err.code)->exit;
}

/* Only of what is there: a VM that had the name before is somebody else's. */
static void keep_vm(struct run *run)
{
	cleanup(json_freep) cJSON *object = NULL;
	struct blix_error err;
	int rc;

	hurry(run, TRY_MS);
	rc = find(run, &object, &err);
	if (rc < 0)
		(void)talk_error(run->cli, "vm", run->name, &err);
	if (rc != 0)
		talk_note(run->cli, "vm %s: %s; 'blix vm delete --volumes %s' deletes it",
		          run->name, rc == 1 ? "kept" : "it may be there", run->name);
}

static int check(const struct cli *cli, struct blix_error *err)
{
	const char *keep = cli->arguments.values[OPTION_KEEP];
	int rc = 0;

	if (given(cli, OPTION_NAME))
		rc = parse_name("VM name", cli->arguments.values[OPTION_NAME], err);
	if (rc == 0 && keep != NULL && strcmp(keep, "never") != 0 && strcmp(keep, "always") != 0 &&
	    strcmp(keep, "on-failure") != 0)
		rc = blix_fail(err, BLIX_E_INVALID,
		               "--keep: '%.64s' is none of never, on-failure and always", keep);
	if (rc == 0 && given(cli, OPTION_TTY) && isatty(STDIN_FILENO) != 1)
		rc = blix_fail(err, BLIX_E_INVALID, "--tty: standard input is no terminal");
	return rc == 0 ? copies_check(&cli->arguments, err) : rc;
}

int run_run(struct cli *cli)
{
	struct run run = {.cli = cli};
	struct blix_error err;
	int code, left;

	if (check(cli, &err) < 0) {
		code = talk_error(cli, NULL, NULL, &err);
		return err.code == BLIX_E_INVALID ? code : EXIT_NOT_BEGUN;
	}
	(void)snprintf(run.mark, sizeof(run.mark), "%016" PRIx64, random_id());
	if (given(cli, OPTION_NAME))
		(void)snprintf(run.name, sizeof(run.name), "%s",
		               cli->arguments.values[OPTION_NAME]);
	else
		(void)snprintf(run.name, sizeof(run.name), "run-%.10s", run.mark);
	cli_catch_end();
	code = work(&run);
	if (run.tried && is_kept(&run, code)) {
		keep_vm(&run);
	} else if (run.tried) {
		left = delete_vm(&run);
		code = code == 0 ? left : code;
	}
	return run.number != 0 ? 128 + run.number : code;
}
