/* Finding marked processes in /proc and ending them: see stray.h.
 *
 * A look at all processes is repeated until two in a row find none: one that forks while it is
 * looked at leaves a child for the next look, and one in the middle of its exec has no environment
 * for a moment. A zombie has none either: it counts as gone.
 */
#include "exec/stray.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/process.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#define CALM     2 /* looks that find nobody */
#define PAUSE_MS 5

int stray_name(const char *dir, char **ret, struct blix_error *err)
{
	struct stat st;

	if (stat(dir, &st) < 0)
		return blix_fail_sys(err, errno, "stat %s", dir);
	*ret = xasprintf("blix-%jx-%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	return 0;
}

void stray_mark(const char *dir, struct argv *env)
{
	cleanup(freep) char *name = NULL;

	if (stray_name(dir, &name, NULL) == 0)
		argv_pushf(env, "BLIX_CHILD_OF=%s", name);
}

static bool has_mark(const char *word, const char *mark)
{
	size_t n = strlen(mark);

	for (const char *at = strstr(word, mark); at != NULL; at = strstr(at + n, mark)) {
		if (at[n] == '\0' || at[n] == '.' || at[n] == '/')
			return true;
	}
	return false;
}

static bool bears(pid_t pid, const char *mark)
{
	char path[48];
	cleanup(buf_done) struct buf text;

	buf_init(&text, LIMIT_FILE);
	(void)snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
	if (file_read(path, &text, NULL) < 0 || text.data == NULL)
		return false;
	for (size_t at = 0; at < text.len; at += strlen(text.data + at) + 1) {
		if (has_mark(text.data + at, mark))
			return true;
	}
	return false;
}

/* The descriptor is there before the environment is read: it cannot be another's by then. */
static bool end_if_marked(pid_t pid, const char *mark)
{
	cleanup(closep) int fd = pidfd_open(pid, 0);

	if (fd < 0 || !bears(pid, mark))
		return false;
	return process_signal(fd, SIGKILL, NULL) == 0;
}

static int look(const char *mark, unsigned *ret_n, struct blix_error *err)
{
	DIR *dir = opendir("/proc");
	const struct dirent *entry;
	unsigned n = 0;

	if (dir == NULL)
		return blix_fail_sys(err, errno, "open /proc");
	while ((entry = readdir(dir)) != NULL) {
		uint64_t pid = 0;

		if (parse_u64(entry->d_name, &pid, NULL) == 0 && pid > 1 && pid <= INT32_MAX &&
		    (pid_t)pid != getpid() && end_if_marked((pid_t)pid, mark))
			n++;
	}
	(void)closedir(dir);
	*ret_n = n;
	return 0;
}

int strays_end(const char *dir, unsigned *ret_n, struct blix_error *err)
{
	cleanup(freep) char *mark = NULL;
	uint64_t until_ms = clock_boot_ms() + STRAY_WAIT_MS;
	unsigned n = 0, calm = 0;
	int rc = stray_name(dir, &mark, err);

	*ret_n = 0;
	while (rc == 0 && calm < CALM) {
		rc = look(mark, &n, err);
		if (rc < 0)
			return rc;
		if (n > *ret_n)
			*ret_n = n;
		calm = n == 0 ? calm + 1 : 0;
		if (n > 0 && clock_boot_ms() > until_ms)
			return blix_fail(err, BLIX_E_BUSY,
			                 "%u processes do not end, killed %u s ago", n,
			                 STRAY_WAIT_MS / 1000);
		if (calm < CALM)
			(void)poll(NULL, 0, PAUSE_MS);
	}
	return rc;
}
