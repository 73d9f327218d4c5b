/* blix vm console: this terminal at the guest's console, until Ctrl-] or the VM's end. */
#include "pump.h"
#include "terminal.h"

#include <string.h>
#include <unistd.h>

#define CTRL_BRACKET 0x1d

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
	struct pump pump = {.input = true, .raw = terminal, .escape = terminal ? CTRL_BRACKET : 0};
	cleanup(json_freep) cJSON *ended = NULL;
	struct blix_error err;
	enum pump_end end;
	int number = 0;

	cli_catch_interrupt();
	if (console_open(cli, name, terminal, &pump.stream, &err) < 0)
		return talk_error(cli, "vm", name, &err);
	if (terminal)
		talk_note(cli, "vm %s: attached; Ctrl-] detaches", name);
	end = pump_run(&pump, &number, &ended, &err);
	client_stream_close(pump.stream);
	return finish(cli, name, end, number, &err);
}
