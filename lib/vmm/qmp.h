/* A client of QEMU's monitor (QMP), blocking but never past its deadline, which spans the whole
 * session: connect, greeting, capabilities and every command. QEMU serves one client at a time; a
 * second one waits unanswered, and gets the error `timeout`. Safe to use from any thread.
 * Errors carry the reasons of vmm/address.h. */
#ifndef BLIX_VMM_QMP_H
#define BLIX_VMM_QMP_H

#include "base/error.h"
#include "base/json.h"

struct qmp;

int qmp_open(const char *socket, unsigned deadline_ms, struct qmp **ret, struct blix_error *err);
void qmp_free(struct qmp *q);
void qmp_freep(struct qmp **q);
/* `arguments` may be NULL and stays the caller's. *ret, the caller's, is what `return` held; ret
 * may be NULL. Events that arrive before the answer are passed over. */
int qmp_execute(struct qmp *q, const char *command, const cJSON *arguments, cJSON **ret,
                struct blix_error *err);
/* One command without arguments in a session of its own. */
int qmp_query(const char *socket, const char *command, unsigned deadline_ms, cJSON **ret,
              struct blix_error *err);

#endif
