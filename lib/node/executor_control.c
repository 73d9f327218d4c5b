/* Where the hypervisor of a VM listens, and of which kind it is, as its directory says. */
#include "node/executor_internal.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "sys/file.h"

#include <dirent.h>
#include <fnmatch.h>

/* As microvm-status chooses it: NAME.sock, else the first by name. */
char *host_control_socket(const char *dir, const char *name)
{
	cleanup(freep) char *own = xasprintf("%s.sock", name);
	DIR *stream = opendir(dir);
	const struct dirent *entry;
	char *found = NULL;

	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		if (fnmatch("*.sock", entry->d_name, 0) != 0 ||
		    fnmatch("*-virtiofs-*", entry->d_name, 0) == 0 ||
		    fnmatch("*-gpu.sock", entry->d_name, 0) == 0)
			continue;
		if (strcmp(entry->d_name, own) == 0) {
			xreplace(&found, own);
			break;
		}
		if (found == NULL || strcmp(entry->d_name, found) < 0)
			xreplace(&found, entry->d_name);
	}
	if (stream != NULL)
		(void)closedir(stream);
	if (found != NULL) {
		char *path = xasprintf("%s/%s", dir, found);

		free(found);
		found = path;
	}
	return found;
}

enum vmm_kind host_hypervisor(const char *dir)
{
	cleanup(freep) char *path = xasprintf("%s/booted/share/microvm/hypervisor", dir);
	cleanup(buf_done) struct buf text;

	buf_init(&text, 256);
	if (file_read(path, &text, NULL) < 0 || text.data == NULL)
		return VMM_UNKNOWN;
	return vmm_kind_parse(text.data);
}
