/* Command lines as reference/microvm.md demands: see command_line.h. Names were checked where they
 * came in; here they are only placed. */
#include "microvm/command_line.h"

#include "base/parse.h"

#include <assert.h>
#include <grp.h>
#include <unistd.h>

/* What placement must know, and nothing that throws: `config.microvm` as a whole does, and so do
 * the interfaces' macvtap options and a volume's missing size. Several lines on purpose: Nix quotes
 * the line of an error. */
static const char whitelist[] =
	"c: let\n"
	"  m = c.microvm;\n"
	"  try = default: value: let r = builtins.tryEval value; in if r.success then r.value else "
	"default;\n"
	"in {\n"
	"  vcpu = m.vcpu or 1;\n"
	"  mem = m.mem or 512;\n"
	"  hypervisor = m.hypervisor or \"qemu\";\n"
	"  socket = m.socket or null;\n"
	"  volumes = map (v: {\n"
	"    image = toString v.image;\n"
	"    mountPoint = v.mountPoint or null;\n"
	"    size = try 0 (v.size or 0);\n"
	"    readOnly = v.readOnly or false;\n"
	"  }) (m.volumes or []);\n"
	"  shares = map (s: {\n"
	"    inherit (s) tag;\n"
	"    source = toString s.source;\n"
	"    proto = s.proto or \"virtiofs\";\n"
	"    readOnly = s.readOnly or false;\n"
	"  }) (m.shares or []);\n"
	"  devices = map (d: { bus = d.bus or \"pci\"; path = toString d.path; }) (m.devices or "
	"[]);\n"
	"  interfaces = map (i: { inherit (i) type id mac; }) (m.interfaces or []);\n"
	"  hostName = c.networking.hostName or null;\n"
	"  machineId = m.machineId or null;\n"
	"  runner = m.declaredRunner.outPath;\n"
	"  canShutdown = m.declaredRunner.canShutdown or null;\n"
	"  toplevel = c.system.build.toplevel.outPath or null;\n"
	"}";

/* Without build users Nix builds as root, and a sandbox would only hide Debian's own tools from a
 * flake that has no other. nix_config comes later and may say otherwise. */
static const char single_user[] = "build-users-group =\nsandbox = false\n";

bool microvm_single_user(void)
{
	return access("/nix/var/nix/daemon-socket/socket", F_OK) != 0 && getgrnam("nixbld") == NULL;
}

char *microvm_find(const char *path)
{
	char *found = NULL;

	return program_find("microvm", path, &found, NULL) == 0 ? found : NULL;
}

void microvm_env(const struct microvm_host *host, const char *tmp_dir, const char *accel,
                 struct argv *env)
{
	argv_pushf(env, "PATH=%s", host->path);
	argv_pushf(env, "HOME=%s", host->home);
	argv_push(env, "LANG=C.UTF-8");
	argv_pushf(env, "NIX_CONFIG=experimental-features = nix-command flakes\n%s%s",
	           host->single_user ? single_user : "", host->nix_config);
	argv_pushf(env, "MICROVM_STATE_DIR=%s", host->microvms_dir);
	argv_pushf(env, "MICROVM_GCROOTS_DIR=%s", host->gcroots_dir);
	if (tmp_dir != NULL)
		argv_pushf(env, "TMPDIR=%s", tmp_dir);
	if (accel[0] != '\0')
		argv_pushf(env, "BLIX_ACCEL=%s", accel);
}

void microvm_argv_create(const struct microvm_host *host, const char *flake_dir, const char *name,
                         struct argv *argv)
{
	assert(parse_name("name", name, NULL) == 0);
	argv_push(argv, host->microvm);
	argv_push(argv, "-f");
	argv_pushf(argv, "path:%s", flake_dir);
	argv_push(argv, "-c");
	argv_push(argv, name);
}

void microvm_argv_update(const struct microvm_host *host, const char *name, struct argv *argv)
{
	assert(parse_name("name", name, NULL) == 0);
	argv_push(argv, host->microvm);
	argv_push(argv, "-u");
	argv_push(argv, name);
}

void microvm_argv_status(const struct microvm_host *host, const char *name, struct argv *argv)
{
	argv_push(argv, host->status);
	argv_pushf(argv, "--state-dir=%s", host->microvms_dir);
	argv_pushf(argv, "--run-dir=%s/vms", host->run_dir);
	argv_pushf(argv, "--systemd-dir=%s", host->systemd_dir);
	if (name != NULL)
		argv_push(argv, name);
}

void microvm_argv_start(const struct microvm_host *host, const char *name, uint64_t uid,
                        uint64_t epoch, struct argv *argv)
{
	assert(parse_name("name", name, NULL) == 0);
	argv_push(argv, host->shim);
	argv_push(argv, "--run");
	argv_pushf(argv, "%s/vms/%s", host->run_dir, name);
	argv_push(argv, "--console");
	argv_pushf(argv, "%s/vms/%s/console.log", host->state_dir, name);
	argv_push(argv, "--uid");
	argv_pushf(argv, "%ju", (uintmax_t)uid);
	argv_push(argv, "--epoch");
	argv_pushf(argv, "%ju", (uintmax_t)epoch);
	if (host->cgroups != NULL) {
		argv_push(argv, "--cgroup");
		argv_pushf(argv, "%s-%ju-%ju", host->cgroups, (uintmax_t)uid, (uintmax_t)epoch);
	}
	argv_push(argv, "--chdir");
	argv_pushf(argv, "%s/%s", host->microvms_dir, name);
	argv_push(argv, "--");
	argv_push(argv, host->microvm);
	argv_push(argv, "-r");
	argv_push(argv, name);
}

void nix_argv_version(struct argv *argv)
{
	argv_push(argv, "nix");
	argv_push(argv, "--version");
}

void nix_argv_metadata(const char *flake, bool refresh, struct argv *argv)
{
	assert(flake[0] != '-');
	argv_push(argv, "nix");
	argv_push(argv, "flake");
	argv_push(argv, "metadata");
	argv_push(argv, "--json");
	if (refresh)
		argv_push(argv, "--refresh");
	argv_push(argv, flake);
}

void nix_argv_eval(const char *flake_dir, const char *name, struct argv *argv)
{
	assert(parse_name("name", name, NULL) == 0);
	argv_push(argv, "nix");
	argv_push(argv, "eval");
	argv_push(argv, "--json");
	argv_pushf(argv, "path:%s#nixosConfigurations.%s.config", flake_dir, name);
	argv_push(argv, "--apply");
	argv_push(argv, whitelist);
}
