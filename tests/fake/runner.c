/* A runner without a hypervisor: says "fake: ready" and sleeps until SIGTERM, which it takes for a
 * clean end. Modes: exit0 and exit1 (ends at once), "end CODE WORDS" (says so and ends with CODE;
 * 137: by SIGKILL), stubborn (only SIGKILL ends it), silent (is never ready). */
#include "fake.h"

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

int main(void)
{
	char here[PATH_MAX] = "/";
	const char *mode;
	sigset_t set;
	int got = 0;

	if (getcwd(here, sizeof(here)) == NULL)
		return 1;
	mode = fake_mode(strrchr(here, '/') + 1);
	if (strcmp(mode, "exit0") == 0)
		return 0;
	if (strcmp(mode, "exit1") == 0) {
		(void)fprintf(stderr, "fake: cannot start\n");
		return 1;
	}
	if (strncmp(mode, "end ", 4) == 0)
		return end(mode + 4);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	if (strcmp(mode, "silent") != 0) {
		(void)printf("fake: ready\n");
		(void)fflush(stdout);
	}
	do {
		(void)sigwait(&set, &got);
	} while (strcmp(mode, "stubborn") == 0);
	return 0;
}
