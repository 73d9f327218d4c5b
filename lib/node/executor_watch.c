/* What tells of a running VM without asking: the end of its shim, by pidfd, and the ready line, by
 * inotify on the console's directory. Both cost nothing while nothing happens.
 *
 * The shim is watched rather than the runner, since it writes the exit status before it ends; when
 * it is not there (killed), the runner itself is.
 */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/process.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define READY_CONSOLE "console:"
#define READY_AGENT   "agent"

struct watch {
	uv_poll_t poll;
	struct node_executor *e;
	struct local *local;
	int fd;
	uint64_t pid; /* the runner's */
};

struct ready {
	uv_fs_event_t event;
	struct node_executor *e;
	struct local *local;
	int fd; /* of the console, -1 while there is none */
	char *path;
	char *text;  /* what the guest will print */
	char *carry; /* the end of what was read, shorter than text */
	size_t n_carry;
};

static void watch_closed(uv_handle_t *handle)
{
	struct watch *watch = handle->data;
	struct node_executor *e = watch->e;

	free(watch);
	node_executor_handle_closed(e);
}

static void watch_stop(struct local *local)
{
	struct watch *watch = local->watch;

	if (watch == NULL)
		return;
	local->watch = NULL;
	uv_close((uv_handle_t *)&watch->poll, watch_closed);
	(void)close(watch->fd);
}

static void on_process_end(uv_poll_t *poll, int status, int events)
{
	struct watch *watch = poll->data;
	struct local *local = watch->local;

	(void)status;
	(void)events;
	watch_stop(local);
	look_at(local);
}

static int open_process(const struct identity *who)
{
	int fd = -1;

	if (who->shim_pid != 0 &&
	    process_open((pid_t)who->shim_pid, who->shim_start_time, who->boot_id, &fd, NULL) == 0)
		return fd;
	if (process_open((pid_t)who->pid, who->start_time, who->boot_id, &fd, NULL) == 0)
		return fd;
	return -1;
}

static void watch_start(struct local *local)
{
	int fd = open_process(&local->identity);
	struct watch *watch;

	if (fd < 0) { /* it ended since it was seen */
		look_at(local);
		return;
	}
	watch = xcalloc(1, sizeof(*watch));
	watch->e = local->e;
	watch->local = local;
	watch->fd = fd;
	watch->pid = local->identity.pid;
	watch->poll.data = watch;
	if (uv_poll_init(local->e->config.loop, &watch->poll, fd) != 0)
		abort(); /* a pidfd can always be polled */
	local->e->handles++;
	(void)uv_poll_start(&watch->poll, UV_READABLE, on_process_end);
	local->watch = watch;
}

static void ready_closed(uv_handle_t *handle)
{
	struct ready *ready = handle->data;
	struct node_executor *e = ready->e;

	free(ready->path);
	free(ready->text);
	free(ready->carry);
	free(ready);
	node_executor_handle_closed(e);
}

static void ready_stop(struct local *local)
{
	struct ready *ready = local->ready;

	if (ready == NULL)
		return;
	local->ready = NULL;
	closep(&ready->fd);
	ready->fd = -1;
	uv_close((uv_handle_t *)&ready->event, ready_closed);
}

/* Searches across the borders of reads by keeping one byte less than the text. */
static bool ready_search(struct ready *ready, const char *data, size_t n)
{
	size_t length = strlen(ready->text), keep;
	cleanup(freep) char *all = xcalloc(1, ready->n_carry + n + 1);

	memcpy(all, ready->carry, ready->n_carry);
	memcpy(all + ready->n_carry, data, n);
	n += ready->n_carry;
	if (memmem(all, n, ready->text, length) != NULL)
		return true;
	keep = n < length - 1 ? n : length - 1;
	memcpy(ready->carry, all + n - keep, keep);
	ready->n_carry = keep;
	return false;
}

static bool ready_read(struct ready *ready)
{
	char data[16384];
	ssize_t n;

	if (ready->fd < 0)
		ready->fd = open(ready->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	while (ready->fd >= 0 && (n = read(ready->fd, data, sizeof(data))) > 0) {
		if (ready_search(ready, data, (size_t)n))
			return true;
	}
	return false;
}

/* The log was rotated: what was left in the old half is read, then the new one from its start. */
static bool ready_rotated(const struct ready *ready)
{
	struct stat open_st, path_st;

	return ready->fd >= 0 && fstat(ready->fd, &open_st) == 0 &&
	       stat(ready->path, &path_st) == 0 &&
	       (open_st.st_ino != path_st.st_ino || open_st.st_dev != path_st.st_dev);
}

static void ready_check(struct ready *ready)
{
	struct local *local = ready->local;
	bool found = ready_read(ready);
	uint64_t ms;

	if (!found && ready_rotated(ready)) {
		closep(&ready->fd);
		ready->fd = -1;
		found = ready_read(ready);
	}
	if (!found)
		return;
	ready_stop(local);
	ms = local->start_ms != 0 ? clock_boot_ms() - local->start_ms : 0;
	node_executor_event(local->e, &(struct executor_event){.kind = EXECUTOR_READY,
	                                                       .uid = local->uid,
	                                                       .ms = (uint32_t)ms});
}

static void on_console(uv_fs_event_t *event, const char *name, int events, int status)
{
	(void)name;
	(void)events;
	(void)status;
	ready_check(event->data);
}

static void ready_start(struct local *local)
{
	const char *text = local->vm->spec.ready;
	cleanup(freep) char *dir = host_own_dir(local->e, local->vm->name);
	struct ready *ready;

	if (strncmp(text, READY_CONSOLE, strlen(READY_CONSOLE)) != 0 ||
	    text[strlen(READY_CONSOLE)] == '\0')
		return;
	ready = xcalloc(1, sizeof(*ready));
	ready->e = local->e;
	ready->local = local;
	ready->fd = -1;
	ready->path = xasprintf("%s/console.log", dir);
	ready->text = xstrdup(text + strlen(READY_CONSOLE));
	ready->carry = xcalloc(1, strlen(ready->text));
	ready->event.data = ready;
	if (uv_fs_event_init(local->e->config.loop, &ready->event) != 0)
		abort();
	local->e->handles++;
	local->ready = ready;
	if (uv_fs_event_start(&ready->event, on_console, dir, 0) != 0)
		log_event(LOG_WARNING, "vm.ready.unwatched", "vm=%s path=%s", local->vm->name, dir);
	/* What was printed before the watch stood. */
	ready_check(ready);
}

void watch_follow(struct local *local, const struct sight *sight)
{
	local->identity = sight->identity;
	if (sight->seen.process != PROCESS_RUNNING) {
		watch_end(local);
		return;
	}
	if (local->watch != NULL && local->watch->pid == local->identity.pid)
		return;
	watch_end(local);
	watch_start(local);
	if (local->e->supervisor->seen != NULL)
		local->e->supervisor->seen(local);
	if (local->watch != NULL)
		guest_follow(local);
}

void watch_ready(struct local *local, bool adopted)
{
	if (local->watch == NULL || (adopted && local->vm->ready))
		return;
	if (strcmp(local->vm->spec.ready, READY_AGENT) == 0)
		guest_await_ready(local);
	else if (local->ready == NULL)
		ready_start(local);
}

void watch_end(struct local *local)
{
	usage_forget(local);
	watch_stop(local);
	ready_stop(local);
	guest_forget(local);
}

bool watch_exists(const struct local *local)
{
	return local->watch != NULL;
}
