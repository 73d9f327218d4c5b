/* Control groups by their files: see cgroup.h. */
#include "sys/cgroup.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/vfs.h>

#define FILE_MAX 4096

const char *cgroup_root(void)
{
	static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	struct statfs fs;

	for (size_t i = 0; i < array_size(places); i++) {
		if (statfs(places[i], &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
			return places[i];
	}
	return NULL;
}

static bool is_below_root(const char *dir)
{
	const char *root = cgroup_root();
	size_t n = root != NULL ? strlen(root) : 0;

	return root != NULL && strncmp(dir, root, n) == 0 && dir[n] == '/' && dir[n + 1] != '\0';
}

int cgroup_make(const char *dir, struct blix_error *err)
{
	if (!is_below_root(dir))
		return blix_fail(err, BLIX_E_NOTFOUND, "no cgroup v2 is mounted above %s", dir);
	return file_make_dirs(dir, 0755, err);
}

static int file_set(const char *dir, const char *name, const char *text, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	cleanup(closep) int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return blix_fail_sys(err, errno, "write %s", path);
	return 0;
}

int cgroup_enter(const char *dir, pid_t pid, struct blix_error *err)
{
	char text[16];

	(void)snprintf(text, sizeof(text), "%d", (int)pid);
	return file_set(dir, "cgroup.procs", text, err);
}

int cgroup_can_kill(const char *dir, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/cgroup.kill", dir);

	return access(path, W_OK) == 0 ? 0 : blix_fail_sys(err, errno, "open %s", path);
}

int cgroup_kill(const char *dir, struct blix_error *err)
{
	return file_set(dir, "cgroup.kill", "1", err);
}

static bool file_get(const char *path, char *out)
{
	cleanup(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, FILE_MAX - 1);

	if (n < 0)
		return false;
	out[n] = '\0';
	return true;
}

bool cgroup_populated(const char *dir)
{
	cleanup(freep) char *path = xasprintf("%s/cgroup.events", dir);
	char text[FILE_MAX];

	return file_get(path, text) && strstr(text, "populated 1") != NULL;
}

bool cgroup_holds(const char *dir, pid_t pid)
{
	char path[48], text[FILE_MAX];
	const char *line;
	size_t n;

	if (!is_below_root(dir))
		return false;
	dir += strlen(cgroup_root());
	n = strlen(dir);
	(void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	if (!file_get(path, text))
		return false;
	line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
	if (line == NULL)
		return false;
	line += *line == '\n' ? 4 : 3;
	return strncmp(line, dir, n) == 0 && strchr("/\n", line[n]) != NULL;
}

int cgroup_remove(const char *dir, struct blix_error *err)
{
	char *roots[] = {(char *)(uintptr_t)dir, NULL};
	int sys = 0;
	FTSENT *entry;
	FTS *fts;

	if (!is_below_root(dir))
		return 0;
	fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_NOSTAT, NULL);
	if (fts == NULL)
		return blix_fail_sys(err, errno, "remove %s", dir);
	while ((entry = fts_read(fts)) != NULL) {
		if (entry->fts_info == FTS_DP && rmdir(entry->fts_accpath) < 0 && errno != ENOENT)
			sys = errno;
	}
	(void)fts_close(fts);
	if (sys == EBUSY)
		return blix_fail(err, BLIX_E_BUSY, "%s is not empty", dir);
	return sys == 0 ? 0 : blix_fail_sys(err, sys, "remove %s", dir);
}
