/* blix vm show: blocks of fields for people, the objects as they are for programs. */
#include "cli.h"
#include "show.h"
#include "table.h"

#include "base/parse.h"

#include <inttypes.h>

static void show_size(const char *label, const cJSON *object, const char *path)
{
	char text[32];

	if (at(object, path) == NULL)
		return;
	format_size(text, sizeof(text), u64_at(object, path));
	print_field(label, text);
}

static void show_number(const char *label, const cJSON *object, const char *path)
{
	if (at(object, path) != NULL)
		print_fieldf(label, "%" PRIu64, u64_at(object, path));
}

static void show_labels(const cJSON *object)
{
	static const struct column column = {"labels",      "",   "metadata.labels", NULL,
	                                     COLUMN_LABELS, false};
	cleanup(freep) char *text = column_text(&column, object, 0);

	if (at(object, "metadata.labels") != NULL)
		print_field("labels", text);
}

static void show_secrets(const cJSON *object)
{
	const cJSON *name;
	struct buf line;

	buf_init(&line, LIMIT_SECRETS * (LIMIT_SECRET_NAME + 2) + 64);
	cJSON_ArrayForEach (name, at(object, "spec.secrets"))
		(void)buf_printf(&line, "%s%s", line.len > 0 ? ", " : "", name->valuestring);
	if (line.len > 0 && true_at(object, "status.secretsGiven"))
		(void)buf_add_string(&line, " (the guest has them)");
	print_field("secrets", line.data != NULL ? line.data : "");
	buf_done(&line);
}

static void show_spec(const cJSON *object)
{
	print_fieldf("flake", "%s#%s", text_at(object, "spec.flake"), text_at(object, "spec.attr"));
	print_field("wanted", text_at(object, "spec.powerState"));
	print_field("restart", text_at(object, "spec.restartPolicy"));
	print_field("ready when", text_at(object, "spec.ready"));
	print_field("only on node", text_at(object, "spec.node"));
	if (true_at(object, "spec.plain"))
		print_field("plain", "yes");
	show_secrets(object);
	show_labels(object);
}

static const char *first_path(const cJSON *object, const char *path, const char *path2)
{
	return at(object, path) != NULL ? path : path2;
}

static void show_crashes(const cJSON *object)
{
	const char *next = text_at(object, "status.crashes.nextTryAt");

	if (at(object, "status.crashes") != NULL)
		print_fieldf("crashes", "%" PRIu64 " in a row%s%s",
		             u64_at(object, "status.crashes.count"),
		             next[0] != '\0' ? ", next start at " : "", next);
}

static void show_system(const cJSON *object)
{
	show_number("cpus", object, first_path(object, "status.resolved.cpus", "spec.cpus"));
	show_size("memory", object,
	          first_path(object, "status.resolved.memoryBytes", "spec.memoryBytes"));
	print_field("hypervisor", text_at(object, first_path(object, "status.resolved.hypervisor",
	                                                     "spec.hypervisor")));
	show_number("volumes", object, "status.resolved.volumes");
	show_number("shares", object, "status.resolved.shares");
	show_number("devices", object, "status.resolved.devices");
	if (true_at(object, "status.pinned"))
		print_field("pinned", "yes: data in its directory ties it to its node");
	print_field("runner", text_at(object, "status.runner"));
	show_number("pid", object, "status.pid");
	print_field("started", text_at(object, "status.startedAt"));
	show_number("restarts", object, "status.restarts");
	show_number("exit code", object, "status.exitCode");
	show_crashes(object);
}

static void show_timings(const cJSON *object)
{
	static const struct {
		const char *label, *path;
	} steps[] = {{"queue", "status.timings.queueMs"}, {"resolve", "status.timings.resolveMs"},
	             {"build", "status.timings.buildMs"}, {"start", "status.timings.startMs"},
	             {"boot", "status.timings.bootMs"},   {"ready", "status.timings.readyMs"}};
	struct buf line;

	buf_init(&line, 512);
	for (size_t i = 0; i < array_size(steps); i++) {
		uint64_t ms = u64_at(object, steps[i].path);
		char text[32];

		format_duration(text, sizeof(text), ms);
		if (at(object, steps[i].path) != NULL && ms > 0)
			(void)buf_printf(&line, "%s%s %s", line.len > 0 ? ", " : "", steps[i].label,
			                 text);
	}
	print_field("timings", line.data != NULL ? line.data : "");
	buf_done(&line);
}

/* "stop 12: ask 0ms, term 30s, end 30s" */
static void show_operation(const cJSON *object)
{
	const cJSON *step;
	struct buf line;

	buf_init(&line, 1024);
	cJSON_ArrayForEach (step, at(object, "status.operation.steps")) {
		char text[32];

		format_duration(text, sizeof(text), u64_at(step, "afterMs"));
		(void)buf_printf(&line, "%s %s %s", line.len > 0 ? "," : ":", text_at(step, "name"),
		                 text);
	}
	print_fieldf("operation", "%s %s%s", text_at(object, "status.operation.verb"),
	             text_at(object, "status.operation.id"), line.data != NULL ? line.data : "");
	buf_done(&line);
}

static void show_generation(const cJSON *object)
{
	if (at(object, "status.generation.desired") == NULL)
		return;
	if (true_at(object, "status.stale"))
		print_fieldf("generation", "%" PRIu64 ", stale: it runs %" PRIu64,
		             u64_at(object, "status.generation.desired"),
		             u64_at(object, "status.generation.booted"));
	else
		show_number("generation", object, "status.generation.desired");
	if (at(object, "status.update") != NULL)
		print_fieldf("update", "%s %s",
		             text_at(object, at(object, "status.update.step") != NULL
		                                     ? "status.update.step"
		                                     : "status.update.outcome"),
		             text_at(object, "status.update.message"));
}

static void show_agent(const cJSON *object)
{
	const cJSON *one;
	struct buf list;

	if (at(object, "status.agent") == NULL)
		return;
	if (!true_at(object, "status.agent.connected")) {
		print_field("agent", at(object, "status.agent.message") != NULL
		                             ? text_at(object, "status.agent.message")
		                             : "none answers: no exec and no cp, but console");
		return;
	}
	print_fieldf("agent", "%s%s", text_at(object, "status.agent.version"),
	             true_at(object, "status.agent.ready") ? ", ready" : "");
	print_field("hostname", text_at(object, "status.agent.hostname"));
	print_field("machine id", text_at(object, "status.agent.machineId"));
	buf_init(&list, 2048);
	cJSON_ArrayForEach (one, at(object, "status.agent.addresses"))
		(void)buf_printf(&list, "%s%s", list.len > 0 ? ", " : "",
		                 cJSON_GetStringValue(one));
	print_field("addresses", list.data != NULL ? list.data : "");
	buf_done(&list);
}

static void show_usage(const cJSON *object)
{
	char text[32];

	if (at(object, "status.usage") == NULL)
		return;
	if (at(object, "status.usage.cpuMs") != NULL) {
		format_duration(text, sizeof(text), u64_at(object, "status.usage.cpuMs"));
		print_field("cpu used", text);
	}
	show_size("memory used", object, "status.usage.memoryBytes");
	show_size("disk read", object, "status.usage.diskReadBytes");
	show_size("disk written", object, "status.usage.diskWriteBytes");
	show_size("net received", object, "status.usage.netRxBytes");
	show_size("net sent", object, "status.usage.netTxBytes");
}

static void show_vm(const cJSON *object)
{
	(void)printf("vm %s\n", text_at(object, "metadata.name"));
	print_fieldf("phase", "%s%s since %s", text_at(object, "status.phase"),
	             true_at(object, "status.ready") ? ", ready," : "",
	             text_at(object, "status.phaseSince"));
	print_field("reason", text_at(object, "status.reason"));
	print_field("message", text_at(object, "status.message"));
	print_field("node", text_at(object, "status.node"));
	show_system(object);
	show_generation(object);
	show_agent(object);
	show_usage(object);
	show_operation(object);
	show_timings(object);
	show_spec(object);
	print_field("uid", text_at(object, "metadata.uid"));
	print_fieldf("version", "%" PRIu64 " (revision %" PRIu64 ", epoch %" PRIu64 ")",
	             u64_at(object, "metadata.version"), u64_at(object, "metadata.revision"),
	             u64_at(object, "status.epoch"));
	print_field("created", text_at(object, "metadata.createdAt"));
}

int vm_show_run(struct cli *cli)
{
	static const struct show show = {"vm", "VMList", "/v1/vms/", show_vm};

	return show_run(cli, &show);
}
