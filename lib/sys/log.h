/* One line = one logfmt record on stderr, with the journal's "<N>" priority prefix when stderr is
 * the journal (JOURNAL_STREAM is set). Only lib/node and cmd log; each error once.
 *
 *   log_event(LOG_WARNING, "vm.start.failed", "vm=%s try=%u", name, tries);
 *   log_error(LOG_ERR, "raft.closed", &err, "index=%" PRIu64, index);
 *
 */
#ifndef BLIX_SYS_LOG_H
#define BLIX_SYS_LOG_H

#include "base/error.h"

#include <syslog.h>

void log_level(int priority); /* records above it (less urgent) are dropped; LOG_INFO at start */
void log_event(int priority, const char *event, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The same with ` reason=... err="..."` appended. fmt may be "". */
void log_error(int priority, const char *event, const struct blix_error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
