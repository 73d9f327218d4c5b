/* lib/raft and its disk: what is damaged or was lost is found at the start, a full disk makes a
 * server read-only for as long as it lasts, the log stays small, and directories are made and
 * mended offline. */
#include "base/limits.h"
#include "raft/internal.h"
#include "raft_cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <raft.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static const struct bound_identity identity = {"one", 100, 0};

static char *path_of(const struct cluster *cl, size_t i, const char *name)
{
	return xasprintf("%s/raft%zu/%s", cl->dir, i, name);
}

static void copy_file(const char *from, const char *to, size_t n_max)
{
	struct blix_error err;
	struct buf bytes;

	buf_init(&bytes, 64u << 20);
	assert_int_equal(file_read(from, &bytes, &err), 0);
	assert_int_equal(
		file_put(to, bytes.data, bytes.len < n_max ? bytes.len : n_max, 0600, &err), 0);
	buf_done(&bytes);
}

/* Calls `each` for every file of server i's directory. */
static void each_file(const struct cluster *cl, size_t i,
                      void (*each)(void *data, const char *path, const char *name), void *data)
{
	cleanup(freep) char *dir = path_of(cl, i, "");
	DIR *d = opendir(dir);
	struct dirent *entry;

	assert_non_null(d);
	while ((entry = readdir(d)) != NULL) {
		cleanup(freep) char *path = path_of(cl, i, entry->d_name);

		if (entry->d_name[0] != '.')
			each(data, path, entry->d_name);
	}
	(void)closedir(d);
}

struct image {
	char *dir;
	size_t open_bytes; /* of open segments: the rest is zeros */
};

static void image_one(void *data, const char *path, const char *name)
{
	struct image *image = data;
	cleanup(freep) char *to = xasprintf("%s/%s", image->dir, name);

	if (strcmp(name, "lock") != 0 && strcmp(name, "reserve") != 0)
		copy_file(path, to, strncmp(name, "open-", 5) == 0 ? image->open_bytes : SIZE_MAX);
}

/* A copy of server i's directory as a crash now would leave it, less what is only allocated. */
static void image_take(struct image *image, struct cluster *cl, size_t i, size_t open_bytes)
{
	struct blix_error err;

	image->dir = xasprintf("%s/image", cl->dir);
	image->open_bytes = open_bytes;
	assert_int_equal(file_make_dirs(image->dir, 0700, &err), 0);
	each_file(cl, i, image_one, image);
}

/* In place of server i's directory. */
static void image_restore(const struct image *image, struct cluster *cl, size_t i)
{
	cleanup(freep) char *dir = path_of(cl, i, "");
	struct blix_error err;
	struct image back = {.dir = dir, .open_bytes = SIZE_MAX};
	DIR *d = opendir(image->dir);
	struct dirent *entry;

	assert_non_null(d);
	assert_int_equal(file_remove_tree(dir, &err), 0);
	assert_int_equal(file_make_dirs(dir, 0700, &err), 0);
	while ((entry = readdir(d)) != NULL) {
		cleanup(freep) char *path = xasprintf("%s/%s", image->dir, entry->d_name);

		if (entry->d_name[0] != '.')
			image_one(&back, path, entry->d_name);
	}
	(void)closedir(d);
}

static void image_done(struct image *image)
{
	struct blix_error err;

	assert_int_equal(file_remove_tree(image->dir, &err), 0);
	free(image->dir);
}

static void flip(const char *path, size_t bit)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
	byte ^= (uint8_t)(1u << bit % 8);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
	(void)close(fd);
}

static uint64_t bound_now(struct cluster *cl, size_t i)
{
	cleanup(freep) char *path = path_of(cl, i, "bound");
	const struct bound_identity own = {"one", cl->members[i].id, cl->incarnation};
	struct blix_error err;
	uint64_t index;
	bool found;

	if (bound_read(path, &own, false, &found, &index, &err) < 0)
		fail_msg("%s", err.text);
	return index;
}

static uint64_t last_index(struct server *s)
{
	struct consensus_status status;

	consensus_status(s->c, &status);
	return status.last_index;
}

static int start_fails(struct cluster *cl, size_t i, struct blix_error *err)
{
	int rc = server_start(cl, i, err);

	server_stop(cl, i);
	return rc;
}

/* Loads server i's directory as a start does, again and again, without the cost of one. */
struct loader {
	struct cluster *cl;
	struct server s;
};

static void loader_open(struct loader *l, struct cluster *cl, size_t i)
{
	cleanup(freep) char *dir = path_of(cl, i, "");
	struct consensus_config config = {
		.loop = &cl->loop,
		.dir = dir,
		.cluster = "one",
		.id = cl->members[i].id,
		.address = cl->members[i].address,
	};
	struct blix_error err;
	bool found;

	*l = (struct loader){.cl = cl};
	assert_int_equal(consensus_open(&config, &l->s.c, &err), 0);
	l->s.c->starting = true;
	assert_int_equal(consensus_prepare(l->s.c, false, &found, &err), 0);
	assert_true(found);
}

static bool load_fails(struct loader *l)
{
	uint64_t last;
	int rc = disk_check(l->s.c, &last);

	l->s.c->failed = false;
	return rc != 0;
}

static void loader_close(struct loader *l)
{
	consensus_close(l->s.c, on_closed, &l->s);
	wait_for(l->cl, l->s.closed);
}

static void bound_forms(void **state)
{
	char dir[] = "/tmp/bound.XXXXXX";
	struct bound_identity other = identity;
	struct blix_error err;
	struct bound b = {.fd = -1};
	uint64_t index;
	bool found;

	(void)state;
	assert_non_null(mkdtemp(dir));
	{
		cleanup(freep) char *path = xasprintf("%s/bound", dir);

		assert_int_equal(bound_read(path, &identity, false, &found, &index, &err), 0);
		assert_false(found);
		assert_int_equal(bound_open(&b, path, &identity, 5, &err), 0);
		bound_note(&b, 77);
		assert_int_equal(bound_read(path, &identity, false, &found, &index, &err), 0);
		assert_int_equal(index, 5);
		assert_int_equal(bound_store(&b, true, &err), 0);
		assert_int_equal(bound_lower(&b, 90, &err), 0);
		assert_int_equal(bound_read(path, &identity, false, &found, &index, &err), 0);
		assert_true(found);
		assert_int_equal(index, 77);
		assert_int_equal(bound_lower(&b, 70, &err), 0);
		bound_done(&b);
		assert_int_equal(bound_read(path, &identity, false, &found, &index, &err), 0);
		assert_int_equal(index, 70);
		for (size_t bit = 0; bit < 104u * 8; bit++) {
			flip(path, bit);
			assert_int_equal(bound_read(path, &identity, true, &found, &index, &err),
			                 -BLIX_E_CORRUPT);
			assert_string_equal(err.reason, "bound-damaged");
			flip(path, bit);
		}
		other.incarnation = 1;
		assert_int_equal(bound_read(path, &other, true, &found, &index, &err), 0);
		assert_int_equal(bound_read(path, &other, false, &found, &index, &err),
		                 -BLIX_E_REFUSED);
		assert_string_equal(err.reason, "other-log");
		other.id++;
		assert_int_equal(bound_read(path, &other, true, &found, &index, &err),
		                 -BLIX_E_REFUSED);
		other = (struct bound_identity){"ones", 100, 0};
		assert_int_equal(bound_read(path, &other, true, &found, &index, &err),
		                 -BLIX_E_REFUSED);
		for (off_t n = 0; n < 120; n += 8) {
			assert_int_equal(truncate(path, n), 0);
			if (n != 104)
				assert_int_equal(
					bound_read(path, &identity, false, &found, &index, &err),
					-BLIX_E_CORRUPT);
		}
	}
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

/* The bound follows the log while the server runs, and is exact once it is closed. */
static void bound_follows(void **state)
{
	struct cluster cl;
	uint64_t last;

	(void)state;
	cluster_start(&cl, 1, 0);
	for (uint64_t i = 0; i < 20; i++)
		propose_done(&cl, await_leader(&cl), i);
	last = last_index(&cl.server[0]);
	wait_for(&cl, bound_now(&cl, 0) == last);
	propose_done(&cl, await_leader(&cl), 20);
	server_stop(&cl, 0);
	assert_int_equal(bound_now(&cl, 0), last + 1);
	server_started(&cl, 0);
	cluster_done(&cl);
}

/* A directory put back from an older copy, as a careless restore would do it. */
static void older_log_refused(void **state)
{
	cleanup(freep) char *bound = NULL;
	cleanup(freep) char *kept = NULL;
	struct image image;
	struct blix_error err;
	struct cluster cl;

	(void)state;
	cluster_start(&cl, 1, 0);
	propose_done(&cl, await_leader(&cl), 1);
	server_stop(&cl, 0);
	image_take(&image, &cl, 0, SIZE_MAX);
	server_started(&cl, 0);
	propose_done(&cl, await_leader(&cl), 2);
	server_stop(&cl, 0);
	bound = path_of(&cl, 0, "bound");
	kept = xasprintf("%s/bound", cl.dir);
	copy_file(bound, kept, SIZE_MAX);
	image_restore(&image, &cl, 0);
	copy_file(kept, bound, SIZE_MAX);
	assert_int_equal(start_fails(&cl, 0, &err), -BLIX_E_CORRUPT);
	assert_string_equal(err.reason, "log-behind");
	/* And again: it does not go away by itself. */
	assert_int_equal(start_fails(&cl, 0, &err), -BLIX_E_CORRUPT);
	/* Another's directory. */
	cl.members[0].id = 4711;
	assert_int_equal(start_fails(&cl, 0, &err), -BLIX_E_REFUSED);
	assert_string_equal(err.reason, "other-log");
	image_done(&image);
	cluster_done(&cl);
}

static void find_open(void *data, const char *path, const char *name)
{
	struct buf bytes;
	struct blix_error err;
	char *found = data;

	if (strncmp(name, "open-", 5) != 0)
		return;
	buf_init(&bytes, 64u << 20);
	assert_int_equal(file_read(path, &bytes, &err), 0);
	if (bytes.len > 0 && bytes.data[0] != 0)
		(void)snprintf(found, 64, "%s", name);
	buf_done(&bytes);
}

/* Past the last byte that is not 0. */
static size_t used_bytes(const char *path)
{
	struct blix_error err;
	struct buf bytes;
	size_t n;

	buf_init(&bytes, 64u << 20);
	assert_int_equal(file_read(path, &bytes, &err), 0);
	for (n = bytes.len; n > 0 && bytes.data[n - 1] == 0; n--)
		;
	buf_done(&bytes);
	return n;
}

/* What libraft takes for a torn write and cuts off, the bound knows of. */
static void open_segment_flips(void **state)
{
	struct loader loader;
	struct image image;
	struct cluster cl;
	char name[64] = "";
	size_t n;
	uint64_t last;

	(void)state;
	cluster_start(&cl, 1, 0);
	for (uint64_t i = 0; i < 3; i++)
		propose_done(&cl, await_leader(&cl), UINT64_MAX - i);
	last = last_index(&cl.server[0]);
	wait_for(&cl, bound_now(&cl, 0) == last);
	each_file(&cl, 0, find_open, name);
	assert_string_not_equal(name, "");
	image_take(&image, &cl, 0, 4096);
	server_stop(&cl, 0);
	/* Undamaged it is good. */
	image_restore(&image, &cl, 0);
	server_started(&cl, 0);
	propose_done(&cl, await_leader(&cl), 3);
	assert_int_equal(cl.server[0].values.n, 4);
	server_stop(&cl, 0);
	image_restore(&image, &cl, 0);
	loader_open(&loader, &cl, 0);
	{
		cleanup(freep) char *whole = xasprintf("%s/%s", image.dir, name);
		cleanup(freep) char *path = path_of(&cl, 0, name);

		n = used_bytes(whole);
		assert_in_range(n, 100, 4096);
		for (size_t bit = 0; bit < n * 8; bit++) {
			image_restore(&image, &cl, 0);
			flip(path, bit);
			if (!load_fails(&loader))
				fail_msg("bit %zu is not noticed", bit);
		}
		/* Full but for eight bytes, as a crash at the wrong moment leaves it. */
		image_restore(&image, &cl, 0);
		n = (n + 7) / 8 * 8;
		assert_int_equal(truncate(path, (off_t)n + 8), 0);
		assert_false(load_fails(&loader));
	}
	loader_close(&loader);
	server_started(&cl, 0);
	propose_done(&cl, await_leader(&cl), 3);
	assert_int_equal(cl.server[0].values.n, 4);
	image_done(&image);
	cluster_done(&cl);
}

struct victims {
	struct loader loader;
	const char *prefix;
	size_t n_files;
};

static void flip_all(void *data, const char *path, const char *name)
{
	struct victims *victims = data;
	struct stat st;

	if (strncmp(name, victims->prefix, strlen(victims->prefix)) != 0)
		return;
	victims->n_files++;
	assert_int_equal(stat(path, &st), 0);
	for (size_t bit = 0; bit < (size_t)st.st_size * 8; bit++) {
		flip(path, bit);
		if (!load_fails(&victims->loader))
			fail_msg("%s: bit %zu is not noticed", name, bit);
		flip(path, bit);
	}
}

static void remove_older(void *data, const char *path, const char *name)
{
	const char *keep = data;

	if (strncmp(name, "snapshot-", 9) == 0 && strncmp(name, keep, strlen(keep)) != 0)
		assert_int_equal(unlink(path), 0);
}

static void newest(void *data, const char *path, const char *name)
{
	char *found = data;

	(void)path;
	if (strncmp(name, "snapshot-", 9) == 0 && strstr(name, ".meta") == NULL &&
	    (strlen(name) > strlen(found) ||
	     (strlen(name) == strlen(found) && strcmp(name, found) > 0)))
		(void)snprintf(found, 64, "%s", name);
}

/* Every bit of the newest snapshot, of what describes it, and of closed segments. */
static void snapshot_and_segment_flips(void **state)
{
	struct victims victims = {.prefix = "snapshot-"};
	struct cluster cl;
	char keep[64] = "";

	(void)state;
	cluster_start(&cl, 1, 10);
	for (uint64_t i = 0; i < 13; i++)
		propose_done(&cl, await_leader(&cl), i);
	wait_for(&cl, cl.server[0].c->snapshot.bufs == NULL);
	server_stop(&cl, 0);
	each_file(&cl, 0, newest, keep);
	each_file(&cl, 0, remove_older, keep);
	loader_open(&victims.loader, &cl, 0);
	each_file(&cl, 0, flip_all, &victims);
	assert_int_equal(victims.n_files, 2);
	victims.prefix = "0";
	each_file(&cl, 0, flip_all, &victims);
	assert_true(victims.n_files > 2);
	assert_false(load_fails(&victims.loader));
	loader_close(&victims.loader);
	server_started(&cl, 0);
	propose_done(&cl, await_leader(&cl), 13);
	assert_int_equal(cl.server[0].values.n, 14);
	cluster_done(&cl);
}

/* A damaged snapshot ends the one that has it, not those to whom it would have been sent. */
static void damage_is_not_sent(void **state)
{
	struct cluster cl;
	struct server *leader;
	size_t behind;
	char name[64] = "";

	(void)state;
	cluster_init(&cl, 3, 20);
	cl.election_timeout_ms = 1500; /* the leader stays, whatever else the machine does */
	for (size_t i = 0; i < 3; i++)
		server_started(&cl, i);
	leader = await_leader(&cl);
	propose_done(&cl, leader, 0);
	wait_for(&cl, agree(&cl, 1));
	behind = leader == &cl.server[0] ? 1 : 0;
	server_stop(&cl, behind);
	for (uint64_t i = 1; i < 100; i++)
		propose_done(&cl, leader, i);
	raft_set_snapshot_threshold(&leader->c->raft, 1000); /* no newer one */
	wait_for(&cl, leader->c->snapshot.bufs == NULL);
	each_file(&cl, (size_t)(leader - cl.server), newest, name);
	{
		cleanup(freep) char *path = path_of(&cl, (size_t)(leader - cl.server), name);

		flip(path, 40 * 8);
	}
	server_started(&cl, behind);
	wait_for(&cl, leader->n_fatal == 1);
	assert_int_equal(leader->fatal.code, BLIX_E_CORRUPT);
	server_stop(&cl, (size_t)(leader - cl.server));
	wait_for(&cl, agree(&cl, 100));
	assert_int_equal(cl.server[behind].n_fatal, 0);
	cluster_done(&cl);
}

/* A follower's tail that nobody acknowledged is cut by a new leader; its bound does not mind. */
static void cut_on_purpose(void **state)
{
	struct answer a[5] = {0};
	struct cluster cl;
	struct server *old;
	uint64_t last;
	size_t i_old;

	(void)state;
	cluster_start(&cl, 3, 0);
	old = await_leader(&cl);
	i_old = (size_t)(old - cl.server);
	propose_done(&cl, old, 0);
	wait_for(&cl, agree(&cl, 1));
	for (size_t i = 0; i < 3; i++) {
		if (i != i_old)
			server_stop(&cl, i);
	}
	for (size_t i = 0; i < array_size(a); i++) {
		propose(old, 100 + i, &a[i]);
		(void)uv_run(&cl.loop, UV_RUN_NOWAIT);
	}
	wait_for(&cl, answered(a, array_size(a)) == array_size(a));
	last = last_index(old);
	server_stop(&cl, i_old);
	assert_int_equal(bound_now(&cl, i_old), last);
	for (size_t i = 0; i < 3; i++) {
		if (i != i_old)
			server_started(&cl, i);
	}
	propose_done(&cl, await_leader(&cl), 1);
	server_started(&cl, i_old);
	wait_for(&cl, agree(&cl, 2));
	server_stop(&cl, i_old);
	server_started(&cl, i_old);
	propose_done(&cl, await_leader(&cl), 2);
	wait_for(&cl, agree(&cl, 3));
	cluster_done(&cl);
}

static void add_size(void *data, const char *path, const char *name)
{
	uint64_t *bytes = data;
	struct stat st;

	(void)name;
	if (stat(path, &st) == 0)
		*bytes += (uint64_t)st.st_blocks * 512;
}

static void add_snapshot(void *data, const char *path, const char *name)
{
	uint64_t *bytes = data;
	struct stat st;

	if (strncmp(name, "snapshot-", 9) == 0 && stat(path, &st) == 0 &&
	    (uint64_t)st.st_size > *bytes)
		*bytes = (uint64_t)st.st_size;
}

/* However big the commands: three snapshots and 64 MiB, the reserve among them. */
static void log_stays_small(void **state)
{
	static uint8_t bytes[256u << 10];
	struct answer a[16];
	struct cluster cl;
	uint64_t most = 0;

	(void)state;
	cluster_init(&cl, 1, 0);
	cl.reserve_bytes = 0;
	server_started(&cl, 0);
	(void)await_leader(&cl);
	for (unsigned round = 0; round < 50; round++) {
		uint64_t now = 0;
		uint64_t snapshot = 0;

		memset(a, 0, sizeof(a));
		for (size_t i = 0; i < array_size(a); i++)
			consensus_propose(cl.server[0].c, bytes, sizeof(bytes), on_answer, &a[i]);
		wait_for(&cl, answered(a, array_size(a)) == array_size(a));
		for (size_t i = 0; i < array_size(a); i++)
			assert_int_equal(a[i].status, 0);
		each_file(&cl, 0, add_size, &now);
		each_file(&cl, 0, add_snapshot, &snapshot);
		assert_true(now <= 3 * snapshot + (64u << 20));
		most = now > most ? now : most;
	}
	assert_true(most > 32u << 20); /* 200 MiB went through */
	assert_true(cl.server[0].n_snapshots > 10);
	cluster_done(&cl);
}

static void survivor_recovers(void **state)
{
	cleanup(freep) char *dir = NULL;
	struct consensus_config config = {.cluster = "one"};
	struct blix_error err;
	struct cluster cl;
	uint64_t last, index;

	(void)state;
	cluster_start(&cl, 3, 20);
	for (uint64_t i = 0; i < 50; i++)
		propose_done(&cl, await_leader(&cl), i);
	wait_for(&cl, agree(&cl, 50));
	last = last_index(&cl.server[1]);
	dir = path_of(&cl, 1, "");
	config.dir = dir;
	config.id = cl.members[1].id;
	config.address = cl.members[1].address;
	config.incarnation = 1;
	/* Not while it runs. */
	assert_int_equal(consensus_recover(&config, &index, &err), -BLIX_E_BUSY);
	for (size_t i = 0; i < 3; i++)
		server_stop(&cl, i);
	config.id = 4711;
	assert_int_equal(consensus_recover(&config, &index, &err), -BLIX_E_REFUSED);
	config.id = cl.members[1].id;
	if (consensus_recover(&config, &index, &err) < 0)
		fail_msg("recover: %s", err.text);
	assert_int_equal(index, last + 1);
	/* Of the old incarnation no server takes part any more. */
	assert_int_equal(start_fails(&cl, 1, &err), -BLIX_E_REFUSED);
	cl.incarnation = 1;
	server_started(&cl, 1);
	propose_done(&cl, await_leader(&cl), 50);
	assert_int_equal(cl.server[1].values.n, 51);
	assert_ptr_equal(leader_of(&cl), &cl.server[1]);
	server_stop(&cl, 1);
	server_started(&cl, 1);
	propose_done(&cl, await_leader(&cl), 51);
	assert_int_equal(cl.server[1].values.n, 52);
	for (uint64_t i = 0; i < 52; i++)
		assert_int_equal(cl.server[1].values.value[i], i);
	/* An empty directory has nothing to recover. */
	free(dir);
	dir = xasprintf("%s/empty", cl.dir);
	config.dir = dir;
	assert_int_equal(consensus_recover(&config, &index, &err), -BLIX_E_NOTFOUND);
	cluster_done(&cl);
}

static void seeded_directory(void **state)
{
	const uint64_t values[3] = {7, 8, 9};
	cleanup(freep) char *dir = NULL;
	struct consensus_config config = {.cluster = "one", .incarnation = 4};
	struct blix_error err;
	struct cluster cl;

	(void)state;
	cluster_init(&cl, 1, 20);
	cl.incarnation = 4;
	dir = path_of(&cl, 0, "");
	config.dir = dir;
	config.id = cl.members[0].id;
	config.address = cl.members[0].address;
	if (consensus_seed(&config, values, sizeof(values), 1000, &err) < 0)
		fail_msg("seed: %s", err.text);
	assert_int_equal(consensus_seed(&config, values, sizeof(values), 1000, &err),
	                 -BLIX_E_EXISTS);
	assert_int_equal(bound_now(&cl, 0), 1000);
	server_started(&cl, 0);
	assert_int_equal(cl.server[0].n_restores, 1);
	assert_int_equal(cl.server[0].index, 1000);
	for (uint64_t i = 0; i < 40; i++)
		propose_done(&cl, await_leader(&cl), i);
	assert_true(cl.server[0].index > 1000);
	server_stop(&cl, 0);
	server_started(&cl, 0);
	propose_done(&cl, await_leader(&cl), 40);
	assert_int_equal(cl.server[0].values.n, 44);
	assert_int_equal(cl.server[0].values.value[2], 9);
	assert_int_equal(cl.server[0].values.value[43], 40);
	cluster_done(&cl);
}

/* Mounts of this process are its own from here on, and thousands of starts need no fsync. */
static bool apart(void)
{
	uid_t uid = getuid();

	if (unshare(CLONE_NEWNS | (uid == 0 ? 0 : CLONE_NEWUSER)) < 0)
		return false;
	if (uid != 0) {
		cleanup(freep) char *map = xasprintf("0 %u 1\n", uid);
		int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);

		if (fd < 0 || write(fd, map, strlen(map)) < 0)
			return false;
		(void)close(fd);
	}
	return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("none", "/tmp", "tmpfs", 0, "size=400m") == 0;
}

/* Leaves `left` bytes free in `dir`. */
static void fill(const char *dir, uint64_t left)
{
	cleanup(freep) char *path = xasprintf("%s/balloon", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct statvfs fs;
	int rc;

	assert_true(fd >= 0);
	/* libraft allocates at the same time. */
	do {
		assert_int_equal(statvfs(dir, &fs), 0);
		assert_true((uint64_t)fs.f_bavail * fs.f_frsize > left);
		rc = fallocate(fd, 0, 0, (off_t)((uint64_t)fs.f_bavail * fs.f_frsize - left));
	} while (rc < 0 && errno == ENOSPC);
	assert_int_equal(rc, 0);
	(void)close(fd);
}

static void empty(const char *dir)
{
	cleanup(freep) char *path = xasprintf("%s/balloon", dir);

	assert_int_equal(unlink(path), 0);
}

static int propose_status(struct cluster *cl, struct server *s, uint64_t value)
{
	struct answer a = {0};

	propose(s, value, &a);
	wait_for(cl, a.n == 1);
	return a.status;
}

static void small_disk(struct cluster *cl, size_t i)
{
	cleanup(freep) char *dir = path_of(cl, i, "");
	struct blix_error err;

	assert_int_equal(file_make_dirs(dir, 0700, &err), 0);
	assert_int_equal(mount("none", dir, "tmpfs", 0, "size=60m,mode=700"), 0);
}

static void large_disk(struct cluster *cl, size_t i)
{
	cleanup(freep) char *dir = path_of(cl, i, "");

	assert_int_equal(umount(dir), 0);
}

/* Alone: read-only until there is room, then by itself again. */
static void full_disk_alone(void **state)
{
	cleanup(freep) char *dir = NULL;
	struct consensus_status status;
	struct answer read = {0};
	struct cluster cl;
	struct server *s;
	uint64_t since;

	(void)state;
	if (!*(bool *)*state)
		skip();
	cluster_init(&cl, 1, 0);
	small_disk(&cl, 0);
	dir = path_of(&cl, 0, "");
	server_started(&cl, 0);
	s = await_leader(&cl);
	propose_done(&cl, s, 1);
	fill(dir, 100000);
	wait_for(&cl, s->n_short == 1);
	assert_int_equal(propose_status(&cl, s, 2), -BLIX_E_DISKFULL);
	consensus_status(s->c, &status);
	assert_true(status.is_short);
	assert_int_equal(status.role, CONSENSUS_LEADER);
	/* What is read needs no room worth mentioning. */
	consensus_barrier(s->c, on_barrier, &read);
	wait_for(&cl, read.n == 1);
	assert_int_equal(read.status, 0);
	empty(dir);
	since = clock_boot_ms();
	wait_for(&cl, s->n_roomy == 1);
	assert_true(clock_boot_ms() - since < 10000);
	propose_done(&cl, s, 3);
	assert_int_equal(s->values.n, 2);
	assert_int_equal(s->n_fatal, 0);
	server_stop(&cl, 0);
	large_disk(&cl, 0);
	cluster_done(&cl);
}

/* Of three: the leader hands over before a write fails; as a follower it stalls when nothing is
 * left at all, and catches up when there is room. */
static void full_disk_of_the_leader(void **state)
{
	static uint8_t bytes[256u << 10];
	cleanup(freep) char *dir = NULL;
	struct answer a[100] = {0};
	struct cluster cl;
	struct server *full;
	size_t i_full, n;
	uint64_t since;

	if (!*(bool *)*state)
		skip();
	cluster_init(&cl, 3, 0);
	for (size_t i = 0; i < 3; i++) {
		small_disk(&cl, i);
		server_started(&cl, i);
	}
	full = await_leader(&cl);
	i_full = (size_t)(full - cl.server);
	propose_done(&cl, full, 1);
	dir = path_of(&cl, i_full, "");
	fill(dir, 100000);
	wait_for(&cl, leader_of(&cl) != NULL && leader_of(&cl) != full);
	assert_int_equal(full->n_short, 1);
	/* More than it has room for, one by one: the others go on. */
	for (n = 0; n < array_size(a); n++) {
		consensus_propose(await_leader(&cl)->c, bytes, sizeof(bytes), on_answer, &a[n]);
		wait_for(&cl, a[n].n == 1);
		assert_int_equal(a[n].status, 0);
	}
	assert_ptr_not_equal(leader_of(&cl), full);
	assert_true(full->values.n < n);
	empty(dir);
	since = clock_boot_ms();
	wait_for(&cl, full->n_roomy == 1);
	assert_true(clock_boot_ms() - since < 10000);
	wait_for(&cl, agree(&cl, n + 1));
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(cl.server[i].n_fatal, 0);
	assert_int_equal(full->values.n, n + 1);
	for (size_t i = 0; i < 3; i++) {
		server_stop(&cl, i);
		large_disk(&cl, i);
	}
	cluster_done(&cl);
}

/* A majority is full: nobody takes commands, whoever leads, until one has room. */
static void full_disks_of_a_majority(void **state)
{
	struct cluster cl;
	int rc;

	if (!*(bool *)*state)
		skip();
	cluster_init(&cl, 3, 0);
	for (size_t i = 0; i < 3; i++) {
		small_disk(&cl, i);
		server_started(&cl, i);
	}
	propose_done(&cl, await_leader(&cl), 1);
	wait_for(&cl, agree(&cl, 1));
	for (size_t i = 0; i < 2; i++) {
		cleanup(freep) char *dir = path_of(&cl, i, "");

		fill(dir, 100000);
	}
	wait_for(&cl, cl.server[0].n_short == 1 && cl.server[1].n_short == 1);
	wait_for(&cl, leader_of(&cl) == &cl.server[2]);
	wait_for(&cl, member_quorum_short(cl.server[2].c));
	rc = propose_status(&cl, &cl.server[2], 2);
	assert_int_equal(rc, -BLIX_E_DISKFULL);
	{
		cleanup(freep) char *dir = path_of(&cl, 0, "");

		empty(dir);
	}
	wait_for(&cl, cl.server[0].n_roomy == 1);
	wait_for(&cl, leader_of(&cl) != NULL && propose_status(&cl, leader_of(&cl), 3) == 0);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(cl.server[i].n_fatal, 0);
		server_stop(&cl, i);
		large_disk(&cl, i);
	}
	cluster_done(&cl);
}

int main(void)
{
	static bool is_apart;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bound_forms),
		cmocka_unit_test(bound_follows),
		cmocka_unit_test(older_log_refused),
		cmocka_unit_test(open_segment_flips),
		cmocka_unit_test(snapshot_and_segment_flips),
		cmocka_unit_test(damage_is_not_sent),
		cmocka_unit_test(cut_on_purpose),
		cmocka_unit_test(log_stays_small),
		cmocka_unit_test(survivor_recovers),
		cmocka_unit_test(seeded_directory),
		cmocka_unit_test_prestate(full_disk_alone, &is_apart),
		cmocka_unit_test_prestate(full_disk_of_the_leader, &is_apart),
		cmocka_unit_test_prestate(full_disks_of_a_majority, &is_apart),
	};

	is_apart = apart();
	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
