/* Sealed files: what is written opens, and nothing else does. */
#include "base/alloc.h"
#include "sys/file.h"
#include "sys/seal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

struct place {
	char dir[32];
	char key[64], file[64];
	unsigned char bytes[SEAL_KEY];
};

static void place_init(struct place *p)
{
	*p = (struct place){.dir = "/tmp/blix.XXXXXX"};
	assert_non_null(mkdtemp(p->dir));
	(void)snprintf(p->key, sizeof(p->key), "%s/key", p->dir);
	(void)snprintf(p->file, sizeof(p->file), "%s/file", p->dir);
	assert_int_equal(seal_key(p->key, true, p->bytes, NULL), 0);
}

static void place_done(struct place *p)
{
	assert_int_equal(file_remove_tree(p->dir, NULL), 0);
}

static int open_it(const struct place *p, const char *what, size_t cap, struct buf *out)
{
	buf_init(out, cap);
	return seal_read(p->file, p->bytes, what, out, NULL);
}

static void round_trip(void **state)
{
	static const size_t sizes[] = {0, 1, 63, 4096, 65536};
	cleanup(freep) char *data = xcalloc(1, 65536);
	struct stat st;
	struct place p;
	struct buf out;

	(void)state;
	place_init(&p);
	for (size_t i = 0; i < 65536; i++)
		data[i] = (char)(i * 7);
	for (size_t i = 0; i < array_size(sizes); i++) {
		assert_int_equal(seal_write(p.file, p.bytes, "a", data, sizes[i], NULL), 0);
		assert_int_equal(open_it(&p, "a", 65537, &out), 0);
		assert_int_equal(out.len, sizes[i]);
		assert_memory_equal(out.data, data, sizes[i]);
		seal_wipe(&out);
	}
	assert_int_equal(stat(p.file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* More than the reader has room for. */
	assert_int_equal(open_it(&p, "a", 100, &out), -BLIX_E_CORRUPT);
	seal_wipe(&out);
	place_done(&p);
}

static void damage_is_seen(void **state)
{
	struct buf good, out;
	struct place p;

	(void)state;
	place_init(&p);
	assert_int_equal(seal_write(p.file, p.bytes, "a", "value", 5, NULL), 0);
	assert_int_equal(open_it(&p, "b", 64, &out), -BLIX_E_CORRUPT); /* in another's place */
	seal_wipe(&out);
	buf_init(&good, 4096);
	assert_int_equal(file_read(p.file, &good, NULL), 0);
	assert_null(memmem(good.data, good.len, "value", 5));
	for (size_t i = 0; i < good.len; i++) {
		good.data[i] ^= 1;
		assert_int_equal(file_put(p.file, good.data, good.len, 0600, NULL), 0);
		assert_int_equal(open_it(&p, "a", 64, &out), -BLIX_E_CORRUPT);
		seal_wipe(&out);
		good.data[i] ^= 1;
		assert_int_equal(file_put(p.file, good.data, i, 0600, NULL), 0);
		assert_int_equal(open_it(&p, "a", 64, &out), -BLIX_E_CORRUPT);
		seal_wipe(&out);
	}
	assert_int_equal(file_put(p.file, good.data, good.len, 0600, NULL), 0);
	assert_int_equal(open_it(&p, "a", 64, &out), 0);
	seal_wipe(&out);
	assert_int_equal(unlink(p.file), 0);
	assert_int_equal(open_it(&p, "a", 64, &out), -BLIX_E_NOTFOUND);
	seal_wipe(&out);
	buf_done(&good);
	place_done(&p);
}

static void keys(void **state)
{
	unsigned char again[SEAL_KEY];
	struct stat st;
	struct place p;
	struct buf out;

	(void)state;
	place_init(&p);
	assert_int_equal(stat(p.key, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(seal_key(p.key, true, again, NULL), 0);
	assert_memory_equal(again, p.bytes, SEAL_KEY);
	assert_int_equal(seal_write(p.file, p.bytes, "a", "value", 5, NULL), 0);
	assert_int_equal(file_put(p.key, "short", 5, 0600, NULL), 0);
	assert_int_equal(seal_key(p.key, true, again, NULL), -BLIX_E_CORRUPT); /* never replaced */
	assert_int_equal(unlink(p.key), 0);
	assert_int_equal(seal_key(p.key, false, again, NULL), -BLIX_E_NOTFOUND);
	assert_int_equal(seal_key(p.key, true, again, NULL), 0);
	buf_init(&out, 64);
	assert_int_equal(seal_read(p.file, again, "a", &out, NULL), -BLIX_E_CORRUPT);
	seal_wipe(&out);
	place_done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(damage_is_seen),
		cmocka_unit_test(keys),
	};

	return cmocka_run_group_tests_name("seal", tests, NULL, NULL);
}
