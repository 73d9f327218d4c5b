/* What the fake programs share: their settings and their record.
 *
 * Children of blix get a clean environment, so both live beside the VMs: the folder
 * $MICROVM_STATE_DIR/.fake. A file there named like a VM holds its mode, `default` that of all
 * others; `log` takes every command line, each word ended by a NUL, each line by a newline more. */
#ifndef FAKE_H
#define FAKE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAKE_DIR (PATH_MAX - 64) /* a directory to which a name is added */

static inline const char *fake_state_dir(void)
{
	const char *dir = getenv("MICROVM_STATE_DIR");

	return dir != NULL ? dir : "/nonexistent";
}

static inline bool fake_read(const char *path, char *out, size_t n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd >= 0 ? read(fd, out, n - 1) : -1;

	if (fd >= 0)
		(void)close(fd);
	out[got > 0 ? got : 0] = '\0';
	return got >= 0;
}

/* "ok" unless a file says otherwise. */
static inline const char *fake_mode(const char *name)
{
	static char mode[256];
	char path[PATH_MAX * 2];

	(void)snprintf(path, sizeof(path), "%s/.fake/%s", fake_state_dir(), name);
	if (!fake_read(path, mode, sizeof(mode))) {
		(void)snprintf(path, sizeof(path), "%s/.fake/default", fake_state_dir());
		if (!fake_read(path, mode, sizeof(mode)))
			(void)snprintf(mode, sizeof(mode), "ok");
	}
	mode[strcspn(mode, "\n")] = '\0';
	return mode;
}

/* True the first time it is asked about NAME. */
static inline bool fake_first(const char *name)
{
	char path[PATH_MAX];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/.fake/%s.once", fake_state_dir(), name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd >= 0)
		(void)close(fd);
	return fd >= 0;
}

static inline void fake_log(int argc, char **argv)
{
	char path[PATH_MAX], line[16384];
	size_t n = 0;
	int fd;

	(void)snprintf(path, sizeof(path), "%s/.fake/log", fake_state_dir());
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	for (int i = 0; i < argc && n + strlen(argv[i]) + 2 < sizeof(line); i++) {
		memcpy(line + n, argv[i], strlen(argv[i]) + 1);
		n += strlen(argv[i]) + 1;
	}
	line[n++] = '\n';
	if (fd >= 0 && write(fd, line, n) == (ssize_t)n)
		(void)close(fd);
}

/* The runner that a fake build gives: the folder `store` beside the programs, or `store-N` when
 * the base's URL holds "-genN-" (N: 2 to 4). */
static inline void fake_store(const char *url, char *out, size_t n)
{
	const char *gen = url != NULL ? strstr(url, "-gen") : NULL;
	char self[FAKE_DIR];
	ssize_t got = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[got > 0 ? got : 0] = '\0';
	*strrchr(self, '/') = '\0';
	if (gen != NULL && gen[4] >= '2' && gen[4] <= '5')
		(void)snprintf(out, n, "%s/store-%c", self, gen[4]);
	else
		(void)snprintf(out, n, "%s/store", self);
}

/* The same for the wrapper flake in `dir`. */
static inline void fake_store_of(const char *dir, char *out, size_t n)
{
	char path[PATH_MAX + 16], flake[8192];

	(void)snprintf(path, sizeof(path), "%s/flake.nix", dir);
	(void)fake_read(path, flake, sizeof(flake));
	fake_store(strstr(flake, "url = "), out, n);
}

#endif
