/* PUT and GET /v1/sources/HASH: packed flakes come from clients and go to other servers. Neither is
 * a command: the log only names them.
 *
 * What a client sends goes to a file as it comes; its hash decides whether it is kept. What is here
 * already is not read again: the answer comes before the body.
 */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "node/sources.h"

#include <inttypes.h>

static void answer(struct http_request *request, int status, const struct source_name *name)
{
	cleanup(json_freep) cJSON *object = json_object();
	cleanup(freep) char *flake = source_url(name);
	char hex[SOURCE_HEX];

	source_hex(name, hex);
	json_add_string(object, "source", hex);
	json_add_string(object, "flake", flake);
	http_answer_json(request, status, object);
}

/* The only large bodies there are. */
int api_body_file(void *data, struct http_request *request, uint64_t n, int *ret_fd,
                  struct blix_error *err)
{
	const struct daemon *d = data;
	struct source_name name;
	int rc = source_parse(http_path_param(request, "source"), &name, err);

	if (rc < 0)
		return rc;
	if (!sources_has(d->sources, &name))
		return sources_make(d->sources, n, ret_fd, err);
	answer(request, 200, &name);
	return 0;
}

struct putting {
	struct http_request *request; /* NULL: the client went away */
	struct source_name name;
};

static void putting_cancelled(void *data)
{
	((struct putting *)data)->request = NULL;
}

static void on_kept(void *data, const struct blix_error *err)
{
	struct putting *p = data;

	if (p->request != NULL && err != NULL)
		http_answer_error(p->request, err, NULL);
	else if (p->request != NULL)
		answer(p->request, 201, &p->name);
	free(p);
}

void source_put_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	struct http_file file = {.fd = -1};
	struct source_name name;
	struct blix_error err;
	struct putting *p;

	if (source_parse(http_path_param(request, "source"), &name, &err) < 0 ||
	    http_body_file(request, &file, &err) < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	if (!source_same(&file.name, &name)) {
		(void)close(file.fd);
		(void)blix_fail(&err, BLIX_E_INVALID, "the body is not what its name says");
		blix_reason(&err, "source-mismatch");
		http_answer_error(request, &err, NULL);
		return;
	}
	p = xcalloc(1, sizeof(*p));
	*p = (struct putting){.request = request, .name = name};
	http_on_cancel(request, putting_cancelled, p);
	sources_keep(d->sources, file.fd, file.size, &name, on_kept, p);
}

struct getting {
	struct http_request *request;
	struct source_wait *wait;
};

static void getting_cancelled(void *data)
{
	struct getting *g = data;

	sources_forget(g->wait);
	free(g);
}

static void on_source(void *data, int fd, uint64_t size, const struct blix_error *err)
{
	struct getting *g = data;

	if (err != NULL)
		http_answer_error(g->request, err, NULL);
	else
		http_answer_file(g->request, 200, "application/octet-stream", fd, size);
	free(g);
}

void source_get_handle(struct http_request *request, void *data)
{
	struct daemon *d = data;
	struct source_name name;
	struct getting *g;
	struct blix_error err;
	int rc = source_parse(http_path_param(request, "source"), &name, &err);

	if (rc == 0 && !sources_has(d->sources, &name)) {
		rc = blix_fail(&err, BLIX_E_NOTFOUND, "this server does not have the source");
		blix_reason(&err, "source-missing");
	}
	if (rc < 0) {
		http_answer_error(request, &err, NULL);
		return;
	}
	g = xcalloc(1, sizeof(*g));
	g->request = request;
	g->wait = sources_need(d->sources, &name, true, on_source, g);
	http_on_cancel(request, getting_cancelled, g);
}
