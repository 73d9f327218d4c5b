/* One table of hypervisors, one row each: what is sent for each operation, or why there is nothing
 * to send. See vmm.h.
 *
 * QEMU and StratoVirt speak QMP, Cloud Hypervisor and Firecracker HTTP; the others have a protocol
 * that only their own program knows, or none. The requests are those of the published
 * interfaces. */
#include "vmm/vmm.h"

#include "base/alloc.h"
#include "vmm/address.h"
#include "vmm/qmp.h"
#include "vmm/rest.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>

struct request {
	int (*call)(const char *socket, const struct request *request, unsigned deadline_ms,
	            cJSON **ret, struct blix_error *err); /* NULL: it cannot, and `why` says why */
	struct rest_request http;
	const char *qmp;
	const char *why;
};

struct vmm_driver {
	const char *name;
	const char *status_key; /* a string in what VMM_STATUS answers */
	bool runner_shuts_down;
	struct vmm_agent_way agent; /* socket NULL: as QEMU */
	struct request requests[VMM_OPERATION_COUNT];
	/* Reads what VMM_COUNTERS answers. */
	int (*counters)(const cJSON *answer, struct vmm_counters *ret, struct blix_error *err);
};

static int call_qmp(const char *socket, const struct request *request, unsigned deadline_ms,
                    cJSON **ret, struct blix_error *err)
{
	return qmp_query(socket, request->qmp, deadline_ms, ret, err);
}

static int call_http(const char *socket, const struct request *request, unsigned deadline_ms,
                     cJSON **ret, struct blix_error *err)
{
	return rest_call(socket, &request->http, deadline_ms, ret, err);
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

static int qemu_power_button(const char *socket, const struct request *request,
                             unsigned deadline_ms, cJSON **ret, struct blix_error *err)
{
	cleanup(qmp_freep) struct qmp *q = NULL;
	struct blix_error refusal;
	int button, keys, rc = qmp_open(socket, deadline_ms, &q, err);

	(void)request;
	(void)ret;
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

/* In one session; *ret holds each answer under its command. A machine without that device answers
 * with an error, which only leaves the answer out. request->qmp, if any, is all that is asked. */
static int qmp_counters(const char *socket, const struct request *request, unsigned deadline_ms,
                        cJSON **ret, struct blix_error *err)
{
	static const char *const commands[] = {"query-blockstats", "query-balloon",
	                                       "query-cpus-fast"};
	cleanup(qmp_freep) struct qmp *q = NULL;
	cleanup(json_freep) cJSON *answers = json_object();
	int rc = qmp_open(socket, deadline_ms, &q, err);

	for (size_t i = 0; i < array_size(commands) && rc == 0; i++) {
		struct blix_error failure;
		cJSON *answer = NULL;

		if (request->qmp != NULL && strcmp(request->qmp, commands[i]) != 0)
			continue;
		rc = qmp_execute(q, commands[i], NULL, &answer, &failure);
		if (rc == 0)
			json_add(answers, commands[i], answer);
		else if (strcmp(failure.reason, REASON_ERROR) == 0)
			rc = 0;
		else if (err != NULL)
			*err = failure;
	}
	if (rc == 0)
		*ret = take(answers);
	return rc;
}

/* Adds the number at `key`; false when there is none. */
static bool count(const cJSON *object, const char *key, uint64_t *sum)
{
	uint64_t value = UINT64_MAX;

	if (json_get_u64(object, key, &value, NULL) < 0 || value == UINT64_MAX)
		return false;
	*sum += value;
	return true;
}

static int counters_malformed(const char *what, struct blix_error *err)
{
	return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED, "answer to %s makes no sense",
	                    what);
}

static int qemu_disk_counters(const cJSON *disks, struct vmm_counters *ret, struct blix_error *err)
{
	const cJSON *disk;

	if (!cJSON_IsArray(disks))
		return counters_malformed("query-blockstats", err);
	cJSON_ArrayForEach (disk, disks) {
		const cJSON *stats = NULL;

		if (!cJSON_IsObject(disk) || json_get_object(disk, "stats", &stats, NULL) < 0 ||
		    stats == NULL || !count(stats, "rd_bytes", &ret->disk_read_bytes) ||
		    !count(stats, "wr_bytes", &ret->disk_write_bytes))
			return counters_malformed("query-blockstats", err);
	}
	ret->disk_known = true;
	return 0;
}

static int qemu_counters(const cJSON *answer, struct vmm_counters *ret, struct blix_error *err)
{
	const cJSON *disks = cJSON_GetObjectItemCaseSensitive(answer, "query-blockstats");
	const cJSON *balloon = cJSON_GetObjectItemCaseSensitive(answer, "query-balloon");
	const cJSON *cpus = cJSON_GetObjectItemCaseSensitive(answer, "query-cpus-fast");

	if (balloon != NULL) {
		if (!cJSON_IsObject(balloon) || !count(balloon, "actual", &ret->memory_bytes))
			return counters_malformed("query-balloon", err);
		ret->memory_known = true;
	}
	if (cpus != NULL) {
		if (!cJSON_IsArray(cpus))
			return counters_malformed("query-cpus-fast", err);
		ret->cpus = (uint64_t)cJSON_GetArraySize(cpus);
		ret->cpus_known = true;
	}
	return disks != NULL ? qemu_disk_counters(disks, ret, err) : 0;
}

/* {"_disk0": {"read_bytes": 1, ...}, "_net1": {"rx_bytes": 1, ...}}: what a device counts says what
 * it is. */
static int cloud_counters(const cJSON *answer, struct vmm_counters *ret, struct blix_error *err)
{
	const cJSON *device;

	cJSON_ArrayForEach (device, answer) {
		if (!cJSON_IsObject(device))
			return counters_malformed("vm.counters", err);
		if (count(device, "read_bytes", &ret->disk_read_bytes) &&
		    count(device, "write_bytes", &ret->disk_write_bytes))
			ret->disk_known = true;
		if (count(device, "rx_bytes", &ret->net_rx_bytes) &&
		    count(device, "tx_bytes", &ret->net_tx_bytes))
			ret->net_known = true;
	}
	return 0;
}

#define QMP(command)                                                                               \
	{                                                                                          \
		.call = call_qmp, .qmp = (command)                                                 \
	}
#define HTTP(method, path, body)                                                                   \
	{                                                                                          \
		.call = call_http, .http = { method, path, body }                                  \
	}
#define CANNOT(text)                                                                               \
	{                                                                                          \
		.why = (text)                                                                      \
	}
#define CANNOT_ANYTHING(text)                                                                      \
	{                                                                                          \
		[VMM_STATUS] = CANNOT(text), [VMM_PAUSE] = CANNOT(text),                           \
		[VMM_RESUME] = CANNOT(text), [VMM_POWER_BUTTON] = CANNOT(text),                    \
		[VMM_QUIT] = CANNOT(text)                                                          \
	}

/* The names that microvm.nix gives: docs/guest-contract.md. */
#define AGENT_SOCKET "blix.agent"
#define AGENT_VSOCK                                                                                \
	{                                                                                          \
		"notify.vsock", 2549                                                               \
	}

static const struct vmm_driver drivers[] = {
	[VMM_UNKNOWN] = {.name = "unknown",
                         .requests = CANNOT_ANYTHING("the runner names no hypervisor known here")},
	[VMM_QEMU] = {.name = "qemu",
                      .status_key = "status",
                      .requests = {[VMM_STATUS] = QMP("query-status"),
                                   [VMM_PAUSE] = QMP("stop"),
                                   [VMM_RESUME] = QMP("cont"),
                                   [VMM_POWER_BUTTON] = {.call = qemu_power_button},
                                   [VMM_QUIT] = QMP("quit"),
                                   [VMM_COUNTERS] = {.call = qmp_counters}},
                      .counters = qemu_counters},
	[VMM_CLOUD_HYPERVISOR] = {.name = "cloud-hypervisor",
                                  .status_key = "state",
                                  .agent = AGENT_VSOCK,
                                  .requests = {[VMM_STATUS] = HTTP("GET", "/api/v1/vm.info", NULL),
                                               [VMM_PAUSE] = HTTP("PUT", "/api/v1/vm.pause", ""),
                                               [VMM_RESUME] = HTTP("PUT", "/api/v1/vm.resume", ""),
                                               [VMM_POWER_BUTTON] =
                                                       HTTP("PUT", "/api/v1/vm.power-button", ""),
                                               [VMM_QUIT] = HTTP("PUT", "/api/v1/vmm.shutdown", ""),
                                               [VMM_COUNTERS] =
                                                       HTTP("GET", "/api/v1/vm.counters", NULL)},
                                  .counters = cloud_counters},
	[VMM_FIRECRACKER] =
		{.name = "firecracker",
                 .status_key = "state",
                 .agent = AGENT_VSOCK,
                 .requests = {[VMM_STATUS] = HTTP("GET", "/", NULL),
                              [VMM_PAUSE] = HTTP("PATCH", "/vm", "{\"state\":\"Paused\"}"),
                              [VMM_RESUME] =
                                      HTTP("PATCH", "/vm", "{\"state\":\"Resumed\"}"),
                              [VMM_POWER_BUTTON] =
                                      HTTP("PUT", "/actions",
                                           "{\"action_type\":\"SendCtrlAltDel\"}"),
                              [VMM_QUIT] = CANNOT("its API has no request that ends it"),
                              [VMM_COUNTERS] = CANNOT("it writes its metrics to a file only")}},
	[VMM_CROSVM] = {.name = "crosvm",
                        .runner_shuts_down = true,
                        .requests = CANNOT_ANYTHING(
				"its socket speaks a protocol that only its own program knows")},
	[VMM_KVMTOOL] = {.name = "kvmtool",
                         .requests = CANNOT_ANYTHING(
				 "its socket speaks a protocol that only its own program knows")},
	[VMM_STRATOVIRT] = {.name = "stratovirt",
                            .status_key = "status",
                            .requests = {[VMM_STATUS] = QMP("query-status"),
                                         [VMM_PAUSE] = QMP("stop"),
                                         [VMM_RESUME] = QMP("cont"),
                                         [VMM_POWER_BUTTON] = CANNOT(
						 "its QMP has neither a power button nor keys"),
                                         [VMM_QUIT] = QMP("quit"),
                                         [VMM_COUNTERS] = {.call = qmp_counters,
                                                           .qmp = "query-balloon"}},
                            .counters = qemu_counters},
	[VMM_ALIOTH] = {.name = "alioth", .requests = CANNOT_ANYTHING("it has no control socket")},
	[VMM_VFKIT] = {.name = "vfkit", .requests = CANNOT_ANYTHING("it runs on macOS only")},
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
	return vmm_cannot(kind, VMM_STATUS) == NULL;
}

const char *vmm_cannot(enum vmm_kind kind, enum vmm_operation operation)
{
	return vmm_driver(kind)->requests[operation].why;
}

const struct vmm_agent_way *vmm_agent_way(enum vmm_kind kind)
{
	static const struct vmm_agent_way port = {.socket = AGENT_SOCKET};
	const struct vmm_agent_way *own = &vmm_driver(kind)->agent;

	return own->socket != NULL ? own : &port;
}

bool vmm_runner_shuts_down(enum vmm_kind kind)
{
	return vmm_driver(kind)->runner_shuts_down;
}

static int vmm_call(enum vmm_kind kind, enum vmm_operation operation, const char *socket,
                    unsigned deadline_ms, cJSON **ret, struct blix_error *err)
{
	static const char *const verbs[] = {
		[VMM_STATUS] = "ask",    [VMM_PAUSE] = "pause",
		[VMM_RESUME] = "resume", [VMM_POWER_BUTTON] = "shut down the guest of",
		[VMM_QUIT] = "end",      [VMM_COUNTERS] = "ask for the counters of"};
	const struct request *request = &vmm_driver(kind)->requests[operation];

	if (request->call == NULL)
		return address_fail(err, BLIX_E_REFUSED, REASON_NOT_KNOWN,
		                    "no way to %s hypervisor %s: %s", verbs[operation],
		                    vmm_kind_name(kind), request->why);
	return request->call(socket, request, deadline_ms, ret, err);
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
	const char *key = vmm_driver(kind)->status_key, *text = NULL;
	cleanup(json_freep) cJSON *answer = NULL;
	int rc = vmm_call(kind, VMM_STATUS, socket, deadline_ms, &answer, err);

	if (rc < 0)
		return rc;
	if (!cJSON_IsObject(answer) || json_get_string(answer, key, &text, NULL) < 0 ||
	    text == NULL || text[0] == '\0')
		return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED, "answer has no %s", key);
	status_text(ret->text, sizeof(ret->text), text);
	return 0;
}

/* Cloud Hypervisor calls it an error to be asked for the state that it is in. */
static int vmm_change(enum vmm_kind kind, enum vmm_operation operation, const char *socket,
                      unsigned deadline_ms, const char *wanted, struct blix_error *err)
{
	struct blix_error refusal;
	struct vmm_status status;
	int rc = vmm_call(kind, operation, socket, deadline_ms, NULL, &refusal);

	if (rc == 0)
		return 0;
	if (rc == -BLIX_E_REFUSED && strcmp(refusal.reason, REASON_ERROR) == 0 &&
	    vmm_status(kind, socket, deadline_ms, &status, NULL) == 0 &&
	    strcmp(status.text, wanted) == 0)
		return 0;
	if (err != NULL)
		*err = refusal;
	return rc;
}

int vmm_pause(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	return vmm_change(kind, VMM_PAUSE, socket, deadline_ms, "paused", err);
}

int vmm_resume(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	return vmm_change(kind, VMM_RESUME, socket, deadline_ms, "running", err);
}

int vmm_power_button(enum vmm_kind kind, const char *socket, unsigned deadline_ms,
                     struct blix_error *err)
{
	return vmm_call(kind, VMM_POWER_BUTTON, socket, deadline_ms, NULL, err);
}

int vmm_quit(enum vmm_kind kind, const char *socket, unsigned deadline_ms, struct blix_error *err)
{
	return vmm_call(kind, VMM_QUIT, socket, deadline_ms, NULL, err);
}

int vmm_counters(enum vmm_kind kind, const char *socket, unsigned deadline_ms,
                 struct vmm_counters *ret, struct blix_error *err)
{
	struct vmm_counters counters = {.disk_known = false};
	cleanup(json_freep) cJSON *answer = NULL;
	int rc = vmm_call(kind, VMM_COUNTERS, socket, deadline_ms, &answer, err);

	if (rc == 0)
		rc = vmm_driver(kind)->counters(answer, &counters, err);
	if (rc == 0)
		*ret = counters;
	return rc;
}
