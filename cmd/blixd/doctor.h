/* blixd --doctor. */
#ifndef BLIX_BLIXD_DOCTOR_H
#define BLIX_BLIXD_DOCTOR_H

#include "node/config.h"

/* endpoint NULL: the configuration's. Prints the findings; 1 when one of them is a failure, else 0.
 */
int doctor_print(struct config *config, const char *endpoint, bool json);

#endif
