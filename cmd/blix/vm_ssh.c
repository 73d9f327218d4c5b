/* blix vm ssh: becomes ssh to the guest, whose exit code is then this program's.
 *
 * Happy path: a VM of the node that answers, whose runner has a vsock that ssh reaches, is left to
 * `microvm -s`, which needs no network; every other one is reached at the address that its agent
 * tells. What stands behind "--" is ssh's, so `-l root` is added unless it says who logs in. It
 * fails before ssh begins: the VM does not run, there is neither of the two ways, or no ssh. */
#include "cli.h"

#include "base/json.h"
#include "exec/argv.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* How OpenSSH itself finds the end of its options. */
#define SSH_OPTIONS "+1246ab:c:e:fgi:kl:m:no:p:qstvxAB:CD:E:F:GI:J:KL:MNO:P:Q:R:S:TVw:W:XYy"

/* The others give a Unix socket in place of a vsock number, or none. */
static bool has_vsock_number(const char *hypervisor)
{
	static const char *const names[] = {"qemu", "crosvm", "kvmtool", "alioth"};

	for (size_t i = 0; i < array_size(names); i++) {
		if (strcmp(names[i], hypervisor) == 0)
			return true;
	}
	return false;
}

/* The user that ssh's own options name, NULL when none does; behind them a command begins. */
static const char *user_named(const struct arguments *arguments)
{
	cleanup(freep) char **argv = xcalloc(arguments->n_command + 2, sizeof(*argv));
	static char name[] = "ssh";
	const char *user = NULL;
	int letter;

	argv[0] = name;
	for (size_t i = 0; i < arguments->n_command; i++)
		argv[i + 1] = arguments->command[i];
	opterr = 0;
	optind = 1;
	while ((letter = getopt((int)arguments->n_command + 1, argv, SSH_OPTIONS)) != -1) {
		const char *value = optarg != NULL ? optarg : "";
		bool setting = letter == 'o' && strncasecmp(value, "user", 4) == 0;
		size_t blanks = setting ? strspn(value + 4, "= \t") : 0;

		/* "-o UserKnownHostsFile=..." names nobody. */
		if (user == NULL && (letter == 'l' || blanks > 0))
			user = value + (setting ? 4 + blanks : 0);
	}
	return user;
}

/* A VM of the node that answers, with a vsock that ssh can be told by number. */
static bool is_by_vsock(const cJSON *vm, const cJSON *host)
{
	cleanup(freep) char *cid =
		xasprintf("%s/%s/booted/share/microvm/vsock-cid", text_at(host, "microvmsDir"),
	                  text_at(vm, "metadata.name"));

	return text_at(host, "node")[0] != '\0' &&
	       strcmp(text_at(host, "node"), text_at(vm, "status.node")) == 0 &&
	       has_vsock_number(text_at(vm, "status.resolved.hypervisor")) &&
	       access(cid, R_OK) == 0;
}

static int check_running(const cJSON *vm, const char *name, struct blix_error *err)
{
	const char *phase = text_at(vm, "status.phase");

	if (strcmp(phase, "Running") == 0 || strcmp(phase, "Stopping") == 0)
		return 0;
	(void)blix_fail(err, BLIX_E_REFUSED, "it is %s, not Running", phase);
	blix_reason(err, "not-running");
	if (strcmp(phase, "Paused") == 0)
		blix_hint(err, "'blix vm resume %s' lets it go on", name);
	else if (strcmp(phase, "Unknown") == 0)
		blix_hint(err, "'blix vm why %s' says what is known of it", name);
	else
		blix_hint(err, "'blix vm start %s' starts it", name);
	return -(int)BLIX_E_REFUSED;
}

static int no_way(const cJSON *vm, const char *name, struct blix_error *err)
{
	bool agent = true_at(vm, "status.agent.connected");

	(void)blix_fail(err, BLIX_E_REFUSED, "%s, and it has no vsock here that ssh could use",
	                agent ? "its guest has no address"
	                      : "no agent in the guest tells its address");
	blix_reason(err, "no-address");
	if (agent)
		blix_hint(err, "'blix vm exec %s -- COMMAND' and 'blix vm console %s' need none",
		          name, name);
	else
		blix_hint(err,
		          "'blix vm console %s' needs no agent; 'blix vm exec' does: is "
		          "blix-agent in the guest? 'blix vm create --ready agent' waits for it",
		          name);
	return -(int)BLIX_E_REFUSED;
}

/* The command line up to what the user gives. */
static int target(const cJSON *vm, const cJSON *host, const char *name, struct argv *argv,
                  struct blix_error *err)
{
	const cJSON *address = cJSON_GetArrayItem(at(vm, "status.agent.addresses"), 0);

	if (is_by_vsock(vm, host)) {
		(void)setenv("MICROVM_STATE_DIR", text_at(host, "microvmsDir"), 1);
		argv_push(argv, text_at(host, "microvm"));
		argv_push(argv, "-s");
		argv_push(argv, name);
		argv_push(argv, "--"); /* or it takes what follows for its own options */
	} else if (cJSON_IsString(address) && address->valuestring[0] != '-') {
		argv_push(argv, "ssh");
		argv_push(argv, address->valuestring);
	} else {
		return no_way(vm, name, err);
	}
	return 0;
}

/* Comes back only when it cannot be run. */
static int become(const struct argv *argv, const char *name, struct blix_error *err)
{
	(void)execvp(argv->items[0], argv->items);
	(void)blix_fail(err, BLIX_E_IO, "%s cannot be run: %s", argv->items[0], strerror(errno));
	blix_reason(err, "no-ssh");
	blix_hint(err, "an SSH client is needed here; 'blix vm exec %s -- COMMAND' needs none",
	          name);
	return -(int)BLIX_E_IO;
}

static int ssh_run(struct cli *cli, const char *name, struct blix_error *err)
{
	cleanup(json_freep) cJSON *vm = NULL;
	cleanup(json_freep) cJSON *version = NULL;
	cleanup(argv_done) struct argv argv = ARGV_EMPTY;
	const char *user = user_named(&cli->arguments);
	int rc = cli_get(cli, &vm, err, "/v1/vms/%s", name);

	if (rc == 0)
		rc = check_running(vm, name, err);
	if (rc == 0)
		rc = cli_get(cli, &version, err, "/v1/version");
	if (rc == 0)
		rc = target(vm, at(version, "host"), name, &argv, err);
	if (rc < 0)
		return rc;
	/* By its own option even where it was named another way: `microvm -s` knows no other. */
	argv_push(&argv, "-l");
	argv_push(&argv, user != NULL ? user : "root");
	for (size_t i = 0; i < cli->arguments.n_command; i++)
		argv_push(&argv, cli->arguments.command[i]);
	return become(&argv, name, err);
}

int vm_ssh_run(struct cli *cli)
{
	const char *name = cli->arguments.names[0];
	struct blix_error err;

	(void)ssh_run(cli, name, &err);
	return talk_error(cli, "vm", name, &err);
}
