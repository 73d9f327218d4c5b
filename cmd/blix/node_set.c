/* blix node cordon, uncordon, maintenance, promote, demote and remove; blix cluster
 * transfer-leader. */
#include "cli.h"
#include "table.h"

#include <string.h>

static int set_one(struct cli *cli, const char *name, const cJSON *body, cJSON **ret,
                   struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("/v1/nodes/%s/set", name);
	struct client *client = cli_client(cli, err);

	if (client == NULL)
		return -(int)err->code;
	return client_call(client, "POST", path, body, ret, err);
}

static int print_node(struct cli *cli, const cJSON *node)
{
	if (node != NULL &&
	    (cli->settings.output == OUTPUT_JSON || cli->settings.output == OUTPUT_JSONL))
		print_json(node, cli->settings.output == OUTPUT_JSONL);
	return cli_flush(cli);
}

static int set_schedulable(struct cli *cli, bool schedulable)
{
	cleanup(json_freep) cJSON *body = json_object();
	struct blix_error err;
	int code = 0;

	json_add_bool(body, "schedulable", schedulable);
	for (size_t i = 0; i < cli->arguments.n_names; i++) {
		const char *name = cli->arguments.names[i];
		cleanup(json_freep) cJSON *node = NULL;

		if (set_one(cli, name, body, &node, &err) < 0) {
			int next = talk_error(cli, "node", name, &err);

			code = code == 0 ? next : code;
			continue;
		}
		talk_note(cli, "node %s: %s", name, schedulable ? "gets VMs" : "gets no new VMs");
		(void)print_node(cli, node);
	}
	return code;
}

int node_cordon_run(struct cli *cli)
{
	return set_schedulable(cli, false);
}

int node_uncordon_run(struct cli *cli)
{
	return set_schedulable(cli, true);
}

/* Sets it, then waits until it is so, unless that is not wanted. */
static int set_and_wait(struct cli *cli, const cJSON *body, bool (*done)(const cJSON *node),
                        const char *said)
{
	const char *name = cli->arguments.names[0];
	cleanup(json_freep) cJSON *set = NULL;
	cleanup(json_freep) cJSON *node = NULL;
	struct blix_error err;
	int rc = set_one(cli, name, body, &set, &err);

	if (rc == 0 && !given(cli, OPTION_NO_WAIT))
		rc = node_wait(cli, name, done, true, &node, &err);
	if (rc < 0)
		return talk_error(cli, "node", name, &err);
	talk_note(cli, "node %s: %s", name, given(cli, OPTION_NO_WAIT) ? "set" : said);
	return print_node(cli, node != NULL ? node : set);
}

static bool is_phase(const cJSON *node, const char *phase)
{
	return node != NULL && strcmp(text_at(node, "status.phase"), phase) == 0;
}

static bool is_in_maintenance(const cJSON *node)
{
	return is_phase(node, "Maintenance") || is_phase(node, "Offline");
}

static bool is_out_of_maintenance(const cJSON *node)
{
	return node_is_ready(node) || is_phase(node, "Offline");
}

int node_maintenance_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	const char *word = cli->arguments.names[1];
	bool on = strcmp(word, "on") == 0;
	struct blix_error err;

	if (!on && strcmp(word, "off") != 0) {
		(void)blix_fail(&err, BLIX_E_INVALID, "'%.64s' is neither on nor off", word);
		return talk_error(cli, NULL, NULL, &err);
	}
	json_add_bool(body, "maintenance", on);
	return set_and_wait(cli, body, on ? is_in_maintenance : is_out_of_maintenance,
	                    on ? "in maintenance" : "out of maintenance");
}

static bool is_voter(const cJSON *node)
{
	return node != NULL && strcmp(text_at(node, "status.raft.vote"), "voter") == 0;
}

static bool is_no_voter(const cJSON *node)
{
	return node != NULL && !is_voter(node);
}

int node_promote_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();

	json_add_string(body, "vote", "voter");
	return set_and_wait(cli, body, is_voter, "votes");
}

int node_demote_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();

	json_add_string(body, "vote", "standby");
	return set_and_wait(cli, body, is_no_voter, "has no vote");
}

static bool is_gone(const cJSON *node)
{
	return node == NULL;
}

int node_remove_run(struct cli *cli)
{
	const char *name = cli->arguments.names[0];
	cleanup(freep) char *path =
		xasprintf("/v1/nodes/%s%s", name, given(cli, OPTION_DEAD) ? "?dead=true" : "");
	cleanup(json_freep) cJSON *answer = NULL;
	cleanup(json_freep) cJSON *node = NULL;
	struct blix_error err;
	struct client *client = cli_client(cli, &err);
	int rc = client == NULL ? -(int)err.code
	                        : client_call(client, "DELETE", path, NULL, &answer, &err);

	if (rc == 0 && !given(cli, OPTION_NO_WAIT) && !true_at(answer, "deleted"))
		rc = node_wait(cli, name, is_gone, true, &node, &err);
	if (rc < 0)
		return talk_error(cli, "node", name, &err);
	talk_note(cli, "node %s: %s", name, given(cli, OPTION_NO_WAIT) ? "is leaving" : "removed");
	return cli_flush(cli);
}

int cluster_transfer_run(struct cli *cli)
{
	cleanup(json_freep) cJSON *body = json_object();
	cleanup(json_freep) cJSON *answer = NULL;
	struct blix_error err;
	struct client *client = cli_client(cli, &err);

	if (cli->arguments.n_names > 0)
		json_add_string(body, "node", cli->arguments.names[0]);
	if (client == NULL ||
	    client_call(client, "POST", "/v1/cluster/transfer-leader", body, &answer, &err) < 0)
		return talk_error(cli, NULL, NULL, &err);
	talk_note(cli, "another server leads");
	return cli_flush(cli);
}
