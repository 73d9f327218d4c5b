/* tap-interfaces holds a name a line, macvtap-interfaces "ID MAC LINK MODE". Both are a guest's
 * author's: a name becomes a file name below /sys/class/net, so it may not lead out of there. */
#include "microvm/runner_links.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/file.h"

#include <string.h>

static bool is_name(const char *text, size_t n)
{
	return n > 0 && text[0] != '.' && memchr(text, '/', n) == NULL;
}

bool runner_links(const char *runner, const char *list, struct buf *names)
{
	cleanup(freep) char *path = xasprintf("%s/share/microvm/%s", runner, list);
	cleanup(buf_done) struct buf text;

	buf_init(&text, LIMIT_FILE);
	if (file_read(path, &text, NULL) < 0 || text.data == NULL)
		return false;
	for (const char *p = text.data; *p != '\0';) {
		size_t n = strcspn(p, "\n"), word = strcspn(p, " \t\n");

		if (is_name(p, word))
			(void)buf_printf(names, "%.*s\n", (int)word, p);
		p += n + (p[n] == '\n');
	}
	return true;
}
