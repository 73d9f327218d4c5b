/* GET /v1/vms/NAME/logs: the bytes of a VM's console log from an offset, which is a position in all
 * that it ever printed (sys/halves.h); from the beginning of its run when none is given. The
 * answer's offset less its length is where its bytes begin: what is missing before is gone. The
 * node that has them: read here when that is this node, else asked of the node's own daemon, once:
 * with ?here=true, which is answered from this node's disk whatever its state says.
 *
 * With ?wait= an answer that would be empty waits until the file grows or the VM ends. The file
 * belongs to the shim, which tells nobody, so it is looked at again four times a second while
 * somebody waits. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "base/parse.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/book.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/halves.h"

#define LOOK_MS   250
#define PIECE_MAX (1u << 20)
#define SLACK_MS  5000 /* how much longer than the wait a remote answer may take */

struct logs {
	struct daemon *daemon;
	struct http_request *request; /* NULL: the client went away */
	struct fetch *fetch;          /* under way at another node */
	bool positioned;              /* an offset was given, or is known by now */
	uint64_t offset;
	uint64_t next;     /* where the answer ends */
	uint64_t until_ms; /* boot clock */
	char name[LIMIT_NAME + 1];
	uv_timer_t timer;
};

static bool vm_ended(const struct daemon *d, const char *name)
{
	const struct vm *vm = state_vm(d->state, name);

	return vm == NULL || (vm->phase != VM_RUNNING && vm->phase != VM_STOPPING &&
	                      vm->phase != VM_STARTING && vm->phase != VM_UNKNOWN);
}

static void answer_bytes(struct logs *logs, char *taken, size_t n)
{
	char offset[24];

	(void)snprintf(offset, sizeof(offset), "%" PRIu64, logs->next);
	http_answer_header(logs->request, "Blix-Offset", offset);
	http_answer_header(logs->request, "Blix-Ended",
	                   vm_ended(logs->daemon, logs->name) ? "true" : "false");
	http_answer(logs->request, 200, "text/plain; charset=utf-8", taken, n);
	logs->request = NULL;
}

static size_t read_piece(struct logs *logs, char **ret)
{
	cleanup(freep) char *path =
		xasprintf("%s/vms/%s/console.log", logs->daemon->config->state_dir, logs->name);
	struct halves halves;
	size_t n;

	halves_open(AT_FDCWD, path, &halves);
	if (!logs->positioned)
		logs->offset = halves_run(&halves);
	logs->positioned = true;
	*ret = xcalloc(PIECE_MAX, 1);
	n = halves_read(&halves, &logs->offset, *ret, PIECE_MAX);
	logs->next = logs->offset + n;
	halves_close(&halves);
	return n;
}

static void logs_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void logs_end(struct logs *logs)
{
	uv_close((uv_handle_t *)&logs->timer, logs_closed);
}

static void logs_look(uv_timer_t *timer)
{
	struct logs *logs = timer->data;
	cleanup(freep) char *bytes = NULL;
	size_t n = read_piece(logs, &bytes);

	if (n > 0 || clock_boot_ms() >= logs->until_ms || logs->daemon->closing ||
	    vm_ended(logs->daemon, logs->name)) {
		answer_bytes(logs, n > 0 ? take(bytes) : NULL, n);
		logs_end(logs);
	}
}

static void logs_cancelled(void *data)
{
	struct logs *logs = data;

	logs->request = NULL;
	if (logs->fetch != NULL)
		fetch_cancel(logs->fetch);
	logs_end(logs);
}

static void logs_fetched(void *data, int status, int http, struct buf *answer,
                         const char *content_type)
{
	struct logs *logs = data;
	struct blix_error err;

	(void)content_type;
	logs->fetch = NULL;
	if (status == 0 && http == 200) {
		size_t n = answer->len;

		answer_bytes(logs, buf_take(answer), n);
	} else {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE,
		                "%s: its node does not answer: the console is kept there",
		                logs->name);
		blix_reason(&err, "node-unreachable");
		http_answer_error(logs->request, &err, NULL);
		logs->request = NULL;
	}
	logs_end(logs);
}

static void logs_fetch(struct logs *logs, const struct config_server *server, uint64_t wait_ms)
{
	cleanup(freep) char *path =
		logs->positioned ? xasprintf("/v1/vms/%s/logs?here=true&offset=%" PRIu64
	                                     "&wait=%" PRIu64 "ms",
	                                     logs->name, logs->offset, wait_ms)
				 : xasprintf("/v1/vms/%s/logs?here=true&wait=%" PRIu64 "ms",
	                                     logs->name, wait_ms);
	struct api_hop hop;
	struct fetch_options options = {
		.address = server->api,
		.server_name = hop.server_name,
		.headers = hop.headers,
		.path = path,
		.deadline_ms = (unsigned)wait_ms + SLACK_MS,
		.answer_max = PIECE_MAX,
		.number_header = "Blix-Offset:",
		.ret_number = &logs->next,
	};
	struct blix_error err;

	api_hop(logs->daemon, logs->request, server, &hop);
	if (fetch_start(logs->daemon->fetch, &options, logs_fetched, logs, &logs->fetch, &err) <
	    0) {
		http_answer_error(logs->request, &err, NULL);
		logs_end(logs);
	}
}

static int logs_parse(const struct http_request *request, uint64_t *offset, uint64_t *wait_ms,
                      struct blix_error *err)
{
	const char *text = http_query(request, "offset"), *wait = http_query(request, "wait");
	int rc = text != NULL ? parse_u64(text, offset, err) : 0;

	if (rc == 0 && wait != NULL)
		rc = parse_duration(wait, wait_ms, err);
	if (*wait_ms > LIMIT_WAIT)
		*wait_ms = LIMIT_WAIT;
	return rc;
}

void vm_logs_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *name = http_path_param(request, "name");
	const struct vm *vm = state_vm(d->state, name);
	const char *here = http_query(request, "here");
	const struct config_server *server;
	uint64_t offset = 0, wait_ms = 0;
	struct blix_error err;
	struct logs *logs;

	if (vm == NULL) {
		api_not_found(request, name);
		return;
	}
	if (logs_parse(request, &offset, &wait_ms, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	logs = xcalloc(1, sizeof(*logs));
	*logs = (struct logs){.daemon = d,
	                      .request = request,
	                      .positioned = http_query(request, "offset") != NULL,
	                      .offset = offset,
	                      .until_ms = clock_boot_ms() + wait_ms};
	memcpy(logs->name, vm->name, sizeof(logs->name));
	(void)uv_timer_init(d->loop, &logs->timer);
	logs->timer.data = logs;
	http_on_cancel(request, logs_cancelled, logs);
	server = daemon_server(d, vm->node);
	if (server != NULL && vm->node != d->config->id &&
	    (here == NULL || strcmp(here, "true") != 0)) {
		logs_fetch(logs, server, wait_ms);
		return;
	}
	(void)uv_timer_start(&logs->timer, logs_look, LOOK_MS, LOOK_MS);
	logs_look(&logs->timer);
}
