/* Directories made or mended offline: see consensus_recover and consensus_seed.
 *
 * Happy path of both: a consensus with a loop of its own takes the directory's lock and is prepared
 * as for a start, but never started -> libraft's own functions write the configuration, or raft_uv
 * the snapshot -> the bound is written -> all is closed again.
 *
 * Failure: the directory has what it had, or, when it was cut short, a recovery may be done again,
 * and a directory that was to be seeded is to be removed.
 */
#include "raft/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/file.h"

#include <inttypes.h>
#include <sys/statvfs.h>

#define SEED_STALL_MS 60000

struct seed {
	struct raft_io_snapshot_put put;
	struct raft_snapshot snapshot;
	struct raft_buffer bufs[2];
	uint8_t header[MACHINE_SNAPSHOT_HEADER];
	char *body;
	uv_timer_t stall;
	bool done;
	bool stalled;
	int status;
};

struct offline {
	uv_loop_t loop;
	struct consensus *c;
	bool found; /* a bound */
	bool closed;
	struct seed seed; /* raft_uv's until all is closed */
};

static int offline_open(struct offline *o, const struct consensus_config *config,
                        struct blix_error *err)
{
	cleanup(freep) char *address = xstrdup(config->address);
	char name[] = "";
	struct consensus_member self = {.id = config->id, .name = name, .address = address};
	struct consensus_config own = {
		.loop = &o->loop,
		.dir = config->dir,
		.cluster = config->cluster,
		.id = config->id,
		.incarnation = config->incarnation,
		.members = &self,
		.n_members = 1,
	};
	int rc;

	(void)uv_loop_init(&o->loop);
	rc = consensus_open(&own, &o->c, err);
	if (rc < 0)
		return rc;
	o->c->starting = true;
	return consensus_prepare(o->c, true, &o->found, err);
}

static void on_closed(void *data)
{
	*(bool *)data = true;
}

static void offline_close(struct offline *o)
{
	if (o->c != NULL)
		consensus_close(o->c, on_closed, &o->closed);
	(void)uv_run(&o->loop, UV_RUN_DEFAULT);
	(void)uv_loop_close(&o->loop);
	raft_configuration_close(&o->seed.snapshot.configuration);
	free(o->seed.body);
}

static int write_bound(struct consensus *c, uint64_t index, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/bound", c->dir);
	const struct bound_identity identity = consensus_identity(c);

	return bound_write(path, &identity, index, err);
}

static int recover(struct consensus *c, uint64_t *ret_index, struct blix_error *err)
{
	struct raft_configuration configuration;
	uint64_t last = 0;
	int rc = disk_check(c, &last);

	if (rc != 0)
		return consensus_failed(c, rc, "load", err);
	if (last == 0)
		return blix_fail(err, BLIX_E_NOTFOUND, "raft log in %s is empty", c->dir);
	raft_configuration_init(&configuration);
	rc = raft_configuration_add(&configuration, c->config.id, c->members[0].address,
	                            RAFT_VOTER);
	if (rc == 0)
		rc = raft_recover(&c->raft, &configuration);
	raft_configuration_close(&configuration);
	if (rc == 0)
		rc = disk_check(c, &last);
	if (rc != 0)
		return consensus_failed(c, rc, "recover", err);
	*ret_index = last;
	return write_bound(c, last, err);
}

int consensus_recover(const struct consensus_config *config, uint64_t *ret_index,
                      struct blix_error *err)
{
	struct offline o = {.c = NULL};
	int rc = offline_open(&o, config, err);

	if (rc == 0)
		rc = recover(o.c, ret_index, err);
	offline_close(&o);
	return rc;
}

static void on_seeded(struct raft_io_snapshot_put *put, int status)
{
	struct seed *seed = put->data;

	seed->done = true;
	seed->status = status;
}

static void on_stall(uv_timer_t *timer)
{
	struct seed *seed = timer->data;

	seed->stalled = true;
}

/* raft_uv tries again for ever where there is no room, so that is asked first. */
static int check_room(const char *dir, size_t n, struct blix_error *err)
{
	struct statvfs fs;

	if (statvfs(dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize >= n + LIMIT_LOG_ROOM)
		return 0;
	return blix_fail(err, BLIX_E_DISKFULL, "no room in %s for a snapshot of %zu bytes", dir, n);
}

static int put_seed(struct consensus *c, struct seed *seed, struct blix_error *err)
{
	uv_loop_t *loop = c->config.loop;
	int rc = c->inner.set_term(&c->io, 1);

	if (rc == 0)
		rc = c->inner.snapshot_put(&c->io, 0, &seed->put, &seed->snapshot, on_seeded);
	if (rc != 0)
		return consensus_failed(c, rc, "seed", err);
	(void)uv_timer_init(loop, &seed->stall);
	seed->stall.data = seed;
	(void)uv_timer_start(&seed->stall, on_stall, SEED_STALL_MS, 0);
	while (!seed->done && !seed->stalled)
		(void)uv_run(loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&seed->stall, NULL);
	(void)uv_run(loop, UV_RUN_NOWAIT);
	if (seed->done && seed->status == 0)
		return 0;
	return blix_fail(err, BLIX_E_IO, "store snapshot in %s: %s", c->dir,
	                 seed->done ? raft_strerror(seed->status) : "not done in time");
}

static int seed(struct offline *o, const void *bytes, size_t n, uint64_t index,
                struct blix_error *err)
{
	struct consensus *c = o->c;
	struct seed *seed = &o->seed;
	size_t padded = (n + 7) & ~(size_t)7;
	int rc = check_room(c->dir, n, err);

	if (rc < 0)
		return rc;
	seed->body = xcalloc(1, padded + 8);
	memcpy(seed->body, bytes, n);
	machine_snapshot_seal(seed->header, index, seed->body, n);
	seed->bufs[0] = (struct raft_buffer){.base = seed->header, .len = sizeof(seed->header)};
	seed->bufs[1] = (struct raft_buffer){.base = seed->body, .len = padded};
	seed->put.data = seed;
	seed->snapshot.index = index;
	seed->snapshot.term = 1;
	seed->snapshot.configuration_index = index;
	seed->snapshot.bufs = seed->bufs;
	seed->snapshot.n_bufs = 2;
	if (raft_configuration_add(&seed->snapshot.configuration, c->config.id,
	                           c->members[0].address, RAFT_VOTER) != 0)
		abort();
	rc = put_seed(c, seed, err);
	return rc < 0 ? rc : write_bound(c, index, err);
}

int consensus_seed(const struct consensus_config *config, const void *bytes, size_t n,
                   uint64_t index, struct blix_error *err)
{
	struct offline o = {.c = NULL};
	uint64_t last = 0;
	int rc = n > LIMIT_SNAPSHOT ? blix_fail(err, BLIX_E_TOOBIG, "snapshot of %zu bytes", n) : 0;

	if (rc < 0)
		return rc;
	rc = offline_open(&o, config, err);
	if (rc == 0 && (o.found || disk_check(o.c, &last) != 0 || last != 0))
		rc = blix_fail(err, BLIX_E_EXISTS, "%s has a log already", config->dir);
	if (rc == 0)
		rc = seed(&o, bytes, n, index, err);
	offline_close(&o);
	return rc;
}
