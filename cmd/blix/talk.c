/* Everything that blix says on stderr: errors, notes, progress. Text from outside is cleaned of
 * control characters first. On a terminal progress is one line that is rewritten. */
#include "cli.h"

#include "base/parse.h"
#include "core/object_json.h"
#include "sys/clock.h"

#include <stdarg.h>
#include <string.h>

/* C0 but newline and tab, DEL, and C1 as UTF-8 has it. Returns the length of the control at p, 0 if
 * it is none. */
static size_t control_length(const unsigned char *p, size_t n)
{
	if ((p[0] < 0x20 && p[0] != '\n' && p[0] != '\t') || p[0] == 0x7f)
		return 1;
	if (p[0] == 0xc2 && n > 1 && p[1] >= 0x80 && p[1] <= 0x9f)
		return 2;
	/* A lone C1 byte is a control to a terminal that does not speak UTF-8. */
	return 0;
}

void print_clean(FILE *file, const char *text, size_t n)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t i = 0;

	while (i < n) {
		size_t control = control_length(p + i, n - i);

		if (control == 0)
			(void)fputc(p[i++], file);
		for (; control > 0; control--)
			(void)fprintf(file, "\\x%02x", p[i++]);
	}
}

static bool is_clean(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (control_length((const unsigned char *)text + i, n - i) != 0)
			return false;
	}
	return true;
}

char *clean_text(const char *text)
{
	char *out = NULL;
	size_t n = 0;
	FILE *file;

	if (is_clean(text, strlen(text)))
		return xstrdup(text);
	file = open_memstream(&out, &n);
	if (file == NULL)
		abort();
	print_clean(file, text, strlen(text));
	if (fclose(file) != 0)
		abort();
	return out;
}

char *clean_take(char *text)
{
	char *clean;

	if (is_clean(text, strlen(text)))
		return text;
	clean = clean_text(text);
	free(text);
	return clean;
}

void talk_close(struct cli *cli)
{
	if (!cli->line_is_open)
		return;
	(void)fputs("\r\033[K", stderr);
	cli->line_is_open = false;
}

/* Each line of the text on its own, those after the first indented. */
static void print_lines(const char *text)
{
	size_t n = strlen(text);

	while (n > 0 && text[n - 1] == '\n')
		n--;
	for (size_t i = 0; i < n;) {
		size_t length = strcspn(text + i, "\n");

		if (length > n - i)
			length = n - i;
		if (i > 0)
			(void)fputs("  ", stderr);
		print_clean(stderr, text + i, length);
		(void)fputc('\n', stderr);
		i += length + 1;
	}
}

static void print_json_error(const char *kind, const char *name, const struct blix_error *err)
{
	cJSON *details = NULL;
	cJSON *tree;
	char *text;

	if (name != NULL) {
		details = json_object();
		json_add_string(details, "kind", kind);
		json_add_string(details, "name", name);
	}
	tree = error_json(err, details);
	text = json_text(tree);
	(void)fprintf(stderr, "%s\n", text);
	free(text);
	cJSON_Delete(tree);
}

int talk_error(struct cli *cli, const char *kind, const char *name, const struct blix_error *err)
{
	cleanup(freep) char *prefix = name != NULL ? xasprintf("%s %s: ", kind, name) : xstrdup("");
	bool said = strncmp(err->text, prefix, strlen(prefix)) == 0;
	int code = blix_code_info(err->code)->exit;

	talk_close(cli);
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL) {
		print_json_error(kind, name, err);
	} else {
		(void)fprintf(stderr, "blix: %s", said ? "" : prefix);
		print_lines(err->text);
		if (err->hint[0] != '\0') {
			(void)fputs("hint: ", stderr);
			print_lines(err->hint);
		}
	}
	return cli_interrupted() && strcmp(err->reason, "interrupted") == 0 ? 130 : code;
}

void talk_note(struct cli *cli, const char *fmt, ...)
{
	cleanup(freep) char *text = NULL;
	va_list args;

	if (given(cli, OPTION_QUIET))
		return;
	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		abort();
	va_end(args);
	talk_close(cli);
	print_lines(text);
}

void talk_tick(struct cli *cli)
{
	char elapsed[32];
	uint64_t second = (clock_boot_ms() - cli->started_ms) / 1000;

	if (cli->watched == NULL || !cli->talk_is_terminal || given(cli, OPTION_QUIET))
		return;
	if (cli->line_is_open && cli->line_second == second)
		return;
	cli->line_second = second;
	format_duration(elapsed, sizeof(elapsed), second * 1000);
	(void)fprintf(stderr, "\r\033[Kvm %s: ", cli->watched);
	print_clean(stderr, cli->phase, strlen(cli->phase));
	(void)fprintf(stderr, "  %s", strcmp(elapsed, "0ms") == 0 ? "0s" : elapsed);
	(void)fflush(stderr);
	cli->line_is_open = true;
}

void talk_phase(struct cli *cli, const char *name, const char *phase)
{
	bool same = cli->watched != NULL && strcmp(cli->watched, name) == 0 &&
	            strcmp(cli->phase, phase) == 0;

	cli->watched = name;
	(void)snprintf(cli->phase, sizeof(cli->phase), "%s", phase);
	if (same || given(cli, OPTION_QUIET))
		return;
	if (cli->talk_is_terminal) {
		cli->line_is_open = false; /* the new phase is shown at once */
		talk_tick(cli);
	} else {
		talk_note(cli, "vm %s: %s", name, phase);
	}
}
