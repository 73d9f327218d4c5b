/* A `nix-store` that looks at no store: the file `verify` in the fakes' folder says what is wrong.
 *
 *   modified   what is verified was altered      gone      it is not on the disk
 *   kernel     the same, of another path of the closure
 *   invalid    Nix does not know it: a build makes it again
 *   broken     nix-store itself fails
 *
 * A repair removes the file, unless there is one named `hopeless`.
 *
 * A source that was added is valid from then on (the file `added-BASENAME`); its path is the one
 * whose validity was asked last, since nothing is summed up here. --restore fails while there is a
 * file `refuse`, whose text is what it says. */
#include "fake.h"

static void file_of(const char *name, char *out, size_t n)
{
	(void)snprintf(out, n, "%s/.fake/%s", fake_state_dir(), name);
}

static int say(const char *before, const char *path, const char *after)
{
	(void)fprintf(stderr, "%s'%s'%s\n", before, path, after);
	return 1;
}

static int verify(char **paths, int n)
{
	char file[PATH_MAX], wrong[64];

	file_of("verify", file, sizeof(file));
	if (!fake_read(file, wrong, sizeof(wrong)))
		return 0;
	wrong[strcspn(wrong, "\n")] = '\0';
	if (strcmp(wrong, "modified") == 0)
		return say("path ", paths[0], " was modified! expected hash 'a', got 'b'");
	if (strcmp(wrong, "kernel") == 0)
		return n > 1 ? say("path ", paths[1], " was modified! expected hash 'a', got 'b'")
		             : 0;
	if (strcmp(wrong, "gone") == 0)
		return say("error: getting status of ", paths[0], ": No such file or directory");
	if (strcmp(wrong, "invalid") == 0)
		return say("error: path ", paths[0], " is not valid");
	return say("error: opening lock file ", "db/big-lock", ": Permission denied");
}

static int repair(const char *path)
{
	char file[PATH_MAX], hopeless[PATH_MAX];

	file_of("verify", file, sizeof(file));
	file_of("hopeless", hopeless, sizeof(hopeless));
	if (access(hopeless, F_OK) == 0)
		return say("error: cannot repair path ", path, "");
	(void)unlink(file);
	return 0;
}

static int is_valid(const char *path)
{
	char name[PATH_MAX], file[PATH_MAX], asked[PATH_MAX];
	int fd;

	(void)snprintf(name, sizeof(name), "added-%s", strrchr(path, '/') + 1);
	file_of(name, file, sizeof(file));
	if (access(file, F_OK) == 0)
		return 0;
	file_of("asked", asked, sizeof(asked));
	fd = open(asked, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	(void)!write(fd, path, strlen(path));
	(void)close(fd);
	return say("error: path ", path, " is not valid");
}

/* What comes is kept as one file. */
static int restore(const char *path)
{
	char bytes[65536], file[PATH_MAX];
	ssize_t n;
	int fd;

	file_of("refuse", file, sizeof(file));
	if (fake_read(file, bytes, sizeof(bytes)))
		return fprintf(stderr, "error: %s", bytes) > 0;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return say("error: creating ", path, ": no");
	while ((n = read(0, bytes, sizeof(bytes))) > 0)
		(void)!write(fd, bytes, (size_t)n);
	return close(fd);
}

static int add(void)
{
	char asked[PATH_MAX], added[PATH_MAX], name[PATH_MAX], file[PATH_MAX];
	int fd;

	file_of("asked", file, sizeof(file));
	(void)fake_read(file, asked, sizeof(asked));
	(void)snprintf(name, sizeof(name), "added-%.200s", strrchr(asked, '/') + 1);
	file_of(name, added, sizeof(added));
	fd = open(added, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	return fd < 0 || close(fd) < 0 || puts(asked) < 0;
}

int main(int argc, char **argv)
{
	fake_log(argc, argv);
	if (argc == 3 && strcmp(argv[1], "--check-validity") == 0)
		return is_valid(argv[2]);
	if (argc == 3 && strcmp(argv[1], "--restore") == 0)
		return restore(argv[2]);
	if (argc == 3 && strcmp(argv[1], "--add") == 0)
		return add();
	if (argc > 2 && strcmp(argv[1], "--verify-path") == 0)
		return verify(argv + 2, argc - 2);
	if (argc == 3 && strcmp(argv[1], "--repair-path") == 0)
		return repair(argv[2]);
	if (argc == 4 && strcmp(argv[1], "--query") == 0)
		return printf("%s\n/nix/store/fake-kernel\n", argv[3]) < 0;
	(void)fprintf(stderr, "error: fake nix-store: not a command that blix may use\n");
	return 1;
}
