/* POST /v1/vms/NAME/exec and /copy: a command in the guest, a tree of files into or out of it, by
 * its agent (docs/guest-contract.md).
 *
 * Happy path: the body becomes the agent's OPEN; its OPENED is our 101, and then frames are passed
 * on both ways, CREDIT too: the windows are those of the two ends. EXIT or ERROR is the agent's
 * last word. How it fails: no agent is connected (no-agent), the agent refuses (its error is our
 * answer), the connection to it breaks (an ERROR frame, agent-lost). A client that goes away ends
 * what runs in the guest. */
#include "node/stream.h"

#include "base/alloc.h"
#include "base/json.h"
#include "core/object_json.h"
#include "node/guest.h"

struct guest_end {
	struct stream *stream;
	struct agent_stream *guest;
	struct daemon *daemon;
	char name[LIMIT_NAME + 1];
	bool accepted;
	struct blix_error err; /* what the agent refused with */
};

static void end_free(struct guest_end *end)
{
	agent_stream_close(end->guest);
	free(end);
}

static void end_refuse(struct guest_end *end, struct blix_error *err)
{
	struct stream *stream = end->stream;

	if (strcmp(err->reason, "no-agent") == 0 && err->hint[0] == '\0')
		blix_hint(err,
		          "'blix vm console %s' needs none, nor does 'blix vm ssh %s' where the "
		          "guest has a vsock",
		          end->name, end->name);
	/* The host knows better than a state that lags behind; only the phase is the state's. */
	if (strcmp(err->reason, "not-running") != 0 || !stream_is_down(end->daemon, end->name, err))
		(void)blix_wrap(err, "vm %s", end->name);
	end_free(end);
	stream_refuse(stream, err);
}

/* The last word, when it is ours. */
static void end_break(struct guest_end *end, struct blix_error *err)
{
	struct stream *stream = end->stream;
	cleanup(json_freep) cJSON *tree = NULL;
	cleanup(freep) char *text = NULL;

	if (!end->accepted) {
		end_refuse(end, err);
		return;
	}
	tree = error_json(err, NULL);
	text = json_text(tree);
	end_free(end);
	stream_send(stream, FRAME_ERROR, text, strlen(text));
	stream_finish(stream);
}

static void accept_once(struct guest_end *end)
{
	if (!end->accepted)
		stream_accept(end->stream);
	end->accepted = true;
}

static void guest_frame(void *data, const struct frame *frame)
{
	struct guest_end *end = data;
	cleanup(json_freep) cJSON *tree = NULL;

	if (frame->type == FRAME_ERROR && !end->accepted) {
		(void)json_parse(frame->data, frame->len, &json_limits_request, &tree, NULL);
		error_parse(tree, 500, &end->err);
		return; /* guest_ended() comes next */
	}
	accept_once(end);
	if (frame->type != FRAME_OPENED && stream_may_send(end->stream, frame))
		stream_send(end->stream, frame->type, frame->data, frame->len);
}

static void guest_ended(void *data, const struct blix_error *broken)
{
	struct guest_end *end = data;
	struct stream *stream = end->stream;

	if (broken != NULL || !end->accepted) {
		struct blix_error err = broken != NULL ? *broken : end->err;

		if (err.code == BLIX_OK)
			(void)blix_fail(&err, BLIX_E_INTERNAL, "its agent gave no answer");
		end_break(end, &err);
		return;
	}
	end_free(end);
	stream_finish(stream);
}

static const struct agent_stream_ops guest_ops = {guest_frame, guest_ended};

static void client_frame(void *far, const struct frame *frame)
{
	struct guest_end *end = far;
	struct stream *stream = end->stream;
	struct blix_error err;

	if (frame->type == FRAME_CLOSE) {
		end_free(end);
		stream_finish(stream);
	} else if (agent_stream_send(end->guest, frame->type, frame->data, frame->len, &err) < 0) {
		end_break(end, &err);
	}
}

static void client_gone(void *far)
{
	end_free(far);
}

static const struct stream_far guest_far = {
	.frame = client_frame, .gone = client_gone, .passes_credit = true};

static void end_start(struct daemon *d, struct http_request *request, const struct vm *vm,
                      const cJSON *open)
{
	cleanup(freep) char *text = json_text(open);
	struct guest_end *end = xcalloc(1, sizeof(*end));
	struct blix_error err;

	end->daemon = d;
	memcpy(end->name, vm->name, sizeof(end->name));
	end->stream = stream_open(d, request, &guest_far, end);
	if (end->stream == NULL)
		end_free(end);
	else if (guest_open(d->executor, vm->uid, text, &guest_ops, end, &end->guest, &err) < 0)
		end_refuse(end, &err);
}

/* The members of the body that the agent takes, under its names. */
struct member {
	const char *name, *agent_name;
	bool (*fits)(const cJSON *value);
};

static bool is_text(const cJSON *value)
{
	return cJSON_IsString(value);
}

static bool is_flag(const cJSON *value)
{
	return cJSON_IsBool(value);
}

static bool is_size(const cJSON *value)
{
	return cJSON_IsNumber(value) && value->valuedouble >= 1 && value->valuedouble <= UINT16_MAX;
}

static bool is_texts(const cJSON *value)
{
	const cJSON *item;

	if (!cJSON_IsArray(value) && !cJSON_IsObject(value))
		return false;
	cJSON_ArrayForEach (item, value) {
		if (!cJSON_IsString(item))
			return false;
	}
	return true;
}

static bool is_command(const cJSON *value)
{
	return cJSON_IsArray(value) && cJSON_GetArraySize(value) > 0 && is_texts(value);
}

static bool is_variables(const cJSON *value)
{
	return cJSON_IsObject(value) && is_texts(value);
}

static const struct member exec_members[] = {
	{"argv", "argv", is_command}, {"env", "env", is_variables}, {"cwd", "cwd", is_text},
	{"user", "user", is_text},    {"tty", "tty", is_flag},      {"rows", "rows", is_size},
	{"columns", "cols", is_size},
};
static const struct member copy_in_members[] = {{"path", "path", is_text},
                                                {"name", "name", is_text}};
static const struct member copy_out_members[] = {{"path", "path", is_text}};

/* The agent's OPEN: the body's members, each of its kind; the first must be there. */
static int open_make(const cJSON *body, const char *kind, const struct member *members, size_t n,
                     cJSON **ret, struct blix_error *err)
{
	cleanup(json_freep) cJSON *open = json_object();

	json_add_string(open, "kind", kind);
	if (cJSON_GetObjectItemCaseSensitive(body, members[0].name) == NULL)
		return blix_fail(err, BLIX_E_INVALID, "'%s' is missing", members[0].name);
	for (size_t i = 0; i < n; i++) {
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(body, members[i].name);

		if (value == NULL)
			continue;
		if (!members[i].fits(value))
			return blix_fail(err, BLIX_E_INVALID, "'%s' is not what it must be",
			                 members[i].name);
		json_add(open, members[i].agent_name, cJSON_Duplicate(value, true));
	}
	*ret = take(open);
	return 0;
}

static int exec_parse(const struct http_request *request, cJSON **ret, struct blix_error *err)
{
	static const char *const keys[] = {"argv", "env",  "cwd",     "user",
	                                   "tty",  "rows", "columns", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	int rc = stream_body(request, keys, &body, err);

	return rc < 0 ? rc
	              : open_make(body, "exec", exec_members, array_size(exec_members), ret, err);
}

static int copy_parse(const struct http_request *request, cJSON **ret, struct blix_error *err)
{
	static const char *const keys[] = {"direction", "path", "name", NULL};
	cleanup(json_freep) cJSON *body = NULL;
	const char *direction = "";
	int rc = stream_body(request, keys, &body, err);

	if (rc == 0)
		rc = json_get_string(body, "direction", &direction, err);
	if (rc < 0)
		return rc;
	if (strcmp(direction, "in") == 0)
		return open_make(body, "copy-in", copy_in_members, array_size(copy_in_members), ret,
		                 err);
	if (strcmp(direction, "out") == 0)
		return open_make(body, "copy-out", copy_out_members, array_size(copy_out_members),
		                 ret, err);
	return blix_fail(err, BLIX_E_INVALID, "'direction' is neither in nor out");
}

static void guest_handle(struct http_request *request, struct daemon *d, const char *what,
                         int (*parse)(const struct http_request *request, cJSON **ret,
                                      struct blix_error *err))
{
	cleanup(json_freep) cJSON *open = NULL;
	struct blix_error err;
	const struct vm *vm;

	if (parse(request, &open, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	vm = stream_vm(d, request, what);
	if (vm != NULL)
		end_start(d, request, vm, open);
}

void vm_exec_handle(struct http_request *request, void *data)
{
	guest_handle(request, data, "exec", exec_parse);
}

void vm_copy_handle(struct http_request *request, void *data)
{
	guest_handle(request, data, "copy", copy_parse);
}
