/* journal_open FILE: prints each INTENT of a node's journal that has no DONE; exits with 1 when the
 * file is damaged. */
#include "core/journal.h"
#include "sys/file.h"

#include <inttypes.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct blix_error err;
	struct journal j;
	struct buf bytes;
	size_t kept = 0;
	int rc;

	buf_init(&bytes, LIMIT_JOURNAL);
	journal_init(&j);
	rc = argc == 2 ? file_read(argv[1], &bytes, &err)
	               : blix_fail(&err, BLIX_E_INVALID, "usage: journal_open FILE");
	if (rc == 0)
		rc = journal_replay(&j, (const uint8_t *)bytes.data, bytes.len, &kept, &err);
	for (size_t i = 0; rc == 0 && i < j.n; i++)
		(void)printf("open: %s of %s, operation %" PRIu64 "\n",
		             journal_step_name(j.open[i].step), j.open[i].name,
		             j.open[i].operation);
	if (rc < 0)
		(void)fprintf(stderr, "%s\n", err.text);
	journal_free(&j);
	buf_done(&bytes);
	return rc < 0;
}
