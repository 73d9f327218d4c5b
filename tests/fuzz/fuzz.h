/* What the fuzz targets share. A target takes any bytes, never leaks, and asserts what must hold of
 * what was accepted: mostly that writing it out and reading it back changes nothing. */
#ifndef FUZZ_H
#define FUZZ_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#endif
