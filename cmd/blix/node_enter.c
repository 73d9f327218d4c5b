/* blix node init, join and renew: what is asked of the daemon of this host about itself. A join's
 * token is read from a file or from standard input, so that no list of processes shows it; the
 * daemon writes the identity, and goes on as a member without a restart. */
#include "cli.h"

#include "base/limits.h"
#include "sys/file.h"
#include "sys/seal.h"
#include "table.h"

#include <string.h>

static void add_option(const struct cli *cli, cJSON *body, const char *key,
                       enum option_index option)
{
	if (given(cli, option))
		json_add_string(body, key, cli->arguments.values[option]);
}

static int print_entered(struct cli *cli, const cJSON *identity)
{
	enum output output = cli->settings.output;

	if (output == OUTPUT_JSON || output == OUTPUT_JSONL)
		print_json(identity, output == OUTPUT_JSONL);
	else if (output == OUTPUT_NAME)
		(void)printf("%s\n", text_at(identity, "cluster"));
	return cli_flush(cli);
}

/* Asks, then waits until the node says of itself what it is. */
static int enter(struct cli *cli, const char *path, const cJSON *body, cJSON **ret,
                 struct blix_error *err)
{
	cleanup(json_freep) cJSON *node = NULL;
	struct client *client = cli_client(cli, err);
	int rc;

	if (client == NULL)
		return -(int)err->code;
	rc = client_call(client, "POST", path, body, ret, err);
	if (rc == 0)
		rc = node_wait(cli, text_at(*ret, "name"), node_is_ready, true, &node, err);
	return rc;
}

int node_init_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	cleanup(json_freep) cJSON *identity = NULL;
	struct blix_error err;

	add_option(cli, body, "name", OPTION_NODE_NAME);
	add_option(cli, body, "listen", OPTION_LISTEN);
	add_option(cli, body, "advertise", OPTION_ADVERTISE);
	add_option(cli, body, "zone", OPTION_ZONE);
	if (enter(cli, "/v1/node/init", body, &identity, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	talk_note(cli, "node %s: the first of cluster %s, at %s", text_at(identity, "name"),
	          text_at(identity, "cluster"), text_at(identity, "address"));
	return print_entered(cli, identity);
}

/* Without the blanks around it. */
static int token_read(const struct cli *cli, struct buf *ret, struct blix_error *err)
{
	const char *file = cli->arguments.values[OPTION_TOKEN_FILE];
	size_t before;
	int rc = 0;

	if (given(cli, OPTION_TOKEN) == given(cli, OPTION_TOKEN_FILE)) {
		(void)blix_fail(err, BLIX_E_INVALID, "give --token-file or --token, one of them");
		blix_hint(err, "'blix node token NAME' on a server prints one");
		return -(int)BLIX_E_INVALID;
	}
	buf_init(ret, LIMIT_TOKEN + 2);
	if (file != NULL)
		rc = file_read(strcmp(file, "-") == 0 ? "/dev/stdin" : file, ret, err);
	else
		rc = buf_add_string(ret, cli->arguments.values[OPTION_TOKEN]);
	if (rc < 0)
		return file != NULL ? blix_wrap(err, "--token-file")
		                    : blix_fail(err, BLIX_E_INVALID, "the token is too long");
	before = ret->len > 0 ? strspn(ret->data, " \t\r\n") : 0;
	buf_consume(ret, before);
	if (ret->len > 0)
		ret->data[strcspn(ret->data, " \t\r\n")] = '\0';
	return ret->len > 0 ? 0 : blix_fail(err, BLIX_E_INVALID, "the token is empty");
}

int node_join_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	cleanup(json_freep) cJSON *identity = NULL;
	cleanup(seal_wipe) struct buf token = {0};
	struct blix_error err;

	if (token_read(cli, &token, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	json_add_string(body, "token", token.data);
	if (cli->arguments.n_names > 0)
		json_add_string(body, "address", cli->arguments.names[0]);
	add_option(cli, body, "listen", OPTION_LISTEN);
	add_option(cli, body, "advertise", OPTION_ADVERTISE);
	add_option(cli, body, "zone", OPTION_ZONE);
	if (enter(cli, "/v1/node/join", body, &identity, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	talk_note(cli, "node %s: a %s of cluster %s, at %s", text_at(identity, "name"),
	          text_at(identity, "role"), text_at(identity, "cluster"),
	          text_at(identity, "address"));
	return print_entered(cli, identity);
}

int node_renew_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *answer = NULL;
	struct blix_error err;
	struct client *client = cli_client(cli, &err);

	if (client == NULL ||
	    client_call(client, "POST", "/v1/node/renew", NULL, &answer, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	talk_note(cli, "node %s: a new certificate until %s", text_at(answer, "name"),
	          text_at(answer, "expiresAt"));
	if (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL)
		print_json(answer, cli->settings.output == OUTPUT_JSONL);
	return cli_flush(cli);
}
