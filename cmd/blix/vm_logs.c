/* blix vm logs: the console of this run, from its beginning or its last lines, and with -f what
 * follows until the VM ends. Off a terminal the bytes are the guest's own; on one, controls are
 * shown as \xNN. The node keeps only the last of a console: what was dropped before it was read is
 * told on stderr, where it is missing. */
#include "cli.h"

#include <inttypes.h>
#include <string.h>

struct log {
	const char *name;
	bool begun; /* `offset` is where the bytes that are known end */
	uint64_t offset;
	bool ended;
	uint64_t skipped; /* before what `text` got last */
	struct buf text;
};

static int log_fetch(struct cli *cli, struct log *log, const char *query, struct blix_error *err)
{
	cleanup(freep) char *path =
		log->begun ? xasprintf("/v1/vms/%s/logs?offset=%" PRIu64 "%s%s", log->name,
	                               log->offset, query[0] != '\0' ? "&" : "", query)
			   : xasprintf("/v1/vms/%s/logs%s%s", log->name,
	                               query[0] != '\0' ? "?" : "", query);
	struct client *client = cli_client(cli, err);
	uint64_t before = log->offset, length = log->text.len;
	int rc;

	if (client == NULL)
		return -(int)err->code;
	rc = client_text(client, path, &log->text, &log->offset, &log->ended, err);
	if (rc < 0)
		return rc;
	length = log->text.len - length;
	/* A smaller offset is that of a log that began anew. */
	log->skipped =
		log->begun && log->offset > before + length ? log->offset - before - length : 0;
	log->begun = true;
	return 0;
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

/* What came is printed and forgotten. False when nobody takes it. */
static bool print_text(struct cli *cli, struct log *log)
{
	if (log->skipped > 0) {
		(void)fflush(stdout);
		talk_note(cli, "vm %s: %" PRIu64 " bytes skipped: they are not kept any more",
		          log->name, log->skipped);
	}
	if (log->text.len > 0)
		print_bytes(cli, log->text.data, log->text.len);
	buf_clear(&log->text);
	return fflush(stdout) == 0;
}

/* Everything there is now, which the daemon gives in pieces; the last lines of it at most. */
static int log_now(struct cli *cli, struct log *log, struct blix_error *err)
{
	uint64_t tail = cli->arguments.tail, before;
	bool more = true;

	while (more) {
		before = log->offset;
		if (log_fetch(cli, log, "", err) < 0)
			return -(int)err->code;
		more = log->offset != before;
		if (!given(cli, OPTION_TAIL))
			more = print_text(cli, log) && more;
		else
			buf_consume(&log->text,
			            tail > 0 ? tail_start(&log->text, tail) : log->text.len);
	}
	log->skipped = 0;
	(void)print_text(cli, log);
	return 0;
}

static int log_follow(struct cli *cli, struct log *log, struct blix_error *err)
{
	for (;;) {
		int rc = log_fetch(cli, log, "wait=30s", err);

		if (rc < 0)
			return rc;
		if (log->text.len == 0 && log->ended)
			return 0;
		if (!print_text(cli, log))
			return 0;
	}
}

int vm_logs_run(struct cli *cli)
{
	struct log log = {.name = cli->arguments.names[0]};
	struct blix_error err;
	int rc, code;

	buf_init(&log.text, LIMIT_ANSWER);
	rc = log_now(cli, &log, &err);
	if (rc == 0 && given(cli, OPTION_FOLLOW))
		rc = log_follow(cli, &log, &err);
	buf_done(&log.text);
	code = cli_flush(cli);
	return rc < 0 ? talk_error(cli, "vm", log.name, &err) : code;
}
