/* lib/sys/tree: a tree comes out as it went in, however the bytes are cut; a stream that lies
 * writes nothing outside its destination, and a copy that was cut leaves no half file under its
 * name. */
#include "base/alloc.h"
#include "base/buf.h"
#include "sys/file.h"
#include "sys/tree.h"
#include "sys/tree_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char top[] = "/tmp/blix-tree-XXXXXX";

static void put(const char *path, const char *text, mode_t mode)
{
	assert_int_equal(file_put(path, text, strlen(text), 0600, NULL), 0);
	assert_int_equal(chmod(path, mode), 0);
}

static int make_source(void **state)
{
	cleanup(freep) char *large = xcalloc(1, 300001);

	(void)state;
	memset(large, 'x', 300000);
	assert_non_null(mkdtemp(top));
	assert_int_equal(chdir(top), 0);
	assert_int_equal(mkdir("src", 0750), 0);
	assert_int_equal(mkdir("src/locked", 0700), 0);
	assert_int_equal(mkdir("src/empty", 0755), 0);
	put("src/locked/inside", "in", 0400);
	put("src/run", "#!/bin/sh\n", 04755);
	put("src/nothing", "", 0644);
	put("src/large", large, 0644);
	assert_int_equal(symlink("../outside", "src/link"), 0);
	assert_int_equal(mkfifo("src/pipe", 0600), 0);
	assert_int_equal(chmod("src/locked", 0500), 0);
	assert_int_equal(mkdir("dst", 0755), 0);
	return 0;
}

static int remove_all(void **state)
{
	(void)state;
	assert_int_equal(chdir("/"), 0);
	return file_remove_tree(top, NULL) == 0 ? 0 : -1;
}

static void read_all(const char *path, size_t step, struct buf *out)
{
	struct tree_reader *r = NULL;
	cleanup(freep) char *data = xcalloc(1, step);
	size_t n = 1;

	assert_int_equal(tree_reader_open(path, &r, NULL), 0);
	while (n > 0) {
		assert_int_equal(tree_reader_read(r, data, step, &n, NULL), 0);
		assert_int_equal(buf_add(out, data, n), 0);
	}
	if (strcmp(path, "src") == 0) {
		assert_int_equal(tree_reader_counts(r)->files, 8);
		assert_int_equal(tree_reader_counts(r)->skipped, 1);
	}
	tree_reader_free(r);
}

static int write_all(const char *path, const char *name, const struct buf *in, size_t step,
                     struct tree_counts *counts)
{
	struct tree_writer *w = NULL;
	int rc = tree_writer_open(path, name, &w, NULL);

	for (size_t at = 0; rc == 0 && at < in->len; at += step)
		rc = tree_writer_write(w, in->data + at, in->len - at < step ? in->len - at : step,
		                       NULL);
	if (rc == 0)
		rc = tree_writer_end(w, counts, NULL);
	tree_writer_free(w);
	return rc;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	return st.st_mode;
}

static void same_text(const char *a, const char *b)
{
	cleanup(buf_done) struct buf one, other;

	buf_init(&one, 1 << 20);
	buf_init(&other, 1 << 20);
	assert_int_equal(file_read(a, &one, NULL), 0);
	assert_int_equal(file_read(b, &other, NULL), 0);
	assert_int_equal(one.len, other.len);
	if (one.len > 0)
		assert_memory_equal(one.data, other.data, one.len);
}

static void whole_tree(void **state)
{
	static const size_t steps[] = {1, 7, 4096, 1 << 20};

	(void)state;
	for (size_t i = 0; i < array_size(steps); i++) {
		cleanup(buf_done) struct buf bytes;
		struct tree_counts counts;
		char target[32] = "";

		buf_init(&bytes, 1 << 20);
		read_all("src", steps[array_size(steps) - 1 - i], &bytes);
		assert_int_equal(write_all("dst", "copy", &bytes, steps[i], &counts), 0);
		assert_int_equal(counts.files, 8);
		assert_int_equal(counts.bytes, 300012);
		assert_int_equal(mode_of("dst/copy"), S_IFDIR | 0750);
		assert_int_equal(mode_of("dst/copy/locked"), S_IFDIR | 0500);
		assert_int_equal(mode_of("dst/copy/locked/inside"), S_IFREG | 0400);
		assert_int_equal(mode_of("dst/copy/run"), S_IFREG | 0755); /* no setuid */
		assert_int_equal(readlink("dst/copy/link", target, sizeof(target) - 1), 10);
		assert_string_equal(target, "../outside");
		same_text("dst/copy/large", "src/large");
		same_text("dst/copy/nothing", "src/nothing");
		assert_int_equal(access("dst/copy/pipe", F_OK), -1);
		assert_int_equal(file_remove_tree("dst/copy", NULL), 0);
	}
}

static void one_file(void **state)
{
	cleanup(buf_done) struct buf bytes;
	struct tree_counts counts;

	(void)state;
	buf_init(&bytes, 1 << 20);
	read_all("src/run", 100, &bytes);
	assert_int_equal(write_all("dst/other", "run", &bytes, 50, &counts), 0);
	same_text("dst/other", "src/run");
	assert_int_equal(write_all("dst", "run", &bytes, 50, &counts), 0);
	same_text("dst/run", "src/run");
	/* over a link: the link goes, what it names stays */
	put("kept", "kept", 0644);
	assert_int_equal(symlink("../kept", "dst/linked"), 0);
	assert_int_equal(write_all("dst/linked", "", &bytes, 50, &counts), 0);
	same_text("dst/linked", "src/run");
	assert_int_equal(mode_of("kept"), S_IFREG | 0644);
	assert_int_equal(mode_of("dst/linked"), S_IFREG | 0755);
	assert_int_equal(write_all("nowhere/other", "", &bytes, 50, &counts),
	                 -(int)BLIX_E_NOTFOUND);
}

static void cut_off(void **state)
{
	cleanup(buf_done) struct buf bytes;
	struct tree_counts counts;

	(void)state;
	buf_init(&bytes, 1 << 20);
	read_all("src/large", 1 << 16, &bytes);
	bytes.len -= 1000;
	assert_int_equal(write_all("dst/half", "", &bytes, 4096, &counts), -(int)BLIX_E_CORRUPT);
	assert_int_equal(access("dst/half", F_OK), -1);
	assert_int_equal(access("dst/half.blix-part", F_OK), -1);
}

static void entry(struct buf *out, int type, const char *path, const char *data)
{
	unsigned char head[TREE_HEADER] = {(unsigned char)type};

	tree_put(head + 1, 4, 0755);
	tree_put(head + 13, 8, strlen(data));
	tree_put(head + 21, 2, strlen(path));
	(void)buf_add(out, head, sizeof(head));
	(void)buf_add_string(out, path);
	(void)buf_add_string(out, data);
}

static void liars(void **state)
{
	static const struct {
		int type;
		const char *path, *data;
	} bad[] = {
		{TREE_FILE, "../out", "x"},
		{TREE_FILE, "a/../../out", "x"},
		{TREE_FILE, "/out", "x"},
		{TREE_FILE, "a//out", "x"},
		{TREE_FILE, "a/.", "x"},
		{TREE_FILE, "out/", "x"},
		{TREE_FILE, "", "x"},
		{TREE_DIRECTORY, "d", "x"},
		{9, "out", "x"},
		{0, "out", "x"},
		{TREE_FILE, "way/out", "x"}, /* `way` leads out by a link */
	};

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++) {
		cleanup(buf_done) struct buf bytes;
		struct tree_counts counts;

		buf_init(&bytes, 1 << 20);
		entry(&bytes, TREE_DIRECTORY, "", "");
		entry(&bytes, TREE_LINK, "way", "..");
		entry(&bytes, bad[i].type, bad[i].path, bad[i].data);
		entry(&bytes, TREE_END, "", "");
		if (write_all("dst/liar", "", &bytes, 5, &counts) == 0)
			fail_msg("%d %s was written", bad[i].type, bad[i].path);
		assert_int_equal(access("out", F_OK), -1);
		assert_int_equal(access("dst/out", F_OK), -1);
		assert_int_equal(file_remove_tree("dst/liar", NULL), 0);
	}
}

static void no_such_source(void **state)
{
	struct tree_reader *r = NULL;

	(void)state;
	assert_int_equal(tree_reader_open("absent", &r, NULL), -(int)BLIX_E_NOTFOUND);
	assert_int_equal(tree_reader_open("src/pipe", &r, NULL), -(int)BLIX_E_REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_tree),     cmocka_unit_test(one_file),
		cmocka_unit_test(cut_off),        cmocka_unit_test(liars),
		cmocka_unit_test(no_such_source),
	};

	return cmocka_run_group_tests_name("tree", tests, make_source, remove_all);
}
