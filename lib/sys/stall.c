/* Turns of the loop: see stall.h. */
#include "sys/stall.h"

#include "base/alloc.h"

static void on_prepare(uv_prepare_t *prepare)
{
	struct stall *s = container_of(prepare, struct stall, prepare);
	uint64_t now = uv_hrtime();
	uint64_t idle = uv_metrics_idle_time(prepare->loop);
	uint64_t busy = (now - s->turn_ns) - (idle - s->idle_ns);

	if (s->turn_ns != 0 && busy > s->worst_ns)
		s->worst_ns = busy;
	s->turn_ns = now;
	s->idle_ns = idle;
}

void stall_start(struct stall *s, uv_loop_t *loop)
{
	*s = (struct stall){0};
	(void)uv_loop_configure(loop, UV_METRICS_IDLE_TIME);
	(void)uv_prepare_init(loop, &s->prepare);
	(void)uv_prepare_start(&s->prepare, on_prepare);
	uv_unref((uv_handle_t *)&s->prepare);
}

void stall_close(struct stall *s, uv_close_cb cb, void *data)
{
	s->prepare.data = data;
	uv_close((uv_handle_t *)&s->prepare, cb);
}

uint64_t stall_worst_us(const struct stall *s)
{
	return s->worst_ns / 1000;
}
