/* blix vm events: a table of what is known, and with -f a line for each that comes. */
#include "cli.h"
#include "client/watch.h"
#include "table.h"

static const struct column columns[] = {
	{"time", "TIME", "time", NULL, COLUMN_TIME, false},
	{"kind", "KIND", "kind", NULL, COLUMN_TEXT, false},
	{"name", "NAME", "name", NULL, COLUMN_TEXT, false},
	{"reason", "REASON", "reason", NULL, COLUMN_TEXT, false},
	{"message", "MESSAGE", "message", NULL, COLUMN_TEXT, false},
	{"revision", "REVISION", "revision", NULL, COLUMN_NUMBER, true},
	{"uid", "UID", "uid", NULL, COLUMN_TEXT, true},
};
static const struct table table = {"EventList", columns, array_size(columns)};

static int fetch(struct cli *cli, cJSON **ret, struct blix_error *err)
{
	const char *name = cli->arguments.n_names > 0 ? cli->arguments.names[0] : NULL;

	return cli_get(cli, ret, err, "/v1/events%s%s", name != NULL ? "?name=" : "",
	               name != NULL ? name : "");
}

static void print_line(struct cli *cli, const cJSON *event)
{
	static const char *const paths[] = {"time", "kind", "name", "reason", "message"};

	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL) {
		print_json(event, true);
		return;
	}
	for (size_t i = 0; i < array_size(paths); i++) {
		cleanup(freep) char *text = clean_text(text_at(event, paths[i]));

		(void)printf("%s%s", i > 0 ? "  " : "", text);
	}
	(void)fputc('\n', stdout);
}

struct following {
	struct cli *cli;
	uint64_t last; /* the revision that was printed last */
};

static int on_line(void *data, const cJSON *line, struct blix_error *err)
{
	struct following *f = data;
	const cJSON *event;

	(void)err;
	if (u64_at(line, "revision") <= f->last)
		return 0;
	if (!true_at(line, "more"))
		f->last = u64_at(line, "revision");
	cJSON_ArrayForEach (event, at(line, "events"))
		print_line(f->cli, event);
	return fflush(stdout) != 0;
}

/* When the servers have forgotten what follows, what they have is printed. */
static int follow(struct cli *cli, uint64_t revision, struct blix_error *err)
{
	struct client_watch watch = {
		.kind = "event",
		.name = cli->arguments.n_names > 0 ? cli->arguments.names[0] : NULL,
		.revision = revision,
	};
	struct following f = {.cli = cli, .last = revision};
	int rc;

	for (;;) {
		rc = client_watch(cli->client, &watch, 1, on_line, &f, err);
		if (rc != -(int)BLIX_E_GONE)
			return rc;
		talk_note(cli, "note: events between are forgotten");
		watch.revision = 0;
	}
}

int vm_events_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *list = NULL;
	struct blix_error err;
	int code = 0;

	if (table_check(cli, &table, &err) < 0 || fetch(cli, &list, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	if (!given(cli, OPTION_FOLLOW) || cli->settings.output < OUTPUT_JSON) {
		code = table_print(cli, &table, at(list, "items"));
	} else {
		const cJSON *event;

		cJSON_ArrayForEach (event, at(list, "items"))
			print_line(cli, event);
	}
	if (code != 0 || !given(cli, OPTION_FOLLOW))
		return code;
	(void)fflush(stdout);
	if (follow(cli, u64_at(list, "revision"), &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	return cli_flush(cli);
}
