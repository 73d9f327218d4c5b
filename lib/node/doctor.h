/* What is wrong, or slow, on this host, and the command that mends it: `blixd --doctor`, which is
 * what `blix doctor` runs. It needs no daemon; where one answers, what only the daemon knows is
 * looked at too. It changes nothing but one small file in the state directory, whose fsync it
 * times, and removes that. */
#ifndef BLIX_NODE_DOCTOR_H
#define BLIX_NODE_DOCTOR_H

#include "base/json.h"
#include "node/config.h"

enum finding_level { FINDING_OK, FINDING_WARN, FINDING_FAIL, FINDING_LEVEL_COUNT };

struct finding {
	const char *check; /* "nix": the row of the table that found it */
	enum finding_level level;
	char *message;
	char *fix; /* a command or a setting, "" none */
};

struct doctor {
	struct config *config;
	const char *check; /* under way */
	struct finding *findings;
	size_t n, size;
	const char *endpoint;           /* the socket of the daemon that is asked */
	cJSON *vms, *cluster, *version; /* as it answered; NULL: it did not */
	struct blix_error silence;      /* why it did not */
};

/* config was loaded and settled (config_settle). Looks at everything. A daemon that answers at
 * `endpoint` (NULL: the configuration's socket) is believed about its own paths, which replace
 * those of the configuration. */
void doctor_run(struct doctor *doctor, struct config *config, const char *endpoint);
void doctor_done(struct doctor *doctor);
const char *finding_level_name(enum finding_level level);
/* {kind, findings: [{check, level, message, fix}], ok, warn, fail} */
cJSON *doctor_json(const struct doctor *doctor);

#endif
