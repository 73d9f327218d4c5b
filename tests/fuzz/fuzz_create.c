/* The body of POST /v1/vms. A spec that is let in passes the state's own check, survives its bytes
 * in the log, and reads back the same from the JSON that is made of it. */
#include "fuzz.h"

#include "base/alloc.h"
#include "core/command.h"
#include "core/object_json.h"

#include <string.h>

static void through_the_log(const char *name, const struct vm_spec *spec)
{
	struct command command, back;
	struct buf bytes;

	command_init(&command, COMMAND_VM_CREATE);
	memcpy(command.vm_create.name, name, LIMIT_NAME + 1);
	vm_spec_done(&command.vm_create.spec);
	vm_spec_copy(&command.vm_create.spec, spec);
	buf_init(&bytes, LIMIT_COMMAND);
	assert(command_encode(&command, &bytes, NULL) == 0);
	assert(command_decode((const uint8_t *)bytes.data, bytes.len, &back, NULL) == 0);
	assert(strcmp(back.vm_create.spec.flake, spec->flake) == 0);
	command_done(&back);
	command_done(&command);
	buf_done(&bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	cleanup(json_freep) cJSON *body = NULL, *made = NULL;
	char name[LIMIT_NAME + 1] = "", name_again[LIMIT_NAME + 1] = "";
	struct vm_spec spec, again;
	struct blix_error err;

	if (json_parse((const char *)data, n, &json_limits_request, &body, &err) < 0 ||
	    vm_create_parse(body, name, &spec, &err) < 0)
		return 0;
	assert(vm_spec_check(&spec, NULL) == 0);
	through_the_log(name, &spec);
	made = vm_create_json(name, &spec);
	assert(vm_create_parse(made, name_again, &again, &err) == 0);
	assert(strcmp(name, name_again) == 0);
	assert(spec.memory_bytes == again.memory_bytes && spec.cpus == again.cpus);
	assert(spec.labels.n == again.labels.n);
	vm_spec_done(&spec);
	vm_spec_done(&again);
	return 0;
}
