/* The guest as a whole: what HELLO says of it, its name and machine id, its way down. */
#include "agent.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>

#define ADDRESSES  32 /* in a HELLO */
#define MACHINE_ID "/etc/machine-id"
#define BOOT_ID    "/proc/sys/kernel/random/boot_id"

static void hello_line(json_t *hello, const char *key, const char *path)
{
	cleanup(buf_done) struct buf text;

	buf_init(&text, 256);
	if (file_read(path, &text, NULL) < 0 || text.data == NULL)
		return;
	text.data[strcspn(text.data, "\n")] = '\0';
	if (text.data[0] != '\0')
		(void)json_object_set_new(hello, key, json_string(text.data));
}

static bool address_text(const struct sockaddr *address, char *out, socklen_t n)
{
	const struct sockaddr_in6 *six = (const void *)address;
	const struct sockaddr_in *four = (const void *)address;

	if (address->sa_family == AF_INET)
		return inet_ntop(AF_INET, &four->sin_addr, out, n) != NULL;
	return address->sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr) &&
	       inet_ntop(AF_INET6, &six->sin6_addr, out, n) != NULL;
}

static json_t *addresses(void)
{
	json_t *list = json_array();
	struct ifaddrs *all = NULL;
	char text[INET6_ADDRSTRLEN];

	(void)getifaddrs(&all);
	for (const struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
		if (one->ifa_addr != NULL && (one->ifa_flags & IFF_LOOPBACK) == 0 &&
		    json_array_size(list) < ADDRESSES &&
		    address_text(one->ifa_addr, text, sizeof(text)))
			(void)json_array_append_new(list, json_string(text));
	}
	freeifaddrs(all);
	return list;
}

json_t *guest_hello(const struct agent *a)
{
	json_t *hello = json_pack("{s:i, s:s, s:s, s:o, s:b, s:b}", "version", 1, "agent",
	                          AGENT_VERSION, "session", a->session, "addresses", addresses(),
	                          "ready", a->ready, "identity", a->identity);

	hello_line(hello, "hostname", "/proc/sys/kernel/hostname");
	hello_line(hello, "bootId", BOOT_ID);
	hello_line(hello, "machineId", MACHINE_ID);
	return hello;
}

int guest_netlink(void)
{
	struct sockaddr_nl address = {
		.nl_family = AF_NETLINK,
		.nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR,
	};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		closep(&fd);
		fd = -1;
	}
	return fd;
}

/* What Ctrl-Alt-Del does, to whatever is PID 1; systemd has a signal that powers off at once. */
static int shutdown_open(struct stream *s, json_t *request, struct blix_error *err)
{
	int sig = file_exists("/run/systemd/system") ? SIGRTMIN + 4 : SIGINT;

	(void)request;
	if (kill(1, sig) < 0)
		return blix_fail_sys(err, errno, "signal the guest's init");
	stream_opened(s, json_object());
	stream_exit(s, json_pack("{s:i}", "exitCode", 0));
	return 0;
}

static void nothing_to_free(struct stream *s)
{
	(void)s;
}

const struct stream_kind shutdown_kind = {
	.name = "shutdown",
	.open = shutdown_open,
	.hangup = stream_end,
	.free = nothing_to_free,
};

/* A read-only /etc gets the id mounted over the file, as systemd does it. */
static int set_machine_id(const struct agent *a, const char *id, struct blix_error *err)
{
	cleanup(freep) char *own = xasprintf("%s/machine-id", a->run);
	cleanup(freep) char *line = xasprintf("%s\n", id);

	if (strlen(id) != 32 || strspn(id, "0123456789abcdef") != 32)
		return blix_fail(err, BLIX_E_INVALID, "'%.40s' is no machine id", id);
	if (file_put(MACHINE_ID, line, strlen(line), 0444, NULL) == 0)
		return 0;
	if (file_put(own, line, strlen(line), 0444, err) < 0)
		return -(int)BLIX_E_IO;
	if (mount(own, MACHINE_ID, NULL, MS_BIND, NULL) < 0)
		return blix_fail_sys(err, errno, "set %s", MACHINE_ID);
	return 0;
}

/* RUN/identity holds the boot in which it was set. */
static char *identity_path(const struct agent *a)
{
	return xasprintf("%s/identity", a->run);
}

bool guest_has_identity(const struct agent *a)
{
	cleanup(freep) char *path = identity_path(a);
	cleanup(buf_done) struct buf noted;
	cleanup(buf_done) struct buf boot;

	buf_init(&noted, 256);
	buf_init(&boot, 256);
	return file_read(path, &noted, NULL) == 0 && file_read(BOOT_ID, &boot, NULL) == 0 &&
	       noted.len > 0 && noted.len == boot.len &&
	       memcmp(noted.data, boot.data, boot.len) == 0;
}

/* That it cannot be noted only means that it is set again. */
static void identity_note(struct agent *a)
{
	cleanup(freep) char *path = identity_path(a);
	cleanup(buf_done) struct buf boot;

	buf_init(&boot, 256);
	if (file_read(BOOT_ID, &boot, NULL) == 0)
		(void)file_put(path, boot.data, boot.len, 0600, NULL);
	a->identity = true;
}

static int identity_open(struct stream *s, json_t *request, struct blix_error *err)
{
	const char *kind;
	const char *hostname = NULL;
	const char *id = NULL;

	if (json_unpack(request, "{s:s, s?s, s?s !}", "kind", &kind, "hostname", &hostname,
	                "machineId", &id) < 0)
		return blix_fail(err, BLIX_E_INVALID, "identity has hostname and machineId");
	if (hostname != NULL && sethostname(hostname, strlen(hostname)) < 0)
		return blix_fail_sys(err, errno, "set the hostname");
	if (id != NULL && set_machine_id(s->agent, id, err) < 0)
		return -(int)BLIX_E_IO;
	identity_note(s->agent);
	stream_opened(s, json_object());
	stream_exit(s, json_pack("{s:i}", "exitCode", 0));
	session_hello(s->agent, false);
	return 0;
}

const struct stream_kind identity_kind = {
	.name = "identity",
	.open = identity_open,
	.hangup = stream_end,
	.free = nothing_to_free,
};
