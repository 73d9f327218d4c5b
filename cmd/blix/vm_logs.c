/* blix vm logs: the console, from its beginning or its last lines, and with -f what follows until
 * the VM ends. Off a terminal the bytes are the guest's own; on one, controls are shown as \xNN. */
#include "cli.h"

#include <inttypes.h>
#include <string.h>

struct log {
	const char *name;
	uint64_t offset;
	bool ended;
	struct buf text;
};

static int log_fetch(struct cli *cli, struct log *log, bool wait, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s/logs?offset=%" PRIu64 "%s", log->name,
	                                      log->offset, wait ? "&wait=30s" : "");
	struct client *client = cli_client(cli, err);

	if (client == NULL)
		return -(int)err->code;
	return client_text(client, path, &log->text, &log->offset, &log->ended, err);
}

static void print_bytes(const struct cli *cli, const char *text, size_t n)
{
	size_t start = 0;

	if (!cli->out_is_terminal) {
		(void)fwrite(text, 1, n, stdout);
		return;
	}
	/* Consoles end lines with CR LF; the CR before a LF carries nothing. */
	for (size_t i = 0; i < n; i++) {
		if (text[i] != '\r' || (i + 1 < n && text[i + 1] != '\n'))
			continue;
		print_clean(stdout, text + start, i - start);
		start = i + 1;
	}
	print_clean(stdout, text + start, n - start);
}

static size_t tail_start(const struct buf *text, uint64_t lines)
{
	size_t i = text->len;

	if (i > 0 && text->data[i - 1] == '\n')
		i--;
	while (i > 0 && lines > 0) {
		if (text->data[i - 1] == '\n' && --lines == 0)
			break;
		i--;
	}
	return i;
}

/* Everything there is now: the daemon may give it in pieces. */
static int log_now(struct cli *cli, struct log *log, struct blix_error *err)
{
	size_t before;
	int rc;

	do {
		before = log->text.len;
		rc = log_fetch(cli, log, false, err);
	} while (rc == 0 && log->text.len > before);
	return rc;
}

static int log_follow(struct cli *cli, struct log *log, struct blix_error *err)
{
	for (;;) {
		int rc = log_fetch(cli, log, true, err);

		if (rc < 0)
			return rc;
		if (log->text.len == 0 && log->ended)
			return 0;
		if (log->text.len > 0)
			print_bytes(cli, log->text.data, log->text.len);
		buf_clear(&log->text);
		if (fflush(stdout) != 0)
			return 0;
	}
}

int vm_logs_run(struct cli *cli)
{
	struct log log = {.name = cli->arguments.names[0]};
	struct blix_error err;
	size_t start = 0;
	int rc, code;

	buf_init(&log.text, LIMIT_ANSWER);
	rc = log_now(cli, &log, &err);
	if (rc == 0 && log.text.len > 0) {
		if (given(cli, OPTION_TAIL))
			start = cli->arguments.tail > 0 ? tail_start(&log.text, cli->arguments.tail)
			                                : log.text.len;
		print_bytes(cli, log.text.data + start, log.text.len - start);
	}
	if (rc == 0 && given(cli, OPTION_FOLLOW)) {
		(void)fflush(stdout);
		buf_clear(&log.text);
		rc = log_follow(cli, &log, &err);
	}
	buf_done(&log.text);
	code = cli_flush(cli);
	return rc < 0 ? talk_error(cli, "vm", log.name, &err) : code;
}
