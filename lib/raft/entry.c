/* Log entries to bytes and back: see entry.h. Reading verifies the checksum and walks every length
 * first, so that entry_next needs no errors; building aborts when memory runs out. */
#include "raft/entry.h"

#include "base/alloc.h"
#include "raft/bytes.h"

#include <inttypes.h>
#include <raft.h>
#include <stdlib.h>
#include <xxhash.h>

#define ENTRY_MAGIC   0x45584c42u /* "BLXE" */
#define ENTRY_VERSION 1
#define CHECKED       16u /* offset of the first byte that the checksum covers */

static size_t padded(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

static void entry_room(struct entry_builder *b, size_t n)
{
	size_t size = b->size == 0 ? 1024 : b->size;

	while (size < b->len + n)
		size *= 2;
	if (size == b->size)
		return;
	b->data = raft_realloc(b->data, size);
	if (b->data == NULL)
		abort();
	b->size = size;
}

void entry_init(struct entry_builder *b)
{
	*b = (struct entry_builder){0};
	entry_room(b, ENTRY_HEADER);
	b->len = ENTRY_HEADER;
}

void entry_done(struct entry_builder *b)
{
	raft_free(b->data);
	*b = (struct entry_builder){0};
}

void entry_add(struct entry_builder *b, const void *command, size_t n)
{
	entry_room(b, 4 + n);
	put_u32(b->data + b->len, (uint32_t)n);
	memcpy(b->data + b->len + 4, command, n);
	b->len += 4 + n;
	b->count++;
}

size_t entry_seal(struct entry_builder *b, const struct entry_header *header)
{
	size_t len = padded(b->len);

	entry_room(b, len - b->len);
	memset(b->data + b->len, 0, len - b->len);
	put_u32(b->data, ENTRY_MAGIC);
	put_u16(b->data + 4, ENTRY_VERSION);
	put_u16(b->data + 6, 0);
	put_u32(b->data + 8, b->count);
	put_u64(b->data + 16, header->elapsed_ms);
	put_u64(b->data + 24, header->wall_ms);
	put_u64(b->data + 32, header->proposer);
	put_u64(b->data + 40, header->sequence);
	put_u32(b->data + 12, XXH32(b->data + CHECKED, len - CHECKED, b->count));
	return len;
}

static bool body_is_whole(const uint8_t *p, size_t n, uint32_t count)
{
	for (; count > 0; count--) {
		size_t length;

		if (n < 4)
			return false;
		length = get_u32(p);
		if (length == 0 || length > n - 4)
			return false;
		p += 4 + length;
		n -= 4 + length;
	}
	return n < 8;
}

int entry_read(const void *data, size_t n, struct entry_header *ret,
               struct entry_reader *ret_reader, struct blix_error *err)
{
	const uint8_t *p = data;
	uint32_t count;

	if (n < ENTRY_HEADER || get_u32(p) != ENTRY_MAGIC)
		return blix_fail(err, BLIX_E_CORRUPT, "log entry of %zu bytes is not blix's", n);
	if (get_u16(p + 4) != ENTRY_VERSION || get_u16(p + 6) != 0)
		return blix_fail(err, BLIX_E_CORRUPT,
		                 "log entry has version %u and flags %#x, this program reads "
		                 "version %u: a newer blixd wrote it",
		                 get_u16(p + 4), get_u16(p + 6), ENTRY_VERSION);
	count = get_u32(p + 8);
	if (get_u32(p + 12) != XXH32(p + CHECKED, n - CHECKED, count))
		return blix_fail(err, BLIX_E_CORRUPT, "log entry fails its checksum");
	if (!body_is_whole(p + ENTRY_HEADER, n - ENTRY_HEADER, count))
		return blix_fail(err, BLIX_E_CORRUPT, "log entry is malformed");
	*ret = (struct entry_header){
		.count = count,
		.elapsed_ms = get_u64(p + 16),
		.wall_ms = get_u64(p + 24),
		.proposer = get_u64(p + 32),
		.sequence = get_u64(p + 40),
	};
	*ret_reader = (struct entry_reader){.next = p + ENTRY_HEADER, .left = count};
	return 0;
}

bool entry_next(struct entry_reader *r, const uint8_t **ret_command, size_t *ret_n)
{
	if (r->left == 0)
		return false;
	*ret_n = get_u32(r->next);
	*ret_command = r->next + 4;
	r->next += 4 + *ret_n;
	r->left--;
	return true;
}
