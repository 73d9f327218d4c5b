/* A request's body that goes to a file, for routes with a large one: see http_config.body_file.
 *
 * Happy path: begin, once the headers are there; write, for each piece; when the disk is slower
 * than the client the connection is suspended until a block is written; end suspends it until all
 * is synced; the handler takes the descriptor. What cannot be written is told to the handler by
 * http_body_file(): the body is read to its end all the same, since nothing can be answered before.
 */
#include "http/request.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/sink.h"

#include <assert.h>

struct body_file {
	struct http_request *request;
	struct sink *sink;
	struct sink_result result;
	uint64_t since; /* bytes since the deadline was moved */
	bool ending, ended;
	bool suspended;
};

static void resume(struct body_file *file)
{
	struct http_connection *connection = file->request->connection;

	file->suspended = false;
	connection_progress(connection);
	MHD_resume_connection(connection->mhd);
	connection_kick(connection);
}

static void suspend(struct body_file *file)
{
	file->suspended = true;
	MHD_suspend_connection(file->request->connection->mhd);
}

static void on_drained(void *data)
{
	resume(data);
}

int body_file_begin(struct http_request *request, uint64_t n, struct blix_error *err)
{
	struct http_server *server = request->connection->server;
	struct body_file *file;
	int fd = -1;
	int rc;

	if (server->n_files >= LIMIT_HTTP_FILES)
		return blix_fail(err, BLIX_E_BUSY, "more than %u uploads at once",
		                 LIMIT_HTTP_FILES);
	rc = server->config.body_file(server->config.data, request, n, &fd, err);
	if (rc < 0 || fd < 0)
		return rc;
	file = xcalloc(1, sizeof(*file));
	file->request = request;
	file->sink = sink_open(server->loop, fd, on_drained, file);
	request->file = file;
	server->n_files++;
	return 0;
}

void body_file_write(struct http_request *request, const char *data, size_t n)
{
	struct body_file *file = request->file;

	file->since += n;
	if (file->since >= SINK_BLOCK) {
		file->since = 0;
		connection_progress(request->connection);
	}
	if (!sink_write(file->sink, data, n))
		suspend(file);
}

static void on_ended(void *data, const struct sink_result *result)
{
	struct body_file *file = data;

	file->result = *result;
	file->ended = true;
	resume(file);
}

bool body_file_end(struct http_request *request)
{
	struct body_file *file = request->file;

	if (!file->ending) {
		file->ending = true;
		sink_end(file->sink, on_ended, file);
	}
	if (!file->ended)
		suspend(file);
	return file->ended;
}

int http_body_file(struct http_request *request, struct http_file *ret, struct blix_error *err)
{
	const struct body_file *file = request->file;

	assert(file != NULL && file->ended);
	if (file->result.sys != 0)
		return blix_fail_sys(err, file->result.sys, "keep the body");
	ret->fd = sink_take(file->sink);
	ret->size = file->result.size;
	ret->name = file->result.name;
	return 0;
}

void body_file_cut(struct http_request *request)
{
	struct body_file *file = request->file;
	struct blix_error err;

	if (file == NULL || request->state != HTTP_RECEIVING)
		return;
	(void)blix_fail(&err, BLIX_E_UNAVAILABLE, "the daemon is stopping");
	http_answer_error(request, &err, NULL);
	if (file->suspended)
		resume(file);
	body_file_free(request);
}

void body_file_free(struct http_request *request)
{
	if (request->file == NULL)
		return;
	sink_free(request->file->sink);
	free(request->file);
	request->file = NULL;
	request->connection->server->n_files--;
}
