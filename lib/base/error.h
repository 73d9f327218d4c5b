/* One idiom for errors: a function returns 0 or -BLIX_E_x and, on failure only, fills a fixed-size
 * struct blix_error that its caller owns. Each layer wraps outward with its own context; the top
 * prints or logs it once. The table below decides everything that hangs on a code: the HTTP
 * status, the exit code of a program, and whether the same request may be sent again.
 */
#ifndef BLIX_BASE_ERROR_H
#define BLIX_BASE_ERROR_H

#include <stdbool.h>
#include <stdint.h>

/* clang-format off */
/*        name         http exit retry  definite slug                 text */
#define BLIX_CODES(X)                                                                           \
	X(INVALID,     400,  64, false, true,  "invalid",             "request is not valid")    \
	X(SPEC,        422,  78, false, true,  "bad-spec",            "spec or configuration is not valid") \
	X(NOTFOUND,    404,   3, false, true,  "not-found",           "no such object")          \
	X(METHOD,      405,  64, false, true,  "bad-method",          "method not allowed")      \
	X(EXISTS,      409,   4, false, true,  "exists",              "object already exists")   \
	X(CONFLICT,    409,   4, false, true,  "version-conflict",    "object was changed by somebody else") \
	X(REFUSED,     409,   5, false, true,  "refused",             "refused in this state")   \
	X(NOROOM,      507,   6, true,  true,  "unplaceable",         "no node has room")        \
	X(IMAGE,       422,   8, false, true,  "image-failed",        "image could not be built") \
	X(START,       500,   9, false, true,  "start-failed",        "VM failed to start")      \
	X(NOTREADY,    504,  10, true,  true,  "not-ready",           "VM did not become ready") \
	X(NOLEADER,    503,  69, true,  true,  "no-leader",           "no leader can be reached") \
	X(UNAVAILABLE, 503,  69, true,  true,  "unavailable",         "daemon cannot be reached") \
	X(UNKNOWN,     503,  69, true,  false, "outcome-unknown",     "outcome unknown: leadership was lost") \
	X(FORGOTTEN,   410,   1, false, false, "outcome-forgotten",   "outcome forgotten: the session moved on") \
	X(BUSY,        503,  75, true,  true,  "busy",                "too much at once")        \
	X(DISKFULL,    507,  75, true,  true,  "disk-full",           "no space left on device") \
	X(NOMEM,       503,  75, true,  true,  "out-of-memory",       "out of memory")           \
	X(DENIED,      403,  77, false, true,  "denied",              "not permitted")           \
	X(TOOBIG,      413,  64, false, true,  "too-big",             "request is too large")    \
	X(TIMEOUT,     504, 124, true,  true,  "timeout",             "timed out")               \
	X(CORRUPT,     500,   1, false, true,  "corrupt",             "stored data is damaged")  \
	X(IO,          500,   1, false, true,  "io",                  "input/output error")      \
	X(INTERNAL,    500,   1, false, true,  "internal",            "internal error")          \
	X(GONE,        410,   1, false, true,  "gone",                "history does not reach back that far") \
	X(TOOMANY,     429,  75, true,  true,  "too-many",            "too many requests of one client at once")
/* clang-format on */

enum blix_code {
	BLIX_OK = 0,
#define X(name, http, exit, retry, definite, slug, text) BLIX_E_##name,
	BLIX_CODES(X)
#undef X
		BLIX_CODE_COUNT
};

struct blix_code_info {
	const char *slug; /* the machine-readable `code` of the API: "not-found" */
	const char *text;
	int http;
	int exit;
	bool retryable; /* the same request, with the same number, may be sent again */
	bool definite;  /* false: it may or may not have happened */
};

/* The row of `code`; BLIX_OK gives http 200, exit 0. Unknown codes are INTERNAL. */
const struct blix_code_info *blix_code_info(enum blix_code code);
/* The code whose slug is `slug`, or BLIX_E_INTERNAL. */
enum blix_code blix_code_find(const char *slug);

struct blix_error {
	enum blix_code code;
	int sys;         /* the errno behind it, 0 if none */
	char reason[40]; /* machine-readable cause, finer than the code; "" = the code's slug */
	char text[1600]; /* outermost context first: "vm web: open status.json: ..." */
	char hint[200];  /* what to try next; "" if there is nothing to say */
};

/* Fills *err (which may be NULL) and returns -code. */
int blix_fail(struct blix_error *err, enum blix_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The same with errno `sys`: ENOSPC and EDQUOT become DISKFULL, ENOENT NOTFOUND, EACCES and EPERM
 * DENIED, ENOMEM NOMEM, all others IO; ": strerror" is appended. */
int blix_fail_sys(struct blix_error *err, int sys, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Puts "context: " before the text; returns -err->code (or -INTERNAL when err is NULL). */
int blix_wrap(struct blix_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Name the cause or the way out of an error already made. Both accept NULL. */
void blix_reason(struct blix_error *err, const char *reason);
void blix_hint(struct blix_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The reason of *err, or its code's slug. */
const char *blix_error_reason(const struct blix_error *err);

/* What the analyzer cannot see across files: a failure is never 0. */
#if defined(__clang_analyzer__) && !defined(BLIX_BASE_ERROR_C)
#define blix_fail(...)     ((void)blix_fail(__VA_ARGS__), -1)
#define blix_fail_sys(...) ((void)blix_fail_sys(__VA_ARGS__), -1)
#define blix_wrap(...)     ((void)blix_wrap(__VA_ARGS__), -1)
#endif

#endif
