/* lib/sys/halves: a reader finds its place, however often the halves have moved since. */
#include "base/alloc.h"
#include "sys/file.h"
#include "sys/halves.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

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

/* As blix-shim does. */
static void rotate(const char *path)
{
	cleanup(freep) char *aside = xasprintf("%s.1", path);
	struct halves halves;
	int fd;

	halves_open(AT_FDCWD, path, &halves);
	assert_int_equal(rename(path, aside), 0);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	half_mark(fd, halves_end(&halves), halves.now.run);
	(void)close(fd);
	halves_close(&halves);
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
	rotate(path);
	expect_read(path, 4, "456789", 4); /* of the half before */
	expect_read(path, 10, "", 10);
	append(path, "abcdefgh");
	expect_read(path, 4, "456789", 4);
	expect_read(path, 10, "abcdefgh", 10);
	expect_run(path, 0);
	rotate(path);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(readers_find_their_place),
	};

	return cmocka_run_group_tests_name("console_cap", tests, NULL, NULL);
}
