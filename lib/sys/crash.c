/* The points of sys/crash.h. The log is written before the program dies, with one write() a line,
 * so that it is whole whatever else happens. Without the two variables a point costs two loads. */
#include "sys/crash.h"

#ifdef BLIX_CRASH_POINTS

#include "base/parse.h"
#include "sys/file.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static struct {
	pthread_once_t once;
	pthread_mutex_t mutex;
	uint64_t reached, at; /* at 0: never */
	int log;              /* -1: none */
} points = {.once = PTHREAD_ONCE_INIT, .mutex = PTHREAD_MUTEX_INITIALIZER, .log = -1};

static void points_open(void)
{
	const char *at = getenv("BLIX_CRASH_AT"), *log = getenv("BLIX_CRASH_LOG");

	if (at != NULL)
		(void)parse_u64(at, &points.at, NULL);
	if (log != NULL)
		points.log = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

void crash_point(const char *name)
{
	char line[128];
	int n;

	(void)pthread_once(&points.once, points_open);
	if (points.at == 0 && points.log < 0)
		return;
	(void)pthread_mutex_lock(&points.mutex);
	points.reached++;
	n = snprintf(line, sizeof(line), "%ju %s\n", (uintmax_t)points.reached, name);
	if (points.log >= 0 && n > 0 && (size_t)n < sizeof(line))
		(void)!write(points.log, line, (size_t)n);
	if (points.reached == points.at)
		(void)raise(SIGKILL);
	(void)pthread_mutex_unlock(&points.mutex);
}

#endif
