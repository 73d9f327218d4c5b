/* time_runs N COMMAND...: runs COMMAND N times, one after the other, output thrown away, and prints
 * the milliseconds of each from spawn to exit. A run that fails ends it with exit code 1. */
#include "stopwatch.h"

#include <errno.h>

int main(int argc, char **argv)
{
	unsigned long n = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;

	if (n == 0) {
		(void)fprintf(stderr, "usage: time_runs N COMMAND...\n");
		return 64;
	}
	for (unsigned long i = 0; i < n; i++) {
		uint64_t begin = now_ns();
		int code = wait_exit(start_quiet(argv + 2, environ));

		if (code != 0) {
			(void)fprintf(stderr, "time_runs: %s ended with %d\n", argv[2], code);
			return 1;
		}
		(void)printf("%.4f\n", to_ms(now_ns() - begin));
	}
	return 0;
}
