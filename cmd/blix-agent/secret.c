/* secret: one value from the host into a file that is in memory and root's alone. The directory is
 * made when the first one comes; where it would lie on a disk, a tmpfs is mounted over it. */
#include "agent.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <ctype.h>
#include <errno.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define MODE_FILE      0400
#define MODE_DIRECTORY 0700

struct secret {
	char name[LIMIT_SECRET_NAME + 1];
	struct buf value;
};

/* The host checks names, too; a guest does not rely on it. */
static bool is_name(const char *name)
{
	size_t n = strnlen(name, LIMIT_SECRET_NAME + 1);

	if (n == 0 || n > LIMIT_SECRET_NAME || name[0] == '.' ||
	    (n >= 4 && strcmp(name + n - 4, ".tmp") == 0)) /* file_put() writes by way of it */
		return false;
	for (size_t i = 0; i < n; i++) {
		if (isalnum((unsigned char)name[i]) == 0 && strchr("._-", name[i]) == NULL)
			return false;
	}
	return true;
}

static bool in_memory(const char *dir)
{
	struct statfs fs;

	return statfs(dir, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

static int directory_make(const struct agent *a, struct blix_error *err)
{
	const char *dir = a->secrets != NULL ? a->secrets : SECRETS_DIRECTORY;
	int rc = file_make_dirs(dir, MODE_DIRECTORY, err);

	if (rc < 0 || a->secrets != NULL || in_memory(dir))
		return rc;
	if (mount("blix-secrets", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") < 0)
		return blix_fail_sys(err, errno, "%s is on a disk: mount a tmpfs there", dir);
	return 0;
}

static int secret_open(struct stream *s, json_t *request, struct blix_error *err)
{
	const char *kind;
	const char *name = "";
	struct secret *secret;

	if (json_unpack(request, "{s:s, s:s !}", "kind", &kind, "name", &name) < 0 ||
	    !is_name(name))
		return blix_fail(err, BLIX_E_INVALID, "a secret needs a name that can be a file's");
	secret = xcalloc(1, sizeof(*secret));
	memcpy(secret->name, name, strlen(name));
	buf_init(&secret->value, LIMIT_SECRET);
	s->data = secret;
	s->idle = true;
	stream_opened(s, json_object());
	return 0;
}

static int secret_keep(const struct agent *a, const struct secret *secret, struct blix_error *err)
{
	const char *dir = a->secrets != NULL ? a->secrets : SECRETS_DIRECTORY;
	cleanup(freep) char *path = xasprintf("%s/%s", dir, secret->name);
	int rc = directory_make(a, err);

	if (rc == 0 && buf_failed(&secret->value))
		rc = blix_fail(err, BLIX_E_TOOBIG, "a secret is at most %u bytes", LIMIT_SECRET);
	return rc < 0 ? rc : file_put(path, secret->value.data, secret->value.len, MODE_FILE, err);
}

static void secret_frame(struct stream *s, const struct frame *f)
{
	struct secret *secret = s->data;
	struct blix_error err;

	if (f->type == FRAME_STDIN) {
		(void)buf_add(&secret->value, f->data, f->len);
		stream_consumed(s, f->len);
	} else if (f->type == FRAME_EOF) {
		if (secret_keep(s->agent, secret, &err) < 0)
			stream_error(s, &err);
		else
			stream_exit(s, json_pack("{s:i}", "exitCode", 0));
	}
}

static void secret_free(struct stream *s)
{
	struct secret *secret = s->data;

	if (secret == NULL)
		return;
	if (secret->value.data != NULL)
		explicit_bzero(secret->value.data, secret->value.size);
	buf_done(&secret->value);
	free(secret);
}

const struct stream_kind secret_kind = {
	.name = "secret",
	.open = secret_open,
	.frame = secret_frame,
	.hangup = stream_end,
	.free = secret_free,
};
