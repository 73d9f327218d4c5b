/* blix vm metrics: what VMs use now, each asked of the node that runs it. */
#include "cli.h"
#include "table.h"

static const struct column columns[] = {
	{"name", "NAME", "metadata.name", NULL, COLUMN_TEXT, false},
	{"node", "NODE", "status.node", NULL, COLUMN_TEXT, false},
	{"cpu-ms", "CPU-MS", "status.usage.cpuMs", NULL, COLUMN_NUMBER, false},
	{"memory", "MEMORY", "status.usage.memoryBytes", NULL, COLUMN_SIZE, false},
	{"disk-read", "READ", "status.usage.diskReadBytes", NULL, COLUMN_SIZE, false},
	{"disk-written", "WRITTEN", "status.usage.diskWriteBytes", NULL, COLUMN_SIZE, false},
	{"net-received", "RECEIVED", "status.usage.netRxBytes", NULL, COLUMN_SIZE, false},
	{"net-sent", "SENT", "status.usage.netTxBytes", NULL, COLUMN_SIZE, false},
	{"sampled", "SAMPLED", "status.usage.sampledAt", NULL, COLUMN_TIME, true},
};
static const struct table table = {"UsageList", columns, array_size(columns)};

int vm_metrics_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *items = json_array();
	struct blix_error err;
	int code = 0, printed;

	if (table_check(cli, &table, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	for (size_t i = 0; i < cli->arguments.n_names; i++) {
		const char *name = cli->arguments.names[i];
		cJSON *object = NULL;

		if (cli_get(cli, &object, &err, "/v1/vms/%s/usage", name) == 0)
			json_push(items, object);
		else
			code = talk_error(cli, "vm", name, &err);
	}
	if (cJSON_GetArraySize(items) == 0)
		return code;
	printed = table_print(cli, &table, items);
	return code != 0 ? code : printed;
}
