/* What the host itself shows: control groups, systemd, the disk, the clock, who may do what. */
#include "node/doctor_internal.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/cgroup.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#define DISK_FAIL  (256ull << 20) /* a build or a snapshot of the log no longer fits */
#define DISK_WARN  (2ull << 30)   /* one NixOS system */
#define FSYNC_WARN 20000          /* us: two of them are in each create */
#define FSYNCS     9
#define YEAR_2025  1735689600000ull
#define JUMP_WARN  5000 /* ms */

/* cgroup.kill came with Linux 5.14. */
static void check_kill(struct doctor *d)
{
	struct utsname kernel;
	unsigned major = 0, minor = 0;

	(void)uname(&kernel);
	if (sscanf(kernel.release, "%u.%u", &major, &minor) == 2 && major * 1000 + minor < 5014)
		doctor_add(d, FINDING_WARN, "run Linux 5.14 or newer",
		           "Linux %u.%u has no cgroup.kill: a VM's helpers cannot be ended as one",
		           major, minor);
}

void doctor_cgroups(struct doctor *d)
{
	const char *root = cgroup_root();
	cleanup(freep) char *path = root != NULL ? xasprintf("%s/cgroup.controllers", root) : NULL;
	cleanup(buf_done) struct buf text;
	static const char unify[] =
		"add systemd.unified_cgroup_hierarchy=1 to the kernel's command line";

	buf_init(&text, 4096);
	if (root == NULL) {
		doctor_add(d, FINDING_WARN, unify,
		           "no control groups of version 2: a VM's helpers cannot be ended as one");
		return;
	}
	check_kill(d);
	if (file_read(path, &text, NULL) < 0 || text.data == NULL)
		(void)buf_add(&text, "", 1);
	text.data[strcspn(text.data, "\n")] = '\0';
	if (strstr(text.data, "memory") != NULL && strstr(text.data, "cpu") != NULL)
		doctor_add(d, FINDING_OK, NULL, "version 2 at %s: %s", root, text.data);
	else
		doctor_add(
			d, FINDING_WARN, unify,
			"version 2 at %s lacks the controllers cpu and memory (it has: %s): usage "
			"is read from /proc, per process",
			root, text.data[0] != '\0' ? text.data : "none");
}

/* True when one of the places where units stand has this one. */
static bool has_unit(const char *name)
{
	static const char *const places[] = {"/etc/systemd/system", "/run/systemd/system",
	                                     "/usr/lib/systemd/system", "/lib/systemd/system"};

	for (size_t i = 0; i < array_size(places); i++) {
		cleanup(freep) char *path = xasprintf("%s/%s", places[i], name);

		if (file_exists(path))
			return true;
	}
	return false;
}

void doctor_systemd(struct doctor *d)
{
	if (!file_exists("/run/systemd/system"))
		doctor_add(d, FINDING_OK, NULL,
		           "is not PID 1: VMs are supervised by blix-shim, and something else must "
		           "start blixd at boot");
	else if (!has_unit("blixd.service"))
		doctor_add(d, FINDING_WARN, "make install, then systemctl enable --now blixd",
		           "is PID 1, but has no unit blixd.service: blixd does not start at boot");
	else
		doctor_add(d, FINDING_OK, NULL, "is PID 1%s",
		           has_unit("microvm@.service") ? ", with microvm.nix's units" : "");
}

/* Microseconds, the median of a few writes of one block; -1: not possible. */
static int64_t time_fsync(const char *dir)
{
	cleanup(freep) char *path = xasprintf("%s/.doctor.%d", dir, (int)getpid());
	cleanup(closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	uint64_t times[FSYNCS];
	static const char block[4096];

	if (fd < 0)
		return -1;
	for (size_t i = 0; i < FSYNCS; i++) {
		uint64_t start = clock_boot_us();
		size_t at = i;
		bool wrote = pwrite(fd, block, sizeof(block), (off_t)(i * sizeof(block))) ==
		                     (ssize_t)sizeof(block) &&
		             fsync(fd) == 0;
		uint64_t took = clock_boot_us() - start;

		if (!wrote) {
			(void)unlink(path);
			return -1;
		}
		for (; at > 0 && times[at - 1] > took; at--)
			times[at] = times[at - 1];
		times[at] = took;
	}
	(void)unlink(path);
	return (int64_t)times[FSYNCS / 2];
}

static void disk_space(struct doctor *d, const char *dir)
{
	struct statvfs fs;
	char left[32];
	uint64_t bytes;

	if (statvfs(dir, &fs) < 0) {
		doctor_add(d, FINDING_WARN, "systemctl start blixd, which makes it", "%s: %s", dir,
		           strerrordesc_np(errno));
		return;
	}
	bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	format_size(left, sizeof(left), bytes);
	doctor_add(d,
	           bytes < DISK_FAIL   ? FINDING_FAIL
	           : bytes < DISK_WARN ? FINDING_WARN
	                               : FINDING_OK,
	           bytes < DISK_WARN ? "nix-collect-garbage" : NULL, "%s has %s left", dir, left);
}

void doctor_disk(struct doctor *d)
{
	const char *dir = d->config->state_dir;
	int64_t us;

	disk_space(d, dir);
	if (!file_exists(dir))
		return;
	us = time_fsync(dir);
	if (us < 0)
		doctor_add(d, geteuid() == 0 ? FINDING_FAIL : FINDING_WARN,
		           geteuid() == 0 ? "df -h, mount: is it full or read-only?"
		                          : "sudo blix doctor",
		           "%s cannot be written: %s", dir, strerrordesc_np(errno));
	else
		doctor_add(d, us > FSYNC_WARN ? FINDING_WARN : FINDING_OK,
		           us > FSYNC_WARN ? "move stateDir to a faster disk" : NULL,
		           "an fsync in %s takes %" PRId64 ".%" PRId64
		           " ms; each write of the log waits "
		           "for one",
		           dir, us / 1000, us % 1000 / 100);
}

void doctor_clock(struct doctor *d)
{
	struct timex clock = {.modes = 0};
	int state = adjtimex(&clock);
	uint64_t jump = 0;

	if (clock_wall_ms() < YEAR_2025)
		doctor_add(d, FINDING_FAIL, "timedatectl set-ntp true",
		           "the clock stands before 2025: certificates and stamps are wrong");
	else if (state < 0 || state == TIME_ERROR || (clock.status & STA_UNSYNC) != 0)
		doctor_add(
			d, FINDING_WARN, "timedatectl set-ntp true",
			"nothing synchronises the clock: stamps of nodes may disagree (blix itself "
			"orders nothing by them)");
	else
		doctor_add(d, FINDING_OK, NULL, "is synchronised");
	if (d->cluster != NULL && json_get_u64(d->cluster, "clockJumpMs", &jump, NULL) == 0 &&
	    jump > JUMP_WARN)
		doctor_add(d, FINDING_WARN, "timedatectl set-ntp true",
		           "the daemon saw the clock jump by %" PRIu64 " ms", jump);
}

static void check_group(struct doctor *d, const char *name)
{
	cleanup(freep) char *fix = xasprintf("groupadd --system %s", name);
	struct group group, *found = NULL;
	struct stat st;
	char text[4096];

	if (name[0] == '\0')
		return;
	if (getgrnam_r(name, &group, text, sizeof(text), &found) != 0 || found == NULL) {
		doctor_add(d, FINDING_WARN, fix,
		           "there is no group '%s': only root may use the socket", name);
		return;
	}
	if (stat(d->config->socket, &st) == 0 && st.st_gid != found->gr_gid)
		doctor_add(d, FINDING_WARN, "systemctl restart blixd",
		           "%s does not belong to the group '%s'", d->config->socket, name);
	else
		doctor_add(d, FINDING_OK, NULL, "the group '%s' may use the socket", name);
}

void doctor_permissions(struct doctor *d)
{
	const char *const dirs[] = {d->config->state_dir, d->config->run_dir,
	                            d->config->microvms_dir};

	check_group(d, d->config->group);
	for (size_t i = 0; i < array_size(dirs); i++) {
		cleanup(freep) char *fix = xasprintf("chmod o-w %s", dirs[i]);
		struct stat st;

		if (stat(dirs[i], &st) == 0 && (st.st_mode & S_IWOTH) != 0)
			doctor_add(d, FINDING_FAIL, fix, "everybody may write to %s", dirs[i]);
	}
	if (stat(d->config->socket, &(struct stat){0}) == 0 &&
	    access(d->config->socket, W_OK) < 0) {
		cleanup(freep) char *fix = xasprintf("usermod -aG %s $USER", d->config->group);

		doctor_add(d, FINDING_WARN, fix, "this user may not use %s", d->config->socket);
	}
}
