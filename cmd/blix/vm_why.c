/* blix vm why: the chain of causes, and what each node lacks. */
#include "cli.h"
#include "table.h"

static const struct column fit_columns[] = {
	{"name", "NODE", "name", NULL, COLUMN_TEXT, false},
	{"fits", "FITS", "fits", NULL, COLUMN_BOOL, false},
	{"reason", "REASON", "reason", NULL, COLUMN_TEXT, false},
	{"need", "NEED", "need", NULL, COLUMN_AMOUNT, false},
	{"have", "HAVE", "have", NULL, COLUMN_AMOUNT, false},
};
const struct table fit_table = {"NodeFitList", fit_columns, array_size(fit_columns)};

static void print_chain(const cJSON *chain)
{
	const cJSON *cause;

	cJSON_ArrayForEach (cause, chain) {
		const char *message = text_at(cause, "message");
		const char *since = text_at(cause, "since");
		const char *class = text_at(cause, "class");

		print_fieldf(text_at(cause, "reason"), "%s%s%s%s%s%s", class,
		             class[0] != '\0' ? ": " : "", message,
		             since[0] != '\0' ? " (since " : "", since,
		             since[0] != '\0' ? ")" : "");
	}
}

static int print_why(struct cli *cli, const cJSON *why)
{
	const cJSON *nodes = at(why, "nodes");
	const char *hint = text_at(why, "hint");
	int code = 0;

	(void)printf("vm %s: %s\n", text_at(why, "name"), text_at(why, "phase"));
	print_chain(at(why, "chain"));
	if (nodes != NULL && nodes->child != NULL) {
		(void)fputc('\n', stdout);
		code = table_print(cli, &fit_table, nodes);
	}
	if (hint[0] != '\0') {
		cleanup(freep) char *text = clean_text(hint);

		(void)printf("\nhint: %s\n", text);
	}
	return code;
}

int vm_why_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *why = NULL;
	const char *name = cli->arguments.names[0];
	struct blix_error err;
	int code = 0;

	if (cli_get(cli, &why, &err, "/v1/vms/%s/why", name) < 0)
		return talk_error(cli, "vm", name, &err);
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL)
		print_json(why, cli->settings.output == OUTPUT_JSONL);
	else if (cli->settings.output == OUTPUT_NAME)
		(void)printf("%s\n", text_at(why, "name"));
	else
		code = print_why(cli, why);
	return code != 0 ? code : cli_flush(cli);
}
