/* What applying one command gives back, on every replica alike. */
#ifndef BLIX_CORE_RESULT_H
#define BLIX_CORE_RESULT_H

#include "base/error.h"

#include <stdint.h>

struct command_result {
	enum blix_code code; /* BLIX_OK or why it was refused; never text, never errno */
	uint32_t why;        /* enum refusal of core/state.h, 0 when code is BLIX_OK */
	uint64_t revision;   /* the state's revision after the command */
	uint64_t uid;        /* the object it made or changed, 0 if none */
};

#endif
