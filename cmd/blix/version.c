/* blix version: that of this program, and of the daemon where one answers. */
#include "cli.h"

#include "base/version.h"
#include "table.h"

int version_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *daemon = NULL;
	cleanup(json_freep) cJSON *tree = json_object();
	struct blix_error err;
	const char *served;

	/* Saying who one is must work without a daemon. */
	(void)cli_get(cli, &daemon, &err, "/v1/version");
	served = text_at(daemon, "version");
	json_add_string(tree, "client", BLIX_VERSION);
	json_add_string(tree, "server", served);
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL)
		print_json(tree, cli->settings.output == OUTPUT_JSONL);
	else
		(void)printf("blix %s\nblixd %s\n", BLIX_VERSION,
		             served[0] != '\0' ? served : "not reached");
	return cli_flush(cli);
}
