/* Help from the verb table, and three topics that belong to no verb. `help --all` prints every verb
 * with its options, one a line, as the check of the man pages reads it. */
#include "cli.h"

#include "base/parse.h"

#include <string.h>

static const char topic_exit_codes[] =
	"Exit codes of blix\n\n"
	"    0  done, or nothing to change     64  wrong usage\n"
	"    1  any other failure              69  no daemon, leader or quorum\n"
	"    3  not found                      75  busy: try again\n"
	"    4  exists, or version conflict    77  not permitted\n"
	"    5  refused in this state          78  configuration or spec is not valid\n"
	"    6  no node has room              124  timed out, the work continues\n"
	"    8  image build or fetch failed   130  interrupted, the work continues\n"
	"    9  VM failed to start            125  exec, run: failed before the command\n"
	"   10  VM did not become ready       else they have the command's own code\n";

static const char topic_config[] =
	"Where blix takes its settings from, the first that is set\n\n"
	"  --endpoint SOCKET, --output FORMAT, --timeout D\n"
	"  BLIX_ENDPOINT, BLIX_OUTPUT, BLIX_TIMEOUT in the environment\n"
	"  BLIX_CA, BLIX_CERT, BLIX_KEY: files of the cluster's CA and of your own\n"
	"      certificate and key, for an endpoint https://HOST:PORT\n"
	"  $XDG_CONFIG_HOME/blix/config.json (or ~/.config/blix/config.json):\n"
	"      {\"endpoint\": \"unix:/run/blix/blix.sock\", \"output\": \"table\", \"timeout\": "
	"\"10m\"}\n"
	"  \"socket\" in /etc/blix/blix.json\n"
	"  /run/blix/blix.sock\n\n"
	"An endpoint may be several, separated by commas: they are tried in turn. The file\n"
	"may have \"ca\", \"cert\" and \"key\", too.\n"
	"NO_COLOR in the environment turns colours off.\n";

static const char topic_output[] =
	"Output\n\n"
	"Data goes to stdout, progress, notes and errors to stderr.\n\n"
	"  -o table   for people; -o wide has more columns, --columns chooses them\n"
	"  -o json    one document: camelCase, times RFC 3339 UTC, sizes in bytes, unknown = "
	"absent;\n"
	"             an error is one JSON object on stderr\n"
	"  -o jsonl   one object a line\n"
	"  -o name    names only\n\n"
	"Off a terminal nothing is shortened, coloured or asked.\n";

static const struct {
	const char *name, *text;
} topics[] = {{"exit-codes", topic_exit_codes}, {"config", topic_config}, {"output", topic_output}};

static void print_usage(const struct verb *verb)
{
	(void)printf("blix %s%s%s%s%s", verb->noun, verb->noun[0] != '\0' ? " " : "", verb->verb,
	             verb->arguments[0] != '\0' ? " " : "", verb->arguments);
}

static void print_option(const struct option_row *row)
{
	char text[64];
	char letter[8] = "    ";

	if (row->letter != 0)
		(void)snprintf(letter, sizeof(letter), "-%c, ", row->letter);
	(void)snprintf(text, sizeof(text), "%s--%s%s%s", letter, row->name,
	               row->value != NULL ? " " : "", row->value != NULL ? row->value : "");
	(void)printf("  %-28s %s\n", text, row->text);
}

void help_verb(const struct verb *verb)
{
	(void)printf("Usage: ");
	print_usage(verb);
	(void)printf(" [OPTION...]\n%c%s.%s%s%s\n\nOptions:\n", verb->summary[0] - 'a' + 'A',
	             verb->summary + 1, verb->alias != NULL ? " Also: " : "",
	             verb->alias != NULL ? verb->alias : "", verb->alias != NULL ? "." : "");
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if ((verb->options >> i & 1) != 0)
			print_option(&option_rows[i]);
	}
	(void)printf("\nExample: %s\n", verb->example);
}

static void print_verbs(FILE *file, const char *noun)
{
	for (size_t i = 0; i < n_verbs; i++) {
		char text[64];

		if (noun != NULL && strcmp(verbs[i].noun, noun) != 0)
			continue;
		(void)snprintf(text, sizeof(text), "%s%s%s%s%s", verbs[i].noun,
		               verbs[i].noun[0] != '\0' ? " " : "", verbs[i].verb,
		               verbs[i].alias != NULL ? "|" : "",
		               verbs[i].alias != NULL ? verbs[i].alias : "");
		(void)fprintf(file, "  %-18s %s\n", text, verbs[i].summary);
	}
}

void help_overview(FILE *file)
{
	(void)fputs("Usage: blix NOUN VERB [NAME...] [OPTION...]\n\n", file);
	print_verbs(file, NULL);
	(void)fputs("\n'blix help NOUN VERB' explains one; 'blix help exit-codes', 'config' and "
	            "'output' explain the rest.\n",
	            file);
}

static void print_all(void)
{
	for (size_t i = 0; i < n_verbs; i++) {
		print_usage(&verbs[i]);
		(void)fputc('\n', stdout);
		for (size_t k = 0; k < OPTION_COUNT; k++) {
			if ((verbs[i].options >> k & 1) != 0)
				print_option(&option_rows[k]);
		}
	}
}

static int help_topic(struct cli *cli, const char *topic)
{
	struct blix_error err;

	for (size_t i = 0; i < array_size(topics); i++) {
		if (strcmp(topics[i].name, topic) == 0) {
			(void)fputs(topics[i].text, stdout);
			return cli_flush(cli);
		}
	}
	if (verb_is_noun(topic)) {
		(void)printf("Usage: blix %s VERB\n\n", topic);
		print_verbs(stdout, topic);
		return cli_flush(cli);
	}
	(void)blix_fail(&err, BLIX_E_INVALID, "no help on '%.64s'", topic);
	for (size_t i = 0; i < array_size(topics); i++) {
		if (parse_distance(topics[i].name, topic) <= 2)
			blix_hint(&err, "did you mean '%s'?", topics[i].name);
	}
	if (err.hint[0] == '\0')
		blix_hint(&err,
		          "'blix help' lists the verbs; topics are exit-codes, config, output");
	return talk_error(cli, NULL, NULL, &err);
}

int help_run(struct cli *cli)
{
	const char **names = cli->arguments.names;
	size_t n = cli->arguments.n_names, taken = 0;
	char *words[2] = {NULL, NULL};
	struct blix_error err;
	const struct verb *verb;

	if (n == 0) {
		if (given(cli, OPTION_ALL))
			print_all();
		else
			help_overview(stdout);
		return cli_flush(cli);
	}
	for (size_t i = 0; i < n; i++)
		words[i] = (char *)(uintptr_t)names[i];
	verb = verb_find(words, n, &taken, &err);
	if (verb != NULL && taken == n) {
		help_verb(verb);
		return cli_flush(cli);
	}
	return n == 1 ? help_topic(cli, names[0]) : talk_error(cli, NULL, NULL, &err);
}
