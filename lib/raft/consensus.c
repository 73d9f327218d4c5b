/* The life of a consensus: see consensus.h.
 *
 * Happy path: open copies the configuration -> start locks the directory, lets libraft load it and
 * takes its place between libraft and raft_uv -> ticks and messages pass through on_tick and
 * on_message, after which a changed role is told -> close.
 *
 * Nothing queued is worked on inside the call that queued it: consensus_arm makes the loop run
 * on_turn in the check phase of the same iteration, and that is where batches and changes are
 * submitted, refusals delivered and the closing goes on. Closing: the thread pool is done with the
 * view and the disk -> raft_close (answers what is in flight) -> raft_uv_close -> the bound is
 * stored -> our handles -> free -> callback.
 *
 * Failure: consensus_fail tells it once; after that nothing is applied or answered until the close.
 */
#include "raft/internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <assert.h>
#include <inttypes.h>

#define CONNECT_RETRY_MS    150
#define INSTALL_SNAPSHOT_MS 10000
/* Of segments and snapshots that a full disk refused. A write that failed is never tried again:
 * 0.22 arms the wrong timer for it, and disk_tick comes first. */
#define DISK_RETRY_MS   2000u
#define CATCH_UP_MS     60000u
#define ADDRESS_UNKNOWN "-" /* libraft wants one; nobody is told it */

static struct consensus *consensus_of(struct raft_io *io)
{
	struct raft *raft = io->data;

	return raft->data;
}

void consensus_fail(struct consensus *c, const struct blix_error *err)
{
	if (c->failed)
		return;
	c->failed = true;
	c->error = *err;
	if (!c->starting && c->life == LIFE_RUNNING)
		c->config.fatal(c->config.fsm.data, &c->error);
}

enum blix_code consensus_code(int rc)
{
	if (rc == RAFT_NOSPACE)
		return BLIX_E_DISKFULL;
	if (rc == RAFT_CORRUPT || rc == RAFT_MALFORMED)
		return BLIX_E_CORRUPT;
	return rc == RAFT_NOMEM ? BLIX_E_NOMEM : BLIX_E_IO;
}

struct bound_identity consensus_identity(const struct consensus *c)
{
	return (struct bound_identity){
		.cluster = c->cluster,
		.id = c->config.id,
		.incarnation = c->config.incarnation,
	};
}

static enum consensus_role role_of(struct consensus *c)
{
	switch (raft_state(&c->raft)) {
	case RAFT_LEADER:
		return CONSENSUS_LEADER;
	case RAFT_CANDIDATE:
		return CONSENSUS_CANDIDATE;
	case RAFT_UNAVAILABLE:
	case RAFT_FOLLOWER:
		break;
	}
	return CONSENSUS_FOLLOWER;
}

static void note_role(struct consensus *c)
{
	enum consensus_role role;
	const char *address;
	raft_id leader = 0;

	if (!c->raft_open || c->life != LIFE_RUNNING)
		return;
	role = role_of(c);
	raft_leader(&c->raft, &leader, &address);
	if (leader != 0)
		c->told_leader = 0;
	else if (!member_is_member(c))
		leader = c->told_leader;
	if (role == c->role && leader == c->leader_id)
		return;
	if (role == CONSENSUS_LEADER && c->role != CONSENSUS_LEADER)
		c->lead_index = raft_last_index(&c->raft);
	c->role = role;
	c->leader_id = leader;
	consensus_arm(c);
	if (c->role_cb != NULL)
		c->role_cb(c->role_data, role, leader);
}

static void on_tick(struct raft_io *io)
{
	struct consensus *c = consensus_of(io);

	c->tick_cb(io);
	disk_tick(c);
	note_role(c);
	member_tick(c);
	if (!TAILQ_EMPTY(&c->queued) || !STAILQ_EMPTY(&c->waiting))
		consensus_arm(c);
}

static void on_message(struct raft_io *io, struct raft_message *message)
{
	struct consensus *c = consensus_of(io);

	member_heard(c, message);
	/* 0.22 crashes when a snapshot comes in while it takes its own, and leaks one that comes in
	 * while it installs another. The leader sends again. */
	if (message->type == RAFT_INSTALL_SNAPSHOT &&
	    (c->snapshot.bufs != NULL || c->raft.snapshot.installing)) {
		raft_configuration_close(&message->install_snapshot.conf);
		raft_free(message->install_snapshot.data.base);
		return;
	}
	c->recv_cb(io, message);
	note_role(c);
}

static int on_io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                       raft_io_recv_cb recv)
{
	struct consensus *c = consensus_of(io);

	c->tick_cb = tick;
	c->recv_cb = recv;
	return c->inner.start(io, msecs, on_tick, on_message);
}

static void handles_close(struct consensus *c);

/* One step of closing; it is taken again when what it waits for is done. */
static void on_raft_closed(struct raft *raft)
{
	struct consensus *c = raft->data;

	c->raft_open = false;
	consensus_arm(c);
}

static void close_step(struct consensus *c)
{
	bool busy = machine_busy(c);

	if (disk_busy(c) || busy)
		return;
	if (c->raft_open && !c->raft_closing) {
		c->raft_closing = true;
		raft_close(&c->raft, on_raft_closed);
		machine_cancel(c);
	}
	if (c->raft_open)
		return;
	if (c->io_open)
		raft_uv_close(&c->io);
	c->io_open = false;
	disk_done(c);
	handles_close(c);
}

static void on_turn(uv_check_t *check)
{
	struct consensus *c = check->data;

	(void)uv_idle_stop(&c->idle);
	(void)uv_check_stop(&c->check);
	note_role(c);
	if (c->failed && c->life == LIFE_RUNNING)
		return;
	propose_deliver(c);
	member_turn(c);
	propose_submit(c);
	if (c->life == LIFE_CLOSING)
		close_step(c);
}

static void on_idle(uv_idle_t *idle)
{
	(void)idle;
}

void consensus_arm(struct consensus *c)
{
	if (uv_is_closing((uv_handle_t *)&c->check))
		return;
	(void)uv_idle_start(&c->idle, on_idle);
	(void)uv_check_start(&c->check, on_turn);
}

static void consensus_free(struct consensus *c)
{
	for (size_t i = 0; i < c->config.n_members; i++) {
		free(c->members[i].name);
		free(c->members[i].address);
	}
	if (c->lock_fd >= 0)
		(void)close(c->lock_fd);
	member_done(c);
	free(c->members);
	free(c->address);
	free(c->cluster);
	free(c->dir);
	free(c);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct consensus *c = handle->data;
	void (*cb)(void *data) = c->close_cb;
	void *data = c->close_data;

	if (--c->n_handles > 0)
		return;
	while (!STAILQ_EMPTY(&c->refusals) || !STAILQ_EMPTY(&c->waiting) || member_pending(c)) {
		propose_deliver(c);
		member_turn(c);
		propose_submit(c);
	}
	consensus_free(c);
	cb(data);
}

static void handles_close(struct consensus *c)
{
	uv_close((uv_handle_t *)&c->idle, on_handle_closed);
	uv_close((uv_handle_t *)&c->check, on_handle_closed);
}

void consensus_close(struct consensus *c, void (*cb)(void *data), void *data)
{
	assert(c->life != LIFE_CLOSING);
	c->life = LIFE_CLOSING;
	c->role = CONSENSUS_FOLLOWER;
	c->leader_id = 0;
	c->close_cb = cb;
	c->close_data = data;
	consensus_arm(c);
}

static int config_check(const struct consensus_config *config, struct blix_error *err)
{
	bool listed = config->n_members == 0;

	if (config->id == 0)
		return blix_fail(err, BLIX_E_SPEC, "this server has no id");
	if (config->n_members == 0 && config->address == NULL)
		return blix_fail(err, BLIX_E_SPEC, "this server is to join and listens nowhere");
	if (strlen(config->cluster) > PEER_CLUSTER)
		return blix_fail(err, BLIX_E_SPEC, "cluster id is longer than %u bytes",
		                 PEER_CLUSTER);
	if (config->credentials != NULL &&
	    strcmp(credentials_own(config->credentials)->cluster, config->cluster) != 0)
		return blix_fail(err, BLIX_E_SPEC, "the TLS certificate is of another cluster");
	for (size_t i = 0; i < config->n_members; i++) {
		const struct consensus_member *member = &config->members[i];

		if (member->id == 0)
			return blix_fail(err, BLIX_E_SPEC, "server %s has no id", member->name);
		for (size_t j = 0; j < i; j++) {
			if (member->id == config->members[j].id ||
			    strcmp(member->address, config->members[j].address) == 0)
				return blix_fail(err, BLIX_E_SPEC,
				                 "servers %s and %s have the same id or address",
				                 config->members[j].name, member->name);
		}
		listed = listed || member->id == config->id;
	}
	if (!listed)
		return blix_fail(err, BLIX_E_SPEC,
		                 "server id %" PRIu64 " is not in the list of servers", config->id);
	return 0;
}

static void config_defaults(struct consensus_config *config)
{
	if (config->election_timeout_ms == 0)
		config->election_timeout_ms = 1000;
	if (config->heartbeat_ms == 0)
		config->heartbeat_ms = config->election_timeout_ms / 10;
	if (config->snapshot_threshold == 0)
		config->snapshot_threshold = 1024;
	if (config->snapshot_trailing == 0)
		config->snapshot_trailing = 512;
	if (config->reserve_bytes == 0)
		config->reserve_bytes = LIMIT_LOG_RESERVE;
}

/* Where this server listens. */
static const char *listen_address(const struct consensus_config *config)
{
	if (config->address != NULL || config->n_members == 1)
		return config->address;
	for (size_t i = 0; i < config->n_members; i++) {
		if (config->members[i].id == config->id)
			return config->members[i].address;
	}
	return NULL;
}

static void config_copy(struct consensus *c, const struct consensus_config *config)
{
	size_t n = config->n_members;

	c->config = *config;
	config_defaults(&c->config);
	c->dir = xstrdup(config->dir);
	c->cluster = xstrdup(config->cluster);
	xreplace(&c->address, listen_address(config));
	c->members = xcalloc(n == 0 ? 1 : n, sizeof(*c->members));
	for (size_t i = 0; i < n; i++) {
		c->members[i].id = config->members[i].id;
		xreplace(&c->members[i].name, config->members[i].name);
		xreplace(&c->members[i].address, config->members[i].address);
	}
	c->config.dir = c->dir;
	c->config.cluster = c->cluster;
	c->config.members = c->members;
	c->config.address = c->address;
}

int consensus_open(const struct consensus_config *config, struct consensus **ret,
                   struct blix_error *err)
{
	struct consensus *c;
	int rc = config_check(config, err);

	if (rc < 0)
		return rc;
	c = xcalloc(1, sizeof(*c));
	config_copy(c, config);
	c->lock_fd = -1;
	/* Not from 0: entries of an earlier life in the log must not match new batches. */
	c->sequence = random_id();
	TAILQ_INIT(&c->queued);
	TAILQ_INIT(&c->inflight);
	STAILQ_INIT(&c->refusals);
	STAILQ_INIT(&c->waiting);
	STAILQ_INIT(&c->reading);
	TAILQ_INIT(&c->disk_writes);
	member_init(c);
	c->bound.fd = -1;
	(void)uv_idle_init(config->loop, &c->idle);
	(void)uv_check_init(config->loop, &c->check);
	c->idle.data = c;
	c->check.data = c;
	c->n_handles = 2;
	*ret = c;
	return 0;
}

int consensus_failed(struct consensus *c, int rc, const char *what, struct blix_error *err)
{
	const char *why = c->raft.errmsg[0] != '\0' ? c->raft.errmsg : c->io.errmsg;

	if (c->failed || c->transport.error.code != BLIX_OK) {
		*err = c->failed ? c->error : c->transport.error;
		return -(int)err->code;
	}
	return blix_fail(err, consensus_code(rc), "%s raft log in %s: %s", what, c->dir,
	                 why[0] != '\0' ? why : raft_strerror(rc));
}

static int open_raft(struct consensus *c, struct blix_error *err)
{
	const struct consensus_config *config = &c->config;
	int rc;

	c->transport.loop = config->loop;
	c->transport.id = config->id;
	c->transport.address = c->address;
	c->transport.cluster = c->cluster;
	c->transport.find = member_find;
	c->transport.find_data = c;
	c->transport.credentials = config->credentials;
	c->transport.denied = config->denied;
	c->transport.denied_data = config->fsm.data;
	peer_init(&c->transport);
	rc = raft_uv_init(&c->io, config->loop, c->dir, &c->transport.base);
	if (rc != 0)
		return consensus_failed(c, rc, "open", err);
	c->io_open = true;
	raft_uv_set_tracer(&c->io, NULL);
	raft_uv_set_auto_recovery(&c->io, false);
	raft_uv_set_connect_retry_delay(&c->io, CONNECT_RETRY_MS);
	raft_uv_set_disk_retry(&c->io, DISK_RETRY_MS);
	disk_wrap(c);
	c->io.start = on_io_start;
	machine_init(c);
	c->raft.data = c;
	rc = raft_init(&c->raft, &c->io, &c->fsm, config->id,
	               c->address != NULL ? c->address : ADDRESS_UNKNOWN);
	if (rc != 0)
		return consensus_failed(c, rc, "open", err);
	c->raft_open = true;
	c->raft.tracer = NULL;
	raft_set_election_timeout(&c->raft, config->election_timeout_ms);
	raft_set_heartbeat_timeout(&c->raft, config->heartbeat_ms);
	raft_set_install_snapshot_timeout(&c->raft, INSTALL_SNAPSHOT_MS);
	raft_set_max_catch_up_round_duration(&c->raft, CATCH_UP_MS);
	raft_set_snapshot_threshold(&c->raft, config->snapshot_threshold);
	raft_set_snapshot_trailing(&c->raft, config->snapshot_trailing);
	raft_set_capacity_threshold(&c->raft, 0);
	raft_set_pre_vote(&c->raft, true);
	return 0;
}

/* Every server writes the same first entry; a directory that has one keeps it. */
static int bootstrap(struct consensus *c, struct blix_error *err)
{
	struct raft_configuration configuration;
	int rc = 0;

	raft_configuration_init(&configuration);
	for (size_t i = 0; i < c->config.n_members && rc == 0; i++)
		rc = raft_configuration_add(&configuration, c->members[i].id, c->members[i].address,
		                            RAFT_VOTER);
	if (rc == 0)
		rc = raft_bootstrap(&c->raft, &configuration);
	raft_configuration_close(&configuration);
	if (rc == 0 || rc == RAFT_CANTBOOTSTRAP)
		return 0;
	return consensus_failed(c, rc, "create", err);
}

int consensus_prepare(struct consensus *c, bool any_incarnation, bool *ret_found,
                      struct blix_error *err)
{
	cleanup(freep) char *lock = xasprintf("%s/lock", c->dir);
	int rc;

	assert(c->life == LIFE_OPEN);
	rc = file_make_dirs(c->dir, 0700, err);
	if (rc == 0)
		rc = file_lock(lock, &c->lock_fd, err);
	if (rc == 0)
		rc = disk_open(c, any_incarnation, ret_found, err);
	if (rc == 0)
		rc = open_raft(c, err);
	return rc;
}

static int start_raft(struct consensus *c, struct blix_error *err)
{
	bool found = false;
	int rc = consensus_prepare(c, false, &found, err);

	if (rc == 0 && c->config.n_members > 0)
		rc = bootstrap(c, err);
	if (rc < 0)
		return rc;
	rc = raft_start(&c->raft);
	if (rc != 0 || c->failed)
		return consensus_failed(c, rc, "load", err);
	if (c->raft.configuration.n == 0 && c->config.n_members > 0) {
		rc = blix_fail(err, BLIX_E_CORRUPT, "raft log in %s has no first entry", c->dir);
		blix_hint(err, "the first start was cut short: remove %s and start again", c->dir);
		return rc;
	}
	c->disk_index = raft_last_index(&c->raft);
	return disk_start(c, err);
}

int consensus_start(struct consensus *c, struct blix_error *err)
{
	int rc;

	c->starting = true;
	rc = start_raft(c, err);
	c->starting = false;
	if (rc < 0) {
		c->failed = true;
		return rc;
	}
	c->life = LIFE_RUNNING;
	consensus_arm(c);
	return 0;
}

void consensus_tell_leader(struct consensus *c, uint64_t id)
{
	c->told_leader = id;
	note_role(c);
}

void consensus_on_role(struct consensus *c,
                       void (*cb)(void *data, enum consensus_role role, uint64_t leader_id),
                       void *data)
{
	c->role_cb = cb;
	c->role_data = data;
}

void consensus_status(struct consensus *c, struct consensus_status *ret)
{
	struct consensus_status status = {
		.role = c->role,
		.id = c->config.id,
		.leader_id = c->leader_id,
	};

	if (c->raft_open) {
		status.term = raft_current_term(&c->raft);
		status.commit_index = raft_commit_index(&c->raft);
		status.applied_index = raft_last_applied(&c->raft);
		status.last_index = raft_last_index(&c->raft);
		status.n_members = c->raft.configuration.n;
		status.is_member = member_is_member(c);
		status.is_short = c->is_short;
		for (unsigned i = 0; i < c->raft.configuration.n; i++)
			status.n_voters += c->raft.configuration.servers[i].role == RAFT_VOTER;
	}
	*ret = status;
}

void consensus_recheck_peers(struct consensus *c)
{
	if (c->io_open && c->transport.secure != NULL)
		secure_recheck(c->transport.secure);
}
