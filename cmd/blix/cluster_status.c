/* blix cluster status. */
#include "cli.h"
#include "table.h"

#include <inttypes.h>

static const struct column columns[] = {
	{"name", "SERVER", "name", NULL, COLUMN_TEXT, false},
	{"id", "ID", "id", NULL, COLUMN_NUMBER, false},
	{"role", "ROLE", "role", NULL, COLUMN_TEXT, false},
	{"online", "ONLINE", "online", NULL, COLUMN_BOOL, false},
	{"seen", "SEEN-MS-AGO", "seenMsAgo", NULL, COLUMN_NUMBER, false},
};
static const struct table table = {"ServerList", columns, array_size(columns)};

static int print_cluster(struct cli *cli, const cJSON *cluster)
{
	const char *leader = text_at(cluster, "leader");

	(void)printf("cluster %s\n", text_at(cluster, "cluster"));
	print_field("leader", leader[0] != '\0' ? leader : "none");
	print_field("quorum", true_at(cluster, "quorum") ? "yes" : "no");
	print_fieldf("term", "%" PRIu64, u64_at(cluster, "term"));
	print_fieldf("commit index", "%" PRIu64, u64_at(cluster, "commitIndex"));
	print_fieldf("revision", "%" PRIu64, u64_at(cluster, "revision"));
	print_field("state hash", text_at(cluster, "stateHash"));
	(void)fputc('\n', stdout);
	return table_print(cli, &table, at(cluster, "servers"));
}

int cluster_status_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *cluster = NULL;
	struct blix_error err;

	if (cli_get(cli, &cluster, &err, "/v1/cluster") < 0)
		return talk_error(cli, NULL, NULL, &err);
	if (cli->settings.output == OUTPUT_NAME)
		(void)printf("%s\n", text_at(cluster, "cluster"));
	else if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL)
		print_json(cluster, cli->settings.output == OUTPUT_JSONL);
	else
		return print_cluster(cli, cluster);
	return cli_flush(cli);
}
