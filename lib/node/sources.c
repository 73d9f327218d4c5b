/* The files of sources.h: what is here, what the state names, what goes.
 *
 * The table is in memory, in the order of the store paths, since that is how the state's references
 * begin. Age is counted by the boot clock from when a file was kept, asked for or last named, and
 * from the start of the daemon: a jump of the wall clock removes nothing.
 */
#include "node/sources_internal.h"

#include "base/alloc.h"
#include "core/generation.h"
#include "sys/clock.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define SWEEP_MS 60000
#define SUFFIX   ".nar"
#define STORE    "path:/nix/store/"

void source_key(const struct source_name *name, char out[STORE_KEY])
{
	char path[SOURCE_STORE];

	source_store_path(name, path);
	memcpy(out, path + strlen(STORE) - strlen("path:"), STORE_KEY - 1);
	out[STORE_KEY - 1] = '\0';
}

char *source_path(const struct sources *s, const struct source_name *name)
{
	char hex[SOURCE_HEX];

	source_hex(name, hex);
	return xasprintf("%s/%s" SUFFIX, s->dir, hex);
}

static size_t source_at(const struct sources *s, const char *key)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (memcmp(s->items[mid].key, key, STORE_KEY - 1) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct source *source_find(const struct sources *s, const char *key)
{
	size_t at = source_at(s, key);

	return at < s->n && memcmp(s->items[at].key, key, STORE_KEY - 1) == 0 ? &s->items[at]
	                                                                      : NULL;
}

static void source_add(struct sources *s, const struct source_name *name, uint64_t size)
{
	struct source item = {.name = *name, .size = size, .used_ms = clock_boot_ms()};
	struct source *known;
	size_t at;

	source_key(name, item.key);
	known = source_find(s, item.key);
	if (known != NULL) {
		known->used_ms = item.used_ms;
		return;
	}
	if (s->n == s->size) {
		s->size = s->size < 16 ? 16 : s->size * 2;
		s->items = xreallocarray(s->items, s->size, sizeof(*s->items));
	}
	at = source_at(s, item.key);
	memmove(s->items + at + 1, s->items + at, (s->n - at) * sizeof(*s->items));
	s->items[at] = item;
	s->n++;
	s->bytes += size;
}

void source_drop(struct sources *s, struct source *source)
{
	cleanup(freep) char *path = source_path(s, &source->name);
	size_t at = (size_t)(source - s->items);

	(void)unlink(path);
	s->bytes -= source->size;
	s->n--;
	memmove(s->items + at, s->items + at + 1, (s->n - at) * sizeof(*s->items));
}

/* The name of a file of ours. */
static bool parse_file(const char *file, struct source_name *ret)
{
	size_t n = SOURCE_HEX - 1;
	cleanup(freep) char *hex = NULL;

	if (strlen(file) != n + strlen(SUFFIX) || strcmp(file + n, SUFFIX) != 0)
		return false;
	hex = xstrndup(file, n);
	return source_parse(hex, ret, NULL) == 0;
}

/* What is not whole has another name: a crash left it. */
static int scan(struct sources *s, struct blix_error *err)
{
	DIR *stream = opendir(s->dir);
	const struct dirent *entry;

	if (stream == NULL)
		return blix_fail_sys(err, errno, "open %s", s->dir);
	while ((entry = readdir(stream)) != NULL) {
		cleanup(freep) char *path = xasprintf("%s/%s", s->dir, entry->d_name);
		struct source_name name;
		struct stat st;

		if (lstat(path, &st) < 0 || S_ISDIR(st.st_mode))
			continue;
		if (S_ISREG(st.st_mode) && parse_file(entry->d_name, &name))
			source_add(s, &name, (uint64_t)st.st_size);
		else
			(void)unlink(path);
	}
	(void)closedir(stream);
	return 0;
}

static void sources_free(struct sources *s)
{
	free(s->items);
	free(s->dir);
	free(s);
}

int sources_open(const struct sources_config *config, struct sources **ret, struct blix_error *err)
{
	struct sources *s = xcalloc(1, sizeof(*s));
	int rc;

	s->config = *config;
	s->dir = xasprintf("%s/sources", config->config->state_dir);
	s->swept_ms = clock_boot_ms();
	TAILQ_INIT(&s->tasks);
	rc = file_make_dirs(s->dir, 0700, err);
	if (rc == 0)
		rc = scan(s, err);
	if (rc < 0) {
		sources_free(s);
		return rc;
	}
	(void)uv_timer_init(config->loop, &s->wake);
	s->wake.data = s;
	*ret = s;
	return 0;
}

void sources_work_done(struct sources *s)
{
	void (*cb)(void *data) = s->closed;
	void *data = s->closed_data;

	s->busy--;
	if (!s->closing || s->busy > 0)
		return;
	sources_free(s);
	cb(data);
}

static void on_wake_closed(uv_handle_t *handle)
{
	sources_work_done(handle->data);
}

void sources_close(struct sources *s, void (*cb)(void *data), void *data)
{
	s->closing = true;
	s->closed = cb;
	s->closed_data = data;
	tasks_close(s);
	s->busy++;
	uv_close((uv_handle_t *)&s->wake, on_wake_closed);
}

bool sources_has(struct sources *s, const struct source_name *name)
{
	char key[STORE_KEY];
	struct source *source;

	source_key(name, key);
	source = source_find(s, key);
	if (source != NULL)
		source->used_ms = clock_boot_ms();
	return source != NULL;
}

/* Calls each() for every reference of a VM that may name a source. */
static void each_reference(const struct vm *vm, void (*each)(void *data, const char *url),
                           void *data)
{
	each(data, vm->spec.flake);
	each(data, vm->update.flake);
	each(data, vm->resolved.base_url);
	for (uint32_t i = 0; i < vm->n_generations; i++) {
		each(data, vm->generations[i].flake);
		each(data, vm->generations[i].resolved.base_url);
	}
}

static bool may_name(const char *url)
{
	return strncmp(url, STORE, strlen(STORE)) == 0 &&
	       strlen(url) > strlen(STORE) + STORE_KEY - 1;
}

static void mark_named(void *data, const char *url)
{
	struct source *source = may_name(url) ? source_find(data, url + strlen(STORE)) : NULL;

	if (source != NULL)
		source->named = true;
}

static void want_missing(void *data, const char *url)
{
	struct source_name name;

	if (may_name(url) && source_find(data, url + strlen(STORE)) == NULL &&
	    source_of_url(url, &name))
		task_want(data, &name);
}

/* What the state does not name goes when it is old enough. */
static void sweep(struct sources *s)
{
	const struct state *state = s->config.state;
	uint64_t now_ms = clock_boot_ms();

	s->swept_ms = now_ms;
	for (size_t i = 0; i < s->n; i++)
		s->items[i].named = false;
	for (size_t i = 0; i < state->n_vms && s->n > 0; i++)
		each_reference(state->vms[i], mark_named, s);
	for (size_t i = s->n; i-- > 0;) {
		struct source *source = &s->items[i];
		char hex[SOURCE_HEX];

		if (source->named)
			source->used_ms = now_ms;
		if (now_ms - source->used_ms < s->config.config->sources_grace_ms)
			continue;
		source_hex(&source->name, hex);
		log_event(LOG_INFO, "node.source.dropped", "source=%s bytes=%" PRIu64, hex,
		          source->size);
		source_drop(s, source);
	}
	tasks_sweep(s);
	s->scanned = 0;
}

int sources_make(struct sources *s, uint64_t n, int *ret_fd, struct blix_error *err)
{
	uint64_t max = s->config.config->sources_bytes;
	int fd;

	if (s->bytes + n > max)
		sweep(s);
	if (s->bytes + n > max) {
		(void)blix_fail(err, BLIX_E_DISKFULL,
		                "sources take %" PRIu64 " of %" PRIu64 " bytes on this node",
		                s->bytes, max);
		blix_reason(err, "sources-full");
		blix_hint(err, "delete VMs of local flakes, or raise sources.maxBytes");
		return -(int)BLIX_E_DISKFULL;
	}
	fd = open(s->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return blix_fail_sys(err, errno, "make a file in %s", s->dir);
	*ret_fd = fd;
	return 0;
}

struct keeping {
	uv_work_t work;
	struct sources *s;
	int fd;
	uint64_t size;
	struct source_name name;
	char *path, *link;
	int rc;
	struct blix_error err;
	void (*cb)(void *data, const struct blix_error *err);
	void *data;
};

/* In the pool. The name comes last: what has it is whole. */
static void work_keep(uv_work_t *work)
{
	struct keeping *k = work->data;
	cleanup(freep) char *file = xasprintf("/proc/self/fd/%d", k->fd);
	cleanup(closep) int dir = -1;

	if (linkat(AT_FDCWD, file, AT_FDCWD, k->link, AT_SYMLINK_FOLLOW) < 0) {
		k->rc = blix_fail_sys(&k->err, errno, "link %s", k->link);
		return;
	}
	crash_point("source-linked");
	if (rename(k->link, k->path) < 0) {
		k->rc = blix_fail_sys(&k->err, errno, "rename %s", k->link);
		(void)unlink(k->link);
		return;
	}
	dir = open(k->s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || fsync(dir) < 0)
		k->rc = blix_fail_sys(&k->err, errno, "sync %s", k->s->dir);
	crash_point("source-kept");
}

static void on_kept(uv_work_t *work, int status)
{
	struct keeping *k = work->data;
	struct sources *s = k->s;
	char hex[SOURCE_HEX];

	(void)status;
	(void)close(k->fd);
	if (k->rc == 0 && !s->closing) {
		source_add(s, &k->name, k->size);
		source_hex(&k->name, hex);
		log_event(LOG_INFO, "node.source.kept", "source=%s bytes=%" PRIu64, hex, k->size);
	}
	k->cb(k->data, k->rc < 0 ? &k->err : NULL);
	free(k->path);
	free(k->link);
	free(k);
	sources_work_done(s);
}

void sources_keep(struct sources *s, int fd, uint64_t size, const struct source_name *name,
                  void (*cb)(void *data, const struct blix_error *err), void *data)
{
	struct keeping *k = xcalloc(1, sizeof(*k));

	*k = (struct keeping){
		.s = s, .fd = fd, .size = size, .name = *name, .cb = cb, .data = data};
	k->path = source_path(s, name);
	k->link = xasprintf("%s.%u", k->path, ++s->links);
	k->work.data = k;
	s->busy++;
	if (uv_queue_work(s->config.loop, &k->work, work_keep, on_kept) != 0)
		abort(); /* only without a function to call */
}

bool sources_alone(const struct sources *s)
{
	uint64_t id;

	return s->config.servers(s->config.data, &id, 1) < 2;
}

/* What changed in the state since the last look. Not in each turn: it is a walk over all VMs. */
static void follow(struct sources *s)
{
	const struct state *state = s->config.state;
	uint64_t since = s->scanned <= state->revision ? s->scanned : 0;

	if (sources_alone(s) || state->revision == s->scanned)
		return;
	for (size_t i = 0; i < state->n_vms; i++) {
		if (since == 0 || state->vms[i]->revision > since)
			each_reference(state->vms[i], want_missing, s);
	}
	s->scanned = state->revision;
}

void sources_tick(struct sources *s)
{
	uint64_t age_ms = clock_boot_ms() - s->swept_ms;

	if (s->closing)
		return;
	if (age_ms >= SWEEP_MS || age_ms >= s->config.config->sources_grace_ms)
		sweep(s);
	follow(s);
	tasks_wake(s);
}
