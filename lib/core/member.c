/* The sorted arrays of member.h: short lists that change rarely, so each change moves the rest. */
#include "core/member.h"

#include "base/alloc.h"

#include <assert.h>

/* Makes room for one more at `at`; the array is grown by ones, since it changes rarely. */
static void *open_gap(void *items, size_t *n, size_t size, size_t at)
{
	char *bytes = xreallocarray(items, *n + 1, size);

	memmove(bytes + (at + 1) * size, bytes + at * size, (*n - at) * size);
	memset(bytes + at * size, 0, size);
	(*n)++;
	return bytes;
}

static void close_gap(void *items, size_t *n, size_t size, size_t at)
{
	char *bytes = items;

	assert(at < *n);
	(*n)--;
	memmove(bytes + at * size, bytes + (at + 1) * size, (*n - at) * size);
}

static void *copy_of(const void *items, size_t n, size_t size)
{
	void *copy = xreallocarray(NULL, n, size);

	if (n > 0)
		memcpy(copy, items, n * size);
	return copy;
}

void members_init(struct members *members)
{
	memset(members, 0, sizeof(*members));
	members->cluster.level = 1;
	members->cluster.voters = 3;
	members->cluster.version = 1;
}

void members_done(struct members *members)
{
	free(members->tokens);
	free(members->users);
	free(members->denied.items);
	free(members->denied_nodes.items);
	free(members->left.items);
	memset(members, 0, sizeof(*members));
}

void members_copy(struct members *to, const struct members *from)
{
	*to = *from;
	to->tokens = copy_of(from->tokens, from->n_tokens, sizeof(*from->tokens));
	to->users = copy_of(from->users, from->n_users, sizeof(*from->users));
	to->denied.items = copy_of(from->denied.items, from->denied.n, sizeof(struct serial));
	to->denied_nodes.items =
		copy_of(from->denied_nodes.items, from->denied_nodes.n, sizeof(uint64_t));
	to->left.items = copy_of(from->left.items, from->left.n, sizeof(uint64_t));
}

static size_t find_id(const struct ids *ids, uint64_t id)
{
	size_t low = 0, high = ids->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (ids->items[mid] < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool ids_has(const struct ids *ids, uint64_t id)
{
	size_t at = find_id(ids, id);

	return at < ids->n && ids->items[at] == id;
}

void ids_add(struct ids *ids, uint64_t id)
{
	size_t at = find_id(ids, id);

	if (ids_has(ids, id))
		return;
	ids->items = open_gap(ids->items, &ids->n, sizeof(*ids->items), at);
	ids->items[at] = id;
}

/* The first element of an array of structs that begin with a string, not before `key`. */
static size_t find_text(const void *items, size_t n, size_t size, const char *key, bool *ret_found)
{
	const char *bytes = items;
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (strcmp(bytes + mid * size, key) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	*ret_found = low < n && strcmp(bytes + low * size, key) == 0;
	return low;
}

bool serials_has(const struct serials *serials, const char *serial)
{
	bool found;

	(void)find_text(serials->items, serials->n, sizeof(*serials->items), serial, &found);
	return found;
}

void serials_add(struct serials *serials, const char *serial)
{
	bool found;
	size_t at = find_text(serials->items, serials->n, sizeof(*serials->items), serial, &found);

	if (found)
		return;
	serials->items = open_gap(serials->items, &serials->n, sizeof(*serials->items), at);
	memcpy(serials->items[at].text, serial, strlen(serial) + 1);
}

static size_t find_token(const struct members *m, const char *name, bool *ret_found)
{
	return find_text(m->tokens, m->n_tokens, sizeof(*m->tokens), name, ret_found);
}

static size_t find_user(const struct members *m, const char *name, bool *ret_found)
{
	return find_text(m->users, m->n_users, sizeof(*m->users), name, ret_found);
}

const struct token *members_token(const struct members *m, const char *name)
{
	bool found;
	size_t at = find_token(m, name, &found);

	return found ? &m->tokens[at] : NULL;
}

const struct token *members_token_hash(const struct members *m, const char *hash)
{
	for (size_t i = 0; i < m->n_tokens; i++) {
		if (strcmp(m->tokens[i].hash, hash) == 0)
			return &m->tokens[i];
	}
	return NULL;
}

const struct user *members_user(const struct members *m, const char *name)
{
	bool found;
	size_t at = find_user(m, name, &found);

	return found ? &m->users[at] : NULL;
}

void members_put_token(struct members *m, const struct token *token)
{
	bool found;
	size_t at = find_token(m, token->name, &found);

	if (!found)
		m->tokens = open_gap(m->tokens, &m->n_tokens, sizeof(*m->tokens), at);
	m->tokens[at] = *token;
}

void members_put_user(struct members *m, const struct user *user)
{
	bool found;
	size_t at = find_user(m, user->name, &found);

	if (!found)
		m->users = open_gap(m->users, &m->n_users, sizeof(*m->users), at);
	m->users[at] = *user;
}

void members_remove_token(struct members *m, const char *name)
{
	bool found;
	size_t at = find_token(m, name, &found);

	assert(found);
	close_gap(m->tokens, &m->n_tokens, sizeof(*m->tokens), at);
}

void members_remove_user(struct members *m, const char *name)
{
	bool found;
	size_t at = find_user(m, name, &found);

	assert(found);
	close_gap(m->users, &m->n_users, sizeof(*m->users), at);
}

static const char *const roles[USER_ROLE_COUNT] = {"viewer", "operator", "admin"};

const char *user_role_name(enum user_role role)
{
	assert((unsigned)role < USER_ROLE_COUNT);
	return roles[role];
}

int user_role_parse(const char *text, enum user_role *ret, struct blix_error *err)
{
	for (unsigned i = 0; i < USER_ROLE_COUNT; i++) {
		if (strcmp(roles[i], text) == 0) {
			*ret = (enum user_role)i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_INVALID, "role must be viewer, operator or admin");
}

bool hex_is(const char *text, size_t n)
{
	return strlen(text) == n && strspn(text, "0123456789abcdef") == n;
}

bool voters_are(uint32_t voters)
{
	return voters % 2 == 1 && voters <= LIMIT_VOTERS;
}
