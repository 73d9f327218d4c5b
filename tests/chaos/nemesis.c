/* What is done to the cluster: see chaos.h.
 *
 * A run is divided into spans of some seconds. In each, all is well for a while; then one nemesis
 * begins, and is healed at the end of the span. They come in an order of the seed; when there are
 * more spans than nemeses, again and again. One row of the table is one nemesis: begin() hurts,
 * nemesis_heal() undoes whatever it was.
 *
 * Partitions are a matrix of who hears whom, which only network_cut() changes.
 */
#include "chaos.h"

#include <stdio.h>
#include <string.h>

/* So long that another leader is found, twice over, and every operation is tried by then. */
#define SPAN_S      5
#define PAUSE_STEPS 4

/* Whoever leads, as far as is known. */
static struct server *leader(struct chaos *c)
{
	unsigned any = 1 + dice_below(&c->dice, c->n_servers);
	unsigned number = servers_leader(c);

	return &c->servers[(number > 0 && number <= c->n_servers ? number : any) - 1];
}

/* Most often that is where it hurts. */
static struct server *victim(struct chaos *c)
{
	struct server *any = &c->servers[dice_below(&c->dice, c->n_servers)];

	return dice_percent(&c->dice, 35) ? any : leader(c);
}

static void network_cut(struct chaos *c, unsigned from, unsigned to)
{
	c->cut[from][to] = true;
}

static void cut_both(struct chaos *c, unsigned a, unsigned b)
{
	network_cut(c, a, b);
	network_cut(c, b, a);
}

/* `in` holds one bit for each server. */
static void cut_group(struct chaos *c, unsigned in)
{
	for (unsigned a = 1; a <= c->n_servers; a++) {
		for (unsigned b = 1; b < a; b++) {
			if (((in >> a) & 1) != ((in >> b) & 1))
				cut_both(c, a, b);
		}
	}
	c->cut_breaks = dice_percent(&c->dice, 50);
	relays_update(c);
}

/* The leader is alone; begin_majority() has the others. */
static void begin_one(struct chaos *c)
{
	cut_group(c, 1u << leader(c)->number);
}

/* As many as can be spared are alone, the leader perhaps among them. */
static void begin_majority(struct chaos *c)
{
	unsigned in = 0, n = 0;

	while (n < (c->n_servers - 1) / 2) {
		unsigned bit = 1u << (1 + dice_below(&c->dice, c->n_servers));

		if ((in & bit) == 0)
			n++;
		in |= bit;
	}
	cut_group(c, in);
}

/* One hears nobody, or is heard by nobody. */
static void begin_oneway(struct chaos *c)
{
	unsigned one = victim(c)->number;
	bool deaf = dice_percent(&c->dice, 50);

	for (unsigned other = 1; other <= c->n_servers; other++) {
		if (other != one)
			network_cut(c, deaf ? other : one, deaf ? one : other);
	}
	relays_update(c);
}

/* Each hears two neighbours; of three, two do not hear each other. */
static void begin_ring(struct chaos *c)
{
	unsigned n = c->n_servers, first = dice_below(&c->dice, n);

	for (unsigned a = 0; a < n; a++) {
		for (unsigned b = a + 2; b < n; b++) {
			if (n == 3 || b - a != n - 1)
				cut_both(c, 1 + (first + a) % n, 1 + (first + b) % n);
		}
	}
	relays_update(c);
}

static void begin_kill(struct chaos *c)
{
	server_kill(victim(c));
}

/* All at once, as by a loss of power that the disks survive; they come back meanwhile. */
static void begin_blackout(struct chaos *c)
{
	for (unsigned i = 0; i < c->n_servers; i++) {
		server_kill(&c->servers[i]);
		c->servers[i].wanted = true;
	}
}

static void begin_stop(struct chaos *c)
{
	server_stop(victim(c));
}

static void network_heal(struct chaos *c)
{
	memset(c->cut, 0, sizeof(c->cut));
	c->cut_breaks = false;
	relays_update(c);
}

/* Alone and stopped, as a host that is suspended, until another leads and clients have found it;
 * then they ask the old one again, which wakes up and does not know yet. The network comes back
 * after that. Again and again. */
static void on_pause(uv_timer_t *timer)
{
	static const unsigned steps_ms[PAUSE_STEPS] = {1400, 300, 200, 600};
	struct chaos *c = timer->data;
	unsigned step = c->pause_step++ % PAUSE_STEPS;

	if (step == 0) {
		c->shunned = leader(c)->number;
		cut_group(c, 1u << c->shunned);
		server_stop(&c->servers[c->shunned - 1]);
	} else if (step == 1) {
		c->asked = c->shunned;
		c->shunned = 0;
	} else if (step == 2) {
		servers_heal(c);
	} else {
		c->asked = 0;
		network_heal(c);
	}
	(void)uv_timer_start(timer, on_pause, steps_ms[step], 0);
}

static void begin_pause(struct chaos *c)
{
	c->pause_step = 0;
	on_pause(&c->pause_timer);
}

/* Full as it runs, or as it starts: that is when it wants room for its log at once. */
static void begin_disk(struct chaos *c)
{
	struct server *s = victim(c);

	server_fill(s);
	if (dice_percent(&c->dice, 50)) {
		server_kill(s);
		s->wanted = true;
	}
}

static const struct nemesis table[] = {
	{"kill", begin_kill}, {"stop", begin_stop},         {"disk", begin_disk},
	{"one", begin_one},   {"majority", begin_majority}, {"oneway", begin_oneway},
	{"ring", begin_ring}, {"blackout", begin_blackout}, {"pause", begin_pause},
};

void nemesis_heal(struct chaos *c)
{
	(void)uv_timer_stop(&c->pause_timer);
	c->shunned = c->asked = 0;
	network_heal(c);
	servers_heal(c);
	c->active = -1;
}

/* `names`: those of the table separated by commas; NULL: as many of them as there is time for. */
void nemeses_choose(struct chaos *c, const char *names)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const char *at = names != NULL ? strstr(names, table[i].name) : NULL;
		size_t n = strlen(table[i].name);

		/* "one" is also in "oneway" */
		while (at != NULL &&
		       ((at[n] != ',' && at[n] != '\0') || (at > names && at[-1] != ',')))
			at = strstr(at + 1, table[i].name);
		if (names == NULL || at != NULL)
			c->nemeses[c->n_nemeses++] = &table[i];
	}
	for (unsigned i = c->n_nemeses; i > 1; i--) {
		unsigned k = dice_below(&c->dice, i);
		const struct nemesis *swap = c->nemeses[i - 1];

		c->nemeses[i - 1] = c->nemeses[k];
		c->nemeses[k] = swap;
	}
	if (names == NULL && c->n_nemeses > c->seconds / SPAN_S)
		c->n_nemeses = c->seconds >= SPAN_S ? c->seconds / SPAN_S : 1;
	if (c->n_nemeses == 0)
		chaos_fail(c, "no such nemesis: %s", names);
}

static unsigned n_spans(const struct chaos *c)
{
	unsigned n = c->seconds / SPAN_S;

	return n > c->n_nemeses ? n : c->n_nemeses;
}

static unsigned span_ms(const struct chaos *c)
{
	return c->seconds * 1000 / n_spans(c);
}

static void on_span(uv_timer_t *timer);

static void on_begin(uv_timer_t *timer)
{
	struct chaos *c = timer->data;

	c->active = (int)(c->next_nemesis++ % c->n_nemeses);
	c->nemeses[c->active]->begin(c);
	(void)uv_timer_start(timer, on_span, span_ms(c) * 3 / 4, 0);
}

static void on_span(uv_timer_t *timer)
{
	struct chaos *c = timer->data;

	nemesis_heal(c);
	if (c->next_nemesis == n_spans(c))
		c->healed(c);
	else
		(void)uv_timer_start(timer, on_begin, span_ms(c) / 4, 0);
}

void nemeses_run(struct chaos *c, void (*done)(struct chaos *c))
{
	c->healed = done;
	(void)uv_timer_init(&c->loop, &c->nemesis_timer);
	c->nemesis_timer.data = c;
	(void)uv_timer_init(&c->loop, &c->pause_timer);
	c->pause_timer.data = c;
	on_span(&c->nemesis_timer);
}
