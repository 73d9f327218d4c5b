/* A `microvm` command that builds nothing, in a millisecond, and fails as it is told:
 *
 *   ok         makes the directory and its `current` link
 *   fail       a build failure in Nix's words
 *   fail-once  the same, in its own words, the first time only
 *   hang       never ends            flood   10 MB on both streams, then ok
 *   die        killed by SIGKILL     die-once
 *   nothing    says it is fine and does nothing
 *   lie        does it and says it failed
 */
#include "fake.h"

#include <signal.h>

static int fail(void)
{
	(void)fprintf(stderr,
	              "error: builder for '/nix/store/fake-microvm.drv' failed with exit code 1;\n"
	              "       last 1 log lines:\n       > fake: told to fail\n");
	return 1;
}

static void flood(void)
{
	static char noise[65536];

	memset(noise, 'x', sizeof(noise));
	for (unsigned i = 0; i < 160; i++) {
		(void)!write(1, noise, sizeof(noise));
		(void)!write(2, noise, sizeof(noise));
	}
}

static void link_runner(const char *dir)
{
	char link[PATH_MAX], store[PATH_MAX], flake[PATH_MAX] = "";

	(void)snprintf(link, sizeof(link), "%s/flake", dir);
	(void)fake_read(link, flake, sizeof(flake));
	fake_store_of(strncmp(flake, "path:", 5) == 0 ? flake + 5 : flake, store, sizeof(store));
	(void)snprintf(link, sizeof(link), "%s/current", dir);
	(void)unlink(link);
	if (symlink(store, link) < 0)
		perror("fake microvm");
}

static void link_root(const char *dir, const char *name)
{
	const char *roots = getenv("MICROVM_GCROOTS_DIR");
	char root[PATH_MAX], target[PATH_MAX];

	if (roots == NULL)
		return;
	(void)mkdir(roots, 0755);
	(void)snprintf(root, sizeof(root), "%s/%s", roots, name);
	(void)snprintf(target, sizeof(target), "%s/current", dir);
	(void)!symlink(target, root);
}

static int create(const char *name, const char *flake)
{
	char dir[FAKE_DIR], path[PATH_MAX + 8];
	int fd;

	(void)snprintf(dir, sizeof(dir), "%s/%s", fake_state_dir(), name);
	if (mkdir(dir, 0775) < 0) {
		(void)printf("%s already exists.\n", dir);
		return 1;
	}
	(void)snprintf(path, sizeof(path), "%s/flake", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd >= 0) {
		(void)!write(fd, flake, strlen(flake));
		(void)close(fd);
	}
	link_runner(dir);
	link_root(dir, name);
	return 0;
}

/* What Nix did not know is known again once it is built. */
static void forget_invalid(void)
{
	char file[PATH_MAX], wrong[16];

	(void)snprintf(file, sizeof(file), "%s/.fake/verify", fake_state_dir());
	if (fake_read(file, wrong, sizeof(wrong)) && strncmp(wrong, "invalid", 7) == 0)
		(void)unlink(file);
}

static int update(const char *name)
{
	char dir[FAKE_DIR];

	(void)snprintf(dir, sizeof(dir), "%s/%s", fake_state_dir(), name);
	if (access(dir, F_OK) < 0)
		return 1;
	link_runner(dir);
	forget_invalid();
	return 0;
}

static int run(const char *name)
{
	char dir[FAKE_DIR], *words[] = {(char[]){"microvm-run"}, NULL};

	(void)snprintf(dir, sizeof(dir), "%s/%s", fake_state_dir(), name);
	if (chdir(dir) < 0)
		return 1;
	(void)execv("current/bin/microvm-run", words);
	return 127;
}

static int build(char action, const char *name, const char *flake)
{
	const char *mode = fake_mode(name);
	int rc;

	if (strcmp(mode, "fail") == 0)
		return fail();
	if (strcmp(mode, "fail-once") == 0 && fake_first(name)) {
		(void)fprintf(stderr, "fake: failing once\n");
		return 1;
	}
	if (strcmp(mode, "die") == 0 || (strcmp(mode, "die-once") == 0 && fake_first(name)))
		(void)raise(SIGKILL);
	while (strcmp(mode, "hang") == 0)
		(void)pause();
	if (strcmp(mode, "flood") == 0)
		flood();
	if (strcmp(mode, "nothing") == 0)
		return 0;
	rc = action == 'c' ? create(name, flake) : update(name);
	return strcmp(mode, "lie") == 0 ? 1 : rc;
}

int main(int argc, char **argv)
{
	const char *flake = "git+file:///etc/nixos", *name = NULL;
	char action = 'h';
	int option;

	fake_log(argc, argv);
	while ((option = getopt(argc, argv, ":c:f:uRr:")) != -1) {
		if (option == 'f')
			flake = optarg;
		else if (option == 'c' || option == 'r')
			name = optarg;
		if (option == 'c' || option == 'r' || option == 'u')
			action = (char)option;
	}
	if (action == 'u' && optind < argc)
		name = argv[optind];
	if (action == 'h' || name == NULL) {
		(void)puts("Help:");
		return 0;
	}
	return action == 'r' ? run(name) : build(action, name, flake);
}
