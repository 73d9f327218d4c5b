/* Bytes from a guest or a client. What the reader lets in is written again to the same bytes, and
 * where the bytes are cut makes no difference. */
#include "fuzz.h"

#include "base/alloc.h"
#include "base/frame.h"

#include <string.h>

/* Reads all in pieces of `step` and writes what came into `out`; 0, or the reader's error. */
static int copy_frames(const uint8_t *data, size_t n, size_t step, struct buf *out)
{
	cleanup(frame_reader_done) struct frame_reader r;
	struct frame_window w;
	struct frame f;
	int rc = 0;

	frame_reader_init(&r);
	frame_window_init(&w);
	for (size_t at = 0; at < n && rc >= 0; at += step) {
		if (frame_reader_feed(&r, data + at, n - at < step ? n - at : step, NULL) < 0)
			return -1;
		while ((rc = frame_reader_next(&r, &f, NULL)) == 1) {
			(void)frame_put(out, f.stream, f.type, f.data, f.len);
			if (f.type == FRAME_CREDIT)
				(void)frame_window_credit(&w, frame_credit(&f), NULL);
			else if (frame_window_receive(&w, f.len, NULL) == 0)
				(void)frame_window_consume(&w, f.len);
			assert(w.may_send <= LIMIT_FRAME_WINDOW);
			assert(w.may_receive <= LIMIT_FRAME_WINDOW);
		}
	}
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	cleanup(buf_done) struct buf whole, cut;
	size_t step = n == 0 ? 1 : (size_t)data[n - 1] + 1;
	int rc;

	if (n > LIMIT_FRAME_INPUT)
		return 0;
	buf_init(&whole, LIMIT_FRAME_INPUT);
	buf_init(&cut, LIMIT_FRAME_INPUT);
	rc = copy_frames(data, n, n == 0 ? 1 : n, &whole);
	assert(copy_frames(data, n, step, &cut) == rc);
	assert(whole.len <= n && cut.len == whole.len);
	assert(whole.len == 0 || memcmp(whole.data, data, whole.len) == 0);
	assert(whole.len == 0 || memcmp(cut.data, whole.data, whole.len) == 0);
	return 0;
}
