/* The cluster's own record, tokens, people and denials.
 *
 * Happy path: the first server says which cluster this is; the leader raises the feature level when
 * every server's binary knows more; tokens are made, consumed (state_node.c) and expired; people
 * get certificates, whose serials are remembered, and denied when they are replaced or deleted. All
 * of it fails by a refusal.
 */
#include "core/state_internal.h"

#include "base/alloc.h"
#include "base/parse.h"

#include <inttypes.h>
#include <stdio.h>

static void cluster_event(struct state *s, const char *reason, const char *message)
{
	state_emit(s, "cluster", 0, "", reason, message);
}

static struct cluster *cluster_edit(struct state *s)
{
	s->revision++;
	s->members.cluster.revision = s->revision;
	return &s->members.cluster;
}

static bool init_is_valid(const struct command *c)
{
	return hex_is(c->cluster_init.id, CLUSTER_ID_LENGTH) &&
	       hex_is(c->cluster_init.ca, DIGEST_LENGTH) && c->cluster_init.level >= 2 &&
	       voters_are(c->cluster_init.voters) && c->cluster_init.node != 0 &&
	       c->cluster_init.node <= NODE_ID_MAX &&
	       parse_name("name", c->cluster_init.name, NULL) == 0 &&
	       (c->cluster_init.zone[0] == '\0' ||
	        parse_name("zone", c->cluster_init.zone, NULL) == 0) &&
	       hex_is(c->cluster_init.serial, SERIAL_LENGTH);
}

void apply_cluster_init(struct state *s, const struct command *c, struct command_result *r)
{
	struct cluster *cluster = &s->members.cluster;
	bool same = strcmp(cluster->id, c->cluster_init.id) == 0 &&
	            strcmp(cluster->ca, c->cluster_init.ca) == 0;
	struct node *node;
	bool fresh;

	if (!init_is_valid(c))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (state_is_managed(s) && !same)
		refuse(r, BLIX_E_REFUSED, REFUSAL_OTHER_CLUSTER);
	else if (!state_is_managed(s) &&
	         (s->n_nodes > 1 || (s->n_nodes == 1 && s->nodes[0]->id != c->cluster_init.node)))
		refuse(r, BLIX_E_REFUSED, REFUSAL_OTHER_CLUSTER);
	if (r->code != BLIX_OK || state_is_managed(s))
		return; /* once is enough */
	(void)cluster_edit(s);
	memcpy(cluster->id, c->cluster_init.id, sizeof(cluster->id));
	memcpy(cluster->ca, c->cluster_init.ca, sizeof(cluster->ca));
	cluster->incarnation = 1;
	cluster->created_ms = s->clock_ms;
	cluster->voters = c->cluster_init.voters;
	if (cluster->level < c->cluster_init.level)
		cluster->level = c->cluster_init.level;
	cluster_event(s, "cluster-made", c->principal);
	fresh = s->n_nodes == 0;
	node = state_node_make(s, c->cluster_init.node, c->cluster_init.name);
	node->role = NODE_SERVER;
	memcpy(node->zone, c->cluster_init.zone, sizeof(node->zone));
	memcpy(node->serial, c->cluster_init.serial, sizeof(node->serial));
	if (fresh) {
		node->phase = NODE_JOINING; /* until it has said what it is */
		state_emit(s, "node", 0, node->name, "node-joined", "");
	}
	r->uid = node->id;
}

void apply_cluster_set(struct state *s, const struct command *c, struct command_result *r)
{
	struct cluster *cluster = &s->members.cluster;
	char text[32];

	if (!state_is_managed(s))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	else if (c->cluster_set.if_version != 0 && c->cluster_set.if_version != cluster->version)
		refuse(r, BLIX_E_CONFLICT, REFUSAL_VERSION);
	else if (!voters_are(c->cluster_set.voters))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	if (r->code != BLIX_OK || cluster->voters == c->cluster_set.voters)
		return;
	(void)cluster_edit(s);
	cluster->version++;
	cluster->voters = c->cluster_set.voters;
	(void)snprintf(text, sizeof(text), "voters: %" PRIu32, cluster->voters);
	cluster_event(s, "cluster-set", text);
}

void apply_feature_level(struct state *s, const struct command *c, struct command_result *r)
{
	struct cluster *cluster = &s->members.cluster;
	bool known = s->n_nodes > 0;
	char text[32];

	for (size_t i = 0; i < s->n_nodes; i++) {
		if (s->nodes[i]->role == NODE_SERVER)
			known = known && s->nodes[i]->facts.features >= c->feature_level.level;
	}
	if (c->feature_level.level <= cluster->level || !known) {
		refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
		return;
	}
	(void)cluster_edit(s);
	cluster->level = c->feature_level.level;
	(void)snprintf(text, sizeof(text), "%" PRIu32, cluster->level);
	cluster_event(s, "cluster-feature-level", text);
}

void apply_token_create(struct state *s, const struct command *c, struct command_result *r)
{
	const struct token *same = members_token_hash(&s->members, c->token_create.hash);
	struct token token = {.role = c->token_create.role};

	if (!state_is_managed(s))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	else if (parse_name("name", c->token_create.name, NULL) < 0 ||
	         !hex_is(c->token_create.hash, DIGEST_LENGTH) || same != NULL ||
	         c->token_create.ttl_ms == 0 || c->token_create.ttl_ms > LIMIT_TOKEN_TTL)
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (state_node_named(s, c->token_create.name) != NULL)
		refuse(r, BLIX_E_EXISTS, REFUSAL_NODE_NAME);
	else if (s->members.n_tokens >= LIMIT_TOKENS &&
	         members_token(&s->members, c->token_create.name) == NULL)
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
	if (r->code != BLIX_OK)
		return;
	s->revision++;
	token.uid = s->revision;
	token.created_ms = s->clock_ms;
	token.expires_ms = s->clock_ms + c->token_create.ttl_ms;
	memcpy(token.name, c->token_create.name, sizeof(token.name));
	memcpy(token.hash, c->token_create.hash, sizeof(token.hash));
	(void)snprintf(token.by, sizeof(token.by), "%s", c->principal);
	members_put_token(&s->members, &token);
	state_emit(s, "node", 0, token.name, "token-created", c->principal);
	r->uid = token.uid;
}

static void remove_token(struct state *s, const struct token *token, const char *reason,
                         const char *message)
{
	const struct token gone = *token;

	s->revision++;
	members_remove_token(&s->members, gone.name);
	if (gone.node == 0)
		state_emit(s, "node", 0, gone.name, reason, message);
}

void apply_token_delete(struct state *s, const struct command *c, struct command_result *r)
{
	const struct token *token = members_token(&s->members, c->token_delete.name);

	if (token == NULL || (c->token_delete.uid != 0 && c->token_delete.uid != token->uid)) {
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_TOKEN_MISSING);
		return;
	}
	r->uid = token->uid;
	remove_token(s, token, "token-deleted", c->principal);
}

void apply_token_expire(struct state *s, const struct command *c, struct command_result *r)
{
	const struct members *m = &s->members;

	for (size_t i = 0; i < m->n_tokens; i++) {
		if (m->tokens[i].uid != c->token_expire.uid ||
		    m->tokens[i].expires_ms > s->clock_ms)
			continue;
		r->uid = m->tokens[i].uid;
		remove_token(s, &m->tokens[i], "token-expired", "");
		return;
	}
	refuse(r, BLIX_E_CONFLICT, REFUSAL_STALE);
}

static void user_event(struct state *s, const struct user *user, const char *reason,
                       const char *message)
{
	state_emit(s, "user", user->uid, user->name, reason, message);
}

void apply_user_create(struct state *s, const struct command *c, struct command_result *r)
{
	struct user user = {.role = c->user_create.role, .version = 1};

	if (!state_is_managed(s))
		refuse(r, BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	else if (parse_name("name", c->user_create.name, NULL) < 0 ||
	         !hex_is(c->user_create.serial, SERIAL_LENGTH) ||
	         state_denied(s, 0, c->user_create.serial))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (members_user(&s->members, c->user_create.name) != NULL)
		refuse(r, BLIX_E_EXISTS, REFUSAL_USER_EXISTS);
	else if (s->members.n_users >= LIMIT_USERS)
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
	if (r->code != BLIX_OK)
		return;
	s->revision++;
	user.uid = user.revision = s->revision;
	user.created_ms = s->clock_ms;
	memcpy(user.name, c->user_create.name, sizeof(user.name));
	memcpy(user.serial, c->user_create.serial, sizeof(user.serial));
	(void)snprintf(user.by, sizeof(user.by), "%s", c->principal);
	members_put_user(&s->members, &user);
	user_event(s, &user, "user-created", c->principal);
	r->uid = user.uid;
}

/* The user that a person names, if its certificate can be denied. */
static const struct user *named_user(const struct state *s, const char *name, uint64_t if_version,
                                     struct command_result *r)
{
	const struct user *user = members_user(&s->members, name);

	if (user == NULL)
		refuse(r, BLIX_E_NOTFOUND, REFUSAL_USER_MISSING);
	else if (if_version != 0 && if_version != user->version)
		refuse(r, BLIX_E_CONFLICT, REFUSAL_VERSION);
	else if (s->members.denied.n >= LIMIT_DENIED)
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
	else
		r->uid = user->uid;
	return r->code == BLIX_OK ? user : NULL;
}

void apply_user_set(struct state *s, const struct command *c, struct command_result *r)
{
	const struct user *found = named_user(s, c->user_set.name, c->user_set.if_version, r);
	struct user user;

	if (found == NULL)
		return;
	if (!hex_is(c->user_set.serial, SERIAL_LENGTH) || state_denied(s, 0, c->user_set.serial) ||
	    strcmp(c->user_set.serial, found->serial) == 0) {
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
		return;
	}
	s->revision++;
	user = *found;
	serials_add(&s->members.denied, user.serial);
	memcpy(user.serial, c->user_set.serial, sizeof(user.serial));
	user.role = c->user_set.role;
	user.version++;
	user.revision = s->revision;
	members_put_user(&s->members, &user);
	user_event(s, &user, "user-set", c->principal);
}

void apply_user_delete(struct state *s, const struct command *c, struct command_result *r)
{
	const struct user *found = named_user(s, c->user_delete.name, c->user_delete.if_version, r);

	if (found == NULL)
		return;
	s->revision++;
	serials_add(&s->members.denied, found->serial);
	user_event(s, found, "user-deleted", c->principal);
	members_remove_user(&s->members, c->user_delete.name);
}

/* Servers that would be left to go on with. */
static size_t trusted_servers(const struct state *s, uint64_t but, const char *serial)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_nodes; i++) {
		const struct node *node = s->nodes[i];

		n += node->role == NODE_SERVER && node->id != but && !node->leaving &&
		     !state_denied(s, node->id, node->serial) &&
		     (serial[0] == '\0' || strcmp(node->serial, serial) != 0);
	}
	return n;
}

static bool deny_is_valid(const struct command *c)
{
	bool serial = c->deny.serial[0] != '\0', node = c->deny.node != 0;

	return serial != node && (!serial || hex_is(c->deny.serial, SERIAL_LENGTH)) &&
	       c->deny.node <= NODE_ID_MAX;
}

void apply_deny(struct state *s, const struct command *c, struct command_result *r)
{
	struct members *m = &s->members;
	char text[32];

	if (!deny_is_valid(c))
		refuse(r, BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	else if (state_is_managed(s) && trusted_servers(s, c->deny.node, c->deny.serial) == 0)
		refuse(r, BLIX_E_REFUSED, REFUSAL_LAST_SERVER);
	else if (m->denied.n >= LIMIT_DENIED || m->denied_nodes.n >= LIMIT_DENIED)
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
	r->uid = c->deny.node;
	if (r->code != BLIX_OK || state_denied(s, c->deny.node, c->deny.serial))
		return;
	s->revision++;
	if (c->deny.node != 0)
		ids_add(&m->denied_nodes, c->deny.node);
	else
		serials_add(&m->denied, c->deny.serial);
	(void)snprintf(text, sizeof(text), "node %" PRIu64, c->deny.node);
	cluster_event(s, "cluster-denied", c->deny.node != 0 ? text : c->deny.serial);
}

void state_restored(struct state *s)
{
	struct cluster *cluster = cluster_edit(s);

	cluster->incarnation++;
	cluster_event(s, "cluster-restored", "");
}
