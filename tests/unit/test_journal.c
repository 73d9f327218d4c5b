/* The journal: its bytes (core/journal) with every torn prefix and every flipped bit, and its file
 * (node/journal) on a loop: durable before the callback, found again, short again, and well after a
 * disk that took nothing for a while. */
#include "base/alloc.h"
#include "base/crc32c.h"
#include "core/journal.h"
#include "node/journal.h"
#include "sys/file.h"
#include "sys/log.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct journal_intent intent(enum journal_step step, uint64_t uid)
{
	return (struct journal_intent){.operation = 100 + uid,
	                               .uid = uid,
	                               .epoch = 3,
	                               .digest = journal_digest("x", 1),
	                               .step = step,
	                               .name = "web"};
}

static void checksum(void **state)
{
	/* RFC 3720, B.4 */
	uint8_t bytes[32];

	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(crc32c(0, bytes, 32), 0x8a9136aa);
	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(crc32c(0, bytes, 32), 0x62a8ab43);
	for (unsigned i = 0; i < 32; i++)
		bytes[i] = (uint8_t)i;
	assert_int_equal(crc32c(0, bytes, 32), 0x46dd794e);
	assert_int_equal(crc32c(crc32c(0, bytes, 7), bytes + 7, 25), 0x46dd794e);
}

/* Four frames: an empty beginning, two intents, one of them done and a third, all but one done. */
static void fill(struct buf *out, size_t frames[5])
{
	struct journal_intent one = intent(JOURNAL_CLAIM, 7), two = intent(JOURNAL_START, 7);
	struct journal j;
	uint64_t first, second, third;

	journal_init(&j);
	buf_init(out, LIMIT_JOURNAL);
	journal_rewrite(&j, out);
	frames[0] = 0;
	frames[1] = out->len;
	first = journal_intend(&j, &one);
	second = journal_intend(&j, &two);
	assert_true(journal_frame(&j, out));
	frames[2] = out->len;
	journal_settle(&j, first, JOURNAL_DONE);
	two.uid = 8;
	third = journal_intend(&j, &two);
	assert_true(journal_frame(&j, out));
	frames[3] = out->len;
	journal_settle(&j, third, JOURNAL_FAILED);
	journal_settle(&j, third, JOURNAL_FAILED); /* once is enough */
	assert_true(journal_frame(&j, out));
	frames[4] = out->len;
	assert_false(journal_frame(&j, out));
	assert_int_equal(j.bytes, out->len);
	assert_int_equal(j.n, 1);
	assert_non_null(journal_find(&j, second));
	journal_free(&j);
}

static int replay(const struct buf *bytes, size_t n, struct journal *ret, size_t *ret_kept,
                  struct blix_error *err)
{
	/* Exactly n bytes, so that a read beyond them is noticed. */
	cleanup(freep) uint8_t *copy = xcalloc(n + 1, 1);

	memcpy(copy, bytes->data, n);
	journal_init(ret);
	return journal_replay(ret, copy, n, ret_kept, err);
}

static void what_was_written_is_read(void **state)
{
	const struct journal_intent wanted = intent(JOURNAL_START, 7);
	cleanup(buf_done) struct buf bytes;
	size_t frames[5], kept = 0;
	struct journal j;

	(void)state;
	fill(&bytes, frames);
	assert_int_equal(replay(&bytes, bytes.len, &j, &kept, NULL), 0);
	assert_int_equal(kept, bytes.len);
	assert_int_equal(j.n, 1);
	assert_int_equal(j.open[0].serial, 2);
	assert_int_equal(j.open[0].operation, wanted.operation);
	assert_int_equal(j.open[0].uid, 7);
	assert_int_equal(j.open[0].epoch, 3);
	assert_int_equal(j.open[0].digest, wanted.digest);
	assert_int_equal(j.open[0].step, JOURNAL_START);
	assert_string_equal(j.open[0].name, "web");
	assert_string_equal(journal_step_name(j.open[0].step), "start");
	/* And goes on from there. */
	assert_int_equal(journal_intend(&j, &wanted), 4);
	assert_true(journal_frame(&j, &bytes));
	journal_free(&j);
	assert_int_equal(replay(&bytes, bytes.len, &j, &kept, NULL), 0);
	assert_int_equal(j.n, 2);
	journal_free(&j);
}

static void torn_tails_are_cut(void **state)
{
	static const size_t open[] = {0, 2, 2, 1};
	cleanup(buf_done) struct buf bytes;
	struct blix_error err;
	size_t frames[5], kept = 0, whole;
	struct journal j;

	(void)state;
	fill(&bytes, frames);
	for (size_t n = 0; n <= bytes.len; n++) {
		int rc = replay(&bytes, n, &j, &kept, &err);

		if (n < 16) { /* a header is renamed into place whole */
			assert_int_equal(rc, -BLIX_E_CORRUPT);
			assert_string_equal(err.reason, "journal-corrupt");
			continue;
		}
		assert_int_equal(rc, 0);
		for (whole = 4; whole > 0 && frames[whole] > n;)
			whole--;
		assert_int_equal(kept, whole > 0 ? frames[whole] : 16);
		assert_int_equal(j.n, whole > 0 ? open[whole - 1] : 0);
		journal_free(&j);
	}
}

static void every_flipped_bit_is_detected(void **state)
{
	cleanup(buf_done) struct buf bytes;
	struct blix_error err;
	size_t frames[5], kept = 0;
	struct journal j;

	(void)state;
	fill(&bytes, frames);
	for (size_t bit = 0; bit < bytes.len * 8; bit++) {
		int rc;

		bytes.data[bit / 8] = (char)(bytes.data[bit / 8] ^ 1 << bit % 8);
		rc = replay(&bytes, bytes.len, &j, &kept, &err);
		if (bit / 8 < frames[3]) {
			assert_int_equal(rc, -BLIX_E_CORRUPT);
			assert_string_equal(err.reason, "journal-corrupt");
		} else { /* the last write: as if it had been torn */
			assert_int_equal(rc, 0);
			assert_int_equal(kept, frames[3]);
			assert_int_equal(j.n, 2);
			journal_free(&j);
		}
		bytes.data[bit / 8] = (char)(bytes.data[bit / 8] ^ 1 << bit % 8);
	}
}

static void set_version(struct buf *bytes, char version)
{
	bytes->data[8] = version;
	for (unsigned i = 0; i < 4; i++)
		bytes->data[12 + i] = (char)(crc32c(0, bytes->data, 12) >> (8 * i));
}

/* Whole frames that are not what was written. */
static void wrong_order_is_refused(void **state)
{
	cleanup(buf_done) struct buf bytes;
	cleanup(buf_done) struct buf other;
	struct blix_error err;
	size_t frames[5], kept = 0;
	struct journal j;

	(void)state;
	fill(&bytes, frames);
	buf_init(&other, LIMIT_JOURNAL); /* the third is missing */
	(void)buf_add(&other, bytes.data, frames[2]);
	(void)buf_add(&other, bytes.data + frames[3], bytes.len - frames[3]);
	assert_int_equal(replay(&other, other.len, &j, &kept, &err), -BLIX_E_CORRUPT);
	buf_clear(&other); /* the second is there twice */
	(void)buf_add(&other, bytes.data, frames[2]);
	(void)buf_add(&other, bytes.data + frames[1], frames[2] - frames[1]);
	assert_int_equal(replay(&other, other.len, &j, &kept, &err), -BLIX_E_CORRUPT);
	/* A version to come. */
	set_version(&bytes, 3);
	assert_int_equal(replay(&bytes, bytes.len, &j, &kept, &err), -BLIX_E_REFUSED);
	assert_string_equal(err.reason, "journal-version");
}

struct bench {
	uv_loop_t loop;
	char dir[32], *path;
	struct node_journal *j;
	unsigned called, failed;
	bool closed;
	struct blix_error err;
};

static void on_durable(void *data, const struct blix_error *err)
{
	struct bench *b = data;

	b->called++;
	if (err != NULL) {
		b->failed++;
		b->err = *err;
	}
}

static void on_closed(void *data)
{
	((struct bench *)data)->closed = true;
}

static void bench_close(struct bench *b)
{
	b->closed = false;
	node_journal_close(b->j, on_closed, b);
	while (!b->closed)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
}

static int bench_setup(void **state)
{
	struct bench *b = xcalloc(1, sizeof(*b));

	(void)snprintf(b->dir, sizeof(b->dir), "/tmp/blix-test-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	b->path = xasprintf("%s/journal", b->dir);
	(void)uv_loop_init(&b->loop);
	assert_int_equal(node_journal_open(&b->loop, b->path, &b->j, NULL), 0);
	*state = b;
	return 0;
}

static int bench_teardown(void **state)
{
	struct bench *b = *state;

	bench_close(b);
	(void)uv_run(&b->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&b->loop), 0);
	assert_int_equal(file_remove_tree(b->dir, NULL), 0);
	free(b->path);
	free(b);
	return 0;
}

static void wait_called(struct bench *b, unsigned n)
{
	while (b->called < n)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
}

static size_t open_in_file(const struct bench *b)
{
	cleanup(buf_done) struct buf bytes;
	size_t kept = 0, n;
	struct journal j;

	buf_init(&bytes, LIMIT_JOURNAL);
	assert_int_equal(file_read(b->path, &bytes, NULL), 0);
	assert_int_equal(replay(&bytes, bytes.len, &j, &kept, NULL), 0);
	n = j.n;
	journal_free(&j);
	return n;
}

static void durable_before_the_callback(void **state)
{
	struct bench *b = *state;
	struct journal_intent intents[2] = {intent(JOURNAL_MARK, 1), intent(JOURNAL_START, 1)};
	struct journal_intent other = intent(JOURNAL_KILL, 2);

	node_journal_intend(b->j, intents, 2, on_durable, b);
	assert_int_equal(b->called, 0);
	node_journal_intend(b->j, &other, 1, on_durable, b); /* waits for the write under way */
	wait_called(b, 1);
	assert_true(open_in_file(b) >= 2);
	wait_called(b, 2);
	assert_int_equal(open_in_file(b), 3);
	node_journal_settle(b->j, intents[0].serial, JOURNAL_DONE);
	node_journal_settle(b->j, other.serial, JOURNAL_DONE);
	/* A second blixd finds what is open; the first one's DONEs come by themselves. */
	while (open_in_file(b) != 1)
		(void)uv_run(&b->loop, UV_RUN_ONCE);
	bench_close(b);
	assert_int_equal(node_journal_open(&b->loop, b->path, &b->j, NULL), 0);
	assert_int_equal(node_journal_table(b->j)->n, 1);
	assert_int_equal(node_journal_table(b->j)->open[0].step, JOURNAL_START);
}

static void long_files_become_short(void **state)
{
	struct bench *b = *state;
	struct stat st;
	off_t longest = 0;

	for (unsigned i = 0; i < 600; i++) {
		struct journal_intent many[8];

		for (unsigned k = 0; k < array_size(many); k++)
			many[k] = intent(JOURNAL_RUN, i);
		node_journal_intend(b->j, many, array_size(many), on_durable, b);
		wait_called(b, i + 1);
		for (unsigned k = 0; k < array_size(many); k++)
			node_journal_settle(b->j, many[k].serial, JOURNAL_DONE);
		assert_int_equal(stat(b->path, &st), 0);
		longest = st.st_size > longest ? st.st_size : longest;
	}
	assert_int_equal(b->failed, 0);
	assert_true(longest > 200 << 10);
	assert_true(longest < 300 << 10);
	assert_true(st.st_size < longest);
}

static void a_full_disk(void **state)
{
	struct bench *b = *state;
	struct journal_intent one = intent(JOURNAL_START, 1), two = intent(JOURNAL_START, 2);
	struct rlimit none = {0, RLIM_INFINITY}, before;
	struct sigaction ignore = {.sa_handler = SIG_IGN}, old;

	node_journal_intend(b->j, &one, 1, on_durable, b);
	wait_called(b, 1);
	assert_int_equal(b->failed, 0);
	/* Writes fail in the kernel, as on a full disk. */
	(void)sigaction(SIGXFSZ, &ignore, &old);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	none.rlim_max = before.rlim_max;
	log_level(LOG_CRIT);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	for (unsigned i = 0; i < 3; i++) {
		node_journal_intend(b->j, &two, 1, on_durable, b);
		wait_called(b, i + 2);
		assert_int_equal(b->failed, i + 1);
		assert_string_equal(b->err.reason, "journal-failed");
		assert_int_equal(node_journal_table(b->j)->n, 1); /* it did not happen */
	}
	node_journal_settle(b->j, one.serial, JOURNAL_DONE);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	log_level(LOG_INFO);
	(void)sigaction(SIGXFSZ, &old, NULL);
	node_journal_intend(b->j, &two, 1, on_durable, b);
	wait_called(b, 5);
	assert_int_equal(b->failed, 3);
	assert_int_equal(open_in_file(b), 1);
}

static void damage_is_named(void **state)
{
	struct bench *b = *state;
	struct journal_intent one = intent(JOURNAL_START, 1), two = intent(JOURNAL_START, 2);
	cleanup(buf_done) struct buf bytes;
	struct node_journal *other = NULL;
	struct blix_error err;

	buf_init(&bytes, LIMIT_JOURNAL);
	node_journal_intend(b->j, &one, 1, on_durable, b);
	wait_called(b, 1);
	node_journal_intend(b->j, &two, 1, on_durable, b);
	wait_called(b, 2);
	assert_int_equal(file_read(b->path, &bytes, NULL), 0);
	bytes.data[40] ^= 1;
	assert_int_equal(file_put(b->path, bytes.data, bytes.len, 0600, NULL), 0);
	assert_int_equal(node_journal_open(&b->loop, b->path, &other, &err), -BLIX_E_CORRUPT);
	assert_string_equal(err.reason, "journal-corrupt");
	assert_non_null(strstr(err.text, b->path));
	/* Half a record at its end is what a crash leaves: cut, and gone with the next write. */
	bytes.data[40] ^= 1;
	assert_int_equal(file_put(b->path, bytes.data, bytes.len - 1, 0600, NULL), 0);
	log_level(LOG_CRIT);
	bench_close(b);
	assert_int_equal(node_journal_open(&b->loop, b->path, &b->j, NULL), 0);
	log_level(LOG_INFO);
	assert_int_equal(node_journal_table(b->j)->n, 1);
	node_journal_intend(b->j, &two, 1, on_durable, b);
	wait_called(b, 3);
	assert_int_equal(open_in_file(b), 2);
}

/* What an older blixd wrote is read, and becomes a file of today before a new step is in it. */
static void an_older_file(void **state)
{
	struct bench *b = *state;
	struct journal_intent one = intent(JOURNAL_START, 1), two = intent(JOURNAL_SETUP, 2);
	cleanup(buf_done) struct buf bytes;

	buf_init(&bytes, LIMIT_JOURNAL);
	node_journal_intend(b->j, &one, 1, on_durable, b);
	wait_called(b, 1);
	bench_close(b);
	assert_int_equal(file_read(b->path, &bytes, NULL), 0);
	assert_int_equal(bytes.data[8], 2);
	set_version(&bytes, 1);
	assert_int_equal(file_put(b->path, bytes.data, bytes.len, 0600, NULL), 0);
	assert_int_equal(node_journal_open(&b->loop, b->path, &b->j, NULL), 0);
	assert_int_equal(node_journal_table(b->j)->n, 1);
	node_journal_intend(b->j, &two, 1, on_durable, b);
	wait_called(b, 2);
	buf_clear(&bytes);
	assert_int_equal(file_read(b->path, &bytes, NULL), 0);
	assert_int_equal(bytes.data[8], 2);
	assert_int_equal(open_in_file(b), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checksum),
		cmocka_unit_test(what_was_written_is_read),
		cmocka_unit_test(torn_tails_are_cut),
		cmocka_unit_test(every_flipped_bit_is_detected),
		cmocka_unit_test(wrong_order_is_refused),
		TEST(durable_before_the_callback),
		TEST(long_files_become_short),
		TEST(a_full_disk),
		TEST(damage_is_named),
		TEST(an_older_file),
	};

	return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
