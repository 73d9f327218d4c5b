/* The agent's file, shared by the guests that load it: see agent_program.h. */
#include "vmm/agent_program.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "sys/file.h"
#include "sys/sha256.h"

#define AGENT_MOST (16u << 20)

struct agent_program {
	char *path;
	struct agent_bytes *bytes; /* NULL: nobody holds them */
};

struct agent_bytes {
	struct agent_program *program;
	unsigned holders;
	char *data;
	size_t n;
	char sha256[SHA256_HEX];
};

struct agent_program *agent_program_new(const char *path)
{
	struct agent_program *p = xcalloc(1, sizeof(*p));

	p->path = xstrdup(path);
	return p;
}

void agent_program_free(struct agent_program *p)
{
	if (p == NULL)
		return;
	if (p->bytes != NULL)
		p->bytes->program = NULL;
	free(p->path);
	free(p);
}

int agent_program_hold(struct agent_program *p, struct agent_bytes **ret, struct blix_error *err)
{
	cleanup(buf_done) struct buf file;
	struct agent_bytes *b = p->bytes;

	buf_init(&file, AGENT_MOST);
	if (b == NULL) {
		if (file_read(p->path, &file, err) < 0 || file.len == 0) {
			(void)blix_fail(err, BLIX_E_UNAVAILABLE,
			                "this node has no agent for the guest to load: %s",
			                p->path);
			blix_reason(err, "no-agent-program");
			blix_hint(err, "make install on its node, or the key libexecDir");
			return -BLIX_E_UNAVAILABLE;
		}
		b = xcalloc(1, sizeof(*b));
		b->program = p;
		b->n = file.len;
		b->data = buf_take(&file);
		sha256_hex(b->data, b->n, b->sha256);
		p->bytes = b;
	}
	b->holders++;
	*ret = b;
	return 0;
}

void agent_bytes_release(struct agent_bytes *b)
{
	if (--b->holders > 0)
		return;
	if (b->program != NULL)
		b->program->bytes = NULL;
	free(b->data);
	free(b);
}

char *agent_bytes_data(struct agent_bytes *b)
{
	return b->data;
}

size_t agent_bytes_size(const struct agent_bytes *b)
{
	return b->n;
}

const char *agent_bytes_sha256(const struct agent_bytes *b)
{
	return b->sha256;
}
