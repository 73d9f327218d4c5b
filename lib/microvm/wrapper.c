/* Rendering the wrapper flake: see wrapper.h. Each file is replaced whole, so that Nix
 * never reads half of one; they are not made durable, since they are rendered anew before each
 * build. */
#include "microvm/wrapper.h"

#include "base/alloc.h"
#include "base/json.h"
#include "sys/file.h"

#include <errno.h>

static const char flake_head[] =
	"# Written by blix. What the cluster decided is data in spec.json, never code here.\n"
	"{\n"
	"  inputs.base.url = \"";
static const char flake_tail[] =
	"\";\n"
	"  outputs = { self, base }:\n"
	"    let\n"
	"      spec = builtins.fromJSON (builtins.readFile ./spec.json);\n"
	"      system = base.nixosConfigurations.${spec.attr};\n"
	"      force = content: { _type = \"override\"; priority = 50; inherit content; };\n"
	"      decided = { microvm = builtins.mapAttrs (_: force) spec.microvm; };\n"
	"      # Only NixOS has a place for the agent's service; other guests bring an agent.\n"
	"      modules = [ decided ] ++ (if nixos then [ agent ] else [ ]);\n"
	"      nixos = system ? options.systemd.services;\n"
	"      agent = { config, ... }:\n"
	"        let\n"
	"          qemu = config.microvm.hypervisor == \"qemu\";\n"
	"          machine = builtins.substring 0 7 config.microvm.qemu.machine;\n"
	"          bus = if machine == \"microvm\" then \"device\" else \"pci\";\n"
	"          others = [ \"cloud-hypervisor\" \"firecracker\" ];\n"
	"          vsock = builtins.elem config.microvm.hypervisor others;\n"
	"          service = {\n"
	"            description = \"blix's hand in this guest\";\n"
	"            script = builtins.readFile ./blix-loader;\n"
	"            restartIfChanged = false;\n"
	"          };\n"
	"          default = content: { _type = \"override\"; priority = 1000; }\n"
	"            // { inherit content; };\n"
	"          when = condition: content: { _type = \"if\"; inherit condition content; };\n"
	"        in {\n"
	"          microvm.qemu.extraArgs = when qemu [\n"
	"            \"-device\" \"virtio-serial-${bus}\"\n"
	"            \"-chardev\" \"socket,id=blix-agent,path=blix.agent,server=on,wait=off\"\n"
	"            \"-device\" \"virtserialport,chardev=blix-agent,name=blix.agent.0\"\n"
	"          ];\n"
	"          microvm.vsock.cid = when vsock (default 3);\n"
	"          systemd.services.blix-agent = when qemu (service // {\n"
	"            wantedBy = [ \"multi-user.target\" ];\n"
	"            serviceConfig = { Restart = \"always\"; RestartSec = 1; };\n"
	"            unitConfig.StartLimitIntervalSec = 0;\n"
	"          });\n"
	"          systemd.sockets.blix-agent = when vsock {\n"
	"            wantedBy = [ \"sockets.target\" ];\n"
	"            listenStreams = [ \"vsock::2549\" ];\n"
	"            socketConfig = { Accept = true; TriggerLimitIntervalSec = 0; };\n"
	"          };\n"
	"          systemd.services.\"blix-agent@\" = when vsock (service // {\n"
	"            serviceConfig.StandardInput = \"socket\";\n"
	"            serviceConfig.StandardOutput = \"journal\";\n"
	"            serviceConfig.StandardError = \"journal\";\n"
	"          });\n"
	"        };\n"
	"    in {\n"
	"      nixosConfigurations.${spec.name} =\n"
	"        if spec.plain then system else system.extendModules { inherit modules; };\n"
	"    };\n"
	"}\n";
static const char loader[] =
	"# What a guest has of blix: asks the host for blix-agent over the agent's own\n"
	"# channel, and becomes it. docs/guest-contract.md has the protocol. Whatever\n"
	"# goes wrong, it begins anew. Needs a shell whose `read` knows -t.\n"
	"run=/run/blix\n"
	"agent=$run/blix-agent\n"
	"mkdir -p \"$run\" && chmod 700 \"$run\"\n"
	"\n"
	"take() { # SIZE SHA256\n"
	"\ttimeout 120 head -c \"$1\" <&3 >\"$agent.new\"\n"
	"\t[ \"$(sha256sum <\"$agent.new\")\" = \"$2  -\" ] || return 1\n"
	"\tchmod 700 \"$agent.new\" && mv -f \"$agent.new\" \"$agent\"\n"
	"}\n"
	"\n"
	"load() { # the host is at descriptor 3\n"
	"\techo 'blix-loader 1' >&3 || return 1\n"
	"\twhile IFS= read -r -t 10 line <&3; do\n"
	"\t\tcase $line in\n"
	"\t\t'blix-agent 1 '*)\n"
	"\t\t\tline=${line#blix-agent 1 }\n"
	"\t\t\ttake \"${line% *}\" \"${line#* }\"\n"
	"\t\t\treturn\n"
	"\t\t\t;;\n"
	"\t\t'blix-error '*)\n"
	"\t\t\techo \"blix: ${line#blix-error }\" >&2\n"
	"\t\t\tsleep 10\n"
	"\t\t\treturn 1\n"
	"\t\t\t;;\n"
	"\t\tesac\n"
	"\tdone\n"
	"\treturn 1\n"
	"}\n"
	"\n"
	"become() {\n"
	"\t# The guest is ready when its init says so.\n"
	"\t{\n"
	"\t\tsystemctl is-system-running --wait\n"
	"\t\tuntil \"$agent\" ready; do sleep 1; done\n"
	"\t} >/dev/null 2>&1 3>&- &\n"
	"\texec \"$agent\" --fd 3\n"
	"}\n"
	"\n"
	"port() {\n"
	"\tfor port in /sys/class/virtio-ports/*; do\n"
	"\t\t[ \"$(cat \"$port/name\" 2>/dev/null)\" = blix.agent.0 ] || continue\n"
	"\t\texec 3<>\"/dev/${port##*/}\"\n"
	"\t\treturn\n"
	"\tdone\n"
	"\treturn 1\n"
	"}\n"
	"\n"
	"# Over vsock systemd listens. From the host alone: anybody in the guest may\n"
	"# connect, and what is loaded runs as root.\n"
	"if [ -S /proc/self/fd/0 ]; then\n"
	"\t[ \"${REMOTE_ADDR-}\" = vsock:2 ] || exit 1\n"
	"\texec 3<&0 </dev/null\n"
	"\tload || exit 1\n"
	"\tbecome\n"
	"fi\n"
	"until port && load; do exec 3>&-; sleep 2; done\n"
	"become\n";

int wrapper_url_check(const char *url, struct blix_error *err)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
				    ":/?&=%._+~@,-";
	size_t good = strspn(url, plain);

	if (url[0] == '\0' || url[0] == '-' || strlen(url) > LIMIT_FLAKE)
		return blix_fail(err, BLIX_E_SPEC, "'%.64s' is no flake reference", url);
	if (url[good] != '\0')
		return blix_fail(err, BLIX_E_SPEC,
		                 "flake reference '%.200s': character %zu is not allowed", url,
		                 good + 1);
	return 0;
}

bool wrapper_url_is_locked(const char *url)
{
	const char *query = strchr(url, '?');

	return query != NULL &&
	       (strstr(query, "narHash=") != NULL || strstr(query, "rev=") != NULL);
}

static char *spec_text(const char *name, const struct vm_spec *spec)
{
	cJSON *decided = json_object();
	cJSON *root = json_object();
	char *text;

	if (spec->cpus != 0)
		json_add_u64(decided, "vcpu", spec->cpus);
	if (spec->memory_bytes != 0)
		json_add_u64(decided, "mem", spec->memory_bytes >> 20);
	json_add_string(decided, "hypervisor", spec->hypervisor);
	json_add_string(root, "name", name);
	json_add_string(root, "attr", spec->attr);
	json_add_bool(root, "plain", spec->plain);
	json_add(root, "microvm", decided);
	text = json_text(root);
	cJSON_Delete(root);
	return text;
}

static int write_text(const char *dir, const char *name, const char *text, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);

	return file_put(path, text, strlen(text), 0644, err);
}

static int write_lock(const char *dir, const char *lock, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/flake.lock", dir);

	if (lock[0] != '\0')
		return file_put(path, lock, strlen(lock), 0644, err);
	if (unlink(path) < 0 && errno != ENOENT)
		return blix_fail_sys(err, errno, "remove %s", path);
	return 0;
}

int wrapper_write(const char *dir, const char *name, const struct vm_spec *spec,
                  const char *base_url, const char *lock, struct blix_error *err)
{
	cleanup(freep) char *flake = NULL;
	cleanup(freep) char *decided = NULL;
	int rc = wrapper_url_check(base_url, err);

	if (rc < 0)
		return rc;
	flake = xasprintf("%s%s%s", flake_head, base_url, flake_tail);
	decided = spec_text(name, spec);
	rc = file_make_dirs(dir, 0755, err);
	if (rc == 0)
		rc = write_text(dir, "flake.nix", flake, err);
	if (rc == 0)
		rc = write_text(dir, "spec.json", decided, err);
	if (rc == 0)
		rc = write_text(dir, "blix-loader", loader, err);
	if (rc == 0)
		rc = write_lock(dir, lock, err);
	return rc;
}
