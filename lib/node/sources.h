/* Packed flakes of clients, as files of this node: stateDir/sources/HASH.nar, each named by the
 * SHA-256 of its bytes. They are outside the log; the state only names them, in the flakes of VMs
 * and of their generations.
 *
 * A file is there whole or not at all: it is linked into place when it is synced and its hash is
 * known. What the state names and this node lacks is fetched from other servers, so that each has
 * it; what the state does not name goes after a grace time. A file is looked through before it is
 * given away or unpacked: one that was altered is removed, and fetched anew.
 */
#ifndef BLIX_NODE_SOURCES_H
#define BLIX_NODE_SOURCES_H

#include "core/state.h"
#include "curl/fetch.h"
#include "node/config.h"
#include "sys/source.h"

#include <uv.h>

struct sources;
struct source_wait;

struct sources_config {
	uv_loop_t *loop;
	const struct config *config; /* of this node */
	/* The servers, this one included: fills up to n ids, returns how many there are. */
	size_t (*servers)(const void *data, uint64_t *ret, size_t n);
	/* Where one of them answers, until the next call; NULL: unknown. */
	const struct config_server *(*server)(const void *data, uint64_t id);
	const void *data;
	const struct state *state; /* the live one, only read */
	struct fetch_pool *fetch;
};

/* Makes the directory and looks at what is there; what is no source is removed. */
int sources_open(const struct sources_config *config, struct sources **ret, struct blix_error *err);
/* Those that wait are forgotten. The fetch pool must still be open. */
void sources_close(struct sources *sources, void (*cb)(void *data), void *data);

/* It is there, and stays for the grace time at least. */
bool sources_has(struct sources *sources, const struct source_name *name);
/* May n more bytes come? Fails with DISKFULL and reason sources-full. *ret_fd: a file without a
 * name, to be written and given to sources_keep(). */
int sources_make(struct sources *sources, uint64_t n, int *ret_fd, struct blix_error *err);
/* Puts it into place. fd is taken. cb comes once, from the loop; err NULL: it is on the disk. */
void sources_keep(struct sources *sources, int fd, uint64_t size, const struct source_name *name,
                  void (*cb)(void *data, const struct blix_error *err), void *data);

/* Calls cb once, from the loop, when the source is here and whole: with a descriptor, which is the
 * callee's, and its size; or with err: NOTFOUND (source-missing, no server has it), CORRUPT
 * (source-corrupt, every copy is damaged), UNAVAILABLE (fetch-failed: a server did not answer),
 * DISKFULL, ... `here`: no other server is asked. */
typedef void (*source_cb)(void *data, int fd, uint64_t size, const struct blix_error *err);
struct source_wait *sources_need(struct sources *sources, const struct source_name *name, bool here,
                                 source_cb cb, void *data);
/* cb does not come. */
void sources_forget(struct source_wait *wait);

/* Now and then: what the state has come to name is fetched, what it does not name goes. */
void sources_tick(struct sources *sources);

#endif
