/* Packing a local flake: see flake.h.
 *
 * Happy path: the directory is looked at; if it is in a git checkout `git ls-files` says what is
 * tracked there; the archive is written to a file without a name. It fails when there is no
 * flake.nix, or git does not track it, or git is not there or refuses (its words are the message),
 * and when the whole is too large.
 */
#include "client/flake.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "client/program.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define GIT_ERROR 500 /* bytes of what git says */

/* Paths that git tracks, sorted; they point into `text`. */
struct tracked {
	struct buf text;
	const char **paths;
	size_t n;
};

bool flake_is_local(const char *flake)
{
	if (strncmp(flake, "path:/nix/store/", 16) == 0 && strstr(flake, "narHash=") != NULL)
		return false;
	return flake[0] == '.' || flake[0] == '/' || strncmp(flake, "path:", 5) == 0;
}

static int missing(struct blix_error *err, const char *flake, const char *what)
{
	(void)blix_fail(err, BLIX_E_IMAGE, "flake %s: %s", flake, what);
	blix_reason(err, "flake-missing");
	return -(int)BLIX_E_IMAGE;
}

/* The absolute directory that holds flake.nix. */
static int flake_directory(const char *given, char **ret, struct blix_error *err)
{
	cleanup(freep) char *absolute = realpath(given, NULL);
	cleanup(freep) char *file = NULL;
	struct stat st;

	if (absolute == NULL || stat(absolute, &st) < 0 || !S_ISDIR(st.st_mode))
		return missing(err, given, "there is no such directory");
	file = xasprintf("%s/flake.nix", absolute);
	if (access(file, R_OK) < 0)
		return missing(err, given, "it has no readable flake.nix");
	*ret = take(absolute);
	return 0;
}

/* Is there a .git in it or above it? */
static bool is_in_git(const char *dir)
{
	cleanup(freep) char *at = xstrdup(dir);

	for (char *slash = at + strlen(at); slash != NULL; slash = strrchr(at, '/')) {
		cleanup(freep) char *git = NULL;

		*slash = '\0';
		git = xasprintf("%s/.git", at);
		if (file_exists(git))
			return true;
	}
	return false;
}

static int git_failed(const char *dir, const struct buf *words, struct blix_error *err)
{
	(void)blix_fail(err, BLIX_E_IMAGE, "git cannot list what it tracks in %s:\n%.*s", dir,
	                GIT_ERROR, words->data != NULL ? words->data : "it said nothing");
	blix_reason(err, "git-failed");
	blix_hint(err, "'path:%.160s' takes all that is there, without git", dir);
	return -(int)BLIX_E_IMAGE;
}

static int git_list(const char *dir, uint64_t timeout_ms, struct buf *out, struct blix_error *err)
{
	cleanup(freep) char *where = xstrdup(dir);
	cleanup(buf_done) struct buf words;
	char *argv[] = {(char[]){"git"},      (char[]){"-C"}, where,
	                (char[]){"ls-files"}, (char[]){"-z"}, NULL};
	int status = 0;
	int rc;

	buf_init(&words, LIMIT_CHILD_OUTPUT);
	rc = program_run(argv, timeout_ms, out, &words, &status, err);
	if (rc == -BLIX_E_NOTFOUND) {
		(void)blix_fail(err, BLIX_E_IMAGE,
		                "%s is in a git checkout, and git is not in PATH", dir);
		blix_reason(err, "git-missing");
		blix_hint(err, "install git, or write 'path:%.160s' to take all that is there",
		          dir);
		return -(int)BLIX_E_IMAGE;
	}
	if (rc < 0)
		return rc;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return git_failed(dir, &words, err);
	if (buf_failed(out))
		return blix_fail(err, BLIX_E_TOOBIG, "%s: git tracks too many files", dir);
	return 0;
}

static int by_text(const void *a, const void *b)
{
	const char *const *left = a, *const *right = b;

	return strcmp(*left, *right);
}

static void tracked_split(struct tracked *tracked)
{
	const char *at = tracked->text.data, *end = at + tracked->text.len;
	size_t size = 0;

	for (; at != NULL && at < end; at += strlen(at) + 1) {
		if (tracked->n == size) {
			size = size < 64 ? 64 : size * 2;
			tracked->paths = xreallocarray((void *)tracked->paths, size,
			                               sizeof(*tracked->paths));
		}
		tracked->paths[tracked->n++] = at;
	}
	if (tracked->n > 0)
		qsort((void *)tracked->paths, tracked->n, sizeof(*tracked->paths), by_text);
}

/* The first that is not before `path`. */
static const char *tracked_from(const struct tracked *tracked, const char *path)
{
	size_t low = 0, high = tracked->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (strcmp(tracked->paths[mid], path) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low < tracked->n ? tracked->paths[low] : "";
}

/* A folder is when something in it is. */
static bool is_tracked(const void *data, const char *path, bool folder)
{
	const struct tracked *tracked = data;
	cleanup(freep) char *prefix = NULL;

	if (!folder)
		return strcmp(tracked_from(tracked, path), path) == 0;
	prefix = xasprintf("%s/", path);
	return strncmp(tracked_from(tracked, prefix), prefix, strlen(prefix)) == 0;
}

/* It has no name, so nobody has to remove it. */
static int scratch_file(struct blix_error *err)
{
	const char *dir = getenv("TMPDIR");
	int fd;

	if (dir == NULL || dir[0] != '/')
		dir = "/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return fd >= 0 ? fd : blix_fail_sys(err, errno, "make a file in %s", dir);
}

static int pack(const char *dir, const struct tracked *tracked, struct flake_pack *ret,
                struct blix_error *err)
{
	const struct nar_options options = {.dir = dir,
	                                    .takes = tracked != NULL ? is_tracked : NULL,
	                                    .data = tracked,
	                                    .max = LIMIT_SOURCE};
	cleanup(closep) int fd = scratch_file(err);
	int rc = fd < 0 ? fd : nar_pack(&options, fd, &ret->nar, err);

	if (rc == -BLIX_E_TOOBIG)
		blix_hint(err,
		          tracked != NULL
		                  ? "git tracks it: 'git rm --cached' and .gitignore leave it out"
		                  : "in a git checkout what git does not track is left out");
	if (rc < 0)
		return rc;
	ret->fd = fd;
	fd = -1;
	return 0;
}

static int pack_tracked(const char *dir, uint64_t timeout_ms, struct flake_pack *ret,
                        struct blix_error *err)
{
	struct tracked tracked = {.n = 0};
	int rc;

	buf_init(&tracked.text, LIMIT_SOURCE_LIST);
	rc = git_list(dir, timeout_ms, &tracked.text, err);
	if (rc == 0)
		tracked_split(&tracked);
	if (rc == 0 && !is_tracked(&tracked, "flake.nix", false)) {
		rc = blix_fail(err, BLIX_E_IMAGE, "git does not track %s/flake.nix", dir);
		blix_reason(err, "flake-untracked");
		blix_hint(err, "git -C %.80s add flake.nix; or write 'path:%.80s'", dir, dir);
	}
	if (rc == 0)
		rc = pack(dir, &tracked, ret, err);
	free((void *)tracked.paths);
	buf_done(&tracked.text);
	return rc;
}

int flake_pack(const char *flake, uint64_t timeout_ms, struct flake_pack *ret,
               struct blix_error *err)
{
	bool whole = strncmp(flake, "path:", 5) == 0;
	cleanup(freep) char *dir = NULL;
	int rc = flake_directory(whole ? flake + 5 : flake, &dir, err);

	ret->fd = -1;
	if (rc < 0)
		return rc;
	if (!whole && is_in_git(dir))
		return pack_tracked(dir, timeout_ms, ret, err);
	return pack(dir, NULL, ret, err);
}

void flake_pack_done(struct flake_pack *pack)
{
	if (pack->fd >= 0)
		(void)close(pack->fd);
	pack->fd = -1;
}
