/* Reading what a VM uses: see usage.h.
 *
 * A cgroup counts for the VM when its last part bears the VM's name (microvm@web.service,
 * blix-web.service, web): then it holds this VM and its helpers and nothing else. CPU and memory
 * are looked for in the unified hierarchy, then in the controllers of version 1, then in
 * /proc/PID/stat. */
#include "node/usage.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/limits.h"
#include "base/parse.h"
#include "microvm/runner_links.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define TEXT_MAX       4096
#define INTERFACES_MAX (4u << 20) /* of net/dev: 130 bytes each */

const struct usage_roots usage_roots_host = {.proc = "/proc", .cgroup = "/sys/fs/cgroup"};

struct usage_reader {
	int stat;   /* /proc/PID/stat */
	int cpu;    /* cpu.stat or cpuacct.usage, -1 none */
	int memory; /* memory.current or memory.usage_in_bytes, -1 none */
	bool cpu_v1;
	char *taps; /* names, one a line */
};

/* The file from its beginning; false when it is gone. */
static bool read_again(int fd, char *text)
{
	ssize_t n = fd >= 0 ? pread(fd, text, TEXT_MAX - 1, 0) : -1;

	text[n > 0 ? n : 0] = '\0';
	return n > 0;
}

static int open_under(const char *root, const char *dir, const char *file)
{
	cleanup(freep) char *path = xasprintf("%s/%s/%s", root, dir, file);

	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Digits from `text` on, the first of them after blanks. */
static uint64_t number_at(const char *text)
{
	uint64_t value = 0;

	while (*text == ' ' || *text == '\t')
		text++;
	while (isdigit((unsigned char)*text))
		value = value * 10 + (uint64_t)(*text++ - '0');
	return value;
}

/* Field `n` of /proc/PID/stat, counted from 3, the first after the name in parentheses. */
static const char *stat_field(const char *stat, unsigned n)
{
	const char *p = strrchr(stat, ')');

	p = p != NULL ? p + 1 : "";
	for (unsigned i = 3; *p != '\0' && i < n; i++) {
		p += strspn(p, " ");
		p += strcspn(p, " ");
	}
	return p;
}

/* One of blix's own, or the last part of `path` ends with the VM's name, a suffix of systemd's
 * aside. */
static bool cgroup_is_of(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/'), *last = slash != NULL ? slash + 1 : path;
	size_t n = strlen(last), wanted = strlen(name);

	if (last - path >= 5 && strncmp(last - 5, "blix/", 5) == 0 && strncmp(last, "vm-", 3) == 0)
		return true;
	if (n > 8 && strcmp(last + n - 8, ".service") == 0)
		n -= 8;
	else if (n > 6 && strcmp(last + n - 6, ".scope") == 0)
		n -= 6;
	return n >= wanted && strncmp(last + n - wanted, name, wanted) == 0 &&
	       (n == wanted || last[n - wanted - 1] == '@' || last[n - wanted - 1] == '-');
}

static bool has_word(const char *list, size_t n, const char *word)
{
	size_t length = strlen(word);

	for (size_t i = 0; i + length <= n; i++) {
		if (strncmp(list + i, word, length) == 0 && (i == 0 || list[i - 1] == ',') &&
		    (i + length == n || list[i + length] == ','))
			return true;
	}
	return false;
}

/* Keeps what is open already. */
static void keep_open(int *fd, const char *root, const char *hierarchy, const char *path,
                      const char *file)
{
	cleanup(freep) char *name = NULL;

	if (*fd >= 0)
		return;
	name = xasprintf("%s%s%s%s/%s", root, hierarchy[0] != '\0' ? "/" : "", hierarchy, path,
	                 file);
	*fd = open(name, O_RDONLY | O_CLOEXEC);
}

/* One line of /proc/PID/cgroup: NUMBER:CONTROLLERS:PATH. */
static void take_cgroup(struct usage_reader *r, const char *root, const char *line,
                        const char *name)
{
	const char *controllers = strchr(line, ':');
	const char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
	cleanup(freep) char *hierarchy = NULL;
	size_t n;

	if (path == NULL || !cgroup_is_of(path + 1, name))
		return;
	n = (size_t)(path - controllers) - 1;
	path++;
	hierarchy = xstrndup(controllers + 1, n);
	if (n == 0) {
		static const char *const unified[] = {"", "unified"};

		for (size_t i = 0; i < array_size(unified); i++) {
			if (r->cpu < 0)
				keep_open(&r->cpu, root, unified[i], path, "cpu.stat");
			keep_open(&r->memory, root, unified[i], path, "memory.current");
		}
	}
	if (has_word(hierarchy, n, "cpuacct") && r->cpu < 0) {
		keep_open(&r->cpu, root, hierarchy, path, "cpuacct.usage");
		r->cpu_v1 = r->cpu >= 0;
	}
	if (has_word(hierarchy, n, "memory"))
		keep_open(&r->memory, root, hierarchy, path, "memory.usage_in_bytes");
}

/* The unified hierarchy first: its line is the last. */
static void find_cgroup(struct usage_reader *r, const struct usage_roots *roots, const char *dir,
                        const char *name)
{
	cleanup(closep) int fd = open_under(roots->proc, dir, "cgroup");
	char text[TEXT_MAX];

	if (!read_again(fd, text))
		return;
	for (int unified = 1; unified >= 0; unified--) {
		for (const char *p = text; *p != '\0';) {
			size_t n = strcspn(p, "\n");
			cleanup(freep) char *line = xstrndup(p, n);

			if ((strncmp(line, "0::", 3) == 0) == (unified == 1))
				take_cgroup(r, roots->cgroup, line, name);
			p += n + (p[n] == '\n');
		}
	}
}

static char *find_taps(const char *runner)
{
	cleanup(buf_done) struct buf names;

	buf_init(&names, TEXT_MAX);
	(void)runner_links(runner, RUNNER_TAPS, &names);
	(void)runner_links(runner, RUNNER_MACVTAPS, &names);
	return xstrdup(names.data != NULL ? names.data : "");
}

struct usage_reader *usage_reader_open(const struct usage_roots *roots, uint64_t pid,
                                       uint64_t start_time, const char *name, const char *runner)
{
	struct usage_reader *r = xcalloc(1, sizeof(*r));
	char dir[24], text[TEXT_MAX];

	(void)snprintf(dir, sizeof(dir), "%" PRIu64, pid);
	r->cpu = r->memory = -1;
	r->stat = open_under(roots->proc, dir, "stat");
	if (!read_again(r->stat, text) || number_at(stat_field(text, 22)) != start_time) {
		usage_reader_free(r);
		return NULL;
	}
	find_cgroup(r, roots, dir, name);
	r->taps = find_taps(runner);
	return r;
}

void usage_reader_free(struct usage_reader *r)
{
	if (r == NULL)
		return;
	closep(&r->stat);
	closep(&r->cpu);
	closep(&r->memory);
	free(r->taps);
	free(r);
}

bool usage_has_taps(const struct usage_reader *r)
{
	return r->taps[0] != '\0';
}

/* "  tap0: RX-BYTES PACKETS ERRS DROP FIFO FRAME COMPRESSED MULTICAST TX-BYTES ..." */
static bool parse_interface(const char *line, struct usage_interface *ret)
{
	const char *name = line + strspn(line, " ");
	size_t n = strcspn(name, ":\n");
	const char *field = name + n + 1;

	if (name[n] != ':' || n == 0 || n >= sizeof(ret->name))
		return false;
	memcpy(ret->name, name, n);
	ret->name[n] = '\0';
	ret->rx_bytes = number_at(field);
	for (int i = 0; i < 8; i++) {
		field += strspn(field, " ");
		field += strcspn(field, " \n");
	}
	ret->tx_bytes = number_at(field);
	return true;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct usage_interface *)a)->name,
	              ((const struct usage_interface *)b)->name);
}

void usage_interfaces_read(const struct usage_roots *roots, struct usage_interfaces *ret)
{
	cleanup(freep) char *path = xasprintf("%s/net/dev", roots->proc);
	cleanup(buf_done) struct buf text;
	size_t size = 0;

	*ret = (struct usage_interfaces){NULL, 0};
	buf_init(&text, INTERFACES_MAX);
	if (file_read(path, &text, NULL) < 0 || text.len == 0 || buf_add(&text, "", 1) < 0)
		return;
	for (const char *p = text.data; *p != '\0';) {
		size_t n = strcspn(p, "\n");

		if (ret->n == size) {
			size = size < 16 ? 16 : size * 2;
			ret->items = xreallocarray(ret->items, size, sizeof(*ret->items));
		}
		ret->n += parse_interface(p, &ret->items[ret->n]);
		p += n + (p[n] == '\n');
	}
	if (ret->n > 0)
		qsort(ret->items, ret->n, sizeof(*ret->items), by_name);
}

void usage_interfaces_done(struct usage_interfaces *interfaces)
{
	free(interfaces->items);
	*interfaces = (struct usage_interfaces){NULL, 0};
}

/* What the host receives from a tap, the guest has sent. */
static void sample_net(const struct usage_reader *r, const struct usage_interfaces *interfaces,
                       struct usage *usage)
{
	uint64_t rx = 0, tx = 0;
	bool known = false;

	if (r->taps[0] == '\0')
		return; /* what its hypervisor said stands */
	for (const char *tap = r->taps; *tap != '\0'; tap += strcspn(tap, "\n") + 1) {
		struct usage_interface key = {.name = ""};
		const struct usage_interface *found = NULL;
		size_t n = strcspn(tap, "\n");

		if (n < sizeof(key.name) && interfaces->n > 0) {
			memcpy(key.name, tap, n);
			found = bsearch(&key, interfaces->items, interfaces->n, sizeof(key),
			                by_name);
		}
		if (found == NULL)
			continue;
		known = true;
		rx += found->tx_bytes;
		tx += found->rx_bytes;
	}
	usage->net_known = known;
	usage->net_rx_bytes = rx;
	usage->net_tx_bytes = tx;
}

static bool sample_cpu(const struct usage_reader *r, struct usage *usage)
{
	char text[TEXT_MAX];
	const char *at;

	if (!read_again(r->cpu, text))
		return false;
	at = r->cpu_v1 ? text : strstr(text, "usage_usec ");
	if (at == NULL)
		return false;
	usage->cpu_ms = number_at(r->cpu_v1 ? at : at + strlen("usage_usec")) /
	                (r->cpu_v1 ? 1000000 : 1000);
	return true;
}

static bool sample_memory(const struct usage_reader *r, struct usage *usage)
{
	char text[TEXT_MAX];

	if (!read_again(r->memory, text))
		return false;
	usage->memory_bytes = number_at(text);
	return true;
}

void usage_sample(struct usage_reader *r, const struct usage_interfaces *interfaces,
                  struct usage *usage)
{
	uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK), page = (uint64_t)sysconf(_SC_PAGESIZE);
	char text[TEXT_MAX];

	usage->cpu_known = sample_cpu(r, usage);
	usage->memory_known = sample_memory(r, usage);
	if ((!usage->cpu_known || !usage->memory_known) && read_again(r->stat, text)) {
		if (!usage->cpu_known)
			usage->cpu_ms = (number_at(stat_field(text, 14)) +
			                 number_at(stat_field(text, 15))) *
			                1000 / ticks;
		if (!usage->memory_known)
			usage->memory_bytes = number_at(stat_field(text, 24)) * page;
		usage->cpu_known = usage->memory_known = true;
	}
	if (!usage->cpu_known)
		return; /* it has ended: the last sample stands */
	sample_net(r, interfaces, usage);
	usage->sampled_ms = clock_wall_ms();
}

cJSON *usage_json(const struct usage *usage)
{
	const struct {
		bool known;
		const char *key;
		uint64_t value;
	} rows[] = {{usage->cpu_known, "cpuMs", usage->cpu_ms},
	            {usage->memory_known, "memoryBytes", usage->memory_bytes},
	            {usage->disk_known, "diskReadBytes", usage->disk_read_bytes},
	            {usage->disk_known, "diskWriteBytes", usage->disk_write_bytes},
	            {usage->net_known, "netRxBytes", usage->net_rx_bytes},
	            {usage->net_known, "netTxBytes", usage->net_tx_bytes}};
	cJSON *object;

	if (usage->sampled_ms == 0)
		return NULL;
	object = json_object();
	for (size_t i = 0; i < array_size(rows); i++) {
		if (rows[i].known)
			json_add_u64(object, rows[i].key, rows[i].value);
	}
	json_add_time(object, "sampledAt", usage->sampled_ms);
	return object;
}
