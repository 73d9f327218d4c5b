/* blix vm history: the systems of a VM that are kept, the newest first. */
#include "cli.h"
#include "table.h"

static const struct column columns[] = {
	{"generation", "GENERATION", "number", NULL, COLUMN_NUMBER, false},
	{"wanted", "WANTED", "desired", NULL, COLUMN_BOOL, false},
	{"built", "BUILT", "current", NULL, COLUMN_BOOL, false},
	{"booted", "BOOTED", "booted", NULL, COLUMN_BOOL, false},
	{"created", "CREATED", "createdAt", NULL, COLUMN_TIME, false},
	{"by", "BY", "by", NULL, COLUMN_TEXT, false},
	{"flake", "FLAKE", "flake", NULL, COLUMN_TEXT, false},
	{"attr", "ATTR", "attr", NULL, COLUMN_TEXT, true},
	{"base", "BASE", "baseUrl", NULL, COLUMN_TEXT, true},
	{"lock", "LOCK", "lock", NULL, COLUMN_TEXT, true},
	{"runner", "RUNNER", "outPath", NULL, COLUMN_TEXT, true},
};
static const struct table table = {"GenerationList", columns, array_size(columns)};

int vm_history_run(struct cli *cli)
{
	const char *name = cli->arguments.names[0];
	cleanup(json_freep) cJSON *list = NULL;
	const cJSON *item;
	struct blix_error err;

	if (table_check(cli, &table, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	if (cli_get(cli, &list, &err, "/v1/vms/%s/generations", name) < 0)
		return talk_error(cli, "vm", name, &err);
	if (cli->settings.output != OUTPUT_NAME)
		return list_print(cli, &table, list);
	cJSON_ArrayForEach (item, at(list, "items"))
		(void)printf("%.0f\n", cJSON_GetNumberValue(at(item, "number")));
	return cli_flush(cli);
}
