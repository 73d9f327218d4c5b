/* The bound file: see bound.h. 104 bytes, little endian: magic, version, flags (0), id,
 * incarnation, index, cluster (64, zeros behind it), XXH64 of all that. No bit is without a
 * meaning, so that none can turn unseen. */
#include "raft/bound.h"

#include "base/alloc.h"
#include "raft/bytes.h"
#include "sys/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <xxhash.h>

#define BOUND_MAGIC   0x42584c42u /* "BLXB" */
#define BOUND_VERSION 1
#define BOUND_CLUSTER 64u
#define BOUND_HASHED  96u
#define BOUND_SIZE    104u

static void encode(const struct bound_identity *identity, uint64_t index, uint8_t *out)
{
	size_t n = strlen(identity->cluster);

	assert(n <= BOUND_CLUSTER);
	memset(out, 0, BOUND_SIZE);
	put_u32(out, BOUND_MAGIC);
	put_u16(out + 4, BOUND_VERSION);
	put_u64(out + 8, identity->id);
	put_u64(out + 16, identity->incarnation);
	put_u64(out + 24, index);
	memcpy(out + 32, identity->cluster, n);
	put_u64(out + BOUND_HASHED, XXH64(out, BOUND_HASHED, 0));
}

static int damaged(const char *path, const char *why, struct blix_error *err)
{
	(void)blix_fail(err, BLIX_E_CORRUPT, "%s %s", path, why);
	blix_reason(err, "bound-damaged");
	blix_hint(err, "this server cannot tell whether its log is whole: remove it from the "
	               "cluster and let it join again, as a new one");
	return -BLIX_E_CORRUPT;
}

static int check_identity(const char *path, const uint8_t *in,
                          const struct bound_identity *identity, bool any_incarnation,
                          struct blix_error *err)
{
	uint8_t expected[BOUND_SIZE];
	uint64_t id = get_u64(in + 8);
	uint64_t incarnation = get_u64(in + 16);

	encode(identity, 0, expected);
	if (memcmp(in + 32, expected + 32, BOUND_CLUSTER) == 0 && id == identity->id &&
	    (incarnation == identity->incarnation ||
	     (any_incarnation && incarnation < identity->incarnation)))
		return 0;
	(void)blix_fail(err, BLIX_E_REFUSED,
	                "%s is of server %" PRIu64 ", cluster %.64s, incarnation %" PRIu64
	                "; this is server %" PRIu64 ", cluster %s, incarnation %" PRIu64,
	                path, id, (const char *)in + 32, incarnation, identity->id,
	                identity->cluster, identity->incarnation);
	blix_reason(err, "other-log");
	return -BLIX_E_REFUSED;
}

int bound_read(const char *path, const struct bound_identity *identity, bool any_incarnation,
               bool *ret_found, uint64_t *ret_index, struct blix_error *err)
{
	struct buf bytes;
	const uint8_t *in;
	int rc;

	*ret_found = false;
	*ret_index = 0;
	if (!file_exists(path))
		return 0;
	buf_init(&bytes, BOUND_SIZE);
	rc = file_read(path, &bytes, err);
	in = (const uint8_t *)bytes.data;
	if (rc == -BLIX_E_TOOBIG || (rc == 0 && bytes.len != BOUND_SIZE))
		rc = damaged(path, "has not the length of a bound", err);
	else if (rc == 0 && get_u64(in + BOUND_HASHED) != XXH64(in, BOUND_HASHED, 0))
		rc = damaged(path, "fails its checksum", err);
	else if (rc == 0 && (get_u32(in) != BOUND_MAGIC || get_u16(in + 4) != BOUND_VERSION ||
	                     get_u16(in + 6) != 0))
		rc = damaged(path, "has another form: a newer blixd wrote it", err);
	else if (rc == 0)
		rc = check_identity(path, in, identity, any_incarnation, err);
	if (rc == 0) {
		*ret_found = true;
		*ret_index = get_u64(in + 24);
	}
	buf_done(&bytes);
	return rc;
}

int bound_write(const char *path, const struct bound_identity *identity, uint64_t index,
                struct blix_error *err)
{
	uint8_t bytes[BOUND_SIZE];

	encode(identity, index, bytes);
	return file_write(path, bytes, sizeof(bytes), 0600, err);
}

int bound_open(struct bound *b, const char *path, const struct bound_identity *identity,
               uint64_t index, struct blix_error *err)
{
	int rc = 0;

	if (!file_exists(path))
		rc = bound_write(path, identity, index, err);
	if (rc < 0)
		return rc;
	b->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (b->fd < 0)
		return blix_fail_sys(err, errno, "open %s", path);
	(void)pthread_mutex_init(&b->lock, NULL);
	b->identity = *identity;
	b->index = index;
	b->stored = index;
	b->synced = true;
	return 0;
}

void bound_done(struct bound *b)
{
	if (b->fd < 0)
		return;
	(void)close(b->fd);
	(void)pthread_mutex_destroy(&b->lock);
	b->fd = -1;
}

void bound_note(struct bound *b, uint64_t index)
{
	if (b->fd < 0)
		return;
	(void)pthread_mutex_lock(&b->lock);
	b->index = index;
	(void)pthread_mutex_unlock(&b->lock);
}

static int failed(const char *what, struct blix_error *err)
{
	return blix_fail_sys(err, errno, "%s the log's bound", what);
}

/* With the lock held. */
static int write_index(struct bound *b, struct blix_error *err)
{
	uint8_t bytes[BOUND_SIZE];
	ssize_t n;

	if (b->index == b->stored)
		return 0;
	encode(&b->identity, b->index, bytes);
	n = pwrite(b->fd, bytes, sizeof(bytes), 0);
	if (n < 0)
		return failed("write", err);
	if (n != (ssize_t)sizeof(bytes))
		return blix_fail(err, BLIX_E_DISKFULL, "write the log's bound: cut short");
	b->stored = b->index;
	b->synced = false;
	return 0;
}

int bound_store(struct bound *b, bool sync, struct blix_error *err)
{
	bool dirty;
	int rc;

	if (b->fd < 0)
		return 0;
	(void)pthread_mutex_lock(&b->lock);
	rc = write_index(b, err);
	dirty = sync && !b->synced;
	b->synced = b->synced || dirty;
	(void)pthread_mutex_unlock(&b->lock);
	if (rc == -BLIX_E_DISKFULL)
		return 0;
	if (rc == 0 && dirty && fdatasync(b->fd) < 0)
		return failed("sync", err);
	return rc;
}

int bound_lower(struct bound *b, uint64_t index, struct blix_error *err)
{
	int rc = 0;

	if (b->fd < 0)
		return 0;
	(void)pthread_mutex_lock(&b->lock);
	if (index < b->index)
		b->index = index;
	if (b->index < b->stored) {
		rc = write_index(b, err);
		if (rc == 0 && fdatasync(b->fd) < 0)
			rc = failed("sync", err);
		b->synced = b->synced || rc == 0;
	}
	(void)pthread_mutex_unlock(&b->lock);
	return rc;
}
