/* blix vm delete. */
#include "cli.h"

#include <inttypes.h>

int vm_delete_run(struct cli *cli)
{
	cleanup(freep) char *path = xasprintf("?graceMs=%" PRIu64 "%s", action_grace_ms(cli),
	                                      given(cli, OPTION_VOLUMES) ? "&volumes=true" : "");
	struct action action = {.method = "DELETE", .path = path, .condition = CONDITION_DELETED};

	return action_run(cli, &action);
}
