/* Text to values, strictly: the whole string must be consumed, overflow is an error. */
#ifndef BLIX_BASE_PARSE_H
#define BLIX_BASE_PARSE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Decimal digits only. */
int parse_u64(const char *text, uint64_t *ret, struct blix_error *err);
/* Bytes: "512MiB", "1GiB", "2G" (= GiB), "1048576". Suffixes K M G T, with or without "iB" or "B";
 * all binary, as VM memory is. */
int parse_size(const char *text, uint64_t *ret_bytes, struct blix_error *err);
/* Milliseconds: "30s", "5m", "2h", "1d", "250ms", "1h30m"; a bare number is refused but for "0". */
int parse_duration(const char *text, uint64_t *ret_ms, struct blix_error *err);
/* A blix name: ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$; `what` begins the message. */
int parse_name(const char *what, const char *text, struct blix_error *err);
/* HOST:PORT or [HOST]:PORT; the host is a name, an IP address or empty. */
#define PARSE_HOST 256 /* a DNS name has at most 253 characters */
int parse_address(const char *text, char ret_host[PARSE_HOST], uint16_t *ret_port,
                  struct blix_error *err);

/* An idempotency key: 1 to LIMIT_KEY printable bytes of ASCII without blanks. */
int parse_key(const char *text, struct blix_error *err);

/* Printing, in the forms that the parsers read back. */
void format_size(char *out, size_t n, uint64_t bytes);  /* "512MiB", "1.5GiB" */
void format_duration(char *out, size_t n, uint64_t ms); /* "45s", "3m12s", "2d4h" */

/* Edit distance (Levenshtein) for did-you-mean; both strings are read to 64 bytes. */
unsigned parse_distance(const char *a, const char *b);

#endif
