/* A `nix` that evaluates nothing: it knows --version, `flake metadata --json` and `eval --json` of
 * a wrapper flake, whose spec.json it answers from. The base's URL chooses a failure: one that
 * holds "missing", "evalfail", "noattr" or "offline" fails as Nix does, one with "fewcpus" when it
 * is asked for more than two; "volume" gives the VM a disk, "inputs" the base an input of its own.
 */
#include "fake.h"

static int die(const char *text)
{
	(void)fprintf(stderr, "error: %s\n", text);
	return 1;
}

/* What is not on this host is at the revision that the file `rev` names. */
static int metadata(const char *ref)
{
	char rev[64] = "", file[PATH_MAX], path[PATH_MAX];

	if (strstr(ref, "missing") != NULL)
		return die("getting status of '/missing': No such file or directory");
	if (strstr(ref, "offline") != NULL)
		return die("unable to download 'https://a': Couldn't resolve host name (6)");
	(void)snprintf(file, sizeof(file), "%s/.fake/rev", fake_state_dir());
	(void)fake_read(file, rev, sizeof(rev));
	rev[strcspn(rev, "\n")] = '\0';
	(void)snprintf(path, sizeof(path), "/nix/store/fake%s%s-source", rev[0] != '\0' ? "-" : "",
	               rev);
	(void)printf("{\"locked\":{\"type\":\"path\",\"narHash\":\"sha256-fake\"},"
	             "\"path\":\"%s\",\"locks\":{\"nodes\":{%s\"root\":{}}}}\n",
	             strncmp(ref, "path:", 5) == 0 ? ref + 5 : path,
	             strstr(ref, "inputs") != NULL ? "\"nixpkgs\":{}," : "");
	return 0;
}

static unsigned long number(const char *text, const char *key, unsigned long otherwise)
{
	const char *at = strstr(text, key);

	return at != NULL ? strtoul(at + strlen(key), NULL, 10) : otherwise;
}

static int write_lock(const char *dir, bool inputs)
{
	static const char *const locks[] = {
		"{\"nodes\":{\"base\":{},\"root\":{}},\"root\":\"root\",\"version\":7}\n",
		"{\"nodes\":{\"base\":{},\"nixpkgs\":{},\"root\":{}},\"root\":\"root\","
		"\"version\":7}\n"};
	const char *lock = locks[inputs];
	char path[PATH_MAX];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/flake.lock", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, lock, strlen(lock)) != (ssize_t)strlen(lock))
		return die("cannot write the lock");
	(void)close(fd);
	return 0;
}

static int evaluate(const char *ref)
{
	char dir[FAKE_DIR], path[PATH_MAX + 16], flake[8192], spec[4096], store[PATH_MAX];
	const char *url;

	(void)snprintf(dir, sizeof(dir), "%.*s", (int)strcspn(ref + 5, "#"), ref + 5);
	(void)snprintf(path, sizeof(path), "%s/flake.nix", dir);
	if (!fake_read(path, flake, sizeof(flake)))
		return die("getting status of the wrapper: No such file or directory");
	(void)snprintf(path, sizeof(path), "%s/spec.json", dir);
	(void)fake_read(path, spec, sizeof(spec));
	url = strstr(flake, "url = ");
	if (url != NULL && strstr(url, "evalfail") != NULL)
		return die("this guest is not for you");
	if (url != NULL && strstr(url, "fewcpus") != NULL && number(spec, "\"vcpu\":", 1) > 2)
		return die("this guest has no use for so many CPUs");
	if (url != NULL && strstr(url, "noattr") != NULL)
		return die("attribute 'demo' missing\n\n  7|  system = base.nixosConfigurations");
	if (write_lock(dir, url != NULL && strstr(url, "inputs") != NULL) != 0)
		return 1;
	fake_store(url, store, sizeof(store));
	(void)printf("{\"vcpu\":%lu,\"mem\":%lu,\"hypervisor\":\"%s\",\"runner\":\"%s\","
	             "\"volumes\":[%s],\"shares\":[],\"devices\":[],\"interfaces\":[]}\n",
	             number(spec, "\"vcpu\":", 1), number(spec, "\"mem\":", 64),
	             url != NULL && strstr(url, "crosvm") != NULL ? "crosvm" : "qemu", store,
	             url != NULL && strstr(url, "volume") != NULL ? "{\"image\":\"data.img\"}"
	                                                          : "");
	return 0;
}

int main(int argc, char **argv)
{
	fake_log(argc, argv);
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return puts("nix (Nix) 2.8.0") < 0;
	if (argc >= 5 && argc <= 6 && strcmp(argv[1], "flake") == 0 &&
	    strcmp(argv[2], "metadata") == 0 && (argc == 5 || strcmp(argv[4], "--refresh") == 0))
		return metadata(argv[argc - 1]);
	if (argc == 6 && strcmp(argv[1], "eval") == 0 && strncmp(argv[3], "path:", 5) == 0)
		return evaluate(argv[3]);
	return die("fake nix: not a command that blix may use");
}
