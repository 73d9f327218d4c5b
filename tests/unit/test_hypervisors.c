/* lib/vmm against whole hypervisors, one row each: a real QEMU with the toy guest, and servers that
 * speak the published API of Cloud Hypervisor and Firecracker (tests/fake/hypervisor). The same
 * story is told to each; how they differ is in the row. */
#include "base/alloc.h"
#include "exec/argv.h"
#include "sys/file.h"
#include "vmm/address.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>

#include <cmocka.h>

#define SOON 20000u /* a deadline that no test reaches unless it fails */

struct hypervisor {
	enum vmm_kind kind;
	bool quits; /* vmm_quit ends it */
};

static const struct hypervisor rows[] = {
	{VMM_QEMU, true},
	{VMM_CLOUD_HYPERVISOR, true},
	{VMM_FIRECRACKER, false},
};

struct running {
	char dir[64];
	char socket[128];
	pid_t pid;
};

static void spawn(struct running *r, const char *const *words, size_t n)
{
	cleanup(argv_done) struct argv argv = ARGV_EMPTY;
	cleanup(freep) char *log = xasprintf("%s/output", r->dir);
	posix_spawn_file_actions_t actions;

	for (size_t i = 0; i < n; i++)
		argv_push(&argv, words[i]);
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(posix_spawnp(&r->pid, words[0], &actions, NULL, argv.items, environ), 0);
	(void)posix_spawn_file_actions_destroy(&actions);
}

static void spawn_qemu(struct running *r)
{
	const char *build = getenv("BLIX_BUILD");
	cleanup(freep) char *toy = xasprintf("%s/libexec/toy.elf", build != NULL ? build : ".");
	cleanup(freep) char *disk = xasprintf("%s/disk.img", r->dir);
	cleanup(freep) char *drive =
		xasprintf("file=%s,format=raw,if=none,id=vda,file.locking=off", disk);
	cleanup(freep) char *qmp = xasprintf("unix:%s,server=on,wait=off", r->socket);
	const char *const words[] = {"qemu-system-x86_64",
	                             "-M",
	                             "microvm,accel=tcg",
	                             "-m",
	                             "16",
	                             "-nodefaults",
	                             "-no-user-config",
	                             "-no-reboot",
	                             "-display",
	                             "none",
	                             "-serial",
	                             "null",
	                             "-drive",
	                             drive,
	                             "-device",
	                             "virtio-blk-device,drive=vda",
	                             "-device",
	                             "virtio-balloon-device",
	                             "-qmp",
	                             qmp,
	                             "-kernel",
	                             toy};

	assert_true(file_exists(toy));
	assert_int_equal(file_put(disk, "0123456789abcdef", 16, 0600, NULL), 0);
	spawn(r, words, array_size(words));
}

static void spawn_fake(struct running *r, enum vmm_kind kind)
{
	const char *const words[] = {"tests/fake/hypervisor", r->socket, vmm_kind_name(kind)};

	spawn(r, words, array_size(words));
}

/* Returns when it answers. */
static void start(struct running *r, enum vmm_kind kind)
{
	struct vmm_status status;
	int rc = -1;

	*r = (struct running){.dir = "/tmp/blix-hypervisor-XXXXXX"};
	assert_non_null(mkdtemp(r->dir));
	(void)snprintf(r->socket, sizeof(r->socket), "%s/vm.sock", r->dir);
	if (kind == VMM_QEMU)
		spawn_qemu(r);
	else
		spawn_fake(r, kind);
	for (int i = 0; i < 2000 && rc != 0; i++) {
		rc = vmm_status(kind, r->socket, SOON, &status, NULL);
		if (rc != 0)
			(void)poll(NULL, 0, 10);
	}
	assert_int_equal(rc, 0);
}

static void stop(struct running *r, bool ended)
{
	int how;

	if (!ended)
		(void)kill(r->pid, SIGKILL);
	assert_int_equal(waitpid(r->pid, &how, 0), r->pid);
	if (ended)
		assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
	assert_int_equal(file_remove_tree(r->dir, NULL), 0);
}

static void assert_status(enum vmm_kind kind, const char *socket, const char *wanted)
{
	struct vmm_status status;

	assert_int_equal(vmm_status(kind, socket, SOON, &status, NULL), 0);
	assert_string_equal(status.text, wanted);
}

static void pause_and_resume(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_size(rows); i++) {
		enum vmm_kind kind = rows[i].kind;
		struct running r;

		start(&r, kind);
		assert_status(kind, r.socket, "running");
		for (int twice = 0; twice < 2; twice++) {
			assert_int_equal(vmm_pause(kind, r.socket, SOON, NULL), 0);
			assert_status(kind, r.socket, "paused");
		}
		for (int twice = 0; twice < 2; twice++) {
			assert_int_equal(vmm_resume(kind, r.socket, SOON, NULL), 0);
			assert_status(kind, r.socket, "running");
		}
		assert_int_equal(vmm_power_button(kind, r.socket, SOON, NULL), 0);
		if (rows[i].quits)
			assert_int_equal(vmm_quit(kind, r.socket, SOON, NULL), 0);
		stop(&r, rows[i].quits);
	}
}

static void counters(void **state)
{
	struct vmm_counters c;
	struct blix_error err;
	struct running r;

	(void)state;
	start(&r, VMM_QEMU);
	assert_int_equal(vmm_counters(VMM_QEMU, r.socket, SOON, &c, NULL), 0);
	assert_true(c.disk_known && c.memory_known && c.cpus_known && !c.net_known);
	assert_int_equal(c.memory_bytes, 16u << 20);
	assert_int_equal(c.cpus, 1);
	stop(&r, false);
	start(&r, VMM_CLOUD_HYPERVISOR);
	assert_int_equal(vmm_counters(VMM_CLOUD_HYPERVISOR, r.socket, SOON, &c, NULL), 0);
	assert_true(c.disk_known && c.net_known && !c.memory_known && !c.cpus_known);
	assert_int_equal(c.disk_read_bytes, 5096);
	assert_int_equal(c.disk_write_bytes, 8192);
	assert_int_equal(c.net_rx_bytes, 10);
	assert_int_equal(c.net_tx_bytes, 20);
	stop(&r, false);
	start(&r, VMM_FIRECRACKER);
	assert_int_equal(vmm_counters(VMM_FIRECRACKER, r.socket, SOON, &c, &err), -BLIX_E_REFUSED);
	assert_string_equal(err.reason, REASON_NOT_KNOWN);
	stop(&r, false);
}

/* A dead hypervisor leaves its socket behind: nobody listens, and every operation says so. */
static void dead(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_size(rows); i++) {
		enum vmm_kind kind = rows[i].kind;
		struct blix_error err;
		struct running r;
		int how;

		start(&r, kind);
		(void)kill(r.pid, SIGKILL);
		assert_int_equal(waitpid(r.pid, &how, 0), r.pid);
		assert_int_equal(vmm_pause(kind, r.socket, SOON, &err), -BLIX_E_UNAVAILABLE);
		assert_string_equal(err.reason, REASON_REFUSED);
		assert_int_equal(vmm_resume(kind, r.socket, SOON, &err), -BLIX_E_UNAVAILABLE);
		assert_string_equal(err.reason, REASON_REFUSED);
		assert_int_equal(file_remove_tree(r.dir, NULL), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pause_and_resume),
		cmocka_unit_test(counters),
		cmocka_unit_test(dead),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
