/* The audit ring and its chain: see audit.h. */
#include "core/audit.h"

#include "base/alloc.h"

#include <assert.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static uint64_t hash_text(uint64_t hash, const char *text)
{
	/* With its NUL: "ab", "c" is not "a", "bc". */
	return XXH3_64bits_withSeed(text, strlen(text) + 1, hash);
}

static uint64_t record_hash(uint64_t before, const struct audit_record *r)
{
	const uint64_t numbers[] = {r->sequence, r->clock_ms, r->revision, r->code, r->why};
	uint64_t hash = before;

	for (size_t i = 0; i < array_size(numbers); i++) {
		uint8_t bytes[8]; /* little endian: servers of any machine agree */

		for (unsigned k = 0; k < 8; k++)
			bytes[k] = (uint8_t)(numbers[i] >> (8 * k));
		hash = XXH3_64bits_withSeed(bytes, sizeof(bytes), hash);
	}
	hash = hash_text(hash, r->principal);
	hash = hash_text(hash, r->verb);
	return hash_text(hash, r->object);
}

void audit_done(struct audit *audit)
{
	free(audit->records);
	memset(audit, 0, sizeof(*audit));
}

void audit_copy(struct audit *to, const struct audit *from)
{
	*to = *from;
	to->records = xreallocarray(NULL, from->size, sizeof(*from->records));
	if (from->size > 0)
		memcpy(to->records, from->records, from->size * sizeof(*from->records));
}

static struct audit_record *slot(const struct audit *audit, size_t i)
{
	assert(i < audit->n);
	return &audit->records[(audit->first + i) % audit->size];
}

const struct audit_record *audit_at(const struct audit *audit, size_t i)
{
	return slot(audit, i);
}

uint64_t audit_head(const struct audit *audit)
{
	return audit->n > 0 ? slot(audit, audit->n - 1)->hash : audit->base;
}

static void make_room(struct audit *audit)
{
	if (audit->n < audit->size)
		return;
	if (audit->size < LIMIT_AUDIT) {
		assert(audit->first == 0);
		audit->size = audit->size == 0 ? 64 : audit->size * 2;
		audit->records =
			xreallocarray(audit->records, audit->size, sizeof(*audit->records));
		/* Views copy whole rings. */
		memset(audit->records + audit->n, 0,
		       (audit->size - audit->n) * sizeof(*audit->records));
		return;
	}
	audit->base = slot(audit, 0)->hash;
	audit->first = (audit->first + 1) % audit->size;
	audit->n--;
}

void audit_add(struct audit *audit, const struct audit_record *record)
{
	uint64_t before = audit_head(audit);
	struct audit_record *r;

	make_room(audit);
	audit->n++;
	r = slot(audit, audit->n - 1);
	*r = *record;
	r->sequence = ++audit->sequence;
	r->hash = record_hash(before, r);
}

bool audit_holds(const struct audit *audit)
{
	uint64_t hash = audit->base;

	for (size_t i = 0; i < audit->n; i++) {
		hash = record_hash(hash, slot(audit, i));
		if (hash != slot(audit, i)->hash)
			return false;
	}
	return true;
}
