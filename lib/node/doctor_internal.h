/* Between the files of the doctor only. */
#ifndef BLIX_NODE_DOCTOR_INTERNAL_H
#define BLIX_NODE_DOCTOR_INTERNAL_H

#include "exec/child.h"
#include "node/doctor.h"

/* Adds a finding of the check under way; fix NULL: none. Both end up the doctor's. */
void doctor_add(struct doctor *d, enum finding_level level, const char *fix, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* doctor_programs.c */
void doctor_acceleration(struct doctor *d);
void doctor_nix(struct doctor *d);
void doctor_microvm(struct doctor *d);
/* doctor_host.c */
void doctor_cgroups(struct doctor *d);
void doctor_systemd(struct doctor *d);
void doctor_disk(struct doctor *d);
void doctor_clock(struct doctor *d);
void doctor_permissions(struct doctor *d);
/* doctor_runners.c */
void doctor_runners(struct doctor *d);
/* doctor_leftovers.c */
/* Of a VM as the daemon lists it; NULL: none. */
const char *doctor_vm_name(const cJSON *item);
/* Before all checks: asks the daemon. */
void doctor_ask(struct doctor *d);
void doctor_daemon(struct doctor *d);
void doctor_leftovers(struct doctor *d);

#endif
