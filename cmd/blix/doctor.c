/* blix doctor: runs the daemon's program, which has the configuration and the probes, as
 * `blixd --doctor` in our place. It is looked for beside this program, then in the PATH. */
#include "cli.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

static char *beside(const char *place)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash == NULL)
		return xstrdup("");
	*slash = '\0';
	return xasprintf("%s/%sblixd", self, place);
}

int doctor_run(struct cli *cli)
{
	static const char *const places[] = {"", "../sbin/"};
	char name[] = "blixd", doctor[] = "--doctor", json[] = "--json", config[] = "--config";
	char endpoint[] = "--endpoint";
	char *argv[8] = {name, doctor};
	struct blix_error err;
	size_t n = 2;

	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL)
		argv[n++] = json;
	if (given(cli, OPTION_CONFIG)) {
		argv[n++] = config;
		argv[n++] = xstrdup(cli->arguments.values[OPTION_CONFIG]);
	}
	/* A configuration names its own socket. */
	if (!given(cli, OPTION_CONFIG) || given(cli, OPTION_ENDPOINT)) {
		argv[n++] = endpoint;
		argv[n++] = cli->settings.endpoints;
	}
	for (size_t i = 0; i < array_size(places); i++) {
		cleanup(freep) char *path = beside(places[i]);

		(void)execv(path, argv);
	}
	(void)execvp(name, argv);
	(void)blix_fail(&err, BLIX_E_NOTFOUND, "blixd is not installed here");
	blix_reason(&err, "blixd-missing");
	blix_hint(&err, "the doctor looks at the host that it runs on");
	return talk_error(cli, NULL, NULL, &err);
}
