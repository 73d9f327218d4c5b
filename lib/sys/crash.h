/* Crash points: places where a test lets the program die as by SIGKILL, to see what a restart makes
 * of the rest. They stand before an INTENT, after it is durable, after each effect, after its DONE,
 * and around each rename and fsync.
 *
 * Only test builds have them (-DBLIX_CRASH_POINTS: MODE=debug, asan and tsan); elsewhere not even
 * their names exist. BLIX_CRASH_AT=N ends the process at the N-th point it reaches, counted from 1;
 * BLIX_CRASH_LOG=FILE gets a line for each point reached. Callable from any thread.
 */
#ifndef BLIX_SYS_CRASH_H
#define BLIX_SYS_CRASH_H

#ifdef BLIX_CRASH_POINTS
void crash_point(const char *name);
#else
#define crash_point(name) ((void)0)
#endif

#endif
