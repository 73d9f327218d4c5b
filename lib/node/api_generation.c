/* Routes about the systems of a VM: update, rollback, and the generations that are kept. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "core/generation_json.h"

#include <stdio.h>

static void change(struct http_request *request, struct daemon *d,
                   int (*parse)(const cJSON *body, struct command *command, struct blix_error *err))
{
	const char *name = api_path_name(request);
	cleanup(json_freep) cJSON *body = NULL;
	struct command command;
	struct blix_error err;
	size_t n;
	int rc = 0;

	if (name == NULL)
		return;
	command_init(&command, COMMAND_VM_UPDATE);
	(void)snprintf(command.vm_update.name, sizeof(command.vm_update.name), "%s", name);
	(void)http_body(request, &n);
	if (n > 0)
		rc = api_parse_body(request, &body, &err);
	if (rc == 0)
		rc = parse(body, &command, &err);
	if (rc == 0)
		rc = api_query_number(request, "ifVersion", UINT64_MAX,
		                      &command.vm_update.if_version, &err);
	if (rc < 0) {
		http_answer_error(request, &err, NULL);
		command_done(&command);
		return;
	}
	api_propose(d, request, &command, name, 200);
}

void vm_update_handle(struct http_request *request, void *data)
{
	change(request, data, update_parse);
}

void vm_rollback_handle(struct http_request *request, void *data)
{
	change(request, data, rollback_parse);
}

void vm_generations_handle(struct http_request *request, void *data)
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
	http_answer_json(request, 200, list);
}
