/* The state as bytes, for snapshots and for the hash that replicas compare.
 *
 * Everything is written in the order of its sorted array; sums that can be derived are not written
 * but counted again when read. A snapshot that does not decode to its last byte is refused whole.
 */
#include "core/codec.h"
#include "core/generation.h"
#include "core/member_codec.h"
#include "core/object_codec.h"
#include "core/state_internal.h"

#include "base/alloc.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SNAPSHOT_MAGIC   0x58494c42u /* "BLIX" */
#define SNAPSHOT_VERSION 4u
#define HASH_PIECE       (64u << 10) /* bytes that are hashed at once, while they are in the cache */

static void put_result(struct buf *out, const struct command_result *r)
{
	put_u32(out, r->code);
	put_u32(out, r->why);
	put_u64(out, r->revision);
	put_u64(out, r->uid);
}

static void put_session(struct buf *out, const struct session *session)
{
	put_u64(out, session->id);
	put_u64(out, session->last);
	put_u64(out, session->used_ms);
	put_u32(out, session->n);
	for (uint32_t i = 0; i < session->n; i++) {
		put_result(out, &session->results[i].result);
		put_u64(out, session->results[i].digest);
	}
}

static void put_event(struct buf *out, const struct event *event)
{
	put_u64(out, event->revision);
	put_u64(out, event->clock_ms);
	put_u64(out, event->uid);
	put_string(out, event->kind);
	put_string(out, event->name);
	put_string(out, event->reason);
	put_string(out, event->message);
}

static void put_members(struct buf *out, const struct members *m)
{
	put_cluster(out, &m->cluster);
	put_u32(out, (uint32_t)m->n_tokens);
	for (size_t i = 0; i < m->n_tokens; i++)
		put_token(out, &m->tokens[i]);
	put_u32(out, (uint32_t)m->n_users);
	for (size_t i = 0; i < m->n_users; i++)
		put_user(out, &m->users[i]);
	put_u32(out, (uint32_t)m->denied.n);
	for (size_t i = 0; i < m->denied.n; i++)
		put_string(out, m->denied.items[i].text);
	put_id_set(out, &m->denied_nodes);
	put_id_set(out, &m->left);
}

static void put_audit(struct buf *out, const struct audit *audit)
{
	put_u64(out, audit->sequence);
	put_u64(out, audit->base);
	put_u32(out, (uint32_t)audit->n);
	for (size_t i = 0; i < audit->n; i++)
		put_audit_record(out, audit_at(audit, i));
}

static void put_chain(struct buf *out, const struct state_chain *chain)
{
	put_u64(out, chain->value);
	put_u64(out, chain->count);
	for (size_t i = 0; i < STATE_CHAIN_MARKS; i++)
		put_u64(out, chain->marks[i]);
}

static void drain(struct buf *out, XXH3_state_t *hash)
{
	if (hash == NULL || out->len < HASH_PIECE || buf_failed(out))
		return;
	(void)XXH3_64bits_update(hash, out->data, out->len);
	buf_clear(out);
}

/* Writes everything; `hash` takes it piece by piece, so that not all of it is in memory at once. */
static void put_state(struct buf *out, const struct state *s, XXH3_state_t *hash)
{
	put_u32(out, SNAPSHOT_MAGIC);
	put_u32(out, SNAPSHOT_VERSION);
	put_u64(out, s->revision);
	put_u64(out, s->clock_ms);
	put_u64(out, s->clock_jump_ms);
	put_u32(out, (uint32_t)s->n_nodes);
	for (size_t i = 0; i < s->n_nodes; i++)
		put_node(out, s->nodes[i]);
	put_u32(out, (uint32_t)s->n_locks);
	for (size_t i = 0; i < s->n_locks; i++, drain(out, hash))
		put_string(out, s->locks[i]->text);
	put_u32(out, (uint32_t)s->n_vms);
	for (size_t i = 0; i < s->n_vms; i++, drain(out, hash))
		put_vm(out, s->vms[i]);
	put_u32(out, (uint32_t)s->n_sessions);
	for (size_t i = 0; i < s->n_sessions; i++, drain(out, hash))
		put_session(out, s->sessions[i]);
	put_u32(out, (uint32_t)s->n_events);
	for (size_t i = 0; i < s->n_events; i++)
		put_event(out, state_event(s, i));
	drain(out, hash);
	put_members(out, &s->members);
	put_audit(out, &s->audit);
	put_chain(out, &s->chain);
}

int state_encode(const struct state *s, struct buf *out, struct blix_error *err)
{
	put_state(out, s, NULL);
	if (buf_failed(out))
		return blix_fail(err, BLIX_E_TOOBIG, "the state is larger than a snapshot may be");
	return 0;
}

uint64_t state_hash(const struct state *s)
{
	cleanup(buf_done) struct buf bytes;
	XXH3_state_t hash;

	(void)XXH3_64bits_reset(&hash);
	buf_init(&bytes, LIMIT_SNAPSHOT);
	put_state(&bytes, s, &hash);
	if (buf_failed(&bytes))
		abort();
	(void)XXH3_64bits_update(&hash, bytes.data, bytes.len);
	return XXH3_64bits_digest(&hash);
}

static void get_nodes(struct codec *in, struct state *s)
{
	uint32_t n = get_enum(in, LIMIT_NODES + 1);
	size_t size = 0;

	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct node *node = get_node(in);

		if (s->n_nodes > 0 && s->nodes[s->n_nodes - 1]->id >= node->id)
			in->failed = true;
		state_insert((void ***)(void *)&s->nodes, &s->n_nodes, &size, s->n_nodes, node);
	}
}

static void get_locks(struct codec *in, struct state *s)
{
	uint32_t n = get_enum(in, LIMIT_VMS + 1);

	for (uint32_t i = 0; i < n && !in->failed; i++) {
		cleanup(freep) char *text = get_string(in, LIMIT_LOCK);
		bool found = state_lock(s, state_lock_add(s, text, strlen(text))) != NULL;

		if (!found)
			in->failed = true;
	}
	for (size_t i = 0; i < s->n_locks; i++)
		s->locks[i]->users = 0; /* counted again by the generations */
}

static void count_lock(struct codec *in, struct state *s, uint64_t lock)
{
	const char *text = state_lock(s, lock);

	if (lock == 0)
		return;
	if (text == NULL)
		in->failed = true;
	else
		(void)state_lock_add(s, text, strlen(text));
}

static void get_vms(struct codec *in, struct state *s)
{
	uint32_t n = get_enum(in, LIMIT_VMS + 1);

	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct vm *vm = get_vm(in);
		uint64_t revision = vm->revision;

		if (in->failed || state_vm(s, vm->name) != NULL ||
		    state_vm_uid(s, vm->uid) != NULL) {
			in->failed = true;
			vm_unref(vm);
			return;
		}
		for (uint32_t k = 0; k < vm->n_generations; k++)
			count_lock(in, s, vm->generations[k].resolved.lock);
		state_add_vm(s, vm);
		vm->revision = revision;
	}
}

static void get_result(struct codec *in, struct command_result *r)
{
	r->code = (enum blix_code)get_enum(in, BLIX_CODE_COUNT);
	r->why = get_enum(in, REFUSAL_COUNT);
	r->revision = get_u64(in);
	r->uid = get_u64(in);
}

static void get_sessions(struct codec *in, struct state *s)
{
	uint32_t n = get_enum(in, LIMIT_SESSIONS + 1);

	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct session *session = xcalloc(1, sizeof(*session));

		session->refs = 1;
		session->id = get_u64(in);
		session->last = get_u64(in);
		session->used_ms = get_u64(in);
		session->n = session->size = get_enum(in, LIMIT_RESULTS + 1);
		session->results = xcalloc(session->n, sizeof(*session->results));
		for (uint32_t k = 0; k < session->n; k++) {
			get_result(in, &session->results[k].result);
			session->results[k].digest = get_u64(in);
		}
		if (s->n_sessions > 0 && s->sessions[s->n_sessions - 1]->id >= session->id)
			in->failed = true;
		state_insert((void ***)(void *)&s->sessions, &s->n_sessions, &s->size_sessions,
		             s->n_sessions, session);
	}
}

static void get_events(struct codec *in, struct state *s)
{
	uint32_t n = get_enum(in, LIMIT_EVENTS + 1);

	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct event event;

		memset(&event, 0, sizeof(event));
		event.revision = get_u64(in);
		event.clock_ms = get_u64(in);
		event.uid = get_u64(in);
		get_name(in, event.kind, sizeof(event.kind));
		get_name(in, event.name, sizeof(event.name));
		get_name(in, event.reason, sizeof(event.reason));
		get_name(in, event.message, sizeof(event.message));
		state_emit(s, "", 0, "", "", "");
		s->events[(s->first_event + s->n_events - 1) % s->size_events] = event;
	}
}

static void get_members(struct codec *in, struct members *m)
{
	uint32_t n;

	get_cluster(in, &m->cluster);
	n = get_enum(in, LIMIT_TOKENS + 1);
	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct token token;

		get_token(in, &token);
		if (members_token(m, token.name) != NULL)
			in->failed = true;
		members_put_token(m, &token);
	}
	n = get_enum(in, LIMIT_USERS + 1);
	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct user user;

		get_user(in, &user);
		if (members_user(m, user.name) != NULL)
			in->failed = true;
		members_put_user(m, &user);
	}
	n = get_enum(in, LIMIT_DENIED + 1);
	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct serial serial;

		get_name(in, serial.text, sizeof(serial.text));
		serials_add(&m->denied, serial.text);
	}
	get_id_set(in, &m->denied_nodes, LIMIT_DENIED);
	get_id_set(in, &m->left, LIMIT_LEFT);
}

/* The ring is filled as it was, then its chain must hold. */
static void get_audit(struct codec *in, struct audit *audit)
{
	uint64_t sequence = get_u64(in), base = get_u64(in);
	uint32_t n = get_enum(in, LIMIT_AUDIT + 1);

	audit->base = base;
	audit->sequence = sequence - n;
	for (uint32_t i = 0; i < n && !in->failed; i++) {
		struct audit_record record;

		get_audit_record(in, &record);
		audit_add(audit, &record);
		if (audit_at(audit, audit->n - 1)->hash != record.hash)
			in->failed = true;
	}
	if (n > sequence)
		in->failed = true;
}

static void get_chain(struct codec *in, struct state_chain *chain)
{
	chain->value = get_u64(in);
	chain->count = get_u64(in);
	for (size_t i = 0; i < STATE_CHAIN_MARKS; i++)
		chain->marks[i] = get_u64(in);
}

int state_decode(struct state *s, const uint8_t *bytes, size_t n, struct blix_error *err)
{
	struct codec in = {.at = bytes, .left = n};
	struct state fresh = {0};
	uint32_t magic = get_u32(&in), version = get_u32(&in);

	if (magic != SNAPSHOT_MAGIC || version != SNAPSHOT_VERSION)
		return blix_fail(err, BLIX_E_CORRUPT,
		                 "snapshot has magic %08x and version %u: not one of mine", magic,
		                 version);
	fresh.revision = get_u64(&in);
	fresh.clock_ms = get_u64(&in);
	fresh.clock_jump_ms = get_u64(&in);
	get_nodes(&in, &fresh);
	get_locks(&in, &fresh);
	get_vms(&in, &fresh);
	get_sessions(&in, &fresh);
	get_events(&in, &fresh);
	get_members(&in, &fresh.members);
	get_audit(&in, &fresh.audit);
	get_chain(&in, &fresh.chain);
	if (!in.failed && fresh.members.cluster.level > FEATURE_LEVEL) {
		(void)blix_fail(err, BLIX_E_CORRUPT,
		                "the cluster is at feature level %u, this binary knows %u",
		                fresh.members.cluster.level, FEATURE_LEVEL);
		blix_hint(err, "a newer blixd wrote it: upgrade this server");
		state_done(&fresh);
		return -(int)BLIX_E_CORRUPT;
	}
	if (!codec_end(&in)) {
		state_done(&fresh);
		return blix_fail(err, BLIX_E_CORRUPT, "snapshot is malformed");
	}
	state_done(s);
	*s = fresh;
	return 0;
}
