/* Sealed files: see seal.h. The bytes: "blixseal" and a version, the nonce, the ciphertext with its
 * tag. The mark and `what` are authenticated with it. */
#include "sys/seal.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <sodium.h>
#include <string.h>

#define MARK      "blixseal1"
#define MARK_SIZE (sizeof(MARK) - 1)
#define NONCE     crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
#define TAG       crypto_aead_xchacha20poly1305_ietf_ABYTES
#define OVERHEAD  (MARK_SIZE + NONCE + TAG)

_Static_assert(SEAL_KEY == crypto_aead_xchacha20poly1305_ietf_KEYBYTES, "the key's size");

static int corrupt(struct blix_error *err, const char *path, const char *why)
{
	return blix_fail(err, BLIX_E_CORRUPT, "%s %s", path, why);
}

int seal_key(const char *path, bool make, unsigned char key[SEAL_KEY], struct blix_error *err)
{
	struct buf bytes;
	int rc;

	if (sodium_init() < 0)
		return blix_fail(err, BLIX_E_INTERNAL, "libsodium cannot be set up");
	buf_init(&bytes, SEAL_KEY + 1);
	rc = file_read(path, &bytes, err);
	if (rc == 0 && bytes.len == SEAL_KEY)
		memcpy(key, bytes.data, SEAL_KEY);
	else if (rc == 0 || rc == -BLIX_E_TOOBIG)
		rc = corrupt(err, path, "is no key");
	seal_wipe(&bytes);
	if (rc != -BLIX_E_NOTFOUND || !make)
		return rc;
	randombytes_buf(key, SEAL_KEY);
	return file_write(path, key, SEAL_KEY, 0600, err);
}

int seal_write(const char *path, const unsigned char key[SEAL_KEY], const char *what,
               const void *data, size_t n, struct blix_error *err)
{
	cleanup(freep) char *marked = xasprintf(MARK "%s", what);
	cleanup(freep) unsigned char *bytes = xcalloc(1, OVERHEAD + n);
	unsigned char *nonce = bytes + MARK_SIZE;
	unsigned long long length = 0;

	memcpy(bytes, MARK, MARK_SIZE);
	randombytes_buf(nonce, NONCE);
	(void)crypto_aead_xchacha20poly1305_ietf_encrypt(nonce + NONCE, &length, data, n,
	                                                 (const unsigned char *)marked,
	                                                 strlen(marked), NULL, nonce, key);
	return file_write(path, bytes, MARK_SIZE + NONCE + (size_t)length, 0600, err);
}

int seal_read(const char *path, const unsigned char key[SEAL_KEY], const char *what,
              struct buf *out, struct blix_error *err)
{
	cleanup(freep) char *marked = xasprintf(MARK "%s", what);
	cleanup(buf_done) struct buf bytes;
	const unsigned char *nonce;
	unsigned long long length = 0;
	unsigned char *room;
	int rc;

	buf_init(&bytes, out->cap + OVERHEAD);
	rc = file_read(path, &bytes, err);
	if (rc < 0)
		return rc == -BLIX_E_TOOBIG ? corrupt(err, path, "is larger than it may be") : rc;
	if (bytes.len < OVERHEAD || memcmp(bytes.data, MARK, MARK_SIZE) != 0)
		return corrupt(err, path, "is no sealed file");
	room = (unsigned char *)buf_room(out, bytes.len - OVERHEAD + 1);
	if (room == NULL)
		return blix_fail(err, BLIX_E_TOOBIG, "%s is too large", path);
	nonce = (const unsigned char *)bytes.data + MARK_SIZE;
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(
		    room, &length, NULL, nonce + NONCE, bytes.len - MARK_SIZE - NONCE,
		    (const unsigned char *)marked, strlen(marked), nonce, key) < 0)
		return corrupt(err, path, "does not open: damaged, or of another key");
	buf_grew(out, (size_t)length);
	return 0;
}

void seal_wipe(struct buf *b)
{
	if (b->data != NULL)
		explicit_bzero(b->data, b->size);
	buf_done(b);
}
