/* A runner without a hypervisor: says "fake: ready" and sleeps until SIGTERM, which it takes for a
 * clean end. Modes: exit0 and exit1 (ends at once), "end CODE WORDS" (says so and ends with CODE;
 * 137: by SIGKILL), stubborn (only SIGKILL ends it), silent (is never ready), shell
 * (is /bin/sh at its console), agent (has blix-agent in it), vsock (has the loader of the wrapper,
 * behind the socket of Cloud Hypervisor; what follows tells how that answers). */
#include "guest_port.h"

#include <signal.h>

/* "CODE WORDS" */
static int end(const char *what)
{
	int code = 0;
	int n = 0;

	if (sscanf(what, "%d %n", &code, &n) != 1)
		return 1;
	(void)fprintf(stderr, "%s\n", what + n);
	if (code == 137)
		(void)raise(SIGKILL);
	return code;
}

/* The mode of what is built, a file `store-2`, goes before that of the VM. */
static const char *built_or(const char *name)
{
	static char built[NAME_MAX + 1];
	char path[PATH_MAX * 2], target[PATH_MAX];
	ssize_t n = readlink("current", target, sizeof(target) - 1);

	target[n > 0 ? n : 0] = '\0';
	if (strrchr(target, '/') == NULL)
		return name;
	(void)snprintf(built, sizeof(built), "%.*s", NAME_MAX, strrchr(target, '/') + 1);
	(void)snprintf(path, sizeof(path), "%s/.fake/%s", fake_state_dir(), built);
	return access(path, F_OK) == 0 ? built : name;
}

/* Notes its life in the file .fake/witness, where a test made one, and whether another of the same
 * VM lives: each holds a lock while it does, whatever ends it. */
static void witness(const char *what, const char *name)
{
	static int alive = -1; /* stays open */
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[PATH_MAX], owner[512], line[PATH_MAX];
	int fd, n;

	(void)snprintf(path, sizeof(path), "%s/.fake/witness", fake_state_dir());
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)snprintf(path, sizeof(path), "%s/.fake/%s.alive", fake_state_dir(), name);
	if (alive < 0)
		alive = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fcntl(alive, F_OFD_SETLK, &lock) < 0)
		what = "DOUBLE";
	if (!fake_read(".blix.json", owner, sizeof(owner)))
		(void)snprintf(owner, sizeof(owner), "no owner");
	owner[strcspn(owner, "\n")] = '\0';
	n = snprintf(line, sizeof(line), "%s %s pid=%d %s\n", what, name, (int)getpid(), owner);
	(void)!write(fd, line, (size_t)n);
	(void)close(fd);
}

int main(void)
{
	char here[PATH_MAX] = "/";
	const char *mode;
	sigset_t set;
	int got = 0;

	if (getcwd(here, sizeof(here)) == NULL)
		return 1;
	mode = fake_mode(built_or(strrchr(here, '/') + 1));
	if (strcmp(mode, "exit0") == 0)
		return 0;
	if (strcmp(mode, "exit1") == 0) {
		(void)fprintf(stderr, "fake: cannot start\n");
		return 1;
	}
	if (strncmp(mode, "end ", 4) == 0)
		return end(mode + 4);
	if (strcmp(mode, "shell") == 0) {
		(void)setenv("PATH", "/usr/bin:/bin", 1);
		(void)execl("/bin/sh", "sh", "-c", "stty sane; exec sh", (char *)NULL);
		return 127;
	}
	if (strcmp(mode, "agent") == 0)
		guest_port();
	if (strncmp(mode, "vsock", 5) == 0)
		guest_vsock(mode + 5);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	witness("start", strrchr(here, '/') + 1);
	if (strcmp(mode, "silent") != 0) {
		(void)printf("fake: ready\n");
		(void)fflush(stdout);
	}
	do {
		(void)sigwait(&set, &got);
	} while (strcmp(mode, "stubborn") == 0);
	witness("end", strrchr(here, '/') + 1);
	return 0;
}
