/* state_apply(): what holds for every command. What each does is in the files of its objects.
 *
 * Happy path: the session says that the request is new, whoever asks may, the cluster is at the
 * command's level; the command's function edits or refuses; what people and nodes asked for goes
 * into the audit; the chain takes the command and its result. A refusal changes nothing but the
 * session's memory and the audit.
 */
#include "core/state_internal.h"

#include "base/alloc.h"
#include "base/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Commands of clients run in sessions and are audited; the cluster's own do neither, even if one
 * names a session: they may end sessions. */
struct rule {
	void (*apply)(struct state *s, const struct command *c, struct command_result *r);
	const char *verb; /* in the audit; NULL: none */
	bool session;
};

static const struct rule rules[COMMAND_KIND_COUNT] = {
	[COMMAND_VM_CREATE] = {apply_create, "vm-create", true},
	[COMMAND_VM_POWER] = {apply_power, "vm-power", true},
	[COMMAND_VM_DELETE] = {apply_delete, "vm-delete", true},
	[COMMAND_VM_RESOLVE] = {apply_resolve, NULL, false},
	[COMMAND_VM_RESOLVED] = {apply_resolved, NULL, false},
	[COMMAND_VM_ASSIGN] = {apply_assign, NULL, false},
	[COMMAND_VM_VERDICT] = {apply_verdict, NULL, false},
	[COMMAND_VM_REPORT] = {apply_report, NULL, false},
	[COMMAND_NODE_REPORT] = {apply_node_report, NULL, false},
	[COMMAND_NODE_PHASE] = {apply_node_phase, NULL, false},
	[COMMAND_SESSION_EXPIRE] = {apply_session_expire, NULL, false},
	[COMMAND_VM_UPDATE] = {apply_update, "vm-update", true},
	[COMMAND_VM_SET] = {apply_set, "vm-set", true},
	[COMMAND_VM_UPDATE_DUE] = {apply_update_due, NULL, false},
	[COMMAND_GENERATION_DROP] = {apply_generation_drop, NULL, false},
	[COMMAND_CLUSTER_INIT] = {apply_cluster_init, "cluster-init", false},
	[COMMAND_CLUSTER_SET] = {apply_cluster_set, "cluster-set", true},
	[COMMAND_FEATURE_LEVEL] = {apply_feature_level, NULL, false},
	[COMMAND_TOKEN_CREATE] = {apply_token_create, "token-create", true},
	[COMMAND_TOKEN_DELETE] = {apply_token_delete, "token-delete", true},
	[COMMAND_TOKEN_EXPIRE] = {apply_token_expire, NULL, false},
	/* Idempotent by its token and key: a joiner has no session. */
	[COMMAND_NODE_JOIN] = {apply_node_join, "node-join", false},
	[COMMAND_NODE_SET] = {apply_node_set, "node-set", true},
	[COMMAND_NODE_CERTIFICATE] = {apply_node_certificate, "node-certificate", false},
	[COMMAND_NODE_REMOVE] = {apply_node_remove, "node-remove", true},
	[COMMAND_NODE_LEFT] = {apply_node_left, NULL, false},
	[COMMAND_USER_CREATE] = {apply_user_create, "user-create", true},
	[COMMAND_USER_SET] = {apply_user_set, "user-set", true},
	[COMMAND_USER_DELETE] = {apply_user_delete, "user-delete", true},
	[COMMAND_DENY] = {apply_deny, "deny", true},
};

void refuse(struct command_result *r, enum blix_code code, enum refusal why)
{
	r->code = code;
	r->why = why;
}

/* The node that a command is the word of; 0: none. */
static uint64_t node_of(const struct command *c)
{
	if (c->kind == COMMAND_VM_REPORT)
		return c->vm_report.node;
	if (c->kind == COMMAND_VM_RESOLVED)
		return c->vm_resolved.node;
	if (c->kind == COMMAND_NODE_REPORT)
		return c->node_report.id;
	if (c->kind == COMMAND_NODE_JOIN)
		return c->node_join.id;
	return c->kind == COMMAND_NODE_CERTIFICATE ? c->node_certificate.id : 0;
}

/* A node speaks for itself only, whatever its server let through. */
static bool may_speak(const struct state *s, const struct command *c)
{
	uint64_t id;

	if (strncmp(c->principal, "node:", 5) != 0)
		return true;
	return parse_u64(c->principal + 5, &id, NULL) == 0 && id != 0 && id == node_of(c) &&
	       !state_denied(s, id, "");
}

static const char *verb_of(const struct command *c)
{
	static const char *const powers[VM_VERB_COUNT] = {
		[VM_VERB_START] = "vm-start",     [VM_VERB_STOP] = "vm-stop",
		[VM_VERB_RESTART] = "vm-restart", [VM_VERB_PAUSE] = "vm-pause",
		[VM_VERB_RESUME] = "vm-resume",
	};

	if (c->kind == COMMAND_VM_POWER)
		return powers[c->vm_power.verb];
	if (c->kind == COMMAND_VM_UPDATE && c->vm_update.rollback)
		return "vm-rollback";
	if (c->kind == COMMAND_VM_CREATE && c->vm_create.adopt != 0)
		return "vm-adopt";
	return rules[c->kind].verb;
}

/* The name in a command that has one. */
static const char *name_in(const struct command *c)
{
	switch ((unsigned)c->kind) {
	case COMMAND_VM_CREATE:
		return c->vm_create.name;
	case COMMAND_VM_POWER:
		return c->vm_power.name;
	case COMMAND_VM_DELETE:
		return c->vm_delete.name;
	case COMMAND_VM_UPDATE:
		return c->vm_update.name;
	case COMMAND_VM_SET:
		return c->vm_set.name;
	case COMMAND_CLUSTER_INIT:
		return c->cluster_init.name;
	case COMMAND_TOKEN_CREATE:
		return c->token_create.name;
	case COMMAND_TOKEN_DELETE:
		return c->token_delete.name;
	case COMMAND_NODE_JOIN:
		return c->node_join.name;
	case COMMAND_NODE_SET:
		return c->node_set.name;
	case COMMAND_NODE_REMOVE:
		return c->node_remove.name;
	case COMMAND_USER_CREATE:
		return c->user_create.name;
	case COMMAND_USER_SET:
		return c->user_set.name;
	case COMMAND_USER_DELETE:
		return c->user_delete.name;
	case COMMAND_DENY:
		return c->deny.serial;
	default:
		return "";
	}
}

/* Before it is applied, while what it is about is there. */
static void audit_begin(const struct state *s, const struct command *c, struct audit_record *record)
{
	uint64_t id = c->kind == COMMAND_NODE_CERTIFICATE ? c->node_certificate.id
	              : c->kind == COMMAND_DENY           ? c->deny.node
	                                                  : 0;

	memset(record, 0, sizeof(*record));
	(void)snprintf(record->principal, sizeof(record->principal), "%s", c->principal);
	(void)snprintf(record->verb, sizeof(record->verb), "%s", verb_of(c));
	(void)snprintf(record->object, sizeof(record->object), "%s", name_in(c));
	if (id != 0 && state_node(s, id) != NULL)
		(void)snprintf(record->object, sizeof(record->object), "%s",
		               state_node(s, id)->name);
	else if (id != 0)
		(void)snprintf(record->object, sizeof(record->object), "%" PRIu64, id);
}

static void audit_end(struct state *s, struct audit_record *record, const struct command_result *r)
{
	record->clock_ms = s->clock_ms;
	record->revision = r->revision;
	record->code = r->code;
	record->why = r->why;
	audit_add(&s->audit, record);
}

static void execute(struct state *s, const struct command *c, struct command_result *r)
{
	const struct rule *rule = &rules[c->kind];
	struct audit_record record;

	if (rule->verb != NULL)
		audit_begin(s, c, &record);
	if (!may_speak(s, c))
		refuse(r, BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	else if (command_level(c->kind) > s->members.cluster.level)
		refuse(r, BLIX_E_REFUSED, REFUSAL_FEATURE);
	else
		rule->apply(s, c, r);
	r->revision = s->revision;
	if (rule->verb != NULL)
		audit_end(s, &record, r);
}

void chain_add(struct state *s, uint64_t value)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
	s->chain.value = XXH3_64bits_withSeed(bytes, sizeof(bytes), s->chain.value);
}

static void chain_step(struct state *s, const struct command *c, const struct command_result *r)
{
	struct state_chain *chain = &s->chain;

	chain_add(s, c->digest);
	chain_add(s, (uint64_t)r->code << 32 | r->why);
	chain_add(s, r->revision);
	chain_add(s, r->uid);
	if (++chain->count % STATE_CHAIN == 0)
		chain->marks[(chain->count / STATE_CHAIN - 1) % STATE_CHAIN_MARKS] = chain->value;
}

uint64_t state_chain_newest(const struct state *s)
{
	return s->chain.count - s->chain.count % STATE_CHAIN;
}

bool state_chain_at(const struct state *s, uint64_t count, uint64_t *ret)
{
	uint64_t newest = state_chain_newest(s);

	if (count == 0 || count % STATE_CHAIN != 0 || count > newest ||
	    newest - count >= STATE_CHAIN * STATE_CHAIN_MARKS)
		return false;
	*ret = s->chain.marks[(count / STATE_CHAIN - 1) % STATE_CHAIN_MARKS];
	return true;
}

void state_apply(struct state *s, const struct command *c, struct command_result *ret)
{
	struct session *session = NULL;
	struct command_result r = {.code = BLIX_OK};
	bool in_session;

	assert((unsigned)c->kind < COMMAND_KIND_COUNT);
	assert(rules[c->kind].apply != NULL);
	in_session = c->session != 0 && rules[c->kind].session;
	if (in_session)
		session = session_begin(s, c, &r);
	if (!in_session || session != NULL)
		execute(s, c, &r);
	if (session != NULL)
		session_end(session, c, &r);
	chain_step(s, c, &r);
	*ret = r;
}
