/* Names and archives of trees, against what Nix itself gave for the same; files written by way of
 * the pool. */
#include "base/alloc.h"
#include "sys/file.h"
#include "sys/nar.h"
#include "sys/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

/* `nix flake metadata` and `nix-store --dump | sha256sum` of one flake. */
#define HEX   "64a9885c82badc816a75b47aa76ce0ad023a2e0aa8b31820a5bc1ffe7aa8c63a"
#define STORE "/nix/store/949abyfcq88dy761zi25cw94v2fkizpb-source"
#define HASH  "sha256-ZKmIXIK63IFqdbR6p2zgrQI6Lgqosxggpbwf"

static void names(void **state)
{
	cleanup(freep) char *url = NULL;
	struct source_name name, found;
	char text[SOURCE_STORE], hex[SOURCE_HEX];

	(void)state;
	assert_int_equal(source_parse(HEX, &name, NULL), 0);
	source_hex(&name, hex);
	assert_string_equal(hex, HEX);
	source_store_path(&name, text);
	assert_string_equal(text, STORE);
	url = source_url(&name);
	assert_string_equal(url, "path:" STORE "?narHash=" HASH "%2Fnqoxjo%3D");
	assert_true(source_of_url(url, &found));
	assert_true(source_same(&name, &found));
}

static void other_spellings(void **state)
{
	static const char *const good[] = {
		"path:" STORE "?narHash=" HASH "/nqoxjo=",
		"path:" STORE "?lastModified=1795768767&narHash=" HASH "%2fnqoxjo%3d",
		"path:" STORE "?narHash=" HASH "/nqoxjo=&dir=a",
	};
	static const char *const bad[] = {
		"",
		"path:" STORE,
		"path:" STORE "?narHash=",
		"path:" STORE "?narHash=" HASH,
		"path:" STORE "?narHash=" HASH "/nqoxjo",
		"path:" STORE "?narHash=" HASH "/nqoxjo==",
		"path:" STORE "?narHash=" HASH "%2",
		"path:" STORE "?narHash=" HASH "%zznqoxjo=",
		"path:" STORE "?narHash=" HASH HASH HASH HASH "/nqoxjo=",
		"path:" STORE "?narHash=" HASH "/nqoxjp=", /* another tree's */
		"path:" STORE "?xnarHash=" HASH "/nqoxjo=",
		"path:" STORE "/sub?narHash=" HASH "/nqoxjo=",
		"path:/nix/store/049abyfcq88dy761zi25cw94v2fkizpb-source?narHash=" HASH "/nqoxjo=",
		"path:/nix/store/949abyfcq88dy761zi25cw94v2fkizpb-other?narHash=" HASH "/nqoxjo=",
		"path:/srv/flake?narHash=" HASH "/nqoxjo=",
		"github:a/b?narHash=" HASH "/nqoxjo=",
	};
	struct source_name name;

	(void)state;
	for (size_t i = 0; i < array_size(good); i++)
		assert_true(source_of_url(good[i], &name));
	for (size_t i = 0; i < array_size(bad); i++)
		assert_false(source_of_url(bad[i], &name));
	assert_true(source_parse("64A9885c82badc816a75b47aa76ce0ad023a2e0aa8b31820a5bc1ffe7aa8c63a",
	                         &name, NULL) < 0);
	assert_true(source_parse(HEX "0", &name, NULL) < 0);
	assert_true(source_parse("../../etc/passwd", &name, NULL) < 0);
}

struct tree {
	char dir[64];
};

static void put(const struct tree *tree, const char *name, const char *text, mode_t mode)
{
	cleanup(freep) char *path = xasprintf("%s/%s", tree->dir, name);

	assert_int_equal(file_put(path, text, strlen(text), mode, NULL), 0);
}

static int tree_open(void **state)
{
	struct tree *tree = xcalloc(1, sizeof(*tree));
	cleanup(freep) char *sub = NULL;
	cleanup(freep) char *empty = NULL;
	cleanup(freep) char *link = NULL;

	(void)snprintf(tree->dir, sizeof(tree->dir), "/tmp/blix-source.XXXXXX");
	assert_non_null(mkdtemp(tree->dir));
	sub = xasprintf("%s/sub", tree->dir);
	empty = xasprintf("%s/empty", tree->dir);
	link = xasprintf("%s/link", tree->dir);
	assert_int_equal(mkdir(sub, 0700), 0);
	assert_int_equal(mkdir(empty, 0700), 0);
	assert_int_equal(symlink("sub/nowhere", link), 0);
	put(tree, "flake.nix", "{ outputs = { self }: { }; }\n", 0644);
	put(tree, "run", "#!/bin/sh\n", 0755);
	put(tree, "sub/a", "12345678", 0600);
	put(tree, "sub/B", "", 0600);
	put(tree, "sub-x", "x", 0600);
	*state = tree;
	return 0;
}

static int tree_close(void **state)
{
	struct tree *tree = *state;

	assert_int_equal(file_remove_tree(tree->dir, NULL), 0);
	free(tree);
	return 0;
}

static int pack(const struct nar_options *options, struct nar *ret, struct blix_error *err)
{
	cleanup(closep) int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return nar_pack(options, fd, ret, err);
}

/* What `nix-store --dump` of this tree gives. */
#define TREE_HEX "4a5370cbf1b14bcf582dd889597e466d8361534975b2db6d8c0c56a2e6361282"

static void archive(void **state)
{
	const struct tree *tree = *state;
	const struct nar_options options = {.dir = tree->dir, .max = 1 << 20};
	char hex[SOURCE_HEX];
	struct nar nar;

	assert_int_equal(pack(&options, &nar, NULL), 0);
	source_hex(&nar.name, hex);
	assert_string_equal(hex, TREE_HEX);
	assert_int_equal(nar.files, 6);
	assert_int_equal(nar.size % 8, 0);
}

static bool takes(const void *data, const char *path, bool folder)
{
	(void)folder;
	assert_string_not_equal(path, "sub/a"); /* a folder that is left out is not looked into */
	return strcmp(path, data) == 0;
}

static void left_out(void **state)
{
	const struct tree *tree = *state;
	const struct nar_options some = {
		.dir = tree->dir, .takes = takes, .data = "run", .max = 1 << 20};
	const struct nar_options all = {.dir = tree->dir, .max = 1 << 20};
	cleanup(freep) char *sub = xasprintf("%s/sub", tree->dir);
	struct nar one, other;

	assert_int_equal(pack(&some, &one, NULL), 0);
	assert_int_equal(one.files, 1);
	assert_int_equal(file_remove_tree(sub, NULL), 0);
	for (size_t i = 0; i < 4; i++) {
		static const char *const names[] = {"flake.nix", "empty", "link", "sub-x"};
		cleanup(freep) char *path = xasprintf("%s/%s", tree->dir, names[i]);

		assert_int_equal(file_remove_tree(path, NULL), 0);
	}
	assert_int_equal(pack(&all, &other, NULL), 0);
	assert_true(source_same(&one.name, &other.name));
}

static void too_big(void **state)
{
	const struct tree *tree = *state;
	const struct nar_options options = {.dir = tree->dir, .max = 3u << 20};
	cleanup(freep) char *path = xasprintf("%s/sub/large.bin", tree->dir);
	struct blix_error err;
	struct nar nar;

	put(tree, "sub/large.bin", "", 0600);
	assert_int_equal(truncate(path, 5 << 20), 0);
	assert_int_equal(pack(&options, &nar, &err), -BLIX_E_TOOBIG);
	assert_string_equal(err.reason, "source-too-big");
	assert_non_null(strstr(err.text, "sub/large.bin (5 MiB)"));
}

static void strange_file(void **state)
{
	const struct tree *tree = *state;
	const struct nar_options options = {.dir = tree->dir, .max = 1 << 20};
	cleanup(freep) char *path = xasprintf("%s/sub/pipe", tree->dir);
	struct blix_error err;
	struct nar nar;

	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(pack(&options, &nar, &err), -BLIX_E_INVALID);
	assert_non_null(strstr(err.text, "sub/pipe"));
}

struct writing {
	uv_loop_t loop;
	struct sink *sink;
	size_t left;
	unsigned waits;
	bool ended;
	struct sink_result result;
};

/* Most are done with it then. */
static void on_ended(void *data, const struct sink_result *result)
{
	struct writing *w = data;

	sink_free(w->sink);
	w->result = *result;
	w->ended = true;
}

static void write_more(void *data)
{
	static const char piece[SINK_PIECE];
	struct writing *w = data;

	while (w->left > 0) {
		size_t n = w->left < sizeof(piece) ? w->left : sizeof(piece);

		w->left -= n;
		if (!sink_write(w->sink, piece, n)) {
			w->waits++;
			return;
		}
	}
	sink_end(w->sink, on_ended, w);
}

static void write_all(struct writing *w, int fd, size_t n)
{
	*w = (struct writing){.left = n};
	assert_true(fd >= 0);
	assert_int_equal(uv_loop_init(&w->loop), 0);
	w->sink = sink_open(&w->loop, fd, write_more, w);
	write_more(w);
	assert_int_equal(uv_run(&w->loop, UV_RUN_DEFAULT), 0);
	assert_true(w->ended);
	assert_int_equal(uv_loop_close(&w->loop), 0);
}

/* `head -c N /dev/zero | sha256sum` */
#define ZEROS     ((3u << 20) + 5)
#define ZEROS_HEX "be58603025b9752289c4917b47da4d9290bbdd9c11d0d1a5213388cd7101432e"
#define NONE_HEX  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void written(void **state)
{
	struct writing w;
	char hex[SOURCE_HEX];

	(void)state;
	write_all(&w, open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), ZEROS);
	source_hex(&w.result.name, hex);
	assert_int_equal(w.result.sys, 0);
	assert_int_equal(w.result.size, ZEROS);
	assert_string_equal(hex, ZEROS_HEX);
	assert_true(w.waits > 0); /* the loop is faster than the pool */
	write_all(&w, open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), 0);
	source_hex(&w.result.name, hex);
	assert_string_equal(hex, NONE_HEX);
}

static void disk_full(void **state)
{
	struct writing w;

	(void)state;
	write_all(&w, open("/dev/full", O_WRONLY | O_CLOEXEC), ZEROS);
	assert_int_equal(w.result.sys, ENOSPC);
}

/* Freed while the pool has it: nothing is called any more, and nothing is lost. */
static void freed_early(void **state)
{
	struct writing w = {.left = 1 << 20};

	(void)state;
	assert_int_equal(uv_loop_init(&w.loop), 0);
	w.sink = sink_open(&w.loop, open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), write_more,
	                   &w);
	write_more(&w);
	assert_int_equal(w.waits, 1);
	sink_free(w.sink);
	assert_int_equal(uv_run(&w.loop, UV_RUN_DEFAULT), 0);
	assert_false(w.ended);
	assert_int_equal(uv_loop_close(&w.loop), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(other_spellings),
		cmocka_unit_test_setup_teardown(archive, tree_open, tree_close),
		cmocka_unit_test_setup_teardown(left_out, tree_open, tree_close),
		cmocka_unit_test_setup_teardown(too_big, tree_open, tree_close),
		cmocka_unit_test_setup_teardown(strange_file, tree_open, tree_close),
		cmocka_unit_test(written),
		cmocka_unit_test(disk_full),
		cmocka_unit_test(freed_early),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
