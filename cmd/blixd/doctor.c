/* blixd --doctor: prints what lib/node/doctor.c found, a finding a line with the command that mends
 * it below, or one JSON object. */
#include "doctor.h"

#include "base/alloc.h"
#include "node/doctor.h"

#include <stdio.h>

static void print_text(const struct doctor *doctor, const unsigned *counts)
{
	for (size_t i = 0; i < doctor->n; i++) {
		const struct finding *finding = &doctor->findings[i];

		(void)printf("%-4s  %-12s  %s\n", finding_level_name(finding->level),
		             finding->check, finding->message);
		if (finding->fix[0] != '\0')
			(void)printf("%20sfix: %s\n", "", finding->fix);
	}
	(void)printf("%u ok, %u to look at, %u failed\n", counts[FINDING_OK], counts[FINDING_WARN],
	             counts[FINDING_FAIL]);
}

int doctor_print(struct config *config, const char *endpoint, bool json)
{
	unsigned counts[FINDING_LEVEL_COUNT] = {0};
	struct doctor doctor;

	doctor_run(&doctor, config, endpoint);
	for (size_t i = 0; i < doctor.n; i++)
		counts[doctor.findings[i].level]++;
	if (json) {
		cleanup(json_freep) cJSON *tree = doctor_json(&doctor);
		cleanup(freep) char *text = cJSON_Print(tree);

		(void)printf("%s\n", text != NULL ? text : "");
	} else {
		print_text(&doctor, counts);
	}
	doctor_done(&doctor);
	return fflush(stdout) != 0 || counts[FINDING_FAIL] > 0 ? 1 : 0;
}
