/* What a host can connect to of a guest, without a guest.
 *
 * A hypervisor's serial port: the host connects to `blix.agent` here, the real
 * blix-agent of the build to `port`, and bytes are passed between them until the guest ends. */
#ifndef FAKE_GUEST_PORT_H
#define FAKE_GUEST_PORT_H

#include "fake.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static int port_listen(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)unlink(path);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)
		return -1;
	return fd;
}

static void port_agent(void)
{
	char here[FAKE_DIR], port[PATH_MAX], run[PATH_MAX], secrets[PATH_MAX], program[PATH_MAX];
	ssize_t got = readlink("/proc/self/exe", here, sizeof(here) - 1);

	here[got > 0 ? got : 0] = '\0';
	*strrchr(here, '/') = '\0'; /* BUILD/tests/fake */
	(void)snprintf(program, sizeof(program), "%s/../../bin/blix-agent", here);
	if (getcwd(here, sizeof(here)) == NULL)
		_exit(1);
	(void)snprintf(port, sizeof(port), "%s/port", here);
	(void)snprintf(run, sizeof(run), "%s/agent", here);
	(void)snprintf(secrets, sizeof(secrets), "%s/secrets", here);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)setenv("PATH", "/usr/bin:/bin", 1);
	(void)execl(program, "blix-agent", "--port", port, "--run", run, "--secrets", secrets,
	            "--ready-at-start", (char *)NULL);
	_exit(127);
}

/* Takes what `from` has; false when it has ended. */
static bool port_pass(int from, int to)
{
	char bytes[65536];
	ssize_t n = read(from, bytes, sizeof(bytes));

	for (ssize_t done = 0; done < n;) {
		ssize_t sent = send(to, bytes + done, (size_t)(n - done), MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		done += sent;
	}
	return n > 0;
}

static _Noreturn void guest_port(void)
{
	int host = port_listen("blix.agent"), port = port_listen("port");

	(void)signal(SIGPIPE, SIG_IGN);
	if (fork() == 0)
		port_agent();
	(void)printf("fake: agent\n");
	(void)fflush(stdout);
	for (;;) {
		struct pollfd ends[2] = {{.fd = accept(host, NULL, NULL), .events = POLLIN},
		                         {.fd = accept(port, NULL, NULL), .events = POLLIN}};
		bool both = true;

		while (both && poll(ends, 2, -1) > 0) {
			for (int i = 0; i < 2 && both; i++)
				both = ends[i].revents == 0 ||
				       port_pass(ends[i].fd, ends[1 - i].fd);
		}
		(void)close(ends[0].fd);
		(void)close(ends[1].fd);
	}
}

/* What systemd does with a socket that accepts: the loader at descriptor 0, told who the peer is.
 * The script is the wrapper's but for its directory. */
static _Noreturn void vsock_guest(int connection, const char *peer)
{
	static const char script[] =
		"sed \"s|^run=.*|run=$PWD/agent|\" "
		"\"../../state/vms/${PWD##*/}/flake/blix-loader\" >loader; exec bash -e loader";

	(void)dup2(connection, 0);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)setenv("PATH", "/usr/bin:/bin", 1);
	(void)setenv("REMOTE_ADDR", peer, 1);
	(void)execl("/bin/bash", "bash", "-c", script, (char *)NULL);
	_exit(127);
}

/* The hypervisor's own line of a connection; false: it is no "CONNECT PORT". */
static bool vsock_asked(int connection)
{
	static const char wanted[] = "CONNECT 2549\n";
	char line[sizeof(wanted)] = "";

	for (size_t n = 0; n < sizeof(wanted) - 1; n++) {
		if (read(connection, line + n, 1) != 1)
			return false;
	}
	return strcmp(line, wanted) == 0;
}

/* `how`: " deaf" closes each connection, as for a port that nobody listens at; " stranger" says
 * that the connection came from inside the guest. */
static _Noreturn void guest_vsock(const char *how)
{
	static const char ok[] = "OK 1073741824\n";
	int host = port_listen("notify.vsock");
	bool deaf = strncmp(how, " deaf", 5) == 0;
	const char *peer = strncmp(how, " stranger", 9) == 0 ? "vsock:1" : "vsock:2";

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGCHLD, SIG_IGN);
	(void)printf("fake: vsock\n");
	(void)fflush(stdout);
	for (;;) {
		int connection = accept4(host, NULL, NULL, SOCK_CLOEXEC);

		if (!vsock_asked(connection))
			(void)printf("fake: asked for something else\n");
		else if (!deaf && send(connection, ok, sizeof(ok) - 1, 0) > 0 && fork() == 0)
			vsock_guest(connection, peer);
		(void)fflush(stdout);
		(void)close(connection);
	}
}

#endif
