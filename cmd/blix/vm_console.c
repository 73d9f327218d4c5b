/* blix vm console: this terminal at the guest's console, until a key (Ctrl-], or that of --escape)
 * is typed or the VM ends. */
#include "pump.h"
#include "terminal.h"

#include <string.h>
#include <unistd.h>

#define CTRL 0x1f /* what Ctrl leaves of a key */

static int console_open(struct cli *cli, const char *name, bool terminal,
                        struct client_stream **ret, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s/console", name);
	cleanup(json_freep) cJSON *body = json_object();
	struct client *client = cli_client(cli, err);
	uint16_t rows, columns;

	if (client == NULL)
		return -(int)err->code;
	if (terminal && terminal_size(&rows, &columns)) {
		json_add_u64(body, "rows", rows);
		json_add_u64(body, "columns", columns);
	}
	return client_stream_open(client, path, body, ret, err);
}

/* "ctrl-X" or "none"; *ret is 0 for none, *ret_name how a person writes the key. */
static int escape_parse(const char *text, char *ret, char *ret_name, struct blix_error *err)
{
	char key = '\0';

	*ret = '\0';
	if (text != NULL && strcmp(text, "none") == 0)
		return 0;
	if (text == NULL)
		key = ']';
	else if (strncasecmp(text, "ctrl-", 5) == 0 && strlen(text) == 6)
		key = text[5] >= 'a' && text[5] <= 'z' ? (char)(text[5] - 'a' + 'A') : text[5];
	if (key <= '@' || key > '_') {
		(void)blix_fail(err, BLIX_E_INVALID, "--escape: '%.32s' is no key", text);
		blix_hint(err, "write 'ctrl-' and a letter or one of [ \\ ] ^ _, or 'none'");
		return -(int)BLIX_E_INVALID;
	}
	*ret = (char)(key & CTRL);
	(void)snprintf(ret_name, 8, "Ctrl-%c", key);
	return 0;
}

static int finish(struct cli *cli, const char *name, enum pump_end end, int signal_number,
                  const struct blix_error *err)
{
	if (end == PUMP_LOST)
		return talk_error(cli, "vm", name, err);
	if (end == PUMP_SIGNAL)
		return 128 + signal_number;
	if (isatty(STDIN_FILENO) == 1 && !given(cli, OPTION_QUIET))
		(void)fputc('\n', stderr); /* the guest's last line need not have ended */
	talk_note(cli, "vm %s: %s", name,
	          end == PUMP_ESCAPED ? "detached" : "its console has ended");
	return 0;
}

int vm_console_run(struct cli *cli)
{
	const char *name = cli->arguments.names[0];
	bool terminal = isatty(STDIN_FILENO) == 1;
	struct pump pump = {.input = true, .raw = terminal};
	cleanup(json_freep) cJSON *ended = NULL;
	struct blix_error err;
	enum pump_end end;
	char key[8] = "", escape;
	int number = 0;

	if (escape_parse(cli->arguments.values[OPTION_ESCAPE], &escape, key, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	pump.escape = terminal ? escape : '\0';
	cli_catch_interrupt();
	if (console_open(cli, name, terminal, &pump.stream, &err) < 0)
		return talk_error(cli, "vm", name, &err);
	if (terminal && escape != '\0')
		talk_note(cli, "vm %s: attached; %s detaches", name, key);
	else if (terminal)
		talk_note(cli, "vm %s: attached until it ends; no key detaches", name);
	end = pump_run(&pump, &number, &ended, &err);
	client_stream_close(pump.stream);
	return finish(cli, name, end, number, &err);
}
