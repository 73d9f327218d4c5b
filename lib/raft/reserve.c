/* The reserve: see reserve.h. */
#include "raft/reserve.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>

static int look(struct reserve *r, struct blix_error *err)
{
	struct statvfs fs;

	if (statvfs(r->dir, &fs) < 0)
		return blix_fail_sys(err, errno, "ask how much is free in %s", r->dir);
	r->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	return 0;
}

static int give_back(struct reserve *r, struct blix_error *err)
{
	r->is_short = true;
	if (unlink(r->path) < 0 && errno != ENOENT)
		return blix_fail_sys(err, errno, "remove %s", r->path);
	return 0;
}

/* Taken twice it is taken once: what is allocated stays. */
static int take_space(struct reserve *r, struct blix_error *err)
{
	cleanup(closep) int fd = open(r->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 && errno != ENOSPC && errno != EDQUOT)
		return blix_fail_sys(err, errno, "open %s", r->path);
	if (fd < 0 || (fallocate(fd, 0, 0, (off_t)r->size) < 0 && errno != EOPNOTSUPP)) {
		if (errno != ENOSPC && errno != EDQUOT && errno != EINTR)
			return blix_fail_sys(err, errno, "allocate %s", r->path);
		return give_back(r, err);
	}
	r->is_short = false;
	return look(r, err);
}

int reserve_open(struct reserve *r, const char *dir, uint64_t size, uint64_t need,
                 struct blix_error *err)
{
	int rc;

	r->dir = xstrdup(dir);
	r->path = xasprintf("%s/reserve", dir);
	r->size = size;
	r->need = need;
	rc = take_space(r, err);
	return rc < 0 || r->is_short ? rc : reserve_check(r, err);
}

void reserve_done(struct reserve *r)
{
	free(take(r->path));
	free(take(r->dir));
}

int reserve_check(struct reserve *r, struct blix_error *err)
{
	int rc = look(r, err);

	if (rc < 0)
		return rc;
	if (!r->is_short)
		return r->free_bytes < r->need ? give_back(r, err) : 0;
	return r->free_bytes >= r->need + r->size ? take_space(r, err) : 0;
}
