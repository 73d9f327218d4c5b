/* Shared by sources.c (the files, what the state names) and sources_fetch.c (one source that is
 * wanted: looked through here, or fetched). */
#ifndef BLIX_NODE_SOURCES_INTERNAL_H
#define BLIX_NODE_SOURCES_INTERNAL_H

#include "node/sources.h"

#include <sys/queue.h>

#define STORE_KEY 33 /* the digits of a store path, with the NUL */

/* One file. */
struct source {
	char key[STORE_KEY]; /* as the state's references begin: they are compared by the million */
	struct source_name name;
	uint64_t size;
	uint64_t used_ms; /* boot clock: a wall clock may jump */
	bool named;       /* by the state, in the sweep under way */
};

struct task;
TAILQ_HEAD(task_list, task);

/* There is no other server that could have what this one lacks. */
bool sources_alone(const struct sources *s);

struct sources {
	struct sources_config config;
	char *dir;
	struct source *items; /* by key */
	size_t n, size;
	uint64_t bytes;
	uint64_t scanned;  /* revision of the state that was looked through */
	uint64_t swept_ms; /* boot clock */
	unsigned links;    /* counts names of files that are being put into place */
	struct task_list tasks;
	unsigned working; /* tasks that fetch or look through */
	unsigned busy;    /* pieces of work in libuv's pool, and the timer while it closes */
	uv_timer_t wake;  /* tasks are begun from the loop */
	bool closing;
	void (*closed)(void *data);
	void *closed_data;
};

/* sources.c */
void source_key(const struct source_name *name, char out[STORE_KEY]);
struct source *source_find(const struct sources *s, const char *key);
char *source_path(const struct sources *s, const struct source_name *name);
/* Removes the file. */
void source_drop(struct sources *s, struct source *source);
/* A piece of work is over. */
void sources_work_done(struct sources *s);

/* sources_fetch.c */
/* The state names it and it is not here. */
void task_want(struct sources *s, const struct source_name *name);
/* Begins what is due, later. */
void tasks_wake(struct sources *s);
/* Forgets those that nobody waits for: the state is asked again for them. */
void tasks_sweep(struct sources *s);
void tasks_close(struct sources *s);

#endif
