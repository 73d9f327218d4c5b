/* What only running a program tells: whether KVM boots a guest, what Nix can do, which `microvm`
 * is used. Each runs on a loop of its own until it has ended. */
#include "node/doctor_internal.h"

#include "base/alloc.h"
#include "microvm/command_line.h"
#include "microvm/nix_json.h"
#include "node/probe.h"

#include <stdio.h>
#include <unistd.h>

#define NIX_DEADLINE_MS 20000

struct ran {
	bool done, ok;
	char out[512], err[512];
};

static void on_ran(void *data, struct child_result *result)
{
	struct ran *ran = data;

	ran->done = true;
	ran->ok = child_ok(result);
	(void)snprintf(ran->out, sizeof(ran->out), "%s", result->out.data ? result->out.data : "");
	(void)snprintf(ran->err, sizeof(ran->err), "%s", result->err.data ? result->err.data : "");
}

/* argv is taken. As the daemon would start it. */
static int run_child(const struct doctor *d, struct argv *argv, struct ran *ret,
                     struct blix_error *err)
{
	struct microvm_host host = {.path = d->config->path,
	                            .home = "/nonexistent",
	                            .nix_config = d->config->nix_config,
	                            .microvms_dir = d->config->microvms_dir,
	                            .gcroots_dir = d->config->gcroots_dir,
	                            .single_user = microvm_single_user()};
	cleanup(argv_done) struct argv env = ARGV_EMPTY;
	struct child *child;
	uv_loop_t loop;
	int rc;

	*ret = (struct ran){.done = false};
	microvm_env(&host, NULL, "", &env);
	(void)uv_loop_init(&loop);
	rc = child_start(&loop,
	                 &(struct child_options){.argv = argv,
	                                         .env = &env,
	                                         .path = d->config->path,
	                                         .output_max = 4096,
	                                         .deadline_ms = NIX_DEADLINE_MS},
	                 on_ran, ret, &child, err);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	(void)uv_loop_close(&loop);
	argv_done(argv);
	return rc;
}

static void on_accel(void *data, const char *accel)
{
	*(const char **)data = accel;
}

void doctor_acceleration(struct doctor *d)
{
	const char *accel = "";
	struct probe *probe;
	struct blix_error err;
	uv_loop_t loop;
	int rc;

	(void)uv_loop_init(&loop);
	rc = probe_start(&loop, d->config, on_accel, &accel, &probe, &err);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	(void)uv_loop_close(&loop);
	if (rc < 0)
		doctor_add(
			d, FINDING_WARN, "apt-get install qemu-system-x86",
			"QEMU is not on the PATH (%s): only runners that bring their own can run",
			d->config->path);
	else if (strcmp(accel, "kvm") == 0)
		doctor_add(d, FINDING_OK, NULL, "KVM boots a guest");
	else if (access("/dev/kvm", F_OK) < 0)
		doctor_add(d, FINDING_WARN, "modprobe kvm_intel || modprobe kvm_amd",
		           "there is no /dev/kvm: guests are emulated (TCG), many times slower; "
		           "virtualisation may be off in the firmware");
	else if (access("/dev/kvm", R_OK | W_OK) < 0)
		doctor_add(d, FINDING_WARN, "usermod -aG kvm blix",
		           "/dev/kvm may not be opened by this user: guests are emulated (TCG)");
	else
		doctor_add(
			d, FINDING_WARN, NULL,
			"/dev/kvm opens, but no guest boots in it within two seconds: guests are "
			"emulated (TCG), many times slower");
}

void doctor_nix(struct doctor *d)
{
	static const char install[] = "apt-get install nix-setup-systemd";
	struct argv argv = ARGV_EMPTY;
	struct blix_error err;
	struct ran ran;
	unsigned version;

	nix_argv_version(&argv);
	if (run_child(d, &argv, &ran, &err) < 0 || !ran.ok) {
		doctor_add(d, FINDING_FAIL, install,
		           "nix does not run from the PATH (%s): nothing can be built",
		           d->config->path);
		return;
	}
	ran.out[strcspn(ran.out, "\n")] = '\0';
	version = nix_version_parse(ran.out);
	if (version < NIX_VERSION_INPUTS)
		doctor_add(d, FINDING_WARN, "install Nix 2.18 or newer",
		           "%s: enough for flakes without inputs; today's nixpkgs needs 2.18",
		           ran.out);
	else
		doctor_add(d, FINDING_OK, NULL, "%s", ran.out);
	argv_push(&argv, "nix");
	argv_push(&argv, "eval");
	argv_push(&argv, "--expr");
	argv_push(&argv, "builtins ? getFlake");
	if (run_child(d, &argv, &ran, &err) == 0 && ran.ok && strncmp(ran.out, "true", 4) == 0)
		doctor_add(d, FINDING_OK, NULL, "nix evaluates, with flakes");
	else
		doctor_add(d, FINDING_FAIL, "nix eval --expr 'builtins ? getFlake'",
		           "nix does not evaluate with flakes: %.300s", ran.err);
}

void doctor_microvm(struct doctor *d)
{
	cleanup(freep) char *found = microvm_find(d->config->path);
	cleanup(freep) char *shim = xasprintf("%s/blix-shim", d->config->libexec_dir);
	cleanup(freep) char *agent = xasprintf("%s/blix-agent", d->config->libexec_dir);
	const char *microvm = d->config->microvm;

	if (microvm[0] == '\0' || access(microvm, X_OK) < 0)
		doctor_add(d, FINDING_FAIL, "make install, or the key `microvm`",
		           "the microvm command %s cannot be run", microvm);
	else if (found != NULL && strcmp(found, microvm) != 0)
		doctor_add(d, FINDING_OK, NULL,
		           "%s is used; the host's own %s is not, since it keeps "
		           "VMs elsewhere or the configuration says so",
		           microvm, found);
	else
		doctor_add(d, FINDING_OK, NULL, "%s%s", microvm,
		           found != NULL ? ", the host's own" : ", which comes with blix");
	if (access(shim, X_OK) < 0)
		doctor_add(d, FINDING_FAIL, "make install, or the key `libexecDir`",
		           "%s cannot be run: no VM can be started", shim);
	if (access(agent, R_OK) < 0)
		doctor_add(d, FINDING_WARN, "make install, or the key `libexecDir`",
		           "%s is not there: NixOS guests get no agent, so no exec, cp and run",
		           agent);
}
