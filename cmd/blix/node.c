/* blix node list and show. */
#include "cli.h"

#include "base/parse.h"
#include "table.h"

#include <inttypes.h>

static const struct column columns[] = {
	{"name", "NAME", "metadata.name", NULL, COLUMN_TEXT, false},
	{"phase", "PHASE", "status.phase", NULL, COLUMN_PHASE, false},
	{"role", "ROLE", "spec.role", NULL, COLUMN_TEXT, false},
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
	cleanup(freep) char *found = column_text(&hypervisors, node, 0);

	(void)printf("node %s\n", text_at(node, "metadata.name"));
	print_field("phase", text_at(node, "status.phase"));
	print_field("role", text_at(node, "spec.role"));
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

static void print_nodes(struct cli *cli, cJSON **objects, size_t n)
{
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL) {
		print_objects(cli, "NodeList", (const cJSON *const *)objects, n);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (cli->settings.output == OUTPUT_NAME) {
			(void)printf("%s\n", text_at(objects[i], "metadata.name"));
			continue;
		}
		if (i > 0)
			(void)fputc('\n', stdout);
		show_node(objects[i]);
	}
}

int node_show_run(struct cli *cli)
{
	size_t n = 0, wanted = cli->arguments.n_names;
	cleanup(freep) cJSON **objects = xcalloc(wanted + 1, sizeof(cJSON *));
	struct blix_error err;
	int code = 0;

	for (size_t i = 0; i < wanted; i++) {
		const char *name = cli->arguments.names[i];

		if (cli_get(cli, &objects[n], &err, "/v1/nodes/%s", name) == 0)
			n++;
		else
			code = talk_error(cli, "node", name, &err);
		if (code == blix_code_info(BLIX_E_UNAVAILABLE)->exit)
			break;
	}
	if (n > 0)
		print_nodes(cli, objects, n);
	for (size_t i = 0; i < n; i++)
		cJSON_Delete(objects[i]);
	return code != 0 ? code : cli_flush(cli);
}
