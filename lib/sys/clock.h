/* The three clocks, read in one place. Intervals use boot_ms: it runs through suspend. */
#ifndef BLIX_SYS_CLOCK_H
#define BLIX_SYS_CLOCK_H

#include <stdint.h>

uint64_t clock_boot_ms(void); /* CLOCK_BOOTTIME */
uint64_t clock_boot_us(void);
uint64_t clock_wall_ms(void); /* CLOCK_REALTIME: for stamps that people read, never for intervals */
/* /proc/sys/kernel/random/boot_id without its newline, 36 characters; "" where there is none. */
const char *clock_boot_id(void);
/* 63 random bits, never 0. */
uint64_t random_id(void);

#endif
