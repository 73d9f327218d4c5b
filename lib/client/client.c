/* The client library: see client.h.
 *
 * Happy path of a call: client_call() takes a request number when it is a mutation, exchange_send()
 * runs one libcurl transfer over the current socket, the answer is parsed and returned. What can go
 * wrong: the socket cannot be connected (the next endpoint, then UNAVAILABLE), the connection is
 * lost half-way (the same number again), the daemon answers with an error object (returned, or
 * tried again while nothing is settled), the answer is no JSON or too large (INTERNAL, TOOBIG).
 */
#include "client/client.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/parse.h"
#include "client/client_internal.h"
#include "core/object_json.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "tls/direct.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/un.h>
#include <unistd.h>

#define ENDPOINTS_MAX  8     /* servers of one cluster that a client may name */
#define SETTLE_MS      10000 /* an election takes a few of them */
#define BACKOFF_MS_MIN 50
#define BACKOFF_MS_MAX 1000
#define CALL_MS_MAX    30000 /* one transfer, over what ?wait= adds */
#define SILENCE_S      40L   /* of a stream of lines: two heartbeats of the daemon are missing */
#define CONNECT_MS     2000
#define HTTPS          "https://"

struct client {
	CURL *curl;
	struct tls_credentials *credentials;  /* NULL: only Unix sockets */
	char *ca_file, *cert_file, *key_file; /* for libcurl */
	struct blix_error distrust;           /* why the other end is not believed; code BLIX_OK */
	char *endpoints[ENDPOINTS_MAX];
	size_t n_endpoints;
	size_t current; /* endpoint in use */
	uint64_t session;
	uint64_t request;  /* the last number used */
	const char *key;   /* of the mutations to come; NULL: none */
	uint64_t until_ms; /* boot clock; CLIENT_TIMEOUT_NONE: no limit */
	bool reached;      /* some daemon has answered once */
	bool (*tick)(void *context);
	void *context;
};

/* One request on its way, and what came back. */
struct exchange {
	const char *method;
	const char *path;
	const char *key;  /* of a mutation, instead of a number; NULL: none */
	const char *body; /* NULL: none */
	size_t n;         /* of a body that is no JSON; 0: it is */
	uint64_t request; /* 0: not a mutation */
	int file;         /* of a body that comes from a file; -1: it does not */
	uint64_t file_n, file_at;
	long status;
	struct buf answer;
	/* Takes an answer that is no error instead; NULL: nobody does. */
	bool (*sink)(void *data, const char *bytes, size_t n);
	void *sink_data;
	bool stopped; /* sink has enough */
	CURL *curl;
	uint64_t next; /* Blix-Offset */
	bool ended;    /* Blix-Ended */
};

bool client_is_unix(const char *endpoint)
{
	return endpoint[0] == '/';
}

const struct tls_credentials *client_credentials(const struct client *client)
{
	return client->credentials;
}

/* The path of a socket, or HOST:PORT. */
static int endpoint_check(const char *text, const char *endpoint, struct blix_error *err)
{
	char host[PARSE_HOST];
	uint16_t port;

	if (!client_is_unix(endpoint)) {
		if (strncmp(text, HTTPS, strlen(HTTPS)) == 0 &&
		    parse_address(endpoint, host, &port, NULL) == 0 && host[0] != '\0' && port != 0)
			return 0;
		return blix_fail(err, BLIX_E_SPEC,
		                 "endpoint '%s' is not unix:/PATH, /PATH or " HTTPS "HOST:PORT",
		                 text);
	}
	if (strlen(endpoint) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return blix_fail(err, BLIX_E_SPEC,
		                 "endpoint '%s' is longer than a socket path may be", text);
	return 0;
}

static int endpoints_parse(struct client *client, const char *text, struct blix_error *err)
{
	for (const char *p = text;; p++) {
		size_t n = strcspn(p, ",");
		cleanup(freep) char *one = xstrndup(p, n);
		size_t skip = strncmp(one, "unix:", 5) == 0             ? 5
		              : strncmp(one, HTTPS, strlen(HTTPS)) == 0 ? strlen(HTTPS)
		                                                        : 0;
		int rc = endpoint_check(one, one + skip, err);

		if (rc < 0)
			return rc;
		if (client->n_endpoints == ENDPOINTS_MAX)
			return blix_fail(err, BLIX_E_SPEC, "more than %d endpoints", ENDPOINTS_MAX);
		client->endpoints[client->n_endpoints++] = xstrdup(one + skip);
		p += n;
		if (*p == '\0')
			return 0;
	}
}

/* A certificate that has run out would only be refused later, in worse words. */
static int own_check(const struct client *client, struct blix_error *err)
{
	const struct tls_identity *own = credentials_own(client->credentials);

	if (own->not_after_ms > clock_wall_ms())
		return 0;
	(void)blix_fail(err, BLIX_E_DENIED, "the certificate of %s has expired", own->name);
	blix_reason(err, "certificate-expired");
	return -(int)BLIX_E_DENIED;
}

static int credentials_read(struct client *client, const struct client_options *options,
                            struct blix_error *err)
{
	cleanup(tls_pem_done) struct tls_pem own;
	cleanup(buf_done) struct buf ca;
	int rc;

	tls_pem_init(&own);
	buf_init(&ca, LIMIT_FILE);
	if (options->ca == NULL || options->cert == NULL || options->key == NULL) {
		(void)blix_fail(err, BLIX_E_SPEC, "an endpoint by https needs certificates");
		blix_hint(err, "set BLIX_CA, BLIX_CERT and BLIX_KEY, or ca, cert and key in the "
		               "configuration");
		return -(int)BLIX_E_SPEC;
	}
	if ((rc = file_read(options->ca, &ca, err)) < 0 ||
	    (rc = file_read(options->cert, &own.cert, err)) < 0 ||
	    (rc = file_read(options->key, &own.key, err)) < 0 ||
	    (rc = credentials_open(&ca, &own, &client->credentials, err)) < 0)
		return rc;
	client->ca_file = xstrdup(options->ca);
	client->cert_file = xstrdup(options->cert);
	client->key_file = xstrdup(options->key);
	return own_check(client, err);
}

static bool has_https(const struct client *client)
{
	for (size_t i = 0; i < client->n_endpoints; i++) {
		if (!client_is_unix(client->endpoints[i]))
			return true;
	}
	return false;
}

static size_t on_body(char *data, size_t size, size_t n, void *context)
{
	struct exchange *exchange = context;

	(void)curl_easy_getinfo(exchange->curl, CURLINFO_RESPONSE_CODE, &exchange->status);
	if (exchange->sink != NULL && exchange->status < 400) {
		exchange->stopped = !exchange->sink(exchange->sink_data, data, size * n);
		return exchange->stopped ? 0 : size * n;
	}
	return buf_add(&exchange->answer, data, size * n) < 0 ? 0 : size * n;
}

static size_t on_header(char *data, size_t size, size_t n, void *context)
{
	struct exchange *exchange = context;
	char line[64];
	size_t length = size * n;

	if (length >= sizeof(line))
		return length;
	memcpy(line, data, length);
	while (length > 0 && (line[length - 1] == '\r' || line[length - 1] == '\n'))
		length--;
	line[length] = '\0';
	if (strncasecmp(line, "Blix-Offset: ", 13) == 0)
		(void)parse_u64(line + 13, &exchange->next, NULL);
	else if (strcasecmp(line, "Blix-Ended: true") == 0)
		exchange->ended = true;
	return size * n;
}

static size_t on_read(char *room, size_t size, size_t n, void *context)
{
	struct exchange *exchange = context;
	ssize_t got = pread(exchange->file, room, size * n, (off_t)exchange->file_at);

	if (got < 0)
		return CURL_READFUNC_ABORT;
	exchange->file_at += (uint64_t)got;
	return (size_t)got;
}

/* What was sent on a connection that died is sent again on another. */
static int on_seek(void *context, curl_off_t offset, int origin)
{
	struct exchange *exchange = context;

	if (origin != SEEK_SET)
		return CURL_SEEKFUNC_FAIL;
	exchange->file_at = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	const struct client *client = context;

	(void)a;
	(void)b;
	(void)c;
	(void)d;
	return client->tick != NULL && client->tick(client->context);
}

static void must_set(CURLcode rc)
{
	/* Only memory and options unknown to this libcurl can fail here. */
	if (rc != CURLE_OK)
		abort();
}

static void curl_prepare(struct client *client)
{
	CURL *curl = client->curl;

	must_set(curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L));
	must_set(curl_easy_setopt(curl, CURLOPT_PROXY, ""));
	must_set(curl_easy_setopt(curl, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED));
	must_set(curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L));
	must_set(curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS));
	must_set(curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1));
	must_set(curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body));
	must_set(curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header));
	must_set(curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L));
	must_set(curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress));
	must_set(curl_easy_setopt(curl, CURLOPT_XFERINFODATA, client));
	must_set(curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 256L << 10));
}

/* After the handshake, before a byte of the request: which node it is nobody has told us, but a
 * node of our cluster it must be. libcurl has checked no more than the CA. */
static int on_before_request(void *context, char *remote_ip, char *local_ip, int remote_port,
                             int local_port)
{
	struct client *client = context;
	struct curl_tlssessioninfo *tls = NULL;

	(void)remote_ip;
	(void)local_ip;
	(void)remote_port;
	(void)local_port;
	if (client_is_unix(client_endpoint(client)))
		return CURL_PREREQFUNC_OK;
	if (curl_easy_getinfo(client->curl, CURLINFO_TLS_SSL_PTR, &tls) != CURLE_OK ||
	    tls == NULL || tls->backend != CURLSSLBACKEND_GNUTLS || tls->internals == NULL) {
		(void)blix_fail(&client->distrust, BLIX_E_INTERNAL,
		                "libcurl does not say who is at the other end");
		return CURL_PREREQFUNC_ABORT;
	}
	return tls_direct_judge(client->credentials, tls->internals, &client->distrust) < 0
	               ? CURL_PREREQFUNC_ABORT
	               : CURL_PREREQFUNC_OK;
}

static void curl_prepare_tls(struct client *client)
{
	CURL *curl = client->curl;

	must_set(curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3));
	must_set(curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L));
	/* Names are of nodes, and any will do: on_before_request() looks. */
	must_set(curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L));
	must_set(curl_easy_setopt(curl, CURLOPT_PREREQFUNCTION, on_before_request));
	must_set(curl_easy_setopt(curl, CURLOPT_PREREQDATA, client));
	must_set(curl_easy_setopt(curl, CURLOPT_SSL_SESSIONID_CACHE, 0L));
	must_set(curl_easy_setopt(curl, CURLOPT_CAPATH, NULL));
	must_set(curl_easy_setopt(curl, CURLOPT_CAINFO, client->ca_file));
	must_set(curl_easy_setopt(curl, CURLOPT_SSLCERT, client->cert_file));
	must_set(curl_easy_setopt(curl, CURLOPT_SSLKEY, client->key_file));
}

/* Each transfer goes to one endpoint, of one of the two kinds. */
static void curl_point(const struct client *client, const char *path)
{
	const char *endpoint = client_endpoint(client);
	bool is_unix = client_is_unix(endpoint);
	cleanup(freep) char *url = is_unix ? xasprintf("http://blix%s", path)
	                                   : xasprintf(HTTPS "%s%s", endpoint, path);
	CURL *curl = client->curl;

	must_set(curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, is_unix ? "http" : "https"));
	must_set(curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, is_unix ? endpoint : NULL));
	must_set(curl_easy_setopt(curl, CURLOPT_URL, url));
}

int client_open(const struct client_options *options, struct client **ret, struct blix_error *err)
{
	cleanup(client_freep) struct client *client = xcalloc(1, sizeof(*client));
	int rc;

	rc = endpoints_parse(client, options->endpoints, err);
	if (rc < 0)
		return rc;
	client->session = random_id();
	client->until_ms = CLIENT_TIMEOUT_NONE;
	if (options->timeout_ms != CLIENT_TIMEOUT_NONE)
		client->until_ms = clock_boot_ms() + options->timeout_ms;
	client->tick = options->tick;
	client->context = options->context;
	if (has_https(client) && (rc = credentials_read(client, options, err)) < 0)
		return rc;
	if (curl_global_init(CURL_GLOBAL_SSL) != CURLE_OK)
		return blix_fail(err, BLIX_E_NOMEM, "libcurl cannot be set up");
	client->curl = curl_easy_init();
	if (client->curl == NULL)
		return blix_fail(err, BLIX_E_NOMEM, "libcurl cannot be set up");
	curl_prepare(client);
	if (client->credentials != NULL)
		curl_prepare_tls(client);
	*ret = take(client);
	return 0;
}

void client_free(struct client *client)
{
	if (client == NULL)
		return;
	if (client->curl != NULL) {
		curl_easy_cleanup(client->curl);
		curl_global_cleanup();
	}
	for (size_t i = 0; i < client->n_endpoints; i++)
		free(client->endpoints[i]);
	credentials_free(client->credentials);
	free(client->ca_file);
	free(client->cert_file);
	free(client->key_file);
	free(client);
}

void client_freep(struct client **client)
{
	client_free(*client);
}

uint64_t client_left_ms(const struct client *client)
{
	uint64_t now = clock_boot_ms();

	if (client->until_ms == CLIENT_TIMEOUT_NONE)
		return CLIENT_TIMEOUT_NONE;
	return client->until_ms > now ? client->until_ms - now : 0;
}

void client_key(struct client *client, const char *key)
{
	client->key = key;
}

size_t client_endpoints(const struct client *client)
{
	return client->n_endpoints;
}

const char *client_endpoint(const struct client *client)
{
	return client->endpoints[client->current];
}

void client_next_endpoint(struct client *client)
{
	client->current = (client->current + 1) % client->n_endpoints;
}

static struct curl_slist *headers_add(struct curl_slist *headers, const char *line)
{
	struct curl_slist *grown = curl_slist_append(headers, line);

	if (grown == NULL)
		abort();
	return grown;
}

static struct curl_slist *headers_make(const struct client *client, const struct exchange *exchange)
{
	/* A daemon that has the file already says so before it is sent. */
	struct curl_slist *headers =
		headers_add(NULL, exchange->file >= 0 ? "Expect: 100-continue" : "Expect:");
	char line[LIMIT_KEY + 32];

	if (exchange->body != NULL || exchange->file >= 0)
		headers = headers_add(headers, exchange->n > 0 || exchange->file >= 0
		                                       ? "Content-Type: application/octet-stream"
		                                       : "Content-Type: application/json");
	if (exchange->key != NULL) {
		(void)snprintf(line, sizeof(line), "Idempotency-Key: %s", exchange->key);
		return headers_add(headers, line);
	}
	if (exchange->request == 0)
		return headers;
	(void)snprintf(line, sizeof(line), "Blix-Session: %" PRIu64, client->session);
	headers = headers_add(headers, line);
	(void)snprintf(line, sizeof(line), "Blix-Request: %" PRIu64, exchange->request);
	return headers_add(headers, line);
}

/* The daemon holds a long poll for up to ?wait= by itself: libcurl's own limit comes after that.
 * What has a sink goes on as long as it is heard of. */
static long transfer_ms(const struct client *client, const struct exchange *exchange)
{
	uint64_t left = client_left_ms(client);
	uint64_t most = exchange->sink != NULL ? INT32_MAX : LIMIT_WAIT + CALL_MS_MAX;

	left = left < most ? left + 1 : most;
	return (long)left;
}

int client_connect_error(const char *endpoint, int sys, struct blix_error *err)
{
	if (sys == EACCES || sys == EPERM) {
		(void)blix_fail(err, BLIX_E_DENIED, "connect %s: permission denied", endpoint);
		blix_hint(err, "members of group blix may use it");
		return -(int)BLIX_E_DENIED;
	}
	(void)blix_fail(err, BLIX_E_UNAVAILABLE, "no daemon answers at %s", endpoint);
	blix_hint(err, "is blixd running?");
	return -(int)BLIX_E_UNAVAILABLE;
}

static int interrupted(struct blix_error *err)
{
	(void)blix_fail(err, BLIX_E_TIMEOUT, "interrupted");
	blix_reason(err, "interrupted");
	return -(int)BLIX_E_TIMEOUT;
}

bool client_interrupted(const struct client *client, struct blix_error *err)
{
	if (client->tick == NULL || !client->tick(client->context))
		return false;
	(void)interrupted(err);
	return true;
}

/* Nothing was sent, and nothing will be. */
static int distrusted(const struct client *client, struct blix_error *err)
{
	*err = client->distrust;
	return blix_wrap(err, "%s", client_endpoint(client));
}

static int curl_error(const struct client *client, CURLcode rc, bool *ret_connected,
                      struct blix_error *err)
{
	const char *path = client->endpoints[client->current];
	long sys = 0;

	*ret_connected = rc != CURLE_COULDNT_CONNECT;
	switch ((int)rc) {
	case CURLE_COULDNT_CONNECT:
		(void)curl_easy_getinfo(client->curl, CURLINFO_OS_ERRNO, &sys);
		return client_connect_error(path, (int)sys, err);
	case CURLE_OPERATION_TIMEDOUT:
		return blix_fail(err, BLIX_E_TIMEOUT, "%s did not answer in time", path);
	case CURLE_ABORTED_BY_CALLBACK:
		return client->distrust.code != BLIX_OK ? distrusted(client, err)
		                                        : interrupted(err);
	case CURLE_PEER_FAILED_VERIFICATION:
		(void)blix_fail(err, BLIX_E_DENIED, "%s: its certificate is not of this cluster",
		                path);
		blix_reason(err, "other-ca");
		return -(int)BLIX_E_DENIED;
	case CURLE_WRITE_ERROR:
		return blix_fail(err, BLIX_E_TOOBIG, "the answer is larger than %u MiB",
		                 (unsigned)(LIMIT_ANSWER >> 20));
	default:
		return blix_fail(err, BLIX_E_UNAVAILABLE, "%s: %s", path, curl_easy_strerror(rc));
	}
}

static void body_set(CURL *curl, struct exchange *exchange)
{
	must_set(curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L));
	if (exchange->file >= 0) {
		exchange->file_at = 0;
		must_set(curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L));
		must_set(curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read));
		must_set(curl_easy_setopt(curl, CURLOPT_READDATA, exchange));
		must_set(curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, on_seek));
		must_set(curl_easy_setopt(curl, CURLOPT_SEEKDATA, exchange));
		must_set(curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE,
		                          (curl_off_t)exchange->file_n));
	} else if (strcmp(exchange->method, "GET") != 0) {
		must_set(curl_easy_setopt(curl, CURLOPT_POST, 1L));
		must_set(curl_easy_setopt(curl, CURLOPT_POSTFIELDS,
		                          exchange->body != NULL ? exchange->body : ""));
		must_set(curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE,
		                          exchange->n > 0 ? (long)exchange->n : -1L));
	}
}

/* One transfer over the current endpoint. *ret_connected says whether the daemon may have seen it.
 */
static int exchange_send(struct client *client, struct exchange *exchange, bool *ret_connected,
                         struct blix_error *err)
{
	CURL *curl = client->curl;
	struct curl_slist *headers = headers_make(client, exchange);
	CURLcode rc;

	buf_clear(&exchange->answer);
	exchange->curl = curl;
	exchange->next = 0;
	exchange->ended = false;
	curl_point(client, exchange->path);
	body_set(curl, exchange);
	must_set(curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, exchange->method));
	must_set(curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers));
	must_set(curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, transfer_ms(client, exchange)));
	must_set(curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, exchange->sink != NULL ? 1L : 0L));
	must_set(curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
	                          exchange->sink != NULL ? SILENCE_S : 0L));
	must_set(curl_easy_setopt(curl, CURLOPT_WRITEDATA, exchange));
	must_set(curl_easy_setopt(curl, CURLOPT_HEADERDATA, exchange));
	rc = curl_easy_perform(curl);
	must_set(curl_easy_setopt(curl, CURLOPT_HTTPHEADER, NULL));
	curl_slist_free_all(headers);
	if (rc != CURLE_OK)
		return curl_error(client, rc, ret_connected, err);
	*ret_connected = true;
	(void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &exchange->status);
	return 0;
}

/* What the daemon said instead of an answer. */
static int answer_error(const struct exchange *exchange, struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;
	struct blix_error said;

	(void)json_parse(exchange->answer.data != NULL ? exchange->answer.data : "",
	                 exchange->answer.len, &json_limits_request, &tree, NULL);
	error_parse(tree, (int)exchange->status, &said);
	if (err != NULL)
		*err = said;
	return -(int)said.code;
}

static bool is_unsettled(int rc)
{
	return rc == -(int)BLIX_E_UNKNOWN || rc == -(int)BLIX_E_NOLEADER ||
	       rc == -(int)BLIX_E_BUSY || rc == -(int)BLIX_E_TOOMANY ||
	       rc == -(int)BLIX_E_UNAVAILABLE;
}

/* Tries each endpoint once, from the current one on, until one can be connected. */
static int exchange_round(struct client *client, struct exchange *exchange, bool *ret_connected,
                          struct blix_error *err)
{
	int rc = 0;

	for (size_t i = 0; i < client->n_endpoints; i++) {
		rc = exchange_send(client, exchange, ret_connected, err);
		if (rc == 0 && exchange->status >= 400)
			rc = answer_error(exchange, err);
		if (*ret_connected && rc != -(int)BLIX_E_UNAVAILABLE && rc != -(int)BLIX_E_NOLEADER)
			return rc;
		if (rc == -(int)BLIX_E_DENIED && client->n_endpoints == 1)
			return rc;
		client->reached = client->reached || *ret_connected;
		client->current = (client->current + 1) % client->n_endpoints;
	}
	return rc;
}

static bool wait_backoff(const struct client *client, unsigned backoff_ms)
{
	(void)poll(NULL, 0, (int)backoff_ms);
	return client->tick != NULL && client->tick(client->context);
}

/* Rounds with growing pauses until the outcome is settled. */
static int exchange_run(struct client *client, struct exchange *exchange, struct blix_error *err)
{
	uint64_t left = client_left_ms(client);
	uint64_t until = clock_boot_ms() + (left < SETTLE_MS ? left : SETTLE_MS);
	unsigned backoff_ms = BACKOFF_MS_MIN;
	int rc;

	for (;;) {
		bool connected = false;

		rc = exchange_round(client, exchange, &connected, err);
		client->reached = client->reached || connected;
		if (!is_unsettled(rc) || !client->reached)
			return rc;
		if (clock_boot_ms() + backoff_ms >= until)
			return rc;
		if (wait_backoff(client, backoff_ms))
			return interrupted(err);
		backoff_ms = backoff_ms * 2 < BACKOFF_MS_MAX ? backoff_ms * 2 : BACKOFF_MS_MAX;
	}
}

int client_call(struct client *client, const char *method, const char *path, const cJSON *body,
                cJSON **ret_answer, struct blix_error *err)
{
	cleanup(freep) char *text = body != NULL ? json_text(body) : NULL;
	struct exchange exchange = {.method = method, .path = path, .body = text, .file = -1};
	int rc;

	if (strcmp(method, "GET") != 0 && client->key != NULL)
		exchange.key = client->key;
	else if (strcmp(method, "GET") != 0)
		exchange.request = ++client->request;
	buf_init(&exchange.answer, LIMIT_ANSWER);
	rc = exchange_run(client, &exchange, err);
	if (rc < 0 && exchange.request != 0) {
		client->session = random_id();
		client->request = 0;
	}
	if (rc == 0) {
		rc = json_parse(exchange.answer.data != NULL ? exchange.answer.data : "",
		                exchange.answer.len, &json_limits_answer, ret_answer, err);
		if (rc < 0) {
			(void)blix_wrap(err, "the daemon's answer");
			if (err != NULL)
				err->code = BLIX_E_INTERNAL;
			rc = -(int)BLIX_E_INTERNAL;
		}
	}
	buf_done(&exchange.answer);
	return rc;
}

int client_lines(struct client *client, const char *path, const char *body,
                 bool (*sink)(void *data, const char *bytes, size_t n), void *data,
                 struct blix_error *err)
{
	struct exchange exchange = {.method = "POST",
	                            .path = path,
	                            .body = body,
	                            .file = -1,
	                            .sink = sink,
	                            .sink_data = data};
	bool connected = false;
	int rc;

	buf_init(&exchange.answer, LIMIT_BODY);
	rc = exchange_send(client, &exchange, &connected, err);
	if (exchange.stopped)
		rc = 0;
	else if (rc == 0 && exchange.status >= 400)
		rc = answer_error(&exchange, err);
	else if (rc == -(int)BLIX_E_TIMEOUT && client_left_ms(client) > 0 &&
	         strcmp(err->reason, "interrupted") != 0)
		rc = -(int)(err->code = BLIX_E_UNAVAILABLE);
	buf_done(&exchange.answer);
	return rc;
}

int client_put(struct client *client, const char *path, const void *data, size_t n,
               struct blix_error *err)
{
	struct exchange exchange = {
		.method = "PUT", .path = path, .body = data, .n = n, .file = -1};
	int rc;

	buf_init(&exchange.answer, LIMIT_BODY);
	rc = exchange_run(client, &exchange, err);
	buf_done(&exchange.answer);
	return rc;
}

int client_upload(struct client *client, const char *path, int fd, uint64_t n,
                  struct blix_error *err)
{
	struct exchange exchange = {.method = "PUT", .path = path, .file = fd, .file_n = n};
	int rc;

	buf_init(&exchange.answer, LIMIT_BODY);
	rc = exchange_run(client, &exchange, err);
	buf_done(&exchange.answer);
	return rc;
}

int client_text(struct client *client, const char *path, struct buf *out, uint64_t *ret_next,
                bool *ret_ended, struct blix_error *err)
{
	struct exchange exchange = {.method = "GET", .path = path, .file = -1};
	int rc;

	buf_init(&exchange.answer, LIMIT_ANSWER);
	rc = exchange_run(client, &exchange, err);
	if (rc == 0 && exchange.answer.len > 0 &&
	    buf_add(out, exchange.answer.data, exchange.answer.len) < 0)
		rc = blix_fail(err, BLIX_E_TOOBIG, "the log is larger than %zu bytes", out->cap);
	if (rc == 0) {
		*ret_next = exchange.next;
		*ret_ended = exchange.ended;
	}
	buf_done(&exchange.answer);
	return rc;
}

void client_escape(struct buf *out, const char *text)
{
	for (const char *p = text; *p != '\0'; p++) {
		unsigned char c = (unsigned char)*p;
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		             (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '~';

		if (plain)
			(void)buf_add(out, p, 1);
		else
			(void)buf_printf(out, "%%%02X", c);
	}
}
