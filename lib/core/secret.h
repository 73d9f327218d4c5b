/* The names of a VM's secrets. The log knows names alone: a value goes from the client to the node
 * that runs the VM, and from there into the guest (node/secret.h, docs/guest-contract.md). */
#ifndef BLIX_CORE_SECRET_H
#define BLIX_CORE_SECRET_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct secrets {
	char **names; /* sorted, each once */
	size_t n;
};

/* A name becomes a file in the guest: a letter, a digit or '_', then also '.' and '-', at most
 * LIMIT_SECRET_NAME; not NAME.tmp, by which way NAME is written. */
int secret_name_check(const char *name, struct blix_error *err);
/* -BLIX_E_INVALID when the name is none, is there already, or they become too many. */
int secrets_add(struct secrets *secrets, const char *name, struct blix_error *err);
bool secrets_has(const struct secrets *secrets, const char *name);
void secrets_copy(struct secrets *to, const struct secrets *from); /* `to` fresh */
void secrets_done(struct secrets *secrets);

#endif
