/* POST /v1/vms/NAME/console: the terminal that the VM's shim holds, by RUN/vms/NAME/shim.sock.
 *
 * Happy path: {"do":"attach"} and its answer line, then raw bytes: what the guest prints is STDOUT,
 * STDIN is typed. RESIZE goes to the shim by a connection of its own, one at a time. The stream
 * ends when the VM does. The shim holds up no guest: a client that is too slow misses output. */
#include "node/stream.h"

#include "base/alloc.h"
#include "base/json.h"
#include "core/vm.h"
#include "sys/file.h"
#include "sys/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define ANSWER_MAX 512 /* the shim's answers are under 100 bytes */

struct console {
	struct stream *stream;
	struct daemon *daemon;
	struct wire *shim;
	char name[LIMIT_NAME + 1];
	bool attached;
	struct buf line;       /* of the shim's answer */
	size_t typed;          /* bytes of STDIN that the shim has not taken */
	struct wire *resizing; /* NULL: nothing is on its way */
	uint16_t rows, columns;
	bool resize_again;
};

static void console_end(struct console *console)
{
	if (console->shim != NULL)
		wire_close(console->shim, NULL, NULL);
	if (console->resizing != NULL)
		wire_close(console->resizing, NULL, NULL);
	buf_done(&console->line);
	free(console);
}

/* No path is too long for a socket's address this way. */
static int shim_connect(struct console *console, const struct wire_events *events,
                        struct wire **ret, struct blix_error *err)
{
	cleanup(freep) char *dir =
		xasprintf("%s/vms/%s", console->daemon->config->run_dir, console->name);
	cleanup(closep) int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char path[48];

	if (fd < 0)
		return blix_fail_sys(err, errno, "open %s", dir);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d/shim.sock", fd);
	return wire_connect(console->daemon->loop, path, events, console, ret, err);
}

static void refuse(struct console *console, const char *why)
{
	struct stream *stream = console->stream;
	struct blix_error err;

	if (!stream_is_down(console->daemon, console->name, &err)) {
		(void)blix_fail(&err, BLIX_E_REFUSED, "vm %s: its console cannot be reached: %s",
		                console->name, why);
		blix_reason(&err, "no-console");
		blix_hint(&err, "'blix vm logs %s' shows what it printed", console->name);
	}
	console_end(console);
	stream_refuse(stream, &err);
}

static void resize_read(void *data, const char *bytes, size_t n)
{
	(void)data;
	(void)bytes;
	(void)n;
}

static void console_resize(struct console *console);

static void resize_ended(void *data, int status)
{
	struct console *console = data;

	(void)status;
	wire_close(take(console->resizing), NULL, NULL);
	if (console->resize_again)
		console_resize(console);
}

static const struct wire_events resize_events = {.read = resize_read, .ended = resize_ended};

static void console_resize(struct console *console)
{
	cleanup(freep) char *line = NULL;
	struct blix_error err;

	console->resize_again = console->resizing != NULL;
	if (console->resize_again || console->rows == 0 || console->columns == 0 ||
	    shim_connect(console, &resize_events, &console->resizing, &err) < 0)
		return;
	line = xasprintf("{\"do\":\"resize\",\"rows\":%u,\"cols\":%u}\n", console->rows,
	                 console->columns);
	(void)wire_write(console->resizing, line, strlen(line), &err);
	wire_resume(console->resizing);
}

/* Reads on while the client has room for whatever one read may bring. */
static void console_flow(struct console *console)
{
	if (stream_room(console->stream) >= WIRE_READ)
		wire_resume(console->shim);
	else
		wire_pause(console->shim);
}

/* The shim's answer is there, and perhaps output behind it. */
static void console_attached(struct console *console, size_t line_length)
{
	if (strncmp(console->line.data, "{\"offset\":", 10) != 0) {
		refuse(console, "its shim refuses");
		return;
	}
	console->attached = true;
	stream_accept(console->stream);
	buf_consume(&console->line, line_length);
	if (console->line.len > 0)
		stream_send(console->stream, FRAME_STDOUT, console->line.data, console->line.len);
	buf_done(&console->line);
	console_flow(console);
}

static void shim_read(void *data, const char *bytes, size_t n)
{
	struct console *console = data;
	const char *end;

	if (console->attached) {
		stream_send(console->stream, FRAME_STDOUT, bytes, n);
		console_flow(console);
		return;
	}
	(void)buf_add(&console->line, bytes, n);
	end = memchr(console->line.data, '\n', console->line.len);
	if (end != NULL)
		console_attached(console, (size_t)(end - console->line.data) + 1);
	else if (console->line.len > ANSWER_MAX)
		refuse(console, "its shim gives no answer");
}

static void shim_drained(void *data)
{
	struct console *console = data;
	size_t typed = console->typed;

	console->typed = 0;
	stream_consumed(console->stream, typed);
}

static void shim_ended(void *data, int status)
{
	struct console *console = data;
	struct stream *stream = console->stream;

	(void)status;
	if (!console->attached) {
		refuse(console, "its shim gives no answer");
		return;
	}
	console_end(console);
	stream_finish(stream);
}

static const struct wire_events shim_events = {shim_read, shim_drained, shim_ended};

static void client_frame(void *far, const struct frame *frame)
{
	struct console *console = far;
	struct blix_error err;

	if (frame->type == FRAME_RESIZE) {
		frame_size(frame, &console->rows, &console->columns);
		console_resize(console);
	} else if (frame->type == FRAME_STDIN) {
		(void)wire_write(console->shim, frame->data, frame->len, &err);
		if (wire_full(console->shim))
			console->typed += frame->len;
		else
			stream_consumed(console->stream, frame->len);
	}
}

static void client_room(void *far)
{
	console_flow(far);
}

static void client_gone(void *far)
{
	console_end(far);
}

static const struct stream_far console_far = {
	.frame = client_frame, .room = client_room, .gone = client_gone};

static int body_read(const struct http_request *request, struct console *console,
                     struct blix_error *err)
{
	static const char *const keys[] = {"rows", "columns", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	uint64_t rows = 0, columns = 0;
	int rc = stream_body(request, keys, &body, err);

	if (rc == 0)
		rc = json_get_u64(body, "rows", &rows, err);
	if (rc == 0)
		rc = json_get_u64(body, "columns", &columns, err);
	if (rc == 0 && (rows > UINT16_MAX || columns > UINT16_MAX))
		rc = blix_fail(err, BLIX_E_INVALID, "no terminal is as large");
	console->rows = (uint16_t)rows;
	console->columns = (uint16_t)columns;
	return rc;
}

static int console_attach(struct console *console, struct blix_error *err)
{
	cleanup(freep) char *line = NULL;
	int rc = shim_connect(console, &shim_events, &console->shim, err);

	if (rc < 0)
		return rc;
	line = console->rows == 0 || console->columns == 0
	               ? xstrdup("{\"do\":\"attach\"}\n")
	               : xasprintf("{\"do\":\"attach\",\"rows\":%u,\"cols\":%u}\n", console->rows,
	                           console->columns);
	wire_resume(console->shim);
	return wire_write(console->shim, line, strlen(line), err);
}

void vm_console_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const struct vm *vm = stream_vm(d, request, "console");
	struct console *console;
	struct blix_error err;

	if (vm == NULL)
		return;
	console = xcalloc(1, sizeof(*console));
	console->daemon = d;
	memcpy(console->name, vm->name, sizeof(console->name));
	buf_init(&console->line, ANSWER_MAX + WIRE_READ);
	if (body_read(request, console, &err) < 0) {
		console_end(console);
		http_answer_error(request, &err, NULL);
		return;
	}
	console->stream = stream_open(d, request, &console_far, console);
	if (console->stream == NULL)
		console_end(console);
	else if (console_attach(console, &err) < 0)
		refuse(console, err.text);
}
