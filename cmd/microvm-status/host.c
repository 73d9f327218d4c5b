/* What is asked once for all VMs. systemd is asked by one systemctl, killed at its deadline; /proc
 * is read only when some VM is neither under a shim nor a unit. See status.h. */
#include "status.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "base/parse.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define UNIT_NAMES_MAX  8  /* more are asked for by pattern */
#define UNIT_PATIENCE   5  /* times --timeout: systemd is deaf while it reloads */
#define UNIT_AGAIN_MS   20 /* until a unit that is between two states is asked about again */
#define UNIT_PROPERTIES "Id,ActiveState,SubState,MainPID,WorkingDirectory,InvocationID,Environment"

static int wait_readable(int fd, uint64_t deadline_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t now = clock_boot_ms();
	int n;

	if (now >= deadline_ms)
		return -1;
	n = poll(&p, 1, (int)(deadline_ms - now));
	return n > 0 || (n < 0 && errno == EINTR) ? 0 : -1;
}

/* Reads all that the child prints; false when it took too long or printed too much. */
static bool child_read(int fd, uint64_t deadline_ms, struct buf *out)
{
	for (;;) {
		char *room = wait_readable(fd, deadline_ms) == 0 ? buf_room(out, 4096) : NULL;
		ssize_t n;

		if (room == NULL)
			return false;
		n = read(fd, room, 4096);
		if (n == 0)
			return true;
		if (n > 0)
			buf_grew(out, (size_t)n);
		else if (errno != EINTR && errno != EAGAIN)
			return false;
	}
}

/* True when the child ends by itself, with 0, before the deadline. */
static bool child_end(pid_t pid, bool wanted, uint64_t deadline_ms)
{
	cleanup(closep) int fd = pidfd_open(pid, 0);
	int status = 0;

	if (!wanted || fd < 0 || wait_readable(fd, deadline_ms) < 0)
		(void)kill(pid, SIGKILL);
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int child_start(char *const *argv, int out, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	int sys;

	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	(void)posix_spawn_file_actions_adddup2(&actions, out, 1);
	(void)posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	sys = posix_spawnp(ret_pid, argv[0], &actions, NULL, argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	return sys;
}

static bool child_output(char *const *argv, unsigned timeout_ms, struct buf *out)
{
	uint64_t deadline_ms = clock_boot_ms() + timeout_ms;
	int fds[2];
	pid_t pid;
	bool done;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return false;
	if (child_start(argv, fds[1], &pid) != 0) {
		(void)close(fds[0]);
		(void)close(fds[1]);
		return false;
	}
	(void)close(fds[1]);
	done = child_read(fds[0], deadline_ms, out);
	done = child_end(pid, done, deadline_ms);
	(void)close(fds[0]);
	return done;
}

static void unit_set(struct unit *u, const char *key, const char *value)
{
	if (strcmp(key, "Id") == 0)
		xreplace(&u->name, value);
	else if (strcmp(key, "ActiveState") == 0)
		xreplace(&u->active_state, value);
	else if (strcmp(key, "SubState") == 0)
		xreplace(&u->sub_state, value);
	else if (strcmp(key, "WorkingDirectory") == 0) /* '!': it may be missing */
		xreplace(&u->directory, value + (*value == '!' || *value == '-'));
	else if (strcmp(key, "InvocationID") == 0)
		xreplace(&u->invocation, value);
	else if (strcmp(key, "Environment") == 0)
		xreplace(&u->environment, value);
	else if (strcmp(key, "MainPID") == 0)
		(void)parse_u64(value, &u->main_pid, NULL);
}

/* Blocks of KEY=VALUE lines, an empty line between them. */
static void parse_units(struct host *host, char *text)
{
	struct unit *u = NULL;
	char *line;

	while ((line = strsep(&text, "\n")) != NULL) {
		char *equals = strchr(line, '=');

		if (*line == '\0') {
			u = NULL;
			continue;
		}
		if (equals == NULL)
			continue;
		if (u == NULL) {
			host->units = xreallocarray(host->units, host->units_count + 1,
			                            sizeof(*host->units));
			u = &host->units[host->units_count++];
			memset(u, 0, sizeof(*u));
		}
		*equals = '\0';
		unit_set(u, line, equals + 1);
	}
}

static void unit_done(struct unit *u)
{
	free(u->name);
	free(u->active_state);
	free(u->sub_state);
	free(u->directory);
	free(u->invocation);
	free(u->environment);
}

static void units_clear(struct host *host)
{
	for (size_t i = 0; i < host->units_count; i++)
		unit_done(&host->units[i]);
	free(host->units);
	host->units = NULL;
	host->units_count = 0;
}

bool unit_is_busy(const struct unit *u)
{
	static const char *const at_work[] = {"active", "activating", "reloading", "deactivating",
	                                      "refreshing"};
	bool busy = false;

	for (size_t i = 0; i < array_size(at_work) && u->active_state != NULL; i++)
		busy = busy || strcmp(u->active_state, at_work[i]) == 0;
	return busy;
}

/* One between two states: its process has ended, and systemd does what comes after. */
static bool any_is_between(const struct host *host)
{
	for (size_t i = 0; i < host->units_count; i++) {
		const struct unit *u = &host->units[i];

		if (u->main_pid == 0 && unit_is_busy(u) && strcmp(u->active_state, "active") != 0)
			return true;
	}
	return false;
}

static bool ask_units(struct host *host, char *const *argv, uint64_t deadline_ms)
{
	uint64_t now_ms = clock_boot_ms();
	cleanup(buf_done) struct buf out;

	buf_init(&out, LIMIT_STATUS);
	units_clear(host);
	if (now_ms >= deadline_ms || !child_output(argv, (unsigned)(deadline_ms - now_ms), &out) ||
	    out.data == NULL)
		return false;
	parse_units(host, out.data);
	return true;
}

/* Units between two states are asked about again: soon they are in one. */
static void load_units(struct host *host)
{
	const struct options *options = host->options;
	bool pattern = options->names_count == 0 || options->names_count > UNIT_NAMES_MAX;
	uint64_t deadline_ms = clock_boot_ms() + (uint64_t)options->timeout_ms * UNIT_PATIENCE;
	char *names[UNIT_NAMES_MAX * 2] = {NULL};
	char *argv[6 + UNIT_NAMES_MAX * 2] = {
		(char[]){"systemctl"}, (char[]){"show"}, (char[]){"--no-pager"},
		(char[]){"--property=" UNIT_PROPERTIES}, (char[]){"--"}};
	bool told;

	for (size_t i = 0; !pattern && i < options->names_count; i++) {
		names[i * 2] = xasprintf("microvm@%s.service", options->names[i]);
		names[i * 2 + 1] = xasprintf("blix-vm-%s.service", options->names[i]);
	}
	if (pattern) {
		names[0] = xstrdup("microvm@*.service");
		names[1] = xstrdup("blix-vm-*.service");
	}
	memcpy(argv + 5, names, sizeof(names));
	while ((told = ask_units(host, argv, deadline_ms)) && any_is_between(host) &&
	       clock_boot_ms() + UNIT_AGAIN_MS < deadline_ms)
		(void)poll(NULL, 0, UNIT_AGAIN_MS);
	if (!told)
		host->units_error = xstrdup("systemctl did not answer");
	for (size_t i = 0; i < array_size(names); i++)
		free(names[i]);
}

void host_init(struct host *host, const struct options *options)
{
	memset(host, 0, sizeof(*host));
	host->options = options;
	(void)pthread_mutex_init(&host->lock, NULL);
}

void host_done(struct host *host)
{
	units_clear(host);
	free(host->units_error);
	free(host->candidates);
	(void)pthread_mutex_destroy(&host->lock);
}

/* A unit belongs to a VM by its working directory: another state directory may hold a VM of the
 * same name. */
const struct unit *host_unit(struct host *host, const char *name, const char *dir)
{
	cleanup(freep) char *own = xasprintf("microvm@%s.service", name);
	cleanup(freep) char *transient = xasprintf("blix-vm-%s.service", name);
	const struct unit *found = NULL;

	(void)pthread_mutex_lock(&host->lock);
	if (!host->asked) {
		host->asked = true;
		if (file_exists(host->options->systemd_dir))
			load_units(host);
	}
	(void)pthread_mutex_unlock(&host->lock);

	for (size_t i = 0; i < host->units_count; i++) {
		const struct unit *u = &host->units[i];
		struct stat a, b;

		if (u->name == NULL ||
		    (strcmp(u->name, own) != 0 && strcmp(u->name, transient) != 0))
			continue;
		if (u->directory != NULL && stat(u->directory, &a) == 0 && stat(dir, &b) == 0 &&
		    a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
		    (found == NULL || (unit_is_busy(u) && !unit_is_busy(found))))
			found = u;
	}
	return found;
}

/* The command name is the file's own, cut at 15 bytes; Nix puts a dot before that of a wrapped
 * program. */
static bool is_hypervisor(pid_t pid)
{
	static const char *const names[] = {"qemu-", "cloud-hyperviso", "firecracker", "crosvm",
	                                    "lkvm",  "stratovirt",      "alioth",      "vfkit"};
	char path[48];
	cleanup(buf_done) struct buf b;
	const char *name;

	buf_init(&b, 64);
	(void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	if (file_read_at(AT_FDCWD, path, &b, NULL) < 0 || b.data == NULL)
		return false;
	name = b.data + (b.data[0] == '.');
	for (size_t i = 0; i < array_size(names); i++) {
		if (strncmp(name, names[i], strlen(names[i])) == 0)
			return true;
	}
	return false;
}

static bool is_named_microvm(pid_t pid)
{
	static const char prefix[] = "microvm@";
	char path[48], text[sizeof(prefix)] = "";
	cleanup(closep) int fd = -1;

	(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, text, strlen(prefix)) == (ssize_t)strlen(prefix) &&
	       strcmp(text, prefix) == 0;
}

static void scan_process(struct host *host, const char *name)
{
	char path[48];
	uint64_t pid;
	struct stat st;

	if (parse_u64(name, &pid, NULL) < 0 || pid > INT32_MAX)
		return;
	(void)snprintf(path, sizeof(path), "/proc/%d/cwd", (int)pid);
	if (stat(path, &st) < 0) {
		if (errno == EACCES && is_hypervisor((pid_t)pid))
			host->hidden = true;
		return;
	}
	if ((host->candidates_count & (host->candidates_count - 1)) == 0)
		host->candidates =
			xreallocarray(host->candidates,
		                      host->candidates_count == 0 ? 1 : host->candidates_count * 2,
		                      sizeof(*host->candidates));
	host->candidates[host->candidates_count++] =
		(struct candidate){.pid = (pid_t)pid, .dev = st.st_dev, .ino = st.st_ino};
}

static void scan(struct host *host)
{
	DIR *proc = opendir("/proc");
	const struct dirent *entry;

	host->scanned = true;
	if (proc == NULL)
		return;
	while ((entry = readdir(proc)) != NULL)
		scan_process(host, entry->d_name);
	(void)closedir(proc);
}

unsigned host_find(struct host *host, const struct stat *st, pid_t *ret_pid)
{
	unsigned found = 0;

	(void)pthread_mutex_lock(&host->lock);
	if (!host->scanned)
		scan(host);
	(void)pthread_mutex_unlock(&host->lock);
	for (size_t i = 0; i < host->candidates_count; i++) {
		const struct candidate *c = &host->candidates[i];

		if (c->dev != st->st_dev || c->ino != st->st_ino ||
		    (!is_hypervisor(c->pid) && !is_named_microvm(c->pid)))
			continue;
		if (found++ == 0)
			*ret_pid = c->pid;
	}
	return found;
}
