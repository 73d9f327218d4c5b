/* Answers: each call makes one libmicrohttpd response and hands the request back to server.c.
 *
 * A streamed body is pulled in pieces into one struct buf, from which libmicrohttpd takes what its
 * own buffer holds; the stream's memory is freed with the response, sent or not. */
#include "http/request.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#define JSON_TYPE        "application/json"
#define RETRY_AFTER      "1"  /* seconds: a leader is elected in less */
#define ANSWER_HEADERS   8    /* extra headers of one answer; ours, so asserted */
#define STREAM_BLOCK     4096 /* only clients of HTTP/1.0 get their answer by way of it */
#define STREAM_EMPTY_MAX 1000 /* empty pieces in a row that are a mistake of the producer */

void http_answer_header(struct http_request *request, const char *name, const char *value)
{
	struct http_line *line;

	assert(request->response == NULL);
	assert(request->n_headers < ANSWER_HEADERS);
	request->headers =
		xreallocarray(request->headers, request->n_headers + 1, sizeof(*request->headers));
	line = &request->headers[request->n_headers++];
	line->name = xstrdup(name);
	line->value = xstrdup(value);
}

void request_answer(struct http_request *request, int status, const char *content_type,
                    struct MHD_Response *response)
{
	const struct http_config *config = &request->connection->server->config;
	enum MHD_Result added = MHD_YES;

	assert(request->response == NULL);
	assert(request->state != HTTP_ANSWERED && request->state != HTTP_CANCELLED);
	if (response == NULL)
		abort();
	if (config->answering != NULL && request->route != NULL)
		config->answering(config->data, request, request->route);
	if (content_type != NULL)
		added = MHD_add_response_header(response, "Content-Type", content_type);
	for (size_t i = 0; i < request->n_headers && added == MHD_YES; i++)
		added = MHD_add_response_header(response, request->headers[i].name,
		                                request->headers[i].value);
	assert(added == MHD_YES);
	request->response = response;
	request->status = (unsigned)status;
	request_answered(request);
}

void http_answer(struct http_request *request, int status, const char *content_type,
                 char *body_taken, size_t n)
{
	static char nothing[1];
	struct MHD_Response *response;

	if (body_taken == NULL)
		response = MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT);
	else
		response = MHD_create_response_from_buffer(n, body_taken, MHD_RESPMEM_MUST_FREE);
	request_answer(request, status, content_type, response);
}

void http_answer_file(struct http_request *request, int status, const char *content_type, int fd,
                      uint64_t n)
{
	request_answer(request, status, content_type, MHD_create_response_from_fd64(n, fd));
}

void http_answer_json(struct http_request *request, int status, const cJSON *tree)
{
	char *text = json_text(tree);

	http_answer(request, status, JSON_TYPE, text, strlen(text));
}

void http_answer_error(struct http_request *request, const struct blix_error *err,
                       const cJSON *details)
{
	const struct blix_code_info *info = blix_code_info(err->code);
	cleanup(json_freep) cJSON *tree = json_object();

	json_add_string(tree, "code", info->slug);
	json_add_string(tree, "reason", blix_error_reason(err));
	json_add_text(tree, "message", err->text[0] != '\0' ? err->text : info->text);
	json_add_text(tree, "hint", err->hint);
	json_add_bool(tree, "retryable", info->retryable);
	json_add_bool(tree, "definite", info->definite);
	json_add(tree, "details", details != NULL ? cJSON_Duplicate(details, true) : json_object());
	if (info->http == 503 || info->http == 429)
		http_answer_header(request, "Retry-After", RETRY_AFTER);
	http_answer_json(request, info->http, tree);
}

void request_refuse(struct http_request *request, enum blix_code code, const char *fmt, ...)
{
	char text[256];
	struct blix_error err;
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	(void)blix_fail(&err, code, "%s", text);
	http_answer_error(request, &err, NULL);
}

struct stream {
	struct http_request *request;
	int (*produce)(void *data, struct buf *out);
	void (*done)(void *data);
	void *data;
	struct buf piece;
	size_t sent; /* bytes of the piece already taken */
	bool ended;
	bool later; /* it has nothing yet */
};

/* Gets the next piece when the last one is used up: 0, or -1 when the producer failed. */
static int stream_fill(struct stream *stream)
{
	int r;

	stream->later = false;
	for (unsigned tries = 0;
	     stream->sent == stream->piece.len && !stream->ended && !stream->later; tries++) {
		assert(tries < STREAM_EMPTY_MAX);
		buf_clear(&stream->piece);
		stream->sent = 0;
		r = stream->produce(stream->data, &stream->piece);
		if (r < 0 || buf_failed(&stream->piece))
			return -1;
		stream->ended = r == 0;
		stream->later = r == HTTP_LATER;
		assert(!stream->later || stream->piece.len == 0);
	}
	return 0;
}

static ssize_t stream_read(void *data, uint64_t position, char *out, size_t size)
{
	struct stream *stream = data;
	size_t n;

	(void)position;
	if (stream->request->gone || stream_fill(stream) < 0)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (stream->later && stream->request->connection->server->closing)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (stream->later) {
		request_sleep(stream->request);
		return 0;
	}
	n = stream->piece.len - stream->sent;
	if (n == 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	if (n > size)
		n = size;
	memcpy(out, stream->piece.data + stream->sent, n);
	stream->sent += n;
	return (ssize_t)n;
}

static void stream_free(void *data)
{
	struct stream *stream = data;

	buf_done(&stream->piece);
	if (stream->done != NULL)
		stream->done(stream->data);
	free(stream);
}

void http_answer_stream(struct http_request *request, int status, const char *content_type,
                        int (*produce)(void *data, struct buf *out), void (*done)(void *data),
                        void *data)
{
	struct stream *stream = xcalloc(1, sizeof(*stream));

	stream->request = request;
	stream->produce = produce;
	stream->done = done;
	stream->data = data;
	buf_init(&stream->piece, LIMIT_HTTP_PIECE);
	request_answer(request, status, content_type,
	               MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK,
	                                                 stream_read, stream, stream_free));
}

void http_on_cancel(struct http_request *request, void (*cb)(void *data), void *data)
{
	assert(request->state == HTTP_HANDLING || request->state == HTTP_WAITING);
	request->cancel = cb;
	request->cancel_data = data;
}
