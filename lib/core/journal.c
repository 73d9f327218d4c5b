/* The journal's bytes and its table of what is open: see journal.h. */
#include "core/journal.h"

#include "base/alloc.h"
#include "base/crc32c.h"
#include "core/codec.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HEADER     16u
#define VERSION    2u          /* 1: no step after OWN */
#define FRAME      20u         /* before its records */
#define FRAME_MARK 0x314d524au /* "JRM1" */
#define LONG_BYTES (256u << 10)

static const char magic[8] = {'b', 'l', 'i', 'x', 'j', 'r', 'n', 'l'};

enum { RECORD_INTENT = 1, RECORD_DONE = 2 };

void journal_init(struct journal *j)
{
	memset(j, 0, sizeof(*j));
	buf_init(&j->pending, LIMIT_JOURNAL);
}

void journal_free(struct journal *j)
{
	free(j->open);
	buf_done(&j->pending);
	journal_init(j);
}

const char *journal_step_name(enum journal_step step)
{
	static const char *const names[] = {[JOURNAL_NONE] = "none",
#define X(name, text) [JOURNAL_##name] = text,
	                                    JOURNAL_STEPS(X)
#undef X
	};

	return step < JOURNAL_STEP_COUNT ? names[step] : "unknown";
}

uint64_t journal_digest(const void *data, size_t n)
{
	uint64_t hash = XXH3_64bits(data, n);

	return hash != 0 ? hash : 1;
}

/* Serials only grow, so the table is in order by itself. */
static size_t find(const struct journal *j, uint64_t serial, bool *ret_found)
{
	size_t low = 0, high = j->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (j->open[mid].serial < serial)
			low = mid + 1;
		else
			high = mid;
	}
	*ret_found = low < j->n && j->open[low].serial == serial;
	return low;
}

const struct journal_intent *journal_find(const struct journal *j, uint64_t serial)
{
	bool found;
	size_t at = find(j, serial, &found);

	return found ? &j->open[at] : NULL;
}

static void open_add(struct journal *j, const struct journal_intent *intent)
{
	if (j->n == j->size) {
		j->size = j->size < 16 ? 16 : j->size * 2;
		j->open = xreallocarray(j->open, j->size, sizeof(*j->open));
	}
	j->open[j->n++] = *intent;
	j->serial = intent->serial;
}

void journal_drop(struct journal *j, uint64_t serial)
{
	bool found;
	size_t at = find(j, serial, &found);

	if (!found)
		return;
	j->n--;
	memmove(j->open + at, j->open + at + 1, (j->n - at) * sizeof(*j->open));
}

static void put_intent(struct buf *out, const struct journal_intent *intent)
{
	put_u8(out, RECORD_INTENT);
	put_u64(out, intent->serial);
	put_u64(out, intent->operation);
	put_u64(out, intent->uid);
	put_u64(out, intent->epoch);
	put_u64(out, intent->digest);
	put_u32(out, intent->step);
	put_string(out, intent->name);
}

uint64_t journal_intend(struct journal *j, const struct journal_intent *intent)
{
	struct journal_intent copy = *intent;

	copy.serial = j->serial + 1;
	open_add(j, &copy);
	put_intent(&j->pending, &copy);
	return copy.serial;
}

void journal_settle(struct journal *j, uint64_t serial, enum journal_result result)
{
	if (journal_find(j, serial) == NULL)
		return;
	journal_drop(j, serial);
	put_u8(&j->pending, RECORD_DONE);
	put_u64(&j->pending, serial);
	put_u8(&j->pending, (uint8_t)result);
}

static uint32_t number_at(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Of all but the four bytes that hold it. */
static uint32_t frame_sum(const uint8_t *frame, size_t n_records)
{
	return crc32c(crc32c(0, frame, FRAME - 4), frame + FRAME, n_records);
}

static void put_frame(struct journal *j, const void *records, size_t n, struct buf *out)
{
	size_t begin = out->len;

	put_u32(out, FRAME_MARK);
	put_u32(out, (uint32_t)n);
	put_u64(out, ++j->sequence);
	put_u32(out, 0);
	(void)buf_add(out, n > 0 ? records : "", n);
	if (!buf_failed(out)) {
		uint8_t *frame = (uint8_t *)out->data + begin;
		uint32_t sum = frame_sum(frame, n);

		for (unsigned i = 0; i < 4; i++)
			frame[FRAME - 4 + i] = (uint8_t)(sum >> (8 * i));
	}
	j->bytes += FRAME + n;
}

bool journal_frame(struct journal *j, struct buf *out)
{
	if (j->pending.len == 0 && !buf_failed(&j->pending))
		return false;
	out->failed = out->failed || buf_failed(&j->pending);
	put_frame(j, j->pending.data, j->pending.len, out);
	buf_clear(&j->pending);
	return true;
}

void journal_rewrite(struct journal *j, struct buf *out)
{
	cleanup(buf_done) struct buf records;

	buf_init(&records, LIMIT_JOURNAL);
	for (size_t i = 0; i < j->n; i++)
		put_intent(&records, &j->open[i]);
	out->failed = out->failed || buf_failed(&records);
	(void)buf_add(out, magic, sizeof(magic));
	put_u32(out, VERSION);
	put_u32(out, out->failed ? 0 : crc32c(0, out->data + out->len - 12, 12));
	j->bytes = HEADER;
	j->sequence = 0;
	j->old = false;
	put_frame(j, records.data, records.len, out);
	buf_clear(&j->pending);
}

bool journal_is_long(const struct journal *j)
{
	return j->bytes > LONG_BYTES && j->bytes / 4 > j->n * (sizeof(struct journal_intent));
}

static int corrupt(struct blix_error *err, size_t at, const char *what)
{
	(void)blix_fail(err, BLIX_E_CORRUPT, "the journal is damaged at byte %zu: %s", at, what);
	blix_reason(err, "journal-corrupt");
	return -BLIX_E_CORRUPT;
}

static bool get_intent(struct journal *j, struct codec *in)
{
	struct journal_intent intent = {.serial = get_u64(in)};

	intent.operation = get_u64(in);
	intent.uid = get_u64(in);
	intent.epoch = get_u64(in);
	intent.digest = get_u64(in);
	intent.step = get_enum(in, JOURNAL_STEP_COUNT);
	get_name(in, intent.name, sizeof(intent.name));
	if (in->failed || intent.step == JOURNAL_NONE || intent.serial <= j->serial)
		return false;
	open_add(j, &intent);
	return true;
}

static bool get_done(struct journal *j, struct codec *in)
{
	uint64_t serial = get_u64(in);
	uint8_t result = get_u8(in);

	if (in->failed || result >= JOURNAL_RESULT_COUNT || journal_find(j, serial) == NULL)
		return false;
	journal_drop(j, serial);
	return true;
}

static bool get_records(struct journal *j, const uint8_t *records, size_t n)
{
	struct codec in = {.at = records, .left = n};

	while (in.left > 0) {
		uint8_t kind = get_u8(&in);

		if (kind == RECORD_INTENT ? !get_intent(j, &in)
		                          : kind != RECORD_DONE || !get_done(j, &in))
			return false;
	}
	return codec_end(&in);
}

/* The bytes of the whole frame at `frame`, 0 when there is none. */
static size_t frame_length(const uint8_t *frame, size_t left)
{
	size_t n;

	if (left < FRAME || number_at(frame) != FRAME_MARK)
		return 0;
	n = number_at(frame + 4);
	if (n > left - FRAME || number_at(frame + 16) != frame_sum(frame, n))
		return 0;
	return FRAME + n;
}

static bool has_frame_after(const uint8_t *bytes, size_t n)
{
	for (size_t at = 1; at + FRAME <= n; at++) {
		if (frame_length(bytes + at, n - at) != 0)
			return true;
	}
	return false;
}

static int replay_header(const uint8_t *bytes, size_t n, struct blix_error *err)
{
	if (n < HEADER || memcmp(bytes, magic, sizeof(magic)) != 0 ||
	    number_at(bytes + 12) != crc32c(0, bytes, 12))
		return corrupt(err, 0, "no header");
	if (number_at(bytes + 8) >= 1 && number_at(bytes + 8) <= VERSION)
		return 0;
	(void)blix_fail(err, BLIX_E_REFUSED, "the journal has version %u: a newer blixd wrote it",
	                number_at(bytes + 8));
	blix_reason(err, "journal-version");
	return -BLIX_E_REFUSED;
}

static int replay_frames(struct journal *j, const uint8_t *bytes, size_t n, struct blix_error *err)
{
	size_t at = HEADER, length;

	for (; at < n; at += length) {
		struct codec sequence = {.at = bytes + at + 8, .left = 8};

		length = frame_length(bytes + at, n - at);
		if (length == 0 && has_frame_after(bytes + at, n - at))
			return corrupt(err, at, "whole records follow it");
		if (length == 0)
			break;
		if (get_u64(&sequence) != j->sequence + 1)
			return corrupt(err, at, "records are missing before it");
		if (!get_records(j, bytes + at + FRAME, length - FRAME))
			return corrupt(err, at, "a record makes no sense");
		j->sequence++;
	}
	j->bytes = at;
	return 0;
}

int journal_replay(struct journal *j, const uint8_t *bytes, size_t n, size_t *ret_kept,
                   struct blix_error *err)
{
	int rc = replay_header(bytes, n, err);

	if (rc == 0)
		rc = replay_frames(j, bytes, n, err);
	if (rc < 0) {
		journal_free(j);
		return rc;
	}
	j->old = number_at(bytes + 8) < VERSION;
	*ret_kept = (size_t)j->bytes;
	return 0;
}
