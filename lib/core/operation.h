/* The operation of a VM, under way or last ended: which verb, since when, and the steps that it
 * took, each with its time. Steps beyond OPERATION_STEPS_MAX push the oldest but the first out. */
#ifndef BLIX_CORE_OPERATION_H
#define BLIX_CORE_OPERATION_H

#include <stdint.h>

#define OPERATION_STEPS(X)                                                                         \
	X(RESOLVE, "resolve") /* a node locks and evaluates the flake */                           \
	X(PLACE, "place")     /* it has a node */                                                  \
	X(BUILD, "build")     /* microvm -c or -u began */                                         \
	X(START, "start")     /* the runner is being started */                                    \
	X(RUN, "run")         /* its process lives */                                              \
	X(READY, "ready")     /* the guest says so */                                              \
	X(PAUSE, "pause")     /* its hypervisor holds the guest's CPUs */                          \
	X(RESUME, "resume")   /* and lets them go on */                                            \
	X(RETRY, "retry")     /* an attempt failed, or the runner ended; another follows */        \
	X(ASK, "ask")         /* the guest was asked to shut down */                               \
	X(TERM, "term")       /* the runner was sent SIGTERM */                                    \
	X(KILL, "kill")       /* the runner was sent SIGKILL */                                    \
	X(END, "end")         /* its process is gone */                                            \
	X(FAIL, "fail")       /* gave up */                                                        \
	X(FETCH, "fetch")     /* the packed flake comes to the node */

enum operation_step {
#define X(name, text) OPERATION_##name,
	OPERATION_STEPS(X)
#undef X
		OPERATION_STEP_COUNT
};

#define OPERATION_STEPS_MAX 12 /* a start with two retries */

struct operation_mark {
	uint8_t step;
	uint32_t after_ms; /* since the operation began, by the cluster clock */
};

struct operation_marks {
	struct operation_mark items[OPERATION_STEPS_MAX];
	uint8_t n;
};

const char *operation_step_name(enum operation_step step);
void operation_mark(struct operation_marks *marks, enum operation_step step, uint64_t after_ms);

#endif
