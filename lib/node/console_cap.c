/* The size of consoles that somebody appends to who knows no limit: systemd hands the hypervisor a
 * file opened for appending. Every few seconds a file that has half of LIMIT_CONSOLE is copied to
 * FILE.1 and cut to nothing; the writer goes on at its new end. What is written in between is
 * lost, and readers are told so: the halves say where they stand (sys/halves.h). While the daemon
 * is away, nothing is cut. */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/file.h"
#include "sys/halves.h"
#include "sys/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CAP_EVERY_MS 5000

static int copy(int from, int to)
{
	ssize_t n;

	do {
		n = copy_file_range(from, NULL, to, NULL, LIMIT_CONSOLE / 2, 0);
	} while (n > 0);
	return n < 0 ? -errno : 0;
}

int console_cut(const char *path, uint64_t half, struct blix_error *err)
{
	cleanup(freep) char *kept = xasprintf("%s.1", path);
	cleanup(freep) char *tmp = xasprintf("%s.1.fresh", path);
	cleanup(closep) int from = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	cleanup(closep) int to = -1;
	struct halves halves;
	struct stat st;

	if (from < 0 || fstat(from, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < half)
		return 0;
	halves_open(AT_FDCWD, path, &halves);
	halves_close(&halves);
	to = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
	/* On a full disk the old half is lost: the guest must not fill it further. */
	if (to >= 0)
		half_mark(to, halves.now.start, halves.now.run);
	if (to < 0 || copy(from, to) < 0 || rename(tmp, kept) < 0)
		(void)unlink(tmp);
	if (fstat(from, &st) < 0 || ftruncate(from, 0) < 0)
		return blix_fail_sys(err, errno, "cut %s", path);
	half_mark(from, halves.now.start + (uint64_t)st.st_size, halves.now.run);
	return 0;
}

static void on_cap(uv_timer_t *timer)
{
	struct node_executor *e = timer->data;

	for (size_t i = 0; i < e->n_locals; i++) {
		struct local *local = e->locals[i];
		cleanup(freep) char *own = NULL;
		cleanup(freep) char *path = NULL;
		struct blix_error err;

		if (!watch_exists(local))
			continue;
		own = host_own_dir(e, local->vm->name);
		path = xasprintf("%s/console.log", own);
		if (console_cut(path, LIMIT_CONSOLE / 2, &err) < 0)
			log_error(LOG_WARNING, "vm.console.failed", &err, "vm=%s", local->vm->name);
	}
}

void console_cap_start(struct node_executor *e)
{
	(void)uv_timer_init(e->config.loop, &e->cap);
	e->cap.data = e;
	if (e->supervisor->appends_console)
		(void)uv_timer_start(&e->cap, on_cap, CAP_EVERY_MS, CAP_EVERY_MS);
}
