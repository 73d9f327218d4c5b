/* Users by /etc/passwd and /etc/group: see user.h. */
#include "user.h"

#include "base/alloc.h"

#include <grp.h>
#include <pwd.h>
#include <stdio.h>

static void user_groups(struct user *user)
{
	FILE *file = fopen("/etc/group", "re");
	const struct group *group;

	user->groups[user->n_groups++] = user->gid;
	while (file != NULL && user->n_groups < USER_GROUPS && (group = fgetgrent(file)) != NULL) {
		for (char **member = group->gr_mem; *member != NULL; member++) {
			if (strcmp(*member, user->name) == 0 && group->gr_gid != user->gid &&
			    user->n_groups < USER_GROUPS)
				user->groups[user->n_groups++] = group->gr_gid;
		}
	}
	if (file != NULL)
		(void)fclose(file);
}

int user_find(const char *name, struct user *ret, struct blix_error *err)
{
	struct user user = {.home = "/", .shell = "/bin/sh"};
	FILE *file = fopen("/etc/passwd", "re");
	const struct passwd *entry = NULL;

	while (file != NULL && (entry = fgetpwent(file)) != NULL) {
		if (strcmp(entry->pw_name, name) == 0)
			break;
	}
	(void)snprintf(user.name, sizeof(user.name), "%s", name);
	if (entry != NULL) {
		user.uid = entry->pw_uid;
		user.gid = entry->pw_gid;
		(void)snprintf(user.home, sizeof(user.home), "%s", entry->pw_dir);
		if (entry->pw_shell[0] != '\0')
			(void)snprintf(user.shell, sizeof(user.shell), "%s", entry->pw_shell);
	}
	if (file != NULL)
		(void)fclose(file);
	if (entry == NULL && strcmp(name, "root") != 0) {
		(void)blix_fail(err, BLIX_E_INVALID, "the guest has no user '%.64s'", name);
		blix_reason(err, "no-user");
		return -BLIX_E_INVALID;
	}
	user_groups(&user);
	*ret = user;
	return 0;
}
