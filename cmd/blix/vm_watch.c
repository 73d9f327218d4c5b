/* blix vm list --watch: the list as it is, then a line for each VM that changes, is deleted, or
 * loses the labels that were asked for.
 *
 * Nodes are watched on the same connection: a VM whose node is lost is shown as Unknown, and that
 * is no change of the VM. The list is then begun anew, as it is when the servers' history does not
 * reach back, and only what differs from what was printed is printed. */
#include "cli.h"
#include "client/watch.h"
#include "table.h"

#include <inttypes.h>
#include <search.h>
#include <string.h>

/* What was printed of an object. */
struct shown {
	char *key;   /* "vm/NAME", "node/NAME" */
	char *looks; /* what a line of it depends on */
	unsigned round;
};

struct listing {
	struct cli *cli;
	const struct table *table;
	cJSON *first;   /* the items of the table, until that is printed */
	void *shown;    /* a tree of struct shown */
	unsigned round; /* how often the list was begun */
	bool again;     /* begin it anew */
};

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct shown *)a)->key, ((const struct shown *)b)->key);
}

static void shown_free(void *data)
{
	struct shown *shown = data;

	free(shown->key);
	free(shown->looks);
	free(shown);
}

static struct shown *shown_find(struct listing *listing, const char *kind, const char *name)
{
	cleanup(freep) char *key = xasprintf("%s/%s", kind, name);
	struct shown wanted = {.key = key};
	struct shown **found = tfind(&wanted, &listing->shown, by_key);

	return found != NULL ? *found : NULL;
}

/* Remembers how it looks now; false: it looked so before. */
static bool shown_put(struct listing *listing, const char *kind, const cJSON *object)
{
	struct shown *shown = shown_find(listing, kind, text_at(object, "metadata.name"));
	cleanup(freep) char *looks =
		xasprintf("%s %" PRIu64 " %s", text_at(object, "metadata.uid"),
	                  kind[0] == 'v' ? u64_at(object, "metadata.revision") : 0,
	                  text_at(object, "status.phase"));
	bool same;

	if (shown == NULL) {
		shown = xcalloc(1, sizeof(*shown));
		shown->key = xasprintf("%s/%s", kind, text_at(object, "metadata.name"));
		if (tsearch(shown, &listing->shown, by_key) == NULL)
			abort();
	}
	shown->round = listing->round;
	same = shown->looks != NULL && strcmp(shown->looks, looks) == 0;
	free(shown->looks);
	shown->looks = take(looks);
	return !same;
}

static void print_gone(struct listing *listing, const char *name, const char *phase)
{
	cleanup(json_freep) cJSON *object = json_object();
	struct shown *shown = shown_find(listing, "vm", name);
	cJSON *metadata = json_object(), *status = json_object();

	if (shown == NULL) {
		cJSON_Delete(metadata);
		cJSON_Delete(status);
		return; /* of which nothing was printed */
	}
	json_add_string(object, "kind", "VM");
	json_add_string(metadata, "name", name);
	json_add_string(status, "phase", phase);
	json_add(object, "metadata", metadata);
	json_add(object, "status", status);
	(void)tdelete(shown, &listing->shown, by_key);
	shown_free(shown);
	table_line(listing->cli, listing->table, object);
}

/* Names of VMs that were printed and did not come again. */
struct missing {
	const struct listing *listing;
	cJSON *names;
};

static void find_missing(const void *node, VISIT which, void *data)
{
	const struct shown *shown = *(const struct shown *const *)node;
	struct missing *missing = data;

	if ((which == postorder || which == leaf) && strncmp(shown->key, "vm/", 3) == 0 &&
	    shown->round != missing->listing->round)
		json_push_string(missing->names, shown->key + 3);
}

/* All that there is has come: the table, or what is missing since. */
static void on_mark(struct listing *listing)
{
	cleanup(json_freep) cJSON *first = listing->first;
	cleanup(json_freep) cJSON *names = json_array();
	struct missing missing = {.listing = listing, .names = names};
	const cJSON *name;

	listing->first = NULL;
	if (first != NULL && listing->cli->settings.output != OUTPUT_JSON)
		(void)table_print(listing->cli, listing->table, first);
	else if (first != NULL)
		cJSON_ArrayForEach (name, first)
			print_json(name, true);
	twalk_r(listing->shown, find_missing, &missing);
	cJSON_ArrayForEach (name, names)
		print_gone(listing, name->valuestring, "Deleted");
}

static void on_vm(struct listing *listing, const cJSON *object)
{
	cJSON *copy;

	if (!shown_put(listing, "vm", object))
		return;
	if (listing->first == NULL) {
		table_line(listing->cli, listing->table, object);
		return;
	}
	copy = cJSON_Duplicate(object, true);
	if (copy == NULL)
		abort();
	json_push(listing->first, copy);
}

static int on_line(void *data, const cJSON *line, struct blix_error *err)
{
	struct listing *listing = data;
	const char *type = text_at(line, "type");
	const cJSON *object = at(line, "object");

	(void)err;
	if (strcmp(type, "mark") == 0) {
		on_mark(listing);
	} else if (strcmp(type, "object") == 0 && u64_at(line, "watch") == 1) {
		bool known = shown_find(listing, "node", text_at(object, "metadata.name")) != NULL;

		listing->again = shown_put(listing, "node", object) && known;
	} else if (strcmp(type, "object") == 0) {
		on_vm(listing, object);
	} else if (strcmp(type, "deleted") == 0) {
		print_gone(listing, text_at(line, "name"), "Deleted");
	} else if (strcmp(type, "left") == 0) {
		print_gone(listing, text_at(line, "name"), "Left");
	}
	if (fflush(stdout) != 0)
		return 1;
	return listing->again;
}

static int watch_round(struct listing *listing, struct blix_error *err)
{
	struct client_watch watches[] = {
		{.kind = "vm", .labels = listing->cli->arguments.values[OPTION_SELECTOR]},
		{.kind = "node"},
	};
	int rc;

	listing->again = false;
	listing->round++;
	rc = client_watch(listing->cli->client, watches, array_size(watches), on_line, listing,
	                  err);
	if (rc == -(int)BLIX_E_GONE) {
		listing->again = true;
		rc = 0;
	}
	return rc;
}

int vm_watch(struct cli *cli, const struct table *table)
{
	struct listing listing = {.cli = cli, .table = table, .first = json_array()};
	struct blix_error err;
	int rc = 0;

	if (!given(cli, OPTION_TIMEOUT))
		cli->settings.timeout_ms = CLIENT_TIMEOUT_NONE;
	if (cli_client(cli, &err) == NULL)
		rc = -(int)err.code;
	else
		do
			rc = watch_round(&listing, &err);
		while (rc == 0 && listing.again);
	cJSON_Delete(listing.first);
	tdestroy(listing.shown, shown_free);
	if (rc < 0)
		return talk_error(cli, NULL, NULL, &err);
	return cli_flush(cli);
}
