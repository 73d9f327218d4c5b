/* PUT /v1/vms/NAME/secrets/SECRET: a value for the node that runs the VM, raw in the body. A server
 * that is another one hands it on, once. It is not a command: the log must not know it. What we
 * held of it is overwritten when the answer goes out. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "node/book.h"
#include "node/secret.h"

#include <inttypes.h>
#include <stdio.h>

#define HAND_ON_MS 10000

struct handing {
	struct http_request *request;
	struct fetch *fetch;
};

static void handing_cancelled(void *data)
{
	struct handing *h = data;

	fetch_cancel(h->fetch);
	free(h);
}

static void on_handed_on(void *data, int status, int http, struct buf *answer,
                         const char *content_type)
{
	struct handing *h = data;
	struct blix_error err;
	size_t n;

	if (status == 0) {
		n = answer->len;
		http_answer(h->request, http,
		            content_type != NULL ? content_type : "application/json",
		            buf_take(answer), n);
	} else {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the VM's node does not answer");
		blix_reason(&err, "node-unreachable");
		http_answer_error(h->request, &err, NULL);
	}
	free(h);
}

static void hand_on(struct daemon *d, struct http_request *request, const struct vm *vm,
                    const char *secret, const struct config_server *server)
{
	cleanup(freep) char *path = xasprintf("/v1/vms/%s/secrets/%s?here=true&uid=%" PRIu64,
	                                      vm->name, secret, vm->uid);
	struct api_hop hop;
	struct fetch_options options = {.address = server->api,
	                                .server_name = hop.server_name,
	                                .headers = hop.headers,
	                                .method = "PUT",
	                                .path = path,
	                                .content_type = "application/octet-stream",
	                                .deadline_ms = HAND_ON_MS,
	                                .answer_max = 65536};
	struct handing *h = xcalloc(1, sizeof(*h));
	struct blix_error err;

	options.body = http_body(request, &options.n);
	h->request = request;
	api_hop(d, request, server, &hop);
	if (fetch_start(d->fetch, &options, on_handed_on, h, &h->fetch, &err) < 0) {
		http_answer_error(request, &err, NULL);
		free(h);
		return;
	}
	http_body_wipe(request);
	http_on_cancel(request, handing_cancelled, h);
}

static void keep(struct daemon *d, struct http_request *request, const struct vm *vm,
                 const char *secret)
{
	cleanup(json_freep) cJSON *answer = json_object();
	struct blix_error err;
	const char *value;
	size_t n;
	int rc;

	value = http_body(request, &n);
	rc = secret_put(d->executor, vm->uid, secret, value, n, &err);
	http_body_wipe(request);
	if (rc < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	json_add_string(answer, "name", vm->name);
	json_add_string(answer, "secret", secret);
	json_add_string(answer, "node", d->config->name);
	http_answer_json(request, 200, answer);
}

/* The VM is not where it would be kept, as far as this server knows. */
static int not_placed(const char *name, struct blix_error *err)
{
	(void)blix_fail(err, BLIX_E_UNAVAILABLE, "vm %s: it has no node yet", name);
	blix_reason(err, "not-placed");
	blix_hint(err, "a secret is kept on the VM's node: send it when there is one");
	return -BLIX_E_UNAVAILABLE;
}

static int check(const struct http_request *request, const struct vm *vm, const char *secret,
                 struct blix_error *err)
{
	uint64_t uid = vm->uid;
	size_t n;
	int rc = api_query_number(request, "uid", UINT64_MAX, &uid, err);

	if (rc < 0)
		return rc;
	(void)http_body(request, &n);
	if (n == 0)
		return blix_fail(err, BLIX_E_INVALID, "a secret is not empty");
	if (uid != vm->uid)
		return blix_fail(err, BLIX_E_CONFLICT, "vm %s: another has its name now", vm->name);
	if (vm->phase == VM_DELETING)
		return blix_fail(err, BLIX_E_REFUSED, "vm %s: it is being deleted", vm->name);
	if (secrets_has(&vm->spec.secrets, secret))
		return 0;
	(void)blix_fail(err, BLIX_E_NOTFOUND, "vm %s has no secret of this name", vm->name);
	blix_reason(err, "secret-unknown");
	blix_hint(err, "the secrets of a VM are named when it is created");
	return -BLIX_E_NOTFOUND;
}

void vm_secret_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	const char *name = api_path_name(request), *secret = http_path_param(request, "secret");
	const char *text = http_query(request, "here");
	bool here = text != NULL && strcmp(text, "true") == 0;
	const struct config_server *server;
	const struct vm *vm;
	struct blix_error err;

	if (name == NULL)
		return;
	vm = state_vm(d->state, name);
	if (vm == NULL && !here) {
		api_not_found(request, name);
		return;
	}
	server = vm != NULL ? daemon_server(d, vm->node) : NULL;
	if ((vm == NULL && not_placed(name, &err) < 0) || check(request, vm, secret, &err) < 0 ||
	    ((server == NULL || (here && server->id != d->config->id)) &&
	     not_placed(name, &err) < 0))
		http_answer_error(request, &err, NULL);
	else if (server->id == d->config->id)
		keep(d, request, vm, secret);
	else
		hand_on(d, request, vm, secret, server);
}
