/* Waiting for a condition of one VM by long polls.
 *
 * Happy path: the object that a mutation gave (or a first GET) is judged, then GET with its
 * revision returns whenever it changed, until the condition holds. It ends early when the condition
 * cannot come any more, when the time is up (124, or 10 for a VM that runs but is not ready), and
 * by Ctrl-C, which only detaches. */
#include "cli.h"

#include "base/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#define POLL_MS 30000 /* of one long poll; a proxy or a dead peer shows itself this soon */

static const char *const condition_names[CONDITION_COUNT] = {"running", "ready",   "paused",
                                                             "stopped", "updated", "deleted"};

const char *condition_name(enum condition condition)
{
	assert(condition < CONDITION_COUNT);
	return condition_names[condition];
}

int condition_find(const char *name, enum condition *ret, struct blix_error *err)
{
	for (size_t i = 0; i < CONDITION_COUNT; i++) {
		if (strcmp(condition_names[i], name) == 0) {
			*ret = (enum condition)i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_INVALID,
	                 "'%.64s' is none of running, ready, paused, stopped, updated and deleted",
	                 name);
}

static bool phase_is(const cJSON *object, const char *phase)
{
	return strcmp(text_at(object, "status.phase"), phase) == 0;
}

static bool is_ready(const cJSON *object)
{
	if (!phase_is(object, "Running"))
		return false;
	return true_at(object, "status.ready") || text_at(object, "spec.ready")[0] == '\0';
}

/* The update is over; where it booted a system that says when it is ready, that is said. */
static bool is_updated(const struct watch *watch)
{
	const cJSON *object = watch->object;

	if (at(object, "status.update.step") != NULL)
		return false;
	if (strcmp(text_at(object, "status.update.outcome"), "updated") != 0)
		return true;
	return !phase_is(object, "Running") || true_at(object, "status.stale") || is_ready(object);
}

static bool holds(const struct watch *watch)
{
	switch (watch->condition) {
	case CONDITION_RUNNING:
		return phase_is(watch->object, "Running");
	case CONDITION_READY:
		return is_ready(watch->object);
	case CONDITION_PAUSED:
		return phase_is(watch->object, "Paused");
	case CONDITION_STOPPED:
		return phase_is(watch->object, "Stopped");
	case CONDITION_UPDATED:
		return is_updated(watch);
	case CONDITION_DELETED:
	case CONDITION_COUNT:
		break;
	}
	return false;
}

/* A node's own hint stands at the end of its message, after "\nhint: "; *ret_hint is NULL without
 * one. */
static size_t message_length(const char *message, const char **ret_hint)
{
	const char *hint = strstr(message, "\nhint: ");

	*ret_hint = hint != NULL ? hint + strlen("\nhint: ") : NULL;
	return hint != NULL ? (size_t)(hint - message) : strlen(message);
}

/* The error that the object's status tells; `otherwise` when it has no code. */
static int status_error(const struct watch *watch, enum blix_code otherwise, struct blix_error *err)
{
	const char *slug = text_at(watch->object, "status.code");
	const char *message = text_at(watch->object, "status.message");
	enum blix_code code = slug[0] != '\0' ? blix_code_find(slug) : otherwise;

	const char *hint;
	size_t n = message_length(message, &hint);

	(void)blix_fail(err, code, "%.*s", n > 0 ? (int)n : INT_MAX,
	                n > 0 ? message : blix_code_info(code)->text);
	blix_reason(err, text_at(watch->object, "status.reason"));
	if (hint != NULL)
		blix_hint(err, "%s", hint);
	else if (code == BLIX_E_START || code == BLIX_E_NOTREADY)
		blix_hint(err, "'blix vm logs %s' shows its console", watch->name);
	else if (code != BLIX_E_IMAGE)
		blix_hint(err, "'blix vm why %s' says more", watch->name);
	return -(int)code;
}

static int crash_error(const struct watch *watch, struct blix_error *err)
{
	uint64_t count = u64_at(watch->object, "status.crashes.count");

	(void)status_error(watch, BLIX_E_START, err);
	if (at(watch->object, "status.exitCode") != NULL)
		return blix_wrap(err,
		                 "crash loop: ended %" PRIu64
		                 " times in a row, last with exit code %" PRIu64,
		                 count, u64_at(watch->object, "status.exitCode"));
	return blix_wrap(err, "crash loop: ended %" PRIu64 " times in a row", count);
}

/* 0, or what became of the update instead. */
static int judge_update(const struct watch *watch, struct blix_error *err)
{
	const char *outcome = text_at(watch->object, "status.update.outcome");
	const char *message = text_at(watch->object, "status.update.message"), *hint;
	enum blix_code code = blix_code_find(text_at(watch->object, "status.update.code"));
	size_t n = message_length(message, &hint);

	if (watch->operation[0] != '\0' &&
	    strcmp(watch->operation, text_at(watch->object, "status.update.operation")) != 0)
		return blix_fail(err, BLIX_E_CONFLICT, "another update took its place");
	if (strcmp(outcome, "failed") != 0 && strcmp(outcome, "rolled-back") != 0)
		return 0;
	(void)blix_fail(err, code, "%s: %.*s",
	                outcome[0] == 'f' ? "the update failed"
	                                  : "rolled back, the old system runs again",
	                (int)n, message);
	blix_reason(err, text_at(watch->object, "status.update.reason"));
	if (hint != NULL)
		blix_hint(err, "%s", hint);
	else if (code == BLIX_E_START || code == BLIX_E_NOTREADY)
		blix_hint(err, "'blix vm events %s' shows how it went", watch->name);
	return -(int)code;
}

static bool is_unplaceable(const cJSON *object)
{
	return phase_is(object, "Pending") &&
	       (strcmp(text_at(object, "status.reason"), "unplaceable") == 0 ||
	        strcmp(text_at(object, "status.code"), "unplaceable") == 0);
}

/* The hypervisor would not pause or resume it, and nobody wants it any more. */
static bool is_undone(const cJSON *object, bool pausing)
{
	const char *phase = pausing ? "Running" : "Paused";

	return phase_is(object, phase) && strcmp(text_at(object, "spec.powerState"), phase) == 0;
}

/* 0, or why the condition cannot come any more. */
static int judge(const struct watch *watch, struct blix_error *err)
{
	bool pausing = watch->condition == CONDITION_PAUSED;
	bool up = pausing || watch->condition == CONDITION_RUNNING ||
	          watch->condition == CONDITION_READY;

	if (watch->condition == CONDITION_DELETED)
		return 0;
	if (watch->condition == CONDITION_UPDATED &&
	    at(watch->object, "status.update.step") != NULL)
		return phase_is(watch->object, "Deleting")
		               ? blix_fail(err, BLIX_E_REFUSED, "it is being deleted")
		               : 0;
	if (watch->condition == CONDITION_UPDATED) {
		int rc = judge_update(watch, err);

		if (rc < 0)
			return rc;
	}
	if (phase_is(watch->object, "Deleting"))
		return blix_fail(err, BLIX_E_REFUSED, "it is being deleted");
	if (phase_is(watch->object, "Failed"))
		return status_error(watch, BLIX_E_START, err);
	if (up && phase_is(watch->object, "CrashLoop"))
		return crash_error(watch, err);
	if (up && watch->begun && is_undone(watch->object, pausing))
		return status_error(watch, BLIX_E_REFUSED, err);
	if (up && is_unplaceable(watch->object))
		return status_error(watch, BLIX_E_NOROOM, err);
	if (up && watch->begun && phase_is(watch->object, "Stopped")) {
		if (text_at(watch->object, "status.code")[0] != '\0')
			return status_error(watch, BLIX_E_START, err);
		(void)blix_fail(
			err, BLIX_E_START, "it stopped before it was %s (exit code %" PRIu64 ")",
			condition_name(watch->condition), u64_at(watch->object, "status.exitCode"));
		blix_hint(err, "'blix vm logs %s' shows its console", watch->name);
		return -(int)BLIX_E_START;
	}
	return 0;
}

static int timed_out(const struct watch *watch, struct blix_error *err)
{
	const char *phase = text_at(watch->object, "status.phase");

	if ((watch->condition == CONDITION_READY ||
	     (watch->condition == CONDITION_UPDATED &&
	      at(watch->object, "status.update.step") == NULL)) &&
	    phase_is(watch->object, "Running")) {
		(void)blix_fail(err, BLIX_E_NOTREADY, "it runs but is not ready in time");
		blix_hint(err, "'blix vm logs %s' shows its console", watch->name);
		return -(int)BLIX_E_NOTREADY;
	}
	(void)blix_fail(err, BLIX_E_TIMEOUT, "still %s when the time was up%s",
	                phase[0] != '\0' ? phase : "not there",
	                watch->gives_up ? "" : "; the work continues");
	blix_hint(err, "wait again with 'blix wait vm/%s --for=%s'", watch->name,
	          condition_name(watch->condition));
	return -(int)BLIX_E_TIMEOUT;
}

static int detached(const struct watch *watch, struct blix_error *err)
{
	(void)blix_fail(err, BLIX_E_TIMEOUT, "detached; the work continues");
	blix_reason(err, "interrupted");
	blix_hint(err, "wait again with 'blix wait vm/%s --for=%s'", watch->name,
	          condition_name(watch->condition));
	return -(int)BLIX_E_TIMEOUT;
}

/* Fetches the object once it is newer than the one held, or after a while. */
static int fetch_next(struct cli *cli, struct watch *watch, struct blix_error *err)
{
	uint64_t left = cli->client != NULL ? client_left_ms(cli->client) : POLL_MS;
	cJSON *next = NULL;
	int rc;

	if (watch->object == NULL)
		rc = cli_get(cli, &next, err, "/v1/vms/%s", watch->name);
	else
		rc = cli_get(cli, &next, err, "/v1/vms/%s?revision=%" PRIu64 "&wait=%" PRIu64 "ms",
		             watch->name, u64_at(watch->object, "metadata.revision"),
		             left < POLL_MS ? left : POLL_MS);
	if (rc < 0)
		return rc;
	if (watch->object != NULL &&
	    strcmp(text_at(next, "metadata.uid"), text_at(watch->object, "metadata.uid")) != 0) {
		cJSON_Delete(next);
		return blix_fail(err, BLIX_E_NOTFOUND, "it was deleted, another has its name now");
	}
	cJSON_Delete(watch->object);
	watch->object = next;
	return 0;
}

static void drop_object(struct watch *watch)
{
	cJSON_Delete(watch->object);
	watch->object = NULL;
}

static int poll_once(struct cli *cli, struct watch *watch, struct blix_error *err)
{
	int rc = fetch_next(cli, watch, err);

	if (cli_interrupted())
		return detached(watch, err);
	if (rc == -(int)BLIX_E_TIMEOUT)
		return timed_out(watch, err);
	if (rc == -(int)BLIX_E_NOTFOUND && watch->condition == CONDITION_DELETED)
		drop_object(watch);
	return rc;
}

int watch_run(struct cli *cli, struct watch *watch, struct blix_error *err)
{
	int rc = 0;

	cli_catch_interrupt();
	if (watch->object == NULL)
		rc = poll_once(cli, watch, err);
	if (watch->condition == CONDITION_UPDATED && watch->begun && watch->object != NULL)
		(void)snprintf(watch->operation, sizeof(watch->operation), "%s",
		               text_at(watch->object, "status.update.operation"));
	while (rc == 0) {
		rc = secrets_follow(cli, watch, err);
		if (rc < 0)
			return rc;
		if (watch->condition == CONDITION_UPDATED)
			rc = judge(watch, err);
		if (rc == 0 && holds(watch))
			return 0;
		if (rc == 0)
			rc = judge(watch, err);
		if (rc < 0)
			return rc;
		talk_phase(cli, watch->name, text_at(watch->object, "status.phase"));
		if (cli->client != NULL && client_left_ms(cli->client) == 0)
			return timed_out(watch, err);
		rc = poll_once(cli, watch, err);
	}
	return rc == -(int)BLIX_E_NOTFOUND && watch->condition == CONDITION_DELETED ? 0 : rc;
}
