/* The network between the servers: see chaos.h.
 *
 * Each server knows the others' sockets by paths of ours, DIR/net/FROM-TO.raft and .api. What
 * connects there is joined to the real socket, DIR/nTO/raft or sock, and bytes go through, each way
 * by itself. A way that is cut reads no more: its bytes wait, as behind a switch that drops
 * packets, and come late when it is mended. With `cut_breaks` the connection ends instead, as by a
 * firewall's reset.
 *
 * When one side ends, both do. Nothing is tried again here: that is the servers' work.
 */
#include "chaos.h"

#include "base/alloc.h"

#include <string.h>
#include <sys/stat.h>

#define BACKLOG     64
#define RELAY_BYTES 65536

struct relay {
	struct chaos *chaos;
	struct relay *next;
	unsigned from, to;
	uv_pipe_t listener;
	char target[PATH_MAX];
};

struct way {
	struct joint *joint;
	uv_pipe_t *in, *out;
	unsigned from, to;
	bool reading, writing;
	uv_write_t write;
	char bytes[RELAY_BYTES];
};

struct joint {
	struct chaos *chaos;
	struct joint *next, *prev;
	uv_pipe_t near, far;
	uv_connect_t connect;
	struct way there, back;
	unsigned handles;
	bool connected, closing;
};

static void on_joint_closed(uv_handle_t *handle)
{
	struct joint *j = handle->data;

	if (--j->handles > 0)
		return;
	if (j->prev != NULL)
		j->prev->next = j->next;
	else
		j->chaos->joints = j->next;
	if (j->next != NULL)
		j->next->prev = j->prev;
	free(j);
}

static void joint_close(struct joint *j)
{
	if (j->closing)
		return;
	j->closing = true;
	uv_close((uv_handle_t *)&j->near, on_joint_closed);
	uv_close((uv_handle_t *)&j->far, on_joint_closed);
}

static void way_update(struct way *way);

static void on_written(uv_write_t *write, int status)
{
	struct way *way = write->data;

	way->writing = false;
	if (status < 0)
		joint_close(way->joint);
	else
		way_update(way);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct joint *j = handle->data;
	struct way *way = handle == (uv_handle_t *)&j->near ? &j->there : &j->back;

	(void)suggested;
	*buf = uv_buf_init(way->bytes, sizeof(way->bytes));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct joint *j = stream->data;
	struct way *way = stream == (uv_stream_t *)&j->near ? &j->there : &j->back;
	uv_buf_t out;

	if (n < 0)
		joint_close(j);
	if (n <= 0)
		return;
	out = uv_buf_init(buf->base, (unsigned)n);
	way->write.data = way;
	way->writing = true;
	if (uv_write(&way->write, (uv_stream_t *)way->out, &out, 1, on_written) != 0)
		joint_close(j);
	else
		way_update(way);
}

static void way_update(struct way *way)
{
	struct joint *j = way->joint;
	bool want = j->connected && !way->writing && !j->chaos->cut[way->from][way->to];

	if (j->closing || want == way->reading)
		return;
	way->reading = want;
	if (want)
		(void)uv_read_start((uv_stream_t *)way->in, on_alloc, on_read);
	else
		(void)uv_read_stop((uv_stream_t *)way->in);
}

static bool is_broken(const struct chaos *c, unsigned from, unsigned to)
{
	return c->cut_breaks && (c->cut[from][to] || c->cut[to][from]);
}

static void on_connected(uv_connect_t *connect, int status)
{
	struct joint *j = connect->data;

	j->connected = status == 0;
	if (status < 0)
		joint_close(j);
	way_update(&j->there);
	way_update(&j->back);
}

static void on_incoming(uv_stream_t *listener, int status)
{
	struct relay *relay = listener->data;
	struct joint *j = xcalloc(1, sizeof(*j));

	j->chaos = relay->chaos;
	j->handles = 2;
	(void)uv_pipe_init(listener->loop, &j->near, 0);
	(void)uv_pipe_init(listener->loop, &j->far, 0);
	j->near.data = j->far.data = j->connect.data = j;
	j->there = (struct way){
		.joint = j, .in = &j->near, .out = &j->far, .from = relay->from, .to = relay->to};
	j->back = (struct way){
		.joint = j, .in = &j->far, .out = &j->near, .from = relay->to, .to = relay->from};
	j->next = j->chaos->joints;
	if (j->next != NULL)
		j->next->prev = j;
	j->chaos->joints = j;
	if (status < 0 || uv_accept(listener, (uv_stream_t *)&j->near) != 0 ||
	    is_broken(j->chaos, relay->from, relay->to))
		joint_close(j);
	else
		uv_pipe_connect(&j->connect, &j->far, relay->target, on_connected);
}

void relays_update(struct chaos *c)
{
	for (struct joint *j = c->joints; j != NULL; j = j->next) {
		if (is_broken(c, j->there.from, j->there.to))
			joint_close(j);
		way_update(&j->there);
		way_update(&j->back);
	}
}

static void relay_open(struct chaos *c, unsigned from, unsigned to, const char *ending,
                       const char *target)
{
	struct relay *relay = xcalloc(1, sizeof(*relay));
	cleanup(freep) char *path = xasprintf("%s/net/%u-%u.%s", c->dir, from, to, ending);

	relay->chaos = c;
	relay->from = from;
	relay->to = to;
	relay->next = c->relays;
	c->relays = relay;
	(void)snprintf(relay->target, sizeof(relay->target), "%s/n%u/%s", c->dir, to, target);
	(void)uv_pipe_init(&c->loop, &relay->listener, 0);
	relay->listener.data = relay;
	if (uv_pipe_bind(&relay->listener, path) != 0 ||
	    uv_listen((uv_stream_t *)&relay->listener, BACKLOG, on_incoming) != 0)
		chaos_fail(c, "relay %s cannot listen", path);
}

void relays_open(struct chaos *c)
{
	cleanup(freep) char *dir = xasprintf("%s/net", c->dir);

	if (mkdir(dir, 0700) < 0)
		chaos_fail(c, "%s cannot be made", dir);
	for (unsigned from = 1; from <= c->n_servers; from++) {
		for (unsigned to = 1; to <= c->n_servers; to++) {
			if (from == to)
				continue;
			relay_open(c, from, to, "raft", "raft");
			relay_open(c, from, to, "api", "sock");
		}
	}
}
