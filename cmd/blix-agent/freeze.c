/* freeze: all filesystems on disks stand still while the stream is open, but never longer than its
 * timeout. The list of what is frozen is kept under the run directory, so that an agent that starts
 * after one that was killed thaws what that one left. */
#include "agent.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <mntent.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define MOUNTS 256

struct freeze {
	int fds[MOUNTS]; /* of the frozen ones */
	unsigned n;
	json_t *mounts;
};

static char *list_path(const struct agent *a)
{
	return xasprintf("%s/frozen", a->run);
}

static unsigned thaw(struct freeze *f)
{
	unsigned thawed = 0;

	while (f->n > 0) {
		int fd = f->fds[--f->n];

		if (ioctl(fd, FITHAW, 0) == 0)
			thawed++;
		(void)close(fd);
	}
	return thawed;
}

static bool is_disk(const struct mntent *m)
{
	return strncmp(m->mnt_fsname, "/dev/", 5) == 0 && hasmntopt(m, "ro") == NULL;
}

/* A device may be mounted in several places; freezing it twice is EBUSY, and means nothing. */
static int freeze_one(struct freeze *f, const char *dir, struct blix_error *err)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? 0 : blix_fail_sys(err, errno, "freeze %s", dir);
	if (ioctl(fd, FIFREEZE, 0) < 0) {
		int sys = errno;

		(void)close(fd);
		if (sys == EBUSY || sys == EOPNOTSUPP)
			return 0;
		return blix_fail_sys(err, sys, "freeze %s", dir);
	}
	f->fds[f->n++] = fd;
	(void)json_array_append_new(f->mounts, json_string(dir));
	return 0;
}

/* Last mounted first: what lies on another filesystem stands before that does. */
static int freeze_all(struct freeze *f, struct agent *a, struct blix_error *err)
{
	cleanup(freep) char *list = list_path(a);
	char *dirs[MOUNTS];
	FILE *file = setmntent("/proc/self/mounts", "re");
	FILE *out = fopen(list, "we");
	const struct mntent *m;
	unsigned n = 0;
	int rc = 0;

	while (file != NULL && n < MOUNTS && (m = getmntent(file)) != NULL) {
		if (is_disk(m))
			dirs[n++] = xstrdup(m->mnt_dir);
	}
	if (file != NULL)
		(void)endmntent(file);
	for (unsigned i = 0; out != NULL && i < n; i++)
		(void)fprintf(out, "%s\n", dirs[i]);
	if (out == NULL || fclose(out) != 0)
		rc = blix_fail_sys(err, errno, "%s", list);
	while (n > 0) {
		if (rc == 0)
			rc = freeze_one(f, dirs[n - 1], err);
		free(dirs[--n]);
	}
	return rc;
}

static int freeze_open(struct stream *s, json_t *request, struct blix_error *err)
{
	const char *kind;
	int timeout_ms = 0;
	struct freeze *f;
	int rc;

	if (json_unpack(request, "{s:s, s:i !}", "kind", &kind, "timeoutMs", &timeout_ms) < 0 ||
	    timeout_ms < 1 || timeout_ms > FREEZE_MOST_MS)
		return blix_fail(err, BLIX_E_INVALID, "freeze needs timeoutMs from 1 to %u",
		                 FREEZE_MOST_MS);
	f = xcalloc(1, sizeof(*f));
	f->mounts = json_array();
	s->data = f;
	rc = freeze_all(f, s->agent, err);
	if (rc < 0)
		return rc;
	s->idle = true;
	s->deadline_ms = now_ms() + (uint64_t)timeout_ms;
	stream_opened(s, json_pack("{s:O}", "mounts", f->mounts));
	return 0;
}

static void freeze_end(struct stream *s, const char *reason)
{
	stream_exit(s, json_pack("{s:i, s:s}", "thawed", (int)thaw(s->data), "reason", reason));
}

static void freeze_frame(struct stream *s, const struct frame *f)
{
	if (f->type == FRAME_EOF)
		freeze_end(s, "asked");
	else if (f->type == FRAME_STDIN)
		stream_consumed(s, f->len);
}

static void freeze_work(struct stream *s, const struct pollfd *fds, unsigned n)
{
	(void)fds;
	(void)n;
	if (now_ms() >= s->deadline_ms)
		freeze_end(s, "timeout");
}

static void freeze_hangup(struct stream *s)
{
	freeze_end(s, "hangup");
}

static void freeze_free(struct stream *s)
{
	cleanup(freep) char *list = list_path(s->agent);
	struct freeze *f = s->data;

	if (f == NULL)
		return;
	(void)thaw(f);
	(void)unlink(list);
	json_decref(f->mounts);
	free(f);
}

void freeze_recover(struct agent *a)
{
	cleanup(freep) char *list = list_path(a);
	cleanup(buf_done) struct buf text;
	char *line;
	char *rest;

	buf_init(&text, 1 << 20);
	if (file_read(list, &text, NULL) < 0 || text.data == NULL)
		return;
	rest = text.data;
	while ((line = strsep(&rest, "\n")) != NULL) {
		cleanup(closep) int fd = open(line, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd >= 0)
			(void)ioctl(fd, FITHAW, 0);
	}
	(void)unlink(list);
}

const struct stream_kind freeze_kind = {
	.name = "freeze",
	.open = freeze_open,
	.frame = freeze_frame,
	.work = freeze_work,
	.hangup = freeze_hangup,
	.free = freeze_free,
};
