/* Names of trees: see source.h. The store path is what Nix computes for a recursive SHA-256 of the
 * name "source": 160 bits, folded from the SHA-256 of a line of text, in an alphabet of its own. */
#include "sys/source.h"

#include "base/alloc.h"

#include <errno.h>
#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define STORE        "/nix/store"
#define SUFFIX       "-source"
#define FOLDED       20
#define STORE_DIGITS 32
#define CHUNK        (256u << 10)

bool source_same(const struct source_name *a, const struct source_name *b)
{
	return memcmp(a->hash, b->hash, SOURCE_HASH) == 0;
}

int source_sum(int fd, struct source_name *ret, struct blix_error *err)
{
	cleanup(freep) unsigned char *chunk = xcalloc(1, CHUNK);
	crypto_hash_sha256_state sha;
	off_t at = 0;
	ssize_t n;

	(void)crypto_hash_sha256_init(&sha);
	while ((n = pread(fd, chunk, CHUNK, at)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return blix_fail_sys(err, errno, "read a source");
		(void)crypto_hash_sha256_update(&sha, chunk, (size_t)n);
		at += n;
	}
	(void)crypto_hash_sha256_final(&sha, ret->hash);
	return 0;
}

void source_hex(const struct source_name *name, char out[SOURCE_HEX])
{
	(void)sodium_bin2hex(out, SOURCE_HEX, name->hash, SOURCE_HASH);
}

int source_parse(const char *hex, struct source_name *ret, struct blix_error *err)
{
	size_t n = 0;

	if (strlen(hex) != SOURCE_HEX - 1 || strspn(hex, "0123456789abcdef") != SOURCE_HEX - 1 ||
	    sodium_hex2bin(ret->hash, SOURCE_HASH, hex, SOURCE_HEX - 1, NULL, &n, NULL) != 0 ||
	    n != SOURCE_HASH)
		return blix_fail(err, BLIX_E_INVALID,
		                 "'%.80s' is not the name of a source: 64 hexadecimal digits", hex);
	return 0;
}

void source_store_path(const struct source_name *name, char out[SOURCE_STORE])
{
	static const char digits[] = "0123456789abcdfghijklmnpqrsvwxyz";
	unsigned char digest[crypto_hash_sha256_BYTES], folded[FOLDED] = {0};
	char hex[SOURCE_HEX], line[128], text[STORE_DIGITS + 1] = "";
	int n;

	source_hex(name, hex);
	n = snprintf(line, sizeof(line), "source:sha256:%s:" STORE ":source", hex);
	(void)crypto_hash_sha256(digest, (const unsigned char *)line, (unsigned long long)n);
	for (unsigned i = 0; i < sizeof(digest); i++)
		folded[i % FOLDED] ^= digest[i];
	/* Five bits a digit, from the last byte down. */
	for (unsigned i = 0; i < STORE_DIGITS; i++) {
		unsigned bit = (STORE_DIGITS - 1 - i) * 5, at = bit / 8;
		unsigned pair = folded[at];

		if (at + 1 < FOLDED)
			pair |= (unsigned)folded[at + 1] << 8;
		text[i] = digits[pair >> bit % 8 & 0x1f];
	}
	(void)snprintf(out, SOURCE_STORE, STORE "/%s" SUFFIX, text);
}

char *source_url(const struct source_name *name)
{
	char path[SOURCE_STORE], base64[SOURCE_HASH * 2], encoded[SOURCE_HASH * 4];
	char *out = encoded;

	source_store_path(name, path);
	(void)sodium_bin2base64(base64, sizeof(base64), name->hash, SOURCE_HASH,
	                        sodium_base64_VARIANT_ORIGINAL);
	/* What means something in a query. */
	for (const char *in = base64; *in != '\0'; in++) {
		if (strchr("+/=", *in) != NULL)
			out += snprintf(out, 4, "%%%02X", (unsigned)(unsigned char)*in);
		else
			*out++ = *in;
	}
	*out = '\0';
	return xasprintf("path:%s?narHash=sha256-%s", path, encoded);
}

/* The base64 after "narHash=sha256-", decoded from its query; false: there is none. */
static bool hash_of_query(const char *query, struct source_name *ret)
{
	static const char key[] = "narHash=sha256-";
	const char *at = strstr(query, key);
	char base64[64];
	size_t n = 0, used = 0;

	if (at == NULL || (at[-1] != '?' && at[-1] != '&'))
		return false;
	for (at += strlen(key); *at != '\0' && *at != '&'; at++) {
		unsigned code = (unsigned char)*at;

		if (*at == '%' && sscanf(at + 1, "%2x", &code) != 1)
			return false;
		if (*at == '%' && at[1] != '\0' && at[2] != '\0')
			at += 2;
		if (used + 1 == sizeof(base64))
			return false;
		base64[used++] = (char)code;
	}
	return sodium_base642bin(ret->hash, SOURCE_HASH, base64, used, NULL, &n, NULL,
	                         sodium_base64_VARIANT_ORIGINAL) == 0 &&
	       n == SOURCE_HASH;
}

bool source_of_url(const char *url, struct source_name *ret)
{
	static const char prefix[] = "path:" STORE "/";
	const char *query = strchr(url, '?');
	struct source_name name;
	char path[SOURCE_STORE];
	size_t n = SOURCE_STORE - 1;

	if (strncmp(url, prefix, strlen(prefix)) != 0 || query == NULL ||
	    !hash_of_query(query, &name))
		return false;
	url += strlen("path:");
	source_store_path(&name, path);
	if ((size_t)(query - url) != n || strncmp(url, path, n) != 0)
		return false;
	*ret = name;
	return true;
}
