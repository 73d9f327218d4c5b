/* One request: its path and query taken apart from the raw request line, its route, its checks.
 *
 * The raw line is used, not what libmicrohttpd decoded, so that an encoded slash cannot become a
 * path separator and a bad escape is an error. All that can be refused is refused when the headers
 * are there, before the body is read. */
#include "http/request.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"

#include <stdio.h>

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Decodes %XX in place, and '+' where `plus`; false on a bad escape or a NUL byte. */
static bool percent_decode(char *text, bool plus)
{
	char *out = text;
	int high;
	int low;

	for (const char *in = text; *in != '\0'; in++) {
		if (*in != '%') {
			*out++ = plus && *in == '+' ? ' ' : *in;
			continue;
		}
		high = hex_digit(in[1]);
		low = high < 0 ? -1 : hex_digit(in[2]);
		if (low < 0 || (high == 0 && low == 0))
			return false;
		*out++ = (char)(unsigned char)(high << 4 | low);
		in += 2;
	}
	*out = '\0';
	return true;
}

static bool split_path(struct http_request *request, char *path)
{
	if (*path != '/')
		return false;
	for (char *part = path + 1, *next; part != NULL; part = next) {
		next = strchr(part, '/');
		if (next != NULL)
			*next++ = '\0';
		if (request->n_segments == REQUEST_SEGMENTS || !percent_decode(part, false))
			return false;
		request->segments[request->n_segments++] = part;
	}
	return true;
}

static bool split_query(struct http_request *request, char *query)
{
	struct http_param *param;
	char *value;

	for (char *part = query, *next; part != NULL; part = next) {
		next = strchr(part, '&');
		if (next != NULL)
			*next++ = '\0';
		if (*part == '\0')
			continue;
		if (request->n_params == REQUEST_PARAMS)
			return false;
		value = strchr(part, '=');
		if (value != NULL)
			*value++ = '\0';
		else
			value = part + strlen(part);
		if (!percent_decode(part, true) || !percent_decode(value, true))
			return false;
		param = &request->params[request->n_params++];
		param->name = part;
		param->value = value;
	}
	return true;
}

struct http_request *request_open(struct http_connection *connection, const char *uri)
{
	struct http_request *request = xcalloc(1, sizeof(*request));
	char *query;

	request->connection = connection;
	request->uri = xstrdup(uri);
	buf_init(&request->body, 0);
	query = strchr(request->uri, '?');
	if (query != NULL)
		*query++ = '\0';
	request->uri_valid = split_path(request, request->uri) && split_query(request, query);
	return request;
}

static void body_drop(struct http_request *request)
{
	request->connection->server->body_bytes -= request->body.len;
	buf_done(&request->body);
}

void request_free(struct http_request *request)
{
	if (request == NULL)
		return;
	request_unwatch(request);
	upgrade_missed(request);
	if (request->response != NULL)
		MHD_destroy_response(request->response);
	for (size_t i = 0; i < request->n_headers; i++) {
		free(request->headers[i].name);
		free(request->headers[i].value);
	}
	free(request->headers);
	body_drop(request);
	body_file_free(request);
	free(request->uri);
	free(request);
}

/* The next segment of a template: its start and length, and *path moved behind it. */
static const char *template_next(const char **path, size_t *ret_n)
{
	const char *start = *path;

	if (*start != '/')
		return NULL;
	start++;
	*ret_n = strcspn(start, "/");
	*path = start + *ret_n;
	return start;
}

static bool is_param(const char *part, size_t n)
{
	return n > 2 && part[0] == '{' && part[n - 1] == '}';
}

static bool same(const char *text, const char *part, size_t n)
{
	return strncmp(text, part, n) == 0 && text[n] == '\0';
}

static bool path_matches(const struct http_request *request, const char *path)
{
	const char *part;
	size_t i = 0;
	size_t n;

	for (; (part = template_next(&path, &n)) != NULL; i++) {
		if (i == request->n_segments)
			return false;
		if (is_param(part, n) ? request->segments[i][0] == '\0'
		                      : !same(request->segments[i], part, n))
			return false;
	}
	return i == request->n_segments;
}

static int request_route(struct http_request *request, const char *method, struct blix_error *err)
{
	const struct http_config *config = &request->connection->server->config;
	cleanup(buf_done) struct buf allowed;
	const struct http_route *route;

	buf_init(&allowed, 256);
	for (size_t i = 0; i < config->n; i++) {
		route = &config->routes[i];
		if (!path_matches(request, route->path))
			continue;
		if (strcmp(route->method, method) == 0) {
			request->route = route;
			return 0;
		}
		(void)buf_printf(&allowed, "%s%s", allowed.len > 0 ? ", " : "", route->method);
	}
	if (allowed.len > 0) {
		http_answer_header(request, "Allow", allowed.data);
		(void)blix_fail(err, BLIX_E_METHOD, "%s is not possible here, only %s", method,
		                allowed.data);
		return -(int)BLIX_E_METHOD;
	}
	(void)blix_fail(err, BLIX_E_NOTFOUND, "no such route");
	blix_reason(err, "no-route");
	return -(int)BLIX_E_NOTFOUND;
}

/* The type of parameter `name` in "a=u64 b=string", as start and length; NULL when not there. */
static const char *param_type(const char *list, const char *name, size_t *ret_n)
{
	size_t length = strlen(name);

	for (const char *at = list; at != NULL && *at != '\0'; at += *at == ' ') {
		if (strncmp(at, name, length) == 0 && at[length] == '=') {
			at += length + 1;
			*ret_n = strcspn(at, " ");
			return at;
		}
		at += strcspn(at, " ");
	}
	return NULL;
}

static int check_type(const struct http_param *param, const char *type, size_t n,
                      struct blix_error *err)
{
	uint64_t value;

	if (same("u64", type, n))
		return parse_u64(param->value, &value, err);
	if (same("duration", type, n))
		return parse_duration(param->value, &value, err);
	if (same("size", type, n))
		return parse_size(param->value, &value, err);
	if (same("name", type, n))
		return parse_name("value", param->value, err);
	if (same("bool", type, n) && strcmp(param->value, "true") != 0 &&
	    strcmp(param->value, "false") != 0)
		return blix_fail(err, BLIX_E_INVALID, "\"%s\" is not true or false", param->value);
	return 0;
}

static int check_query(const struct http_request *request, struct blix_error *err)
{
	const struct http_param *param;
	const char *type;
	size_t n;

	for (size_t i = 0; i < request->n_params; i++) {
		param = &request->params[i];
		type = param_type(request->route->query, param->name, &n);
		if (type == NULL) {
			(void)blix_fail(err, BLIX_E_INVALID, "unknown query parameter \"%s\"",
			                param->name);
			blix_reason(err, "unknown-parameter");
			return -(int)BLIX_E_INVALID;
		}
		for (size_t k = 0; k < i; k++) {
			if (strcmp(request->params[k].name, param->name) == 0)
				return blix_fail(err, BLIX_E_INVALID,
				                 "query parameter \"%s\" comes twice", param->name);
		}
		if (check_type(param, type, n, err) < 0)
			return blix_wrap(err, "query parameter \"%s\"", param->name);
	}
	return 0;
}

struct header_check {
	const char *names[LIMIT_HTTP_HEADERS];
	size_t n;
	const char *twice;
};

static enum MHD_Result check_header(void *data, enum MHD_ValueKind kind, const char *name,
                                    const char *value)
{
	struct header_check *check = data;

	(void)kind;
	(void)value;
	for (size_t i = 0; i < check->n; i++) {
		if (strcasecmp(check->names[i], name) == 0)
			check->twice = name;
	}
	if (check->n < LIMIT_HTTP_HEADERS)
		check->names[check->n++] = name;
	return MHD_YES;
}

static int check_headers(const struct http_request *request, struct blix_error *err)
{
	struct header_check check = {.n = 0};
	int n = MHD_get_connection_values(request->connection->mhd, MHD_HEADER_KIND, NULL, NULL);

	if (n > LIMIT_HTTP_HEADERS)
		return blix_fail(err, BLIX_E_INVALID, "more than %d headers", LIMIT_HTTP_HEADERS);
	(void)MHD_get_connection_values(request->connection->mhd, MHD_HEADER_KIND, check_header,
	                                &check);
	if (check.twice != NULL)
		return blix_fail(err, BLIX_E_INVALID, "header \"%s\" comes twice", check.twice);
	if (http_header(request, "Content-Length") != NULL &&
	    http_header(request, "Transfer-Encoding") != NULL)
		return blix_fail(err, BLIX_E_INVALID,
		                 "both Content-Length and Transfer-Encoding are given");
	return 0;
}

/* Sets the cap of the body; fails on one that is announced as too large or not wanted. */
static int check_body(struct http_request *request, struct blix_error *err)
{
	const char *text = http_header(request, "Content-Length");
	size_t most = request->route->body_max;
	uint64_t length = 0;

	if (text != NULL && parse_u64(text, &length, err) < 0)
		return blix_wrap(err, "Content-Length");
	if (most == 0 && (length > 0 || http_header(request, "Transfer-Encoding") != NULL))
		return blix_fail(err, BLIX_E_INVALID, "this request takes no body");
	if (length > most)
		return blix_fail(err, BLIX_E_TOOBIG, "the body is %llu bytes long, the most is %zu",
		                 (unsigned long long)length, most);
	if (most > LIMIT_BODY && text == NULL)
		return blix_fail(err, BLIX_E_INVALID, "this request needs a Content-Length");
	if (most > LIMIT_BODY)
		return body_file_begin(request, length, err);
	buf_init(&request->body, most);
	return 0;
}

static int refuse_many(const struct http_connection *connection, struct blix_error *err)
{
	char who[HTTP_PEER_TEXT];

	http_peer_text(&connection->peer, who);
	return blix_fail(err, BLIX_E_TOOMANY, "%s has more than %d connections", who,
	                 LIMIT_HTTP_USER);
}

static int request_check(struct http_request *request, const char *method, struct blix_error *err)
{
	const struct http_connection *connection = request->connection;
	const struct http_config *config = &connection->server->config;
	int r;

	if (connection->server->closing)
		return blix_fail(err, BLIX_E_UNAVAILABLE, "the daemon is stopping");
	if (connection->refused)
		return refuse_many(connection, err);
	if (!request->uri_valid)
		return blix_fail(err, BLIX_E_INVALID, "the request line is not valid");
	r = check_headers(request, err);
	if (r == 0)
		r = request_route(request, method, err);
	if (r == 0 && config->allow != NULL)
		r = config->allow(config->data, request, request->route, err);
	if (r == 0)
		r = check_query(request, err);
	return r == 0 ? check_body(request, err) : r;
}

bool request_begin(struct http_request *request, const char *method)
{
	struct blix_error err = {0};
	const char *text;
	uint64_t length = 0;

	request->begun = true;
	if (request_check(request, method, &err) == 0)
		return request->state == HTTP_RECEIVING;
	http_answer_error(request, &err, NULL);
	/* A body that would be dropped anyway is read only when that keeps the connection. */
	text = http_header(request, "Content-Length");
	return http_header(request, "Transfer-Encoding") == NULL &&
	       (text == NULL || (parse_u64(text, &length, NULL) == 0 && length <= LIMIT_BODY)) &&
	       !request->connection->refused;
}

/* Why n more bytes of body cannot be kept; BLIX_OK when they can. */
static enum blix_code body_refused(const struct http_request *request, size_t n)
{
	if (n > request->body.cap - request->body.len)
		return BLIX_E_TOOBIG;
	if (n > LIMIT_HTTP_BODIES - request->connection->server->body_bytes)
		return BLIX_E_BUSY;
	return BLIX_OK;
}

static int body_keep(struct http_request *request, const char *data, size_t n)
{
	size_t before = request->body.len;
	int r = buf_add(&request->body, data, n);

	/* A failed buffer is an empty one. */
	request->connection->server->body_bytes -= before;
	request->connection->server->body_bytes += request->body.len;
	return r < 0 ? -1 : 0;
}

int request_body(struct http_request *request, const char *data, size_t n)
{
	enum blix_code refused;

	if (request->file != NULL) {
		body_file_write(request, data, n);
		return 0;
	}
	if (request->state == HTTP_RECEIVING) {
		refused = body_refused(request, n);
		if (refused == BLIX_OK) {
			return body_keep(request, data, n);
		}
		if (refused == BLIX_E_TOOBIG)
			request_refuse(request, refused, "the body is longer than %zu bytes",
			               request->body.cap);
		else
			request_refuse(request, refused, "too many request bodies at once");
		body_drop(request);
	}
	request->dropped += n;
	return request->dropped > LIMIT_BODY ? -1 : 0;
}

const char *http_path_param(const struct http_request *request, const char *name)
{
	const char *path = request->route->path;
	const char *part;
	size_t n;

	for (size_t i = 0; (part = template_next(&path, &n)) != NULL; i++) {
		if (is_param(part, n) && same(name, part + 1, n - 2))
			return request->segments[i];
	}
	return NULL;
}

const char *http_query(const struct http_request *request, const char *name)
{
	for (size_t i = 0; i < request->n_params; i++) {
		if (strcmp(request->params[i].name, name) == 0)
			return request->params[i].value;
	}
	return NULL;
}

const char *http_header(const struct http_request *request, const char *name)
{
	return MHD_lookup_connection_value(request->connection->mhd, MHD_HEADER_KIND, name);
}

void http_body_wipe(struct http_request *request)
{
	if (request->body.data != NULL)
		explicit_bzero(request->body.data, request->body.len);
}

const char *http_body(const struct http_request *request, size_t *ret_n)
{
	*ret_n = request->body.len;
	return request->body.data != NULL ? request->body.data : "";
}

const struct http_peer *http_peer(const struct http_request *request)
{
	return &request->connection->peer;
}
