/* Nodes: what they say of themselves, what the leader observes, and how they come and go.
 *
 * Happy path of a member: a token is consumed (Joining), the node says what it is (Ready), a person
 * removes it; a worker is gone at once, a server when the leader has taken it out of the log. Its
 * id stays behind for ever, so that its certificate is good for nothing and nobody gets its id.
 *
 * Where the servers are those of the configuration there is no cluster record, and a node is made
 * by its first report.
 */
#include "core/state_internal.h"

#include "base/alloc.h"
#include "base/parse.h"

bool state_is_managed(const struct state *s)
{
	return s->members.cluster.id[0] != '\0';
}

bool state_denied(const struct state *s, uint64_t node, const char *serial)
{
	return ids_has(&s->members.left, node) || ids_has(&s->members.denied_nodes, node) ||
	       (serial[0] != '\0' && serials_has(&s->members.denied, serial));
}

static void node_event(struct state *s, const struct node *node, const char *reason,
                       const char *message)
{
	state_emit(s, "node", 0, node->name, reason, message);
}

struct node *state_node_make(struct state *s, uint64_t id, const char *name)
{
	size_t size = s->n_nodes, at;
	struct node *node;
	bool found;

	at = state_find_node(s, id, &found);
	if (!found) {
		node = node_new();
		node->id = id;
		node->created_ms = node->phase_ms = s->clock_ms;
		state_insert((void ***)(void *)&s->nodes, &s->n_nodes, &size, at, node);
	}
	node = node_own(&s->nodes[at]);
	node->revision = s->revision;
	memmove(node->name, name, strlen(name) + 1); /* it may be its own */
	return node;
}

static void move(struct state *s, struct node *node, enum node_phase phase)
{
	static const char *const reasons[NODE_PHASE_COUNT] = {
		[NODE_READY] = "node-ready",
		[NODE_OFFLINE] = "node-offline",
		[NODE_JOINING] = "node-joined",
		[NODE_MAINTENANCE] = "node-maintenance",
	};

	if (node->phase == phase)
		return;
	node->phase = phase;
	node->phase_ms = s->clock_ms;
	node_event(s, node, reasons[phase], "");
}

/* The phase of a node that was heard of. */
static enum node_phase phase_up(const struct node *node)
{
	return node->maintenance ? NODE_MAINTENANCE : NODE_READY;
}

static void check_report(const struct state *s, const struct command *c, struct command_result *r)
{
	const struct node *named = state_node_named(s, c->node_report.name);
	const struct node *found = state_node(s, c->node_report.id);

	if (state_denied(s, c->node_report.id, ""))
		refuse(r, BLIX_E_DENIED, REFUSAL_NODE_LEFT);
	else if (found == NULL && state_is_managed(s))
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
	else if ((named != NULL && named != found) ||
	         (state_is_managed(s) && named == NULL)) /* a member keeps its name */
		refuse(r, BLIX_E_EXISTS, REFUSAL_NODE_NAME);
	else if (c->node_report.id == 0 || node_facts_check(&c->node_report.facts, NULL) < 0)
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (found == NULL && s->n_nodes >= LIMIT_NODES)
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
}

void apply_node_report(struct state *s, const struct command *c, struct command_result *r)
{
	const struct node *before = state_node(s, c->node_report.id);
	const char *boot_id = before != NULL ? before->facts.boot_id : "";
	struct node *node;

	check_report(s, c, r);
	if (r->code != BLIX_OK)
		return;
	s->revision++;
	if (boot_id[0] != '\0' && strcmp(boot_id, c->node_report.facts.boot_id) != 0)
		vms_rebooted(s, c->node_report.id);
	node = state_node_make(s, c->node_report.id, c->node_report.name);
	if (before == NULL)
		node_event(s, node, "node-joined", "");
	node_facts_done(&node->facts);
	node_facts_copy(&node->facts, &c->node_report.facts);
	if (node->phase == NODE_JOINING)
		move(s, node, phase_up(node));
	r->uid = node->id;
}

void apply_node_phase(struct state *s, const struct command *c, struct command_result *r)
{
	const struct node *found = state_node(s, c->node_phase.id);
	enum node_phase phase = c->node_phase.phase;

	if (found == NULL) {
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
		return;
	}
	if (phase != NODE_OFFLINE)
		phase = phase_up(found);
	/* One that joins has to say first what it is. */
	if (found->phase == phase || found->phase == NODE_JOINING)
		return;
	s->revision++;
	move(s, state_node_make(s, found->id, found->name), phase);
}

static size_t servers(const struct state *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_nodes; i++)
		n += s->nodes[i]->role == NODE_SERVER;
	return n;
}

static bool zone_is_good(const char *zone)
{
	return zone[0] == '\0' || parse_name("zone", zone, NULL) == 0;
}

static bool join_is_valid(const struct command *c)
{
	return parse_name("name", c->node_join.name, NULL) == 0 && c->node_join.id != 0 &&
	       c->node_join.id <= NODE_ID_MAX && hex_is(c->node_join.token, DIGEST_LENGTH) &&
	       hex_is(c->node_join.key, DIGEST_LENGTH) &&
	       hex_is(c->node_join.serial, SERIAL_LENGTH) && zone_is_good(c->node_join.zone) &&
	       node_facts_check(&c->node_join.facts, NULL) == 0;
}

static void check_join(const struct state *s, const struct command *c, const struct token *token,
                       struct command_result *r)
{
	bool server = token->role == NODE_SERVER;

	if (token->expires_ms <= s->clock_ms)
		refuse(r, BLIX_E_DENIED, REFUSAL_TOKEN_EXPIRED);
	else if (strcmp(token->name, c->node_join.name) != 0)
		refuse(r, BLIX_E_DENIED, REFUSAL_TOKEN_NAME);
	else if (state_denied(s, c->node_join.id, c->node_join.serial))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NODE_LEFT);
	else if (state_node(s, c->node_join.id) != NULL)
		refuse(r, BLIX_E_EXISTS, REFUSAL_NODE_ID);
	else if (state_node_named(s, c->node_join.name) != NULL)
		refuse(r, BLIX_E_EXISTS, REFUSAL_NODE_NAME);
	else if (c->node_join.facts.features < s->members.cluster.level)
		refuse(r, BLIX_E_REFUSED, REFUSAL_FEATURE_OLD);
	else if (server && c->node_join.facts.raft[0] == '\0')
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (s->n_nodes >= LIMIT_NODES || (server && servers(s) >= LIMIT_SERVERS))
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
}

/* The joiner that never got its answer gets it now; anybody else comes too late. */
static void join_again(const struct state *s, const struct command *c, const struct token *token,
                       struct command_result *r)
{
	const struct node *node = state_node(s, token->node);

	if (node != NULL && strcmp(node->key, c->node_join.key) == 0)
		r->uid = node->id;
	else
		refuse(r, BLIX_E_DENIED, REFUSAL_TOKEN_USED);
}

void apply_node_join(struct state *s, const struct command *c, struct command_result *r)
{
	const struct token *token = members_token_hash(&s->members, c->node_join.token);
	struct token used;
	struct node *node;

	if (!state_is_managed(s))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	else if (!join_is_valid(c))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (token == NULL)
		refuse(r, BLIX_E_DENIED, REFUSAL_TOKEN_MISSING);
	else if (token->node != 0)
		join_again(s, c, token, r);
	else
		check_join(s, c, token, r);
	if (r->code != BLIX_OK || r->uid != 0 || token == NULL)
		return;
	s->revision++;
	used = *token;
	used.node = c->node_join.id;
	members_put_token(&s->members, &used);
	node = state_node_make(s, c->node_join.id, c->node_join.name);
	node->role = used.role;
	memcpy(node->zone, c->node_join.zone, sizeof(node->zone));
	memcpy(node->serial, c->node_join.serial, sizeof(node->serial));
	memcpy(node->key, c->node_join.key, sizeof(node->key));
	node_facts_done(&node->facts);
	node_facts_copy(&node->facts, &c->node_join.facts);
	move(s, node, NODE_JOINING);
	r->uid = node->id;
}

/* The node that a person names, if it may be changed. */
static const struct node *named_node(const struct state *s, const char *name, uint64_t if_version,
                                     struct command_result *r)
{
	const struct node *node = state_node_named(s, name);

	if (node == NULL)
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
	else if (if_version != 0 && if_version != node->version)
		refuse(r, BLIX_E_CONFLICT, REFUSAL_VERSION);
	else
		r->uid = node->id;
	return r->code == BLIX_OK ? node : NULL;
}

static bool sets(const struct command *c, enum node_set_field field)
{
	return (c->node_set.fields & (uint32_t)field) != 0;
}

static bool set_changes(const struct node *node, const struct command *c)
{
	return (sets(c, NODE_SET_SCHEDULABLE) && node->schedulable != c->node_set.schedulable) ||
	       (sets(c, NODE_SET_MAINTENANCE) && node->maintenance != c->node_set.maintenance) ||
	       (sets(c, NODE_SET_VOTE) && node->vote != c->node_set.vote) ||
	       (sets(c, NODE_SET_ZONE) && strcmp(node->zone, c->node_set.zone) != 0);
}

void apply_node_set(struct state *s, const struct command *c, struct command_result *r)
{
	const struct node *found = named_node(s, c->node_set.name, c->node_set.if_version, r);
	struct node *node;

	if (found == NULL)
		return;
	if (sets(c, NODE_SET_VOTE) && !state_is_managed(s))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	else if (sets(c, NODE_SET_VOTE) && found->role != NODE_SERVER)
		refuse(r, BLIX_E_REFUSED, REFUSAL_NOT_SERVER);
	else if (sets(c, NODE_SET_ZONE) && !zone_is_good(c->node_set.zone))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	if (r->code != BLIX_OK || !set_changes(found, c))
		return;
	s->revision++;
	node = state_node_make(s, found->id, found->name);
	node->version++;
	if (sets(c, NODE_SET_SCHEDULABLE))
		node->schedulable = c->node_set.schedulable;
	if (sets(c, NODE_SET_MAINTENANCE))
		node->maintenance = c->node_set.maintenance;
	if (sets(c, NODE_SET_VOTE))
		node->vote = c->node_set.vote;
	if (sets(c, NODE_SET_ZONE))
		memcpy(node->zone, c->node_set.zone, sizeof(node->zone));
	node_event(s, node, "node-set", c->principal);
	if (node_is_up(node))
		move(s, node, phase_up(node));
}

void apply_node_certificate(struct state *s, const struct command *c, struct command_result *r)
{
	const struct node *found = state_node(s, c->node_certificate.id);
	struct node *node;

	r->uid = c->node_certificate.id;
	if (found == NULL)
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
	else if (!hex_is(c->node_certificate.serial, SERIAL_LENGTH))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (state_denied(s, found->id, c->node_certificate.serial))
		refuse(r, BLIX_E_DENIED, REFUSAL_NODE_LEFT);
	if (r->code != BLIX_OK || found == NULL ||
	    strcmp(found->serial, c->node_certificate.serial) == 0)
		return;
	s->revision++;
	node = state_node_make(s, found->id, found->name);
	memcpy(node->serial, c->node_certificate.serial, sizeof(node->serial));
	node_event(s, node, "node-certificate", "");
}

static bool is_used(const struct state *s, uint64_t node)
{
	for (size_t i = 0; i < s->n_vms; i++) {
		if (s->by_uid[i]->node == node || vm_held_by(s->by_uid[i], node))
			return true;
	}
	return false;
}

/* What stays is its id. */
static void bury(struct state *s, const struct node *node)
{
	bool found;
	size_t at = state_find_node(s, node->id, &found);

	vms_orphaned(s, node->id, node->name);
	node = s->nodes[at]; /* the sums of its VMs were kept in it */
	ids_add(&s->members.left, node->id);
	node_event(s, node, "node-left", "");
	node_unref(s->nodes[at]);
	state_remove((void **)s->nodes, &s->n_nodes, at);
}

static void check_remove(const struct state *s, const struct command *c, const struct node *node,
                         struct command_result *r)
{
	bool used = is_used(s, node->id);
	size_t others = 0;

	for (size_t i = 0; i < s->n_nodes; i++)
		others += s->nodes[i] != node && s->nodes[i]->role == NODE_SERVER &&
		          !s->nodes[i]->leaving;
	if (!state_is_managed(s))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	else if (node->role == NODE_SERVER && others == 0)
		refuse(r, BLIX_E_REFUSED, REFUSAL_LAST_SERVER);
	else if (used && !c->node_remove.dead)
		refuse(r, BLIX_E_REFUSED, REFUSAL_NODE_USED);
	else if (used && node_is_up(node))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NODE_ALIVE);
	else if (s->members.left.n >= LIMIT_LEFT)
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
}

void apply_node_remove(struct state *s, const struct command *c, struct command_result *r)
{
	const struct node *found = named_node(s, c->node_remove.name, c->node_remove.if_version, r);
	uint64_t id = found != NULL ? found->id : 0;
	struct node *node;

	if (found == NULL || found->leaving)
		return;
	check_remove(s, c, found, r);
	if (r->code != BLIX_OK)
		return;
	s->revision++;
	if (found->role == NODE_WORKER) {
		bury(s, found);
		return;
	}
	vms_orphaned(s, id, c->node_remove.name);
	node = state_node_make(s, id, c->node_remove.name);
	node->version++;
	node->leaving = true;
	node_event(s, node, "node-leaving", c->principal);
}

void apply_node_left(struct state *s, const struct command *c, struct command_result *r)
{
	const struct node *found = state_node(s, c->node_left.id);

	if (found == NULL || !found->leaving) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	s->revision++;
	bury(s, found);
}
