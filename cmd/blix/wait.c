/* blix wait vm/NAME --for=CONDITION. */
#include "cli.h"

#include "base/parse.h"
#include "table.h"

#include <string.h>

static int operand_check(const struct cli *cli, enum condition *ret, struct blix_error *err)
{
	const char *operand = cli->arguments.names[0];
	int rc;

	if (strncmp(operand, "vm/", 3) != 0) {
		(void)blix_fail(err, BLIX_E_INVALID, "'%.64s' is not vm/NAME", operand);
		if (parse_name("VM name", operand, NULL) == 0)
			blix_hint(err, "did you mean 'vm/%s'?", operand);
		return -(int)BLIX_E_INVALID;
	}
	rc = parse_name("VM name", operand + 3, err);
	if (rc == 0 && !given(cli, OPTION_FOR))
		rc = blix_fail(
			err, BLIX_E_INVALID,
			"'blix wait' needs --for=running, ready, paused, stopped, updated or "
			"deleted");
	if (rc == 0 && condition_find(cli->arguments.values[OPTION_FOR], ret, err) < 0)
		rc = blix_wrap(err, "--for");
	return rc;
}

int wait_run(struct cli *cli)
{
	struct watch watch = {.name = cli->arguments.names[0] + 3};
	struct blix_error err;
	int rc;

	if (operand_check(cli, &watch.condition, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	rc = watch_run(cli, &watch, &err);
	talk_close(cli);
	if (rc < 0) {
		cJSON_Delete(watch.object);
		return talk_error(cli, "vm", watch.name, &err);
	}
	if (watch.object != NULL &&
	    (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL))
		print_json(watch.object, cli->settings.output == OUTPUT_JSONL);
	else
		talk_note(cli, "vm %s: %s", watch.name, condition_name(watch.condition));
	cJSON_Delete(watch.object);
	return cli_flush(cli);
}
