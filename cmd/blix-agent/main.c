/* blix-agent: the guest's end of what blix does inside a guest. Without words it is the agent and
 * runs until it is ended; `blix-agent ready` tells the running one that the guest is ready.
 *
 * Each turn: streams work on what poll() found, the port takes what they said, then poll() waits
 * for the port, the streams and the next deadline. Nothing that a host does ends the program. */
#include "agent.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/file.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define FIXED_FDS 4 /* port, control, netlink, listener */
#define HOST_CID  2 /* in every guest */

const char *argp_program_version = "blix-agent " AGENT_VERSION;

struct options {
	const char *port, *run, *secrets;
	int fd;
	uint32_t vsock_port, vsock_host;
	bool ready_at_start, say_ready;
};

enum {
	OPTION_PORT = 0x100,
	OPTION_FD,
	OPTION_VSOCK,
	OPTION_VSOCK_HOST,
	OPTION_RUN,
	OPTION_SECRETS,
	OPTION_READY
};

static uint32_t parse_u32(const char *option, const char *text, struct argp_state *state)
{
	uint64_t number = 0;

	if (parse_u64(text, &number, NULL) < 0 || number == 0 || number >= UINT32_MAX)
		argp_error(state, "--%s %s is no number from 1 to %u", option, text,
		           UINT32_MAX - 1);
	return (uint32_t)number;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *options = state->input;
	uint64_t number = 0;

	switch (key) {
	case OPTION_PORT:
		options->port = arg;
		return 0;
	case OPTION_FD:
		if (parse_u64(arg, &number, NULL) < 0 || number > INT_MAX ||
		    fcntl((int)number, F_GETFD) < 0)
			argp_error(state, "--fd %s is no open descriptor", arg);
		options->fd = (int)number;
		return 0;
	case OPTION_VSOCK:
		options->vsock_port = parse_u32("vsock", arg, state);
		return 0;
	case OPTION_VSOCK_HOST:
		options->vsock_host = parse_u32("vsock-host", arg, state);
		return 0;
	case OPTION_RUN:
		options->run = arg;
		return 0;
	case OPTION_SECRETS:
		options->secrets = arg;
		return 0;
	case OPTION_READY:
		options->ready_at_start = true;
		return 0;
	case ARGP_KEY_ARG:
		if (strcmp(arg, "ready") != 0 || options->say_ready)
			argp_error(state, "unknown word '%s'; did you mean: ready?", arg);
		options->say_ready = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* Only root may speak to it: the directory is ours. */
static int control_socket(const char *run, bool listen, struct blix_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	cleanup(freep) char *path = xasprintf("%s/agent.sock", run);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		return blix_fail(err, BLIX_E_INVALID, "%s is too long", path);
	memcpy(address.sun_path, path, strlen(path));
	if (listen)
		(void)unlink(path);
	rc = listen ? bind(fd, (struct sockaddr *)&address, sizeof(address))
	            : connect(fd, (struct sockaddr *)&address, sizeof(address));
	if (rc < 0) {
		rc = errno;
		closep(&fd);
		return blix_fail_sys(err, rc, "%s", path);
	}
	return fd;
}

static int say_ready(const char *run)
{
	struct blix_error err;
	cleanup(closep) int fd = control_socket(run, false, &err);

	if (fd < 0 || send(fd, "ready", 5, 0) != 5) {
		(void)fprintf(stderr, "blix-agent: no agent runs: %s\n",
		              fd < 0 ? err.text : strerror(errno));
		return 1;
	}
	return 0;
}

static void take_control(struct agent *a)
{
	char word[16];
	ssize_t n;

	while ((n = recv(a->control, word, sizeof(word), 0)) >= 0) {
		if (n == 5 && memcmp(word, "ready", 5) == 0)
			a->ready = true;
	}
	if (a->talking)
		session_hello(a, false);
}

static void take_netlink(struct agent *a)
{
	char data[8192];

	while (recv(a->netlink, data, sizeof(data), 0) > 0)
		continue;
	if (a->talking)
		session_hello(a, false);
}

static int wait_ms(const struct agent *a)
{
	uint64_t now = now_ms();
	uint64_t until = streams_deadline(a);

	if (a->retry_ms > now && (until == 0 || a->retry_ms < until))
		until = a->retry_ms;
	if (until == 0)
		return -1;
	return until <= now ? 0 : (int)(until - now < 60000 ? until - now : 60000);
}

static void turn(struct agent *a)
{
	struct pollfd fds[FIXED_FDS + STREAMS * STREAM_FDS];
	unsigned n;
	bool quiet;

	if (a->port < 0 && !a->over && now_ms() >= a->retry_ms)
		port_open(a);
	port_write(a);
	quiet = a->retry_ms > now_ms();
	fds[0] = (struct pollfd){.fd = quiet ? -1 : a->port, .events = POLLIN};
	if (a->out.len > a->out_sent)
		fds[0].events |= POLLOUT;
	fds[1] = (struct pollfd){.fd = a->control, .events = POLLIN};
	fds[2] = (struct pollfd){.fd = a->netlink, .events = POLLIN};
	fds[3] = (struct pollfd){.fd = a->listener, .events = POLLIN};
	n = streams_poll(a, fds + FIXED_FDS);
	if (poll(fds, FIXED_FDS + n, wait_ms(a)) < 0)
		return;
	streams_work(a, fds + FIXED_FDS);
	if (fds[0].revents != 0 && fds[0].fd >= 0)
		port_read(a);
	if (fds[3].revents != 0)
		port_accept(a);
	if (fds[1].revents != 0)
		take_control(a);
	if (fds[2].revents != 0)
		take_netlink(a);
}

int main(int argc, char **argv)
{
	static const struct argp_option table[] = {
		{"port", OPTION_PORT, "PATH", 0,
	         "Speak to the host over PATH, a device or a Unix socket", 0},
		{"fd", OPTION_FD, "N", 0,
	         "Speak over the open descriptor N; of a socket, end when the host does", 0},
		{"vsock", OPTION_VSOCK, "PORT", 0, "Listen for the host on vsock PORT instead", 0},
		{"vsock-host", OPTION_VSOCK_HOST, "CID", 0,
	         "Take connections of CID alone (2, the host)", 0},
		{"run", OPTION_RUN, "DIR", 0, "Directory of the agent's own files (/run/blix)", 0},
		{"secrets", OPTION_SECRETS, "DIR", 0,
	         "Keep secrets in DIR, wherever that is (/run/secrets, in memory)", 0},
		{"ready-at-start", OPTION_READY, NULL, 0, "The guest is ready when the agent runs",
	         0},
		{0},
	};
	static const struct argp argp = {
		table,
		parse,
		"[ready]",
		"The guest's end of exec, copy, readiness and shutdown. `blix-agent ready` tells "
		"the "
		"running agent that the guest is ready.",
		NULL,
		NULL,
		NULL,
	};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct sigaction standard = {.sa_handler = SIG_DFL};
	struct options options = {.fd = -1, .vsock_host = HOST_CID, .run = "/run/blix"};
	struct agent a = {.listener = -1, .port = -1, .netlink = -1};
	struct blix_error err;

	argp_err_exit_status = blix_code_info(BLIX_E_INVALID)->exit;
	(void)argp_parse(&argp, argc, argv, 0, NULL, &options);
	if (options.say_ready)
		return say_ready(options.run);
	(void)sigaction(SIGPIPE, &ignore, NULL);
	(void)sigaction(SIGHUP, &ignore, NULL);
	(void)sigaction(SIGCHLD, &standard, NULL); /* ignored, commands would have no status */
	a.port_path = options.port;
	a.given = options.fd;
	a.vsock_port = options.vsock_port;
	a.vsock_host = options.vsock_host;
	a.run = options.run;
	a.secrets = options.secrets;
	a.ready = options.ready_at_start;
	buf_init(&a.out, OUT_MOST);
	frame_reader_init(&a.in);
	a.control = file_make_dirs(a.run, 0755, &err) < 0 || chmod(a.run, 0700) < 0
	                    ? -1
	                    : control_socket(a.run, true, &err);
	if (a.control < 0) {
		(void)fprintf(stderr, "blix-agent: %s\n", err.text);
		return 1;
	}
	a.netlink = guest_netlink();
	a.identity = guest_has_identity(&a);
	freeze_recover(&a);
	while (!a.over || a.n_streams > 0)
		turn(&a);
	return 0;
}
