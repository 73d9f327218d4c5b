/* lib/node/usage on trees of its own making, as kernels of each kind show them, and on this
 * process. */
#include "node/usage.h"

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#define TICKS (uint64_t) sysconf(_SC_CLK_TCK)
#define PAGE  (uint64_t) sysconf(_SC_PAGESIZE)

struct tree {
	char dir[64];
	char proc[96], cgroup[96], runner[96];
	struct usage_roots roots;
};

static void put(const char *dir, const char *file, const char *text)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, file);
	char *slash = strrchr(path, '/');

	*slash = '\0';
	assert_int_equal(file_make_dirs(path, 0700, NULL), 0);
	*slash = '/';
	/* In place, as the kernel's files change: who holds it open sees the new text. */
	FILE *out = fopen(path, "w");
	assert_non_null(out);
	assert_true(fputs(text, out) >= 0);
	assert_int_equal(fclose(out), 0);
}

/* Process 77, begun at tick 4242: 500 ticks of user time, 250 of system time, 1000 pages. */
static void put_stat(struct tree *t)
{
	put(t->proc, "77/stat",
	    "77 (micro) vm@x) S 1 77 77 0 -1 4194304 1 2 3 4 500 250 0 0 20 0 3 0 4242 999 1000 1 "
	    "1\n");
}

static void tree_make(struct tree *t)
{
	*t = (struct tree){.dir = "/tmp/blix-usage-XXXXXX"};
	assert_non_null(mkdtemp(t->dir));
	(void)snprintf(t->proc, sizeof(t->proc), "%s/proc", t->dir);
	(void)snprintf(t->cgroup, sizeof(t->cgroup), "%s/cgroup", t->dir);
	(void)snprintf(t->runner, sizeof(t->runner), "%s/runner", t->dir);
	t->roots = (struct usage_roots){t->proc, t->cgroup};
	put_stat(t);
	put(t->proc, "net/dev",
	    "Inter-|   Receive                                                |  Transmit\n"
	    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
	    "    lo:  9  1 0 0 0 0 0 0  9  1 0 0 0 0 0 0\n"
	    "  tap1: 100 2 0 0 0 0 0 0 3000 4 0 0 0 0 0 0\n"
	    " tap10: 1 2 0 0 0 0 0 0 1 4 0 0 0 0 0 0\n"
	    "  mv0:7 2 0 0 0 0 0 0 50 4 0 0 0 0 0 0\n");
}

static void tree_remove(struct tree *t)
{
	assert_int_equal(file_remove_tree(t->dir, NULL), 0);
}

static struct usage sample(struct tree *t, struct usage_reader **ret)
{
	struct usage usage = {.cpu_known = false};
	struct usage_interfaces interfaces;

	usage_interfaces_read(&t->roots, &interfaces);
	assert_int_equal(interfaces.n, 4);
	if (*ret == NULL)
		*ret = usage_reader_open(&t->roots, 77, 4242, "web", t->runner);
	assert_non_null(*ret);
	usage_sample(*ret, &interfaces, &usage);
	usage_interfaces_done(&interfaces);
	return usage;
}

static struct usage sample_once(struct tree *t)
{
	struct usage_reader *reader = NULL;
	struct usage usage = sample(t, &reader);

	usage_reader_free(reader);
	return usage;
}

static void from_proc(void **state)
{
	struct usage usage;
	struct tree t;

	(void)state;
	tree_make(&t);
	usage = sample_once(&t);
	assert_true(usage.cpu_known && usage.memory_known && !usage.disk_known && !usage.net_known);
	assert_int_equal(usage.cpu_ms, 750 * 1000 / TICKS);
	assert_int_equal(usage.memory_bytes, 1000 * PAGE);
	assert_true(usage.sampled_ms > 0);
	/* Another process has the pid. */
	assert_null(usage_reader_open(&t.roots, 77, 4243, "web", t.runner));
	assert_null(usage_reader_open(&t.roots, 78, 4242, "web", t.runner));
	tree_remove(&t);
}

/* Each kind of hierarchy; and a cgroup that is shared with others, which says nothing of the VM. */
static void from_cgroups(void **state)
{
	static const struct {
		const char *cgroup, *cpu, *cpu_text, *memory, *memory_text;
		bool used;
	} rows[] = {
		{"0::/system.slice/microvm@web.service\n",
	         "system.slice/microvm@web.service/cpu.stat", "usage_usec 12345000\nuser_usec 1\n",
	         "system.slice/microvm@web.service/memory.current", "8192\n", true},
		{"1:name=systemd:/\n0::/blix/web\n", "unified/blix/web/cpu.stat",
	         "nr_periods 0\nusage_usec 12345999\n", "unified/blix/web/memory.current", "8192\n",
	         true},
		{"0::/blix/vm-01234567-9-1\n", "blix/vm-01234567-9-1/cpu.stat",
	         "usage_usec 12345000\n", "blix/vm-01234567-9-1/memory.current", "8192\n", true},
		{"5:memory:/blix-web\n4:cpu,cpuacct:/blix-web\n0::/\n",
	         "cpu,cpuacct/blix-web/cpuacct.usage", "12345000000\n",
	         "memory/blix-web/memory.usage_in_bytes", "8192\n", true},
		{"0::/system.slice/blixd.service\n", "system.slice/blixd.service/cpu.stat",
	         "usage_usec 12345000\n", "system.slice/blixd.service/memory.current", "8192\n",
	         false},
		{"0::/blix/otherweb\n", "blix/otherweb/cpu.stat", "usage_usec 12345000\n",
	         "blix/otherweb/memory.current", "8192\n", false},
	};

	(void)state;
	for (size_t i = 0; i < array_size(rows); i++) {
		struct usage usage;
		struct tree t;

		tree_make(&t);
		put(t.proc, "77/cgroup", rows[i].cgroup);
		put(t.cgroup, rows[i].cpu, rows[i].cpu_text);
		put(t.cgroup, rows[i].memory, rows[i].memory_text);
		usage = sample_once(&t);
		assert_int_equal(usage.cpu_ms, rows[i].used ? 12345 : 750 * 1000 / TICKS);
		assert_int_equal(usage.memory_bytes, rows[i].used ? 8192 : 1000 * PAGE);
		tree_remove(&t);
	}
}

/* A hierarchy without controllers counts CPU time all the same, but no memory. */
static void half_of_a_cgroup(void **state)
{
	struct usage usage;
	struct tree t;

	(void)state;
	tree_make(&t);
	put(t.proc, "77/cgroup", "0::/blix/web\n");
	put(t.cgroup, "blix/web/cpu.stat", "usage_usec 4000\n");
	usage = sample_once(&t);
	assert_int_equal(usage.cpu_ms, 4);
	assert_int_equal(usage.memory_bytes, 1000 * PAGE);
	tree_remove(&t);
}

static void from_taps(void **state)
{
	struct usage usage;
	struct tree t;

	(void)state;
	tree_make(&t);
	put(t.runner, "share/microvm/tap-interfaces", "tap1\nabsent\n");
	put(t.runner, "share/microvm/macvtap-interfaces", "mv0 02:00:00:00:00:01 eth0 bridge\n");
	usage = sample_once(&t);
	assert_true(usage.net_known);
	assert_int_equal(usage.net_rx_bytes, 3050); /* what the host sent */
	assert_int_equal(usage.net_tx_bytes, 107);
	tree_remove(&t);
}

/* The same reader sees what has changed; after the process' end the last figures stand. */
static void again(void **state)
{
	struct usage_reader *reader = NULL;
	struct usage usage, before;
	struct usage_interfaces none = {NULL, 0};
	struct tree t;

	(void)state;
	tree_make(&t);
	usage = sample(&t, &reader);
	put(t.proc, "77/stat",
	    "77 (x) S 1 77 77 0 -1 4194304 1 2 3 4 600 250 0 0 20 0 3 0 4242 999 2000 1 1\n");
	usage = sample(&t, &reader);
	assert_int_equal(usage.cpu_ms, 850 * 1000 / TICKS);
	assert_int_equal(usage.memory_bytes, 2000 * PAGE);
	put(t.proc, "77/stat", "");
	before = usage;
	usage_sample(reader, &none, &usage);
	assert_int_equal(usage.sampled_ms, before.sampled_ms);
	assert_int_equal(usage.cpu_ms, before.cpu_ms);
	usage_reader_free(reader);
	tree_remove(&t);
}

static void of_this_process(void **state)
{
	struct usage usage = {.cpu_known = false}, later = {.cpu_known = false};
	struct usage_reader *reader;
	struct usage_interfaces interfaces;
	uint64_t start;

	(void)state;
	assert_int_equal(process_start_time(getpid(), &start, NULL), 0);
	reader = usage_reader_open(&usage_roots_host, (uint64_t)getpid(), start, "no-vm",
	                           "/nowhere");
	assert_non_null(reader);
	usage_interfaces_read(&usage_roots_host, &interfaces);
	assert_true(interfaces.n >= 1); /* lo */
	usage_sample(reader, &interfaces, &usage);
	assert_true(usage.cpu_known && usage.memory_known && !usage.net_known);
	assert_true(usage.memory_bytes > 1u << 20);
	for (later = usage; later.cpu_ms < usage.cpu_ms + 50;
	     usage_sample(reader, &interfaces, &later)) {
		for (int i = 0; i < 100000; i++)
			(void)clock_boot_us();
	}
	assert_true(later.sampled_ms >= usage.sampled_ms);
	usage_interfaces_done(&interfaces);
	usage_reader_free(reader);
}

static void as_json(void **state)
{
	struct usage usage = {.cpu_known = true, .cpu_ms = 5, .disk_known = true};
	cleanup(freep) char *text = NULL;
	cleanup(json_freep) cJSON *tree = NULL;

	(void)state;
	assert_null(usage_json(&usage));
	usage.sampled_ms = 1700000000123;
	tree = usage_json(&usage);
	text = json_text(tree);
	assert_string_equal(text, "{\"cpuMs\":5,\"diskReadBytes\":0,\"diskWriteBytes\":0,"
	                          "\"sampledAt\":\"2023-11-14T22:13:20.123Z\"}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_proc),
		cmocka_unit_test(from_cgroups),
		cmocka_unit_test(half_of_a_cgroup),
		cmocka_unit_test(from_taps),
		cmocka_unit_test(again),
		cmocka_unit_test(of_this_process),
		cmocka_unit_test(as_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
