/* blix vm adopt: takes over a microVM that 'microvm -c' made on a node. */
#include "cli.h"

int vm_adopt_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	struct action action = {.method = "POST",
	                        .path = "/adopt",
	                        .body = body,
	                        .condition = CONDITION_STOPPED,
	                        .as_wanted = true};
	struct blix_error err;

	if (!given(cli, OPTION_NODE)) {
		(void)blix_fail(&err, BLIX_E_INVALID, "'blix vm adopt' needs --node N");
		blix_hint(&err, "the node that has the microVM's directory");
		return talk_error(cli, NULL, NULL, &err);
	}
	json_add_string(body, "node", cli->arguments.values[OPTION_NODE]);
	if (given(cli, OPTION_PLAIN))
		json_add_bool(body, "plain", true);
	return action_run(cli, &action);
}
