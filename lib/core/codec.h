/* Bytes <-> fields for commands and snapshots: little endian, strings length-prefixed (u32).
 *
 * A reader carries its failure: once a field does not fit, every later one reads as 0 or "" and
 * codec_end() says so, so that a decoder reads straight through and checks once.
 */
#ifndef BLIX_CORE_CODEC_H
#define BLIX_CORE_CODEC_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void put_u8(struct buf *out, uint8_t value);
void put_u32(struct buf *out, uint32_t value);
void put_u64(struct buf *out, uint64_t value);
void put_bytes(struct buf *out, const void *bytes, size_t n);
void put_string(struct buf *out, const char *text); /* NULL is written as "" */
/* The same, cut to `max` bytes at a character's edge: for words that others wrote. */
void put_text(struct buf *out, const char *text, size_t max);

struct codec {
	const uint8_t *at;
	size_t left;
	bool failed;
};

uint8_t get_u8(struct codec *in);
uint32_t get_u32(struct codec *in);
uint64_t get_u64(struct codec *in);
/* An enumerator below `count`, else the reader fails. */
uint32_t get_enum(struct codec *in, uint32_t count);
bool get_bool(struct codec *in);
/* A fresh string of at most `max` bytes, without NUL inside; never NULL. */
char *get_string(struct codec *in, size_t max);
/* Replaces *slot. */
void get_string_into(struct codec *in, char **slot, size_t max);
/* Into a fixed array of `size` bytes. */
void get_name(struct codec *in, char *out, size_t size);
/* True when all was read and nothing is left over. */
bool codec_end(const struct codec *in);

#endif
