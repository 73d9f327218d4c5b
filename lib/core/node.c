/* Nodes: what a host has, and what of it may be given to VMs. */
#include "core/node.h"

#include "base/alloc.h"
#include "base/parse.h"

#include <assert.h>

const char *node_phase_name(enum node_phase phase)
{
	static const char *const names[NODE_PHASE_COUNT] = {
		[NODE_READY] = "Ready",
		[NODE_OFFLINE] = "Offline",
		[NODE_JOINING] = "Joining",
		[NODE_MAINTENANCE] = "Maintenance",
	};

	assert((unsigned)phase < NODE_PHASE_COUNT);
	return names[phase];
}

static const char *const roles[NODE_ROLE_COUNT] = {"server", "worker"};
static const char *const votes[NODE_VOTE_COUNT] = {"auto", "voter", "standby"};

const char *node_role_name(enum node_role role)
{
	assert((unsigned)role < NODE_ROLE_COUNT);
	return roles[role];
}

const char *node_vote_name(enum node_vote vote)
{
	assert((unsigned)vote < NODE_VOTE_COUNT);
	return votes[vote];
}

int node_role_parse(const char *text, enum node_role *ret, struct blix_error *err)
{
	for (unsigned i = 0; i < NODE_ROLE_COUNT; i++) {
		if (strcmp(roles[i], text) == 0) {
			*ret = (enum node_role)i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_INVALID, "role must be server or worker");
}

int node_vote_parse(const char *text, enum node_vote *ret, struct blix_error *err)
{
	for (unsigned i = 0; i < NODE_VOTE_COUNT; i++) {
		if (strcmp(votes[i], text) == 0) {
			*ret = (enum node_vote)i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_INVALID, "vote must be auto, voter or standby");
}

bool node_is_up(const struct node *node)
{
	return node->phase == NODE_READY || node->phase == NODE_MAINTENANCE;
}

bool node_takes_work(const struct node *node)
{
	return node->phase == NODE_READY && node->schedulable && !node->leaving;
}

int node_address_check(const char *address, size_t n, struct blix_error *err)
{
	cleanup(freep) char *text = xstrndup(address, n < LIMIT_ADDRESSES ? n : LIMIT_ADDRESSES);
	char host[PARSE_HOST] = "";
	uint16_t port = 0;
	bool good = n > 0 && n <= LIMIT_ADDRESSES;

	if (good &&
	    text[0] != '/') { /* to be reached, not to be listened on: nothing is left out */
		good = parse_address(text, host, &port, NULL) == 0 && host[0] != '\0' &&
		       host[0] != '-' && port != 0;
	} else {
		for (size_t i = 0; good && i < n; i++)
			good = text[i] > ' ' && text[i] < 0x7f;
	}
	if (good)
		return 0;
	return blix_fail(err, BLIX_E_INVALID, "'%.128s' is not an address like HOST:PORT", text);
}

int node_facts_check(const struct node_facts *facts, struct blix_error *err)
{
	const char *p = facts->addresses;
	int rc;

	while (*p != '\0') {
		size_t n = strcspn(p, " ");

		if ((rc = node_address_check(p, n, err)) < 0)
			return rc;
		p += n + (p[n] == ' ');
	}
	if (facts->raft[0] != '\0')
		return node_address_check(facts->raft, strlen(facts->raft), err);
	return 0;
}

static uint64_t usable(uint64_t have, uint64_t reserved, uint32_t per_cent)
{
	return have > reserved ? (have - reserved) / 100 * per_cent +
	                                 (have - reserved) % 100 * per_cent / 100
	                       : 0;
}

uint64_t node_usable_cpus(const struct node *node)
{
	return usable(node->facts.cpus, node->facts.reserved_cpus, node->facts.overcommit_cpu);
}

uint64_t node_usable_bytes(const struct node *node)
{
	return usable(node->facts.memory_bytes, node->facts.reserved_bytes,
	              node->facts.overcommit_memory);
}

bool node_has_hypervisor(const struct node *node, const char *hypervisor)
{
	size_t n = strlen(hypervisor);

	for (const char *p = node->facts.hypervisors; *p != '\0';) {
		size_t word = strcspn(p, " ");

		if (word == n && strncmp(p, hypervisor, n) == 0)
			return true;
		p += word + (p[word] == ' ');
	}
	return false;
}

void node_facts_init(struct node_facts *facts)
{
	memset(facts, 0, sizeof(*facts));
	facts->overcommit_cpu = facts->overcommit_memory = 100;
	facts->hypervisors = xstrdup("");
	facts->accel = xstrdup("");
	facts->supervision = xstrdup("");
	facts->microvm_command = xstrdup("");
	facts->version = xstrdup("");
	facts->boot_id = xstrdup("");
	facts->addresses = xstrdup("");
	facts->raft = xstrdup("");
}

void node_facts_done(struct node_facts *facts)
{
	free(facts->hypervisors);
	free(facts->accel);
	free(facts->supervision);
	free(facts->microvm_command);
	free(facts->version);
	free(facts->boot_id);
	free(facts->addresses);
	free(facts->raft);
	memset(facts, 0, sizeof(*facts));
}

void node_facts_copy(struct node_facts *to, const struct node_facts *from)
{
	*to = *from;
	to->hypervisors = xstrdup(from->hypervisors);
	to->accel = xstrdup(from->accel);
	to->supervision = xstrdup(from->supervision);
	to->microvm_command = xstrdup(from->microvm_command);
	to->version = xstrdup(from->version);
	to->boot_id = xstrdup(from->boot_id);
	to->addresses = xstrdup(from->addresses);
	to->raft = xstrdup(from->raft);
}

bool node_facts_equal(const struct node_facts *a, const struct node_facts *b)
{
	return a->cpus == b->cpus && a->memory_bytes == b->memory_bytes &&
	       a->reserved_cpus == b->reserved_cpus && a->reserved_bytes == b->reserved_bytes &&
	       a->overcommit_cpu == b->overcommit_cpu &&
	       a->overcommit_memory == b->overcommit_memory && a->builds_max == b->builds_max &&
	       strcmp(a->hypervisors, b->hypervisors) == 0 && strcmp(a->accel, b->accel) == 0 &&
	       strcmp(a->supervision, b->supervision) == 0 &&
	       strcmp(a->microvm_command, b->microvm_command) == 0 &&
	       strcmp(a->version, b->version) == 0 && strcmp(a->boot_id, b->boot_id) == 0 &&
	       strcmp(a->addresses, b->addresses) == 0 && strcmp(a->raft, b->raft) == 0 &&
	       a->features == b->features;
}

struct node *node_new(void)
{
	struct node *node = xcalloc(1, sizeof(*node));

	node->refs = 1;
	node->version = 1;
	node->schedulable = true;
	node_facts_init(&node->facts);
	return node;
}

struct node *node_ref(struct node *node)
{
	node->refs++;
	return node;
}

void node_unref(struct node *node)
{
	if (node == NULL || --node->refs > 0)
		return;
	node_facts_done(&node->facts);
	free(node);
}

struct node *node_own(struct node **slot)
{
	struct node *old = *slot, *copy;

	if (old->refs == 1)
		return old;
	copy = xcalloc(1, sizeof(*copy));
	*copy = *old;
	copy->refs = 1;
	node_facts_copy(&copy->facts, &old->facts);
	node_unref(old);
	*slot = copy;
	return copy;
}
