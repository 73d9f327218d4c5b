/* fill SOCKET N PREFIX [CLIENTS] [running]: creates N stopped VMs through CLIENTS connections at
 * once, then waits until every one of them was resolved, so that the objects are as large as in
 * real life; or N that run, and waits for that. */
#include "base/alloc.h"
#include "base/parse.h"
#include "client/client.h"
#include "core/object_json.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define FLAKE                                                                                      \
	"github:example/machines/0123456789abcdef0123456789abcdef01234567"                         \
	"?narHash=sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

static int fail(const struct blix_error *err)
{
	(void)fprintf(stderr, "fill: %s\n", err->text);
	return 1;
}

static enum vm_power power = VM_POWER_STOPPED;

static int create(struct client *client, const char *name, struct blix_error *err)
{
	cleanup(json_freep) cJSON *body = NULL, *answer = NULL;
	struct vm_spec spec;

	vm_spec_init(&spec);
	xreplace(&spec.flake, FLAKE);
	xreplace(&spec.attr, "web");
	spec.power = power;
	body = vm_create_json(name, &spec);
	vm_spec_done(&spec);
	return client_call(client, "POST", "/v1/vms", body, &answer, err);
}

static struct client *connect_to(const char *socket)
{
	struct client_options options = {.endpoints = socket, .timeout_ms = CLIENT_TIMEOUT_NONE};
	struct client *client = NULL;
	struct blix_error err;

	if (client_open(&options, &client, &err) < 0)
		(void)fail(&err);
	return client;
}

static int create_some(const char *socket, const char *prefix, uint64_t from, uint64_t to)
{
	cleanup(client_freep) struct client *client = connect_to(socket);
	struct blix_error err;

	for (uint64_t i = from; client != NULL && i < to; i++) {
		cleanup(freep) char *name = xasprintf("%s-%05" PRIu64, prefix, i);

		if (create(client, name, &err) < 0)
			return fail(&err);
	}
	return client == NULL;
}

/* How many VMs wait to be resolved, or are on the way to Running; -1 when nobody answers. */
static int64_t count_open(struct client *client)
{
	static const char *const open[] = {"Pending", "Resolving", "Scheduled", "Building",
	                                   "Starting"};
	cleanup(json_freep) cJSON *status = NULL;
	const cJSON *vms = NULL;
	struct blix_error err;
	uint64_t n = 0;

	if (client_call(client, "GET", "/v1/status", NULL, &status, &err) < 0 ||
	    json_get_object(status, "vms", &vms, &err) < 0) {
		(void)fail(&err);
		return -1;
	}
	for (size_t i = 0; i < array_size(open); i++) {
		uint64_t some = 0;

		(void)json_get_u64(vms, open[i], &some, NULL);
		n += some;
	}
	return (int64_t)n;
}

static int wait_resolved(const char *socket)
{
	cleanup(client_freep) struct client *client = connect_to(socket);
	int64_t left = client != NULL ? 1 : -1;

	while (left > 0) {
		left = count_open(client);
		(void)poll(NULL, 0, left > 0 ? 100 : 0);
	}
	return left < 0;
}

int main(int argc, char **argv)
{
	uint64_t n = 0, clients = 8;
	int rc = 0, status;

	if (argc < 4 || parse_u64(argv[2], &n, NULL) < 0 ||
	    (argc > 4 && parse_u64(argv[4], &clients, NULL) < 0) || clients == 0) {
		(void)fprintf(stderr, "usage: fill SOCKET N PREFIX [CLIENTS] [running]\n");
		return 64;
	}
	if (argc > 5)
		power = VM_POWER_RUNNING;
	for (uint64_t i = 0; i < clients; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (pid == 0)
			return create_some(argv[1], argv[3], n * i / clients,
			                   n * (i + 1) / clients);
	}
	while (wait(&status) > 0)
		rc = rc != 0 || status != 0;
	return rc != 0 ? rc : wait_resolved(argv[1]);
}
