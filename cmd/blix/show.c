/* The one way to show objects by name: see show.h. */
#include "show.h"

#include "base/alloc.h"
#include "table.h"

#include <stdio.h>

static void print_all(struct cli *cli, const struct show *show, cJSON **objects, size_t n)
{
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL) {
		print_objects(cli, show->list_kind, (const cJSON *const *)objects, n);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (cli->settings.output == OUTPUT_NAME) {
			(void)printf("%s\n", text_at(objects[i], "metadata.name"));
			continue;
		}
		if (i > 0)
			(void)fputc('\n', stdout);
		show->print(objects[i]);
	}
}

int show_run(struct cli *cli, const struct show *show)
{
	size_t n = 0, wanted = cli->arguments.n_names;
	cleanup(freep) cJSON **objects = xcalloc(wanted + 1, sizeof(cJSON *));
	struct blix_error err;
	int code = 0;

	for (size_t i = 0; i < wanted; i++) {
		const char *name = cli->arguments.names[i];

		if (cli_get(cli, &objects[n], &err, "%s%s", show->path, name) == 0)
			n++;
		else
			code = talk_error(cli, show->noun, name, &err);
		if (code == blix_code_info(BLIX_E_UNAVAILABLE)->exit)
			break;
	}
	if (n > 0)
		print_all(cli, show, objects, n);
	for (size_t i = 0; i < n; i++)
		cJSON_Delete(objects[i]);
	return code != 0 ? code : cli_flush(cli);
}
