/* The error table and the few functions that fill a struct blix_error. Never allocates. */
#define BLIX_BASE_ERROR_C
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct blix_code_info code_infos[BLIX_CODE_COUNT] = {
	[BLIX_OK] = {.slug = "ok", .text = "ok", .http = 200, .definite = true},
#define X(name_, http_, exit_, retry_, definite_, slug_, text_)                                    \
	[BLIX_E_##name_] = {.slug = slug_,                                                         \
	                    .text = text_,                                                         \
	                    .http = http_,                                                         \
	                    .exit = exit_,                                                         \
	                    .retryable = retry_,                                                   \
	                    .definite = definite_},
	BLIX_CODES(X)
#undef X
};

const struct blix_code_info *blix_code_info(enum blix_code code)
{
	if ((unsigned)code >= BLIX_CODE_COUNT)
		return &code_infos[BLIX_E_INTERNAL];
	return &code_infos[code];
}

enum blix_code blix_code_find(const char *slug)
{
	for (unsigned i = 0; i < BLIX_CODE_COUNT; i++) {
		if (strcmp(code_infos[i].slug, slug) == 0)
			return (enum blix_code)i;
	}
	return BLIX_E_INTERNAL;
}

__attribute__((format(printf, 4, 0))) static void
error_set(struct blix_error *err, enum blix_code code, int sys, const char *fmt, va_list args)
{
	err->code = code;
	err->sys = sys;
	err->reason[0] = '\0';
	err->hint[0] = '\0';
	(void)vsnprintf(err->text, sizeof(err->text), fmt, args);
}

int blix_fail(struct blix_error *err, enum blix_code code, const char *fmt, ...)
{
	va_list args;

	if (err != NULL) {
		va_start(args, fmt);
		error_set(err, code, 0, fmt, args);
		va_end(args);
	}
	return -(int)code;
}

static enum blix_code code_of_errno(int sys)
{
	switch (sys) {
	case ENOSPC:
	case EDQUOT:
		return BLIX_E_DISKFULL;
	case ENOENT:
		return BLIX_E_NOTFOUND;
	case EACCES:
	case EPERM:
		return BLIX_E_DENIED;
	case ENOMEM:
		return BLIX_E_NOMEM;
	default:
		return BLIX_E_IO;
	}
}

int blix_fail_sys(struct blix_error *err, int sys, const char *fmt, ...)
{
	enum blix_code code = code_of_errno(sys);
	va_list args;
	size_t used;

	if (err != NULL) {
		va_start(args, fmt);
		error_set(err, code, sys, fmt, args);
		va_end(args);
		used = strlen(err->text);
		(void)snprintf(err->text + used, sizeof(err->text) - used, ": %s",
		               strerrordesc_np(sys) != NULL ? strerrordesc_np(sys) : "unknown");
	}
	return -(int)code;
}

int blix_wrap(struct blix_error *err, const char *fmt, ...)
{
	char inner[sizeof(err->text)];
	va_list args;
	size_t used;

	if (err == NULL)
		return -(int)BLIX_E_INTERNAL;
	(void)memcpy(inner, err->text, sizeof(inner));
	va_start(args, fmt);
	(void)vsnprintf(err->text, sizeof(err->text), fmt, args);
	va_end(args);
	used = strlen(err->text);
	(void)snprintf(err->text + used, sizeof(err->text) - used, ": %s", inner);
	return -(int)err->code;
}

void blix_reason(struct blix_error *err, const char *reason)
{
	if (err != NULL)
		(void)snprintf(err->reason, sizeof(err->reason), "%s", reason);
}

void blix_hint(struct blix_error *err, const char *fmt, ...)
{
	va_list args;

	if (err == NULL)
		return;
	va_start(args, fmt);
	(void)vsnprintf(err->hint, sizeof(err->hint), fmt, args);
	va_end(args);
}

const char *blix_error_reason(const struct blix_error *err)
{
	return err->reason[0] != '\0' ? err->reason : blix_code_info(err->code)->slug;
}
