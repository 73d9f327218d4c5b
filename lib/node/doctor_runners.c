/* What the runners of this host's VMs need around a run. A runner lists in share/microvm what is to
 * be made for it; looked for are the program that makes it and the places that it names. Nothing is
 * started: whether a program works only a start tells, in the VM's message. Without an answer of
 * the daemon no VM is looked at: it alone knows which are ours.
 */
#include "node/doctor_internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "microvm/runner_links.h"
#include "sys/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TUN "/dev/net/tun"

struct runner {
	const char *vm; /* its name */
	char *dir;      /* the VM's */
	char *path;
};

static void check_tun(struct doctor *d)
{
	cleanup(closep) int fd = open(TUN, O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		doctor_add(d, FINDING_OK, NULL, "taps can be made");
	else if (errno == EACCES || errno == EPERM)
		doctor_add(d, FINDING_WARN, "sudo blix doctor", "%s may not be opened by this user",
		           TUN);
	else
		doctor_add(d, FINDING_WARN, "modprobe tun",
		           "%s cannot be opened (%s): no VM with a tap can start", TUN,
		           strerrordesc_np(errno));
}

static void check_programs(struct doctor *d, const struct runner *r)
{
	static const struct {
		const char *list, *program;
	} steps[] = {{RUNNER_TAPS, "tap-up"},
	             {RUNNER_MACVTAPS, "macvtap-up"},
	             {"pci-devices", "pci-setup"},
	             {"virtiofs", "virtiofsd-run"}};
	cleanup(freep) char *fix =
		xasprintf("take a newer microvm.nix into its flake, then blix vm update %s", r->vm);

	for (size_t i = 0; i < array_size(steps); i++) {
		cleanup(freep) char *list =
			xasprintf("%s/share/microvm/%s", r->path, steps[i].list);
		cleanup(freep) char *program = xasprintf("%s/bin/%s", r->path, steps[i].program);

		if (file_exists(list) && access(program, X_OK) < 0)
			doctor_add(d, FINDING_WARN, fix,
			           "the runner of VM %s lists %s, but has no bin/%s to set them up",
			           r->vm, steps[i].list, steps[i].program);
	}
}

/* The first line of a file in the runner, NULL when there is none. */
static char *first_line(const char *path)
{
	cleanup(buf_done) struct buf text;

	buf_init(&text, LIMIT_FILE);
	if (file_read(path, &text, NULL) < 0 || text.len == 0 || text.data[0] == '\n')
		return NULL;
	return xstrndup(text.data, strcspn(text.data, "\n"));
}

static void check_shares(struct doctor *d, const struct runner *r)
{
	cleanup(freep) char *shares = xasprintf("%s/share/microvm/virtiofs", r->path);
	DIR *stream = opendir(shares);
	const struct dirent *entry;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		cleanup(freep) char *file = xasprintf("%s/%s/source", shares, entry->d_name);
		cleanup(freep) char *source = entry->d_name[0] != '.' ? first_line(file) : NULL;
		cleanup(freep) char *place = source != NULL && source[0] != '/'
		                                     ? xasprintf("%s/%s", r->dir, source)
		                                     : NULL;

		if (source != NULL && !file_exists(place != NULL ? place : source))
			doctor_add(
				d, FINDING_WARN, "make it, or change microvm.shares of its flake",
				"VM %s shares %s, which is not there: its virtiofsd cannot start",
				r->vm, source);
	}
	if (stream != NULL)
		(void)closedir(stream);
}

/* "ID MAC LINK MODE" a line. */
static void check_lower_links(struct doctor *d, const struct runner *r)
{
	cleanup(freep) char *file = xasprintf("%s/share/microvm/%s", r->path, RUNNER_MACVTAPS);
	cleanup(buf_done) struct buf text;
	char *rest;
	const char *line;

	buf_init(&text, LIMIT_FILE);
	if (file_read(file, &text, NULL) < 0)
		return;
	rest = text.data;
	while ((line = strsep(&rest, "\n")) != NULL) {
		char id[64], lower[64], link[96];

		if (sscanf(line, "%63s %*s %63s", id, lower) != 2 || strchr(lower, '/') != NULL)
			continue;
		(void)snprintf(link, sizeof(link), "/sys/class/net/%s", lower);
		if (!file_exists(link))
			doctor_add(d, FINDING_WARN, "ip link",
			           "macvtap %s of VM %s needs the link %s, which is not there", id,
			           r->vm, lower);
	}
}

/* Its shim leaves a note when virtiofsd ends; with the VM's end the note goes. */
static void check_virtiofsd(struct doctor *d, const struct runner *r)
{
	cleanup(freep) char *note =
		xasprintf("%s/vms/%s/virtiofsd/exit.json", d->config->run_dir, r->vm);
	cleanup(freep) char *fix = xasprintf("blix vm restart --force %s", r->vm);

	if (file_exists(note))
		doctor_add(d, FINDING_WARN, fix,
		           "virtiofsd of VM %s has ended before the VM: its shares do not answer",
		           r->vm);
}

void doctor_runners(struct doctor *d)
{
	const cJSON *items = cJSON_GetObjectItemCaseSensitive(d->vms, "items"), *item;

	check_tun(d);
	cJSON_ArrayForEach (item, items) {
		const char *name = doctor_vm_name(item);
		struct runner r = {.vm = name};

		if (name == NULL)
			continue;
		r.dir = xasprintf("%s/%s", d->config->microvms_dir, name);
		r.path = xasprintf("%s/current", r.dir);
		check_programs(d, &r);
		check_shares(d, &r);
		check_lower_links(d, &r);
		check_virtiofsd(d, &r);
		free(r.dir);
		free(r.path);
	}
}
