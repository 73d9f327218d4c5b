/* blix vm start, stop, restart, pause and resume. */
#include "cli.h"

static int power(struct cli *cli, const char *path, bool grace, enum condition condition)
{
	cleanup(json_freep) cJSON *body = NULL;
	struct action action = {.method = "POST", .path = path, .condition = condition};

	if (grace) {
		body = json_object();
		json_add_u64(body, "graceMs", action_grace_ms(cli));
		action.body = body;
	}
	return action_run(cli, &action);
}

int vm_start_run(struct cli *cli)
{
	return power(cli, "/start", false, CONDITION_RUNNING);
}

int vm_stop_run(struct cli *cli)
{
	return power(cli, "/stop", true, CONDITION_STOPPED);
}

int vm_pause_run(struct cli *cli)
{
	return power(cli, "/pause", false, CONDITION_PAUSED);
}

int vm_resume_run(struct cli *cli)
{
	return power(cli, "/resume", false, CONDITION_RUNNING);
}

int vm_restart_run(struct cli *cli)
{
	return power(cli, "/restart", true, CONDITION_RUNNING);
}
