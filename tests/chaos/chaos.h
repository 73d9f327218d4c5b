/* Between the files of the chaos harness: a cluster of real blixd, clients that ask it, and what is
 * done to it meanwhile. Everything is on one loop.
 *
 * main.c goes through the phases; server.c has the processes and asks them how they are; relay.c is
 * the network between them, and the one place where it is cut; nemesis.c hurts, client.c asks and
 * writes the history; check.h judges it.
 *
 * A mistake of the harness itself, or an answer that blixd must never give, ends the run by
 * chaos_fail; violations are found at the end.
 */
#ifndef BLIX_TESTS_CHAOS_H
#define BLIX_TESTS_CHAOS_H

#include "check.h"

#include "curl/fetch.h"

#include <limits.h>
#include <uv.h>

#define SERVERS_MAX  7
#define CLIENTS_MAX  32
#define NEMESES_MAX  16
#define VALUES       3  /* VMs whose one label is written */
#define COMERS       3  /* VMs that come and go */
#define ELEMENTS_MAX 30 /* appends to one VM: a VM has 32 labels */

struct chaos;

/* A small generator of our own: a seed gives the same run's requests everywhere. */
struct dice {
	uint64_t state;
};
uint64_t dice_next(struct dice *d);
unsigned dice_below(struct dice *d, unsigned n); /* 0 .. n-1 */
bool dice_percent(struct dice *d, unsigned percent);

enum phase { PHASE_WAIT, PHASE_SETUP, PHASE_RUN, PHASE_HEAL, PHASE_READ, PHASE_STOP };

struct server {
	struct chaos *chaos;
	unsigned number; /* from 1 */
	unsigned life;
	uv_process_t process;
	bool running, stopped; /* stopped: by SIGSTOP */
	bool wanted;           /* it is started again when it ends */
	bool killed;           /* by us: its end is no surprise */
	bool starved;          /* its disk was full in this life: it may end itself */
	uv_timer_t again;
	char socket[PATH_MAX];
	int balloon; /* -1: none */
	/* What it last said of itself, by monitor(). */
	struct fetch_pool *pool;
	bool answers;
	unsigned leader; /* 0: it knows none */
	uint64_t revision;
	char hash[24];
};

struct request {
	char key[HISTORY_KEY], method[8], path[128];
	char *body;
	uint64_t session, number;
	char answer[40]; /* "": there is none */
};

struct client {
	struct chaos *chaos;
	unsigned number; /* from 1 */
	struct dice dice;
	struct fetch_pool *pool;
	uv_timer_t timer;
	uint64_t session, request;
	bool busy;
	/* The operation under way. */
	struct record record;
	char method[8], path[128];
	char *body;
	unsigned attempts;
	uint64_t until_us;
	bool may_have_happened;
	bool rolls; /* it makes the next VM for appends */
	unsigned server;
	unsigned pinned;           /* the only server that it asks; 0: any */
	struct request last;       /* the last mutation that was answered, to send it again */
	uint64_t versions[VALUES]; /* last seen, for compare-and-set */
};

struct nemesis {
	const char *name;
	void (*begin)(struct chaos *c);
};

struct chaos {
	uv_loop_t loop;
	const char *dir, *blixd, *flake;
	uint64_t seed, begin_us;
	unsigned n_servers, n_clients, seconds;
	enum phase phase;
	uint64_t phase_us;                  /* when it began */
	unsigned agreed;                    /* looks in a row at which all servers agreed */
	void (*step_done)(struct chaos *c); /* of the setup or the reads under way */
	void (*healed)(struct chaos *c);    /* after the last span */
	struct dice dice;
	struct server servers[SERVERS_MAX];
	struct client clients[CLIENTS_MAX];
	struct history history;
	FILE *file;
	uint64_t next_value;

	bool cut[SERVERS_MAX + 1][SERVERS_MAX + 1]; /* bytes from .. to .. wait */
	bool cut_breaks;                            /* connections over a cut end instead */
	struct relay *relays;
	struct joint *joints;

	uv_timer_t monitor, nemesis_timer, pause_timer, phase_timer;
	const struct nemesis *nemeses[NEMESES_MAX];
	unsigned n_nemeses, next_nemesis;
	unsigned pause_step;
	unsigned shunned; /* nobody asks this server; 0: none */
	unsigned asked;   /* all reads ask this one; 0: any */
	int active;       /* index into nemeses; -1: none */
	unsigned long tried[HISTORY_OP_COUNT][NEMESES_MAX];
	unsigned long done[HISTORY_OP_COUNT];

	unsigned list;      /* number of the VM that takes appends */
	unsigned n_appends; /* asked of it */
	bool rolling;       /* the next one is being made */
	unsigned n_setup;
	size_t next_read;
	bool failed;
};

uint64_t chaos_us(const struct chaos *c);
void chaos_fail(struct chaos *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* server.c */
void servers_init(struct chaos *c);
void server_start(struct server *s);
void server_kill(struct server *s);
void server_stop(struct server *s); /* SIGSTOP */
void server_fill(struct server *s); /* its disk */
void servers_heal(struct chaos *c); /* all run, with room on their disks */
void servers_end(struct chaos *c);  /* SIGTERM; each must end well */
bool servers_agree(const struct chaos *c);
bool servers_gone(const struct chaos *c);
unsigned servers_leader(const struct chaos *c); /* 0: nobody says so */

/* relay.c: one for each ordered pair of servers and each of their two sockets. */
void relays_open(struct chaos *c);
/* Follows what `cut` says now. */
void relays_update(struct chaos *c);

/* nemesis.c */
void nemeses_choose(struct chaos *c, const char *names);
void nemesis_heal(struct chaos *c);
void nemeses_run(struct chaos *c, void (*done)(struct chaos *c));

/* client.c */
void clients_init(struct chaos *c);
void clients_run(struct chaos *c);
bool clients_idle(const struct chaos *c);
/* Client 1 does the setup, or reads everything of every server; then done. */
void clients_setup(struct chaos *c, void (*done)(struct chaos *c));
void clients_read_all(struct chaos *c, void (*done)(struct chaos *c));

#endif
