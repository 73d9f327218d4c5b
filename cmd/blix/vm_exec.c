/* blix vm exec: a command in the guest, with its own output, signals and exit code.
 *
 * The exit code is the command's: 127 when there is none of that name and 126 when it cannot be
 * run, as the guest says; 128+n when signal n ended it. What fails before the command has begun is
 * 125; a connection that breaks while it runs has the code of its error, since nobody knows what
 * became of it. */
#include "guest.h"
#include "terminal.h"

#include <string.h>
#include <unistd.h>

static void add_terminal(cJSON *body)
{
	uint16_t rows, columns;

	json_add_bool(body, "tty", true);
	if (!terminal_size(&rows, &columns))
		return;
	json_add_u64(body, "rows", rows);
	json_add_u64(body, "columns", columns);
}

static void add_variable(cJSON *env, const char *text)
{
	size_t n = strcspn(text, "=");
	cleanup(freep) char *key = xstrndup(text, n);
	const char *value = text[n] == '=' ? text + n + 1 : getenv(key);

	cJSON_DeleteItemFromObjectCaseSensitive(env, key);
	if (value != NULL)
		json_add(env, key, cJSON_CreateString(value));
}

static cJSON *exec_body(const struct arguments *arguments, bool terminal)
{
	cJSON *body = json_object(), *argv = json_array(), *env = json_object();
	const char *term = getenv("TERM");

	for (size_t i = 0; i < arguments->n_command; i++)
		json_push_string(argv, arguments->command[i]);
	if (terminal && term != NULL)
		json_add(env, "TERM", cJSON_CreateString(term));
	for (size_t i = 0; i < arguments->n_env; i++)
		add_variable(env, arguments->env[i]);
	json_add(body, "argv", argv);
	json_add(body, "env", env);
	if (terminal)
		add_terminal(body);
	return body;
}

/* Before the command has begun, whatever failed is our own failure. */
static int not_begun(struct cli *cli, const char *name, const struct blix_error *err)
{
	int code = talk_error(cli, "vm", name, err);

	return code == 128 + SIGINT ? code : EXIT_NOT_BEGUN;
}

static int exit_code(struct cli *cli, const char *name, const cJSON *said)
{
	const char *message = text_at(said, "message");
	uint64_t number = u64_at(said, "signal");

	if (message[0] != '\0')
		talk_note(cli, "vm %s: %s", name, message);
	return (int)((number != 0 ? 128 + number : u64_at(said, "exitCode")) & 0xff);
}

int guest_exec(struct cli *cli, const char *name, struct pump *pump)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s/exec", name);
	cleanup(json_freep) cJSON *body = exec_body(&cli->arguments, pump->raw);
	cleanup(json_freep) cJSON *said = NULL;
	struct client *client;
	struct blix_error err;
	enum pump_end end;
	int number = 0;

	client = cli_client(cli, &err);
	if (client == NULL || client_stream_open(client, path, body, &pump->stream, &err) < 0)
		return not_begun(cli, name, &err);
	if (!pump->input)
		client_stream_end_input(pump->stream);
	end = pump_run(pump, &number, &said, &err);
	client_stream_close(pump->stream);
	if (end == PUMP_EXIT)
		return exit_code(cli, name, said);
	if (end == PUMP_SIGNAL)
		return 128 + number;
	if (end == PUMP_CLOSED)
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the stream ended before the command");
	return talk_error(cli, "vm", name, &err);
}

int vm_exec_run(struct cli *cli)
{
	bool terminal = given(cli, OPTION_TTY);
	struct pump pump = {
		.input = given(cli, OPTION_INTERACTIVE), .raw = terminal, .forward = true};
	struct blix_error err;

	if (terminal && isatty(STDIN_FILENO) != 1) {
		(void)blix_fail(&err, BLIX_E_INVALID, "--tty: standard input is no terminal");
		return talk_error(cli, NULL, NULL, &err);
	}
	cli_catch_interrupt();
	return guest_exec(cli, cli->arguments.names[0], &pump);
}
