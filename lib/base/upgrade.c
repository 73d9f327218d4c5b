/* Asking for an upgrade and reading the answer: see upgrade.h. */
#include "base/upgrade.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"

#define HEAD_MAX (8u << 10)

int upgrade_ask(struct buf *out, const char *path, const char *header, const char *body)
{
	return buf_printf(out,
	                  "POST %s HTTP/1.1\r\nHost: blix\r\nConnection: Upgrade\r\n"
	                  "Upgrade: " UPGRADE_PROTOCOL "\r\nContent-Type: application/json\r\n"
	                  "Content-Length: %zu\r\n%s%s\r\n%s",
	                  path, strlen(body), header != NULL ? header : "",
	                  header != NULL ? "\r\n" : "", body);
}

static int not_http(struct blix_error *err)
{
	return blix_fail(err, BLIX_E_INTERNAL, "the answer is not HTTP as blixd speaks it");
}

static int read_status(const char *line, struct upgrade_head *ret)
{
	uint64_t status = 0;
	cleanup(freep) char *digits = NULL;

	if (strncmp(line, "HTTP/1.1 ", 9) != 0 || strlen(line) < 12)
		return -1;
	digits = xstrndup(line + 9, 3);
	if (parse_u64(digits, &status, NULL) < 0)
		return -1;
	ret->status = (int)status;
	return 0;
}

static int read_line(const char *line, struct upgrade_head *ret)
{
	static const char length[] = "Content-Length: ";
	uint64_t n = 0;

	if (strncasecmp(line, length, strlen(length)) == 0) {
		if (parse_u64(line + strlen(length), &n, NULL) < 0 || n > LIMIT_BODY)
			return -1;
		ret->content_length = (size_t)n;
	}
	return strncasecmp(line, "Transfer-Encoding:", 18) == 0 ? -1 : 0;
}

int upgrade_read(const char *bytes, size_t n, struct upgrade_head *ret, struct blix_error *err)
{
	const char *end = memmem(bytes, n < HEAD_MAX ? n : HEAD_MAX, "\r\n\r\n", 4);
	cleanup(freep) char *head = NULL;
	struct upgrade_head found = {0};
	char *line, *next;

	if (end == NULL)
		return n < HEAD_MAX ? 0 : not_http(err);
	found.n = (size_t)(end - bytes) + 4;
	head = xstrndup(bytes, (size_t)(end - bytes));
	line = head;
	for (bool first = true; line != NULL; line = next, first = false) {
		next = strstr(line, "\r\n");
		if (next != NULL) {
			*next = '\0';
			next += 2;
		}
		if ((first ? read_status(line, &found) : read_line(line, &found)) < 0)
			return not_http(err);
	}
	*ret = found;
	return 1;
}
