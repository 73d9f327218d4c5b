/* Commands to bytes and back: one row per kind says how it is made, freed, written and read. */
#include "core/command.h"

#include "base/alloc.h"
#include "base/json.h"
#include "core/command_internal.h"
#include "core/object_codec.h"

#include <assert.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Words from a child or a console: made fit for JSON before they enter the state. */
static void get_message(struct codec *in, char **slot)
{
	get_string_into(in, slot, LIMIT_MESSAGE);
	json_clean(*slot);
}

static void put_create(struct buf *out, const struct command *c)
{
	put_string(out, c->vm_create.name);
	put_spec(out, &c->vm_create.spec);
	put_u64(out, c->vm_create.adopt);
}

static void get_create(struct codec *in, struct command *c)
{
	get_name(in, c->vm_create.name, sizeof(c->vm_create.name));
	get_spec(in, &c->vm_create.spec);
	c->vm_create.adopt = get_u64(in);
}

static void put_power(struct buf *out, const struct command *c)
{
	put_string(out, c->vm_power.name);
	put_u64(out, c->vm_power.if_version);
	put_u32(out, c->vm_power.verb);
	put_u32(out, c->vm_power.grace_ms);
}

static void get_power(struct codec *in, struct command *c)
{
	get_name(in, c->vm_power.name, sizeof(c->vm_power.name));
	c->vm_power.if_version = get_u64(in);
	c->vm_power.verb = (enum vm_verb)get_enum(in, VM_VERB_COUNT);
	c->vm_power.grace_ms = get_u32(in);
	if (c->vm_power.verb < VM_VERB_START)
		in->failed = true;
}

static void put_delete(struct buf *out, const struct command *c)
{
	put_string(out, c->vm_delete.name);
	put_u64(out, c->vm_delete.if_version);
	put_u32(out, c->vm_delete.grace_ms);
	put_u8(out, c->vm_delete.volumes);
}

static void get_delete(struct codec *in, struct command *c)
{
	get_name(in, c->vm_delete.name, sizeof(c->vm_delete.name));
	c->vm_delete.if_version = get_u64(in);
	c->vm_delete.grace_ms = get_u32(in);
	c->vm_delete.volumes = get_bool(in);
}

static void put_set(struct buf *out, const struct command *c)
{
	put_string(out, c->vm_set.name);
	put_u64(out, c->vm_set.if_version);
	put_u32(out, c->vm_set.fields);
	put_spec(out, &c->vm_set.spec);
}

static void get_set(struct codec *in, struct command *c)
{
	get_name(in, c->vm_set.name, sizeof(c->vm_set.name));
	c->vm_set.if_version = get_u64(in);
	c->vm_set.fields = get_u32(in);
	get_spec(in, &c->vm_set.spec);
	in->failed = in->failed || c->vm_set.fields > VM_SET_ALL;
}

static void put_update(struct buf *out, const struct command *c)
{
	put_string(out, c->vm_update.name);
	put_u64(out, c->vm_update.if_version);
	put_u8(out, c->vm_update.rollback);
	put_u64(out, c->vm_update.generation);
	put_string(out, c->vm_update.flake);
	put_string(out, c->vm_update.attr);
	put_u32(out, c->vm_update.restart);
	put_u8(out, c->vm_update.auto_rollback);
	put_u32(out, c->vm_update.timeout_ms);
	put_u32(out, c->vm_update.grace_ms);
}

static void get_update(struct codec *in, struct command *c)
{
	get_name(in, c->vm_update.name, sizeof(c->vm_update.name));
	c->vm_update.if_version = get_u64(in);
	c->vm_update.rollback = get_bool(in);
	c->vm_update.generation = get_u64(in);
	get_string_into(in, &c->vm_update.flake, LIMIT_FLAKE);
	get_string_into(in, &c->vm_update.attr, LIMIT_ATTR);
	c->vm_update.restart = (enum update_restart)get_enum(in, UPDATE_RESTART_COUNT);
	c->vm_update.auto_rollback = get_bool(in);
	c->vm_update.timeout_ms = get_u32(in);
	c->vm_update.grace_ms = get_u32(in);
}

static void put_update_due(struct buf *out, const struct command *c)
{
	put_u64(out, c->vm_update_due.uid);
	put_u64(out, c->vm_update_due.operation);
}

static void get_update_due(struct codec *in, struct command *c)
{
	c->vm_update_due.uid = get_u64(in);
	c->vm_update_due.operation = get_u64(in);
}

static void put_drop(struct buf *out, const struct command *c)
{
	put_u64(out, c->generation_drop.uid);
	put_u64(out, c->generation_drop.number);
}

static void get_drop(struct codec *in, struct command *c)
{
	c->generation_drop.uid = get_u64(in);
	c->generation_drop.number = get_u64(in);
}

static void put_resolve(struct buf *out, const struct command *c)
{
	put_u64(out, c->vm_resolve.uid);
	put_u64(out, c->vm_resolve.node);
}

static void get_resolve(struct codec *in, struct command *c)
{
	c->vm_resolve.uid = get_u64(in);
	c->vm_resolve.node = get_u64(in);
}

static void put_found(struct buf *out, const struct command *c)
{
	put_u64(out, c->vm_resolved.uid);
	put_u64(out, c->vm_resolved.node);
	put_u32(out, c->vm_resolved.code);
	put_text(out, c->vm_resolved.reason, LIMIT_NAME);
	put_text(out, c->vm_resolved.message, LIMIT_MESSAGE);
	put_u32(out, c->vm_resolved.resolve_ms);
	put_resolved(out, &c->vm_resolved.resolved);
	put_bytes(out, c->vm_resolved.lock.data, c->vm_resolved.lock.len);
}

static void get_found(struct codec *in, struct command *c)
{
	cleanup(freep) char *lock = NULL;

	c->vm_resolved.uid = get_u64(in);
	c->vm_resolved.node = get_u64(in);
	c->vm_resolved.code = (enum blix_code)get_enum(in, BLIX_CODE_COUNT);
	get_string_into(in, &c->vm_resolved.reason, LIMIT_NAME);
	get_message(in, &c->vm_resolved.message);
	c->vm_resolved.resolve_ms = get_u32(in);
	get_resolved(in, &c->vm_resolved.resolved);
	lock = get_string(in, LIMIT_LOCK);
	(void)buf_add_string(&c->vm_resolved.lock, lock);
}

static void put_assign(struct buf *out, const struct command *c)
{
	put_u64(out, c->vm_assign.uid);
	put_u64(out, c->vm_assign.node);
	put_u64(out, c->vm_assign.epoch);
}

static void get_assign(struct codec *in, struct command *c)
{
	c->vm_assign.uid = get_u64(in);
	c->vm_assign.node = get_u64(in);
	c->vm_assign.epoch = get_u64(in);
}

static void put_verdict(struct buf *out, const struct command *c)
{
	put_u64(out, c->vm_verdict.uid);
	put_text(out, c->vm_verdict.reason, LIMIT_NAME);
	put_text(out, c->vm_verdict.message, LIMIT_MESSAGE);
}

static void get_verdict(struct codec *in, struct command *c)
{
	c->vm_verdict.uid = get_u64(in);
	get_string_into(in, &c->vm_verdict.reason, LIMIT_NAME);
	get_message(in, &c->vm_verdict.message);
}

static void put_report(struct buf *out, const struct command *c)
{
	const struct vm_report *r = &c->vm_report;

	put_u32(out, r->kind);
	put_u64(out, r->uid);
	put_u64(out, r->node);
	put_u64(out, r->epoch);
	put_u32(out, r->code);
	put_text(out, r->reason, LIMIT_NAME);
	put_text(out, r->message, LIMIT_MESSAGE);
	put_string(out, r->runner);
	put_u64(out, r->pid);
	put_u64(out, r->started_ms);
	put_u32(out, (uint32_t)r->exit_code);
	put_u32(out, r->duration_ms);
	put_u32(out, r->wait_ms);
	put_u8(out, r->stable);
	put_u8(out, (uint8_t)r->stop);
}

static void get_report(struct codec *in, struct command *c)
{
	struct vm_report *r = &c->vm_report;

	r->kind = (enum vm_report_kind)get_enum(in, VM_REPORT_KIND_COUNT);
	r->uid = get_u64(in);
	r->node = get_u64(in);
	r->epoch = get_u64(in);
	r->code = (enum blix_code)get_enum(in, BLIX_CODE_COUNT);
	get_string_into(in, &r->reason, LIMIT_NAME);
	get_message(in, &r->message);
	get_string_into(in, &r->runner, LIMIT_FLAKE);
	r->pid = get_u64(in);
	r->started_ms = get_u64(in);
	r->exit_code = (int32_t)get_u32(in);
	r->duration_ms = get_u32(in);
	r->wait_ms = get_u32(in);
	r->stable = get_bool(in);
	r->stop = (enum vm_stop)get_u8(in);
	if (r->stop >= VM_STOP_COUNT)
		in->failed = true;
	if (r->kind < VM_REPORT_BUILDING)
		in->failed = true;
}

static void put_node_report(struct buf *out, const struct command *c)
{
	put_u64(out, c->node_report.id);
	put_string(out, c->node_report.name);
	put_facts(out, &c->node_report.facts);
}

static void get_node_report(struct codec *in, struct command *c)
{
	c->node_report.id = get_u64(in);
	get_name(in, c->node_report.name, sizeof(c->node_report.name));
	get_facts(in, &c->node_report.facts);
}

static void put_node_phase(struct buf *out, const struct command *c)
{
	put_u64(out, c->node_phase.id);
	put_u32(out, c->node_phase.phase);
}

static void get_node_phase(struct codec *in, struct command *c)
{
	c->node_phase.id = get_u64(in);
	/* What a leader can observe; the others follow from it (state_node.c). */
	c->node_phase.phase = (enum node_phase)get_enum(in, NODE_OFFLINE + 1);
}

static void put_expire(struct buf *out, const struct command *c)
{
	put_u64(out, c->session_expire.before_ms);
}

static void get_expire(struct codec *in, struct command *c)
{
	c->session_expire.before_ms = get_u64(in);
}

static const struct {
	void (*put)(struct buf *out, const struct command *c);
	void (*get)(struct codec *in, struct command *c);
} kinds[COMMAND_KIND_COUNT] = {
	[COMMAND_VM_CREATE] = {put_create, get_create},
	[COMMAND_VM_POWER] = {put_power, get_power},
	[COMMAND_VM_DELETE] = {put_delete, get_delete},
	[COMMAND_VM_RESOLVE] = {put_resolve, get_resolve},
	[COMMAND_VM_RESOLVED] = {put_found, get_found},
	[COMMAND_VM_ASSIGN] = {put_assign, get_assign},
	[COMMAND_VM_VERDICT] = {put_verdict, get_verdict},
	[COMMAND_VM_REPORT] = {put_report, get_report},
	[COMMAND_NODE_REPORT] = {put_node_report, get_node_report},
	[COMMAND_NODE_PHASE] = {put_node_phase, get_node_phase},
	[COMMAND_SESSION_EXPIRE] = {put_expire, get_expire},
	[COMMAND_VM_UPDATE] = {put_update, get_update},
	[COMMAND_VM_SET] = {put_set, get_set},
	[COMMAND_VM_UPDATE_DUE] = {put_update_due, get_update_due},
	[COMMAND_GENERATION_DROP] = {put_drop, get_drop},
	[COMMAND_CLUSTER_INIT] = {put_cluster_init, get_cluster_init},
	[COMMAND_CLUSTER_SET] = {put_cluster_set, get_cluster_set},
	[COMMAND_FEATURE_LEVEL] = {put_feature_level, get_feature_level},
	[COMMAND_TOKEN_CREATE] = {put_token_create, get_token_create},
	[COMMAND_TOKEN_DELETE] = {put_token_delete, get_token_delete},
	[COMMAND_TOKEN_EXPIRE] = {put_token_expire, get_token_expire},
	[COMMAND_NODE_JOIN] = {put_node_join, get_node_join},
	[COMMAND_NODE_SET] = {put_node_set, get_node_set},
	[COMMAND_NODE_CERTIFICATE] = {put_node_certificate, get_node_certificate},
	[COMMAND_NODE_REMOVE] = {put_node_remove, get_node_remove},
	[COMMAND_NODE_LEFT] = {put_node_left, get_node_left},
	[COMMAND_USER_CREATE] = {put_user_create, get_user_create},
	[COMMAND_USER_SET] = {put_user_set, get_user_set},
	[COMMAND_USER_DELETE] = {put_user_delete, get_user_delete},
	[COMMAND_DENY] = {put_deny, get_deny},
};

uint32_t command_level(enum command_kind kind)
{
	/* These two raise the level themselves. */
	if (kind == COMMAND_FEATURE_LEVEL || kind == COMMAND_CLUSTER_INIT)
		return 1;
	return kind < COMMAND_CLUSTER_INIT ? 1 : 2;
}

static bool kind_known(uint32_t kind)
{
	return kind < COMMAND_KIND_COUNT && kinds[kind].put != NULL;
}

void command_init(struct command *command, enum command_kind kind)
{
	assert(kind_known(kind));
	memset(command, 0, sizeof(*command));
	command->kind = kind;
	command->principal = xstrdup("");
	if (kind == COMMAND_VM_CREATE) {
		vm_spec_init(&command->vm_create.spec);
	} else if (kind == COMMAND_VM_SET) {
		vm_spec_init(&command->vm_set.spec);
	} else if (kind == COMMAND_VM_RESOLVED) {
		command->vm_resolved.reason = xstrdup("");
		command->vm_resolved.message = xstrdup("");
		vm_resolved_copy(&command->vm_resolved.resolved, &(const struct vm_resolved){0});
		buf_init(&command->vm_resolved.lock, LIMIT_LOCK);
	} else if (kind == COMMAND_VM_VERDICT) {
		command->vm_verdict.reason = xstrdup("");
		command->vm_verdict.message = xstrdup("");
	} else if (kind == COMMAND_VM_REPORT) {
		command->vm_report.reason = xstrdup("");
		command->vm_report.message = xstrdup("");
		command->vm_report.runner = xstrdup("");
		command->vm_report.exit_code = -1;
	} else if (kind == COMMAND_VM_UPDATE) {
		command->vm_update.flake = xstrdup("");
		command->vm_update.attr = xstrdup("");
		command->vm_update.timeout_ms = UPDATE_TIMEOUT_MS;
	} else if (kind == COMMAND_NODE_REPORT) {
		node_facts_init(&command->node_report.facts);
	} else if (kind == COMMAND_NODE_JOIN) {
		node_facts_init(&command->node_join.facts);
	}
}

void command_done(struct command *command)
{
	if (command == NULL)
		return;
	if (command->kind == COMMAND_VM_CREATE) {
		vm_spec_done(&command->vm_create.spec);
	} else if (command->kind == COMMAND_VM_SET) {
		vm_spec_done(&command->vm_set.spec);
	} else if (command->kind == COMMAND_VM_RESOLVED) {
		free(command->vm_resolved.reason);
		free(command->vm_resolved.message);
		vm_resolved_done(&command->vm_resolved.resolved);
		buf_done(&command->vm_resolved.lock);
	} else if (command->kind == COMMAND_VM_VERDICT) {
		free(command->vm_verdict.reason);
		free(command->vm_verdict.message);
	} else if (command->kind == COMMAND_VM_REPORT) {
		free(command->vm_report.reason);
		free(command->vm_report.message);
		free(command->vm_report.runner);
	} else if (command->kind == COMMAND_VM_UPDATE) {
		free(command->vm_update.flake);
		free(command->vm_update.attr);
	} else if (command->kind == COMMAND_NODE_REPORT) {
		node_facts_done(&command->node_report.facts);
	} else if (command->kind == COMMAND_NODE_JOIN) {
		node_facts_done(&command->node_join.facts);
	}
	free(command->principal);
	memset(command, 0, sizeof(*command));
}

int command_encode(const struct command *command, struct buf *out, struct blix_error *err)
{
	assert(kind_known(command->kind));
	put_u8(out, COMMAND_VERSION);
	put_u8(out, (uint8_t)command->kind);
	put_u64(out, command->session);
	put_u64(out, command->request);
	put_string(out, command->principal);
	kinds[command->kind].put(out, command);
	if (buf_failed(out))
		return blix_fail(err, BLIX_E_TOOBIG, "command is larger than %u bytes",
		                 LIMIT_COMMAND);
	return 0;
}

/* The level that a command would raise the cluster to; 0: none. */
static uint32_t level_in(const struct command *c)
{
	return c->kind == COMMAND_FEATURE_LEVEL  ? c->feature_level.level
	       : c->kind == COMMAND_CLUSTER_INIT ? c->cluster_init.level
	                                         : 0;
}

int command_decode(const uint8_t *bytes, size_t n, struct command *command, struct blix_error *err)
{
	struct codec in = {.at = bytes, .left = n};
	uint8_t version = get_u8(&in), kind = get_u8(&in);
	struct command c;

	if (version != COMMAND_VERSION || !kind_known(kind)) {
		(void)blix_fail(err, BLIX_E_CORRUPT, "unknown command %u of version %u", kind,
		                version);
		blix_hint(err, "a newer blixd wrote it: upgrade this server");
		return -(int)BLIX_E_CORRUPT;
	}
	command_init(&c, (enum command_kind)kind);
	c.session = get_u64(&in);
	c.request = get_u64(&in);
	get_string_into(&in, &c.principal, LIMIT_PRINCIPAL);
	/* The kind is its seed: two kinds may have the same bytes. */
	c.digest = XXH3_64bits_withSeed(in.at, in.left, kind);
	kinds[kind].get(&in, &c);
	if (!codec_end(&in)) {
		command_done(&c);
		return blix_fail(err, BLIX_E_CORRUPT, "command %u is malformed", kind);
	}
	if (level_in(&c) > FEATURE_LEVEL) {
		(void)blix_fail(err, BLIX_E_CORRUPT,
		                "the cluster goes to feature level %u, this binary knows %u",
		                level_in(&c), FEATURE_LEVEL);
		blix_hint(err, "a newer blixd wrote it: upgrade this server");
		command_done(&c);
		return -(int)BLIX_E_CORRUPT;
	}
	*command = c;
	return 0;
}
