/* Open segments: see segment.h. A segment is 8 bytes of format and then batches: a checksum of the
 * header and one of the data, 4 bytes each; the header: a count of 8 bytes, then 16 of each entry,
 * the last 4 of them its length; the data. */
#include "raft/segment.h"

#include "base/alloc.h"
#include "raft/bytes.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <uv.h>

#define FORMAT      8u
#define CHECKSUMS   8u
#define COUNT       8u
#define ENTRY       16u
#define ENTRIES_MAX (8u << 20) / 32u /* beyond it libraft sees damage itself */

/* CRC-32, highest bit first, from 0, as libraft has it. Headers are short. */
static uint32_t crc_of(const uint8_t *p, size_t n)
{
	uint32_t crc = 0;

	for (; n > 0; n--, p++) {
		crc ^= (uint32_t)*p << 24;
		for (unsigned bit = 0; bit < 8; bit++)
			crc = (crc << 1) ^ ((crc >> 31) * 0x04c11db7u);
	}
	return crc;
}

struct segment {
	int fd;
	uint64_t size;
	uint64_t at; /* of the next batch */
};

enum batch { BATCH_GOOD, BATCH_END, BATCH_OUTSIDE, BATCH_UNREADABLE };

static bool read_at(const struct segment *s, void *to, size_t n, uint64_t at)
{
	return pread(s->fd, to, n, (off_t)at) == (ssize_t)n;
}

/* Moves on behind the batch when it is good. BATCH_END: libraft ends here by itself. */
static enum batch batch_walk(struct segment *s)
{
	cleanup(freep) uint8_t *header = NULL;
	uint8_t head[CHECKSUMS + COUNT];
	uint64_t count, length, data = 0;

	if (s->at == s->size)
		return BATCH_END;
	if (s->size - s->at < sizeof(head))
		return BATCH_OUTSIDE;
	if (!read_at(s, head, sizeof(head), s->at))
		return BATCH_UNREADABLE;
	count = get_u64(head + CHECKSUMS);
	if (count == 0 || count > ENTRIES_MAX)
		return BATCH_END;
	length = COUNT + count * ENTRY;
	if (length > s->size - s->at - CHECKSUMS)
		return BATCH_OUTSIDE;
	header = xcalloc(1, length);
	if (!read_at(s, header, length, s->at + CHECKSUMS))
		return BATCH_UNREADABLE;
	if (crc_of(header, length) != get_u32(head))
		return BATCH_END;
	for (uint64_t i = 0; i < count; i++)
		data += get_u32(header + COUNT + i * ENTRY + 12);
	if (data > s->size - s->at - CHECKSUMS - length)
		return BATCH_OUTSIDE;
	s->at += CHECKSUMS + length + data;
	return BATCH_GOOD;
}

static bool is_tail(const struct segment *s)
{
	uint64_t tail = 1;

	return s->size - s->at == sizeof(tail) && read_at(s, &tail, sizeof(tail), s->at) &&
	       tail == 0;
}

static int segment_check(const char *dir, const char *name, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	cleanup(closep) int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct segment s = {.fd = fd, .at = FORMAT};
	enum batch batch = BATCH_END;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return blix_fail_sys(err, errno, "open %s", path);
	s.size = (uint64_t)st.st_size;
	if (s.size >= FORMAT) {
		do
			batch = batch_walk(&s);
		while (batch == BATCH_GOOD);
	}
	if (batch == BATCH_UNREADABLE)
		return blix_fail_sys(err, errno, "read %s", path);
	if (batch != BATCH_OUTSIDE)
		return 0;
	if (!is_tail(&s))
		return blix_fail(err, BLIX_E_CORRUPT, "%s is damaged at byte %llu", path,
		                 (unsigned long long)s.at);
	if (ftruncate(fd, (off_t)s.at) < 0 || fsync(fd) < 0)
		return blix_fail_sys(err, errno, "cut %s", path);
	return 0;
}

int segments_check(const char *dir, struct blix_error *err)
{
	uv_dirent_t entry;
	uv_fs_t req;
	int rc = uv_fs_scandir(NULL, &req, dir, 0, NULL);

	if (rc < 0)
		return blix_fail_sys(err, -rc, "read %s", dir);
	rc = 0;
	while (rc == 0 && uv_fs_scandir_next(&req, &entry) == 0) {
		if (strncmp(entry.name, "open-", 5) == 0)
			rc = segment_check(dir, entry.name, err);
	}
	uv_fs_req_cleanup(&req);
	return rc;
}
