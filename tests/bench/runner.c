/* A runner that notes when it began, for time_creates: the file `started` of its working directory
 * holds the monotonic clock in nanoseconds. It ends on SIGTERM. */
#include "stopwatch.h"

#include <inttypes.h>
#include <signal.h>

int main(void)
{
	uint64_t now = now_ns();
	FILE *out = fopen("started", "we");
	sigset_t set;
	int got = 0;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	if (out == NULL || fprintf(out, "%" PRIu64 "\n", now) < 0 || fclose(out) != 0)
		return 1;
	(void)sigwait(&set, &got);
	return 0;
}
