/* Reading what Nix prints: see nix_json.h. Both dialects of `flake metadata` are understood: the
 * locked URL is `lockedUrl` where that exists, `url` before. */
#include "microvm/nix_json.h"

#include "base/alloc.h"
#include "base/json.h"

#include <ctype.h>

unsigned nix_version_parse(const char *text)
{
	const char *at = strpbrk(text, "0123456789");
	unsigned parts[2] = {0, 0};

	for (unsigned i = 0; i < 2 && at != NULL; i++) {
		while (isdigit((unsigned char)*at) && parts[i] < 1000)
			parts[i] = parts[i] * 10 + (unsigned)(*at++ - '0');
		at = *at == '.' ? at + 1 : NULL;
	}
	return parts[1] < 1000 ? parts[0] * 1000 + parts[1] : 0;
}

/* The characters of base64 that mean something in a URL's query. */
static void add_encoded(struct buf *out, const char *text)
{
	for (; *text != '\0'; text++) {
		if (strchr("+/=%&?#", *text) != NULL)
			(void)buf_printf(out, "%%%02X", (unsigned)(unsigned char)*text);
		else
			(void)buf_add(out, text, 1);
	}
}

/* A path flake's own URL still names the directory it was read from, on this machine alone. */
static char *path_url(const char *store_path, const char *nar_hash, const char *dir)
{
	struct buf out;

	buf_init(&out, LIMIT_FLAKE);
	(void)buf_printf(&out, "path:%s?narHash=", store_path);
	add_encoded(&out, nar_hash);
	if (dir != NULL) {
		(void)buf_add_string(&out, "&dir=");
		add_encoded(&out, dir);
	}
	return buf_take(&out);
}

static int count_inputs(const cJSON *root, unsigned *ret, struct blix_error *err)
{
	const cJSON *locks = NULL, *nodes = NULL;
	int rc = json_get_object(root, "locks", &locks, err);

	if (rc == 0 && locks != NULL)
		rc = json_get_object(locks, "nodes", &nodes, err);
	if (rc < 0)
		return rc;
	*ret = nodes != NULL && nodes->child != NULL ? (unsigned)cJSON_GetArraySize(nodes) - 1 : 0;
	return 0;
}

static int locked_url(const cJSON *root, const cJSON *locked, char **ret, struct blix_error *err)
{
	const char *type = NULL, *hash = NULL, *dir = NULL, *path = NULL, *url = NULL;
	int rc = json_get_string(locked, "type", &type, err);

	if (rc == 0)
		rc = json_get_string(locked, "narHash", &hash, err);
	if (rc == 0)
		rc = json_get_string(locked, "dir", &dir, err);
	if (rc == 0)
		rc = json_get_string(root, "path", &path, err);
	if (rc == 0)
		rc = json_get_string(root, "url", &url, err);
	if (rc == 0)
		rc = json_get_string(root, "lockedUrl", &url, err);
	if (rc < 0)
		return rc;
	if (type != NULL && strcmp(type, "path") == 0) {
		if (hash == NULL || path == NULL)
			return blix_fail(err, BLIX_E_IMAGE, "metadata without path or narHash");
		*ret = path_url(path, hash, dir);
		return *ret != NULL ? 0
		                    : blix_fail(err, BLIX_E_IMAGE, "the locked URL is too long");
	}
	if (url == NULL)
		return blix_fail(err, BLIX_E_IMAGE, "metadata without a url");
	*ret = xstrdup(url);
	return 0;
}

static int metadata_read(const cJSON *root, char **ret_url, unsigned *ret_inputs,
                         struct blix_error *err)
{
	const cJSON *locked = NULL;
	unsigned inputs = 0;
	int rc = json_get_object(root, "locked", &locked, err);

	if (rc == 0 && locked == NULL)
		rc = blix_fail(err, BLIX_E_IMAGE, "metadata without `locked`");
	if (rc == 0)
		rc = count_inputs(root, &inputs, err);
	if (rc == 0)
		rc = locked_url(root, locked, ret_url, err);
	if (rc == 0)
		*ret_inputs = inputs;
	return rc;
}

int nix_metadata_parse(const char *text, size_t n, char **ret_url, unsigned *ret_inputs,
                       struct blix_error *err)
{
	cleanup(json_freep) cJSON *root = NULL;
	int rc = json_parse(text, n, &json_limits_answer, &root, err);

	if (rc == 0)
		rc = metadata_read(root, ret_url, ret_inputs, err);
	if (rc < 0)
		(void)blix_wrap(err, "nix flake metadata");
	return rc;
}

int nix_lock_count(const char *text, size_t n, unsigned *ret_nodes, struct blix_error *err)
{
	cleanup(json_freep) cJSON *root = NULL;
	const cJSON *nodes = NULL;
	int rc = json_parse(text, n, &json_limits_answer, &root, err);

	if (rc == 0)
		rc = json_get_object(root, "nodes", &nodes, err);
	if (rc < 0)
		return blix_wrap(err, "flake.lock");
	*ret_nodes = nodes != NULL ? (unsigned)cJSON_GetArraySize(nodes) : 0;
	return 0;
}

/* Images in the VM's directory: relative ones. */
static bool counts_volume(const cJSON *volume)
{
	const char *image = NULL;

	return json_get_string(volume, "image", &image, NULL) == 0 && image != NULL &&
	       image[0] != '/';
}

/* Host directories that the guest may write. */
static bool counts_share(const cJSON *share)
{
	const char *source = NULL;
	bool read_only = false;

	return json_get_string(share, "source", &source, NULL) == 0 && source != NULL &&
	       json_get_bool(share, "readOnly", &read_only, NULL) == 0 && !read_only &&
	       strncmp(source, "/nix/store", strlen("/nix/store")) != 0;
}

static bool counts_always(const cJSON *item)
{
	return item != NULL;
}

static int count(const cJSON *root, const char *key, bool (*counts)(const cJSON *), uint32_t *ret,
                 struct blix_error *err)
{
	const cJSON *array = NULL, *item;
	int rc = json_get_array(root, key, &array, err);

	if (rc < 0)
		return rc;
	if (cJSON_GetArraySize(array) > LIMIT_VOLUMES)
		return blix_fail(err, BLIX_E_IMAGE, "more than %d %s", LIMIT_VOLUMES, key);
	cJSON_ArrayForEach (item, array) {
		if (counts(item))
			(*ret)++;
	}
	return 0;
}

struct scalars {
	uint64_t cpus, mib;
	const char *hypervisor, *runner;
};

static int scalars_check(const struct scalars *s, struct blix_error *err)
{
	if (s->cpus == 0 || s->cpus > LIMIT_CPUS)
		return blix_fail(err, BLIX_E_IMAGE, "microvm.vcpu must be 1 to %d", LIMIT_CPUS);
	if (s->mib == 0 || s->mib > LIMIT_MEMORY >> 20)
		return blix_fail(err, BLIX_E_IMAGE, "microvm.mem must be 1 to %llu MiB",
		                 LIMIT_MEMORY >> 20);
	if (s->hypervisor == NULL || strlen(s->hypervisor) > LIMIT_NAME)
		return blix_fail(err, BLIX_E_IMAGE, "microvm.hypervisor is not a name");
	if (s->runner == NULL || s->runner[0] != '/' || strlen(s->runner) > LIMIT_FLAKE)
		return blix_fail(err, BLIX_E_IMAGE, "the runner has no store path");
	return 0;
}

static int scalars_read(const cJSON *root, struct scalars *s, struct blix_error *err)
{
	int rc = json_get_u64(root, "vcpu", &s->cpus, err);

	if (rc == 0)
		rc = json_get_u64(root, "mem", &s->mib, err);
	if (rc == 0)
		rc = json_get_string(root, "hypervisor", &s->hypervisor, err);
	if (rc == 0)
		rc = json_get_string(root, "runner", &s->runner, err);
	return rc == 0 ? scalars_check(s, err) : rc;
}

int nix_resolved_parse(const char *text, size_t n, struct vm_resolved *ret, struct blix_error *err)
{
	cleanup(json_freep) cJSON *root = NULL;
	struct scalars scalars = {0, 0, NULL, NULL};
	struct vm_resolved found = {0};
	int rc = json_parse(text, n, &json_limits_request, &root, err);

	if (rc == 0)
		rc = scalars_read(root, &scalars, err);
	if (rc == 0)
		rc = count(root, "volumes", counts_volume, &found.n_volumes, err);
	if (rc == 0)
		rc = count(root, "shares", counts_share, &found.n_shares, err);
	if (rc == 0)
		rc = count(root, "devices", counts_always, &found.n_devices, err);
	if (rc < 0) {
		blix_reason(err, "flake-eval-failed");
		return blix_wrap(err, "evaluation");
	}
	found.cpus = (uint32_t)scalars.cpus;
	found.memory_bytes = scalars.mib << 20;
	found.hypervisor = xstrdup(scalars.hypervisor);
	found.out_path = xstrdup(scalars.runner);
	found.base_url = xstrdup("");
	*ret = found;
	return 0;
}

int nix_too_old(unsigned version, struct blix_error *err)
{
	(void)blix_fail(err, BLIX_E_IMAGE,
	                "the flake has inputs, and those need Nix 2.18 or newer (this node has "
	                "%u.%u)",
	                version / 1000, version % 1000);
	blix_reason(err, "nix-too-old");
	blix_hint(err, "install a newer Nix on the node, or use a flake without inputs such as "
	               "examples/debian");
	return -(int)BLIX_E_IMAGE;
}
