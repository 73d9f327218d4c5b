/* The five classes of what can go wrong with a VM: whom to call. A reason says what happened, its
 * class says which part of the world has to change for it to work. */
#ifndef BLIX_CORE_CAUSE_H
#define BLIX_CORE_CAUSE_H

#include "base/error.h"

#define CAUSE_CLASSES(X)                                                                           \
	X(NONE, "")                                                                                \
	X(RESOURCES, "resources") /* memory, CPU, disk, descriptors, places to build */            \
	X(NETWORK, "network")     /* a source, a cache or a peer was not reached */                \
	X(START, "start")         /* the runner does not start, or ended */                        \
	X(IMAGE, "image")         /* the flake or its build is wrong, missing or damaged */        \
	X(NODE, "node")           /* the node failed, or something on it is in the way */

enum cause_class {
#define X(name, text) CAUSE_##name,
	CAUSE_CLASSES(X)
#undef X
		CAUSE_COUNT
};

const char *cause_class_name(enum cause_class class);
/* The class of a reason; of its code where the table has no such reason. */
enum cause_class cause_of(const char *reason, enum blix_code code);

#endif
