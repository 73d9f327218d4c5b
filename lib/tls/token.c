/* The line of a join token: see token.h.
 *
 * base64url, without padding, of: u8 version, u8 kind, u64 expiry, 32 bytes fingerprint, 32 bytes
 * secret, the name, u8 number of addresses, the addresses, u32 CRC32C of all before it. There is
 * one line for one token: whatever else decodes is refused. The checksum tells a person that a line
 * was cut or mistyped; it is no protection, the secret is.
 */
#include "tls/token.h"

#include "base/alloc.h"
#include "base/crc32c.h"
#include "core/codec.h"
#include "sys/seal.h"
#include "sys/sha256.h"
#include "tls/internal.h"

#include <gnutls/crypto.h>
#include <sodium.h>

#define VERSION     1
#define CHECKSUM    4u
#define BYTES       (LIMIT_TOKEN / 4u * 3u)
#define FINGERPRINT 32u
#define BASE64      sodium_base64_VARIANT_URLSAFE_NO_PADDING

int join_token_secret(unsigned char ret[JOIN_SECRET], struct blix_error *err)
{
	int rc = gnutls_rnd(GNUTLS_RND_KEY, ret, JOIN_SECRET);

	return rc < 0 ? tls_fail(err, BLIX_E_INTERNAL, rc, "random bytes") : 0;
}

void join_token_wipe(struct join_token *token)
{
	explicit_bzero(token, sizeof(*token));
}

void join_token_hash(const unsigned char secret[JOIN_SECRET], char ret[TLS_HASH])
{
	sha256_hex(secret, JOIN_SECRET, ret);
}

bool join_token_matches(const char *hash, const unsigned char secret[JOIN_SECRET])
{
	char own[TLS_HASH];

	join_token_hash(secret, own);
	return strlen(hash) == TLS_HASH - 1 && sodium_memcmp(own, hash, TLS_HASH - 1) == 0;
}

static int invalid(struct blix_error *err, const char *why)
{
	return blix_fail(err, BLIX_E_INVALID, "join token %s", why);
}

static int address_check(const char *address, struct blix_error *err)
{
	char host[PARSE_HOST];
	uint16_t port;

	if (parse_address(address, host, &port, NULL) < 0 || host[0] == '\0' || port == 0)
		return invalid(err, "has an address that is not HOST:PORT");
	return 0;
}

static int token_check(const struct join_token *token, struct blix_error *err)
{
	int rc = parse_name("name of the node", token->name, err);

	if (rc < 0)
		return rc;
	if (token->kind == TLS_USER)
		return invalid(err, "is for a server or a worker");
	if (token->n_addresses == 0 || token->n_addresses > LIMIT_TOKEN_ADDRESSES)
		return invalid(err, "needs one address or more");
	for (size_t i = 0; i < token->n_addresses && rc == 0; i++)
		rc = address_check(token->addresses[i], err);
	return rc;
}

static int put_fingerprint(struct buf *out, const char *hex, struct blix_error *err)
{
	unsigned char bytes[FINGERPRINT];
	const char *end = NULL;
	size_t n = 0;

	if (sodium_hex2bin(bytes, sizeof(bytes), hex, strlen(hex), NULL, &n, &end) < 0 ||
	    n != sizeof(bytes) || *end != '\0')
		return invalid(err, "needs the SHA-256 of a CA");
	(void)buf_add(out, bytes, n);
	return 0;
}

int join_token_write(const struct join_token *token, struct buf *ret_line, struct blix_error *err)
{
	cleanup(seal_wipe) struct buf bytes = {0};
	struct buf line;
	char *room;
	int rc = token_check(token, err);

	if (rc < 0)
		return rc;
	buf_init(&bytes, BYTES);
	/* At once: a buffer that grows leaves what it held behind. */
	(void)buf_room(&bytes, BYTES);
	put_u8(&bytes, VERSION);
	put_u8(&bytes, (uint8_t)token->kind);
	put_u64(&bytes, token->expires_ms);
	rc = put_fingerprint(&bytes, token->ca_fingerprint, err);
	if (rc < 0)
		return rc;
	(void)buf_add(&bytes, token->secret, JOIN_SECRET);
	put_string(&bytes, token->name);
	put_u8(&bytes, (uint8_t)token->n_addresses);
	for (size_t i = 0; i < token->n_addresses; i++)
		put_string(&bytes, token->addresses[i]);
	put_u32(&bytes, crc32c(0, bytes.data, bytes.len));
	buf_init(&line, LIMIT_TOKEN);
	room = buf_room(&line, LIMIT_TOKEN);
	if (buf_failed(&bytes) || room == NULL)
		return blix_fail(err, BLIX_E_NOMEM, "write a join token");
	(void)sodium_bin2base64(room, LIMIT_TOKEN, (unsigned char *)bytes.data, bytes.len, BASE64);
	buf_grew(&line, strlen(room));
	*ret_line = line;
	return 0;
}

static int read_fields(struct codec *in, struct join_token *token, struct blix_error *err)
{
	unsigned char fingerprint[FINGERPRINT];
	uint8_t kind;

	if (get_u8(in) != VERSION)
		return invalid(err, "is of a version that this blix does not know");
	kind = get_u8(in);
	if (kind != TLS_SERVER && kind != TLS_WORKER)
		return invalid(err, "is for a kind of node that this blix does not know");
	token->kind = (enum tls_kind)kind;
	token->expires_ms = get_u64(in);
	for (size_t i = 0; i < sizeof(fingerprint); i++)
		fingerprint[i] = get_u8(in);
	(void)sodium_bin2hex(token->ca_fingerprint, TLS_HASH, fingerprint, sizeof(fingerprint));
	for (size_t i = 0; i < JOIN_SECRET; i++)
		token->secret[i] = get_u8(in);
	get_name(in, token->name, sizeof(token->name));
	token->n_addresses = get_u8(in);
	for (size_t i = 0; i < token->n_addresses && i < LIMIT_TOKEN_ADDRESSES; i++)
		get_name(in, token->addresses[i], sizeof(token->addresses[i]));
	return codec_end(in) ? token_check(token, err) : invalid(err, "is damaged");
}

/* The bytes of the line, their checksum looked at. */
static int read_line(const char *line, struct buf *bytes, struct blix_error *err)
{
	size_t n_line = strnlen(line, LIMIT_TOKEN + 1);
	char *room = buf_room(bytes, BYTES);
	struct codec checksum;
	size_t n = 0;

	if (room == NULL)
		return blix_fail(err, BLIX_E_NOMEM, "read a join token");
	if (n_line > LIMIT_TOKEN)
		return invalid(err, "is too long");
	if (sodium_base642bin((unsigned char *)room, BYTES, line, n_line, NULL, &n, NULL, BASE64) <
	            0 ||
	    n <= CHECKSUM)
		return invalid(err, "is not one whole line as blix printed it");
	n -= CHECKSUM;
	checksum = (struct codec){.at = (const uint8_t *)room + n, .left = CHECKSUM};
	if (crc32c(0, room, n) != get_u32(&checksum))
		return invalid(err, "is damaged: a letter is missing or is another");
	buf_grew(bytes, n);
	return 0;
}

int join_token_read(const char *line, struct join_token *ret, struct blix_error *err)
{
	cleanup(seal_wipe) struct buf bytes;
	struct join_token token = {0};
	struct codec in;
	int rc;

	buf_init(&bytes, BYTES);
	rc = read_line(line, &bytes, err);
	if (rc < 0)
		return rc;
	in = (struct codec){.at = (const uint8_t *)bytes.data, .left = bytes.len};
	rc = read_fields(&in, &token, err);
	if (rc == 0)
		*ret = token;
	join_token_wipe(&token);
	return rc;
}
