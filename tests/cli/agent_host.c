/* The host's end of blix-agent's port, for tests: one stream, stdin and stdout as in the guest.
 *
 *   agent_host (--listen | --connect) SOCKET [--session ID] [--raw] [--linger FILE] REQUEST...
 *
 * Each REQUEST is the JSON of an OPEN; they run one after the other. --listen waits for the agent,
 * --connect goes to QEMU's socket, or to vsock:CID:PORT. Stdin is the first stream's STDIN. HELLO,
 * OPENED, EXIT and ERROR go to file descriptor 3, one a line. --raw sends stdin as it is, after the
 * HELLO, instead of a stream. --linger keeps a stream open, without an end of file, until FILE is
 * there, then closes it. `resize:ROWS:COLS` and `signal:N` in place of a request are sent on the
 * stream before; so is `close`. Exits 0 after EXIT, 1 after ERROR, 2 when the connection or the
 * session ends. */
#include "base/alloc.h"
#include "base/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h> /* wants sys/socket.h before it */

static int port = -1;
static struct frame_reader in;
static struct frame_window window;
static struct buf out;
static uint32_t id;
static char *own; /* "session":"..." as the agent repeats it */
static bool hello, opened, over, failed, input_open = true;

static void die(const char *what)
{
	perror(what);
	_exit(2);
}

static bool connect_vsock(const char *path)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK};

	if (sscanf(path, "vsock:%u:%u", &address.svm_cid, &address.svm_port) != 2)
		return false;
	port = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(port, (struct sockaddr *)&address, sizeof(address)) < 0)
		die(path);
	return true;
}

static void connect_port(const char *path, bool listening)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (!listening && connect_vsock(path))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (strlen(path) >= sizeof(address.sun_path))
		die(path);
	memcpy(address.sun_path, path, strlen(path));
	if (!listening) {
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
			die(path);
		port = fd;
		return;
	}
	(void)unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0)
		die(path);
	port = accept(fd, NULL, NULL);
	if (port < 0)
		die(path);
}

static void tell(const struct frame *f)
{
	(void)dprintf(3, "%s %.*s\n", frame_type_name(f->type), (int)f->len, f->data);
}

static void take_frame(const struct frame *f)
{
	uint32_t grant;

	switch (f->type) {
	case FRAME_HELLO:
		tell(f);
		if (memmem(f->data, f->len, own, strlen(own)) != NULL)
			hello = true;
		else if (hello)
			die("the session was ended");
		break;
	case FRAME_OPENED:
		tell(f);
		opened = true;
		break;
	case FRAME_STDOUT:
	case FRAME_STDERR:
		if (frame_window_receive(&window, f->len, NULL) < 0)
			die("more than the window");
		for (size_t at = 0; at < f->len;) {
			ssize_t n =
				write(f->type == FRAME_STDOUT ? 1 : 2, f->data + at, f->len - at);

			if (n < 0)
				die("write");
			at += (size_t)n;
		}
		grant = frame_window_consume(&window, f->len);
		if (grant > 0)
			(void)frame_put_credit(&out, id, grant);
		break;
	case FRAME_CREDIT:
		if (frame_window_credit(&window, frame_credit(f), NULL) < 0)
			die("credit");
		break;
	case FRAME_EXIT:
	case FRAME_ERROR:
		tell(f);
		over = true;
		failed = f->type == FRAME_ERROR;
		break;
	case FRAME_EOF:
		break;
	case FRAME_OPEN:
	case FRAME_STDIN:
	case FRAME_RESIZE:
	case FRAME_SIGNAL:
	case FRAME_CLOSE:
	default:
		die("a frame for the guest");
	}
}

static void read_port(void)
{
	char data[65536];
	struct frame f;
	ssize_t n = read(port, data, sizeof(data));

	if (n <= 0) {
		(void)dprintf(3, "END\n");
		_exit(2);
	}
	(void)frame_reader_feed(&in, data, (size_t)n, NULL);
	while ((n = frame_reader_next(&in, &f, NULL)) == 1)
		take_frame(&f);
	if (n < 0)
		die("a bad frame");
}

static void read_input(void)
{
	char data[65536];
	size_t most = window.may_send < sizeof(data) ? window.may_send : sizeof(data);
	ssize_t n = read(0, data, most);

	if (n > 0) {
		frame_window_send(&window, (size_t)n);
		(void)frame_put(&out, id, FRAME_STDIN, data, (size_t)n);
		return;
	}
	input_open = false;
	(void)frame_put_byte(&out, id, FRAME_EOF, 0);
}

static void turn(bool input, int timeout_ms)
{
	bool take_input = input && input_open && window.may_send > 0 && out.len < 65536;
	struct pollfd fds[2] = {
		{.fd = port, .events = (short)(POLLIN | (out.len > 0 ? POLLOUT : 0))},
		{.fd = take_input ? 0 : -1, .events = POLLIN},
	};

	if (poll(fds, 2, timeout_ms) < 0)
		die("poll");
	if ((fds[0].revents & POLLOUT) != 0) {
		ssize_t n = write(port, out.data, out.len);

		if (n < 0)
			die("write to the port");
		buf_consume(&out, (size_t)n);
	}
	if ((fds[0].revents & (POLLIN | POLLHUP)) != 0)
		read_port();
	if (fds[1].revents != 0)
		read_input();
}

/* Sends what is no request; true if it was that. */
static bool extra(const char *word)
{
	unsigned a = 0;
	unsigned b = 0;

	if (sscanf(word, "resize:%u:%u", &a, &b) == 2)
		(void)frame_put_size(&out, id, (uint16_t)a, (uint16_t)b);
	else if (sscanf(word, "signal:%u", &a) == 1)
		(void)frame_put_byte(&out, id, FRAME_SIGNAL, (uint8_t)a);
	else if (strcmp(word, "close") == 0)
		(void)frame_put(&out, id, FRAME_CLOSE, NULL, 0);
	else
		return false;
	return true;
}

static void raw_input(void)
{
	char data[65536];
	ssize_t n;

	while ((n = read(0, data, sizeof(data))) > 0)
		(void)!write(port, data, (size_t)n);
	for (;;)
		turn(false, -1);
}

static void request(char **words, const char *linger)
{
	frame_window_init(&window);
	opened = over = failed = false;
	(void)frame_put_text(&out, ++id, FRAME_OPEN, words[0]);
	while (!over && !opened)
		turn(false, -1);
	for (char **word = words + 1; *word != NULL && extra(*word); word++)
		continue;
	while (linger != NULL && !over && access(linger, F_OK) < 0)
		turn(false, 50);
	if (linger != NULL && !over) {
		(void)frame_put(&out, id, FRAME_CLOSE, NULL, 0);
		while (out.len > 0)
			turn(false, -1);
		return;
	}
	while (!over)
		turn(true, -1);
}

int main(int argc, char **argv)
{
	const char *session = "test";
	const char *linger = NULL;
	bool raw = false;
	int at = 3;
	char *text;

	if (argc < 3)
		return 64;
	for (; at < argc && argv[at][0] == '-'; at++) {
		if (strcmp(argv[at], "--raw") == 0)
			raw = true;
		else if (strcmp(argv[at], "--session") == 0)
			session = argv[++at];
		else
			linger = argv[++at];
	}
	frame_reader_init(&in);
	buf_init(&out, 1 << 20);
	connect_port(argv[2], strcmp(argv[1], "--listen") == 0);
	own = xasprintf("\"session\":\"%s\"", session);
	text = xasprintf("{\"version\":1,%s}", own);
	(void)frame_put_text(&out, 0, FRAME_HELLO, text);
	free(text);
	while (out.len > 0 || !hello)
		turn(false, -1);
	if (raw)
		raw_input();
	for (; at < argc; at++) {
		if (argv[at][0] == '{')
			request(argv + at, linger);
		input_open = input_open && id == 0;
	}
	return failed ? 1 : 0;
}
