/* Who a guest is: its hostname is the VM's name, its machine id comes from the VM's uid, so that
 * they outlive its disk and no two VMs of one system share them.
 *
 * Once per boot, when its agent says hello; the agent remembers, so what the guest is named after
 * that is its own affair. An agent that cannot set them is left alone until it begins again. */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/json.h"
#include "sys/log.h"
#include "sys/sha256.h"
#include "vmm/agent.h"

#include <inttypes.h>
#include <stdio.h>

#define MACHINE_ID 32 /* digits */

struct naming {
	struct agent_stream *stream;
	char *vm;
	bool set;
	void (*done)(void *data);
	void *data;
};

void identity_machine_id(const char *cluster, uint64_t uid, char out[MACHINE_ID + 1])
{
	cleanup(freep) char *who = xasprintf("blix machine %s %" PRIu64, cluster, uid);
	char hex[SHA256_HEX];

	sha256_hex(who, strlen(who), hex);
	(void)snprintf(out, MACHINE_ID + 1, "%.*s", MACHINE_ID, hex);
}

static void naming_free(struct naming *naming)
{
	agent_stream_close(naming->stream);
	free(naming->vm);
	free(naming);
}

static void on_frame(void *data, const struct frame *f)
{
	struct naming *naming = data;

	if (f->type == FRAME_EXIT)
		naming->set = true;
	if (f->type == FRAME_ERROR)
		log_event(LOG_WARNING, "vm.identity.failed", "vm=%s answer=\"%.*s\"", naming->vm,
		          (int)f->len, f->data);
}

static void on_ended(void *data, const struct blix_error *err)
{
	struct naming *naming = data;
	void (*done)(void *data) = naming->done;
	void *whose = naming->data;

	(void)err; /* the agent is gone: the next one is asked */
	if (naming->set)
		log_event(LOG_INFO, "vm.identity.set", "vm=%s", naming->vm);
	naming_free(naming);
	done(whose);
}

struct naming *identity_give(const struct local *local, struct agent *agent,
                             void (*done)(void *data), void *data)
{
	static const struct agent_stream_ops ops = {on_frame, on_ended};
	struct naming *naming;
	cleanup(json_freep) cJSON *open = json_object();
	cleanup(freep) char *text = NULL;
	char machine_id[MACHINE_ID + 1];

	if (local->vm->spec.plain || agent_info(agent)->identity)
		return NULL;
	identity_machine_id(local->e->config.cluster, local->uid, machine_id);
	json_add_string(open, "kind", "identity");
	json_add_string(open, "hostname", local->vm->name);
	json_add_string(open, "machineId", machine_id);
	text = json_text(open);
	naming = xcalloc(1, sizeof(*naming));
	naming->vm = xstrdup(local->vm->name);
	naming->done = done;
	naming->data = data;
	if (agent_stream_open(agent, text, &ops, naming, &naming->stream, NULL) < 0) {
		naming_free(naming);
		return NULL;
	}
	return naming;
}

void identity_give_end(struct naming *naming)
{
	if (naming != NULL)
		naming_free(naming);
}
