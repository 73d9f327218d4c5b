/* blix vm create: the spec is filled and checked here, so that mistakes die before the network. */
#include "cli.h"

#include "base/parse.h"
#include "client/flake.h"
#include "core/object_json.h"
#include "table.h"

#include <string.h>
#include <sys/stat.h>

/* A bare word that names a directory was meant as a path. */
static void hint_path(const char *flake, struct blix_error *err)
{
	struct stat st;

	if (err->hint[0] == '\0' && stat(flake, &st) == 0 && S_ISDIR(st.st_mode))
		blix_hint(err, "for the directory write './%.160s'", flake);
}

/* The daemons get what it names, under a name that stands for its contents. */
static int flake_send(struct cli *cli, const struct flake_pack *pack, struct blix_error *err)
{
	char hex[SOURCE_HEX], path[96];
	struct client *client = cli_client(cli, err);

	if (client == NULL)
		return -(int)err->code;
	source_hex(&pack->nar.name, hex);
	(void)snprintf(path, sizeof(path), "/v1/sources/%s", hex);
	return client_upload(client, path, pack->fd, pack->nar.size, err);
}

/* Of a directory on this disk. --dry-run changes nothing, and nobody evaluates it. */
static int flake_take_local(struct cli *cli, const char *flake, struct vm_spec *spec,
                            struct blix_error *err)
{
	cleanup(flake_pack_done) struct flake_pack pack = {.fd = -1};
	int rc = flake_pack(flake, cli->settings.timeout_ms, &pack, err);
	char size[32];

	if (rc < 0)
		return rc;
	format_size(size, sizeof(size), pack.nar.size);
	talk_note(cli, "packed %s: %zu file%s, %s", flake, pack.nar.files,
	          pack.nar.files == 1 ? "" : "s", size);
	free(spec->flake);
	spec->flake = source_url(&pack.nar.name);
	return given(cli, OPTION_DRY_RUN) ? 0 : flake_send(cli, &pack, err);
}

int flake_take(struct cli *cli, struct vm_spec *spec, struct blix_error *err)
{
	const char *text = cli->arguments.values[OPTION_FLAKE];
	const char *hash = strchr(text, '#');
	cleanup(freep) char *flake =
		hash != NULL ? xstrndup(text, (size_t)(hash - text)) : xstrdup(text);
	int rc;

	if (hash != NULL && hash[1] == '\0')
		return blix_fail(err, BLIX_E_INVALID, "--flake: nothing follows the '#'");
	xreplace(&spec->attr, hash != NULL ? hash + 1 : "");
	if (flake[0] == '\0' || flake_is_local(flake))
		return flake_take_local(cli, flake[0] != '\0' ? flake : ".", spec, err);
	rc = vm_flake_check(flake, err);
	if (rc < 0) {
		hint_path(flake, err);
		return blix_wrap(err, "--flake");
	}
	xreplace(&spec->flake, flake);
	return 0;
}

int create_spec(struct cli *cli, struct vm_spec *spec, struct blix_error *err)
{
	const struct arguments *arguments = &cli->arguments;
	const char *const *values = arguments->values;
	int rc;

	spec->cpus = arguments->cpus;
	spec->memory_bytes = arguments->memory_bytes;
	if (given(cli, OPTION_HYPERVISOR))
		xreplace(&spec->hypervisor, values[OPTION_HYPERVISOR]);
	if (given(cli, OPTION_READY))
		xreplace(&spec->ready, values[OPTION_READY]);
	if (given(cli, OPTION_NODE))
		xreplace(&spec->node, values[OPTION_NODE]);
	spec->restart = arguments->restart;
	spec->plain = given(cli, OPTION_PLAIN);
	if (given(cli, OPTION_STOPPED))
		spec->power = VM_POWER_STOPPED;
	for (size_t i = 0; i < arguments->labels.n; i++) {
		rc = labels_set(&spec->labels, arguments->labels.items[i].key,
		                arguments->labels.items[i].value, err);
		if (rc < 0)
			return rc;
	}
	secrets_copy(&spec->secrets, &arguments->secrets);
	if (spec->secrets.n > 0 && (given(cli, OPTION_STOPPED) || given(cli, OPTION_NO_WAIT))) {
		(void)blix_fail(err, BLIX_E_INVALID, "--secret with --%s",
		                given(cli, OPTION_STOPPED) ? "stopped" : "no-wait");
		blix_hint(err, "a secret is kept on the VM's node, which must be waited for");
		return -(int)BLIX_E_INVALID;
	}
	rc = secrets_read(cli, err);
	return rc < 0 ? rc : flake_take(cli, spec, err);
}

/* Checks the spec as `name` would have it and makes the request's body. */
static int body_make(const struct vm_spec *common, const char *name, cJSON **ret,
                     struct blix_error *err)
{
	struct vm_spec spec;
	int rc;

	vm_spec_copy(&spec, common);
	if (spec.attr[0] == '\0')
		xreplace(&spec.attr, name);
	rc = vm_spec_check(&spec, err);
	if (rc == 0)
		*ret = vm_create_json(name, &spec);
	vm_spec_done(&spec);
	return rc;
}

int create_one(struct cli *cli, const struct vm_spec *common, const char *name, cJSON **ret,
               struct blix_error *err)
{
	cleanup(json_freep) cJSON *body = NULL;
	int rc = body_make(common, name, &body, err);

	if (rc < 0)
		return rc;
	return cli_mutate(cli, "POST", name,
	                  given(cli, OPTION_DRY_RUN) ? "/v1/vms?dryRun=true" : "/v1/vms", body, ret,
	                  err);
}

/* What stands against creating it, as the error that a real creation would end with. */
static int dry_verdict(const cJSON *answer, struct blix_error *err)
{
	if (true_at(answer, "exists"))
		return blix_fail(err, BLIX_E_EXISTS, "it exists already");
	if (cJSON_IsFalse(at(answer, "placeable")))
		return blix_fail(err, BLIX_E_NOROOM, "no node has room");
	return 0;
}

static int dry_print(struct cli *cli, const cJSON *answer)
{
	const char *name = text_at(answer, "name");
	struct blix_error err;
	int rc = dry_verdict(answer, &err);

	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL)
		print_json(answer, cli->settings.output == OUTPUT_JSONL);
	else if (rc < 0 && cli->settings.output != OUTPUT_NAME)
		(void)table_print(cli, &fit_table, at(answer, "nodes"));
	else if (rc == 0 && cli->settings.output == OUTPUT_NAME)
		(void)printf("%s\n", name);
	else if (rc == 0)
		(void)printf("vm %s: would run on %s\n", name, text_at(answer, "node"));
	if (rc == 0 && true_at(answer, "assumed"))
		talk_note(cli, "note: what the flake decides is taken as its usual value");
	return rc < 0 ? talk_error(cli, "vm", name, &err) : 0;
}

static int dry_finish(struct cli *cli, cJSON **answers, size_t n, int code)
{
	for (size_t i = 0; i < n; i++) {
		int failed = dry_print(cli, answers[i]);

		code = code != 0 ? code : failed;
		cJSON_Delete(answers[i]);
	}
	return code != 0 ? code : cli_flush(cli);
}

static enum condition condition_wanted(const struct cli *cli)
{
	if (given(cli, OPTION_STOPPED))
		return CONDITION_STOPPED;
	return given(cli, OPTION_READY) ? CONDITION_READY : CONDITION_RUNNING;
}

static int create_all(struct cli *cli, const struct vm_spec *spec)
{
	size_t n = cli->arguments.n_names, n_objects = 0;
	cleanup(freep) cJSON **objects = xcalloc(n + 1, sizeof(cJSON *));
	struct blix_error err;
	int code = 0;

	cli_catch_interrupt();
	for (size_t i = 0; i < n && !cli_interrupted(); i++) {
		const char *name = cli->arguments.names[i];
		int failed = 0;

		if (create_one(cli, spec, name, &objects[n_objects], &err) == 0)
			n_objects++;
		else
			failed = talk_error(cli, "vm", name, &err);
		code = code != 0 ? code : failed;
		if (failed == blix_code_info(BLIX_E_UNAVAILABLE)->exit)
			break;
	}
	if (given(cli, OPTION_DRY_RUN))
		return dry_finish(cli, objects, n_objects, code);
	return action_finish(cli, objects, n_objects, condition_wanted(cli), code);
}

int vm_create_run(struct cli *cli)
{
	struct vm_spec spec;
	struct blix_error err;
	int code;

	if (!given(cli, OPTION_FLAKE)) {
		(void)blix_fail(&err, BLIX_E_INVALID, "'blix vm create' needs --flake REF[#ATTR]");
		blix_hint(&err, "for example: %s", cli->verb->example);
		return talk_error(cli, NULL, NULL, &err);
	}
	vm_spec_init(&spec);
	if (create_spec(cli, &spec, &err) < 0)
		code = talk_error(cli, NULL, NULL, &err);
	else
		code = create_all(cli, &spec);
	vm_spec_done(&spec);
	return code;
}
