/* One run of chaos: a cluster in DIR, clients that ask it, nemeses that hurt it, and the verdict.
 *
 *   chaos --dir DIR --blixd PROGRAM --flake URL --seed N [--servers 3] [--clients 8] [--seconds 20]
 *         [--nemeses a,b]
 *   chaos --check FILE         judges a history that was kept
 *
 * tests/chaos/run makes DIR and calls this: n1..nN with a blix.json and a small disk for the state
 * each, and room for the sockets of the network between them.
 *
 * Phases: all agree -> the first VMs are made -> nemeses and clients -> all is healed and all agree
 * again, by one state hash -> every VM is read from every server -> the servers end well -> the
 * history is judged. Exit code 0: no violation, and enough was tried; 1: not so; 2: wrong use. */
#include "chaos.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/clock.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define STEP_MS     50
#define AGREE_US    60000000 /* a server whose disk was full may need its 10 s, and others' load */
#define DONE_PER_S  5        /* operations that must succeed, on average: far below any machine */
#define AGREE_STEPS 12       /* some looks of the monitor */

uint64_t dice_next(struct dice *d)
{
	uint64_t z = d->state += 0x9e3779b97f4a7c15; /* splitmix64 */

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

unsigned dice_below(struct dice *d, unsigned n)
{
	return (unsigned)(dice_next(d) % n);
}

bool dice_percent(struct dice *d, unsigned percent)
{
	return dice_below(d, 100) < percent;
}

uint64_t chaos_us(const struct chaos *c)
{
	return uv_hrtime() / 1000 - c->begin_us;
}

void chaos_fail(struct chaos *c, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)fprintf(stderr, "chaos: at %.1f s: ", (double)chaos_us(c) / 1e6);
	(void)vfprintf(stderr, fmt, args);
	(void)fputc('\n', stderr);
	va_end(args);
	c->failed = true;
	uv_stop(&c->loop);
}

/* From phase to phase. */

static void phase_begin(struct chaos *c, enum phase phase);

static void on_healed(struct chaos *c)
{
	phase_begin(c, PHASE_HEAL);
}

static void on_set_up(struct chaos *c)
{
	phase_begin(c, PHASE_RUN);
}

static void on_read(struct chaos *c)
{
	phase_begin(c, PHASE_STOP);
}

static void phase_begin(struct chaos *c, enum phase phase)
{
	c->phase = phase;
	c->phase_us = chaos_us(c);
	c->agreed = 0;
	switch (phase) {
	case PHASE_WAIT:
		servers_init(c);
		break;
	case PHASE_SETUP:
		clients_setup(c, on_set_up);
		break;
	case PHASE_RUN:
		clients_run(c);
		nemeses_run(c, on_healed);
		break;
	case PHASE_HEAL:
		break;
	case PHASE_READ:
		clients_read_all(c, on_read);
		break;
	case PHASE_STOP:
		servers_end(c);
		break;
	}
}

static void tell_servers(const struct chaos *c)
{
	for (unsigned i = 0; i < c->n_servers; i++) {
		const struct server *s = &c->servers[i];

		(void)fprintf(stderr,
		              "chaos: server %u: %s, life %u, leader %u, revision %" PRIu64
		              ", state %s\n",
		              s->number, s->answers ? "answers" : "silent", s->life, s->leader,
		              s->revision, s->hash);
	}
}

static void on_step(uv_timer_t *timer)
{
	struct chaos *c = timer->data;
	bool waits = c->phase == PHASE_WAIT || (c->phase == PHASE_HEAL && clients_idle(c));

	if (waits)
		c->agreed = servers_agree(c) ? c->agreed + 1 : 0;
	if (waits && c->agreed > AGREE_STEPS)
		phase_begin(c, c->phase == PHASE_WAIT ? PHASE_SETUP : PHASE_READ);
	else if (c->phase == PHASE_STOP && servers_gone(c))
		uv_stop(&c->loop);
	if (c->phase != PHASE_RUN && chaos_us(c) - c->phase_us > AGREE_US) {
		tell_servers(c);
		chaos_fail(c, "phase %d does not end", (int)c->phase);
	}
}

/* The verdict. */

static bool judge(const struct history *h)
{
	struct check_result r;
	bool good;

	check_result_init(&r);
	check_history(h, CHECK_DEADLINE_MS, &r);
	if (r.text.len > 0)
		(void)fprintf(stderr, "%s", r.text.data);
	(void)printf("chaos: %zu events of %zu VMs, the slowest judged in %.1f ms: %zu "
	             "violations\n",
	             h->n, r.n_keys, (double)r.slowest / 1e3, r.n);
	good = r.n == 0;
	check_result_done(&r);
	return good;
}

/* A harness finds nothing in what it does not try. */
static bool tried_enough(const struct chaos *c)
{
	unsigned long done = 0;
	bool enough = true;

	for (unsigned op = 0; op < HISTORY_OP_COUNT; op++) {
		done += c->done[op];
		if (c->done[op] == 0) {
			(void)fprintf(stderr, "chaos: no %s succeeded\n", history_op_name(op));
			enough = false;
		}
		for (unsigned i = 0; i < c->n_nemeses; i++) {
			if (c->tried[op][i] > 0)
				continue;
			(void)fprintf(stderr, "chaos: %s was not tried under %s\n",
			              history_op_name(op), c->nemeses[i]->name);
			enough = false;
		}
	}
	if (done < (unsigned long)c->seconds * DONE_PER_S) {
		(void)fprintf(stderr, "chaos: only %lu operations succeeded\n", done);
		enough = false;
	}
	return enough;
}

static void tell(const struct chaos *c)
{
	(void)printf("chaos: done:");
	for (unsigned op = 0; op < HISTORY_OP_COUNT; op++)
		(void)printf(" %s %lu", history_op_name(op), c->done[op]);
	(void)printf("; under:");
	for (unsigned i = 0; i < c->n_nemeses; i++) {
		unsigned long n = 0;

		for (unsigned op = 0; op < HISTORY_OP_COUNT; op++)
			n += c->tried[op][i];
		(void)printf(" %s %lu", c->nemeses[i]->name, n);
	}
	(void)printf("; lives:");
	for (unsigned i = 0; i < c->n_servers; i++)
		(void)printf(" %u", c->servers[i].life);
	(void)printf("\n");
}

static bool run(struct chaos *c, const char *nemeses)
{
	cleanup(freep) char *path = xasprintf("%s/history", c->dir);

	c->file = fopen(path, "we");
	if (c->file == NULL || uv_loop_init(&c->loop) != 0) {
		(void)fprintf(stderr, "chaos: %s cannot be written\n", path);
		return false;
	}
	c->begin_us = uv_hrtime() / 1000;
	c->dice.state = c->seed;
	c->active = -1;
	nemeses_choose(c, nemeses);
	relays_open(c);
	clients_init(c);
	(void)uv_timer_init(&c->loop, &c->phase_timer);
	c->phase_timer.data = c;
	(void)uv_timer_start(&c->phase_timer, on_step, STEP_MS, STEP_MS);
	if (!c->failed) {
		phase_begin(c, PHASE_WAIT);
		(void)uv_run(&c->loop, UV_RUN_DEFAULT);
	}
	for (unsigned i = 0; i < c->n_servers; i++)
		server_kill(&c->servers[i]); /* those that are left after a failure */
	(void)fclose(c->file);
	tell(c);
	return judge(&c->history) && !c->failed && tried_enough(c);
}

static int check_file(const char *path)
{
	struct history h = {0};
	struct blix_error err;
	bool good;

	if (history_load(path, &h, &err) < 0) {
		(void)fprintf(stderr, "chaos: %s\n", err.text);
		return 2;
	}
	good = judge(&h);
	history_done(&h);
	return good ? 0 : 1;
}

static unsigned number(const char *text, unsigned max)
{
	uint64_t value = 0;

	if (parse_u64(text, &value, NULL) < 0 || value == 0 || value > max) {
		(void)fprintf(stderr, "chaos: %s is no number from 1 to %u\n", text, max);
		exit(2);
	}
	return (unsigned)value;
}

enum {
	OPTION_DIR = 1,
	OPTION_BLIXD,
	OPTION_FLAKE,
	OPTION_SEED,
	OPTION_SERVERS,
	OPTION_CLIENTS,
	OPTION_SECONDS,
	OPTION_NEMESES,
	OPTION_CHECK
};

static const struct option options[] = {
	{"dir", required_argument, NULL, OPTION_DIR},
	{"blixd", required_argument, NULL, OPTION_BLIXD},
	{"flake", required_argument, NULL, OPTION_FLAKE},
	{"seed", required_argument, NULL, OPTION_SEED},
	{"servers", required_argument, NULL, OPTION_SERVERS},
	{"clients", required_argument, NULL, OPTION_CLIENTS},
	{"seconds", required_argument, NULL, OPTION_SECONDS},
	{"nemeses", required_argument, NULL, OPTION_NEMESES},
	{"check", required_argument, NULL, OPTION_CHECK},
	{0},
};

int main(int argc, char **argv)
{
	static struct chaos chaos; /* what it holds ends with the process */
	struct chaos *c = &chaos;
	const char *nemeses = NULL;
	int option;

	c->n_servers = 3;
	c->n_clients = 8;
	c->seconds = 20;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case OPTION_DIR:
			c->dir = optarg;
			break;
		case OPTION_BLIXD:
			c->blixd = optarg;
			break;
		case OPTION_FLAKE:
			c->flake = optarg;
			break;
		case OPTION_SEED:
			c->seed = number(optarg, UINT_MAX);
			break;
		case OPTION_SERVERS:
			c->n_servers = number(optarg, SERVERS_MAX);
			break;
		case OPTION_CLIENTS:
			c->n_clients = number(optarg, CLIENTS_MAX);
			break;
		case OPTION_SECONDS:
			c->seconds = number(optarg, 3600);
			break;
		case OPTION_NEMESES:
			nemeses = optarg;
			break;
		case OPTION_CHECK:
			return check_file(optarg);
		default:
			return 2;
		}
	}
	if (c->dir == NULL || c->blixd == NULL || c->flake == NULL || c->seed == 0) {
		(void)fprintf(stderr, "chaos: --dir, --blixd, --flake and --seed are needed\n");
		return 2;
	}
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return 2;
	return run(c, nemeses) ? 0 : 1;
}
