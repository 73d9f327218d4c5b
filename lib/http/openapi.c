/* The routes table printed as OpenAPI: see openapi.h. Fails only on a schema that nobody gave. */
#include "http/openapi.h"

#include "base/alloc.h"
#include "base/json.h"

#include <ctype.h>
#include <stdio.h>

#define JSON_TYPE "application/json"

static cJSON *type_schema(const char *type)
{
	static const struct {
		const char *type, *is, *format, *description;
	} types[] = {
		{"u64", "integer", "int64", NULL},
		{"bool", "boolean", NULL, NULL},
		{"duration", "string", NULL, "a duration: 250ms, 30s, 5m, 1h30m"},
		{"size", "string", NULL, "bytes: 1048576, 512MiB, 2G"},
		{"name", "string", NULL, "a name: ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
		{"string", "string", NULL, NULL},
	};
	cJSON *schema = json_object();
	size_t i = 0;

	while (i + 1 < array_size(types) && strcmp(types[i].type, type) != 0)
		i++;
	json_add_string(schema, "type", types[i].is);
	json_add_string(schema, "format", types[i].format);
	json_add_string(schema, "description", types[i].description);
	return schema;
}

static void parameter_add(cJSON *list, const char *name, const char *in, const char *type)
{
	cJSON *parameter = json_object();

	json_add_string(parameter, "name", name);
	json_add_string(parameter, "in", in);
	json_add_bool(parameter, "required", strcmp(in, "path") == 0);
	json_add(parameter, "schema", type_schema(type));
	json_push(list, parameter);
}

static cJSON *parameters_of(const struct http_route *route)
{
	cJSON *list = json_array();
	size_t n;

	for (const char *at = route->path; (at = strchr(at, '{')) != NULL; at += n) {
		n = strcspn(++at, "}");
		cleanup(freep) char *name = xstrndup(at, n);

		parameter_add(list, name, "path", "name");
	}
	for (const char *at = route->query; at != NULL && *at != '\0'; at += *at == ' ') {
		n = strcspn(at, "=");
		cleanup(freep) char *name = xstrndup(at, n);

		at += n + (at[n] == '=');
		n = strcspn(at, " ");
		cleanup(freep) char *type = xstrndup(at, n);

		parameter_add(list, name, "query", type);
		at += n;
	}
	return list;
}

static cJSON *content_of(const char *schema)
{
	cleanup(freep) char *reference = xasprintf("#/components/schemas/%s", schema);
	cJSON *content = json_object();
	cJSON *media = json_object();
	cJSON *target = json_object();

	json_add_string(target, "$ref", reference);
	json_add(media, "schema", target);
	json_add(content, JSON_TYPE, media);
	return content;
}

static cJSON *answer_of(const char *description, const char *schema)
{
	cJSON *answer = json_object();

	json_add_string(answer, "description", description);
	if (schema != NULL)
		json_add(answer, "content", content_of(schema));
	return answer;
}

static cJSON *operation_of(const struct http_route *route)
{
	cJSON *operation = json_object();
	cJSON *answers = json_object();
	cJSON *body;

	json_add_string(operation, "summary", route->summary);
	json_add(operation, "parameters", parameters_of(route));
	if (route->body_max > 0) {
		body = answer_of(NULL, route->request_schema);
		if (route->request_schema == NULL)
			json_add(body, "content", json_object());
		json_add(operation, "requestBody", body);
	}
	json_add(answers, "2XX", answer_of("done", route->answer_schema));
	json_add(answers, "default", answer_of("what went wrong", "Error"));
	json_add(operation, "responses", answers);
	return operation;
}

static void route_add(cJSON *paths, const struct http_route *route)
{
	cJSON *path = cJSON_GetObjectItemCaseSensitive(paths, route->path);
	char method[16];
	size_t n = 0;

	for (; n + 1 < sizeof(method) && route->method[n] != '\0'; n++)
		method[n] = (char)tolower((unsigned char)route->method[n]);
	method[n] = '\0';
	if (path == NULL) {
		path = json_object();
		json_add(paths, route->path, path);
	}
	json_add(path, method, operation_of(route));
}

static cJSON *error_schema(void)
{
	static const struct {
		const char *name, *type;
	} members[] = {
		{"code", "string"}, {"reason", "string"},  {"message", "string"},
		{"hint", "string"}, {"retryable", "bool"}, {"definite", "bool"},
	};
	cJSON *schema = json_object();
	cJSON *properties = json_object();
	cJSON *required = json_array();
	cJSON *details = json_object();

	for (size_t i = 0; i < array_size(members); i++) {
		json_add(properties, members[i].name, type_schema(members[i].type));
		if (strcmp(members[i].name, "hint") != 0)
			json_push_string(required, members[i].name);
	}
	json_add_string(details, "type", "object");
	json_add(properties, "details", details);
	json_push_string(required, "details");
	json_add_string(schema, "type", "object");
	json_add(schema, "required", required);
	json_add(schema, "properties", properties);
	return schema;
}

static int schema_known(const cJSON *all, const char *name, const char *path,
                        struct blix_error *err)
{
	if (name == NULL || cJSON_GetObjectItemCaseSensitive(all, name) != NULL)
		return 0;
	return blix_fail(err, BLIX_E_INVALID, "route %s names the schema %s, which is not there",
	                 path, name);
}

static int schemas_check(const struct http_route *routes, size_t n, const cJSON *all,
                         struct blix_error *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		r = schema_known(all, routes[i].request_schema, routes[i].path, err);
		if (r == 0)
			r = schema_known(all, routes[i].answer_schema, routes[i].path, err);
	}
	return r;
}

int http_openapi(const struct http_route *routes, size_t n, const char *version,
                 const char *schemas, cJSON **ret, struct blix_error *err)
{
	cleanup(json_freep) cJSON *document = json_object();
	cleanup(json_freep) cJSON *all = NULL;
	cJSON *info = json_object();
	cJSON *paths = json_object();
	cJSON *components = json_object();
	int r;

	json_add_string(document, "openapi", "3.0.3");
	json_add_string(info, "title", "blix");
	json_add_string(info, "version", version);
	json_add(document, "info", info);
	json_add(document, "paths", paths);
	json_add(document, "components", components);
	if (schemas == NULL)
		schemas = "{}";
	if (json_parse(schemas, strlen(schemas), &json_limits_answer, &all, err) < 0)
		return blix_wrap(err, "the schemas of the API");
	json_add(all, "Error", error_schema());
	r = schemas_check(routes, n, all, err);
	if (r < 0)
		return r;
	json_add(components, "schemas", take(all));
	for (size_t i = 0; i < n; i++)
		route_add(paths, &routes[i]);
	*ret = take(document);
	return 0;
}
