/* Between the files of blix-agent:
 *
 *   main.c     options, the loop
 *   port.c     the port to the host, which comes and goes
 *   session.c  HELLO, the table of streams, frames in and out
 *   exec.c     commands         copy.c   files
 *   freeze.c   filesystems      guest.c  shutdown, identity, what HELLO says
 *   secret.c   values that the host keeps for this guest
 *
 * One thread, one poll. A stream is a row of `stream_kinds` with state of its own; it may read its
 * source only while the port takes what it yields, so memory is bounded by the windows.
 */
#ifndef BLIX_AGENT_H
#define BLIX_AGENT_H

#include "base/frame.h"

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/queue.h>

#define AGENT_VERSION     "0.1.0"
#define STREAMS           64           /* at once; the host is told `busy` beyond */
#define STREAM_FDS        4            /* that one stream may poll */
#define OUT_ENOUGH        (256u << 10) /* unsent bytes beyond which streams wait */
#define OUT_MOST          (2u << 20)   /* and what they may still add while ending */
#define HANGUP_MS         1000         /* from SIGHUP to SIGKILL */
#define FREEZE_MOST_MS    60000
#define SECRETS_DIRECTORY "/run/secrets"

struct agent;
struct stream;

struct stream_kind {
	const char *name;
	/* Answers OPENED, or fails, which becomes ERROR. */
	int (*open)(struct stream *s, json_t *request, struct blix_error *err);
	/* STDIN (the window is kept), EOF, RESIZE, SIGNAL; NULL: ignored. */
	void (*frame)(struct stream *s, const struct frame *f);
	/* What to wait for: fills fds, returns how many. NULL: nothing. */
	unsigned (*poll)(struct stream *s, struct pollfd *fds);
	/* Called each turn. */
	void (*work)(struct stream *s, const struct pollfd *fds, unsigned n);
	/* The host let go, or is gone: stop soon. Ends by stream_end(). */
	void (*hangup)(struct stream *s);
	void (*free)(struct stream *s);
};

struct stream {
	LIST_ENTRY(stream) entry;
	const struct stream_kind *kind;
	struct agent *agent;
	uint32_t id; /* 0: the host has let go */
	struct frame_window window;
	uint64_t deadline_ms; /* boot clock; work() is called then; 0 none */
	unsigned n_fds;
	bool idle; /* nothing can be done until something happens */
	bool ended;
	void *data;
};

LIST_HEAD(streams, stream);

struct agent {
	const char *port_path; /* NULL: the virtio port */
	const char *run;       /* directory of the agent's own files */
	const char *secrets;   /* NULL: SECRETS_DIRECTORY, which must be in memory */
	uint32_t vsock_port;   /* listen there for the host; 0: the port is elsewhere */
	uint32_t vsock_host;   /* whose connections are taken */
	int listener;          /* on that port; -1: none yet */
	int given;             /* the port is this, inherited open; -1: it is to be found */
	int port;              /* -1: not open */
	bool over;             /* the given port was a connection, and it ended */
	bool deaf;             /* what comes belongs to no session: read and drop */
	bool talking;          /* a session is on */
	uint64_t retry_ms;     /* the port is left alone until then */
	struct frame_reader in;
	struct buf out;
	size_t out_sent;
	char session[65];
	int control; /* socket of `blix-agent ready` */
	int netlink; /* tells of addresses */
	bool ready;
	bool identity; /* the host said who this guest is, in this boot */
	char *told;    /* the last HELLO */
	struct streams streams;
	unsigned n_streams;
};

/* port.c */
uint64_t now_ms(void);
/* Opens it when it is time. */
void port_open(struct agent *a);
/* The listener has a connection: it is the host's, and takes the place of the last one. */
void port_accept(struct agent *a);
void port_read(struct agent *a);
void port_write(struct agent *a);
/* The host is gone: ends the session; a socket is closed, a virtio port waits. A socket that was
 * given is all that the agent had: it is over. */
void port_lost(struct agent *a);

/* session.c */
void session_feed(struct agent *a, const char *data, size_t n);
void session_end(struct agent *a);
/* HELLO, if it says something new or must. */
void session_hello(struct agent *a, bool always);
bool session_has_room(const struct agent *a);
void streams_work(struct agent *a, const struct pollfd *fds);
unsigned streams_poll(struct agent *a, struct pollfd *fds);
uint64_t streams_deadline(const struct agent *a);
void stream_opened(struct stream *s, json_t *body);
void stream_put(struct stream *s, enum frame_type type, const void *data, size_t n);
void stream_eof(struct stream *s, uint8_t which);
/* n bytes of STDIN left for good. */
void stream_consumed(struct stream *s, size_t n);
/* EXIT, or ERROR when err is given, and no more frames; freed after the turn. Takes body. */
void stream_exit(struct stream *s, json_t *body);
void stream_error(struct stream *s, const struct blix_error *err);
/* Ended without a word. */
void stream_end(struct stream *s);

extern const struct stream_kind exec_kind, copy_in_kind, copy_out_kind, freeze_kind, shutdown_kind,
	identity_kind, secret_kind;

/* guest.c */
json_t *guest_hello(const struct agent *a);
int guest_netlink(void);
/* Of this boot, as an agent before this one has noted. */
bool guest_has_identity(const struct agent *a);
/* freeze.c: what an agent before this one left frozen. */
void freeze_recover(struct agent *a);

#endif
