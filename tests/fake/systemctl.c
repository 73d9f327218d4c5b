/* A strict systemctl, for hosts whose systemd fails: it knows the words that blix says, and refuses
 * all others with 99. A unit is the file .fake/units/UNIT, which holds the pid of its process.
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

#include <signal.h>

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

static void unit_path(const char *unit, char *out, size_t n)
{
	(void)snprintf(out, n, "%s/.fake/units", fake_state_dir());
	(void)mkdir(out, 0755);
	(void)snprintf(out, n, "%s/.fake/units/%s", fake_state_dir(), unit);
}

/* The pid of its process, 0 when it does not run. */
static int unit_pid(const char *unit)
{
	char path[PATH_MAX], text[32];
	int pid;

	unit_path(unit, path, sizeof(path));
	if (!fake_read(path, text, sizeof(text)))
		return 0;
	pid = atoi(text);
	return pid > 0 && kill(pid, 0) == 0 ? pid : 0;
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
	int pid = unit_pid(unit);
	char path[PATH_MAX], text[2048], main_pid[16], dir[PATH_MAX];
	const char *environment;
	const struct {
		const char *key, *value;
	} table[] = {{"Id", unit},
	             {"LoadState", is_wrong("show", "masked") ? "masked" : "loaded"},
	             {"ActiveState", pid > 0 ? "active" : "inactive"},
	             {"SubState", pid > 0 ? "running" : "dead"},
	             {"MainPID", main_pid},
	             {"WorkingDirectory", is_wrong("show", "foreign") ? "/tmp" : dir},
	             {"DropInPaths", path},
	             {"InvocationID", pid > 0 ? main_pid : ""},
	             {"NeedDaemonReload", "no"}};

	drop_in(unit, path, text, sizeof(text));
	(void)snprintf(main_pid, sizeof(main_pid), "%d", pid);
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

static int start(int argc, char **argv)
{
	char vm[256], path[PATH_MAX], dir[PATH_MAX];
	FILE *file;
	int out;
	pid_t pid;

	if (argc != 4 || strcmp(argv[2], "--") != 0 || !unit_vm(argv[3], vm, sizeof(vm)))
		return REFUSED;
	if (unit_pid(argv[3]) > 0)
		return 0;
	(void)snprintf(dir, sizeof(dir), "%s/%s", fake_state_dir(), vm);
	(void)snprintf(path, sizeof(path), "%s/../state/vms/%s/console.log", fake_state_dir(), vm);
	out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	pid = fork();
	if (pid == 0) {
		char *words[] = {(char[]){"microvm-run"}, NULL};

		(void)setsid();
		(void)unsetenv("BLIX_CHILD_OF"); /* a unit inherits nothing of whoever asked */
		(void)dup2(out, 1);
		(void)dup2(out, 2);
		if (chdir(dir) == 0)
			(void)execv("current/bin/microvm-run", words);
		_exit(127);
	}
	unit_path(argv[3], path, sizeof(path));
	file = fopen(path, "we");
	if (pid < 0 || file == NULL)
		return 1;
	(void)fprintf(file, "%d\n", (int)pid);
	(void)fclose(file);
	return 0;
}

static int stop(int argc, char **argv)
{
	if (argc < 4 || strcmp(argv[2], "--") != 0)
		return REFUSED;
	for (int i = 3; i < argc; i++) {
		int pid = unit_pid(argv[i]);

		if (pid > 0)
			(void)kill(pid, SIGKILL);
	}
	return 0;
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

	fake_log(argc, argv);
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
	if (is_wrong(verb, "lose") && argc > 3 && unit_pid(argv[3]) > 0)
		(void)kill(unit_pid(argv[3]), SIGKILL);
	return is_wrong(verb, "lie") ? 1 : rc;
}
