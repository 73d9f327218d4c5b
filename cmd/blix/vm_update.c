/* blix vm update and rollback. What becomes of it is decided in the cluster: this only asks, and
 * waits to hear. */
#include "cli.h"

#include "base/parse.h"

#include <string.h>

/* Both take it; a flag that means nothing is refused before the network. */
static int restart_take(const struct cli *cli, cJSON *body, struct blix_error *err)
{
	const char *restart = cli->arguments.values[OPTION_UPDATE_RESTART];

	if (restart == NULL)
		return 0;
	if (strcmp(restart, "now") != 0 && strcmp(restart, "if-needed") != 0 &&
	    strcmp(restart, "no") != 0)
		return blix_fail(err, BLIX_E_INVALID,
		                 "--restart: '%.64s' is none of now, if-needed and no", restart);
	if (strcmp(restart, "no") == 0 && given(cli, OPTION_AUTO_ROLLBACK)) {
		(void)blix_fail(err, BLIX_E_INVALID,
		                "--auto-rollback needs a restart to judge the new system by");
		blix_hint(err, "leave out --restart=no");
		return -(int)BLIX_E_INVALID;
	}
	json_add_string(body, "restart", restart);
	return 0;
}

static int flake_add(struct cli *cli, cJSON *body, struct blix_error *err)
{
	struct vm_spec spec;
	int rc;

	if (!given(cli, OPTION_FLAKE))
		return 0;
	vm_spec_init(&spec);
	rc = flake_take(cli, &spec, err);
	if (rc == 0) {
		json_add_string(body, "flake", spec.flake);
		json_add_string(body, "attr", spec.attr);
	}
	vm_spec_done(&spec);
	return rc;
}

static int update_fill(struct cli *cli, cJSON *body, struct blix_error *err)
{
	int rc = restart_take(cli, body, err);

	if (rc == 0 && given(cli, OPTION_DEADLINE) && !given(cli, OPTION_AUTO_ROLLBACK))
		rc = blix_fail(err, BLIX_E_INVALID, "--deadline goes with --auto-rollback");
	if (rc < 0)
		return rc;
	json_add_u64(body, "graceMs", action_grace_ms(cli));
	if (given(cli, OPTION_AUTO_ROLLBACK))
		json_add_bool(body, "autoRollback", true);
	if (given(cli, OPTION_DEADLINE))
		json_add_u64(body, "timeoutMs", cli->arguments.deadline_ms);
	return flake_add(cli, body, err);
}

int vm_update_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	struct action action = {
		.method = "POST", .path = "/update", .body = body, .condition = CONDITION_UPDATED};
	struct blix_error err;

	if (update_fill(cli, body, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	return action_run(cli, &action);
}

int vm_rollback_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	struct action action = {.method = "POST",
	                        .path = "/rollback",
	                        .body = body,
	                        .condition = CONDITION_UPDATED};
	struct blix_error err;
	uint64_t number = 0;
	int rc = restart_take(cli, body, &err);

	if (rc == 0 && cli->arguments.n_names > 1) {
		rc = parse_u64(cli->arguments.names[1], &number, &err);
		if (rc == 0 && number == 0)
			rc = blix_fail(&err, BLIX_E_INVALID, "generations begin at 1");
		if (rc < 0)
			(void)blix_wrap(&err, "generation");
		cli->arguments.n_names = 1;
	}
	if (rc < 0)
		return talk_error(cli, NULL, NULL, &err);
	json_add_u64(body, "graceMs", action_grace_ms(cli));
	if (number != 0)
		json_add_u64(body, "generation", number);
	return action_run(cli, &action);
}
