/* Secrets of the VMs on this node: kept sealed, given to the guest.
 *
 * A start waits until every value is here and opens (secrets_look). When the agent of the guest
 * says hello, each value goes to it over a stream of its own, one after the other, read for that
 * and wiped after it; so again whenever an agent begins, and when a value is replaced. A value that
 * is missing is waits-for-secrets; one that does not open (another key, a damaged file) is
 * secret-unreadable; an agent that will not have it is secrets-not-taken.
 *
 * They go with their VM. What a crash leaves of a VM that is no more goes when the next daemon
 * begins to act: ids come from one counter of the state, so a lower one that it does not have is
 * gone for good. */
#include "node/executor_internal.h"
#include "node/secret.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/parse.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/seal.h"
#include "vmm/agent.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NAMES_SAID 8 /* in a message; the rest is counted */

static char *key_path(const struct node_executor *e)
{
	return xasprintf("%s/secrets.key", e->host.state_dir);
}

static char *uid_dir(const struct node_executor *e, uint64_t uid)
{
	return xasprintf("%s/secrets/%" PRIu64, e->host.state_dir, uid);
}

/* What a sealed file says that it is. */
static char *sealed_as(const struct node_executor *e, uint64_t uid, const char *name)
{
	return xasprintf("%s/%" PRIu64 "/%s", e->config.cluster, uid, name);
}

static int unreadable(const struct vm *vm, const char *name, struct blix_error *err)
{
	err->code = BLIX_E_CORRUPT;
	(void)blix_wrap(err, "secret '%s'", name);
	blix_reason(err, "secret-unreadable");
	blix_hint(err, "send it again: blix vm set %s --secret %s=FILE", vm->name, name);
	return -BLIX_E_CORRUPT;
}

/* -BLIX_E_NOTFOUND: it was never sent. */
static int secret_read(const struct node_executor *e, const struct vm *vm, const char *name,
                       struct buf *out, struct blix_error *err)
{
	cleanup(freep) char *dir = uid_dir(e, vm->uid);
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	cleanup(freep) char *what = sealed_as(e, vm->uid, name);
	cleanup(freep) char *where = key_path(e);
	unsigned char key[SEAL_KEY];
	int rc;

	if (!file_exists(path))
		return blix_fail(err, BLIX_E_NOTFOUND, "secret '%s' was not sent", name);
	rc = seal_key(where, false, key, err);
	if (rc == 0)
		rc = seal_read(path, key, what, out, err);
	explicit_bzero(key, sizeof(key));
	return rc < 0 ? unreadable(vm, name, err) : 0;
}

/* "its secrets a, b and 3 more were not sent to n1" */
static void say_missing(const struct node_executor *e, const struct vm *vm,
                        const char *const *missing, size_t n, struct blix_error *err)
{
	struct buf names, options;

	buf_init(&names, 1024);
	buf_init(&options, 2048);
	for (size_t i = 0; i < n && i < NAMES_SAID; i++) {
		(void)buf_printf(&names, "%s%s", i > 0 ? ", " : "", missing[i]);
		(void)buf_printf(&options, " --secret %s=FILE", missing[i]);
	}
	if (n > NAMES_SAID)
		(void)buf_printf(&names, " and %zu more", n - NAMES_SAID);
	(void)blix_fail(err, BLIX_E_NOTREADY, "its secret%s %s %s not on this node (%s)",
	                n == 1 ? "" : "s", names.data, n == 1 ? "is" : "are",
	                e->config.config->name);
	blix_reason(err, "waits-for-secrets");
	blix_hint(err, "send %s: blix vm set %s%s", n == 1 ? "it" : "them", vm->name, options.data);
	buf_done(&names);
	buf_done(&options);
}

/* 0 when each value is here and opens. */
static int secrets_check(const struct node_executor *e, const struct vm *vm, struct blix_error *err)
{
	const char *missing[LIMIT_SECRETS];
	size_t n = 0;

	for (size_t i = 0; i < vm->spec.secrets.n; i++) {
		struct buf value;
		int rc;

		buf_init(&value, LIMIT_SECRET + 1);
		rc = secret_read(e, vm, vm->spec.secrets.names[i], &value, err);
		seal_wipe(&value);
		if (rc == -BLIX_E_NOTFOUND)
			missing[n++] = vm->spec.secrets.names[i];
		else if (rc < 0)
			return rc;
	}
	if (n == 0)
		return 0;
	say_missing(e, vm, missing, n, err);
	return -BLIX_E_NOTREADY;
}

int secrets_look(const struct local *local, struct blix_error *err)
{
	static const uint32_t phases = 1u << VM_SCHEDULED | 1u << VM_BUILDING | 1u << VM_CRASHLOOP;
	const struct vm *vm = local->vm;

	if (vm->spec.secrets.n == 0 || vm->node != local->e->config.node ||
	    (phases & 1u << vm->phase) == 0)
		return 0;
	return secrets_check(local->e, vm, err);
}

int secret_put(struct node_executor *e, uint64_t uid, const char *name, const void *data, size_t n,
               struct blix_error *err)
{
	struct local *local = local_find(e, uid);
	cleanup(freep) char *dir = uid_dir(e, uid);
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	cleanup(freep) char *what = sealed_as(e, uid, name);
	cleanup(freep) char *where = key_path(e);
	unsigned char key[SEAL_KEY];
	int rc;

	if (local == NULL || local->vm->node != e->config.node || local->vm->phase == VM_DELETING) {
		(void)blix_fail(err, BLIX_E_UNAVAILABLE, "the VM is not placed on this node");
		blix_reason(err, "not-placed");
		return -BLIX_E_UNAVAILABLE;
	}
	rc = seal_key(where, true, key, err);
	if (rc == -BLIX_E_CORRUPT)
		blix_hint(err, "move it away: a new one is made, and secrets must be sent again");
	if (rc == 0)
		rc = file_make_dirs(dir, 0700, err);
	if (rc == 0)
		rc = seal_write(path, key, what, data, n, err);
	explicit_bzero(key, sizeof(key));
	if (rc < 0)
		return rc;
	log_event(LOG_INFO, "vm.secret.kept", "vm=%s secret=%s", local->vm->name, name);
	guest_give(local);
	if (!local->unseen)
		node_executor_show(local, NULL);
	node_executor_drain(e);
	return 0;
}

int secrets_remove(const struct node_executor *e, uint64_t uid, struct blix_error *err)
{
	cleanup(freep) char *dir = uid_dir(e, uid);

	return file_remove_tree(dir, err);
}

void secrets_prune(const struct node_executor *e)
{
	cleanup(freep) char *dir = xasprintf("%s/secrets", e->host.state_dir);
	DIR *stream = opendir(dir);
	const struct dirent *entry;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		struct blix_error err;
		uint64_t uid = 0;

		if (parse_u64(entry->d_name, &uid, NULL) < 0 || local_find(e, uid) != NULL ||
		    uid > e->config.state->revision)
			continue;
		if (secrets_remove(e, uid, &err) < 0)
			log_error(LOG_WARNING, "vm.secret.left", &err, "uid=%" PRIu64, uid);
	}
	if (stream != NULL)
		(void)closedir(stream);
}

/* One round of giving. */
struct giving {
	struct local *local;
	struct agent *agent;
	struct agent_stream *stream;
	size_t at; /* which of the names */
	bool taken;
	void (*done)(void *data, const struct blix_error *err);
	void *data;
	struct blix_error err; /* what the agent refused with */
};

static void give_next(struct giving *g);

static void give_over(struct giving *g, const struct blix_error *err)
{
	void (*done)(void *data, const struct blix_error *err) = g->done;
	void *data = g->data;
	struct blix_error why;

	if (err != NULL)
		why = *err;
	secrets_give_end(g);
	done(data, err != NULL ? &why : NULL);
}

static void on_frame(void *data, const struct frame *f)
{
	struct giving *g = data;
	cleanup(json_freep) cJSON *tree = NULL;
	const char *message = "";

	if (f->type == FRAME_EXIT)
		g->taken = true;
	if (f->type != FRAME_ERROR)
		return;
	if (json_parse(f->data, f->len, &json_limits_request, &tree, NULL) == 0)
		(void)json_get_string(tree, "message", &message, NULL);
	(void)blix_fail(&g->err, BLIX_E_REFUSED, "the agent did not take secret '%s': %.400s",
	                g->local->vm->spec.secrets.names[g->at], message);
	blix_reason(&g->err, "secrets-not-taken");
	blix_hint(&g->err, "a guest built with an older blix-agent needs a newer one");
}

static void on_ended(void *data, const struct blix_error *err)
{
	struct giving *g = data;

	agent_stream_close(g->stream);
	g->stream = NULL;
	if (err == NULL && g->taken) {
		g->at++;
		give_next(g);
	} else {
		give_over(g, err != NULL ? err : &g->err);
	}
}

static int give_one(struct giving *g, const char *name, struct blix_error *err)
{
	static const struct agent_stream_ops ops = {on_frame, on_ended};
	cleanup(freep) char *request = xasprintf("{\"kind\":\"secret\",\"name\":\"%s\"}", name);
	const char end = 0;
	struct buf value;
	int rc;

	buf_init(&value, LIMIT_SECRET + 1);
	g->taken = false;
	rc = secret_read(g->local->e, g->local->vm, name, &value, err);
	if (rc == 0)
		rc = agent_stream_open(g->agent, request, &ops, g, &g->stream, err);
	if (rc == 0 && value.len > 0)
		rc = agent_stream_send(g->stream, FRAME_STDIN, value.data, value.len, err);
	if (rc == 0)
		rc = agent_stream_send(g->stream, FRAME_EOF, &end, 1, err);
	seal_wipe(&value);
	return rc;
}

static void give_next(struct giving *g)
{
	const struct secrets *secrets = &g->local->vm->spec.secrets;
	struct blix_error err;

	if (g->at >= secrets->n)
		give_over(g, NULL);
	else if (give_one(g, secrets->names[g->at], &err) < 0)
		give_over(g, &err);
}

struct giving *secrets_give(struct local *local, struct agent *agent,
                            void (*done)(void *data, const struct blix_error *err), void *data,
                            struct blix_error *err)
{
	struct giving *g = xcalloc(1, sizeof(*g));

	*g = (struct giving){.local = local, .agent = agent, .done = done, .data = data};
	if (give_one(g, local->vm->spec.secrets.names[0], err) == 0)
		return g;
	secrets_give_end(g);
	return NULL;
}

void secrets_give_end(struct giving *g)
{
	if (g == NULL)
		return;
	agent_stream_close(g->stream);
	free(g);
}
