/* Requests that wait for the state: long polls, and answers that want the local state to follow.
 * One timer serves the earliest deadline; after a change every wait is asked once. */
#include "node/daemon_internal.h"

#include "base/alloc.h"
#include "sys/clock.h"

struct wait {
	struct wait *next;
	struct wait_options options;
	struct daemon *daemon;
	uint64_t until_ms; /* boot clock */
	bool done;         /* answered or cancelled: freed by the next sweep */
};

static void wait_end(struct wait *wait, bool cancelled)
{
	wait->done = true;
	if (!cancelled && wait->options.request != NULL)
		http_on_cancel(wait->options.request, NULL, NULL);
	wait->options.cb(wait->daemon, wait->options.data, cancelled);
}

static void wait_cancelled(void *data)
{
	struct wait *wait = data;

	if (!wait->done)
		wait_end(wait, true);
}

/* Frees what is done and arms the timer for the rest. */
static void sweep(struct daemon *d)
{
	uint64_t now = clock_boot_ms(), first = UINT64_MAX;

	for (struct wait **slot = &d->waits; *slot != NULL;) {
		struct wait *wait = *slot;

		if (wait->done) {
			*slot = wait->next;
			free(wait);
			continue;
		}
		first = wait->until_ms < first ? wait->until_ms : first;
		slot = &wait->next;
	}
	if (first == UINT64_MAX)
		(void)uv_timer_stop(&d->wait_timer);
	else
		(void)uv_timer_start(&d->wait_timer, daemon_wait_deadlines,
		                     first > now ? first - now : 0, 0);
}

void daemon_wait(struct daemon *d, const struct wait_options *options)
{
	struct wait *wait = xcalloc(1, sizeof(*wait));

	*wait = (struct wait){.next = d->waits,
	                      .options = *options,
	                      .daemon = d,
	                      .until_ms = clock_boot_ms() + options->deadline_ms};
	d->waits = wait;
	if (options->request != NULL)
		http_on_cancel(options->request, wait_cancelled, wait);
	sweep(d);
}

void daemon_wake_waits(struct daemon *d)
{
	for (struct wait *wait = d->waits; wait != NULL; wait = wait->next) {
		if (!wait->done && wait->options.ready(d, wait->options.data))
			wait_end(wait, false);
	}
	sweep(d);
}

void daemon_wait_deadlines(uv_timer_t *timer)
{
	struct daemon *d = timer->data;
	uint64_t now = clock_boot_ms();

	for (struct wait *wait = d->waits; wait != NULL; wait = wait->next) {
		if (!wait->done && wait->until_ms <= now)
			wait_end(wait, false);
	}
	sweep(d);
}

void daemon_drop_waits(struct daemon *d)
{
	for (struct wait *wait = d->waits; wait != NULL; wait = wait->next) {
		if (!wait->done && wait->options.request == NULL)
			wait_end(wait, true);
	}
	sweep(d);
}
