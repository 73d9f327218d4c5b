/* A strict systemctl, for hosts whose systemd fails: it knows the words that blix says, and refuses
 * all others with 99. A unit is the file .fake/units/UNIT, which holds the pid of its process and
 * that of the one who stands by it: as the units of microvm.nix do, it takes the tap up and links
 * `booted` before, and after the end ends what is left, takes both away and does what the drop-in
 * says.
 *
 * The file .fake/systemctl says what goes wrong, as "VERB WHAT" or "ok":
 *
 *   fail      one line on stderr, exit code 1, nothing done
 *   hang      never ends
 *   garbage   prints what makes no sense, exit code 0
 *   lose      does it, and then the unit is gone with its process
 *   lie       does it and says that it failed
 *   nothing   says it is fine and does nothing
 *   foreign   (show) the unit works in another directory
 *   masked    (show)
 *   deaf      (show) knows nothing of drop-ins */
#include "fake.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#define REFUSED 99

static bool is_wrong(const char *verb, const char *how)
{
	char path[PATH_MAX], text[64];
	size_t n = strlen(verb);

	(void)snprintf(path, sizeof(path), "%s/.fake/systemctl", fake_state_dir());
	if (!fake_read(path, text, sizeof(text)))
		return false;
	text[strcspn(text, "\n")] = '\0';
	return strncmp(text, verb, n) == 0 && text[n] == ' ' && strcmp(text + n + 1, how) == 0;
}

/* One start at a time, and nobody asks in the middle of one: systemd does its jobs in turn. */
static void turn_lock(int fd, int how)
{
	struct flock lock = {.l_type = (short)how, .l_whence = SEEK_SET};

	(void)fcntl(fd, F_OFD_SETLKW, &lock);
}

static int take_turn(int how)
{
	char path[PATH_MAX];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/.fake/turn", fake_state_dir());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	turn_lock(fd, how);
	return fd;
}

static void unit_path(const char *unit, char *out, size_t n)
{
	(void)snprintf(out, n, "%s/.fake/units", fake_state_dir());
	(void)mkdir(out, 0755);
	(void)snprintf(out, n, "%s/.fake/units/%s", fake_state_dir(), unit);
}

/* A unit that is not there has neither. */
struct unit {
	int pid, keeper;
};

static bool is_alive(int pid)
{
	return pid > 0 && kill(pid, 0) == 0;
}

static struct unit unit_read(const char *name)
{
	struct unit unit = {0};
	char path[PATH_MAX], text[64];

	unit_path(name, path, sizeof(path));
	if (fake_read(path, text, sizeof(text)))
		(void)sscanf(text, "%d %d", &unit.pid, &unit.keeper);
	if (!is_alive(unit.pid))
		unit.pid = 0;
	if (!is_alive(unit.keeper))
		unit.keeper = 0;
	return unit;
}

/* "microvm@web.service" to "web"; false when it is none. */
static bool unit_vm(const char *unit, char *out, size_t n)
{
	const char *at = strchr(unit, '@');

	if (strncmp(unit, "microvm@", 8) != 0 || strstr(unit, ".service") == NULL)
		return false;
	(void)snprintf(out, n, "%.*s", (int)strcspn(at + 1, "."), at + 1);
	return true;
}

/* The drop-in of a unit: its real path and its text, "" when there is none. */
static void drop_in(const char *unit, char *path, char *text, size_t n)
{
	char name[PATH_MAX];

	text[0] = path[0] = '\0';
	(void)snprintf(name, sizeof(name), "%s/../systemd/%s.d/50-blix.conf", fake_state_dir(),
	               unit);
	if (!is_wrong("show", "deaf") && realpath(name, path) != NULL)
		(void)fake_read(path, text, n);
}

static void show_property(const char *key, const char *unit, const char *vm)
{
	const struct unit is = unit_read(unit);
	char path[PATH_MAX], text[2048], main_pid[16], dir[PATH_MAX];
	const char *environment;
	const struct {
		const char *key, *value;
	} table[] = {{"Id", unit},
	             {"LoadState", is_wrong("show", "masked") ? "masked" : "loaded"},
	             {"ActiveState", is.pid > 0      ? "active"
	                             : is.keeper > 0 ? "deactivating"
	                                             : "inactive"},
	             {"SubState", is.pid > 0      ? "running"
	                          : is.keeper > 0 ? "stop-post"
	                                          : "dead"},
	             {"MainPID", main_pid},
	             {"WorkingDirectory", is_wrong("show", "foreign") ? "/tmp" : dir},
	             {"DropInPaths", path},
	             {"InvocationID", is.pid > 0 ? main_pid : ""},
	             {"NeedDaemonReload", "no"}};

	drop_in(unit, path, text, sizeof(text));
	(void)snprintf(main_pid, sizeof(main_pid), "%d", is.pid);
	(void)snprintf(dir, sizeof(dir), "%s/%s", fake_state_dir(), vm);
	environment = strstr(text, "Environment=");
	if (strcmp(key, "Environment") == 0 && environment != NULL) {
		(void)printf("%.*s\n", (int)strcspn(environment, "\n"), environment);
		return;
	}
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (strcmp(key, table[i].key) == 0) {
			(void)printf("%s=%s\n", key, table[i].value);
			return;
		}
	}
	(void)printf("%s=\n", key);
}

static int show(int argc, char **argv)
{
	static const char option[] = "--property=";

	if (argc < 6 || strcmp(argv[2], "--no-pager") != 0 ||
	    strncmp(argv[3], option, strlen(option)) != 0 || strcmp(argv[4], "--") != 0)
		return REFUSED;
	for (int i = 5; i < argc; i++) {
		char vm[256], keys[512], *rest = keys, *key;

		if (!unit_vm(argv[i], vm, sizeof(vm)) || strchr(argv[i], '*') != NULL)
			continue; /* a transient one, which is not there */
		(void)snprintf(keys, sizeof(keys), "%s", argv[3] + strlen(option));
		while ((key = strsep(&rest, ",")) != NULL)
			show_property(key, argv[i], vm);
		(void)printf("\n");
	}
	return 0;
}

static int run(const char *dir, const char *program, const char *option, const char *text)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		if (chdir(dir) == 0)
			(void)execl(program, program, option, text, (char *)NULL);
		_exit(127);
	}
	(void)waitpid(pid, &status, 0);
	return status;
}

/* The lines `ExecStopPost=-+COMMAND` of the drop-in, with what systemd tells them. */
static void stop_post(const char *name, int status)
{
	static const char key[] = "ExecStopPost=-+";
	char path[PATH_MAX], text[2048], number[16], *rest = text, *line;

	drop_in(name, path, text, sizeof(text));
	(void)snprintf(number, sizeof(number), "%d", WEXITSTATUS(status));
	(void)setenv("EXIT_CODE", WIFEXITED(status) ? "exited" : "killed", 1);
	(void)setenv("EXIT_STATUS", WIFEXITED(status) ? number : sigabbrev_np(WTERMSIG(status)), 1);
	while ((line = strsep(&rest, "\n")) != NULL) {
		if (strncmp(line, key, strlen(key)) == 0)
			(void)run("/", "/bin/sh", "-c", line + strlen(key));
	}
}

static bool link_booted(const char *dir, const char *booted)
{
	char current[PATH_MAX], target[PATH_MAX];
	ssize_t n;

	(void)snprintf(current, sizeof(current), "%s/current", dir);
	n = readlink(current, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = '\0';
	(void)unlink(booted);
	return n > 0 && symlink(target, booted) == 0;
}

/* A program of what was booted, where it has it. */
static int step(const char *dir, const char *name)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/booted/bin/%s", dir, name);
	return access(path, X_OK) == 0 ? run(dir, path, NULL, NULL) : 0;
}

/* Returns when the program runs, as for Type=exec. */
static pid_t run_vm(const char *dir, const char *vm)
{
	char console[PATH_MAX], byte;
	int ran[2] = {-1, -1}; /* closed by exec */
	pid_t pid;

	(void)!pipe2(ran, O_CLOEXEC);
	pid = fork();
	if (pid == 0) {
		int out;

		(void)snprintf(console, sizeof(console), "%s/../state/vms/%s/console.log",
		               fake_state_dir(), vm);
		out = open(console, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
		(void)setpgid(0, 0);
		(void)dup2(out, 1);
		(void)dup2(out, 2);
		if (chdir(dir) == 0)
			(void)execl("booted/bin/microvm-run", "microvm-run", (char *)NULL);
		_exit(127);
	}
	(void)close(ran[1]);
	(void)!read(ran[0], &byte, 1);
	(void)close(ran[0]);
	return pid;
}

/* Starts it, says so to the one who waits, who may be dead by then, and stays to its end. */
static int keep(const char *name, const char *vm, int told)
{
	char path[PATH_MAX], dir[FAKE_DIR], booted[PATH_MAX], line[64];
	pid_t pid;
	int unit, status = 0, turn = take_turn(F_WRLCK);
	struct unit before = unit_read(name);

	(void)signal(SIGPIPE, SIG_IGN); /* as systemd does, for its units as well */
	unit_path(name, path, sizeof(path));
	(void)snprintf(dir, sizeof(dir), "%s/%s", fake_state_dir(), vm);
	(void)snprintf(booted, sizeof(booted), "%s/booted", dir);
	for (; before.keeper > 0; before = unit_read(name)) {
		if (before.pid > 0) /* whoever asked first may be dead */
			return write(told, "", 1) == 1 ? 0 : 1;
		(void)poll(NULL, 0, 10); /* it comes down first */
	}
	if (!link_booted(dir, booted) || step(dir, "tap-up") != 0)
		return 1;
	(void)fcntl(told, F_SETFD, FD_CLOEXEC);
	pid = run_vm(dir, vm);
	unit = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	(void)snprintf(line, sizeof(line), "%d\n%d\n", (int)pid, (int)getpid());
	if (write(unit, line, strlen(line)) > 0)
		(void)!write(told, "", 1);
	(void)close(told);
	turn_lock(turn, F_UNLCK);
	(void)waitpid(pid, &status, 0);
	(void)kill(-pid, SIGKILL);
	(void)step(dir, "tap-down");
	(void)unlink(booted);
	stop_post(name, status);
	(void)unlink(path);
	return 0;
}

static int start(int argc, char **argv)
{
	char vm[256], number[16], byte;
	int told[2];
	pid_t pid;

	if (argc != 4 || strcmp(argv[2], "--") != 0 || !unit_vm(argv[3], vm, sizeof(vm)))
		return REFUSED;
	if (unit_read(argv[3]).pid > 0)
		return 0;
	if (pipe2(told, O_CLOEXEC) < 0)
		return 1;
	(void)snprintf(number, sizeof(number), "%d", told[1]);
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		(void)setsid();
		(void)!chdir("/");
		for (int fd = 0; fd <= 2; fd++)
			(void)dup2(null, fd); /* else who asked would wait for its end */
		(void)fcntl(told[1], F_SETFD, 0);
		(void)unsetenv("BLIX_CHILD_OF"); /* a unit inherits nothing of whoever asked */
		(void)unsetenv("TMPDIR");
		(void)execl("/proc/self/exe", "systemd", argv[3], vm, number, (char *)NULL);
		_exit(1);
	}
	(void)close(told[1]);
	return pid > 0 && read(told[0], &byte, 1) == 1 ? 0 : 1;
}

/* SIGTERM, after a while SIGKILL; over when the one who stands by it is, too. */
static int stop(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[2], "--no-block") == 0)
		return 0; /* the units around it, which are none here */
	if (argc < 4 || strcmp(argv[2], "--") != 0)
		return REFUSED;
	for (int i = 3; i < argc; i++) {
		struct unit unit = unit_read(argv[i]);
		const int keeper = unit.keeper; /* of the next start is another */

		if (unit.pid > 0)
			(void)kill(unit.pid, SIGTERM);
		for (int looks = 0; keeper > 0 && unit.keeper == keeper; looks++) {
			if (looks == 200 && unit.pid > 0)
				(void)kill(unit.pid, SIGKILL);
			(void)poll(NULL, 0, 10);
			unit = unit_read(argv[i]);
		}
	}
	return 0;
}

/* It is gone, and nobody does what comes after. */
static void lose(const char *name)
{
	struct unit unit = unit_read(name);
	char path[PATH_MAX];

	if (unit.keeper > 0)
		(void)kill(unit.keeper, SIGKILL);
	if (unit.pid > 0)
		(void)kill(unit.pid, SIGKILL);
	unit_path(name, path, sizeof(path));
	(void)unlink(path);
}

static int reload(int argc, char **argv)
{
	(void)argv;
	return argc == 2 ? 0 : REFUSED;
}

static int forget(int argc, char **argv)
{
	return argc >= 4 && strcmp(argv[2], "--") == 0 ? 0 : REFUSED;
}

static const struct {
	const char *verb;
	int (*run)(int argc, char **argv);
} verbs[] = {{"show", show},
             {"start", start},
             {"stop", stop},
             {"daemon-reload", reload},
             {"reset-failed", forget}};

/* What goes wrong instead of the verb, -1: nothing does. */
static int go_wrong(const char *verb)
{
	while (is_wrong(verb, "hang"))
		(void)pause();
	if (is_wrong(verb, "garbage")) {
		(void)printf("<html>502 Bad Gateway</html>\n");
		return 0;
	}
	if (is_wrong(verb, "nothing"))
		return 0;
	if (!is_wrong(verb, "fail"))
		return -1;
	(void)fprintf(stderr, "Failed to %s: Connection timed out\n", verb);
	return 1;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	int rc = REFUSED;

	if (strcmp(argv[0], "systemd") == 0 && argc == 4)
		return keep(argv[1], argv[2], atoi(argv[3]));

	fake_log(argc, argv);
	(void)close(take_turn(F_RDLCK));
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(verb, verbs[i].verb) != 0)
			continue;
		rc = go_wrong(verb);
		if (rc >= 0)
			return rc;
		rc = verbs[i].run(argc, argv);
	}
	if (rc == REFUSED) {
		(void)fprintf(stderr, "fake systemctl: refused\n");
		return rc;
	}
	if (is_wrong(verb, "lose") && argc > 3)
		lose(argv[3]);
	return is_wrong(verb, "lie") ? 1 : rc;
}
