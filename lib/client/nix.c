/* Locking a local flake: see nix.h.
 *
 * Happy path: the directory is looked at, `nix flake metadata --json path:DIR` is spawned with the
 * caller's environment, its output is read with a cap until both streams end, the store path and
 * narHash in it become the reference. It fails when there is no flake.nix, when nix is not there,
 * ends with an error (its last lines are the message) or does not end in time (it is killed).
 */
#include "client/nix.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NIX_ERROR_LINES 20

bool nix_is_local(const char *flake)
{
	if (strncmp(flake, "path:/nix/store/", 16) == 0 && strstr(flake, "narHash=") != NULL)
		return false;
	return flake[0] == '.' || flake[0] == '/' || strncmp(flake, "path:", 5) == 0;
}

/* The absolute directory that holds flake.nix. */
static int flake_directory(const char *flake, char **ret, struct blix_error *err)
{
	const char *given = strncmp(flake, "path:", 5) == 0 ? flake + 5 : flake;
	cleanup(freep) char *absolute = realpath(given, NULL);
	cleanup(freep) char *file = NULL;
	struct stat st;

	if (absolute == NULL || stat(absolute, &st) < 0 || !S_ISDIR(st.st_mode)) {
		(void)blix_fail(err, BLIX_E_IMAGE, "flake %s: there is no such directory", given);
		blix_reason(err, "flake-missing");
		return -(int)BLIX_E_IMAGE;
	}
	file = xasprintf("%s/flake.nix", absolute);
	if (access(file, R_OK) < 0) {
		(void)blix_fail(err, BLIX_E_IMAGE, "flake %s: it has no readable flake.nix", given);
		blix_reason(err, "flake-missing");
		return -(int)BLIX_E_IMAGE;
	}
	*ret = take(absolute);
	return 0;
}

/* The caller's environment with NIX_CONFIG extended; one allocation to free besides the array. */
static char **nix_environment(char **ret_config)
{
	const char *config = getenv("NIX_CONFIG");
	const char *group = "";
	size_t n = 0, used = 0;
	char **environment;

	/* A single-user root installation without the build group: nix only warns in some versions
	 * and refuses in others. */
	if (!file_exists("/nix/var/nix/daemon-socket") && getgrnam("nixbld") == NULL)
		group = "build-users-group =\n";
	*ret_config =
		xasprintf("NIX_CONFIG=%s\nextra-experimental-features = nix-command flakes\n%s",
	                  config != NULL ? config : "", group);
	while (environ[n] != NULL)
		n++;
	environment = xcalloc(n + 2, sizeof(*environment));
	for (size_t i = 0; i < n; i++) {
		if (strncmp(environ[i], "NIX_CONFIG=", 11) != 0)
			environment[used++] = environ[i];
	}
	environment[used] = *ret_config;
	return environment;
}

struct child {
	pid_t pid;
	int out, error; /* read ends; -1 once closed */
	int end;        /* pidfd: readable when it has exited; -1 once seen */
};

static int spawn_with(struct child *child, char *const argv[], const int out[2], const int error[2],
                      struct blix_error *err)
{
	posix_spawn_file_actions_t actions;
	cleanup(freep) char *config = NULL;
	cleanup(freep) char **environment = nix_environment(&config);
	int rc = posix_spawn_file_actions_init(&actions);

	if (rc != 0)
		return blix_fail_sys(err, rc, "spawn nix");
	rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(&actions, error[1], 2);
	if (rc == 0)
		rc = posix_spawnp(&child->pid, argv[0], &actions, NULL, argv, environment);
	(void)posix_spawn_file_actions_destroy(&actions);
	if (rc == ENOENT) {
		(void)blix_fail(err, BLIX_E_IMAGE,
		                "nix is not in PATH: a local flake is locked by it");
		blix_reason(err, "nix-missing");
		blix_hint(err, "install Nix, or name a remote flake such as github:OWNER/REPO");
		return -(int)BLIX_E_IMAGE;
	}
	return rc == 0 ? 0 : blix_fail_sys(err, rc, "spawn nix");
}

static int child_spawn(struct child *child, char *const argv[], struct blix_error *err)
{
	int out[2] = {-1, -1}, error[2] = {-1, -1};
	int rc;

	if (pipe2(out, O_CLOEXEC) < 0)
		return blix_fail_sys(err, errno, "pipe");
	if (pipe2(error, O_CLOEXEC) < 0) {
		rc = blix_fail_sys(err, errno, "pipe");
		(void)close(out[0]);
		(void)close(out[1]);
		return rc;
	}
	rc = spawn_with(child, argv, out, error, err);
	(void)close(out[1]);
	(void)close(error[1]);
	if (rc < 0) {
		(void)close(out[0]);
		(void)close(error[0]);
		return rc;
	}
	child->out = out[0];
	child->error = error[0];
	child->end = pidfd_open(child->pid, 0);
	return 0;
}

static void close_once(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

/* Reads what is there; past the cap it is dropped. Closes *fd at its end. */
static void drain(int *fd, struct buf *into)
{
	char chunk[4096];
	ssize_t n = read(*fd, chunk, sizeof(chunk));

	if (n > 0) {
		if (into->len + (size_t)n <= into->cap)
			(void)buf_add(into, chunk, (size_t)n);
		return;
	}
	if (n < 0 && errno == EINTR)
		return;
	close_once(fd);
}

/* Collects both streams and the exit status. False: the time was up and the child was killed. */
static bool child_collect(struct child *child, struct buf *out, struct buf *error,
                          uint64_t timeout_ms, int *ret_status)
{
	uint64_t until = clock_boot_ms() + (timeout_ms < INT_MAX ? timeout_ms : INT_MAX);
	bool in_time = true;

	while (in_time && (child->out >= 0 || child->error >= 0 || child->end >= 0)) {
		struct pollfd fds[3] = {{child->out, POLLIN, 0},
		                        {child->error, POLLIN, 0},
		                        {child->end, POLLIN, 0}};
		uint64_t now = clock_boot_ms();

		in_time = now < until;
		if (!in_time || poll(fds, 3, (int)(until - now)) <= 0)
			continue;
		if (fds[0].revents != 0)
			drain(&child->out, out);
		if (fds[1].revents != 0)
			drain(&child->error, error);
		if (fds[2].revents != 0)
			close_once(&child->end);
	}
	if (!in_time)
		(void)kill(child->pid, SIGKILL);
	close_once(&child->out);
	close_once(&child->error);
	close_once(&child->end);
	while (waitpid(child->pid, ret_status, 0) < 0 && errno == EINTR)
		;
	return in_time;
}

static const char *last_lines(const struct buf *text, unsigned lines)
{
	const char *p;

	if (text->len == 0)
		return "nix said nothing";
	p = text->data + text->len - 1;
	while (p > text->data && *p == '\n')
		p--;
	while (p > text->data && (p[-1] != '\n' || --lines > 0))
		p--;
	return p;
}

/* nix wants '+', '/' and '=' of the base64 hash encoded in a query. */
static char *locked_url(const char *path, const char *hash)
{
	struct buf url;

	buf_init(&url, LIMIT_FLAKE);
	(void)buf_printf(&url, "path:%s?narHash=", path);
	for (const char *p = hash; *p != '\0'; p++) {
		if (strchr("+/=", *p) != NULL)
			(void)buf_printf(&url, "%%%02X", (unsigned char)*p);
		else
			(void)buf_add(&url, p, 1);
	}
	return buf_take(&url);
}

static int metadata_read(const struct buf *out, char **ret_locked, struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;
	const cJSON *locked = NULL;
	const char *path = NULL, *hash = NULL;
	char *url;
	int rc = json_parse(out->data != NULL ? out->data : "", out->len, &json_limits_answer,
	                    &tree, err);

	if (rc == 0)
		rc = json_get_string(tree, "path", &path, err);
	if (rc == 0)
		rc = json_get_object(tree, "locked", &locked, err);
	if (rc == 0 && locked != NULL)
		rc = json_get_string(locked, "narHash", &hash, err);
	if (rc < 0)
		return blix_wrap(err, "nix flake metadata");
	if (path == NULL || hash == NULL)
		return blix_fail(err, BLIX_E_IMAGE,
		                 "nix flake metadata gave no store path or narHash");
	url = locked_url(path, hash);
	if (url == NULL)
		return blix_fail(err, BLIX_E_IMAGE, "the locked reference is too long");
	*ret_locked = url;
	return 0;
}

int nix_lock(const char *flake, uint64_t timeout_ms, char **ret_locked, struct blix_error *err)
{
	cleanup(freep) char *directory = NULL;
	cleanup(freep) char *url = NULL;
	cleanup(buf_done) struct buf out;
	cleanup(buf_done) struct buf error;
	struct child child = {.out = -1, .error = -1, .end = -1};
	int status = 0;
	int rc;

	buf_init(&out, LIMIT_CHILD_OUTPUT);
	buf_init(&error, LIMIT_CHILD_OUTPUT);
	rc = flake_directory(flake, &directory, err);
	if (rc < 0)
		return rc;
	url = xasprintf("path:%s", directory);
	rc = child_spawn(&child,
	                 (char *const[]){(char[]){"nix"}, (char[]){"flake"}, (char[]){"metadata"},
	                                 (char[]){"--json"}, (char[]){"--no-write-lock-file"}, url,
	                                 NULL},
	                 err);
	if (rc < 0)
		return rc;
	if (!child_collect(&child, &out, &error, timeout_ms, &status))
		return blix_fail(err, BLIX_E_TIMEOUT, "nix did not lock %s in time", directory);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		(void)blix_fail(err, BLIX_E_IMAGE, "nix cannot read the flake %s:\n%s", directory,
		                last_lines(&error, NIX_ERROR_LINES));
		blix_reason(err, "flake-metadata");
		return -(int)BLIX_E_IMAGE;
	}
	return metadata_read(&out, ret_locked, err);
}
