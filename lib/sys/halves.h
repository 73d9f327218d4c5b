/* A console log, kept in two halves and read as one stream of bytes: FILE, and FILE.1 before it.
 *
 * The first byte that a VM ever printed has position 0; a reader names where it wants to go on, and
 * finds that place however often the halves have moved since. For that each half carries an
 * extended attribute: the position of its first byte, and that where the present run began. A half
 * without one (a file system that has none) is taken to follow the
 * other at once, which is right until it has lost its neighbour. */
#ifndef BLIX_SYS_HALVES_H
#define BLIX_SYS_HALVES_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct half {
	int fd; /* -1: there is none, and all else is 0 */
	uint64_t start, run, size;
};

struct halves {
	struct half before, now;
};

/* Of `name` in the directory `dirfd`; follows no link. Opens nothing for writing. */
void halves_open(int dirfd, const char *name, struct halves *ret);
void halves_close(struct halves *halves);
/* The position behind the last byte. */
uint64_t halves_end(const struct halves *halves);
/* Where the present run begins, or what is left of it. */
uint64_t halves_run(const struct halves *halves);
/* Up to n bytes from *position, which is moved to where they begin: to the oldest byte when those
 * before are gone, to the run's beginning when the position is behind the end: the log is another.
 * Returns how many, 0 at the end or when a file cannot be read. */
size_t halves_read(const struct halves *halves, uint64_t *position, char *bytes, size_t n);
/* Says it of the file at `fd`, where the file system can keep it. */
void half_mark(int fd, uint64_t start, uint64_t run);

/* Appends to FILE. When that has half of the maximum it becomes FILE.1, in place of the one before,
 * and a new FILE begins. */
struct halves_writer {
	int dirfd;
	char *name;
	char *name_old;
	int fd;              /* -1 while the file cannot be opened: output is dropped */
	uint64_t start, run; /* where the file and the run begin */
	uint64_t size;
	uint64_t half;
};
int halves_writer_open(struct halves_writer *w, const char *path, uint64_t max,
                       struct blix_error *err);
void halves_writer_done(struct halves_writer *w);
/* Never fails: what cannot be written is dropped. */
void halves_writer_write(struct halves_writer *w, const char *data, size_t n);

#endif
