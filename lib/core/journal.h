/* What a node is about to do to its host, and what came of it, as bytes of an append-only file.
 *
 * Before an effect an INTENT is added and made durable, after it a DONE. journal_replay() reads the
 * file back: what has an INTENT and no DONE is open, in order of serial. The caller asks the host
 * about each of those and settles it.
 *
 * The file: a header of 16 bytes (magic, version, CRC32C), then frames. A frame is what one write
 * appends and one fdatasync makes durable: u32 magic, u32 length, u64 sequence (1, 2, ...), u32
 * CRC32C of all else, and `length` bytes of records. Only the last frame can be torn by a crash: it
 * counts as never written. A damaged one that whole frames follow is no crash but a broken disk:
 * the file is refused (-BLIX_E_CORRUPT, reason journal-corrupt). All numbers are little endian.
 * The version grows with the table of steps, so that an older blixd says what it met.
 */
#ifndef BLIX_CORE_JOURNAL_H
#define BLIX_CORE_JOURNAL_H

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Written to disk as numbers, 1 and up: rows are added at the end and never change. */
#define JOURNAL_STEPS(X)                                                                           \
	X(CLAIM, "claim")         /* claim.json in our own folder */                               \
	X(WRAPPER, "wrapper")     /* the wrapper flake */                                          \
	X(CREATE, "create")       /* microvm -c; digest: of the runner wanted */                   \
	X(UPDATE, "update")       /* microvm -u; digest: of the runner wanted */                   \
	X(MARK, "mark")           /* .blix.json with this epoch */                                 \
	X(BOOTED, "booted")       /* the booted link; digest: of its target */                     \
	X(CONSOLE, "console")     /* the console log of the last run put aside */                  \
	X(START, "start")         /* the supervisor was told to start it */                        \
	X(TERM, "term")           /* SIGTERM to its process */                                     \
	X(KILL, "kill")           /* SIGKILL to its process */                                     \
	X(IMAGES, "images")       /* volume images to orphans/NAME-UID */                          \
	X(ROOTS, "roots")         /* the garbage collector's roots removed */                      \
	X(DIRECTORY, "directory") /* upstream's directory removed */                               \
	X(RUN, "run")             /* the run directory removed */                                  \
	X(OWN, "own")             /* our own folder removed, the claim in it */                    \
	X(SETUP, "setup")         /* tap-up and its like, each with a mark of its own */           \
	X(TEARDOWN, "teardown")   /* their opposites, and the marks */                             \
	X(ADOPT, "adopt")         /* a directory that was foreign made ours */                     \
	X(PRUNE, "prune")         /* roots of generations that are no longer kept removed */       \
	X(REPAIR, "repair")       /* what a start would run mended by Nix */                       \
	X(DROP_IN, "drop-in")     /* the drop-in of the VM's unit; digest: of its text */          \
	X(UNIT, "unit")           /* the unit stopped for good and its drop-in removed */

enum journal_step {
	JOURNAL_NONE,
#define X(name, text) JOURNAL_##name,
	JOURNAL_STEPS(X)
#undef X
		JOURNAL_STEP_COUNT
};

enum journal_result {
	JOURNAL_DONE,   /* the effect is there */
	JOURNAL_FAILED, /* it was tried, or not, and is not there */
	JOURNAL_MOOT,   /* nobody asks any more: the VM is gone from the state */
	JOURNAL_RESULT_COUNT
};

struct journal_intent {
	uint64_t serial;    /* of this journal, given by journal_intend() */
	uint64_t operation; /* the state's id of it: the same on every node */
	uint64_t uid, epoch;
	uint64_t digest; /* of what the step was to bring about, 0: nothing beyond the above */
	enum journal_step step;
	char name[LIMIT_NAME + 1];
};

struct journal {
	struct journal_intent *open; /* by serial */
	size_t n, size;
	uint64_t serial;    /* the last one given */
	uint64_t sequence;  /* of the last frame */
	uint64_t bytes;     /* of the file */
	bool old;           /* the file is of an older version: it is to be written anew */
	struct buf pending; /* records that no frame holds yet */
};

void journal_init(struct journal *j);
void journal_free(struct journal *j);
const char *journal_step_name(enum journal_step step);
/* Of what a step brings about, never 0. */
uint64_t journal_digest(const void *data, size_t n);

/* Adds an INTENT; intent->serial is ignored. Returns its serial. */
uint64_t journal_intend(struct journal *j, const struct journal_intent *intent);
/* Adds the DONE of an open one; nothing when it is not open. */
void journal_settle(struct journal *j, uint64_t serial, enum journal_result result);
/* Forgets an open one whose INTENT could not be made durable. */
void journal_drop(struct journal *j, uint64_t serial);
const struct journal_intent *journal_find(const struct journal *j, uint64_t serial);

/* Takes what is pending as one frame to append; false when nothing is. */
bool journal_frame(struct journal *j, struct buf *out);
/* A whole new file with what is open and nothing else; what was pending is in it. */
void journal_rewrite(struct journal *j, struct buf *out);
/* True when most of the file is about what is over. */
bool journal_is_long(const struct journal *j);
/* Reads a file into an empty journal. *ret_kept: where a torn frame begins, n when all is whole. On
 * failure *j is empty. */
int journal_replay(struct journal *j, const uint8_t *bytes, size_t n, size_t *ret_kept,
                   struct blix_error *err);

#endif
