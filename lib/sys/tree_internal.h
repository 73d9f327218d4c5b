/* The form of an entry, between the two halves of tree.h. All numbers are little endian. */
#ifndef BLIX_SYS_TREE_INTERNAL_H
#define BLIX_SYS_TREE_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#define TREE_HEADER 23 /* u8 type, u32 mode, i64 mtime, u64 size, u16 length of the path */

enum tree_type { TREE_DIRECTORY = 1, TREE_FILE, TREE_LINK, TREE_END };

static inline void tree_put(unsigned char *at, unsigned n, uint64_t v)
{
	for (unsigned i = 0; i < n; i++)
		at[i] = (unsigned char)(v >> (8 * i));
}

static inline uint64_t tree_get(const char *at, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n; i++)
		v |= (uint64_t)(unsigned char)at[i] << (8 * i);
	return v;
}

#endif
