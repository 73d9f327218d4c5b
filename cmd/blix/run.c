/* blix run: a fresh VM for one command, and nothing of it afterwards.
 *
 * Happy path: create with a generated name, wait until the agent says that the guest is ready, copy
 * in, run, copy out, delete with its volumes. The exit code is the command's; 125 when blix failed
 * before the command had begun. The first SIGINT or SIGTERM goes to the end of the list: the VM is
 * deleted and the code is 128+n; the second one ends the program and says what is left. What is
 * deleted is known by a label with a random value, so that a VM that had the name before is safe.
 * A daemon that is away is waited for while it is time. */
#include "guest.h"

#include "base/parse.h"
#include "sys/clock.h"
#include "terminal.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define LABEL       "blix-run"
#define CLEANUP_MS  120000 /* a daemon that restarts, and a guest that ends */
#define TRY_MS      30000
#define BETWEEN_MS  500
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

static int failed(struct run *run, const struct blix_error *err)
{
	int code;

	take_signal(run);
	if (run->number != 0)
		return 128 + run->number;
	code = talk_error(run->cli, "vm", run->name, err);
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
	struct watch watch = {.name = run->name, .condition = CONDITION_READY, .begun = true};
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

/* "SRC:DST": the side in the guest is absolute. */
static int copy_one(struct run *run, const char *text, bool in, struct blix_error *err)
{
	const char *colon = in ? strrchr(text, ':') : strchr(text, ':');
	size_t n = colon != NULL ? (size_t)(colon - text) : 0;
	cleanup(freep) char *source = xstrndup(text, n);
	struct copy copy = {.vm = run->name, .in = in};

	if (colon == NULL || n == 0 || colon[1] == '\0' || (in ? colon[1] : source[0]) != '/') {
		(void)blix_fail(err, BLIX_E_INVALID, "--%s '%.200s' is not SRC:DST",
		                in ? "copy" : "copy-out", text);
		blix_hint(err, "the path in the guest begins with a '/'");
		return -(int)BLIX_E_INVALID;
	}
	copy.local = in ? source : colon + 1;
	copy.remote = in ? colon + 1 : source;
	return guest_copy(run->cli, &copy, err);
}

static int copies(struct run *run, bool in, struct blix_error *err)
{
	const struct arguments *arguments = &run->cli->arguments;
	int rc = 0;

	for (size_t i = 0; i < arguments->n_copies && rc == 0; i++) {
		if (arguments->copies[i].in == in)
			rc = copy_one(run, arguments->copies[i].text, in, err);
	}
	return rc;
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
	if (run->number != 0 || copies(run, false, &err) == 0)
		return code;
	take_signal(run);
	(void)talk_error(cli, "vm", run->name, &err);
	return code != 0 ? code : blix_code_info(err.code)->exit;
}

/* Deletes it if it is there and ours; 0 when it is not, or is gone. */
static int delete_once(struct run *run, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s?" GRACE_QUERY, run->name);
	struct watch watch = {.name = run->name, .condition = CONDITION_DELETED, .begun = true};
	struct cli *cli = run->cli;
	const cJSON *mark;
	int rc;

	client_free(cli->client);
	cli->client = NULL;
	cli->settings.timeout_ms = TRY_MS;
	rc = cli_get(cli, &watch.object, err, "/v1/vms/%s", run->name);
	mark = at(watch.object, "metadata.labels." LABEL);
	if (rc == 0 && cJSON_IsString(mark) && strcmp(mark->valuestring, run->mark) == 0) {
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

static bool is_kept(const struct run *run, int code)
{
	const char *keep = run->cli->arguments.values[OPTION_KEEP];

	if (keep == NULL || strcmp(keep, "never") == 0)
		return false;
	return strcmp(keep, "always") == 0 || code != 0;
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
	return rc;
}

int run_run(struct cli *cli)
{
	struct run run = {.cli = cli};
	struct blix_error err;
	int code, left;

	if (check(cli, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	(void)snprintf(run.mark, sizeof(run.mark), "%016" PRIx64, random_id());
	if (given(cli, OPTION_NAME))
		(void)snprintf(run.name, sizeof(run.name), "%s",
		               cli->arguments.values[OPTION_NAME]);
	else
		(void)snprintf(run.name, sizeof(run.name), "run-%.10s", run.mark);
	cli_catch_end();
	code = work(&run);
	if (run.tried && is_kept(&run, code)) {
		talk_note(cli, "vm %s: kept; 'blix vm delete --volumes %s' deletes it", run.name,
		          run.name);
	} else if (run.tried) {
		left = delete_vm(&run);
		code = code == 0 ? left : code;
	}
	return run.number != 0 ? 128 + run.number : code;
}
