/* Routes that change what a VM is: set, update, rollback; and the generations that are kept. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "core/generation_json.h"
#include "core/object_json.h"
#include "node/read.h"

#include <stdio.h>

typedef int parse_fn(const cJSON *body, struct command *command, struct blix_error *err);

/* slot and if_version are the command's own. */
static void change(struct http_request *request, struct daemon *d, struct command *command,
                   char slot[LIMIT_NAME + 1], uint64_t *if_version, parse_fn *parse)
{
	const char *name = api_path_name(request);
	cleanup(json_freep) cJSON *body = NULL;
	struct blix_error err;
	size_t n;
	int rc = 0;

	if (name == NULL) {
		command_done(command);
		return;
	}
	(void)snprintf(slot, LIMIT_NAME + 1, "%s", name);
	(void)http_body(request, &n);
	if (n > 0)
		rc = api_parse_body(request, &body, &err);
	if (rc == 0)
		rc = parse(body, command, &err);
	if (rc == 0)
		rc = api_if_version(request, if_version, &err);
	if (rc < 0) {
		http_answer_error(request, &err, NULL);
		command_done(command);
		return;
	}
	api_propose(d, request, command, name, 200);
}

static void change_system(struct http_request *request, struct daemon *d, parse_fn *parse)
{
	struct command c;

	command_init(&c, COMMAND_VM_UPDATE);
	change(request, d, &c, c.vm_update.name, &c.vm_update.if_version, parse);
}

void vm_update_handle(struct http_request *request, void *data)
{
	change_system(request, data, update_parse);
}

void vm_rollback_handle(struct http_request *request, void *data)
{
	change_system(request, data, rollback_parse);
}

void vm_set_handle(struct http_request *request, void *data)
{
	struct command c;

	command_init(&c, COMMAND_VM_SET);
	change(request, data, &c, c.vm_set.name, &c.vm_set.if_version, vm_set_parse);
}

static void vm_generations_read(struct http_request *request, void *data)
{
	const struct daemon *d = data;
	const char *name = api_path_name(request);
	const struct vm *vm = name != NULL ? state_vm(d->state, name) : NULL;
	cleanup(json_freep) cJSON *list = NULL;

	if (name == NULL)
		return;
	if (vm == NULL) {
		api_not_found(request, name);
		return;
	}
	list = generations_json(vm);
	api_add_stale(d, list);
	http_answer_json(request, 200, list);
}

void vm_generations_handle(struct http_request *request, void *data)
{
	api_read(data, request, vm_generations_read);
}
