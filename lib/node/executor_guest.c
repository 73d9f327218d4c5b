/* The agent of each running VM: its connection follows the process (executor_watch.c), its word
 * makes a VM ready that was created with `--ready agent`, and it is the first to be asked when a
 * guest shall stop: see guest.h.
 *
 * A guest without an agent, or one that does not answer, costs a look for a socket now and then. */
#include "node/executor_internal.h"
#include "node/guest.h"

#include "base/alloc.h"
#include "sys/clock.h"
#include "sys/log.h"

#define ASK_GUEST_MS 2000

struct guest {
	struct node_executor *e;
	struct local *local; /* NULL: the VM is no more */
	struct agent *agent;
	bool present;
	struct naming *naming; /* it is told who it is; ready only after that */
	unsigned loads;        /* that were told of */
	char problem[256];     /* the same */
	bool awaited;          /* its word makes the VM ready */
	bool given;            /* it has the VM's secrets */
	struct giving *giving;
};

/* The question to shut down, which ends job->... by `done`. */
struct asking {
	struct node_executor *e;
	struct job *job;
	struct agent_stream *stream;
	uv_timer_t deadline;
	bool agreed;
	void (*done)(struct job *job, bool agreed);
};

static void guest_ready(struct guest *guest)
{
	struct local *local = guest->local;
	uint64_t ms = local->start_ms != 0 ? clock_boot_ms() - local->start_ms : 0;

	if (!guest->awaited || guest->naming != NULL || !agent_info(guest->agent)->ready)
		return;
	if (local->vm->spec.secrets.n > 0 && !guest->given)
		return;
	guest->awaited = false;
	node_executor_event(local->e, &(struct executor_event){.kind = EXECUTOR_READY,
	                                                       .uid = local->uid,
	                                                       .ms = (uint32_t)ms});
}

static void tell_secrets(struct guest *guest, const struct blix_error *err)
{
	struct executor_event event = {.kind = EXECUTOR_SECRETS, .uid = guest->local->uid};
	cleanup(freep) char *message = NULL;

	if (err != NULL) {
		log_error(LOG_WARNING, "vm.secrets.failed", err, "vm=%s", guest->local->vm->name);
		message = xasprintf("%.*s%s%s", LIMIT_MESSAGE - 250, err->text,
		                    err->hint[0] != '\0' ? "\nhint: " : "", err->hint);
		event.code = err->code;
		event.reason = blix_error_reason(err);
		event.message = message;
	}
	node_executor_event(guest->e, &event);
}

/* An agent that goes away in the middle is given all of them when it comes back. */
static void on_given(void *data, const struct blix_error *err)
{
	struct guest *guest = data;

	guest->giving = NULL;
	if (guest->local == NULL || (err != NULL && err->code == BLIX_E_UNAVAILABLE))
		return;
	guest->given = err == NULL;
	if (err == NULL)
		log_event(LOG_INFO, "vm.secrets.given", "vm=%s n=%zu", guest->local->vm->name,
		          guest->local->vm->spec.secrets.n);
	tell_secrets(guest, err);
	if (guest->local != NULL)
		guest_ready(guest);
}

static void on_named(void *data)
{
	struct guest *guest = data;

	guest->naming = NULL;
	if (guest->local != NULL)
		guest_ready(guest);
}

void guest_give(struct local *local)
{
	struct guest *guest = local->guest;
	struct blix_error err;

	if (guest == NULL || !guest->present || local->vm->spec.secrets.n == 0)
		return;
	secrets_give_end(guest->giving);
	guest->given = false;
	guest->giving = secrets_give(local, guest->agent, on_given, guest, &err);
	if (guest->giving == NULL)
		on_given(guest, &err);
}

/* A guest that asks in vain asks again: it is told of once. */
static void loads_tell(struct guest *guest, const struct agent_info *info)
{
	const char *name = guest->local->vm->name;

	if (info->loads != guest->loads)
		log_event(LOG_INFO, "vm.agent.loaded", "vm=%s", name);
	if (info->problem[0] != '\0' && strcmp(info->problem, guest->problem) != 0)
		log_event(LOG_WARNING, "vm.agent.refused", "vm=%s error=\"%s\"", name,
		          info->problem);
	guest->loads = info->loads;
	memcpy(guest->problem, info->problem, sizeof(guest->problem));
}

static void on_changed(void *data, const struct agent_info *info)
{
	struct guest *guest = data;

	if (guest->local == NULL)
		return;
	if (info->present && !guest->present)
		log_event(LOG_INFO, "vm.agent.connected", "vm=%s version=%s",
		          guest->local->vm->name, info->version);
	if (!info->present && guest->present)
		log_event(LOG_INFO, "vm.agent.lost", "vm=%s", guest->local->vm->name);
	loads_tell(guest, info);
	if (info->present && !guest->present) {
		guest->present = true;
		guest->naming = identity_give(guest->local, guest->agent, on_named, guest);
		guest_give(guest->local);
	}
	guest->present = info->present;
	if (guest->local != NULL)
		guest_ready(guest);
}

static void guest_closed(void *data)
{
	struct guest *guest = data;
	struct node_executor *e = guest->e;

	free(guest);
	node_executor_handle_closed(e);
}

void guest_follow(struct local *local)
{
	cleanup(freep) char *dir = host_dir(local->e, local->vm->name);
	const struct vmm_agent_way *way = vmm_agent_way(host_hypervisor(dir));
	cleanup(freep) char *path = xasprintf("%s/%s", dir, way->socket);
	struct agent_config config = {
		.loop = local->e->config.loop,
		.path = path,
		.vsock_port = way->vsock_port,
		.program = local->e->agent,
		.changed = on_changed,
	};
	struct guest *guest = xcalloc(1, sizeof(*guest));

	guest->e = local->e;
	guest->local = local;
	config.data = guest;
	guest->agent = agent_open(&config);
	local->e->handles++;
	local->guest = guest;
}

void guest_forget(struct local *local)
{
	struct guest *guest = local->guest;

	if (guest == NULL)
		return;
	local->guest = NULL;
	guest->local = NULL;
	secrets_give_end(guest->giving);
	guest->giving = NULL;
	identity_give_end(take(guest->naming));
	agent_close(guest->agent, guest_closed, guest);
}

void guest_await_ready(struct local *local)
{
	if (local->guest == NULL)
		return;
	local->guest->awaited = true;
	guest_ready(local->guest);
}

int guest_open(struct node_executor *e, uint64_t uid, const char *request,
               const struct agent_stream_ops *ops, void *data, struct agent_stream **ret,
               struct blix_error *err)
{
	const struct local *local = local_find(e, uid);
	int rc;

	if (local == NULL || local->guest == NULL) {
		(void)blix_fail(err, BLIX_E_REFUSED, "the VM does not run here");
		blix_reason(err, "not-running");
		return -BLIX_E_REFUSED;
	}
	rc = agent_stream_open(local->guest->agent, request, ops, data, ret, err);
	if (rc == -BLIX_E_UNAVAILABLE && local->vm->spec.plain)
		blix_hint(err,
		          "%s was created with --plain: its flake must bring blix-agent itself",
		          local->vm->name);
	return rc;
}

const struct agent_info *guest_info(const struct node_executor *e, uint64_t uid)
{
	const struct local *local = local_find(e, uid);

	return local == NULL || local->guest == NULL ? NULL : agent_info(local->guest->agent);
}

static void asking_closed(uv_handle_t *handle)
{
	struct asking *asking = handle->data;
	struct node_executor *e = asking->e;

	asking->done(asking->job, asking->agreed);
	free(asking);
	node_executor_handle_closed(e);
}

static void asking_end(struct asking *asking, bool agreed)
{
	if (uv_is_closing((uv_handle_t *)&asking->deadline))
		return;
	asking->agreed = agreed;
	agent_stream_close(asking->stream);
	uv_close((uv_handle_t *)&asking->deadline, asking_closed);
}

static void on_asking_frame(void *data, const struct frame *f)
{
	struct asking *asking = data;

	if (f->type == FRAME_EXIT)
		asking->agreed = true;
}

static void on_asking_ended(void *data, const struct blix_error *err)
{
	struct asking *asking = data;

	asking_end(asking, err == NULL && asking->agreed);
}

static void on_asking_late(uv_timer_t *timer)
{
	asking_end(timer->data, false);
}

bool guest_ask_shutdown(struct job *job, void (*done)(struct job *job, bool agreed))
{
	static const struct agent_stream_ops ops = {on_asking_frame, on_asking_ended};
	struct guest *guest = job->local->guest;
	struct asking *asking;

	if (guest == NULL || !agent_info(guest->agent)->present)
		return false;
	asking = xcalloc(1, sizeof(*asking));
	asking->e = job->e;
	asking->job = job;
	asking->done = done;
	if (agent_stream_open(guest->agent, "{\"kind\":\"shutdown\"}", &ops, asking,
	                      &asking->stream, NULL) < 0) {
		free(asking);
		return false;
	}
	asking->deadline.data = asking;
	if (uv_timer_init(job->e->config.loop, &asking->deadline) != 0)
		abort();
	job->e->handles++;
	(void)uv_timer_start(&asking->deadline, on_asking_late, ASK_GUEST_MS, 0);
	return true;
}
