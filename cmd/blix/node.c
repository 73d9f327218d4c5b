/* blix node list and show. */
#include "cli.h"

#include "base/parse.h"
#include "show.h"
#include "table.h"

#include <inttypes.h>

static const struct column columns[] = {
	{"name", "NAME", "metadata.name", NULL, COLUMN_TEXT, false},
	{"phase", "PHASE", "status.phase", NULL, COLUMN_PHASE, false},
	{"role", "ROLE", "spec.role", NULL, COLUMN_TEXT, false},
	{"vote", "VOTE", "status.raft.vote", NULL, COLUMN_TEXT, false},
	{"vms", "VMS", "status.vms", NULL, COLUMN_NUMBER, false},
	{"cpus", "CPUS", "status.capacity.cpus", NULL, COLUMN_NUMBER, false},
	{"cpus-used", "USED", "status.committed.cpus", NULL, COLUMN_NUMBER, false},
	{"memory", "MEMORY", "status.capacity.memoryBytes", NULL, COLUMN_SIZE, false},
	{"memory-used", "USED", "status.committed.memoryBytes", NULL, COLUMN_SIZE, false},
	{"accel", "ACCEL", "status.accel", NULL, COLUMN_TEXT, false},
	{"version", "VERSION", "status.version", NULL, COLUMN_TEXT, false},
	{"id", "ID", "metadata.id", NULL, COLUMN_TEXT, true},
	{"hypervisors", "HYPERVISORS", "status.hypervisors", NULL, COLUMN_LIST, true},
	{"supervision", "SUPERVISION", "status.supervision", NULL, COLUMN_TEXT, true},
	{"zone", "ZONE", "spec.zone", NULL, COLUMN_TEXT, true},
	{"addresses", "ADDRESSES", "status.addresses", NULL, COLUMN_LIST, true},
	{"microvm", "MICROVM", "status.microvmCommand", NULL, COLUMN_TEXT, true},
};
static const struct table table = {"NodeList", columns, array_size(columns)};

int node_list_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *list = NULL;
	struct blix_error err;

	if (given(cli, OPTION_QUIET) && cli->settings.output == OUTPUT_TABLE)
		cli->settings.output = OUTPUT_NAME;
	if (table_check(cli, &table, &err) < 0 || cli_get(cli, &list, &err, "/v1/nodes") < 0)
		return talk_error(cli, NULL, NULL, &err);
	return list_print(cli, &table, list);
}

static void show_room(const char *label, const cJSON *node, const char *path)
{
	cleanup(freep) char *cpus = xasprintf("%s.cpus", path);
	cleanup(freep) char *bytes = xasprintf("%s.memoryBytes", path);
	char memory[32];

	format_size(memory, sizeof(memory), u64_at(node, bytes));
	if (at(node, path) != NULL)
		print_fieldf(label, "%" PRIu64 " cpus, %s", u64_at(node, cpus), memory);
}

static void show_node(const cJSON *node)
{
	static const struct column hypervisors = {"",   "",          "status.hypervisors",
	                                          NULL, COLUMN_LIST, false};
	static const struct column addresses = {"",   "",          "status.addresses",
	                                        NULL, COLUMN_LIST, false};
	cleanup(freep) char *found = column_text(&hypervisors, node, 0);
	cleanup(freep) char *where = column_text(&addresses, node, 0);

	(void)printf("node %s\n", text_at(node, "metadata.name"));
	print_field("phase", text_at(node, "status.phase"));
	print_field("role", text_at(node, "spec.role"));
	print_field("vote", text_at(node, "status.raft.vote"));
	if (true_at(node, "status.raft.leader"))
		print_field("leads", "yes");
	if (true_at(node, "status.leaving"))
		print_field("leaving", "yes");
	if (cJSON_IsFalse(at(node, "spec.schedulable")))
		print_field("schedulable", "no");
	print_field("zone", text_at(node, "spec.zone"));
	print_field("addresses", where);
	show_room("capacity", node, "status.capacity");
	show_room("usable", node, "status.usable");
	show_room("committed", node, "status.committed");
	print_fieldf("vms", "%" PRIu64, u64_at(node, "status.vms"));
	print_field("hypervisors", found);
	print_field("acceleration", text_at(node, "status.accel"));
	print_field("supervision", text_at(node, "status.supervision"));
	print_field("microvm", text_at(node, "status.microvmCommand"));
	print_field("version", text_at(node, "status.version"));
	print_field("id", text_at(node, "metadata.id"));
}

int node_show_run(struct cli *cli)
{
	static const struct show show = {"node", "NodeList", "/v1/nodes/", show_node};

	return show_run(cli, &show);
}
