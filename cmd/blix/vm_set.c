/* blix vm set: edits the spec of VMs. Other resources are rendered at once and count from the next
 * restart; this waits until that is built. Values of secrets are no part of a spec: they go to the
 * VM's node, and from there to a guest that runs. */
#include "cli.h"

/* *ret_only: there is nothing but secrets. */
static int set_fill(const struct cli *cli, cJSON *body, bool *ret_only, struct blix_error *err)
{
	const struct arguments *arguments = &cli->arguments;
	cJSON *labels = json_object();

	for (size_t i = 0; i < arguments->labels.n; i++)
		json_add_string(labels, arguments->labels.items[i].key,
		                arguments->labels.items[i].value);
	json_add(body, "labels", labels);
	if (given(cli, OPTION_CPUS))
		json_add_u64(body, "cpus", arguments->cpus);
	if (given(cli, OPTION_MEMORY))
		json_add_u64(body, "memoryBytes", arguments->memory_bytes);
	if (given(cli, OPTION_RESTART))
		json_add_string(body, "restartPolicy", vm_restart_name(arguments->restart));
	if (given(cli, OPTION_CPUS) || given(cli, OPTION_MEMORY) || given(cli, OPTION_RESTART) ||
	    arguments->labels.n > 0)
		return 0;
	if (arguments->secrets.n > 0) {
		*ret_only = true;
		return 0;
	}
	(void)blix_fail(err, BLIX_E_INVALID, "nothing to set");
	blix_hint(err, "give --cpus, --memory, --label, --restart or --secret");
	return -(int)BLIX_E_INVALID;
}

int vm_set_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	struct action action = {
		.method = "POST", .path = "/set", .body = body, .condition = CONDITION_NONE};
	struct blix_error err;
	bool only_secrets = false;

	if (set_fill(cli, body, &only_secrets, &err) < 0 || secrets_read(cli, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	if (only_secrets)
		action = (struct action){.method = "GET", .path = "", .condition = CONDITION_NONE};
	if (given(cli, OPTION_CPUS) || given(cli, OPTION_MEMORY))
		action.condition = CONDITION_UPDATED;
	return action_run(cli, &action);
}
