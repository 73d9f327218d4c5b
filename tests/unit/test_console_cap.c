/* lib/node/console_cap: a console that somebody else appends to is cut under its writer. */
#include "base/alloc.h"
#include "node/executor_internal.h"
#include "sys/file.h"

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
		cmocka_unit_test(follows_no_link),
	};

	return cmocka_run_group_tests_name("console_cap", tests, NULL, NULL);
}
