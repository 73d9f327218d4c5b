/* A ring of (revision, VM): see change.h. */
#include "node/change.h"

#include <assert.h>

void changes_note(struct changes *changes, uint64_t revision, uint64_t uid)
{
	struct change *oldest = &changes->ring[changes->first];

	if (changes->n == LIMIT_CHANGES) {
		changes->since = oldest->revision;
		*oldest = (struct change){.revision = revision, .uid = uid};
		changes->first = (changes->first + 1) % LIMIT_CHANGES;
		return;
	}
	changes->ring[(changes->first + changes->n) % LIMIT_CHANGES] =
		(struct change){.revision = revision, .uid = uid};
	changes->n++;
}

void changes_forget(struct changes *changes, uint64_t revision)
{
	changes->first = 0;
	changes->n = 0;
	changes->since = revision;
}

const struct change *changes_at(const struct changes *changes, size_t i)
{
	assert(i < changes->n);
	return &changes->ring[(changes->first + changes->n - 1 - i) % LIMIT_CHANGES];
}
