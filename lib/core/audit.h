/* Who changed what: the last LIMIT_AUDIT mutations that people and nodes asked for, with their
 * results, in the order of the log.
 *
 * Each record's hash covers the record and the hash before it: one that is taken out, changed or
 * moved shows. XXH3 is enough for that order. Whoever can write the state can compute any hash,
 * keyed or not, so no hash in it proves anything alone: whoever wants proof keeps the newest hash
 * elsewhere, and must find it here again.
 */
#ifndef BLIX_CORE_AUDIT_H
#define BLIX_CORE_AUDIT_H

#include "base/error.h"
#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct audit_record {
	uint64_t sequence; /* counts records from 1, without gaps */
	uint64_t clock_ms;
	uint64_t revision;                   /* the state's after it */
	char principal[LIMIT_PRINCIPAL + 1]; /* who */
	char verb[24];                       /* what: "vm-delete" */
	char object[LIMIT_NAME + 1];         /* the name of what it is about; "" the cluster */
	enum blix_code code;                 /* BLIX_OK or why it was refused */
	uint32_t why;                        /* enum refusal */
	uint64_t hash;
};

struct audit {
	struct audit_record *records; /* a ring */
	size_t n, first, size;
	uint64_t sequence; /* of the newest record */
	uint64_t base;     /* the hash before the oldest record */
};

void audit_done(struct audit *audit);
void audit_copy(struct audit *to, const struct audit *from); /* `to` fresh */
/* Fills in sequence and hash. */
void audit_add(struct audit *audit, const struct audit_record *record);
/* The i-th record, oldest first. */
const struct audit_record *audit_at(const struct audit *audit, size_t i);
/* The newest hash, or the base. */
uint64_t audit_head(const struct audit *audit);
/* True when every hash is that of its record after the one before. */
bool audit_holds(const struct audit *audit);

#endif
