/* lib/core: the cluster's record, tokens and joining, nodes that come and go, people, denials, the
 * audit and the chain: each by what it does and by each way in which it refuses. */
#include "base/alloc.h"
#include "core/leader.h"
#include "core/member_json.h"
#include "core/object_json.h"
#include "core/place.h"
#include "core/state.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define GIB  (1ULL << 30)
#define ID_1 1000001ULL /* of the first server */

static const char cluster_id[] = "00112233445566778899aabbccddeeff";
static const char ca[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* Through bytes, as every replica sees it; every truncation is refused. */
static struct command_result run(struct state *s, struct command *c)
{
	cleanup(buf_done) struct buf bytes;
	struct command copy;
	struct command_result r;

	buf_init(&bytes, LIMIT_COMMAND);
	assert_int_equal(command_encode(c, &bytes, NULL), 0);
	for (size_t n = 0; n < bytes.len; n++)
		assert_true(command_decode((uint8_t *)bytes.data, n, &copy, NULL) < 0);
	assert_int_equal(command_decode((uint8_t *)bytes.data, bytes.len, &copy, NULL), 0);
	state_begin(s, s->clock_ms == 0 ? UINT64_MAX : 10, 1000000);
	state_apply(s, &copy, &r);
	command_done(&copy);
	command_done(c);
	return r;
}

static void assert_refused(struct command_result r, enum blix_code code, enum refusal why)
{
	struct blix_error err;

	assert_int_equal(r.why, why);
	assert_int_equal(r.code, code);
	assert_true(refusal_error(&r, "it", &err) < 0);
	assert_string_not_equal(err.reason, "");
}

static void assert_done(struct command_result r)
{
	assert_int_equal(r.why, REFUSAL_NONE);
	assert_int_equal(r.code, BLIX_OK);
}

/* The n-th hash, and the n-th serial. */
static void hash_of(char *out, unsigned n)
{
	(void)snprintf(out, DIGEST_LENGTH + 1, "%064x", n);
}

static void serial_of(char *out, unsigned n)
{
	(void)snprintf(out, SERIAL_LENGTH + 1, "%032x", n);
}

static void name_of(char *out, const char *name)
{
	(void)snprintf(out, LIMIT_NAME + 1, "%s", name);
}

static void init_fill(struct command *c)
{
	command_init(c, COMMAND_CLUSTER_INIT);
	memcpy(c->cluster_init.id, cluster_id, sizeof(cluster_id));
	memcpy(c->cluster_init.ca, ca, sizeof(ca));
	c->cluster_init.level = FEATURE_LEVEL;
	c->cluster_init.voters = 3;
	c->cluster_init.node = ID_1;
	name_of(c->cluster_init.name, "n1");
	serial_of(c->cluster_init.serial, 1);
}

static struct command_result report(struct state *s, uint64_t id, const char *name,
                                    uint32_t features)
{
	struct command c;

	command_init(&c, COMMAND_NODE_REPORT);
	c.node_report.id = id;
	name_of(c.node_report.name, name);
	c.node_report.facts.cpus = 8;
	c.node_report.facts.memory_bytes = 16 * GIB;
	c.node_report.facts.features = features;
	xreplace(&c.node_report.facts.hypervisors, "qemu");
	xreplace(&c.node_report.facts.boot_id, "b");
	xreplace(&c.node_report.facts.addresses, "10.0.0.1:7443 [fd00::1]:7443");
	xreplace(&c.node_report.facts.raft, "10.0.0.1:7444");
	return run(s, &c);
}

static struct state *cluster(void)
{
	struct state *s = state_new();
	struct command c;

	init_fill(&c);
	assert_done(run(s, &c));
	assert_done(report(s, ID_1, "n1", FEATURE_LEVEL));
	return s;
}

static struct command_result token(struct state *s, const char *name, enum node_role role,
                                   unsigned secret)
{
	struct command c;

	command_init(&c, COMMAND_TOKEN_CREATE);
	xreplace(&c.principal, "user:ann");
	name_of(c.token_create.name, name);
	c.token_create.role = role;
	hash_of(c.token_create.hash, secret);
	c.token_create.ttl_ms = 900000;
	return run(s, &c);
}

static void join_fill(struct command *c, const char *name, uint64_t id, unsigned secret)
{
	command_init(c, COMMAND_NODE_JOIN);
	hash_of(c->node_join.token, secret);
	c->node_join.id = id;
	name_of(c->node_join.name, name);
	hash_of(c->node_join.key, (unsigned)id);
	serial_of(c->node_join.serial, (unsigned)id);
	name_of(c->node_join.zone, "a");
	c->node_join.facts.features = FEATURE_LEVEL;
	xreplace(&c->node_join.facts.addresses, "10.0.0.2:7443");
	xreplace(&c->node_join.facts.raft, "10.0.0.2:7444");
}

static struct command_result join(struct state *s, const char *name, uint64_t id, unsigned secret)
{
	struct command c;

	join_fill(&c, name, id, secret);
	return run(s, &c);
}

/* A member of this role, which has said what it is. */
static void member(struct state *s, const char *name, uint64_t id, enum node_role role)
{
	assert_done(token(s, name, role, (unsigned)id));
	assert_done(join(s, name, id, (unsigned)id));
	assert_done(report(s, id, name, FEATURE_LEVEL));
}

static struct command_result remove_node(struct state *s, const char *name, bool dead)
{
	struct command c;

	command_init(&c, COMMAND_NODE_REMOVE);
	name_of(c.node_remove.name, name);
	c.node_remove.dead = dead;
	return run(s, &c);
}

static struct command_result node_phase(struct state *s, uint64_t id, enum node_phase phase)
{
	struct command c;

	command_init(&c, COMMAND_NODE_PHASE);
	c.node_phase.id = id;
	c.node_phase.phase = phase;
	return run(s, &c);
}

static struct command_result set(struct state *s, const char *name, uint32_t fields, bool flag)
{
	struct command c;

	command_init(&c, COMMAND_NODE_SET);
	name_of(c.node_set.name, name);
	c.node_set.fields = fields;
	c.node_set.schedulable = flag;
	c.node_set.maintenance = flag;
	c.node_set.vote = flag ? NODE_VOTE_STANDBY : NODE_VOTE_AUTO;
	name_of(c.node_set.zone, flag ? "b" : "");
	return run(s, &c);
}

static void the_first_server_makes_the_cluster(void **state)
{
	struct state *s = state_new();
	const struct cluster *made = &s->members.cluster;
	struct command c;

	(void)state;
	assert_int_equal(made->level, 1);
	assert_false(state_is_managed(s));
	assert_refused(token(s, "n2", NODE_SERVER, 1), BLIX_E_REFUSED, REFUSAL_FEATURE);
	for (unsigned bad = 0; bad < 7; bad++) {
		init_fill(&c);
		if (bad == 0)
			c.cluster_init.id[0] = 'G';
		else if (bad == 1)
			c.cluster_init.ca[63] = '\0';
		else if (bad == 2)
			c.cluster_init.voters = 4;
		else if (bad == 3)
			c.cluster_init.node = NODE_ID_MAX + 1;
		else if (bad == 4)
			name_of(c.cluster_init.name, "-n1");
		else if (bad == 5)
			c.cluster_init.level = 1;
		else
			c.cluster_init.serial[0] = '\0';
		assert_refused(run(s, &c), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	}
	init_fill(&c);
	assert_int_equal(run(s, &c).uid, ID_1);
	assert_true(state_is_managed(s));
	assert_int_equal(made->level, FEATURE_LEVEL);
	assert_int_equal(made->incarnation, 1);
	assert_int_equal(state_node(s, ID_1)->phase, NODE_JOINING);
	init_fill(&c); /* again, as after a crash: nothing is done twice */
	assert_done(run(s, &c));
	assert_int_equal(made->revision, s->revision);
	init_fill(&c);
	c.cluster_init.id[0] = 'f';
	assert_refused(run(s, &c), BLIX_E_REFUSED, REFUSAL_OTHER_CLUSTER);
	assert_done(report(s, ID_1, "n1", FEATURE_LEVEL));
	assert_int_equal(state_node(s, ID_1)->phase, NODE_READY);
	assert_refused(report(s, 5, "n5", FEATURE_LEVEL), BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
	assert_refused(report(s, ID_1, "other", FEATURE_LEVEL), BLIX_E_EXISTS, REFUSAL_NODE_NAME);
	state_restored(s);
	assert_int_equal(made->incarnation, 2);
	state_free(s);
}

/* Servers of a configuration are nobody's to take over. */
static void a_static_cluster_has_no_members(void **state)
{
	struct state *s = state_new();
	struct command c;

	(void)state;
	assert_done(report(s, 1, "n1", 2));
	assert_done(report(s, 2, "n2", 2));
	init_fill(&c);
	assert_refused(run(s, &c), BLIX_E_REFUSED, REFUSAL_OTHER_CLUSTER);
	command_init(&c, COMMAND_FEATURE_LEVEL);
	c.feature_level.level = 2;
	assert_done(run(s, &c));
	assert_refused(token(s, "n3", NODE_WORKER, 1), BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	assert_refused(join(s, "n3", 3, 1), BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	assert_refused(remove_node(s, "n1", false), BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	assert_refused(set(s, "n1", NODE_SET_VOTE, true), BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	assert_done(set(s, "n1", NODE_SET_SCHEDULABLE, false));
	command_init(&c, COMMAND_CLUSTER_SET);
	c.cluster_set.voters = 5;
	assert_refused(run(s, &c), BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	command_init(&c, COMMAND_USER_CREATE);
	assert_refused(run(s, &c), BLIX_E_REFUSED, REFUSAL_NO_CLUSTER);
	state_free(s);
}

static void tokens_are_for_one_node(void **state)
{
	struct state *s = cluster();
	const struct node *node;
	struct command c;
	uint64_t uid;

	(void)state;
	assert_refused(token(s, "-x", NODE_WORKER, 1), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_refused(token(s, "n1", NODE_WORKER, 1), BLIX_E_EXISTS, REFUSAL_NODE_NAME);
	uid = token(s, "w1", NODE_WORKER, 1).uid;
	assert_int_equal(uid, s->revision);
	assert_refused(token(s, "w2", NODE_WORKER, 1), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_refused(join(s, "w1", 7, 99), BLIX_E_DENIED, REFUSAL_TOKEN_MISSING);
	assert_refused(join(s, "w9", 7, 1), BLIX_E_DENIED, REFUSAL_TOKEN_NAME);
	assert_refused(join(s, "w1", ID_1, 1), BLIX_E_EXISTS, REFUSAL_NODE_ID);
	join_fill(&c, "w1", 7, 1);
	c.node_join.facts.features = 1;
	assert_refused(run(s, &c), BLIX_E_REFUSED, REFUSAL_FEATURE_OLD);
	assert_int_equal(members_token(&s->members, "w1")->node, 0); /* none of it used the token */

	assert_int_equal(join(s, "w1", 7, 1).uid, 7);
	node = state_node(s, 7);
	assert_int_equal(node->phase, NODE_JOINING);
	assert_int_equal(node->role, NODE_WORKER);
	assert_string_equal(node->zone, "a");
	assert_done(node_phase(s, 7, NODE_READY));
	assert_int_equal(state_node(s, 7)->phase, NODE_JOINING); /* it did not say what it is */
	/* The same joiner again, at another server with another id in mind. */
	join_fill(&c, "w1", 8, 1);
	hash_of(c.node_join.key, 7);
	uid = s->revision;
	assert_int_equal(run(s, &c).uid, 7);
	assert_int_equal(s->revision, uid);
	assert_null(state_node(s, 8));
	assert_refused(join(s, "w1", 8, 1), BLIX_E_DENIED, REFUSAL_TOKEN_USED);
	assert_done(report(s, 7, "w1", FEATURE_LEVEL));
	assert_int_equal(state_node(s, 7)->phase, NODE_READY);
	state_free(s);
}

static void joins_are_checked(void **state)
{
	struct state *s = cluster();
	struct command c;

	(void)state;
	assert_done(token(s, "n2", NODE_SERVER, 1));
	for (unsigned bad = 0; bad < 8; bad++) {
		join_fill(&c, "n2", 7, 1);
		if (bad == 0)
			c.node_join.id = 0;
		else if (bad == 1)
			c.node_join.id = NODE_ID_MAX + 1;
		else if (bad == 2)
			c.node_join.key[0] = 'x';
		else if (bad == 3)
			c.node_join.serial[0] = '\0';
		else if (bad == 4)
			name_of(c.node_join.zone, "a b");
		else if (bad == 5)
			xreplace(&c.node_join.facts.addresses, "no-port");
		else if (bad == 6)
			xreplace(&c.node_join.facts.raft, ""); /* a server has one */
		else
			name_of(c.node_join.name, "N2");
		assert_refused(run(s, &c), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	}
	assert_done(join(s, "n2", 7, 1));
	assert_int_equal(state_node(s, 7)->role, NODE_SERVER);
	for (unsigned i = 0; i + 2 < LIMIT_SERVERS; i++) {
		char name[8];

		(void)snprintf(name, sizeof(name), "s%u", i);
		member(s, name, 100 + i, NODE_SERVER);
	}
	assert_done(token(s, "more", NODE_SERVER, 900));
	assert_refused(join(s, "more", 900, 900), BLIX_E_BUSY, REFUSAL_FULL);
	assert_done(token(s, "more", NODE_WORKER, 901)); /* another token for the name */
	assert_refused(join(s, "more", 900, 900), BLIX_E_DENIED, REFUSAL_TOKEN_MISSING);
	assert_done(join(s, "more", 900, 901));
	state_free(s);
}

static void tokens_end(void **state)
{
	struct leader_actions *actions = xcalloc(1, sizeof(*actions));
	struct state *s = cluster();
	struct leader leader;
	struct command c;
	uint64_t uid;

	(void)state;
	uid = token(s, "w1", NODE_WORKER, 1).uid;
	command_init(&c, COMMAND_TOKEN_DELETE);
	name_of(c.token_delete.name, "w1");
	c.token_delete.uid = uid + 1;
	assert_refused(run(s, &c), BLIX_E_NOTFOUND, REFUSAL_TOKEN_MISSING);
	command_init(&c, COMMAND_TOKEN_DELETE);
	name_of(c.token_delete.name, "w1");
	assert_done(run(s, &c));
	assert_int_equal(s->members.n_tokens, 0);
	uid = token(s, "w1", NODE_WORKER, 2).uid;
	command_init(&c, COMMAND_TOKEN_EXPIRE);
	c.token_expire.uid = uid; /* a leader whose clock is ahead expires nothing */
	assert_refused(run(s, &c), BLIX_E_CONFLICT, REFUSAL_STALE);
	leader_init(&leader, 1000, 0, 0);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_ELECTED}, 1, actions);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_TICK}, 800000, actions);
	assert_int_equal(actions->n, 0);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_TICK}, 910000, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].token_expire.uid, uid);
	state_begin(s, 900000, 1000000);
	assert_refused(join(s, "w1", 7, 2), BLIX_E_DENIED, REFUSAL_TOKEN_EXPIRED);
	assert_done(run(s, &actions->commands[0]));
	assert_int_equal(s->members.n_tokens, 0);
	assert_refused(join(s, "w1", 7, 2), BLIX_E_DENIED, REFUSAL_TOKEN_MISSING);
	for (unsigned ttl = 0; ttl < 2; ttl++) {
		command_init(&c, COMMAND_TOKEN_CREATE);
		name_of(c.token_create.name, "w1");
		hash_of(c.token_create.hash, 3);
		c.token_create.ttl_ms = ttl * (LIMIT_TOKEN_TTL + 1ULL);
		assert_refused(run(s, &c), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	}
	free(actions);
	state_free(s);
}

static void vm_on(struct state *s, const char *name, uint64_t node, uint32_t volumes)
{
	struct command c;
	const struct vm *vm;

	command_init(&c, COMMAND_VM_CREATE);
	name_of(c.vm_create.name, name);
	xreplace(&c.vm_create.spec.flake, "github:me/vms");
	xreplace(&c.vm_create.spec.attr, "web");
	assert_done(run(s, &c));
	vm = state_vm(s, name);
	command_init(&c, COMMAND_VM_RESOLVE);
	c.vm_resolve.uid = vm->uid;
	c.vm_resolve.node = node;
	assert_done(run(s, &c));
	command_init(&c, COMMAND_VM_RESOLVED);
	c.vm_resolved.uid = vm->uid;
	c.vm_resolved.node = node;
	c.vm_resolved.resolved.cpus = 1;
	c.vm_resolved.resolved.memory_bytes = GIB;
	c.vm_resolved.resolved.n_volumes = volumes;
	xreplace(&c.vm_resolved.resolved.hypervisor, "qemu");
	xreplace(&c.vm_resolved.resolved.out_path, "/nix/store/x-runner");
	assert_done(run(s, &c));
	command_init(&c, COMMAND_VM_ASSIGN);
	c.vm_assign.uid = vm->uid;
	c.vm_assign.node = node;
	assert_done(run(s, &c));
}

static struct command_result vm_report(struct state *s, const char *name, const char *who)
{
	struct command c;

	command_init(&c, COMMAND_VM_REPORT);
	xreplace(&c.principal, who);
	c.vm_report.kind = VM_REPORT_BUILDING;
	c.vm_report.uid = state_vm(s, name)->uid;
	c.vm_report.node = state_vm(s, name)->node;
	c.vm_report.epoch = state_vm(s, name)->epoch;
	return run(s, &c);
}

/* Kept while VMs are on it; a person says that it is dead, and nobody may hear of it either. */
static void workers_leave(void **state)
{
	struct state *s = cluster();
	struct command c;

	(void)state;
	member(s, "w1", 7, NODE_WORKER);
	vm_on(s, "free", 7, 0);
	vm_on(s, "data", 7, 1);
	vm_on(s, "going", 7, 0);
	command_init(&c, COMMAND_VM_DELETE);
	name_of(c.vm_delete.name, "going");
	assert_done(run(s, &c));
	assert_refused(remove_node(s, "w9", false), BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
	assert_refused(remove_node(s, "w1", false), BLIX_E_REFUSED, REFUSAL_NODE_USED);
	assert_refused(remove_node(s, "w1", true), BLIX_E_REFUSED, REFUSAL_NODE_ALIVE);
	assert_done(node_phase(s, 7, NODE_OFFLINE));
	command_init(&c, COMMAND_NODE_REMOVE);
	name_of(c.node_remove.name, "w1");
	c.node_remove.dead = true;
	c.node_remove.if_version = 9;
	assert_refused(run(s, &c), BLIX_E_CONFLICT, REFUSAL_VERSION);
	assert_done(remove_node(s, "w1", true));
	assert_null(state_node(s, 7));
	assert_true(state_denied(s, 7, ""));
	assert_int_equal(state_vm(s, "free")->phase, VM_PENDING);
	assert_int_equal(place(s, state_vm(s, "free"))->id, ID_1);
	assert_int_equal(state_vm(s, "data")->phase, VM_FAILED);
	assert_string_equal(state_vm(s, "data")->reason, "node-removed");
	assert_null(state_vm(s, "going"));
	/* Nothing of it is heard again, and nobody gets its id. */
	assert_refused(report(s, 7, "w1", FEATURE_LEVEL), BLIX_E_DENIED, REFUSAL_NODE_LEFT);
	assert_done(token(s, "w1", NODE_WORKER, 50));
	assert_refused(join(s, "w1", 7, 50), BLIX_E_REFUSED, REFUSAL_NODE_LEFT);
	assert_done(join(s, "w1", 8, 50)); /* its name is free */
	state_free(s);
}

static void servers_leave_when_the_log_let_them(void **state)
{
	struct state *s = cluster();
	struct command c;

	(void)state;
	assert_refused(remove_node(s, "n1", false), BLIX_E_REFUSED, REFUSAL_LAST_SERVER);
	member(s, "n2", 7, NODE_SERVER);
	command_init(&c, COMMAND_NODE_LEFT);
	c.node_left.id = 7;
	assert_refused(run(s, &c), BLIX_E_CONFLICT, REFUSAL_STALE);
	vm_on(s, "web", 7, 0);
	assert_done(node_phase(s, 7, NODE_OFFLINE));
	assert_done(remove_node(s, "n2", true));
	assert_true(state_node(s, 7)->leaving);
	assert_int_equal(state_vm(s, "web")->phase, VM_PENDING);
	assert_done(node_phase(s, 7, NODE_READY));
	assert_int_equal(place_node(state_vm(s, "web"), state_node(s, 7)).reject, PLACE_LEAVING);
	assert_refused(remove_node(s, "n1", false), BLIX_E_REFUSED, REFUSAL_LAST_SERVER);
	assert_done(remove_node(s, "n2", false)); /* again: it is under way */
	command_init(&c, COMMAND_NODE_LEFT);
	c.node_left.id = 7;
	assert_done(run(s, &c));
	assert_null(state_node(s, 7));
	assert_true(ids_has(&s->members.left, 7));
	state_free(s);
}

static void nodes_are_set(void **state)
{
	struct state *s = cluster();
	struct command c;
	uint64_t version;

	(void)state;
	member(s, "w1", 7, NODE_WORKER);
	vm_on(s, "old", 7, 0);
	vm_on(s, "new", ID_1, 0);
	assert_refused(set(s, "w1", NODE_SET_VOTE, true), BLIX_E_REFUSED, REFUSAL_NOT_SERVER);
	assert_done(set(s, "n1", NODE_SET_VOTE, true));
	assert_int_equal(state_node(s, ID_1)->vote, NODE_VOTE_STANDBY);
	version = state_node(s, 7)->version;
	assert_done(set(s, "w1", NODE_SET_SCHEDULABLE | NODE_SET_ZONE, false));
	assert_int_equal(state_node(s, 7)->version, version + 1);
	assert_done(set(s, "w1", NODE_SET_SCHEDULABLE, false)); /* it is so already */
	assert_int_equal(state_node(s, 7)->version, version + 1);
	/* A cordon keeps new VMs away, and lets the old one start where it was. */
	assert_int_equal(place_node(state_vm(s, "new"), state_node(s, 7)).reject, PLACE_CORDONED);
	assert_int_equal(place_node(state_vm(s, "old"), state_node(s, 7)).reject, PLACE_FITS);
	assert_done(set(s, "w1", NODE_SET_MAINTENANCE, true));
	assert_int_equal(state_node(s, 7)->phase, NODE_MAINTENANCE);
	assert_int_equal(place_node(state_vm(s, "old"), state_node(s, 7)).reject,
	                 PLACE_MAINTENANCE);
	assert_done(node_phase(s, 7, NODE_OFFLINE));
	assert_done(node_phase(s, 7, NODE_READY));
	assert_int_equal(state_node(s, 7)->phase, NODE_MAINTENANCE); /* it stays in it */
	assert_done(set(s, "w1", NODE_SET_MAINTENANCE, false));
	assert_int_equal(state_node(s, 7)->phase, NODE_READY);
	command_init(&c, COMMAND_NODE_SET);
	name_of(c.node_set.name, "w1");
	c.node_set.fields = NODE_SET_ZONE;
	name_of(c.node_set.zone, "A");
	assert_refused(run(s, &c), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	command_init(&c, COMMAND_NODE_SET);
	name_of(c.node_set.name, "w1");
	c.node_set.if_version = 1;
	assert_refused(run(s, &c), BLIX_E_CONFLICT, REFUSAL_VERSION);
	state_free(s);
}

static struct command_result user(struct state *s, enum command_kind kind, const char *name,
                                  unsigned serial, uint64_t if_version)
{
	struct command c;

	command_init(&c, kind);
	if (kind == COMMAND_USER_CREATE) {
		name_of(c.user_create.name, name);
		c.user_create.role = USER_OPERATOR;
		serial_of(c.user_create.serial, serial);
	} else if (kind == COMMAND_USER_SET) {
		name_of(c.user_set.name, name);
		c.user_set.role = USER_VIEWER;
		c.user_set.if_version = if_version;
		serial_of(c.user_set.serial, serial);
	} else {
		name_of(c.user_delete.name, name);
		c.user_delete.if_version = if_version;
	}
	return run(s, &c);
}

static bool denies(const struct state *s, unsigned serial)
{
	char text[SERIAL_LENGTH + 1];

	serial_of(text, serial);
	return state_denied(s, 0, text);
}

static void people_come_and_go(void **state)
{
	struct state *s = cluster();
	const struct user *ann;

	(void)state;
	assert_done(user(s, COMMAND_USER_CREATE, "ann", 1, 0));
	assert_refused(user(s, COMMAND_USER_CREATE, "ann", 2, 0), BLIX_E_EXISTS,
	               REFUSAL_USER_EXISTS);
	assert_refused(user(s, COMMAND_USER_CREATE, "A", 2, 0), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_refused(user(s, COMMAND_USER_SET, "ben", 2, 0), BLIX_E_NOTFOUND,
	               REFUSAL_USER_MISSING);
	assert_refused(user(s, COMMAND_USER_SET, "ann", 2, 7), BLIX_E_CONFLICT, REFUSAL_VERSION);
	assert_refused(user(s, COMMAND_USER_SET, "ann", 1, 0), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_false(denies(s, 1));
	assert_done(user(s, COMMAND_USER_SET, "ann", 2, 1));
	ann = members_user(&s->members, "ann");
	assert_int_equal(ann->role, USER_VIEWER);
	assert_int_equal(ann->version, 2);
	assert_true(denies(s, 1));
	assert_false(denies(s, 2));
	assert_refused(user(s, COMMAND_USER_SET, "ann", 1, 0), BLIX_E_INVALID,
	               REFUSAL_BAD_MEMBER); /* denied for good */
	assert_refused(user(s, COMMAND_USER_DELETE, "ann", 0, 1), BLIX_E_CONFLICT, REFUSAL_VERSION);
	assert_done(user(s, COMMAND_USER_DELETE, "ann", 0, 2));
	assert_true(denies(s, 2));
	assert_refused(user(s, COMMAND_USER_DELETE, "ann", 0, 0), BLIX_E_NOTFOUND,
	               REFUSAL_USER_MISSING);
	assert_refused(user(s, COMMAND_USER_CREATE, "ann", 2, 0), BLIX_E_INVALID,
	               REFUSAL_BAD_MEMBER);
	assert_done(user(s, COMMAND_USER_CREATE, "ann", 3, 0));
	state_free(s);
}

static struct command_result deny(struct state *s, unsigned serial, uint64_t node)
{
	struct command c;

	command_init(&c, COMMAND_DENY);
	if (serial != 0)
		serial_of(c.deny.serial, serial);
	c.deny.node = node;
	return run(s, &c);
}

static void denials_stay(void **state)
{
	struct state *s = cluster();
	struct command c;

	(void)state;
	member(s, "w1", 7, NODE_WORKER);
	assert_refused(deny(s, 0, 0), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_refused(deny(s, 1, 7), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_refused(deny(s, 0, NODE_ID_MAX + 1), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_refused(deny(s, 0, ID_1), BLIX_E_REFUSED, REFUSAL_LAST_SERVER);
	assert_refused(deny(s, 1, 0), BLIX_E_REFUSED, REFUSAL_LAST_SERVER);
	assert_done(deny(s, 77, 0));
	assert_true(denies(s, 77));
	assert_done(deny(s, 0, 7));
	assert_true(state_denied(s, 7, ""));
	assert_false(state_denied(s, 0, ""));
	assert_refused(report(s, 7, "w1", FEATURE_LEVEL), BLIX_E_DENIED, REFUSAL_NODE_LEFT);
	command_init(&c, COMMAND_NODE_CERTIFICATE);
	c.node_certificate.id = 7;
	serial_of(c.node_certificate.serial, 8);
	assert_refused(run(s, &c), BLIX_E_DENIED, REFUSAL_NODE_LEFT);
	state_free(s);
}

static struct command_result certificate(struct state *s, const char *who, uint64_t id,
                                         const char *serial)
{
	struct command c;

	command_init(&c, COMMAND_NODE_CERTIFICATE);
	xreplace(&c.principal, who);
	c.node_certificate.id = id;
	(void)snprintf(c.node_certificate.serial, sizeof(c.node_certificate.serial), "%s", serial);
	return run(s, &c);
}

/* A node's certificate is good for what is about that node, whatever its server let through. */
static void nodes_speak_for_themselves(void **state)
{
	struct state *s = cluster();
	struct command c;

	(void)state;
	member(s, "w1", 7, NODE_WORKER);
	member(s, "w2", 8, NODE_WORKER);
	vm_on(s, "web", 7, 0);
	assert_refused(vm_report(s, "web", "node:8"), BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	assert_refused(vm_report(s, "web", "node:"), BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	assert_refused(vm_report(s, "web", "node:7x"), BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	assert_done(vm_report(s, "web", "node:7"));
	command_init(&c, COMMAND_VM_DELETE); /* a person's command */
	xreplace(&c.principal, "node:7");
	name_of(c.vm_delete.name, "web");
	assert_refused(run(s, &c), BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	command_init(&c, COMMAND_VM_DELETE);
	xreplace(&c.principal, "node:0");
	assert_refused(run(s, &c), BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	assert_refused(certificate(s, "node:8", 7, ca + 32), BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	assert_refused(certificate(s, "node:7", 7, "short"), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	assert_refused(certificate(s, "", 9, ca + 32), BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
	assert_done(certificate(s, "node:7", 7, ca + 32));
	assert_string_equal(state_node(s, 7)->serial, ca + 32);
	assert_done(deny(s, 0, 7));
	assert_refused(vm_report(s, "web", "node:7"), BLIX_E_DENIED, REFUSAL_NOT_YOURS);
	state_free(s);
}

static void the_cluster_is_set(void **state)
{
	struct state *s = cluster();
	struct command c;

	(void)state;
	for (uint32_t voters = 0; voters <= 9; voters++) {
		command_init(&c, COMMAND_CLUSTER_SET);
		c.cluster_set.voters = voters;
		if (voters % 2 == 1 && voters <= LIMIT_VOTERS)
			assert_done(run(s, &c));
		else
			assert_refused(run(s, &c), BLIX_E_INVALID, REFUSAL_BAD_MEMBER);
	}
	assert_int_equal(s->members.cluster.voters, 7);
	assert_int_equal(s->members.cluster.version, 5);
	command_init(&c, COMMAND_CLUSTER_SET);
	c.cluster_set.voters = 3;
	c.cluster_set.if_version = 4;
	assert_refused(run(s, &c), BLIX_E_CONFLICT, REFUSAL_VERSION);
	state_free(s);
}

/* The level rises when every server that there may be has said that it knows more. */
static void the_level_rises(void **state)
{
	const struct leader_peer peers[] = {{.id = 1, .age_ms = 0}, {.id = 2, .age_ms = 0}};
	const struct leader_event tick = {.kind = LEADER_TICK, .peers = peers, .n_peers = 2};
	struct leader_actions *actions = xcalloc(1, sizeof(*actions));
	struct state *s = state_new();
	cleanup(buf_done) struct buf bytes;
	struct leader leader;
	struct command c;
	struct blix_error err;

	(void)state;
	leader_init(&leader, 1000, 0, 0);
	leader_step(&leader, s, &(struct leader_event){.kind = LEADER_ELECTED}, 1, actions);
	assert_done(report(s, 1, "n1", 2));
	leader_step(&leader, s, &tick, 2, actions);
	assert_int_equal(actions->n, 0); /* nobody knows what n2 knows */
	assert_done(report(s, 2, "n2", 1));
	leader_step(&leader, s, &tick, 3, actions);
	assert_int_equal(actions->n, 0);
	command_init(&c, COMMAND_FEATURE_LEVEL);
	c.feature_level.level = 2;
	assert_refused(run(s, &c), BLIX_E_CONFLICT, REFUSAL_STALE);
	assert_done(report(s, 2, "n2", 9)); /* newer than this one */
	leader_step(&leader, s, &tick, 4, actions);
	assert_int_equal(actions->n, 1);
	assert_int_equal(actions->commands[0].feature_level.level, FEATURE_LEVEL);
	assert_done(run(s, &actions->commands[0]));
	assert_int_equal(s->members.cluster.level, FEATURE_LEVEL);

	/* A log or a snapshot of a higher level is not for this binary. */
	buf_init(&bytes, LIMIT_SNAPSHOT);
	command_init(&c, COMMAND_FEATURE_LEVEL);
	c.feature_level.level = FEATURE_LEVEL + 1;
	assert_int_equal(command_encode(&c, &bytes, NULL), 0);
	command_done(&c);
	assert_true(command_decode((uint8_t *)bytes.data, bytes.len, &c, &err) < 0);
	assert_non_null(strstr(err.hint, "upgrade this server"));
	buf_clear(&bytes);
	s->members.cluster.level = FEATURE_LEVEL + 1;
	assert_int_equal(state_encode(s, &bytes, NULL), 0);
	assert_true(state_decode(s, (uint8_t *)bytes.data, bytes.len, &err) < 0);
	assert_non_null(strstr(err.hint, "upgrade this server"));
	free(actions);
	state_free(s);
}

static void the_audit_tells_who_did_what(void **state)
{
	struct state *s = cluster(), *copy = state_new();
	cleanup(buf_done) struct buf bytes;
	const struct audit_record *record;
	cleanup(json_freep) cJSON *json = NULL;
	uint64_t head;

	(void)state;
	assert_done(token(s, "w1", NODE_WORKER, 1));
	assert_refused(token(s, "n1", NODE_WORKER, 2), BLIX_E_EXISTS, REFUSAL_NODE_NAME);
	record = audit_at(&s->audit, s->audit.n - 1);
	assert_string_equal(record->principal, "user:ann");
	assert_string_equal(record->verb, "token-create");
	assert_string_equal(record->object, "n1");
	assert_int_equal(record->code, BLIX_E_EXISTS);
	json = audit_json(record);
	assert_string_equal(cJSON_GetObjectItemCaseSensitive(json, "reason")->valuestring,
	                    "node-name-taken");
	assert_int_equal(record->sequence, 3); /* and no record of the node's report */
	assert_done(deny(s, 0, 7));
	assert_string_equal(audit_at(&s->audit, s->audit.n - 1)->object, "7");
	assert_true(audit_holds(&s->audit));

	for (unsigned i = 0; i < LIMIT_AUDIT + 10; i++)
		assert_refused(remove_node(s, "w9", false), BLIX_E_NOTFOUND, REFUSAL_NODE_MISSING);
	assert_int_equal(s->audit.n, LIMIT_AUDIT);
	assert_true(audit_holds(&s->audit));
	head = audit_head(&s->audit);
	buf_init(&bytes, LIMIT_SNAPSHOT);
	assert_int_equal(state_encode(s, &bytes, NULL), 0);
	assert_int_equal(state_decode(copy, (uint8_t *)bytes.data, bytes.len, NULL), 0);
	assert_true(audit_head(&copy->audit) == head);
	assert_true(state_hash(copy) == state_hash(s));
	/* A record that was changed, and one that was taken out. */
	s->audit.records[17].principal[0] = 'x';
	assert_false(audit_holds(&s->audit));
	buf_clear(&bytes);
	assert_int_equal(state_encode(s, &bytes, NULL), 0);
	assert_true(state_decode(s, (uint8_t *)bytes.data, bytes.len, NULL) < 0);
	copy->audit.first++;
	copy->audit.n--;
	assert_false(audit_holds(&copy->audit));
	state_free(copy);
	state_free(s);
}

/* Two servers that applied the same agree at every mark; one that applied something else, or found
 * something else, does not from then on. */
static void the_chain_compares_servers(void **state)
{
	struct state *a = cluster(), *b = cluster(), *c = cluster();
	uint64_t value, other, newest;

	(void)state;
	assert_false(state_chain_at(a, 0, &value));
	assert_int_equal(state_chain_newest(a), 0);
	assert_done(set(c, "n1", NODE_SET_ZONE, true));
	assert_done(set(a, "n1", NODE_SET_ZONE, false));
	assert_done(set(b, "n1", NODE_SET_ZONE, false));
	for (unsigned i = 0; i < STATE_CHAIN * (STATE_CHAIN_MARKS + 2); i++) {
		(void)remove_node(a, "w9", false);
		(void)remove_node(c, "w9", false);
		if (i < STATE_CHAIN * STATE_CHAIN_MARKS)
			(void)remove_node(b, "w9", false);
	}
	newest = state_chain_newest(b); /* it is behind */
	assert_true(newest < state_chain_newest(a));
	assert_true(state_chain_at(b, newest, &value));
	assert_true(state_chain_at(a, newest, &other));
	assert_true(value == other);
	assert_true(state_chain_at(c, newest, &other));
	assert_true(value != other);
	assert_false(state_chain_at(a, newest + 1, &other));
	assert_false(state_chain_at(a, STATE_CHAIN, &other)); /* too long ago */
	assert_false(state_chain_at(b, newest + STATE_CHAIN, &other));
	state_free(a);
	state_free(b);
	state_free(c);
}

/* Each list up to its limit, and one more. */
static void lists_are_bounded(void **state)
{
	struct state *s = cluster();
	struct token one_token = {.expires_ms = 1};
	struct user one_user = {.version = 1};
	char principal[LIMIT_PRINCIPAL + 2], serial[SERIAL_LENGTH + 1];
	cleanup(buf_done) struct buf bytes;
	struct command c;

	(void)state;
	member(s, "w1", 7, NODE_WORKER);
	for (unsigned i = 0; s->members.n_tokens < LIMIT_TOKENS; i++) {
		(void)snprintf(one_token.name, sizeof(one_token.name), "t%u", i);
		members_put_token(&s->members, &one_token);
	}
	assert_refused(token(s, "t-more", NODE_WORKER, 90), BLIX_E_BUSY, REFUSAL_FULL);
	assert_done(token(s, "t5", NODE_WORKER, 90)); /* in another's place */
	for (unsigned i = 0; s->members.n_users < LIMIT_USERS; i++) {
		(void)snprintf(one_user.name, sizeof(one_user.name), "u%u", i);
		members_put_user(&s->members, &one_user);
	}
	assert_refused(user(s, COMMAND_USER_CREATE, "ann", 1, 0), BLIX_E_BUSY, REFUSAL_FULL);
	for (unsigned i = 0; s->members.denied.n < LIMIT_DENIED; i++) {
		serial_of(serial, 1000 + i);
		serials_add(&s->members.denied, serial);
	}
	assert_refused(user(s, COMMAND_USER_SET, "u1", 5, 0), BLIX_E_BUSY, REFUSAL_FULL);
	assert_refused(user(s, COMMAND_USER_DELETE, "u1", 5, 0), BLIX_E_BUSY, REFUSAL_FULL);
	assert_refused(deny(s, 5, 0), BLIX_E_BUSY, REFUSAL_FULL);
	for (uint64_t id = 100000; s->members.left.n < LIMIT_LEFT; id++)
		ids_add(&s->members.left, id);
	assert_refused(remove_node(s, "w1", false), BLIX_E_BUSY, REFUSAL_FULL);

	/* A principal longer than any there can be is no command. */
	memset(principal, 'x', sizeof(principal));
	principal[sizeof(principal) - 1] = '\0';
	command_init(&c, COMMAND_DENY);
	xreplace(&c.principal, principal);
	buf_init(&bytes, LIMIT_COMMAND);
	assert_int_equal(command_encode(&c, &bytes, NULL), 0);
	command_done(&c);
	assert_true(command_decode((uint8_t *)bytes.data, bytes.len, &c, NULL) < 0);
	state_free(s);
}

static void addresses_are_checked(void **state)
{
	static const char *const good[] = {"10.0.0.1:7443", "[fd00::1]:1", "host.example:65535",
	                                   "/run/blix/raft.sock"};
	static const char *const bad[] = {
		"",     "host",    ":1",        "host:", "host:0", "-h:1",
		"h:1x", "h:65536", "fd00::1:1", "a b:1", "/a b",   "h:1\n"};

	(void)state;
	for (size_t i = 0; i < array_size(good); i++)
		assert_int_equal(node_address_check(good[i], strlen(good[i]), NULL), 0);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_true(node_address_check(bad[i], strlen(bad[i]), NULL) < 0);
}

static void views_and_snapshots_hold_members(void **state)
{
	struct state *s = cluster(), *view, *copy = state_new();
	cleanup(buf_done) struct buf bytes;
	uint64_t hash;

	(void)state;
	member(s, "n2", 7, NODE_SERVER);
	member(s, "w1", 8, NODE_WORKER);
	assert_done(token(s, "w2", NODE_WORKER, 90));
	assert_done(user(s, COMMAND_USER_CREATE, "ann", 3, 0));
	assert_done(user(s, COMMAND_USER_SET, "ann", 4, 0));
	assert_done(deny(s, 0, 500));
	assert_done(remove_node(s, "w1", false));
	view = state_view(s);
	hash = state_hash(s);
	assert_true(state_hash(view) == hash);
	buf_init(&bytes, LIMIT_SNAPSHOT);
	assert_int_equal(state_encode(s, &bytes, NULL), 0);
	for (size_t n = 0; n < bytes.len; n++)
		assert_true(state_decode(copy, (uint8_t *)bytes.data, n, NULL) < 0);
	assert_int_equal(state_decode(copy, (uint8_t *)bytes.data, bytes.len, NULL), 0);
	assert_true(state_hash(copy) == hash);
	assert_true(state_denied(copy, 8, "") && state_denied(copy, 500, "") && denies(copy, 3));
	assert_done(remove_node(s, "n2", false));
	assert_done(user(s, COMMAND_USER_DELETE, "ann", 0, 0));
	assert_true(state_hash(view) == hash);
	state_view_free(view);
	state_free(copy);
	state_free(s);
}

static const char *text_at(const cJSON *object, const char *part, const char *key)
{
	const cJSON *inner = cJSON_GetObjectItemCaseSensitive(object, part);
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(inner, key);

	assert_true(cJSON_IsString(item));
	return item->valuestring;
}

static void members_as_json(void **state)
{
	struct state *s = cluster();
	cleanup(json_freep) cJSON *node = NULL, *made = NULL, *one = NULL, *object = json_object();
	cleanup(freep) char *text = NULL;

	(void)state;
	assert_done(token(s, "w1", NODE_WORKER, 0xabcdef));
	assert_done(user(s, COMMAND_USER_CREATE, "ann", 3, 0));
	node = node_json(state_node(s, ID_1));
	assert_string_equal(text_at(node, "spec", "role"), "server");
	assert_string_equal(text_at(node, "spec", "vote"), "auto");
	assert_string_equal(text_at(node, "status", "raftAddress"), "10.0.0.1:7444");
	made = token_json(members_token(&s->members, "w1"), s);
	assert_string_equal(text_at(made, "spec", "role"), "worker");
	text = json_text(made);
	assert_null(strstr(text, "abcdef")); /* not even the hash */
	one = user_json(members_user(&s->members, "ann"));
	assert_string_equal(text_at(one, "spec", "role"), "operator");
	cluster_json_add(object, &s->members.cluster);
	assert_string_equal(cJSON_GetObjectItemCaseSensitive(object, "caFingerprint")->valuestring,
	                    ca);
	state_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_server_makes_the_cluster),
		cmocka_unit_test(a_static_cluster_has_no_members),
		cmocka_unit_test(tokens_are_for_one_node),
		cmocka_unit_test(joins_are_checked),
		cmocka_unit_test(tokens_end),
		cmocka_unit_test(workers_leave),
		cmocka_unit_test(servers_leave_when_the_log_let_them),
		cmocka_unit_test(nodes_are_set),
		cmocka_unit_test(people_come_and_go),
		cmocka_unit_test(denials_stay),
		cmocka_unit_test(nodes_speak_for_themselves),
		cmocka_unit_test(the_cluster_is_set),
		cmocka_unit_test(the_level_rises),
		cmocka_unit_test(the_audit_tells_who_did_what),
		cmocka_unit_test(the_chain_compares_servers),
		cmocka_unit_test(lists_are_bounded),
		cmocka_unit_test(addresses_are_checked),
		cmocka_unit_test(views_and_snapshots_hold_members),
		cmocka_unit_test(members_as_json),
	};

	return cmocka_run_group_tests_name("member", tests, NULL, NULL);
}
