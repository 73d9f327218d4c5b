/* Exactly once, bounded: a client is a session with consecutive request numbers, and the state
 * keeps the last LIMIT_RESULTS results of each.
 *
 * Happy path: a new number is begun, its command applied, its result kept; the same number again
 * gets that result. It fails by a refusal: a number that was forgotten (never executed again), one
 * that leaves a gap, one that stood for another request, or one session too many. Idle sessions go
 * by an explicit command of the leader.
 */
#include "core/state_internal.h"

#include "base/alloc.h"

void session_unref(struct session *session)
{
	if (--session->refs > 0)
		return;
	free(session->results);
	free(session);
}

/* *slot itself when no view holds it, else a copy that replaces it. */
static struct session *session_own(struct session **slot)
{
	struct session *old = *slot, *copy;

	if (old->refs == 1)
		return old;
	copy = xcalloc(1, sizeof(*copy));
	*copy = *old;
	copy->refs = 1;
	copy->results = xreallocarray(NULL, copy->size, sizeof(*copy->results));
	if (copy->n > 0)
		memcpy(copy->results, old->results, copy->n * sizeof(*copy->results));
	session_unref(old);
	*slot = copy;
	return copy;
}

void apply_session_expire(struct state *s, const struct command *c, struct command_result *r)
{
	size_t kept = 0;

	(void)r;
	for (size_t i = 0; i < s->n_sessions; i++) {
		if (s->sessions[i]->used_ms < c->session_expire.before_ms)
			session_unref(s->sessions[i]);
		else
			s->sessions[kept++] = s->sessions[i];
	}
	s->n_sessions = kept;
}

static const struct session_result *session_outcome(const struct session *session, uint64_t request)
{
	if (request == 0 || request > session->last || session->last - request >= session->n)
		return NULL;
	return &session->results[session->n - 1 - (session->last - request)];
}

const struct session_result *state_outcome(const struct state *s, uint64_t session,
                                           uint64_t request)
{
	bool found;
	size_t at = state_find_session(s, session, &found);

	return found ? session_outcome(s->sessions[at], request) : NULL;
}

/* The same request gets the same answer. Another one under its number was never executed, and must
 * not look as if it had been. */
static void answer_again(const struct session *session, const struct command *c,
                         struct command_result *r)
{
	const struct session_result *known = session_outcome(session, c->request);

	if (known == NULL)
		refuse(r, BLIX_E_FORGOTTEN, REFUSAL_SESSION_FORGOTTEN);
	else if (known->digest == c->digest)
		*r = known->result;
	else
		refuse(r, BLIX_E_REFUSED, REFUSAL_SESSION_OTHER);
}

/* The session of a command; NULL when the command must not run: *r is then its answer, remembered
 * or refused. */
struct session *session_begin(struct state *s, const struct command *c, struct command_result *r)
{
	struct session *session;
	bool found;
	size_t at = state_find_session(s, c->session, &found);

	if (!found && c->request != 1) {
		refuse(r, BLIX_E_FORGOTTEN, REFUSAL_SESSION_FORGOTTEN);
		return NULL;
	}
	if (!found && s->n_sessions >= LIMIT_SESSIONS) {
		refuse(r, BLIX_E_BUSY, REFUSAL_FULL);
		return NULL;
	}
	if (!found) {
		session = xcalloc(1, sizeof(*session));
		session->refs = 1;
		session->id = c->session;
		state_insert((void ***)(void *)&s->sessions, &s->n_sessions, &s->size_sessions, at,
		             session);
	}
	session = session_own(&s->sessions[at]);
	session->used_ms = s->clock_ms;
	if (c->request == session->last + 1)
		return session;
	if (c->request > session->last)
		refuse(r, BLIX_E_INVALID, REFUSAL_SESSION_GAP);
	else
		answer_again(session, c, r);
	return NULL;
}

void session_end(struct session *session, const struct command *c, const struct command_result *r)
{
	session->last++;
	if (session->n == LIMIT_RESULTS) {
		memmove(session->results, session->results + 1,
		        (session->n - 1) * sizeof(*session->results));
		session->n--;
	}
	if (session->n == session->size) {
		session->size = session->size == 0 ? 1 : session->size * 2;
		session->results =
			xreallocarray(session->results, session->size, sizeof(*session->results));
	}
	session->results[session->n++] = (struct session_result){*r, c->digest};
}
