/* Little-endian fields: see codec.h. */
#include "core/codec.h"

#include "base/alloc.h"

void put_u8(struct buf *out, uint8_t value)
{
	(void)buf_add(out, &value, 1);
}

void put_u32(struct buf *out, uint32_t value)
{
	uint8_t bytes[4];

	for (unsigned i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
	(void)buf_add(out, bytes, sizeof(bytes));
}

void put_u64(struct buf *out, uint64_t value)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
	(void)buf_add(out, bytes, sizeof(bytes));
}

void put_bytes(struct buf *out, const void *bytes, size_t n)
{
	put_u32(out, (uint32_t)n);
	(void)buf_add(out, bytes, n);
}

void put_string(struct buf *out, const char *text)
{
	put_bytes(out, text != NULL ? text : "", text != NULL ? strlen(text) : 0);
}

void put_text(struct buf *out, const char *text, size_t max)
{
	size_t n = text != NULL ? strlen(text) : 0;

	if (n > max) {
		n = max;
		while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
			n--;
	}
	put_bytes(out, n > 0 ? text : "", n);
}

static const uint8_t *advance(struct codec *in, size_t n)
{
	const uint8_t *p = in->at;

	if (in->failed || in->left < n) {
		in->failed = true;
		return NULL;
	}
	in->at += n;
	in->left -= n;
	return p;
}

uint8_t get_u8(struct codec *in)
{
	const uint8_t *p = advance(in, 1);

	return p != NULL ? p[0] : 0;
}

uint32_t get_u32(struct codec *in)
{
	const uint8_t *p = advance(in, 4);

	if (p == NULL)
		return 0;
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t get_u64(struct codec *in)
{
	uint64_t low = get_u32(in);

	return low | (uint64_t)get_u32(in) << 32;
}

uint32_t get_enum(struct codec *in, uint32_t count)
{
	uint32_t value = get_u32(in);

	if (value < count)
		return value;
	in->failed = true;
	return 0;
}

bool get_bool(struct codec *in)
{
	uint8_t value = get_u8(in);

	if (value > 1)
		in->failed = true;
	return value == 1;
}

char *get_string(struct codec *in, size_t max)
{
	uint32_t n = get_u32(in);
	const uint8_t *p;

	if (n > max)
		in->failed = true;
	p = advance(in, n);
	if (p == NULL || memchr(p, '\0', n) != NULL) {
		in->failed = true;
		return xstrdup("");
	}
	return xstrndup((const char *)p, n);
}

void get_string_into(struct codec *in, char **slot, size_t max)
{
	char *text = get_string(in, max);

	free(*slot);
	*slot = text;
}

void get_name(struct codec *in, char *out, size_t size)
{
	cleanup(freep) char *text = get_string(in, size - 1);

	memcpy(out, text, strlen(text) + 1);
}

bool codec_end(const struct codec *in)
{
	return !in->failed && in->left == 0;
}
