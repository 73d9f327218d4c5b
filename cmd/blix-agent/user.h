/* Whom a command runs as. The files are read without the C library's name services, which a static
 * program cannot load. */
#ifndef BLIX_AGENT_USER_H
#define BLIX_AGENT_USER_H

#include "base/error.h"

#include <sys/types.h>

#define USER_GROUPS 64

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS];
	size_t n_groups;
	char name[64], home[256], shell[256];
};

/* A guest without /etc/passwd still has root. */
int user_find(const char *name, struct user *ret, struct blix_error *err);

#endif
