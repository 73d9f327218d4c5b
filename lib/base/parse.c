/* Strict parsers for numbers, sizes, durations and names: see parse.h. */
#include "base/parse.h"

#include "base/limits.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Reads digits at *text, moves it past them. False: none, or overflow. */
static bool take_u64(const char **text, uint64_t *ret)
{
	const char *p = *text;
	uint64_t value = 0;

	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++) {
		uint64_t digit = (uint64_t)(*p - '0');

		if (value > (UINT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*text = p;
	*ret = value;
	return true;
}

int parse_u64(const char *text, uint64_t *ret, struct blix_error *err)
{
	const char *p = text;
	uint64_t value;

	if (!take_u64(&p, &value) || *p != '\0')
		return blix_fail(err, BLIX_E_INVALID, "'%.64s' is not a whole number", text);
	*ret = value;
	return 0;
}

static const struct {
	const char *name;
	unsigned shift;
} size_units[] = {
	{"", 0},     {"B", 0},  {"K", 10},  {"KB", 10},  {"KiB", 10}, {"M", 20},  {"MB", 20},
	{"MiB", 20}, {"G", 30}, {"GB", 30}, {"GiB", 30}, {"T", 40},   {"TB", 40}, {"TiB", 40},
};

int parse_size(const char *text, uint64_t *ret_bytes, struct blix_error *err)
{
	const char *p = text;
	uint64_t value;

	if (!take_u64(&p, &value))
		return blix_fail(err, BLIX_E_INVALID, "'%.64s' is not a size like 512MiB", text);
	for (size_t i = 0; i < sizeof(size_units) / sizeof(size_units[0]); i++) {
		if (strcasecmp(p, size_units[i].name) != 0)
			continue;
		if (value > (UINT64_MAX >> size_units[i].shift))
			return blix_fail(err, BLIX_E_INVALID, "'%.64s' is too large", text);
		*ret_bytes = value << size_units[i].shift;
		return 0;
	}
	return blix_fail(err, BLIX_E_INVALID, "'%.64s' is not a size like 512MiB", text);
}

static const struct {
	const char *name;
	uint64_t ms;
} duration_units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};

int parse_duration(const char *text, uint64_t *ret_ms, struct blix_error *err)
{
	const char *p = text;
	uint64_t sum = 0;

	if (strcmp(text, "0") == 0) {
		*ret_ms = 0;
		return 0;
	}
	do {
		uint64_t value, unit = 0;
		size_t n;

		if (!take_u64(&p, &value))
			goto bad;
		n = strspn(p, "msdh");
		for (size_t i = 0; i < sizeof(duration_units) / sizeof(duration_units[0]); i++) {
			if (strlen(duration_units[i].name) == n &&
			    strncmp(p, duration_units[i].name, n) == 0)
				unit = duration_units[i].ms;
		}
		if (unit == 0 || value > (UINT64_MAX - sum) / unit)
			goto bad;
		sum += value * unit;
		p += n;
	} while (*p != '\0');
	*ret_ms = sum;
	return 0;
bad:
	return blix_fail(err, BLIX_E_INVALID, "'%.64s' is not a duration like 30s or 5m", text);
}

int parse_key(const char *text, struct blix_error *err)
{
	size_t n = 0;

	while (text[n] > ' ' && text[n] <= '~')
		n++;
	if (n > 0 && n <= LIMIT_KEY && text[n] == '\0')
		return 0;
	return blix_fail(err, BLIX_E_INVALID,
	                 "an idempotency key has 1 to %u printable characters and no blanks",
	                 LIMIT_KEY);
}

int parse_name(const char *what, const char *text, struct blix_error *err)
{
	size_t n = strnlen(text, 65);

	if (n == 0)
		return blix_fail(err, BLIX_E_INVALID, "%s is empty", what);
	if (n > 63)
		return blix_fail(err, BLIX_E_INVALID, "%s is longer than 63 characters", what);
	for (size_t i = 0; i < n; i++) {
		char c = text[i];
		bool edge = i == 0 || i + 1 == n;

		if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && !edge))
			continue;
		if (err != NULL)
			(void)blix_fail(err, BLIX_E_INVALID, "%s '%s' is not valid", what, text);
		blix_reason(err, "bad-name");
		blix_hint(err, "use a-z, 0-9 and '-', beginning and ending with a letter or digit");
		return -(int)BLIX_E_INVALID;
	}
	return 0;
}

void format_size(char *out, size_t n, uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	unsigned unit = 0;
	double value = (double)bytes;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	if (value == (double)(uint64_t)value)
		(void)snprintf(out, n, "%" PRIu64 "%s", (uint64_t)value, units[unit]);
	else
		(void)snprintf(out, n, "%.1f%s", value, units[unit]);
}

void format_duration(char *out, size_t n, uint64_t ms)
{
	uint64_t s = ms / 1000;

	if (ms < 1000)
		(void)snprintf(out, n, "%" PRIu64 "ms", ms);
	else if (s < 60)
		(void)snprintf(out, n, "%" PRIu64 "s", s);
	else if (s < 3600)
		(void)snprintf(out, n, "%" PRIu64 "m%" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		(void)snprintf(out, n, "%" PRIu64 "h%" PRIu64 "m", s / 3600, s % 3600 / 60);
	else
		(void)snprintf(out, n, "%" PRIu64 "d%" PRIu64 "h", s / 86400, s % 86400 / 3600);
}

unsigned parse_distance(const char *a, const char *b)
{
	unsigned row[65];
	size_t na = strnlen(a, 64), nb = strnlen(b, 64);

	for (size_t j = 0; j <= nb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		unsigned corner = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			unsigned best = corner + (a[i - 1] != b[j - 1]);

			corner = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[nb];
}

static bool is_host(const char *text, size_t n, bool six)
{
	for (size_t i = 0; i < n; i++) {
		char c = text[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '.' || (six ? c == ':' || c == '%' : c == '-')))
			return false;
	}
	return n < PARSE_HOST;
}

int parse_address(const char *text, char ret_host[PARSE_HOST], uint16_t *ret_port,
                  struct blix_error *err)
{
	const char *colon = strrchr(text, ':');
	const char *host = text;
	uint64_t port = 0;
	size_t n;
	bool six;

	if (colon == NULL || parse_u64(colon + 1, &port, NULL) < 0 || port > UINT16_MAX)
		goto bad;
	n = (size_t)(colon - text);
	six = n >= 2 && host[0] == '[' && host[n - 1] == ']';
	if (six) {
		host++;
		n -= 2;
	}
	if (!is_host(host, n, six) || (six && n == 0))
		goto bad;
	memcpy(ret_host, host, n);
	ret_host[n] = '\0';
	*ret_port = (uint16_t)port;
	return 0;
bad:
	return blix_fail(err, BLIX_E_INVALID, "'%.64s' is not HOST:PORT", text);
}
