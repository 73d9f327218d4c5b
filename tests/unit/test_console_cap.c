/* lib/node/console_cap: a console that somebody else appends to is cut under its writer;
 * lib/sys/halves: its readers find their place again. */
#include "base/alloc.h"
#include "node/executor_internal.h"
#include "sys/file.h"
#include "sys/halves.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void expect_file(const char *path, const char *text)
{
	cleanup(buf_done) struct buf is;
	struct blix_error err;

	buf_init(&is, 4096);
	assert_int_equal(file_read(path, &is, &err), 0);
	assert_string_equal(is.data != NULL ? is.data : "", text);
}

static void cuts_at_half(void **state)
{
	char dir[] = "/tmp/blix-console.XXXXXX";
	cleanup(freep) char *path = NULL;
	cleanup(freep) char *old = NULL;
	struct blix_error err;
	struct stat st;
	int writer;

	(void)state;
	assert_non_null(mkdtemp(dir));
	path = xasprintf("%s/console.log", dir);
	old = xasprintf("%s.1", path);
	assert_int_equal(console_cut(path, 8, &err), 0); /* there is none yet */
	writer = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_int_equal(write(writer, "short", 5), 5);
	assert_int_equal(console_cut(path, 8, &err), 0);
	expect_file(path, "short");
	assert_int_equal(write(writer, " and long", 9), 9);
	assert_int_equal(console_cut(path, 8, &err), 0);
	expect_file(old, "short and long");
	assert_int_equal(write(writer, "next", 4), 4);
	expect_file(path, "next");
	assert_int_equal(fstat(writer, &st), 0);
	assert_int_equal(st.st_size, 4); /* no hole of what was cut */
	(void)close(writer);
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

/* What is read from `position`, and where that begins. */
static void expect_read(const char *path, uint64_t position, const char *text, uint64_t begins)
{
	char bytes[64] = "";
	struct halves halves;
	size_t n;

	halves_open(AT_FDCWD, path, &halves);
	n = halves_read(&halves, &position, bytes, sizeof(bytes) - 1);
	halves_close(&halves);
	assert_string_equal(bytes, text);
	assert_int_equal(n, strlen(text));
	assert_int_equal(position, begins);
}

static void expect_run(const char *path, uint64_t position)
{
	struct halves halves;

	halves_open(AT_FDCWD, path, &halves);
	assert_int_equal(halves_run(&halves), position);
	halves_close(&halves);
}

static void append(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	(void)close(fd);
}

static void readers_find_their_place(void **state)
{
	char dir[] = "/tmp/blix-console.XXXXXX";
	cleanup(freep) char *path = NULL;
	cleanup(freep) char *aside = NULL;
	struct blix_error err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	path = xasprintf("%s/console.log", dir);
	aside = xasprintf("%s.1", path);
	expect_read(path, 0, "", 0); /* no log yet */
	append(path, "0123456789");
	expect_read(path, 4, "456789", 4);
	expect_read(path, 10, "", 10);
	expect_read(path, 11, "0123456789", 0); /* another log */
	assert_int_equal(console_cut(path, 8, &err), 0);
	expect_read(path, 4, "456789", 4); /* of the half before */
	expect_read(path, 10, "", 10);
	append(path, "abcdefgh");
	expect_read(path, 4, "456789", 4);
	expect_read(path, 10, "abcdefgh", 10);
	expect_run(path, 0);
	assert_int_equal(console_cut(path, 8, &err), 0);
	append(path, "xyz");
	expect_read(path, 4, "abcdefgh", 10); /* 4 to 9 are gone */
	expect_read(path, 12, "cdefgh", 12);
	expect_read(path, 18, "xyz", 18);
	expect_run(path, 10); /* what is left of it */
	/* Another run: the log is put aside, and its successor says nothing yet. */
	assert_int_equal(rename(path, aside), 0);
	expect_read(path, 19, "yz", 19);
	append(path, "new");
	expect_run(path, 21);
	expect_read(path, 19, "yz", 19);
	expect_read(path, 21, "new", 21);
	expect_read(path, 99, "new", 21);
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

/* The writer's directory may not lead elsewhere. */
static void follows_no_link(void **state)
{
	char dir[] = "/tmp/blix-console.XXXXXX";
	cleanup(freep) char *path = NULL;
	cleanup(freep) char *other = NULL;
	struct blix_error err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	path = xasprintf("%s/console.log", dir);
	other = xasprintf("%s/other", dir);
	assert_int_equal(file_put(other, "0123456789", 10, 0600, &err), 0);
	assert_int_equal(symlink(other, path), 0);
	assert_int_equal(console_cut(path, 4, &err), 0);
	expect_file(other, "0123456789");
	assert_int_equal(file_remove_tree(dir, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cuts_at_half),
		cmocka_unit_test(readers_find_their_place),
		cmocka_unit_test(follows_no_link),
	};

	return cmocka_run_group_tests_name("console_cap", tests, NULL, NULL);
}
