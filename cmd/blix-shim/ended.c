/* The end of a runner that systemd stood by, for exit.json: systemd itself forgets a unit that
 * ended well. Runs as ExecStopPost of the unit, which has EXIT_CODE and EXIT_STATUS in its
 * environment: "exited" and a number, or "killed" and the name of a signal. Without them nothing
 * had run. */
#include "shim.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>

static bool find_signal(const char *name, int *ret)
{
	for (int sig = 1; sig < NSIG; sig++) {
		const char *known = sigabbrev_np(sig);

		if (known != NULL && strcmp(known, name) == 0) {
			*ret = sig;
			return true;
		}
	}
	return false;
}

int ended_record(const char *run)
{
	const char *code = getenv("EXIT_CODE"), *text = getenv("EXIT_STATUS");
	cleanup(buf_done) struct buf record;
	cleanup(closep) int dir = open(run, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct blix_error err;
	bool signaled = code != NULL && strcmp(code, "exited") != 0;
	uint64_t number = 0;
	int status = 0, rc = 0;

	buf_init(&record, 256);
	if (code == NULL || text == NULL)
		return 0;
	if (dir < 0)
		rc = blix_fail_sys(&err, errno, "open %s", run);
	else if (signaled && !find_signal(text, &status))
		rc = blix_fail(&err, BLIX_E_INVALID, "EXIT_STATUS is no signal: %.20s", text);
	else if (!signaled && (rc = parse_u64(text, &number, &err)) == 0)
		status = (int)(number & 255);
	if (rc == 0)
		rc = record_exit(dir, signaled, status, &record, &err);
	if (rc < 0)
		(void)fprintf(stderr, "blix-shim: %s\n", err.text);
	return rc < 0 ? blix_code_info(err.code)->exit : 0;
}
