/* Mutations of several VMs: all requests go out first, then each VM is waited for in turn, so that
 * the cluster works on all of them at once. A VM that fails does not keep the others from going on;
 * the exit code is that of the first failure. */
#include "cli.h"

#include "base/parse.h"
#include "sys/clock.h"
#include "table.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static void first_code(int *code, int next)
{
	if (*code == 0)
		*code = next;
}

/* Names by selector or --all, as the cluster knows them. */
static int names_select(struct cli *cli, cJSON **ret_list, struct blix_error *err)
{
	struct buf query;
	const char *selector = cli->arguments.values[OPTION_SELECTOR];
	int rc;

	buf_init(&query, LIMIT_BODY);
	client_escape(&query, selector != NULL ? selector : "");
	if (buf_failed(&query))
		return blix_fail(err, BLIX_E_TOOBIG, "the selector is too long");
	rc = cli_get(cli, ret_list, err, "/v1/vms?view=summary%s%s",
	             selector != NULL ? "&labels=" : "", query.data != NULL ? query.data : "");
	buf_done(&query);
	return rc;
}

static int check_choice(const struct cli *cli, struct blix_error *err)
{
	bool names = cli->arguments.n_names > 0;
	bool all = given(cli, OPTION_ALL), selector = given(cli, OPTION_SELECTOR);

	if (names + all + selector == 1)
		return 0;
	if (names + all + selector > 1)
		return blix_fail(err, BLIX_E_INVALID,
		                 "give names, --selector or --all, only one of them");
	(void)blix_fail(err, BLIX_E_INVALID, "'blix vm %s' needs a NAME, a --selector or --all",
	                cli->verb->verb);
	blix_hint(err, "for example: %s", cli->verb->example);
	return -(int)BLIX_E_INVALID;
}

/* Deleting what was not named one by one is confirmed. */
static int confirm(const struct cli *cli, size_t n, struct blix_error *err)
{
	char answer[16] = "";

	if (!(cli->verb->options & WITH(YES)) || given(cli, OPTION_YES) ||
	    cli->arguments.n_names > 0 || n == 0)
		return 0;
	if (!cli->talk_is_terminal || isatty(STDIN_FILENO) != 1) {
		(void)blix_fail(err, BLIX_E_INVALID, "deleting %zu VMs must be confirmed", n);
		blix_hint(err, "add --yes");
		return -(int)BLIX_E_INVALID;
	}
	(void)fprintf(stderr, "delete %zu VMs? [y/N] ", n);
	if (fgets(answer, sizeof(answer), stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y'))
		return 0;
	return blix_fail(err, BLIX_E_REFUSED, "nothing was deleted");
}

static int send_one(struct cli *cli, const struct action *action, const char *name, cJSON **ret,
                    struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s%s", name, action->path);
	cleanup(freep) char *edit = NULL;
	int rc;

	if (given(cli, OPTION_IF_VERSION))
		edit = xasprintf("%s%cifVersion=%" PRIu64, path,
		                 strchr(path, '?') != NULL ? '&' : '?', cli->arguments.if_version);
	rc = cli_mutate(cli, action->method, name, edit != NULL ? edit : path, action->body, ret,
	                err);
	if (rc == 0 && (rc = secrets_send(cli, *ret, err)) < 0) {
		cJSON_Delete(*ret);
		*ret = NULL;
	}
	return rc;
}

/* An answer without metadata ({"deleted":true}) stands for a VM that is gone. */
static cJSON *named_answer(cJSON *answer, const char *name)
{
	if (at(answer, "metadata.name") == NULL) {
		json_add(answer, "metadata", json_object());
		json_add_string(cJSON_GetObjectItemCaseSensitive(answer, "metadata"), "name", name);
	}
	return answer;
}

static int send_all(struct cli *cli, const struct action *action, const char *const *names,
                    size_t n)
{
	cleanup(freep) cJSON **objects = xcalloc(n + 1, sizeof(cJSON *));
	enum condition condition = action->condition;
	struct blix_error err;
	size_t n_objects = 0;
	int code = 0;

	cli_catch_interrupt();
	for (size_t i = 0; i < n && !cli_interrupted(); i++) {
		cJSON *answer = NULL;

		if (send_one(cli, action, names[i], &answer, &err) == 0)
			objects[n_objects++] = named_answer(answer, names[i]);
		else
			first_code(&code, talk_error(cli, "vm", names[i], &err));
		/* No daemon for one is no daemon for all. */
		if (code == blix_code_info(BLIX_E_UNAVAILABLE)->exit && n_objects == 0)
			break;
	}
	if (action->as_wanted && n_objects > 0 &&
	    strcmp(text_at(objects[0], "spec.powerState"), "Running") == 0)
		condition = CONDITION_RUNNING;
	return action_finish(cli, objects, n_objects, condition, code);
}

int action_run(struct cli *cli, const struct action *action)
{
	cleanup(json_freep) cJSON *list = NULL;
	cleanup(freep) const char **names = NULL;
	struct blix_error err;
	const cJSON *item;
	size_t n = 0;

	if (check_choice(cli, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	if (cli->arguments.n_names > 0)
		return send_all(cli, action, cli->arguments.names, cli->arguments.n_names);
	if (names_select(cli, &list, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	names = xcalloc((size_t)cJSON_GetArraySize(at(list, "items")) + 1, sizeof(*names));
	cJSON_ArrayForEach (item, at(list, "items"))
		names[n++] = text_at(item, "metadata.name");
	if (n == 0)
		talk_note(cli, "no VM matches");
	if (confirm(cli, n, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	return send_all(cli, action, names, n);
}

static void say_updated(struct cli *cli, const struct watch *watch, const char *elapsed)
{
	uint64_t number = u64_at(watch->object, "status.generation.desired");
	const char *outcome = text_at(watch->object, "status.update.outcome");
	const char *message = text_at(watch->object, "status.update.message");

	if (strcmp(outcome, "unchanged") == 0)
		talk_note(cli, "vm %s: unchanged, generation %" PRIu64 " (%s)", watch->name, number,
		          elapsed);
	else
		talk_note(cli, "vm %s: generation %" PRIu64 "%s%s, %s (%s)", watch->name, number,
		          message[0] != '\0' ? ": " : "", message,
		          text_at(watch->object, "status.phase"), elapsed);
}

static void say_done(struct cli *cli, const struct watch *watch)
{
	char elapsed[32];
	const char *node = text_at(watch->object, "status.node");
	const char *phase = text_at(watch->object, "status.phase");

	format_duration(elapsed, sizeof(elapsed), clock_boot_ms() - cli->started_ms);
	if (watch->condition == CONDITION_UPDATED && watch->object != NULL) {
		say_updated(cli, watch, elapsed);
		return;
	}
	if (watch->object == NULL || watch->condition == CONDITION_DELETED)
		talk_note(cli, "vm %s: deleted (%s)", watch->name, elapsed);
	else
		talk_note(cli, "vm %s: %s%s%s%s (%s)", watch->name, phase,
		          watch->condition == CONDITION_READY ? " and ready" : "",
		          node[0] != '\0' ? " on " : "", node, elapsed);
}

static void print_operation(struct cli *cli, const cJSON *object)
{
	const cJSON *id = at(object, "status.operation.id");

	if (cJSON_IsNumber(id))
		(void)printf("%" PRIu64 "\n", u64_at(object, "status.operation.id"));
	else if (cJSON_IsString(id))
		(void)printf("%s\n", id->valuestring);
	else
		talk_note(cli, "vm %s: no operation was needed", text_at(object, "metadata.name"));
}

static cJSON *deleted_object(const char *name)
{
	cJSON *object = json_object(), *metadata = json_object();

	json_add_string(object, "kind", "VM");
	json_add_string(metadata, "name", name);
	json_add(object, "metadata", metadata);
	json_add_bool(object, "deleted", true);
	return object;
}

/* Waits for one VM and leaves the last that was seen of it in *object. */
static int finish_one(struct cli *cli, cJSON **object, enum condition condition)
{
	cleanup(freep) char *name = xstrdup(text_at(*object, "metadata.name"));
	struct watch watch = {
		.name = name, .condition = condition, .begun = true, .object = *object};
	struct blix_error err;
	int rc = 0;

	if (true_at(*object, "deleted")) {
		cJSON_Delete(*object);
		watch.object = NULL;
	} else {
		rc = watch_run(cli, &watch, &err);
	}
	if (rc == 0)
		say_done(cli, &watch);
	*object = watch.object != NULL ? watch.object : deleted_object(name);
	cli->watched = NULL;
	return rc < 0 ? talk_error(cli, "vm", name, &err) : 0;
}

static void print_results(struct cli *cli, cJSON **objects, size_t n)
{
	if (cli->settings.output == OUTPUT_NAME) {
		for (size_t i = 0; i < n; i++)
			(void)printf("%s\n", text_at(objects[i], "metadata.name"));
	} else if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL) {
		print_objects(cli, "VMList", (const cJSON *const *)objects, n);
	} else if (given(cli, OPTION_NO_WAIT)) {
		for (size_t i = 0; i < n; i++)
			print_operation(cli, objects[i]);
	}
}

int action_finish(struct cli *cli, cJSON **objects, size_t n, enum condition condition, int code)
{
	if (condition == CONDITION_NONE) {
		for (size_t i = 0; i < n; i++)
			talk_note(cli, "vm %s: set", text_at(objects[i], "metadata.name"));
	}
	for (size_t i = 0; i < n && condition != CONDITION_NONE && !given(cli, OPTION_NO_WAIT) &&
	                   !cli_interrupted();
	     i++)
		first_code(&code, finish_one(cli, &objects[i], condition));
	talk_close(cli);
	if (n > 0)
		print_results(cli, objects, n);
	for (size_t i = 0; i < n; i++)
		cJSON_Delete(objects[i]);
	first_code(&code, cli_interrupted() ? 130 : 0);
	first_code(&code, cli_flush(cli));
	return code;
}

uint64_t action_grace_ms(const struct cli *cli)
{
	return given(cli, OPTION_FORCE) ? 0 : cli->arguments.grace_ms;
}
