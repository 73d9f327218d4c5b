/* CRC32C (Castagnoli), the checksum of iSCSI and ext4. No small library of Debian has it. */
#ifndef BLIX_BASE_CRC32C_H
#define BLIX_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of n more bytes after those that gave `crc`; 0 begins. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);

#endif
