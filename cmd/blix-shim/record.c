/* status.json says what runs and who it is; exit.json how it ended. Each is written beside and
 * renamed, so a reader sees a whole file or none. They are not flushed to the disk: both tell about
 * this boot only, and a power loss ends what they tell about. */
#include "shim.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "sys/clock.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define RECORD_MAX (64u << 10) /* a path of 4 KiB, each byte escaped, is 24 KiB */

static int record_write(int run, const char *name, const struct buf *text, struct blix_error *err)
{
	char tmp[32];
	cleanup(closep) int fd = -1;
	ssize_t n;

	(void)snprintf(tmp, sizeof(tmp), "%s.tmp", name);
	if (buf_failed(text))
		return blix_fail(err, BLIX_E_TOOBIG, "%s would be too large", name);
	(void)unlinkat(run, tmp, 0);
	fd = openat(run, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return blix_fail_sys(err, errno, "create %s", tmp);
	n = write(fd, text->data, text->len);
	crash_point("shim.record-written");
	if (n < 0 || (size_t)n != text->len || renameat(run, tmp, run, name) < 0) {
		int sys = n >= 0 && (size_t)n != text->len ? ENOSPC : errno;

		(void)unlinkat(run, tmp, 0);
		return blix_fail_sys(err, sys, "write %s", name);
	}
	return 0;
}

/* Bytes outside ASCII become '?': a reader refuses a file that is not UTF-8, and a file name need
 * not be. */
static void add_text(struct buf *b, const char *text)
{
	(void)buf_add(b, "\"", 1);
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f)
			(void)buf_printf(b, "\\u%04x", c);
		else
			(void)buf_add(b, c < 0x80 ? text : "?", 1);
	}
	(void)buf_add(b, "\"", 1);
}

int record_status(int run, const struct shim_options *options, const struct record *program,
                  struct blix_error *err)
{
	cleanup(buf_done) struct buf b;
	uint64_t shim_start;
	int rc = process_start_time(getpid(), &shim_start, err);

	if (rc < 0)
		return rc;
	buf_init(&b, RECORD_MAX);
	(void)buf_add_string(&b, "{\"uid\":");
	add_text(&b, options->uid);
	(void)buf_printf(&b,
	                 ",\"epoch\":%" PRIu64 ",\"shimPid\":%d,\"shimStartTime\":%" PRIu64
	                 ",\"pid\":%d,\"startTime\":%" PRIu64 ",\"bootId\":\"%s\""
	                 ",\"startedAt\":%" PRIu64 ",\"program\":",
	                 options->epoch, (int)getpid(), shim_start, (int)program->pid,
	                 program->start_time, clock_boot_id(), clock_wall_ms());
	add_text(&b, options->argv[0]);
	(void)buf_add_string(&b, program->cgroup != NULL ? ",\"cgroup\":" : ",\"cgroupError\":");
	add_text(&b, program->cgroup != NULL ? program->cgroup : program->cgroup_error);
	(void)buf_add_string(&b, "}\n");
	return record_write(run, "status.json", &b, err);
}

int record_exit(int run, bool signaled, int status, struct buf *ret, struct blix_error *err)
{
	(void)buf_printf(ret, "{\"%s\":%d,\"endedAt\":%" PRIu64 "}\n",
	                 signaled ? "signal" : "exitCode", status, clock_wall_ms());
	return record_write(run, "exit.json", ret, err);
}

/* The number after `key`. No string in the file can hold a key: its quotes are escaped. */
static bool find_number(const char *text, const char *key, uint64_t *ret)
{
	const char *p = strstr(text, key);
	uint64_t value = 0;

	if (p == NULL)
		return false;
	for (p += strlen(key); *p >= '0' && *p <= '9'; p++)
		value = value * 10 + (uint64_t)(*p - '0');
	*ret = value;
	return true;
}

bool record_orphan(int run, pid_t *ret_pid)
{
	static const char boot_key[] = "\"bootId\":\"";
	cleanup(buf_done) struct buf b;
	char boot_id[37];
	const char *boot;
	uint64_t pid, start_time;

	buf_init(&b, RECORD_MAX);
	if (file_read_at(run, "status.json", &b, NULL) < 0 || b.data == NULL)
		return false;
	boot = strstr(b.data, boot_key);
	if (boot == NULL || !find_number(b.data, "\"pid\":", &pid) ||
	    !find_number(b.data, "\"startTime\":", &start_time) || pid > INT32_MAX)
		return false;
	(void)snprintf(boot_id, sizeof(boot_id), "%s", boot + strlen(boot_key));
	if (!process_is((pid_t)pid, start_time, boot_id))
		return false;
	*ret_pid = (pid_t)pid;
	return true;
}

void record_clear(int run)
{
	(void)unlinkat(run, "status.json", 0);
	(void)unlinkat(run, "exit.json", 0);
}
