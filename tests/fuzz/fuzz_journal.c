/* Journals as a disk brings them: refused with a named error, or a table that is written and read
 * back unchanged. A first byte of 'r' wraps what follows into a frame with a right checksum, so
 * that records are reached as well. */
#include "fuzz.h"

#include "base/crc32c.h"
#include "core/codec.h"
#include "core/journal.h"

#include <string.h>

static void wrap(const uint8_t *records, size_t n, struct buf *out)
{
	struct buf frame;
	struct journal j;

	journal_init(&j);
	journal_rewrite(&j, out);
	journal_free(&j);
	buf_init(&frame, LIMIT_JOURNAL);
	put_u32(&frame, 0x314d524au);
	put_u32(&frame, (uint32_t)n);
	put_u64(&frame, 2);
	(void)buf_add(out, frame.data, frame.len);
	put_u32(out, crc32c(crc32c(0, frame.data, frame.len), records, n));
	(void)buf_add(out, records, n);
	buf_done(&frame);
}

static void check(struct journal *j)
{
	struct journal again;
	struct buf out;
	size_t kept = 0;

	buf_init(&out, LIMIT_JOURNAL);
	journal_init(&again);
	journal_rewrite(j, &out);
	assert(journal_replay(&again, (const uint8_t *)out.data, out.len, &kept, NULL) == 0);
	assert(kept == out.len && again.n == j->n && again.bytes == j->bytes);
	for (size_t i = 0; i < j->n; i++) {
		assert(again.open[i].serial == j->open[i].serial);
		assert(again.open[i].operation == j->open[i].operation);
		assert(again.open[i].uid == j->open[i].uid);
		assert(again.open[i].epoch == j->open[i].epoch);
		assert(again.open[i].digest == j->open[i].digest);
		assert(again.open[i].step == j->open[i].step);
		assert(strcmp(again.open[i].name, j->open[i].name) == 0);
	}
	journal_free(&again);
	buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct blix_error err;
	struct journal j;
	struct buf bytes;
	size_t kept = 0;

	buf_init(&bytes, LIMIT_JOURNAL);
	if (n > 0 && data[0] == 'r')
		wrap(data + 1, n - 1, &bytes);
	else if (n > 0)
		(void)buf_add(&bytes, data, n);
	journal_init(&j);
	if (journal_replay(&j, (const uint8_t *)bytes.data, bytes.len, &kept, &err) < 0) {
		assert(j.n == 0 && err.reason[0] != '\0');
	} else {
		assert(kept <= bytes.len && kept == j.bytes);
		check(&j);
	}
	journal_free(&j);
	buf_done(&bytes);
	return 0;
}
