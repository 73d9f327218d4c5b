/* blix status: cluster, nodes, VMs by phase and problems, on one screen. */
#include "cli.h"
#include "core/object_json.h"
#include "table.h"

#include <inttypes.h>
#include <string.h>

#define PROBLEMS_MAX 12 /* lines; the rest is counted */

struct overview {
	cJSON *version, *cluster, *nodes, *vms;
};

static void overview_done(struct overview *overview)
{
	cJSON_Delete(overview->version);
	cJSON_Delete(overview->cluster);
	cJSON_Delete(overview->nodes);
	cJSON_Delete(overview->vms);
}

static int overview_fetch(struct cli *cli, struct overview *overview, struct blix_error *err)
{
	int rc = cli_get(cli, &overview->version, err, "/v1/version");

	if (rc == 0)
		rc = cli_get(cli, &overview->cluster, err, "/v1/cluster");
	if (rc == 0)
		rc = cli_get(cli, &overview->nodes, err, "/v1/nodes");
	if (rc == 0)
		rc = cli_get(cli, &overview->vms, err, "/v1/vms?view=summary");
	return rc;
}

static uint64_t count_phase(const cJSON *list, const char *phase)
{
	const cJSON *item;
	uint64_t n = 0;

	cJSON_ArrayForEach (item, at(list, "items"))
		n += phase == NULL || strcmp(text_at(item, "status.phase"), phase) == 0;
	return n;
}

static cJSON *count_phases(const cJSON *vms)
{
	cJSON *counts = json_object();

	for (unsigned i = 0; i < VM_PHASE_COUNT; i++) {
		const char *phase = vm_phase_name((enum vm_phase)i);
		uint64_t n = count_phase(vms, phase);

		if (n > 0)
			json_add_u64(counts, phase, n);
	}
	return counts;
}

static void problem_add(cJSON *problems, char *text)
{
	json_push_string(problems, text);
	free(text);
}

static void find_vm_problems(const cJSON *vms, cJSON *problems)
{
	const cJSON *vm;

	cJSON_ArrayForEach (vm, at(vms, "items")) {
		const char *phase = text_at(vm, "status.phase");
		const char *reason = text_at(vm, "status.reason");
		bool stuck = strcmp(phase, "Pending") == 0 && reason[0] != '\0';

		if (stuck || strcmp(phase, "Failed") == 0 || strcmp(phase, "CrashLoop") == 0 ||
		    strcmp(phase, "Unknown") == 0)
			problem_add(problems,
			            xasprintf("vm %s: %s%s%s", text_at(vm, "metadata.name"), phase,
			                      reason[0] != '\0' ? ": " : "", reason));
	}
}

static cJSON *find_problems(const struct overview *overview)
{
	cJSON *problems = json_array();
	const cJSON *item;

	if (!true_at(overview->cluster, "quorum"))
		json_push_string(problems, "no quorum: nothing can be changed");
	else if (text_at(overview->cluster, "leader")[0] == '\0')
		json_push_string(problems, "no leader");
	cJSON_ArrayForEach (item, at(overview->cluster, "servers")) {
		if (cJSON_IsFalse(at(item, "online")))
			problem_add(problems,
			            xasprintf("server %s: offline", text_at(item, "name")));
	}
	cJSON_ArrayForEach (item, at(overview->nodes, "items")) {
		const char *phase = text_at(item, "status.phase");

		if (strcmp(phase, "Ready") != 0)
			problem_add(problems, xasprintf("node %s: %s",
			                                text_at(item, "metadata.name"), phase));
	}
	find_vm_problems(overview->vms, problems);
	return problems;
}

static void print_counts(const cJSON *vms, const cJSON *counts)
{
	struct buf line;
	const cJSON *count;

	buf_init(&line, 1024);
	(void)buf_printf(&line, "%" PRIu64, count_phase(vms, NULL));
	cJSON_ArrayForEach (count, counts)
		(void)buf_printf(&line, "%s%.0f %s", count == counts->child ? ": " : ", ",
		                 count->valuedouble, count->string);
	print_field("vms", line.data != NULL ? line.data : "");
	buf_done(&line);
}

static void print_problems(const cJSON *problems)
{
	const cJSON *problem;
	unsigned n = 0, all = (unsigned)cJSON_GetArraySize(problems);

	if (all == 0)
		print_field("problems", "none");
	cJSON_ArrayForEach (problem, problems) {
		if (n++ < PROBLEMS_MAX)
			print_field(n == 1 ? "problems" : "", problem->valuestring);
	}
	if (all > PROBLEMS_MAX)
		print_fieldf("", "and %u more", all - PROBLEMS_MAX);
}

static void print_overview(const struct overview *overview, const cJSON *counts,
                           const cJSON *problems)
{
	const char *leader = text_at(overview->cluster, "leader");

	(void)printf("blix %s\n", text_at(overview->version, "version"));
	print_field("cluster", text_at(overview->cluster, "cluster"));
	print_field("leader", leader[0] != '\0' ? leader : "none");
	print_field("quorum", true_at(overview->cluster, "quorum") ? "yes" : "no");
	print_fieldf("nodes", "%" PRIu64 " of %" PRIu64 " ready",
	             count_phase(overview->nodes, "Ready"), count_phase(overview->nodes, NULL));
	print_counts(overview->vms, counts);
	print_problems(problems);
}

static void print_overview_json(const struct overview *overview, cJSON *counts, cJSON *problems,
                                bool lines)
{
	cJSON *tree = json_object(), *nodes = json_object();

	json_add_string(tree, "kind", "Status");
	json_add_string(tree, "apiVersion", BLIX_API_VERSION);
	json_add_string(tree, "version", text_at(overview->version, "version"));
	json_add_string(tree, "cluster", text_at(overview->cluster, "cluster"));
	json_add_string(tree, "leader", text_at(overview->cluster, "leader"));
	json_add_bool(tree, "quorum", true_at(overview->cluster, "quorum"));
	json_add_u64(nodes, "ready", count_phase(overview->nodes, "Ready"));
	json_add_u64(nodes, "all", count_phase(overview->nodes, NULL));
	json_add(tree, "nodes", nodes);
	json_add(tree, "vms", counts);
	json_add(tree, "problems", problems);
	print_json(tree, lines);
	cJSON_Delete(tree);
}

int status_run(struct cli *cli)
{
	struct overview overview = {0};
	struct blix_error err;
	cJSON *counts, *problems;

	if (overview_fetch(cli, &overview, &err) < 0) {
		overview_done(&overview);
		return talk_error(cli, NULL, NULL, &err);
	}
	counts = count_phases(overview.vms);
	problems = find_problems(&overview);
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL) {
		print_overview_json(&overview, counts, problems,
		                    cli->settings.output == OUTPUT_JSONL);
	} else {
		print_overview(&overview, counts, problems);
		cJSON_Delete(counts);
		cJSON_Delete(problems);
	}
	overview_done(&overview);
	return cli_flush(cli);
}
