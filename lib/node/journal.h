/* The node's journal on the loop: one append-only file (core/journal.h has its bytes).
 *
 * node_journal_intend() calls back once its INTENTs are on the disk, and only then may the effects
 * begin. Writes run on libuv's pool, one at a time; what is asked for meanwhile shares the next
 * one. DONEs travel with the next INTENT, or alone within a second: one that a crash loses only
 * makes its step be asked about once more.
 *
 * When a write or sync fails, the callbacks get the error and the effects do not happen. The file
 * is then not trusted any more: the next request writes a new one from what is in memory, fsyncs it
 * and renames it over the old, so nothing has to be restarted once there is space again. The same
 * makes a long file short.
 */
#ifndef BLIX_NODE_JOURNAL_H
#define BLIX_NODE_JOURNAL_H

#include "core/journal.h"

#include <uv.h>

struct node_journal;

/* err NULL: durable. */
typedef void (*node_journal_cb)(void *data, const struct blix_error *err);

/* Reads PATH, which need not exist; nothing is written yet. Fails when it is damaged or from a
 * newer blixd. */
int node_journal_open(uv_loop_t *loop, const char *path, struct node_journal **ret,
                      struct blix_error *err);
/* Fills in the serials. cb comes exactly once, never from inside. */
void node_journal_intend(struct node_journal *j, struct journal_intent *intents, size_t n,
                         node_journal_cb cb, void *data);
/* Adds the DONE of an open INTENT. */
void node_journal_settle(struct node_journal *j, uint64_t serial, enum journal_result result);
/* What is open: its entries move with every settle. */
const struct journal *node_journal_table(const struct node_journal *j);
/* Writes what is pending and frees it; no callback of node_journal_intend() may be outstanding. */
void node_journal_close(struct node_journal *j, void (*cb)(void *data), void *data);

#endif
