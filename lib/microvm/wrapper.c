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
	"    in {\n"
	"      nixosConfigurations.${spec.name} =\n"
	"        if spec.plain then system else system.extendModules { modules = [ decided ]; };\n"
	"    };\n"
	"}\n";

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
		rc = write_lock(dir, lock, err);
	return rc;
}
