/* Composition and life of one blixd: see daemon.h. The replicated state machine's callbacks are
 * here, since they are where the log meets everything else. */
#include "node/book.h"
#include "node/change.h"
#include "node/sources.h"
#include "node/stream.h"
#include "node/watch.h"

#include "base/alloc.h"
#include "exec/stray.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"
#include "tls/credentials.h"

#include <assert.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES   40
#define LOCK_WAIT_MS 25

/* The log cannot go on: say so once and leave; the supervisor starts the daemon again. */
static void on_fatal(void *data, const struct blix_error *err)
{
	struct daemon *d = data;

	log_error(LOG_CRIT, "raft.fatal", err, "node=%s", d->config->name);
	d->fatal(err);
}

static void fsm_begin(void *data, uint64_t index, const struct consensus_stamp *stamp)
{
	struct daemon *d = data;

	(void)index;
	metrics_entry(d->metrics, stamp->wall_ms);
	state_begin(d->state, stamp->elapsed_ms, stamp->wall_ms);
}

/* For watches: which VMs this command was about. One about a node may change all of its VMs. */
static void note_changes(struct daemon *d, enum command_kind kind, uint64_t uid)
{
	const struct state *state = d->state;
	bool noted = false;

	if (kind <= COMMAND_VM_REPORT || kind == COMMAND_VM_UPDATE || kind == COMMAND_VM_SET ||
	    kind == COMMAND_VM_UPDATE_DUE || kind == COMMAND_GENERATION_DROP) {
		changes_note(d->changes, state->revision, uid);
		return;
	}
	for (size_t i = 0; i < state->n_vms; i++) {
		if (state->vms[i]->revision != state->revision)
			continue;
		changes_note(d->changes, state->revision, state->vms[i]->uid);
		noted = true;
	}
	if (!noted)
		changes_note(d->changes, state->revision, 0);
}

static void fsm_apply(void *data, const uint8_t *bytes, size_t n, struct command_result *ret)
{
	struct daemon *d = data;
	struct metrics_before before;
	struct command command;
	struct blix_error err;
	uint64_t revision = d->state->revision;
	enum command_kind kind;

	if (command_decode(bytes, n, &command, &err) < 0)
		on_fatal(d, &err); /* an older binary must not guess */
	metrics_before(d->state, &command, &before);
	state_apply(d->state, &command, ret);
	metrics_after(d->metrics, d->state, &before);
	kind = command.kind;
	command_done(&command);
	if (d->state->revision > revision)
		note_changes(d, kind, ret->uid);
	d->changed = true;
}

static void fsm_end(void *data)
{
	(void)data; /* uv_check tells of the whole turn's entries at once */
}

static void *fsm_view(void *data)
{
	return state_view(((struct daemon *)data)->state);
}

static int fsm_encode(const void *view, struct buf *out)
{
	return state_encode(view, out, NULL);
}

static void fsm_release(void *data, void *view)
{
	(void)data;
	state_view_free(view);
}

static int fsm_restore(void *data, const uint8_t *bytes, size_t n, uint64_t index,
                       struct blix_error *err)
{
	struct daemon *d = data;
	int rc;

	(void)index;
	d->changed = true;
	rc = state_decode(d->state, bytes, n, err);
	changes_forget(d->changes, d->state->revision);
	return rc;
}

static void on_role(void *data, enum consensus_role role, uint64_t leader_id)
{
	struct daemon *d = data;

	if (d->leader_id != 0 && leader_id == 0)
		d->leader_lost_ms = clock_boot_ms();
	if (role != d->role || leader_id != d->leader_id)
		log_event(LOG_NOTICE, "raft.role", "node=%s role=%s leader=%" PRIu64,
		          d->config->name,
		          role == CONSENSUS_LEADER      ? "leader"
		          : role == CONSENSUS_CANDIDATE ? "candidate"
		                                        : "follower",
		          leader_id);
	d->role = role;
	d->leader_id = leader_id;
	if (d->closing)
		return;
	duties_role(d);
	d->changed = true; /* those who wait may want another answer now */
}

static void on_space(void *data, bool is_short, uint64_t free_bytes)
{
	struct daemon *d = data;

	if (is_short)
		log_event(LOG_ERR, "raft.disk.full", "node=%s free=%" PRIu64, d->config->name,
		          free_bytes);
	else
		log_event(LOG_NOTICE, "raft.disk.roomy", "node=%s free=%" PRIu64, d->config->name,
		          free_bytes);
}

/* Once per turn of the loop, after its I/O. */
static void on_turn(uv_check_t *check)
{
	struct daemon *d = check->data;

	if (!d->changed || d->closing)
		return;
	d->changed = false;
	duties_changed(d);
	node_executor_wake(d->executor);
	daemon_wake_waits(d);
	watches_changed(d);
}

static void on_tick(uv_timer_t *timer)
{
	struct daemon *d = timer->data;

	duties_tick(d);
	if (!d->closing)
		sources_tick(d->sources);
}

static void on_accel(void *data, const char *accel)
{
	struct daemon *d = data;

	d->probe = NULL;
	xreplace(&d->facts.accel, accel);
	log_event(LOG_INFO, "node.accel", "node=%s accel=%s", d->config->name, accel);
	duties_role(d);
}

/* Until the toy has booted, or not, a runner decides for itself. */
static const char *executor_accel(void *data)
{
	return ((struct daemon *)data)->facts.accel;
}

static int executor_propose(void *data, const struct command *command,
                            void (*cb)(void *cb_data, int status,
                                       const struct command_result *result),
                            void *cb_data)
{
	daemon_propose(data, command, cb, cb_data);
	return 0;
}

static struct consensus_config consensus_config(struct daemon *d)
{
	const struct config *config = d->config;

	return (struct consensus_config){
		.loop = d->loop,
		.cluster = config->cluster,
		.id = config->id,
		.election_timeout_ms = config->election_timeout_ms,
		.heartbeat_ms = config->heartbeat_ms,
		.fsm = {.data = d,
	                .begin = fsm_begin,
	                .apply = fsm_apply,
	                .end = fsm_end,
	                .snapshot_view = fsm_view,
	                .snapshot_encode = fsm_encode,
	                .snapshot_release = fsm_release,
	                .restore = fsm_restore},
		.space = on_space,
		.fatal = on_fatal,
	};
}

/* The servers of the configuration. */
static int open_listed(struct daemon *d, struct blix_error *err)
{
	const struct config *config = d->config;
	cleanup(freep) char *dir = xasprintf("%s/raft", config->state_dir);
	cleanup(freep) struct consensus_member *members =
		xcalloc(config->n_servers, sizeof(*members));
	struct consensus_config raft = consensus_config(d);

	raft.dir = dir;
	raft.members = members;
	raft.n_members = config->n_servers;
	for (size_t i = 0; i < config->n_servers; i++)
		members[i] = (struct consensus_member){.id = config->servers[i].id,
		                                       .name = config->servers[i].name,
		                                       .address = config->servers[i].raft};
	return consensus_open(&raft, &d->consensus, err);
}

/* A cluster with members: the log says who they are, and its first configuration is the node that
 * made it. */
static int open_managed(struct daemon *d, struct blix_error *err)
{
	const struct node_identity *identity = &d->identity;
	cleanup(freep) char *dir = xasprintf("%s/raft", d->config->state_dir);
	char address[JOIN_ADDRESS];
	struct consensus_member self = {
		.id = identity->node, .name = d->config->name, .address = address};
	struct consensus_config raft = consensus_config(d);
	int rc = node_identity_raft_address(identity->advertise, address, err);

	if (rc < 0)
		return rc;
	raft.dir = dir;
	raft.incarnation = identity->incarnation;
	raft.members = &self;
	raft.n_members = identity->log == IDENTITY_LOG_FIRST;
	raft.address = address;
	raft.find_address = book_raft;
	raft.credentials = d->credentials;
	raft.denied = book_denied;
	return consensus_open(&raft, &d->consensus, err);
}

static int open_api(struct daemon *d, struct blix_error *err)
{
	struct http_config http = {
		.socket_path = d->config->socket,
		.mode = 0660,
		.group = config_group(d->config),
		.routes = api_routes,
		.n = api_n_routes,
		.data = d,
		.allow = api_allow,
		.body_file = api_body_file,
		.answering = api_answering,
	};

	return http_server_open(d->loop, &http, &d->http, err);
}

static int open_executor(struct daemon *d, struct blix_error *err)
{
	struct node_executor_config executor = {
		.loop = d->loop,
		.config = d->config,
		.supervisor = d->supervisor,
		.node = d->config->id,
		.cluster = d->config->cluster,
		.state = d->state,
		.propose = executor_propose,
		.data = d,
		.accel = executor_accel,
		.sources = d->sources,
	};

	return node_executor_open(&executor, &d->executor, err);
}

static size_t source_servers(const void *data, uint64_t *ret, size_t n)
{
	return daemon_servers(data, ret, n);
}

static const struct config_server *source_server(const void *data, uint64_t id)
{
	return daemon_server(data, id);
}

static int open_sources(struct daemon *d, struct blix_error *err)
{
	const struct sources_config sources = {.loop = d->loop,
	                                       .config = d->config,
	                                       .servers = source_servers,
	                                       .server = source_server,
	                                       .data = d,
	                                       .state = d->state,
	                                       .fetch = d->fetch};

	return sources_open(&sources, &d->sources, err);
}

/* What others must know to reach this node is a fact of it. */
static void take_identity(struct daemon *d)
{
	char raft[JOIN_ADDRESS] = "";

	d->identity = *d->config->identity;
	(void)node_identity_raft_address(d->identity.advertise, raft, NULL); /* it was checked */
	xreplace(&d->facts.addresses, d->identity.advertise);
	xreplace(&d->facts.raft, raft);
}

struct daemon *daemon_open(uv_loop_t *loop, const struct config *config,
                           void (*fatal)(const struct blix_error *err))
{
	struct daemon *d = xcalloc(1, sizeof(*d));

	d->loop = loop;
	d->fatal = fatal;
	d->config = config;
	d->lock_fd = -1;
	STAILQ_INIT(&d->reads_waiting);
	STAILQ_INIT(&d->reads_asked);
	LIST_INIT(&d->watchers);
	d->changes = xcalloc(1, sizeof(*d->changes));
	d->state = state_new();
	d->metrics = metrics_new(config->id, clock_wall_ms());
	d->actions = xcalloc(1, sizeof(*d->actions));
	d->leader_lost_ms = clock_boot_ms();
	leader_init(&d->leader, duties_grace_ms(config), config->keep,
	            config->keep_days * 86400000ULL);
	d->found = xcalloc(1, sizeof(*d->found));
	probe_facts(config, &d->facts);
	if (config->identity != NULL)
		take_identity(d);
	(void)uv_timer_init(loop, &d->wait_timer);
	(void)uv_check_init(loop, &d->turn);
	(void)uv_timer_init(loop, &d->tick);
	stall_start(&d->stall, loop);
	d->wait_timer.data = d->turn.data = d->tick.data = d;
	return d;
}

/* A blixd that was killed while it started a child leaves its lock to that child until the child's
 * exec has closed it: a moment's patience. */
int daemon_lock(const struct config *config, int *ret_fd, struct blix_error *err)
{
	cleanup(freep) char *path = xasprintf("%s/lock", config->state_dir);
	int rc = file_lock(path, ret_fd, err);

	for (unsigned i = 0; i < LOCK_TRIES && rc == -BLIX_E_BUSY; i++) {
		(void)poll(NULL, 0, LOCK_WAIT_MS);
		rc = file_lock(path, ret_fd, err);
	}
	if (rc < 0)
		blix_hint(err, "another blixd uses this state directory");
	return rc;
}

/* What a killed blixd had started has lost its deadline: it ends before anything begins that might
 * do the same beside it. What does not even die is left behind with a word. */
static void end_strays(const struct daemon *d)
{
	struct blix_error err;
	unsigned n = 0;
	int rc = strays_end(d->config->state_dir, &n, &err);

	if (n > 0)
		log_event(LOG_NOTICE, "node.strays.ended", "node=%s processes=%u", d->config->name,
		          n);
	if (rc < 0)
		log_error(LOG_WARNING, "node.strays.failed", &err, "node=%s", d->config->name);
}

int daemon_start(struct daemon *d, struct blix_error *err)
{
	struct blix_error ignored;
	int rc;

	if ((rc = daemon_lock(d->config, &d->lock_fd, err)) < 0)
		return rc;
	end_strays(d);
	if ((rc = supervisor_choose(d->config, &d->supervisor, err)) < 0)
		return rc;
	xreplace(&d->facts.supervision, d->supervisor->name);
	if ((rc = fetch_pool_open(d->loop, &d->fetch, err)) < 0 ||
	    (rc = daemon_credentials(d, err)) < 0 ||
	    (rc = d->config->identity != NULL ? open_managed(d, err) : open_listed(d, err)) < 0)
		return rc;
	consensus_on_role(d->consensus, on_role, d);
	if ((rc = open_sources(d, err)) < 0 || (rc = open_executor(d, err)) < 0 ||
	    (rc = consensus_start(d->consensus, err)) < 0 || (rc = open_api(d, err)) < 0 ||
	    (rc = daemon_secure(d, err)) < 0)
		return rc;
	(void)uv_check_start(&d->turn, on_turn);
	(void)uv_timer_start(&d->tick, on_tick, 100, duties_grace_ms(d->config) / 2);
	if (probe_start(d->loop, d->config, on_accel, d, &d->probe, &ignored) < 0)
		on_accel(d, "tcg");
	log_event(LOG_NOTICE, "node.started", "node=%s socket=%s servers=%zu", d->config->name,
	          d->config->socket, d->config->n_servers);
	return 0;
}

static void handle_closed(uv_handle_t *handle)
{
	struct daemon *d = handle->data;

	if (--d->open_handles > 0)
		return;
	state_free(d->state);
	metrics_free(d->metrics);
	book_clear(d->found);
	free(d->found);
	node_facts_done(&d->facts);
	credentials_free(d->credentials);
	free(d->guards);
	free(d->actions);
	free(d->changes);
	if (d->lock_fd >= 0)
		(void)close(d->lock_fd);
	if (d->close_cb != NULL)
		d->close_cb(d->close_data);
	free(d);
}

static void close_handles(void *data)
{
	struct daemon *d = data;

	d->consensus = NULL;
	d->open_handles = 4;
	uv_close((uv_handle_t *)&d->wait_timer, handle_closed);
	uv_close((uv_handle_t *)&d->turn, handle_closed);
	uv_close((uv_handle_t *)&d->tick, handle_closed);
	stall_close(&d->stall, handle_closed, d);
}

static void close_consensus(void *data)
{
	struct daemon *d = data;

	d->fetch = NULL;
	if (d->consensus != NULL)
		consensus_close(d->consensus, close_handles, d);
	else
		close_handles(d);
}

static void close_fetch(void *data)
{
	struct daemon *d = data;

	d->sources = NULL;
	if (d->fetch != NULL)
		fetch_pool_close(d->fetch, close_consensus, d);
	else
		close_consensus(d);
}

static void close_sources(void *data)
{
	struct daemon *d = data;

	d->http = NULL;
	daemon_drop_waits(d); /* those that the server's close has cancelled */
	if (d->sources != NULL)
		sources_close(d->sources, close_fetch, d);
	else
		close_fetch(d);
}

static void close_http(void *data)
{
	struct daemon *d = data;

	d->executor = NULL;
	daemon_drop_waits(d);
	watches_close(d);
	streams_close(d);
	if (d->http != NULL)
		http_server_close(d->http, close_sources, d);
	else
		close_sources(d);
}

/* In the reverse order of start: who uses is closed before what it uses. */
void daemon_close(struct daemon *d, void (*cb)(void *data), void *data)
{
	assert(!d->closing);
	d->closing = true;
	d->close_cb = cb;
	d->close_data = data;
	if (d->probe != NULL)
		probe_cancel(d->probe);
	if (d->executor != NULL)
		node_executor_close(d->executor, close_http, d);
	else
		close_http(d);
}
