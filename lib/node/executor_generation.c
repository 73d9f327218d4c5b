/* What keeps the systems of a VM from Nix's garbage collector, on a node that built them.
 *
 * Each generation that was built here has two links in the directory of the roots: NAME.N to its
 * runner, and NAME.N-source to the base it is made of where that is a store path of this host. A
 * name has no dot, so no VM's own root is called like that. They come with the build and go when
 * the state no longer keeps the generation, with an INTENT if there are any. Beside them `nix build
 * -o` registers each link it makes under gcroots/auto; those that lead to results of ours which are
 * gone, are removed.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/generation.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/log.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#define STORE "path:/nix/store/"

void update_spec(const struct vm *vm, struct vm_spec *ret)
{
	vm_spec_copy(ret, &vm->spec);
	if (vm->update.step != UPDATE_RESOLVE)
		return;
	xreplace(&ret->flake, vm->update.flake);
	xreplace(&ret->attr, vm->update.attr);
}

void generation_keep(const struct job *job)
{
	const struct vm *vm = job->vm;
	const char *dir = job->e->host.gcroots_dir, *url = vm->resolved.base_url;
	cleanup(freep) char *root = xasprintf("%s/%s.%" PRIu64, dir, vm->name, vm->generation);
	cleanup(freep) char *source = xasprintf("%s-source", root);
	struct blix_error err;
	int rc = file_make_dirs(dir, 0755, &err);

	if (rc == 0)
		rc = file_link(vm->resolved.out_path, root, &err);
	if (rc == 0 && strncmp(url, STORE, strlen(STORE)) == 0) {
		cleanup(freep) char *target = NULL;

		url += strlen("path:");
		target = xstrndup(url, strcspn(url, "?"));
		rc = file_link(target, source, &err);
	}
	if (rc < 0)
		log_error(LOG_WARNING, "vm.root.failed", &err, "vm=%s", vm->name);
}

/* The generation whose root `file` is; 0: it is none of the VM's. */
static uint64_t root_number(const char *file, const char *name)
{
	size_t n = strlen(name);
	cleanup(freep) char *digits = NULL;
	uint64_t number = 0;

	if (strncmp(file, name, n) != 0 || file[n] != '.')
		return 0;
	file += n + 1;
	n = strspn(file, "0123456789");
	if (n == 0 || (file[n] != '\0' && strcmp(file + n, "-source") != 0))
		return 0;
	digits = xstrndup(file, n);
	return parse_u64(digits, &number, NULL) == 0 ? number : 0;
}

/* The number of roots of NAME's generations that `vm` does not keep (NULL: of all of them), which
 * are removed if that is asked. */
static int roots(const struct node_executor *e, const char *name, const struct vm *vm, bool removed,
                 struct blix_error *err)
{
	DIR *stream = opendir(e->host.gcroots_dir);
	const struct dirent *entry;
	int rc = 0, n = 0;

	if (stream == NULL && errno != ENOENT)
		return blix_fail_sys(err, errno, "open %s", e->host.gcroots_dir);
	while (stream != NULL && rc == 0 && (entry = readdir(stream)) != NULL) {
		uint64_t number = root_number(entry->d_name, name);
		cleanup(freep) char *path = NULL;

		if (number == 0 || (vm != NULL && generation_find(vm, number) != NULL))
			continue;
		n++;
		if (!removed)
			continue;
		path = xasprintf("%s/%s", e->host.gcroots_dir, entry->d_name);
		if (unlink(path) < 0 && errno != ENOENT)
			rc = blix_fail_sys(err, errno, "remove %s", path);
		crash_point("root-removed");
	}
	if (stream != NULL)
		(void)closedir(stream);
	return rc < 0 ? rc : n;
}

int generations_remove(const struct node_executor *e, const char *name, struct blix_error *err)
{
	int rc = roots(e, name, NULL, true, err);

	return rc < 0 ? rc : 0;
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && path[n] == '/';
}

static int auto_roots(const struct node_executor *e, bool removed)
{
	cleanup(freep) char *autos = xasprintf("%s/../auto", e->host.gcroots_dir);
	DIR *stream = opendir(autos);
	const struct dirent *entry;
	int n = 0;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		cleanup(freep) char *path = xasprintf("%s/%s", autos, entry->d_name);
		char target[PATH_MAX], ignored[PATH_MAX];

		if (file_read_link(path, target, sizeof(target), NULL) < 0 ||
		    (!is_below(target, e->host.microvms_dir) && !is_below(target, e->tmp)))
			continue;
		/* The link itself counts: what it leads to may be collected and built again. */
		if (file_read_link(target, ignored, sizeof(ignored), NULL) != -BLIX_E_NOTFOUND)
			continue;
		n++;
		if (removed)
			(void)unlink(path);
	}
	if (stream != NULL)
		(void)closedir(stream);
	return n;
}

void auto_roots_prune(const struct node_executor *e)
{
	(void)auto_roots(e, true);
}

int generations_left(const struct node_executor *e, const struct vm *vm, struct blix_error *err)
{
	int n = roots(e, vm->name, vm, false, err);

	return n < 0 ? n : n + auto_roots(e, false);
}

/* What failed is tried again when the state next says something of the VM. */
static void end_prune(struct job *job)
{
	if (job->err.code == BLIX_OK)
		return;
	log_error(LOG_WARNING, "vm.root.failed", &job->err, "vm=%s", job->vm->name);
	job->local->kept = ~job->local->kept;
}

static void prune_intended(struct job *job)
{
	struct local *local = job->local;

	if (roots(job->e, local->vm->name, local->vm, true, &job->err) >= 0)
		auto_roots_prune(job->e);
	job_end(job);
}

void generations_prune(struct local *local)
{
	struct job *job;

	if (generations_left(local->e, local->vm, NULL) == 0)
		return;
	job = job_new(local->e, local, EXECUTOR_STATUS);
	job->own = true;
	job->end = end_prune;
	job_step(job, JOURNAL_PRUNE, NULL);
	job_intend(job, prune_intended);
}
