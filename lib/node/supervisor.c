/* The choice among the rows: see supervisor.h. */
#include "node/supervisor.h"

#include "base/alloc.h"

static const struct supervisor *const rows[] = {&supervisor_shim};

int supervisor_choose(const struct config *config, const struct supervisor **ret,
                      struct blix_error *err)
{
	bool automatic = strcmp(config->supervision, "auto") == 0;

	for (size_t i = 0; i < array_size(rows); i++) {
		bool named = strcmp(config->supervision, rows[i]->name) == 0;

		if ((automatic || named) && rows[i]->fits(config)) {
			*ret = rows[i];
			return 0;
		}
		if (named)
			return blix_fail(err, BLIX_E_SPEC,
			                 "key 'supervision': this host does not have '%s'",
			                 rows[i]->name);
	}
	return blix_fail(err, BLIX_E_SPEC, "key 'supervision' must be auto or shim");
}
