/* One table of hypervisors, three requests each: see vmm.h. */
#include "vmm/vmm.h"

#include "base/alloc.h"
#include "vmm/address.h"
#include "vmm/qmp.h"
#include "vmm/rest.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>

struct vmm_driver {
	const char *name;
	int (*status)(const char *socket, unsigned deadline_ms, cJSON **ret,
	              struct blix_error *err);
	const char *status_key; /* a string in what `status` answers */
	int (*power_button)(const char *socket, unsigned deadline_ms, struct blix_error *err);
	int (*quit)(const char *socket, unsigned deadline_ms, struct blix_error *err);
};

static int qemu_status(const char *socket, unsigned deadline_ms, cJSON **ret,
                       struct blix_error *err)
{
	return qmp_query(socket, "query-status", deadline_ms, ret, err);
}

static void push_key(cJSON *events, const char *code, bool down)
{
	cJSON *event = json_object(), *data = json_object(), *key = json_object();

	json_add_string(key, "type", "qcode");
	json_add_string(key, "data", code);
	json_add_bool(data, "down", down);
	json_add(data, "key", key);
	json_add_string(event, "type", "key");
	json_add(event, "data", data);
	json_push(events, event);
}

static int qemu_press_keys(struct qmp *q, struct blix_error *err)
{
	static const char *const keys[] = {"ctrl", "alt", "delete"};
	cleanup(json_freep) cJSON *arguments = json_object();
	cJSON *events = json_array();

	json_add(arguments, "events", events);
	for (size_t i = 0; i < array_size(keys); i++)
		push_key(events, keys[i], true);
	for (size_t i = array_size(keys); i > 0; i--)
		push_key(events, keys[i - 1], false);
	return qmp_execute(q, "input-send-event", arguments, NULL, err);
}

static int qemu_power_button(const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	cleanup(qmp_freep) struct qmp *q = NULL;
	struct blix_error refusal;
	int button, keys, rc = qmp_open(socket, deadline_ms, &q, err);

	if (rc < 0)
		return rc;
	assert(q != NULL);
	button = qmp_execute(q, "system_powerdown", NULL, NULL, &refusal);
	/* A machine without a keyboard answers the keys with an error. A guest that acts on the
	 * button at once may end QEMU before it has answered the keys. */
	keys = qemu_press_keys(q, NULL);
	if (button < 0 && keys < 0 && err != NULL)
		*err = refusal;
	return button == 0 || keys == 0 ? 0 : button;
}

static int qemu_quit(const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	return qmp_query(socket, "quit", deadline_ms, NULL, err);
}

static int cloud_status(const char *socket, unsigned deadline_ms, cJSON **ret,
                        struct blix_error *err)
{
	return rest_get(socket, "/api/v1/vm.info", deadline_ms, ret, err);
}

static int cloud_power_button(const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	return rest_put(socket, "/api/v1/vm.power-button", "", deadline_ms, err);
}

static int cloud_quit(const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	return rest_put(socket, "/api/v1/vmm.shutdown", "", deadline_ms, err);
}

static int firecracker_status(const char *socket, unsigned deadline_ms, cJSON **ret,
                              struct blix_error *err)
{
	return rest_get(socket, "/", deadline_ms, ret, err);
}

static int firecracker_power_button(const char *socket, unsigned deadline_ms,
                                    struct blix_error *err)
{
	return rest_put(socket, "/actions", "{\"action_type\":\"SendCtrlAltDel\"}", deadline_ms,
	                err);
}

static const struct vmm_driver drivers[] = {
	[VMM_UNKNOWN] = {.name = "unknown"},
	[VMM_QEMU] = {"qemu", qemu_status, "status", qemu_power_button, qemu_quit},
	[VMM_CLOUD_HYPERVISOR] = {"cloud-hypervisor", cloud_status, "state", cloud_power_button,
                                  cloud_quit},
	/* Firecracker's API has no request that ends it. */
	[VMM_FIRECRACKER] = {"firecracker", firecracker_status, "state", firecracker_power_button,
                             NULL},
	[VMM_CROSVM] = {.name = "crosvm"},
	[VMM_KVMTOOL] = {.name = "kvmtool"},
	/* Its QMP is a subset: query-status and quit are there, keys and power button are not. */
	[VMM_STRATOVIRT] = {"stratovirt", qemu_status, "status", NULL, qemu_quit},
	[VMM_ALIOTH] = {.name = "alioth"},
	[VMM_VFKIT] = {.name = "vfkit"},
};

static const struct vmm_driver *vmm_driver(enum vmm_kind kind)
{
	return &drivers[(size_t)kind < array_size(drivers) ? kind : VMM_UNKNOWN];
}

enum vmm_kind vmm_kind_parse(const char *text)
{
	size_t n = strcspn(text, " \t\r\n");

	for (size_t i = VMM_UNKNOWN + 1; i < array_size(drivers); i++) {
		if (strlen(drivers[i].name) == n && strncmp(drivers[i].name, text, n) == 0)
			return (enum vmm_kind)i;
	}
	return VMM_UNKNOWN;
}

const char *vmm_kind_name(enum vmm_kind kind)
{
	return vmm_driver(kind)->name;
}

bool vmm_kind_answers(enum vmm_kind kind)
{
	return vmm_driver(kind)->status != NULL;
}

static int vmm_unsupported(enum vmm_kind kind, const char *what, struct blix_error *err)
{
	return address_fail(err, BLIX_E_REFUSED, REASON_NOT_KNOWN, "no way to %s hypervisor %s",
	                    what, vmm_kind_name(kind));
}

/* "Not started" -> "not-started": what came from outside, made one safe word. */
static void status_text(char *out, size_t n, const char *text)
{
	size_t i;

	for (i = 0; i + 1 < n && text[i] != '\0'; i++) {
		unsigned char c = (unsigned char)text[i];

		out[i] = (char)(isascii(c) && isalnum(c) ? tolower(c) : '-');
	}
	out[i] = '\0';
}

int vmm_status(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct vmm_status *ret,
               struct blix_error *err)
{
	const struct vmm_driver *driver = vmm_driver(kind);
	cleanup(json_freep) cJSON *answer = NULL;
	const char *text = NULL;
	int rc;

	if (driver->status == NULL)
		return vmm_unsupported(kind, "ask", err);
	rc = driver->status(socket, deadline_ms, &answer, err);
	if (rc < 0)
		return rc;
	if (!cJSON_IsObject(answer) ||
	    json_get_string(answer, driver->status_key, &text, NULL) < 0 || text == NULL ||
	    text[0] == '\0')
		return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED, "answer has no %s",
		                    driver->status_key);
	status_text(ret->text, sizeof(ret->text), text);
	return 0;
}

int vmm_power_button(enum vmm_kind kind, const char *socket, unsigned deadline_ms,
                     struct blix_error *err)
{
	const struct vmm_driver *driver = vmm_driver(kind);

	if (driver->power_button == NULL)
		return vmm_unsupported(kind, "shut down the guest of", err);
	return driver->power_button(socket, deadline_ms, err);
}

int vmm_quit(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	const struct vmm_driver *driver = vmm_driver(kind);

	if (driver->quit == NULL)
		return vmm_unsupported(kind, "end", err);
	return driver->quit(socket, deadline_ms, err);
}
