/* blix vm list. The summary view is asked for wherever its fields are enough: a list of 10,000 is
 * then a tenth of the size. */
#include "cli.h"
#include "table.h"

static const struct column columns[] = {
	{"name", "NAME", "metadata.name", NULL, COLUMN_TEXT, false},
	{"phase", "PHASE", "status.phase", NULL, COLUMN_PHASE, false},
	{"ready", "READY", "status.ready", NULL, COLUMN_BOOL, false},
	{"node", "NODE", "status.node", NULL, COLUMN_TEXT, false},
	{"cpus", "CPUS", "status.resolved.cpus", "spec.cpus", COLUMN_NUMBER, false},
	{"memory", "MEMORY", "status.resolved.memoryBytes", "spec.memoryBytes", COLUMN_SIZE, false},
	{"age", "AGE", "metadata.createdAt", NULL, COLUMN_AGE, false},
	{"reason", "REASON", "status.reason", NULL, COLUMN_TEXT, false},
	{"uid", "UID", "metadata.uid", NULL, COLUMN_TEXT, true},
	{"hypervisor", "HYPERVISOR", "status.resolved.hypervisor", "spec.hypervisor", COLUMN_TEXT,
         true},
	{"pid", "PID", "status.pid", NULL, COLUMN_NUMBER, true},
	{"generation", "GENERATION", "status.generation.desired", NULL, COLUMN_NUMBER, true},
	{"stale", "STALE", "status.stale", NULL, COLUMN_BOOL, true},
	{"restarts", "RESTARTS", "status.restarts", NULL, COLUMN_NUMBER, true},
	{"labels", "LABELS", "metadata.labels", NULL, COLUMN_LABELS, true},
	{"flake", "FLAKE", "spec.flake", NULL, COLUMN_TEXT, true},
	{"created", "CREATED", "metadata.createdAt", NULL, COLUMN_TIME, true},
};
static const struct table table = {"VMList", columns, array_size(columns)};
static const char *const summary_keys[] = {"name", "phase",  "ready", "node",    "cpus", "memory",
                                           "age",  "reason", "uid",   "created", NULL};

static bool summary_is_enough(const struct cli *cli)
{
	if (cli->settings.output == OUTPUT_NAME)
		return true;
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL)
		return false;
	return !table_needs_more(cli, &table, summary_keys);
}

static int fetch(struct cli *cli, cJSON **ret, struct blix_error *err)
{
	const char *selector = cli->arguments.values[OPTION_SELECTOR];
	const char *view = summary_is_enough(cli) ? "summary" : "full";
	struct buf query;
	int rc;

	buf_init(&query, LIMIT_BODY);
	if (selector != NULL)
		client_escape(&query, selector);
	if (buf_failed(&query))
		return blix_fail(err, BLIX_E_TOOBIG, "the selector is too long");
	rc = cli_get(cli, ret, err, "/v1/vms?view=%s%s%s", view, query.len > 0 ? "&labels=" : "",
	             query.data != NULL ? query.data : "");
	buf_done(&query);
	return rc;
}

int vm_list_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *list = NULL;
	struct blix_error err;
	bool names = given(cli, OPTION_QUIET) && cli->settings.output == OUTPUT_TABLE;

	if (names)
		cli->settings.output = OUTPUT_NAME;
	if (given(cli, OPTION_WATCH) && table_check(cli, &table, &err) == 0)
		return vm_watch(cli, &table);
	if (table_check(cli, &table, &err) < 0 || fetch(cli, &list, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	return list_print(cli, &table, list);
}
