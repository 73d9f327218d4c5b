/* Waiting for a node to become what a verb names. A node has no long poll of its own: it is asked
 * anew, which costs a local read. */
#include "cli.h"

#include <string.h>
#include <time.h>

#define EACH_MS 100

bool node_is_ready(const cJSON *node)
{
	return node != NULL && strcmp(text_at(node, "status.phase"), "Ready") == 0;
}

/* The daemon starts anew, or the cluster has no leader yet. */
static bool passes(const struct blix_error *err)
{
	return err->code == BLIX_E_UNAVAILABLE || err->code == BLIX_E_NOLEADER ||
	       strcmp(err->reason, "not-joined") == 0;
}

static int time_is_over(struct cli *cli, const char *name, struct blix_error *err)
{
	struct client *client = cli_client(cli, err);

	if (client == NULL)
		return -(int)err->code;
	if (cli_interrupted()) {
		(void)blix_fail(err, BLIX_E_TIMEOUT, "interrupted: the cluster goes on");
		blix_reason(err, "interrupted");
		return -(int)BLIX_E_TIMEOUT;
	}
	if (client_left_ms(client) > 0)
		return 0;
	(void)blix_fail(err, BLIX_E_TIMEOUT, "it is not there yet: the cluster goes on");
	blix_hint(err, "see how it goes with 'blix node show %s'", name);
	return -(int)BLIX_E_TIMEOUT;
}

int node_wait(struct cli *cli, const char *name, bool (*done)(const cJSON *node), bool patient,
              cJSON **ret, struct blix_error *err)
{
	const struct timespec each = {.tv_nsec = EACH_MS * 1000000L};
	struct blix_error last;

	cli_catch_interrupt();
	for (;;) {
		cJSON *node = NULL;
		int rc = cli_get(cli, &node, &last, "/v1/nodes/%s", name);

		if ((rc == 0 || rc == -(int)BLIX_E_NOTFOUND) && done(node)) {
			*ret = node;
			return 0;
		}
		cJSON_Delete(node);
		if (rc < 0 && rc != -(int)BLIX_E_NOTFOUND && !(patient && passes(&last))) {
			*err = last;
			return rc;
		}
		rc = time_is_over(cli, name, err);
		if (rc < 0)
			return rc;
		(void)nanosleep(&each, NULL);
	}
}
