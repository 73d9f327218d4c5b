/* Small things encrypted at rest, by libsodium: XChaCha20-Poly1305 with a random nonce for each
 * file, under a key that is a file of its own (0600). A file says what it is for: one that was put
 * in another's place does not open.
 *
 * Files are replaced by rename and synced, so that a crash leaves the old or the new. */
#ifndef BLIX_SYS_SEAL_H
#define BLIX_SYS_SEAL_H

#include "base/buf.h"
#include "base/error.h"

#define SEAL_KEY 32

/* The key at `path`. With `make` a missing one is made; else it is -BLIX_E_NOTFOUND. A file that
 * cannot be a key is -BLIX_E_CORRUPT, and is never replaced. */
int seal_key(const char *path, bool make, unsigned char key[SEAL_KEY], struct blix_error *err);
int seal_write(const char *path, const unsigned char key[SEAL_KEY], const char *what,
               const void *data, size_t n, struct blix_error *err);
/* Appends what the file holds to *out, whose cap bounds it. -BLIX_E_NOTFOUND: no such file;
 * -BLIX_E_CORRUPT: damaged, of another key, or of another `what`. */
int seal_read(const char *path, const unsigned char key[SEAL_KEY], const char *what,
              struct buf *out, struct blix_error *err);
/* Overwrites what a buffer holds, then frees it. */
void seal_wipe(struct buf *b);

#endif
