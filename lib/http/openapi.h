/* The routes table as an OpenAPI 3.0.3 document, so that the description cannot drift. */
#ifndef BLIX_HTTP_OPENAPI_H
#define BLIX_HTTP_OPENAPI_H

#include "base/error.h"
#include "http/server.h"

/* `schemas` is JSON text, an object of schemas by name, for components.schemas (NULL: none). The
 * schema Error is added. A schema that a route names and `schemas` lacks is -BLIX_E_INVALID.
 * *ret is the caller's. */
int http_openapi(const struct http_route *routes, size_t n, const char *version,
                 const char *schemas, cJSON **ret, struct blix_error *err);

#endif
