/* RUN/shim.sock: attach, stop, wait. A client sends one line, a flat JSON object, and gets one:
 *
 *   {"do":"attach","rows":24,"cols":80}  {"offset":N}, then raw bytes both ways until either side
 *                                        closes; N bytes of the log were written before
 *   {"do":"resize","rows":24,"cols":80}  {}
 *   {"do":"stop"}  SIGTERM to the program; {"do":"kill"}  SIGKILL to all that it started: {}
 *   {"do":"wait"}                        the text of exit.json, when it is written
 *   {"do":"status"}                      the text of status.json
 *
 * Where the program is a unit of systemd (--hold), only the first two can be asked for.
 *
 * What cannot be done is answered by {"error":"..."}. Nobody can hold the guest up: output that a
 * client does not take is not kept for it, input that the program does not take is not read from
 * the clients. Only root and the shim's own user may ask. */
#include "shim.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/process.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct request {
	char what[16];
	uint64_t rows, cols;
};

/* By the descriptor of the directory, so that no path is too long for a socket's address. */
int serve_open(struct serve *serve, struct blix_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t mask;
	int rc;

	for (size_t i = 0; i < SERVE_CLIENTS; i++)
		serve->clients[i].fd = -1;
	(void)unlinkat(serve->run, "shim.sock", 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/shim.sock",
	               serve->run);
	serve->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (serve->listener < 0)
		return blix_fail_sys(err, errno, "socket");
	mask = umask(0177);
	rc = bind(serve->listener, (struct sockaddr *)&address, sizeof(address));
	(void)umask(mask);
	if (rc < 0 || listen(serve->listener, SERVE_CLIENTS) < 0)
		return blix_fail_sys(err, errno, "listen at shim.sock");
	return 0;
}

static void client_close(struct client *client)
{
	(void)close(client->fd);
	client->fd = -1;
}

static void client_send(const struct client *client, const char *data, size_t n)
{
	(void)!send(client->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Answers, and leaves. */
static void client_answer(struct client *client, const char *text)
{
	client_send(client, text, strlen(text));
	client_close(client);
}

static bool is_allowed(int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

/* A free place, or that of one who never said what it wants. */
static struct client *find_place(struct serve *serve)
{
	struct client *mute = NULL;

	for (size_t i = 0; i < SERVE_CLIENTS; i++) {
		struct client *client = &serve->clients[i];

		if (client->fd < 0)
			return client;
		if (client->state == CLIENT_ASKS && mute == NULL)
			mute = client;
	}
	if (mute != NULL)
		client_close(mute);
	return mute;
}

static void accept_client(struct serve *serve)
{
	struct client come = {.state = CLIENT_ASKS};
	struct sockaddr_un from;
	socklen_t n = sizeof(from);
	struct client *place;

	come.fd = accept4(serve->listener, (struct sockaddr *)&from, &n, SOCK_CLOEXEC);
	if (come.fd < 0)
		return;
	place = is_allowed(come.fd) ? find_place(serve) : NULL;
	if (place == NULL) {
		client_answer(&come, "{\"error\":\"not permitted, or too many are connected\"}\n");
		return;
	}
	*place = come;
}

static char *skip(char *p)
{
	return p + strspn(p, " \t\r");
}

/* One member; NULL when it is none. */
static char *parse_member(char *p, struct request *ret)
{
	char key[8] = "", digits[8] = "";
	uint64_t *number;
	int n = 0;

	if (sscanf(p, "\"do\" : \"%15[a-z]\"%n", ret->what, &n) == 1 && n > 0)
		return p + n;
	if (sscanf(p, "\"%7[a-z]\" : %7[0-9]%n", key, digits, &n) != 2 || n == 0)
		return NULL;
	number = strcmp(key, "rows") == 0 ? &ret->rows : &ret->cols;
	if ((number == &ret->cols && strcmp(key, "cols") != 0) ||
	    parse_u64(digits, number, NULL) < 0 || *number > UINT16_MAX)
		return NULL;
	return p + n;
}

static bool parse_request(char *line, struct request *ret)
{
	char *p = skip(line);

	if (*p != '{')
		return false;
	do {
		p = parse_member(skip(p + 1), ret);
		if (p == NULL)
			return false;
		p = skip(p);
	} while (*p == ',');
	return *p == '}' && *skip(p + 1) == '\0';
}

/* The program has no controlling terminal, or the death of the shim would end it: it is told. */
static void resize(const struct serve *serve, const struct request *request)
{
	struct winsize size = {.ws_row = (uint16_t)request->rows,
	                       .ws_col = (uint16_t)request->cols};

	if (request->rows == 0 || request->cols == 0)
		return;
	(void)ioctl(serve->terminal, TIOCSWINSZ, &size);
	(void)process_signal(serve->pidfd, SIGWINCH, NULL);
}

static void do_attach(struct serve *serve, struct client *client, const struct request *request)
{
	char text[48];

	resize(serve, request);
	(void)snprintf(text, sizeof(text), "{\"offset\":%" PRIu64 "}\n", serve->console->size);
	client_send(client, text, strlen(text));
	client->state = CLIENT_ATTACHED;
}

static void do_resize(struct serve *serve, struct client *client, const struct request *request)
{
	resize(serve, request);
	client_answer(client, "{}\n");
}

static void do_stop(struct serve *serve, struct client *client, const struct request *request)
{
	(void)request;
	(void)process_signal(serve->pidfd, SIGTERM, NULL);
	client_answer(client, "{}\n");
}

void serve_kill(const struct serve *serve)
{
	if (serve->cgroup == NULL || cgroup_kill(serve->cgroup, NULL) < 0)
		(void)process_signal(serve->pidfd, SIGKILL, NULL);
}

static void do_kill(struct serve *serve, struct client *client, const struct request *request)
{
	(void)request;
	serve_kill(serve);
	client_answer(client, "{}\n");
}

static void do_wait(struct serve *serve, struct client *client, const struct request *request)
{
	(void)serve;
	(void)request;
	client->state = CLIENT_WAITS;
}

static void do_status(struct serve *serve, struct client *client, const struct request *request)
{
	cleanup(buf_done) struct buf text;

	(void)request;
	buf_init(&text, 64u << 10);
	if (file_read_at(serve->run, "status.json", &text, NULL) < 0 || text.data == NULL)
		client_answer(client, "{\"error\":\"status.json cannot be read\"}\n");
	else
		client_answer(client, text.data);
}

static void client_ask(struct serve *serve, struct client *client)
{
	static const struct {
		const char *what;
		void (*act)(struct serve *, struct client *, const struct request *);
		bool program; /* asks for something that only its own program can give */
	} table[] = {{"attach", do_attach, false}, {"resize", do_resize, false},
	             {"stop", do_stop, true},      {"kill", do_kill, true},
	             {"wait", do_wait, true},      {"status", do_status, true}};
	struct request request = {.what = ""};

	if (parse_request(client->line, &request)) {
		for (size_t i = 0; i < array_size(table); i++) {
			if (strcmp(request.what, table[i].what) != 0)
				continue;
			if (table[i].program && serve->pidfd < 0)
				client_answer(client, "{\"error\":\"systemd stands by it\"}\n");
			else
				table[i].act(serve, client, &request);
			return;
		}
	}
	client_answer(client, "{\"error\":\"not a request\"}\n");
}

/* Byte by byte: what follows the line is already for the program. */
static void client_read_line(struct serve *serve, struct client *client)
{
	ssize_t n;
	char byte;

	while ((n = recv(client->fd, &byte, 1, MSG_DONTWAIT)) == 1 && byte != '\n') {
		if (byte == '\0' || client->n == SERVE_LINE - 1) {
			client_answer(client, "{\"error\":\"not a request\"}\n");
			return;
		}
		client->line[client->n++] = byte;
	}
	client->line[client->n] = '\0';
	if (n == 1)
		client_ask(serve, client);
	else if (n == 0 || errno != EAGAIN)
		client_close(client);
}

static void input_flush(struct serve *serve)
{
	ssize_t n = write(serve->terminal, serve->input, serve->n_input);

	if (n <= 0)
		return;
	serve->n_input -= (size_t)n;
	memmove(serve->input, serve->input + n, serve->n_input);
}

static void client_read(struct serve *serve, struct client *client)
{
	ssize_t n;

	if (client->state == CLIENT_ASKS) {
		client_read_line(serve, client);
		return;
	}
	n = recv(client->fd, serve->input + serve->n_input, sizeof(serve->input) - serve->n_input,
	         MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		client_close(client);
	} else if (n > 0 && client->state == CLIENT_ATTACHED) {
		serve->n_input += (size_t)n;
		input_flush(serve);
	}
}

void serve_polls(const struct serve *serve, struct pollfd *polls)
{
	bool full = serve->n_input > 0;
	const short events[] = {[CLIENT_ASKS] = POLLIN,
	                        [CLIENT_ATTACHED] = full ? 0 : POLLIN,
	                        [CLIENT_WAITS] = 0}; /* its end is told all the same */

	polls[0] = (struct pollfd){.fd = serve->terminal,
	                           .events = (short)(full ? POLLIN | POLLOUT : POLLIN)};
	polls[1] = (struct pollfd){.fd = serve->listener, .events = POLLIN};
	for (size_t i = 0; i < SERVE_CLIENTS; i++) {
		const struct client *client = &serve->clients[i];

		polls[2 + i] = (struct pollfd){.fd = client->fd, .events = events[client->state]};
	}
}

void serve_polled(struct serve *serve, const struct pollfd *polls)
{
	if ((polls[0].revents & POLLOUT) != 0)
		input_flush(serve);
	for (size_t i = 0; i < SERVE_CLIENTS; i++) {
		struct client *client = &serve->clients[i];

		if (client->fd < 0 || polls[2 + i].revents == 0)
			continue;
		if (serve->n_input == 0 || client->state == CLIENT_ASKS)
			client_read(serve, client);
		else if ((polls[2 + i].revents & (POLLHUP | POLLERR)) != 0)
			client_close(client);
	}
	if (polls[1].revents != 0)
		accept_client(serve);
}

void serve_output(struct serve *serve, const char *data, size_t n)
{
	for (size_t i = 0; i < SERVE_CLIENTS; i++) {
		if (serve->clients[i].fd >= 0 && serve->clients[i].state == CLIENT_ATTACHED)
			client_send(&serve->clients[i], data, n);
	}
}

void serve_done(struct serve *serve, const char *answer, size_t n)
{
	for (size_t i = 0; i < SERVE_CLIENTS; i++) {
		struct client *client = &serve->clients[i];

		if (client->fd >= 0 && client->state == CLIENT_WAITS)
			client_send(client, answer, n);
		if (client->fd >= 0)
			client_close(client);
	}
	(void)unlinkat(serve->run, "shim.sock", 0);
	(void)close(serve->listener);
}
