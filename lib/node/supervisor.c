/* The choice among the rows: see supervisor.h. */
#include "node/supervisor.h"

#include "base/alloc.h"

static const struct supervisor *const rows[] = {&supervisor_microvm, &supervisor_transient,
                                                &supervisor_shim};

int supervisor_choose(const struct config *config, const struct supervisor **ret,
                      struct blix_error *err)
{
	bool automatic = strcmp(config->supervision, "auto") == 0;
	bool known = false;

	for (size_t i = 0; i < array_size(rows); i++) {
		bool named = strcmp(config->supervision, rows[i]->name) == 0;

		known = known || named;
		if ((automatic || named) && rows[i]->fits(config, named)) {
			*ret = rows[i];
			return 0;
		}
	}
	if (known)
		return blix_fail(err, BLIX_E_SPEC, "key 'supervision': this host has no '%s'",
		                 config->supervision);
	return blix_fail(err, BLIX_E_SPEC, "key 'supervision' must be auto, systemd or shim");
}
