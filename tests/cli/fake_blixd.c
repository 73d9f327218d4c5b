/* A blixd whose answers are a script: `fake_blixd SOCKET DIR`. The n-th request is answered by the
 * file DIR/n and noted in DIR/log as "METHOD PATH session=S request=R BODY". First line of a file:
 * an HTTP status, "drop" (close without an answer) or "hang" (never answer); then header lines, an
 * empty line, and the body. A request without a file is answered by DIR/rest, else by 599. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS 16

static const char *dir;
static int requests;

struct client {
	int fd;
	size_t n;
	char in[65536];
};

static char *slurp(int n)
{
	static char text[8 << 20];
	static char none[] = "599\n\n{}";
	char path[512];
	FILE *file;
	size_t got;

	snprintf(path, sizeof(path), "%s/%d", dir, n);
	file = fopen(path, "r");
	if (file == NULL) {
		snprintf(path, sizeof(path), "%s/rest", dir);
		file = fopen(path, "r");
	}
	if (file == NULL)
		return none;
	got = fread(text, 1, sizeof(text) - 1, file);
	text[got] = '\0';
	fclose(file);
	return text;
}

static void note(const char *request, const char *body, int length)
{
	char path[512], method[16] = "", target[1024] = "";
	const char *session = strcasestr(request, "\r\nBlix-Session: ");
	const char *number = strcasestr(request, "\r\nBlix-Request: ");
	FILE *file;

	snprintf(path, sizeof(path), "%s/log", dir);
	file = fopen(path, "a");
	sscanf(request, "%15s %1023s", method, target);
	fprintf(file, "%s %s session=%ld request=%ld %.*s\n", method, target,
	        session ? strtol(session + 16, NULL, 10) : 0,
	        number ? strtol(number + 16, NULL, 10) : 0, length, body);
	fclose(file);
}

static void send_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);

		if (sent <= 0)
			return;
		data += sent;
		n -= (size_t)sent;
	}
}

/* False: close the connection. */
static int answer(int fd)
{
	char *text = slurp(++requests);
	char *headers = strchr(text, '\n') + 1;
	char *end = headers[0] == '\n' ? headers : strstr(headers, "\n\n") + 1;
	char line[256];

	if (strncmp(text, "drop", 4) == 0)
		return 0;
	if (strncmp(text, "hang", 4) == 0)
		return 1;
	snprintf(line, sizeof(line), "HTTP/1.1 %.3s X\r\nContent-Length: %zu\r\n", text,
	         strlen(end + 1));
	send_all(fd, line, strlen(line));
	for (char *p = headers; p < end; p++) {
		char *stop = strchr(p, '\n');

		send_all(fd, p, (size_t)(stop - p));
		send_all(fd, "\r\n", 2);
		p = stop;
	}
	send_all(fd, "\r\n", 2);
	send_all(fd, end + 1, strlen(end + 1));
	return 1;
}

/* Answers each whole request in the buffer. */
static int serve(struct client *client)
{
	for (;;) {
		char *end = strstr(client->in, "\r\n\r\n");
		const char *header = strcasestr(client->in, "\r\nContent-Length: ");
		size_t length =
			header != NULL && header < end ? (size_t)strtol(header + 18, NULL, 10) : 0;
		size_t whole = end != NULL ? (size_t)(end + 4 - client->in) + length : 0;

		if (end == NULL || client->n < whole)
			return 1;
		note(client->in, end + 4, (int)length);
		if (!answer(client->fd))
			return 0;
		memmove(client->in, client->in + whole, client->n - whole + 1);
		client->n -= whole;
	}
}

static void client_read(struct client *client)
{
	ssize_t n = recv(client->fd, client->in + client->n, sizeof(client->in) - 1 - client->n, 0);

	if (n > 0) {
		client->n += (size_t)n;
		client->in[client->n] = '\0';
		if (serve(client))
			return;
	}
	close(client->fd);
	client->fd = -1;
}

int main(int argc, char **argv)
{
	static struct client clients[CLIENTS];
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	if (argc != 3)
		return 64;
	dir = argv[2];
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[1]);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, CLIENTS) < 0)
		return 1;
	for (int i = 0; i < CLIENTS; i++)
		clients[i].fd = -1;
	for (;;) {
		struct pollfd fds[CLIENTS + 1] = {{listener, POLLIN, 0}};

		for (int i = 0; i < CLIENTS; i++)
			fds[i + 1] = (struct pollfd){clients[i].fd, POLLIN, 0};
		if (poll(fds, CLIENTS + 1, -1) < 0)
			continue;
		for (int i = 0; i < CLIENTS; i++) {
			if (fds[i + 1].revents != 0)
				client_read(&clients[i]);
			else if (fds[0].revents != 0 && clients[i].fd < 0) {
				fds[0].revents = 0;
				clients[i].n = 0;
				clients[i].fd = accept(listener, NULL, NULL);
			}
		}
	}
}
