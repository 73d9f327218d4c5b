/* The terminal that blix was started at, while a guest has it. */
#ifndef BLIX_CMD_TERMINAL_H
#define BLIX_CMD_TERMINAL_H

#include "base/error.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* Makes it raw: each key goes to the guest. It is put back by terminal_restore(), at exit and when
 * the program crashes. */
int terminal_raw(struct blix_error *err);
void terminal_restore(void); /* does nothing when it is not raw */
/* Of standard output, else input; false when neither is a terminal. */
bool terminal_size(uint16_t *ret_rows, uint16_t *ret_columns);

/* From here on signals that end a program are kept for signals_next(), and they and SIGWINCH
 * interrupt the ppoll() that is given *ret_mask, and nothing else. SIGPIPE is ignored. */
void signals_catch(sigset_t *ret_mask);
/* The next one that came, 0 none. SIGWINCH comes last. */
int signals_next(void);
/* One that ends a program came and was not looked at: its number, 0 none. */
int signals_ended(void);

#endif
