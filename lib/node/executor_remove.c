/* DELETE: nothing of a VM stays on the host, but its data.
 *
 * The machine has seen that nothing runs. Volume images move to orphans/NAME-UID/; then the
 * directory goes, the run directory, the garbage collector's roots, and last our own folder with
 * the claim, so that a crash in between leaves something that is still known to be ours.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/log.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int keep_image(const struct job *job, const char *from, const char *image,
                      struct blix_error *err)
{
	const struct node_executor *e = job->e;
	cleanup(freep) char *to =
		xasprintf("%s/orphans/%s-%" PRIu64, e->host.state_dir, job->vm->name, job->vm->uid);
	cleanup(freep) char *path = xasprintf("%s/%s", to, image);
	int rc = file_make_dirs(to, 0700, err);

	if (rc < 0)
		return rc;
	crash_point("image-before-rename");
	if (rename(from, path) == 0) {
		crash_point("image-renamed");
		log_event(LOG_NOTICE, "vm.volume.kept", "vm=%s path=%s", job->vm->name, path);
		return 0;
	}
	rc = blix_fail_sys(err, errno, "move %s to %s", from, to);
	blix_hint(err, "move it away by hand: the VM's deletion waits for that");
	return rc;
}

static int keep_images(const struct job *job, const char *dir, struct blix_error *err)
{
	DIR *stream = opendir(dir);
	const struct dirent *entry;
	int rc = 0;

	if (stream == NULL)
		return errno == ENOENT ? 0 : blix_fail_sys(err, errno, "open %s", dir);
	while (rc == 0 && (entry = readdir(stream)) != NULL) {
		cleanup(freep) char *path = xasprintf("%s/%s", dir, entry->d_name);
		struct stat st;

		if (fnmatch("*.img", entry->d_name, 0) == 0 && lstat(path, &st) == 0 &&
		    S_ISREG(st.st_mode))
			rc = keep_image(job, path, entry->d_name, err);
	}
	(void)closedir(stream);
	return rc;
}

static int remove_link(const char *path, struct blix_error *err)
{
	if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
		return blix_fail_sys(err, errno, "remove %s", path);
	return 0;
}

static int remove_roots(const struct job *job, struct blix_error *err)
{
	static const char *const prefixes[] = {"", "booted-", "source-"};
	int rc = 0;

	for (size_t i = 0; i < array_size(prefixes) && rc == 0; i++) {
		cleanup(freep) char *root = host_gcroot(job->e, prefixes[i], job->vm->name);

		rc = remove_link(root, err);
	}
	return rc == 0 ? generations_remove(job->e, job->vm->name, err) : rc;
}

static int remove_all(const struct job *job, struct blix_error *err)
{
	cleanup(freep) char *dir = host_dir(job->e, job->vm->name);
	cleanup(freep) char *own = host_own_dir(job->e, job->vm->name);
	cleanup(freep) char *run = host_run_dir(job->e, job->vm->name);
	uint64_t epoch;
	enum executor_directory owner = host_owner(job->e, job->vm, &epoch);
	int rc = secrets_remove(job->e, job->vm->uid, err);

	/* The roots bear a name, not an owner: a foreign VM's are left alone with its directory. */
	if (rc == 0 && owner == DIRECTORY_FOREIGN)
		return file_remove_tree(own, err);
	if (rc == 0 && owner == DIRECTORY_OURS && !job->vm->drop_volumes)
		rc = keep_images(job, dir, err);
	if (rc == 0)
		job_did(job, JOURNAL_IMAGES);
	if (rc == 0)
		rc = remove_roots(job, err);
	if (rc == 0)
		job_did(job, JOURNAL_ROOTS);
	if (rc == 0 && owner == DIRECTORY_OURS)
		rc = file_remove_tree(dir, err);
	if (rc == 0)
		auto_roots_prune(job->e);
	if (rc == 0)
		job_did(job, JOURNAL_DIRECTORY);
	if (rc == 0)
		rc = file_remove_tree(run, err);
	if (rc == 0)
		job_did(job, JOURNAL_RUN);
	if (rc == 0)
		rc = file_remove_tree(own, err);
	return rc;
}

static void remove_files(struct job *job)
{
	if (remove_all(job, &job->err) == 0) {
		job->sighted = true;
		sight_take(&job->sight, job->local, NULL);
	}
	job_end(job);
}

static void remove_intended(struct job *job)
{
	const struct supervisor *supervisor = job->e->supervisor;

	if (supervisor->forget != NULL)
		supervisor->forget(job, remove_files);
	else
		remove_files(job);
}

void remove_begin(struct job *job)
{
	static const enum journal_step steps[] = {JOURNAL_IMAGES, JOURNAL_ROOTS, JOURNAL_DIRECTORY,
	                                          JOURNAL_RUN, JOURNAL_OWN};

	for (size_t i = 0; i < array_size(steps); i++)
		job_step(job, steps[i], NULL);
	job_announce(job);
	job_intend(job, remove_intended);
}
