/* blix node token: a token for a node that is to join. The secret is made here and never leaves but
 * in the line on standard output: the cluster gets its hash. */
#include "cli.h"

#include "base/parse.h"
#include "sys/seal.h"
#include "table.h"
#include "tls/token.h"

#include <string.h>

static int token_ask(struct cli *cli, const char *name, const struct join_token *token, cJSON **ret,
                     struct blix_error *err)
{
	cleanup(json_freep) cJSON *body = json_object();
	struct client *client = cli_client(cli, err);
	const char *ttl = cli->arguments.values[OPTION_TTL];
	char hash[TLS_HASH];
	uint64_t ttl_ms = 0;

	if (client == NULL)
		return -(int)err->code;
	if (ttl != NULL && parse_duration(ttl, &ttl_ms, err) < 0)
		return blix_wrap(err, "--ttl");
	join_token_hash(token->secret, hash);
	json_add_string(body, "name", name);
	json_add_string(body, "hash", hash);
	if (ttl != NULL)
		json_add_u64(body, "ttlMs", ttl_ms);
	return client_call(client, "POST", "/v1/tokens", body, ret, err);
}

static int token_fill(struct join_token *token, const cJSON *answer, struct blix_error *err)
{
	const char *ca = text_at(answer, "caFingerprint");
	const cJSON *item;

	token->kind = TLS_SERVER;
	token->expires_ms = stamp_ms(text_at(answer, "metadata.expiresAt"));
	(void)snprintf(token->name, sizeof(token->name), "%s", text_at(answer, "metadata.name"));
	(void)snprintf(token->ca_fingerprint, sizeof(token->ca_fingerprint), "%s", ca);
	cJSON_ArrayForEach (item, at(answer, "addresses")) {
		if (token->n_addresses == LIMIT_TOKEN_ADDRESSES || !cJSON_IsString(item) ||
		    strlen(item->valuestring) >= JOIN_ADDRESS)
			return blix_fail(err, BLIX_E_INTERNAL, "the answer has odd addresses");
		memcpy(token->addresses[token->n_addresses++], item->valuestring,
		       strlen(item->valuestring) + 1);
	}
	return 0;
}

static int token_print(struct cli *cli, const char *line, const cJSON *answer)
{
	cleanup(json_freep) cJSON *object = NULL;

	talk_note(cli, "node %s may join with it once, until %s", text_at(answer, "metadata.name"),
	          text_at(answer, "metadata.expiresAt"));
	if (cli->settings.output != OUTPUT_JSON && cli->settings.output != OUTPUT_JSONL) {
		(void)printf("%s\n", line);
		return cli_flush(cli);
	}
	object = json_object();
	json_add_string(object, "token", line);
	json_add_string(object, "name", text_at(answer, "metadata.name"));
	json_add_string(object, "expiresAt", text_at(answer, "metadata.expiresAt"));
	print_json(object, cli->settings.output == OUTPUT_JSONL);
	return cli_flush(cli);
}

int node_token_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *answer = NULL;
	cleanup(seal_wipe) struct buf line = {0};
	const char *name = cli->arguments.names[0];
	struct join_token token = {0};
	struct blix_error err;
	int rc = parse_name("node name", name, &err);

	if (rc == 0)
		rc = join_token_secret(token.secret, &err);
	if (rc == 0)
		rc = token_ask(cli, name, &token, &answer, &err);
	if (rc == 0)
		rc = token_fill(&token, answer, &err);
	if (rc == 0)
		rc = join_token_write(&token, &line, &err);
	join_token_wipe(&token);
	return rc < 0 ? talk_error(cli, NULL, NULL, &err) : token_print(cli, line.data, answer);
}
