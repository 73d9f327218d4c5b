/* time_creates SOCKET VMS N PREFIX NIX MICROVM SCRATCH: N times, one after the other,
 *
 *   - creates a VM and waits until it runs; its runner (runner.c) notes when it began,
 *   - runs what the driver runs for one VM (nix eval, microvm -c, microvm -r) without blix.
 *
 * Prints "TOTAL OWN" in milliseconds per VM: from the request to the runner's first instruction,
 * and the driver's own share of that. VMS is the daemon's directory of microVMs, SCRATCH an empty
 * directory for the runs without blix. Nothing is deleted: ext4 steps over inodes that were deleted
 * in the last minutes one by one, which would make each create slower than the one before. */
#include "stopwatch.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "client/client.h"
#include "core/object_json.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#define FLAKE "path:/nix/store/00000000000000000000000000000000-source?narHash=sha256-bench"

struct bench {
	struct client *client;
	const char *vms, *nix, *microvm, *scratch;
	char **env; /* of the driver without blix */
};

static void die(const struct blix_error *err)
{
	(void)fprintf(stderr, "time_creates: %s\n", err->text);
	exit(1);
}

static const char *phase_of(const cJSON *vm, uint64_t *ret_revision)
{
	const cJSON *status = NULL, *metadata = NULL;
	const char *phase = "";

	(void)json_get_object(vm, "status", &status, NULL);
	(void)json_get_object(vm, "metadata", &metadata, NULL);
	(void)json_get_string(status, "phase", &phase, NULL);
	(void)json_get_u64(metadata, "revision", ret_revision, NULL);
	return phase;
}

/* Long polls until the VM runs. */
static void await_running(const struct bench *b, const char *name)
{
	uint64_t revision = 0;
	bool running = false;

	while (!running) {
		cleanup(freep) char *path =
			xasprintf("/v1/vms/%s?wait=10s&revision=%" PRIu64, name, revision);
		cleanup(json_freep) cJSON *vm = NULL;
		struct blix_error err;
		const char *phase;

		if (client_call(b->client, "GET", path, NULL, &vm, &err) < 0)
			die(&err);
		phase = phase_of(vm, &revision);
		running = strcmp(phase, "Running") == 0;
		if (strcmp(phase, "Failed") == 0) {
			(void)blix_fail(&err, BLIX_E_START, "%s failed", name);
			die(&err);
		}
	}
}

/* What the runner noted, 0 when it did not yet. */
static uint64_t started_ns(const char *vms, const char *name)
{
	cleanup(freep) char *path = xasprintf("%s/%s/started", vms, name);
	FILE *in = fopen(path, "re");
	char line[32] = "";
	uint64_t ns = 0;

	if (in == NULL)
		return 0;
	if (fgets(line, sizeof(line), in) != NULL && strchr(line, '\n') != NULL) {
		line[strcspn(line, "\n")] = '\0';
		(void)parse_u64(line, &ns, NULL);
	}
	(void)fclose(in);
	return ns;
}

static uint64_t await_started(const char *vms, const char *name)
{
	uint64_t ns;

	while ((ns = started_ns(vms, name)) == 0)
		(void)poll(NULL, 0, 1);
	return ns;
}

static double create(const struct bench *b, const char *name)
{
	cleanup(json_freep) cJSON *body = NULL, *answer = NULL;
	struct vm_spec spec;
	struct blix_error err;
	uint64_t begin;

	vm_spec_init(&spec);
	xreplace(&spec.flake, FLAKE);
	xreplace(&spec.attr, "web");
	body = vm_create_json(name, &spec);
	vm_spec_done(&spec);
	begin = now_ns();
	if (client_call(b->client, "POST", "/v1/vms", body, &answer, &err) < 0)
		die(&err);
	await_running(b, name);
	return to_ms(await_started(b->vms, name) - begin);
}

static void must(bool ok, const char *what)
{
	if (!ok) {
		(void)fprintf(stderr, "time_creates: the driver alone: %s failed\n", what);
		exit(1);
	}
}

/* The same three commands, as blix would run them one after the other. */
static double drive(const struct bench *b, const char *name)
{
	cleanup(freep) char *eval =
		xasprintf("path:%s#nixosConfigurations.%s.config", b->scratch, name);
	cleanup(freep) char *flake = xasprintf("path:%s", b->scratch);
	char *const resolve[] = {(char *)(uintptr_t)b->nix,
	                         (char[]){"eval"},
	                         (char[]){"--json"},
	                         eval,
	                         (char[]){"--apply"},
	                         (char[]){"c: c"},
	                         NULL};
	char *const build[] = {(char *)(uintptr_t)b->microvm,
	                       (char[]){"-f"},
	                       flake,
	                       (char[]){"-c"},
	                       (char *)(uintptr_t)name,
	                       NULL};
	char *const run[] = {(char *)(uintptr_t)b->microvm, (char[]){"-r"}, (char *)(uintptr_t)name,
	                     NULL};
	uint64_t begin = now_ns(), ns;
	pid_t pid;

	must(wait_exit(start_quiet(resolve, b->env)) == 0, "nix eval");
	must(wait_exit(start_quiet(build, b->env)) == 0, "microvm -c");
	pid = start_quiet(run, b->env);
	ns = await_started(b->scratch, name) - begin;
	must(kill(pid, SIGTERM) == 0 && wait_exit(pid) == 0, "microvm -r");
	return to_ms(ns);
}

int main(int argc, char **argv)
{
	struct client_options options = {.timeout_ms = CLIENT_TIMEOUT_NONE};
	struct blix_error err;
	struct bench b = {0};
	uint64_t n = 0;

	if (argc != 8 || parse_u64(argv[3], &n, NULL) < 0) {
		(void)fprintf(stderr,
		              "usage: time_creates SOCKET VMS N PREFIX NIX MICROVM SCRATCH\n");
		return 64;
	}
	b = (struct bench){.vms = argv[2], .nix = argv[5], .microvm = argv[6], .scratch = argv[7]};
	options.endpoints = argv[1];
	if (client_open(&options, &b.client, &err) < 0)
		die(&err);
	b.env = xcalloc(3, sizeof(*b.env));
	b.env[0] = xasprintf("MICROVM_STATE_DIR=%s", b.scratch);
	b.env[1] = xstrdup("PATH=/usr/bin:/bin");
	for (uint64_t i = 0; i < n; i++) {
		cleanup(freep) char *name = xasprintf("%s-%" PRIu64, argv[4], i);
		double total = create(&b, name), own = drive(&b, name);

		(void)printf("%.4f %.4f\n", total, own);
		(void)fflush(stdout);
	}
	client_free(b.client);
	free(b.env[0]);
	free(b.env[1]);
	free((void *)b.env);
	return 0;
}
