/* Memory of our own, small and bounded: failing to get it stops the program, since a replica that
 * cannot apply must stop. What an outsider sizes goes through struct buf and its cap instead. */
#ifndef BLIX_BASE_ALLOC_H
#define BLIX_BASE_ALLOC_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

void *xcalloc(size_t n, size_t size) __attribute__((malloc, returns_nonnull));
/* n members of `size` bytes; the product is checked. */
void *xreallocarray(void *p, size_t n, size_t size) __attribute__((returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
/* Copies n bytes and terminates them. */
char *xstrndup(const char *s, size_t n) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2), returns_nonnull));
/* Replaces *p by a copy of s (NULL stays NULL). */
void xreplace(char **p, const char *s);

/* `cleanup(freep) char *text = NULL;` frees at the end of the scope; take() gives it away. */
#define cleanup(fn) __attribute__((cleanup(fn)))
#define take(p)                                                                                    \
	({                                                                                         \
		__typeof__(p) took_ = (p);                                                         \
		(p) = NULL;                                                                        \
		took_;                                                                             \
	})

static inline void freep(void *p)
{
	void *memory;

	memcpy(&memory, p, sizeof(memory));
	free(memory);
}

#define array_size(a) (sizeof(a) / sizeof((a)[0]))
/* Versions of clang-format disagree on the minus after a cast. */
/* clang-format off */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))
/* clang-format on */

#endif
