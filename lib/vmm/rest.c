/* HTTP to a hypervisor, by libcurl: see rest.h.
 *
 * libcurl is loaded when it is first needed, not linked: with the thirty libraries that it brings
 * it costs 7 ms at every start of a program, and microvm-status, which runs after each step of each
 * VM, mostly meets QEMU and then needs none of it. */
#include "vmm/rest.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "vmm/address.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

/* clang-format off */
#define CURL_FUNCTIONS(X) \
	X(curl_global_init) X(curl_easy_init) X(curl_easy_cleanup) X(curl_easy_setopt) X(curl_easy_perform) \
	X(curl_easy_getinfo) X(curl_slist_append) X(curl_slist_free_all)
/* clang-format on */

/* The header's type-checking macros would hide the members below, which are named alike. */
#undef curl_easy_setopt
#undef curl_easy_getinfo

struct curl_functions {
#define X(name) __typeof__(&name) name;
	CURL_FUNCTIONS(X)
#undef X
};

static struct curl_functions library;
static bool library_loaded;
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static bool library_find(void *handle, const char *name, void *ret_function)
{
	void *function = dlsym(handle, name);

	memcpy(ret_function, &function, sizeof(function));
	return function != NULL;
}

static void library_load(void)
{
	static const char *const names[] = {"libcurl-gnutls.so.4", "libcurl.so.4"};
	void *handle = NULL;
	bool found = true;

	for (size_t i = 0; i < array_size(names) && handle == NULL; i++)
		handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	if (handle == NULL)
		return;
#define X(name) found = library_find(handle, #name, &library.name) && found;
	CURL_FUNCTIONS(X)
#undef X
	library_loaded = found && library.curl_global_init(CURL_GLOBAL_NOTHING) == CURLE_OK;
}

struct request {
	CURL *easy;
	struct curl_slist *headers;
	struct address address;
	struct buf answer;
};

static void request_done(struct request *r)
{
	library.curl_easy_cleanup(r->easy);
	library.curl_slist_free_all(r->headers);
	address_done(&r->address);
	buf_done(&r->answer);
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct request *r = arg;

	return buf_add(&r->answer, data, size * n) == 0 ? size * n : 0;
}

static int curl_failed(const struct request *r, CURLcode code, struct blix_error *err)
{
	long sys = 0;

	if (buf_failed(&r->answer) || code == CURLE_FILESIZE_EXCEEDED)
		return address_fail(err, BLIX_E_TOOBIG, REASON_TOO_BIG,
		                    "answer is larger than %u bytes", LIMIT_QMP);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return address_fail(err, BLIX_E_TIMEOUT, REASON_SILENT, "no answer in time");
	if (code == CURLE_COULDNT_CONNECT) {
		(void)library.curl_easy_getinfo(r->easy, CURLINFO_OS_ERRNO, &sys);
		return address_connect_failed(err, sys != 0 ? (int)sys : ECONNREFUSED);
	}
	if (code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR ||
	    code == CURLE_PARTIAL_FILE)
		return address_fail(err, BLIX_E_UNAVAILABLE, REASON_CLOSED,
		                    "hung up without an answer");
	if (code == CURLE_OUT_OF_MEMORY)
		return blix_fail(err, BLIX_E_NOMEM, "out of memory");
	return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED, "answer is not HTTP");
}

static void request_prepare(struct request *r, const char *url, const struct rest_request *want,
                            unsigned deadline_ms)
{
	__typeof__(&curl_easy_setopt) set = library.curl_easy_setopt;

	(void)set(r->easy, CURLOPT_URL, url);
	(void)set(r->easy, CURLOPT_UNIX_SOCKET_PATH, r->address.path);
	(void)set(r->easy, CURLOPT_NOSIGNAL, 1L);
	(void)set(r->easy, CURLOPT_PROXY, "");
	(void)set(r->easy, CURLOPT_PROTOCOLS_STR, "http");
	(void)set(r->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	(void)set(r->easy, CURLOPT_TIMEOUT_MS, deadline_ms == 0 ? 1L : (long)deadline_ms);
	(void)set(r->easy, CURLOPT_MAXFILESIZE, (long)LIMIT_QMP);
	(void)set(r->easy, CURLOPT_WRITEFUNCTION, on_data);
	(void)set(r->easy, CURLOPT_WRITEDATA, r);
	(void)set(r->easy, CURLOPT_CUSTOMREQUEST, want->method);
	if (want->body == NULL)
		return;
	/* Both servers refuse the media type that curl would name. */
	r->headers = library.curl_slist_append(NULL, "Content-Type: application/json");
	(void)set(r->easy, CURLOPT_HTTPHEADER, r->headers);
	(void)set(r->easy, CURLOPT_POSTFIELDS, want->body);
}

static int request_run(struct request *r, struct blix_error *err)
{
	CURLcode code = library.curl_easy_perform(r->easy);
	long status = 0;

	if (code != CURLE_OK)
		return curl_failed(r, code, err);
	(void)library.curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status < 200 || status > 299)
		return address_fail(err, BLIX_E_REFUSED, REASON_ERROR, "HTTP %ld: %.160s", status,
		                    r->answer.data != NULL ? r->answer.data : "");
	return 0;
}

static int library_need(struct blix_error *err)
{
	(void)pthread_once(&library_once, library_load);
	if (library_loaded)
		return 0;
	(void)blix_fail(err, BLIX_E_UNAVAILABLE, "libcurl cannot be loaded");
	blix_hint(err, "install libcurl3-gnutls");
	return -(int)BLIX_E_UNAVAILABLE;
}

static int request_answer(const struct request *r, cJSON **ret, struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;

	if (ret == NULL)
		return 0;
	if (json_parse(r->answer.data, r->answer.len, &json_limits_answer, &tree, NULL) < 0 ||
	    !cJSON_IsObject(tree))
		return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED,
		                    "answer is not a JSON object");
	*ret = take(tree);
	return 0;
}

int rest_call(const char *socket, const struct rest_request *request, unsigned deadline_ms,
              cJSON **ret, struct blix_error *err)
{
	cleanup(freep) char *url = xasprintf("http://localhost%s", request->path);
	struct request r = {.address = {.dirfd = -1}};
	int rc = library_need(err);

	if (rc < 0)
		return rc;
	buf_init(&r.answer, LIMIT_QMP);
	rc = address_init(&r.address, socket, err);
	if (rc == 0) {
		r.easy = library.curl_easy_init();
		if (r.easy == NULL)
			rc = blix_fail(err, BLIX_E_NOMEM, "libcurl: out of memory");
	}
	if (rc == 0) {
		request_prepare(&r, url, request, deadline_ms);
		rc = request_run(&r, err);
	}
	if (rc == 0)
		rc = request_answer(&r, ret, err);
	request_done(&r);
	return rc;
}
