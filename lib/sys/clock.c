/* Clocks and identity bits of the running kernel: see clock.h. */
#include "sys/clock.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_us(clockid_t id)
{
	struct timespec t;

	if (clock_gettime(id, &t) < 0)
		abort();
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t clock_boot_us(void)
{
	return clock_us(CLOCK_BOOTTIME);
}

uint64_t clock_boot_ms(void)
{
	return clock_us(CLOCK_BOOTTIME) / 1000u;
}

uint64_t clock_wall_ms(void)
{
	return clock_us(CLOCK_REALTIME) / 1000u;
}

const char *clock_boot_id(void)
{
	static char id[37];

	if (id[0] == '\0') {
		int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			if (read(fd, id, 36) != 36)
				id[0] = '\0';
			(void)close(fd);
		}
	}
	return id;
}

uint64_t random_id(void)
{
	uint64_t id = 0;

	while (id == 0) {
		if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
			abort();
		id >>= 1;
	}
	return id;
}
