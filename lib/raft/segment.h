/* A look at the segments of libraft's log that were still open, before libraft loads them.
 *
 * 0.22 cuts an open segment where a checksum fails, which is right after a torn write. Where a
 * length leads past the end of the file it frees what it has read twice, and aborts. That happens
 * in two cases. A length that passes its checksum never does so, thus one that leads outside is
 * damage: the log is refused. And a segment that is full but for 8 bytes, which are 0: they are cut
 * off, and libraft sees the end.
 */
#ifndef BLIX_RAFT_SEGMENT_H
#define BLIX_RAFT_SEGMENT_H

#include "base/error.h"

/* All open segments in `dir`. */
int segments_check(const char *dir, struct blix_error *err);

#endif
