/* Packing a directory: see nar.h.
 *
 * The tree is walked twice: once to add up what there is, so that a source that is too large is
 * refused by the name of what makes it so, and once to write. The grammar is Nix's: words are a
 * 64-bit length, the bytes, and zeros up to a multiple of eight; the entries of a folder come in
 * the order of their bytes.
 */
#include "sys/nar.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>

#define WORD   8
#define BUFFER (256u << 10)
/* What a file costs beside its bytes and its name: the words around it. */
#define OVERHEAD 216u

struct packer {
	const struct nar_options *options;
	int fd;
	crypto_hash_sha256_state sha;
	uint64_t size;
	size_t files;
	/* of the first walk */
	uint64_t sum, largest;
	char *largest_path;
	unsigned char *buffer;
	size_t used;
};

static int flush(struct packer *p, struct blix_error *err)
{
	const unsigned char *at = p->buffer;

	(void)crypto_hash_sha256_update(&p->sha, p->buffer, p->used);
	while (p->used > 0) {
		ssize_t n = write(p->fd, at, p->used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return blix_fail_sys(err, errno, "write the packed source");
		at += n;
		p->used -= (size_t)n;
	}
	return 0;
}

static int put(struct packer *p, const void *bytes, size_t n, struct blix_error *err)
{
	const unsigned char *at = bytes;
	int rc = 0;

	p->size += n;
	while (n > 0 && rc == 0) {
		size_t room = BUFFER - p->used, some = n < room ? n : room;

		memcpy(p->buffer + p->used, at, some);
		p->used += some;
		at += some;
		n -= some;
		if (p->used == BUFFER)
			rc = flush(p, err);
	}
	return rc;
}

static int put_length(struct packer *p, uint64_t n, struct blix_error *err)
{
	unsigned char bytes[WORD];

	for (unsigned i = 0; i < WORD; i++)
		bytes[i] = (unsigned char)(n >> 8 * i);
	return put(p, bytes, WORD, err);
}

static int put_padding(struct packer *p, uint64_t n, struct blix_error *err)
{
	static const unsigned char zeros[WORD] = {0};

	return put(p, zeros, (size_t)((WORD - n % WORD) % WORD), err);
}

static int put_word(struct packer *p, const char *text, struct blix_error *err)
{
	size_t n = strlen(text);
	int rc = put_length(p, n, err);

	if (rc == 0)
		rc = put(p, text, n, err);
	return rc == 0 ? put_padding(p, n, err) : rc;
}

static int put_words(struct packer *p, const char *const *words, struct blix_error *err)
{
	int rc = 0;

	for (; *words != NULL && rc == 0; words++)
		rc = put_word(p, *words, err);
	return rc;
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static int changed(const FTSENT *entry, struct blix_error *err)
{
	return blix_fail(err, BLIX_E_CONFLICT, "%s changed while it was read", entry->fts_path);
}

static int put_contents(struct packer *p, const FTSENT *entry, int fd, uint64_t size,
                        struct blix_error *err)
{
	cleanup(freep) char *chunk = xcalloc(1, BUFFER);
	uint64_t left = size;
	int rc = put_length(p, size, err);

	while (rc == 0 && left > 0) {
		ssize_t n = read(fd, chunk, left < BUFFER ? (size_t)left : BUFFER);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return blix_fail_sys(err, errno, "read %s", entry->fts_path);
		if (n == 0)
			return changed(entry, err);
		rc = put(p, chunk, (size_t)n, err);
		left -= (uint64_t)n;
	}
	return rc == 0 ? put_padding(p, size, err) : rc;
}

static int put_file(struct packer *p, const FTSENT *entry, struct blix_error *err)
{
	cleanup(closep) int fd =
		open(entry->fts_accpath, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	int rc;

	if (fd < 0)
		return blix_fail_sys(err, errno, "open %s", entry->fts_path);
	if (fstat(fd, &st) < 0)
		return blix_fail_sys(err, errno, "stat %s", entry->fts_path);
	/* It was added up with the size of before. */
	if (!S_ISREG(st.st_mode) || st.st_size != entry->fts_statp->st_size)
		return changed(entry, err);
	p->files++;
	rc = put_words(p, WORDS("(", "type", "regular"), err);
	if (rc == 0 && (st.st_mode & S_IXUSR) != 0)
		rc = put_words(p, WORDS("executable", ""), err);
	if (rc == 0)
		rc = put_word(p, "contents", err);
	return rc == 0 ? put_contents(p, entry, fd, (uint64_t)st.st_size, err) : rc;
}

static int put_link(struct packer *p, const FTSENT *entry, struct blix_error *err)
{
	char target[PATH_MAX];
	int rc = file_read_link(entry->fts_accpath, target, sizeof(target), err);

	p->files++;
	return rc == 0 ? put_words(p, WORDS("(", "type", "symlink", "target", target), err) : rc;
}

static bool is_below(const FTSENT *entry)
{
	return entry->fts_level > 0;
}

static int put_begin(struct packer *p, const FTSENT *entry, struct blix_error *err)
{
	return is_below(entry)
	               ? put_words(p, WORDS("entry", "(", "name", entry->fts_name, "node"), err)
	               : put_word(p, "nix-archive-1", err);
}

static int put_end(struct packer *p, const FTSENT *entry, struct blix_error *err)
{
	int rc = put_word(p, ")", err);

	return rc == 0 && is_below(entry) ? put_word(p, ")", err) : rc;
}

static int write_entry(struct packer *p, const FTSENT *entry, struct blix_error *err)
{
	int rc = entry->fts_info != FTS_DP ? put_begin(p, entry, err) : 0;

	if (rc < 0)
		return rc;
	if (entry->fts_info == FTS_D)
		return put_words(p, WORDS("(", "type", "directory"), err);
	if (entry->fts_info == FTS_F)
		rc = put_file(p, entry, err);
	else if (entry->fts_info != FTS_DP)
		rc = put_link(p, entry, err);
	return rc == 0 ? put_end(p, entry, err) : rc;
}

static int add_entry(struct packer *p, const FTSENT *entry, struct blix_error *err)
{
	uint64_t size = entry->fts_info == FTS_F ? (uint64_t)entry->fts_statp->st_size : 0;

	(void)err;
	if (entry->fts_info == FTS_DP)
		return 0;
	p->sum += size + entry->fts_namelen + OVERHEAD;
	if (size > p->largest) {
		p->largest = size;
		xreplace(&p->largest_path, entry->fts_path + strlen(p->options->dir) + 1);
	}
	return 0;
}

/* Is it to be packed? A folder that is not has no end either (fts_number). */
static bool is_taken(const struct packer *p, FTS *fts, FTSENT *entry)
{
	const struct nar_options *options = p->options;
	bool folder = entry->fts_info == FTS_D;
	bool taken;

	if (entry->fts_info == FTS_DP)
		return entry->fts_number == 0;
	if (!is_below(entry) || options->takes == NULL)
		return true;
	taken = options->takes(options->data, entry->fts_path + strlen(options->dir) + 1, folder);
	entry->fts_number = !taken;
	if (!taken && folder)
		(void)fts_set(fts, entry, FTS_SKIP);
	return taken;
}

static int check_entry(const FTSENT *entry, struct blix_error *err)
{
	switch (entry->fts_info) {
	case FTS_D:
	case FTS_DP:
	case FTS_F:
	case FTS_SL:
	case FTS_SLNONE:
		return 0;
	case FTS_DEFAULT:
		return blix_fail(err, BLIX_E_INVALID, "%s is neither a file, a folder nor a link",
		                 entry->fts_path);
	default:
		return blix_fail_sys(err, entry->fts_errno, "read %s", entry->fts_path);
	}
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int walk(struct packer *p,
                int (*visit)(struct packer *p, const FTSENT *entry, struct blix_error *err),
                struct blix_error *err)
{
	char *roots[] = {(char *)(uintptr_t)p->options->dir, NULL};
	FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
	FTSENT *entry;
	int rc = 0;

	if (fts == NULL)
		return blix_fail_sys(err, errno, "read %s", p->options->dir);
	while (rc == 0 && (entry = fts_read(fts)) != NULL) {
		if (!is_taken(p, fts, entry))
			continue;
		rc = check_entry(entry, err);
		if (rc == 0)
			rc = visit(p, entry, err);
	}
	(void)fts_close(fts);
	return rc;
}

static int check_sum(const struct packer *p, struct blix_error *err)
{
	if (p->sum <= p->options->max)
		return 0;
	(void)blix_fail(
		err, BLIX_E_TOOBIG,
		"%s is %ju MiB, and %ju MiB can travel; its largest file is %s (%ju MiB)",
		p->options->dir, (uintmax_t)(p->sum >> 20), (uintmax_t)(p->options->max >> 20),
		p->largest_path != NULL ? p->largest_path : "none", (uintmax_t)(p->largest >> 20));
	blix_reason(err, "source-too-big");
	return -(int)BLIX_E_TOOBIG;
}

int nar_pack(const struct nar_options *options, int fd, struct nar *ret, struct blix_error *err)
{
	cleanup(freep) unsigned char *buffer = xcalloc(1, BUFFER);
	struct packer p = {.options = options, .fd = fd, .buffer = buffer};
	int rc = walk(&p, add_entry, err);

	(void)crypto_hash_sha256_init(&p.sha);
	if (rc == 0)
		rc = check_sum(&p, err);
	free(p.largest_path);
	if (rc == 0)
		rc = walk(&p, write_entry, err);
	if (rc == 0)
		rc = flush(&p, err);
	if (rc < 0)
		return rc;
	/* More names than were added up came meanwhile. */
	if (p.size > options->max)
		return blix_fail(err, BLIX_E_TOOBIG, "%s grew while it was read", options->dir);
	(void)crypto_hash_sha256_final(&p.sha, ret->name.hash);
	ret->size = p.size;
	ret->files = p.files;
	return 0;
}
