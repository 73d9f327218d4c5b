/* blix: finds the verb, its options and settings, runs it. Only here the program ends. */
#include "cli.h"

#include "sys/clock.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static bool is_dumb(void)
{
	const char *term = getenv("TERM");

	return term == NULL || strcmp(term, "dumb") == 0;
}

static void cli_init(struct cli *cli)
{
	const char *no_colour = getenv("NO_COLOR");

	cli->arguments.grace_ms = 30000;
	cli->out_is_terminal = isatty(STDOUT_FILENO) == 1;
	cli->talk_is_terminal = isatty(STDERR_FILENO) == 1 && !is_dumb();
	cli->colour =
		cli->out_is_terminal && !is_dumb() && (no_colour == NULL || no_colour[0] == '\0');
	cli->started_ms = clock_boot_ms();
}

static void cli_done(struct cli *cli)
{
	client_free(cli->client);
	settings_done(&cli->settings);
	arguments_done(&cli->arguments);
}

/* An error in the options themselves still speaks the format that they ask for. */
static void guess_output(struct cli *cli, int argc, char **argv)
{
	const char *variable = getenv("BLIX_OUTPUT");
	bool json = variable != NULL && strncmp(variable, "json", 4) == 0;

	for (int i = 1; i < argc; i++) {
		bool apart = strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--output") == 0;

		if (apart && i + 1 < argc)
			json = strncmp(argv[i + 1], "json", 4) == 0;
		else if (strncmp(argv[i], "-ojson", 6) == 0 ||
		         strncmp(argv[i], "--output=json", 13) == 0)
			json = true;
	}
	cli->settings.output = json ? OUTPUT_JSON : OUTPUT_TABLE;
}

static bool is_word(const char *word, const char *letter, const char *name)
{
	return strcmp(word, letter) == 0 || strcmp(word, name) == 0;
}

static int run(struct cli *cli, int argc, char **argv)
{
	static char version[] = "version";
	struct blix_error err;

	if (argc == 2 && is_word(argv[1], "-h", "--help")) {
		help_overview(stdout);
		return cli_flush(cli);
	}
	guess_output(cli, argc, argv);
	if (argc == 2 && is_word(argv[1], "-V", "--version"))
		argv[1] = version;
	if (arguments_parse(cli, argc, argv, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	if (given(cli, OPTION_HELP)) {
		help_verb(cli->verb);
		return cli_flush(cli);
	}
	cli->settings.output = OUTPUT_TABLE;
	if (settings_load(&cli->settings, &cli->arguments, cli->verb, &err) < 0) {
		guess_output(cli, argc, argv);
		return talk_error(cli, NULL, NULL, &err);
	}
	return cli->verb->run(cli);
}

int main(int argc, char **argv)
{
	struct cli *cli = xcalloc(1, sizeof(*cli));
	int code;

	/* A reader that goes away (`| head`) ends the program by the signal, as everywhere. */
	cli_init(cli);
	code = run(cli, argc, argv);
	talk_close(cli);
	cli_done(cli);
	free(cli);
	return code;
}
