/* Members: who they are, where they listen, and how that changes.
 *
 * The log's configuration says who is a member; libraft keeps it. Beside it stands a record of each
 * server that was heard of, for its address, the time of its last message and whether its disk is
 * full.
 *
 * Happy path of a change: consensus_change queues it -> on the loop's turn, when no other is under
 * way and none of an earlier leader is open, libraft gets it -> libraft's callback queues the
 * outcome -> the next turn tells it. Of a transfer: libraft gets it at once, its callback comes
 * when somebody else leads or an election timeout has passed.
 *
 * Failure: what libraft never took is for sure not done; what it took and gave up is unknown. A
 * promotion that is given up was never in the log. A leader that is short of disk space offers
 * leadership to a voter that is not, once per election timeout.
 */
#include "raft/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"

#include <assert.h>

static const struct raft_server *listed(const struct consensus *c, uint64_t id)
{
	if (!c->raft_open)
		return NULL;
	for (unsigned i = 0; i < c->raft.configuration.n; i++) {
		if (c->raft.configuration.servers[i].id == id)
			return &c->raft.configuration.servers[i];
	}
	return NULL;
}

static struct known *known_find(const struct consensus *c, uint64_t id)
{
	const struct membership *m = &c->membership;

	for (size_t i = 0; i < m->n_known; i++) {
		if (m->known[i]->peer.id == id)
			return m->known[i];
	}
	return NULL;
}

static struct known *known_add(struct consensus *c, uint64_t id)
{
	struct membership *m = &c->membership;
	struct known *known = known_find(c, id);

	if (known != NULL || m->n_known == LIMIT_PEERS)
		return known;
	known = xcalloc(1, sizeof(*known));
	known->peer.id = id;
	m->known = xreallocarray(m->known, m->n_known + 1, sizeof(struct known *));
	m->known[m->n_known++] = known;
	return known;
}

static const char *dial_address(const struct consensus *c, uint64_t id, const char *logged)
{
	const char *address = NULL;

	if (c->config.find_address != NULL)
		address = c->config.find_address(c->config.fsm.data, id);
	for (size_t i = 0; address == NULL && i < c->config.n_members; i++) {
		if (c->members[i].id == id)
			address = c->members[i].address;
	}
	return address != NULL ? address : logged;
}

const struct peer *member_find(void *data, uint64_t id, const char *address)
{
	struct consensus *c = data;
	const struct raft_server *server = listed(c, id);
	struct known *known = id == 0 ? NULL : known_add(c, id);
	const char *dial;

	if (known == NULL)
		return NULL;
	if (server != NULL)
		address = server->address;
	if (address != NULL && *address != '\0' &&
	    (known->peer.logged == NULL || strcmp(address, known->peer.logged) != 0))
		xreplace(&known->peer.logged, address);
	dial = dial_address(c, id, known->peer.logged);
	if (dial == NULL)
		return NULL;
	if (known->peer.logged == NULL)
		xreplace(&known->peer.logged, dial);
	if (known->peer.address == NULL || strcmp(dial, known->peer.address) != 0)
		xreplace(&known->peer.address, dial);
	return &known->peer;
}

/* Of a follower libraft applies a batch of entries with a change of members in it as if the change
 * were the batch's first entry: it would never count as committed, or be taken back wrongly. So a
 * message ends before a change that is not its first entry; the leader sends the rest again. */
static void split(struct raft_append_entries *append)
{
	for (unsigned i = 1; i < append->n_entries; i++) {
		if (append->entries[i].type == RAFT_CHANGE)
			append->n_entries = i;
	}
}

void member_heard(struct consensus *c, struct raft_message *message)
{
	struct known *known = known_find(c, message->server_id);

	if (message->type == RAFT_APPEND_ENTRIES)
		split(&message->append_entries);
	if (known == NULL)
		return;
	known->seen_ms = clock_boot_ms();
	if (message->type == RAFT_APPEND_ENTRIES_RESULT)
		known->is_short = message->append_entries_result.capacity == 0;
	else if (message->type == RAFT_REQUEST_VOTE_RESULT)
		known->is_short = message->request_vote_result.capacity == 0;
}

bool member_is_member(const struct consensus *c)
{
	const struct raft_server *own = listed(c, c->config.id);

	return own != NULL && own->role != RAFT_SPARE;
}

bool member_quorum_short(const struct consensus *c)
{
	size_t n = 0, n_short = 0;

	for (unsigned i = 0; i < c->raft.configuration.n; i++) {
		const struct raft_server *server = &c->raft.configuration.servers[i];
		const struct known *known = known_find(c, server->id);

		if (server->role != RAFT_VOTER)
			continue;
		n++;
		n_short +=
			server->id == c->config.id ? c->is_short : known != NULL && known->is_short;
	}
	return n - n_short <= n / 2;
}

static void outcome(struct consensus *c, struct change *change, int status)
{
	change->status = status;
	STAILQ_INSERT_TAIL(&c->membership.done, change, entry);
	consensus_arm(c);
}

static struct change *change_new(void (*cb)(void *data, int status), void *data)
{
	struct change *change = xcalloc(1, sizeof(*change));

	change->cb = cb;
	change->data = data;
	return change;
}

static size_t count_voters(const struct consensus *c)
{
	size_t n = 0;

	for (unsigned i = 0; i < c->raft.configuration.n; i++)
		n += c->raft.configuration.servers[i].role == RAFT_VOTER;
	return n;
}

static bool address_taken(const struct consensus *c, const char *address)
{
	for (unsigned i = 0; i < c->raft.configuration.n; i++) {
		if (strcmp(c->raft.configuration.servers[i].address, address) == 0)
			return true;
	}
	return false;
}

static int role_wanted(enum consensus_change_kind kind)
{
	if (kind == CONSENSUS_TO_VOTER)
		return RAFT_VOTER;
	return kind == CONSENSUS_TO_STANDBY ? RAFT_STANDBY : RAFT_SPARE;
}

#define GO 1 /* neither done nor refused: libraft is to do it */

static int judge(const struct consensus *c, const struct change *change)
{
	const struct consensus_change *what = &change->what;
	const struct raft_server *server;

	if (c->life != LIFE_RUNNING || c->failed || c->role != CONSENSUS_LEADER)
		return -BLIX_E_NOLEADER;
	server = listed(c, what->id);
	if (c->is_short || member_quorum_short(c))
		return -BLIX_E_DISKFULL;
	if (what->kind == CONSENSUS_ADD) {
		if (server != NULL)
			return 0;
		if (c->address == NULL)
			return -BLIX_E_REFUSED;
		return address_taken(c, change->address) ? -BLIX_E_EXISTS : GO;
	}
	if (server == NULL)
		return what->kind == CONSENSUS_REMOVE ? 0 : -BLIX_E_NOTFOUND;
	if (what->kind != CONSENSUS_REMOVE && server->role == role_wanted(what->kind))
		return 0;
	return server->role == RAFT_VOTER && count_voters(c) == 1 ? -BLIX_E_REFUSED : GO;
}

static void on_changed(struct raft_change *req, int status)
{
	struct consensus *c = req->data;

	if (status == RAFT_NOCONNECTION)
		status = -BLIX_E_TIMEOUT;
	else if (status != 0)
		status = -BLIX_E_UNKNOWN;
	outcome(c, take(c->membership.running), status);
}

static int submit(struct consensus *c, struct change *change)
{
	struct membership *m = &c->membership;
	uint64_t id = change->what.id;

	m->req = (struct raft_change){.data = c};
	if (change->what.kind == CONSENSUS_ADD)
		return raft_add(&c->raft, &m->req, id, change->address, on_changed);
	if (change->what.kind == CONSENSUS_REMOVE)
		return raft_remove(&c->raft, &m->req, id, on_changed);
	return raft_assign(&c->raft, &m->req, id, role_wanted(change->what.kind), on_changed);
}

/* An earlier leader's change, or a transfer, is waited for. False: there is nothing more to do. */
static bool change_next(struct consensus *c)
{
	struct membership *m = &c->membership;
	struct change *change = STAILQ_FIRST(&m->queued);
	struct blix_error err;
	int rc;

	if (change == NULL || m->running != NULL)
		return false;
	rc = judge(c, change);
	if (rc == GO && (m->transferring || c->raft.configuration_uncommitted_index != 0))
		return false;
	STAILQ_REMOVE_HEAD(&m->queued, entry);
	m->n_queued--;
	if (rc != GO) {
		outcome(c, change, rc);
		return true;
	}
	m->running = change;
	rc = submit(c, change);
	if (rc == 0)
		return false;
	m->running = NULL;
	outcome(c, change, rc == RAFT_NOTLEADER ? -BLIX_E_NOLEADER : -BLIX_E_UNKNOWN);
	if (rc == RAFT_NOTLEADER)
		return true;
	(void)blix_fail(&err, BLIX_E_IO, "change members: %s: %s", raft_strerror(rc),
	                c->raft.errmsg);
	consensus_fail(c, &err);
	return false;
}

void member_turn(struct consensus *c)
{
	struct changes own = STAILQ_HEAD_INITIALIZER(own);
	struct change *change;

	while (change_next(c))
		;
	STAILQ_CONCAT(&own, &c->membership.done);
	while ((change = STAILQ_FIRST(&own)) != NULL) {
		STAILQ_REMOVE_HEAD(&own, entry);
		if (change->cb != NULL)
			change->cb(change->data, change->status);
		free(change->address);
		free(change);
	}
}

bool member_pending(const struct consensus *c)
{
	return !STAILQ_EMPTY(&c->membership.queued) || !STAILQ_EMPTY(&c->membership.done);
}

void consensus_change(struct consensus *c, const struct consensus_change *change,
                      void (*cb)(void *data, int status), void *data)
{
	struct change *own = change_new(cb, data);

	assert(change->id != 0 && (change->kind != CONSENSUS_ADD || change->address != NULL));
	own->what = *change;
	if (change->kind == CONSENSUS_ADD)
		own->address = xstrdup(change->address);
	if (c->membership.n_queued >= LIMIT_RECONFIGS) {
		outcome(c, own, -BLIX_E_BUSY);
		return;
	}
	STAILQ_INSERT_TAIL(&c->membership.queued, own, entry);
	c->membership.n_queued++;
	consensus_arm(c);
}

/* The voter with most of the log, among those that answer and have room; 0: none. */
static uint64_t successor(const struct consensus *c)
{
	uint64_t best = 0, best_match = 0;

	for (unsigned i = 0; i < c->raft.configuration.n; i++) {
		const struct raft_server *server = &c->raft.configuration.servers[i];
		const struct known *known = known_find(c, server->id);
		raft_index match = 0;

		if (server->role != RAFT_VOTER || server->id == c->config.id || known == NULL ||
		    known->is_short ||
		    clock_boot_ms() - known->seen_ms > c->config.election_timeout_ms)
			continue;
		(void)raft_match_index(&c->raft, server->id, &match);
		if (best == 0 || match > best_match) {
			best = server->id;
			best_match = match;
		}
	}
	return best;
}

static void on_transferred(struct raft_transfer *req)
{
	struct consensus *c = req->data;
	struct membership *m = &c->membership;
	struct change *change = take(m->transfer_outcome);
	const char *address;
	raft_id leader = 0;
	int status = -BLIX_E_UNKNOWN;

	m->transferring = false;
	if (c->life == LIFE_RUNNING)
		raft_leader(&c->raft, &leader, &address);
	if (leader == req->id)
		status = 0;
	else if (leader == c->config.id)
		status = -BLIX_E_TIMEOUT;
	if (change != NULL)
		outcome(c, change, status);
}

static int transfer(struct consensus *c, uint64_t id)
{
	struct membership *m = &c->membership;
	int rc;

	if (c->life != LIFE_RUNNING || c->failed || c->role != CONSENSUS_LEADER)
		return -BLIX_E_NOLEADER;
	if (m->transferring)
		return -BLIX_E_BUSY;
	if (id == 0)
		return -BLIX_E_NOTFOUND;
	m->transfer = (struct raft_transfer){.data = c};
	rc = raft_transfer(&c->raft, &m->transfer, id, on_transferred);
	if (rc == RAFT_BADID || rc == RAFT_NOTFOUND)
		return -BLIX_E_NOTFOUND;
	if (rc != 0)
		return -BLIX_E_NOLEADER;
	m->transferring = true;
	return 0;
}

void consensus_transfer(struct consensus *c, uint64_t id, void (*cb)(void *data, int status),
                        void *data)
{
	struct change *change = change_new(cb, data);
	int rc;

	if (id == 0 && c->life == LIFE_RUNNING && c->role == CONSENSUS_LEADER)
		id = successor(c);
	rc = transfer(c, id);
	if (rc < 0)
		outcome(c, change, rc);
	else
		c->membership.transfer_outcome = change;
}

void member_tick(struct consensus *c)
{
	struct membership *m = &c->membership;
	uint64_t now = clock_boot_ms();

	if (!STAILQ_EMPTY(&m->queued))
		consensus_arm(c);
	if (!c->is_short || c->role != CONSENSUS_LEADER || m->transferring ||
	    now - m->handed_ms < c->config.election_timeout_ms)
		return;
	m->handed_ms = now;
	(void)transfer(c, successor(c));
}

static enum consensus_vote vote_of(int role)
{
	if (role == RAFT_VOTER)
		return CONSENSUS_VOTER;
	return role == RAFT_STANDBY ? CONSENSUS_STANDBY : CONSENSUS_SPARE;
}

static bool member_is_short(const struct consensus *c, uint64_t id)
{
	const struct known *known = known_find(c, id);

	return id == c->config.id ? c->is_short : known != NULL && known->is_short;
}

size_t consensus_members(struct consensus *c, struct consensus_peer *ret, size_t n)
{
	size_t n_members = c->raft_open ? c->raft.configuration.n : 0;

	for (size_t i = 0; i < n_members && i < n; i++) {
		const struct raft_server *server = &c->raft.configuration.servers[i];
		const struct peer *peer = member_find(c, server->id, server->address);
		uint64_t age = 0;

		ret[i] = (struct consensus_peer){
			.id = server->id,
			.address = peer != NULL ? peer->address : server->address,
			.vote = vote_of(server->role),
			.seen = consensus_peer_seen(c, server->id, &age),
			.seen_ms_ago = age,
			.is_short = member_is_short(c, server->id),
		};
	}
	return n_members;
}

bool consensus_peer_seen(const struct consensus *c, uint64_t id, uint64_t *ret_age_ms)
{
	const struct known *known = known_find(c, id);

	if (known == NULL || known->seen_ms == 0)
		return false;
	*ret_age_ms = clock_boot_ms() - known->seen_ms;
	return true;
}

void member_init(struct consensus *c)
{
	STAILQ_INIT(&c->membership.queued);
	STAILQ_INIT(&c->membership.done);
}

void member_done(struct consensus *c)
{
	struct membership *m = &c->membership;

	for (size_t i = 0; i < m->n_known; i++) {
		free(m->known[i]->peer.address);
		free(m->known[i]->peer.logged);
		free(m->known[i]);
	}
	free(m->known);
}
