/* The version of everything in this tree. */
#ifndef BLIX_VERSION_H
#define BLIX_VERSION_H

#define BLIX_VERSION "0.1.0"

#endif
