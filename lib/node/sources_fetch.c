/* One source that is wanted: see sources.h.
 *
 * Happy path: it is here, is looked through by the pool, and who waits gets a descriptor. Or it is
 * not: the other servers are asked in turn, the bytes of the first that has it go to a file without
 * a name, their hash is the name, it is put into place. A server that does not answer, has not got
 * it or sends other bytes is passed by; when none is left, what went wrong is told, the worst
 * first: unreachable (it may be there), damaged, missing. What only the state wants is tried again
 * later.
 */
#include "node/sources_internal.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/sink.h"
#include "tls/authority.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define FETCH_MS 300000 /* of one source, from one server */
#define REST_MS  10000
/* At once: the pool and the disk are the log's, too. */
#define WORKING_MAX        2
#define WORKING_WAITED_MAX 3

struct source_wait {
	struct task *task;
	bool here;
	source_cb cb;
	void *data;
	TAILQ_ENTRY(source_wait) entry;
};

TAILQ_HEAD(wait_list, source_wait);

enum task_state { TASK_QUEUED, TASK_WORKING, TASK_RESTING };

struct task {
	struct sources *s;
	char key[STORE_KEY];
	struct source_name name;
	enum task_state state;
	uint64_t due_ms; /* of one that rests */
	struct wait_list waits;
	/* the look */
	uv_work_t work;
	char *path;
	bool whole;
	/* the fetch */
	size_t server;             /* the next of the servers to ask */
	char from[LIMIT_NAME + 1]; /* the last one */
	struct fetch *fetch;
	struct sink *sink;
	uint64_t sunk;
	bool unreachable, damaged;
	bool logged;           /* that it cannot be had: once a minute, as the sweep forgets it */
	struct blix_error own; /* of this node, such as a full disk; code BLIX_OK: none */
	TAILQ_ENTRY(task) entry;
};

static void task_fetch(struct task *task);

static void task_free(struct task *task)
{
	TAILQ_REMOVE(&task->s->tasks, task, entry);
	if (task->fetch != NULL)
		fetch_cancel(task->fetch);
	sink_free(task->sink);
	free(task->path);
	free(task);
}

static struct task *task_find(const struct sources *s, const char *key)
{
	struct task *task;

	TAILQ_FOREACH(task, &s->tasks, entry)
	{
		if (memcmp(task->key, key, STORE_KEY) == 0)
			return task;
	}
	return NULL;
}

static struct task *task_get(struct sources *s, const struct source_name *name)
{
	char key[STORE_KEY];
	struct task *task;

	source_key(name, key);
	task = task_find(s, key);
	if (task != NULL)
		return task;
	task = xcalloc(1, sizeof(*task));
	task->s = s;
	task->name = *name;
	task->path = source_path(s, name);
	memcpy(task->key, key, sizeof(key));
	TAILQ_INIT(&task->waits);
	TAILQ_INSERT_TAIL(&s->tasks, task, entry);
	return task;
}

static struct source_wait *wait_next(const struct task *task, bool here)
{
	struct source_wait *wait;

	TAILQ_FOREACH(wait, &task->waits, entry)
	{
		if (wait->here || !here)
			return wait;
	}
	return NULL;
}

/* Tells those who wait; only those who asked for what is here if `here`. */
static void tell(struct task *task, bool here, const struct blix_error *err)
{
	struct source_wait *wait;

	while ((wait = wait_next(task, here)) != NULL) {
		const struct source *source = source_find(task->s, task->key);
		const struct blix_error *why = err;
		struct blix_error gone;
		int fd = -1;

		if (why == NULL)
			fd = open(task->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (why == NULL && fd < 0) {
			(void)blix_fail_sys(&gone, errno, "open %s", task->path);
			why = &gone;
		}
		TAILQ_REMOVE(&task->waits, wait, entry);
		wait->cb(wait->data, fd, source != NULL ? source->size : 0, why);
		free(wait);
	}
}

/* It is over: well (err NULL), or it rests in case the state still wants it. */
static void task_end(struct task *task, const struct blix_error *err)
{
	struct sources *s = task->s;

	s->working--;
	tell(task, false, err);
	tasks_wake(s);
	if (err == NULL || sources_alone(s)) {
		task_free(task);
	} else {
		task->state = TASK_RESTING;
		task->due_ms = clock_boot_ms() + REST_MS;
	}
}

/* What to say when no server is left to ask. */
static void task_fail(struct task *task)
{
	struct blix_error err;
	char hex[SOURCE_HEX];

	sink_free(task->sink);
	task->sink = NULL;
	source_hex(&task->name, hex);
	if (task->own.code != BLIX_OK) {
		err = task->own;
	} else if (task->unreachable) {
		(void)blix_fail(&err, BLIX_E_UNAVAILABLE,
		                "source %.12s: not here, and not all servers can be asked for it",
		                hex);
		blix_reason(&err, "fetch-failed");
		blix_hint(&err, "'blix cluster status' shows which server is away");
	} else if (task->damaged) {
		(void)blix_fail(&err, BLIX_E_CORRUPT, "source %.12s: every copy of it is damaged",
		                hex);
		blix_reason(&err, "source-corrupt");
		blix_hint(&err, "'blix vm update NAME --flake ...' sends it again");
	} else {
		(void)blix_fail(&err, BLIX_E_NOTFOUND, "source %.12s: no server has it", hex);
		blix_reason(&err, "source-missing");
		blix_hint(&err, "'blix vm update NAME --flake ...' sends it again");
	}
	if (!task->logged)
		log_error(LOG_WARNING, "node.source.failed", &err, "source=%s", hex);
	task->logged = true;
	task_end(task, &err);
}

static void on_kept(void *data, const struct blix_error *err)
{
	struct task *task = data;

	if (task->s->closing) {
		task_free(task);
		return;
	}
	if (err != NULL) {
		task->own = *err;
		task_fail(task);
	} else {
		task_end(task, NULL);
	}
}

static void on_sunk(void *data, const struct sink_result *result)
{
	struct task *task = data;
	const struct sources *s = task->s;
	char hex[SOURCE_HEX];
	int fd;

	if (result->sys != 0) {
		(void)blix_fail_sys(&task->own, result->sys, "write a source to %s", s->dir);
	} else if (source_same(&result->name, &task->name)) {
		fd = sink_take(task->sink);
		sink_free(task->sink);
		task->sink = NULL;
		sources_keep(task->s, fd, result->size, &task->name, on_kept, task);
		return;
	} else {
		task->damaged = true;
		source_hex(&task->name, hex);
		log_event(LOG_WARNING, "node.source.mismatch", "source=%s from=%s", hex,
		          task->from);
	}
	sink_free(task->sink);
	task->sink = NULL;
	if (task->own.code != BLIX_OK)
		task_fail(task);
	else
		task_fetch(task);
}

static void on_drained(void *data)
{
	struct task *task = data;

	if (task->fetch != NULL)
		fetch_resume(task->fetch);
}

static int on_piece(void *data, const char *bytes, size_t n)
{
	struct task *task = data;

	if (task->sunk + n > LIMIT_SOURCE)
		return -1;
	if (sink_is_full(task->sink))
		return 1;
	task->sunk += n;
	(void)sink_write(task->sink, bytes, n);
	return 0;
}

static void on_fetched(void *data, int status, int http, struct buf *answer, const char *type)
{
	struct task *task = data;

	(void)answer;
	(void)type;
	task->fetch = NULL;
	if (status == 0 && http == 200) {
		sink_end(task->sink, on_sunk, task);
		return;
	}
	sink_free(task->sink);
	task->sink = NULL;
	if (status == -(int)BLIX_E_TOOBIG || (status == 0 && http == 500))
		task->damaged = true;
	else if (status < 0 || http != 404)
		task->unreachable = true;
	task_fetch(task);
}

/* Of those that may have it, the next one that can be asked; NULL: all were. */
static const struct config_server *next_server(struct task *task)
{
	const struct sources_config *config = &task->s->config;
	uint64_t ids[LIMIT_SERVERS];
	size_t n = config->servers(config->data, ids, array_size(ids));

	while (task->server < n && task->server < array_size(ids)) {
		uint64_t id = ids[task->server++];
		const struct config_server *server = config->server(config->data, id);

		if (id != config->config->id && server != NULL)
			return server;
	}
	return NULL;
}

/* Asks the next server. */
static void task_fetch(struct task *task)
{
	struct sources *s = task->s;
	const struct config *config = s->config.config;
	const struct config_server *server;
	char hex[SOURCE_HEX], path[96], name[TLS_DNS];
	struct fetch_options options = {.path = path,
	                                .server_name = name,
	                                .deadline_ms = FETCH_MS,
	                                .answer_max = LIMIT_SOURCE,
	                                .piece = on_piece,
	                                .piece_data = task};
	int fd = -1;

	server = next_server(task);
	if (server == NULL || sources_make(task->s, 0, &fd, &task->own) < 0) {
		task_fail(task);
		return;
	}
	source_hex(&task->name, hex);
	(void)snprintf(path, sizeof(path), "/v1/sources/%s", hex);
	(void)snprintf(task->from, sizeof(task->from), "%s", server->name);
	options.address = server->api;
	tls_dns_name(server->id, config->cluster, name);
	task->sunk = 0;
	task->sink = sink_open(s->config.loop, fd, on_drained, task);
	if (fetch_start(s->config.fetch, &options, on_fetched, task, &task->fetch, &task->own) < 0)
		task_fail(task);
}

/* In the pool: are the bytes those of its name? */
static void work_look(uv_work_t *work)
{
	struct task *task = work->data;
	cleanup(closep) int fd = open(task->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct source_name found;

	task->whole =
		fd >= 0 && source_sum(fd, &found, NULL) == 0 && source_same(&found, &task->name);
}

static void on_looked(uv_work_t *work, int status)
{
	struct task *task = work->data;
	struct sources *s = task->s;
	struct source *source;
	struct blix_error err;
	char hex[SOURCE_HEX];

	(void)status;
	if (s->closing) {
		task_free(task);
	} else if (task->whole) {
		task_end(task, NULL);
	} else {
		source_hex(&task->name, hex);
		(void)blix_fail(&err, BLIX_E_CORRUPT, "source %.12s was altered on this node", hex);
		blix_reason(&err, "source-corrupt");
		log_error(LOG_WARNING, "node.source.corrupt", &err, "source=%s", hex);
		source = source_find(s, task->key);
		if (source != NULL)
			source_drop(s, source);
		task->damaged = true;
		tell(task, true, &err);
		task_fetch(task);
	}
	sources_work_done(s);
}

static void task_begin(struct task *task)
{
	struct sources *s = task->s;
	struct source *source = source_find(s, task->key);

	s->working++;
	task->state = TASK_WORKING;
	task->server = 0;
	task->unreachable = task->damaged = false;
	task->own.code = BLIX_OK;
	if (source == NULL) {
		task_fetch(task);
		return;
	}
	source->used_ms = clock_boot_ms();
	task->work.data = task;
	s->busy++;
	if (uv_queue_work(s->config.loop, &task->work, work_look, on_looked) != 0)
		abort(); /* only without a function to call */
}

/* Those that somebody waits for come first. */
static struct task *task_next(const struct sources *s)
{
	struct task *task, *other = NULL;

	TAILQ_FOREACH(task, &s->tasks, entry)
	{
		if (task->state == TASK_RESTING && task->due_ms <= clock_boot_ms())
			task->state = TASK_QUEUED;
		if (task->state != TASK_QUEUED)
			continue;
		if (!TAILQ_EMPTY(&task->waits))
			return s->working < WORKING_WAITED_MAX ? task : NULL;
		other = other != NULL ? other : task;
	}
	return s->working < WORKING_MAX ? other : NULL;
}

static void on_tasks_wake(uv_timer_t *timer)
{
	struct sources *s = timer->data;
	struct task *task;

	while ((task = task_next(s)) != NULL)
		task_begin(task);
}

void tasks_wake(struct sources *s)
{
	if (!s->closing)
		(void)uv_timer_start(&s->wake, on_tasks_wake, 0, 0);
}

void task_want(struct sources *s, const struct source_name *name)
{
	(void)task_get(s, name);
}

void tasks_sweep(struct sources *s)
{
	struct task *task, *next;

	for (task = TAILQ_FIRST(&s->tasks); task != NULL; task = next) {
		next = TAILQ_NEXT(task, entry);
		if (task->state != TASK_WORKING && TAILQ_EMPTY(&task->waits))
			task_free(task);
	}
}

/* One in the pool's hands frees itself. */
void tasks_close(struct sources *s)
{
	struct task *task, *next;
	struct source_wait *wait;

	for (task = TAILQ_FIRST(&s->tasks); task != NULL; task = next) {
		bool in_pool =
			task->state == TASK_WORKING && task->fetch == NULL && task->sink == NULL;

		next = TAILQ_NEXT(task, entry);
		while ((wait = TAILQ_FIRST(&task->waits)) != NULL) {
			TAILQ_REMOVE(&task->waits, wait, entry);
			free(wait);
		}
		if (!in_pool)
			task_free(task);
	}
}

struct source_wait *sources_need(struct sources *s, const struct source_name *name, bool here,
                                 source_cb cb, void *data)
{
	struct source_wait *wait = xcalloc(1, sizeof(*wait));
	struct task *task = task_get(s, name);

	*wait = (struct source_wait){.task = task, .here = here, .cb = cb, .data = data};
	TAILQ_INSERT_TAIL(&task->waits, wait, entry);
	if (task->state == TASK_RESTING)
		task->state = TASK_QUEUED;
	tasks_wake(s);
	return wait;
}

void sources_forget(struct source_wait *wait)
{
	TAILQ_REMOVE(&wait->task->waits, wait, entry);
	free(wait);
}
