/* Finding out what this host is: see probe.h. */
#include "node/probe.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/parse.h"
#include "base/version.h"
#include "core/command.h"
#include "exec/child.h"
#include "exec/stray.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"

#include <stdio.h>
#include <unistd.h>

#define PROBE_DEADLINE_MS 2000

static uint64_t machine_memory_bytes(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

static bool on_path(const char *path, const char *program)
{
	for (const char *p = path; *p != '\0';) {
		size_t n = strcspn(p, ":");
		cleanup(freep) char *file = xasprintf("%.*s/%s", (int)n, p, program);

		if (n > 0 && access(file, X_OK) == 0)
			return true;
		p += n + (p[n] == ':');
	}
	return false;
}

/* A runner names its hypervisor by store path, so on a host with a store all may run; what stands
 * on the PATH is what a foreign runner needs. */
static char *find_hypervisors(const struct config *config)
{
	static const char *const programs[][2] = {{"qemu", "qemu-system-x86_64"},
	                                          {"cloud-hypervisor", "cloud-hypervisor"},
	                                          {"firecracker", "firecracker"},
	                                          {"crosvm", "crosvm"},
	                                          {"kvmtool", "lkvm"},
	                                          {"stratovirt", "stratovirt"},
	                                          {"alioth", "alioth"}};
	bool nixos = access("/run/current-system", F_OK) == 0;
	char *found = xstrdup("");

	for (size_t i = 0; i < array_size(programs); i++) {
		char *longer;

		if (!nixos && !on_path(config->path, programs[i][1]))
			continue;
		longer = xasprintf("%s%s%s", found, found[0] != '\0' ? " " : "", programs[i][0]);
		free(found);
		found = longer;
	}
	return found;
}

void probe_facts(const struct config *config, struct node_facts *facts)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	node_facts_init(facts);
	facts->cpus = config->cpus != 0 ? config->cpus : (uint32_t)(cpus > 0 ? cpus : 1);
	facts->memory_bytes =
		config->memory_bytes != 0 ? config->memory_bytes : machine_memory_bytes();
	facts->reserved_cpus = config->reserved_cpus;
	facts->reserved_bytes = config->reserved_bytes;
	facts->overcommit_cpu = config->overcommit_cpu;
	facts->overcommit_memory = config->overcommit_memory;
	facts->builds_max = config->builds_max;
	free(facts->hypervisors);
	facts->hypervisors = find_hypervisors(config);
	xreplace(&facts->microvm_command, config->microvm);
	xreplace(&facts->version, BLIX_VERSION);
	xreplace(&facts->boot_id, clock_boot_id());
	facts->features = FEATURE_LEVEL;
}

struct probe {
	struct child *child;
	void (*cb)(void *data, const char *accel);
	void *data;
};

/* The toy halts after its line, so the child always ends by its deadline: only the line counts. */
static void probe_done(void *data, struct child_result *result)
{
	struct probe *probe = data;
	bool booted = result->out.data != NULL && strstr(result->out.data, "READY toy") != NULL;

	if (probe->cb != NULL)
		probe->cb(probe->data, booted ? "kvm" : "tcg");
	free(probe);
}

int probe_start(uv_loop_t *loop, const struct config *config,
                void (*cb)(void *data, const char *accel), void *data, struct probe **ret,
                struct blix_error *err)
{
	cleanup(freep) char *toy = xasprintf("%s/toy.elf", config->libexec_dir);
	cleanup(argv_done) struct argv argv = {0}, env = {0};
	const char *const words[] = {"qemu-system-x86_64",
	                             "-M",
	                             "microvm,accel=kvm",
	                             "-cpu",
	                             "host",
	                             "-m",
	                             "16",
	                             "-nodefaults",
	                             "-no-user-config",
	                             "-no-reboot",
	                             "-display",
	                             "none",
	                             "-serial",
	                             "stdio",
	                             "-kernel",
	                             toy};
	struct probe *probe = xcalloc(1, sizeof(*probe));
	int rc;

	for (size_t i = 0; i < array_size(words); i++)
		argv_push(&argv, words[i]);
	stray_mark(config->state_dir, &env);
	*probe = (struct probe){.cb = cb, .data = data};
	rc = child_start(loop,
	                 &(struct child_options){.argv = &argv,
	                                         .env = &env,
	                                         .path = config->path,
	                                         .output_max = 65536,
	                                         .deadline_ms = PROBE_DEADLINE_MS},
	                 probe_done, probe, &probe->child, err);
	if (rc < 0) {
		free(probe);
		return rc;
	}
	*ret = probe;
	return 0;
}

void probe_cancel(struct probe *probe)
{
	probe->cb = NULL;
	child_cancel(probe->child);
}
