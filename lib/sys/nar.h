/* A directory as one stream of bytes, in the form that Nix has for it (a NAR): the same bytes that
 * `nix-store --dump` gives. Files, whether they may be executed, links and folders; no times, no
 * owners, no other modes. Anything else in the tree is an error. */
#ifndef BLIX_SYS_NAR_H
#define BLIX_SYS_NAR_H

#include "sys/source.h"

#include <stddef.h>
#include <stdint.h>

struct nar {
	struct source_name name;
	uint64_t size; /* bytes of the archive */
	size_t files;
};

struct nar_options {
	const char *dir; /* absolute */
	/* Is this to be packed? Path relative to dir; a folder that is not is not looked into.
	 * NULL: everything is. */
	bool (*takes)(const void *data, const char *path, bool folder);
	const void *data;
	uint64_t max; /* of the archive */
};

/* Writes the archive of options->dir to fd. -BLIX_E_TOOBIG names the largest file;
 * -BLIX_E_CONFLICT: a file changed while it was read; -BLIX_E_INVALID: something that is neither
 * file, folder nor link. */
int nar_pack(const struct nar_options *options, int fd, struct nar *ret, struct blix_error *err);

#endif
