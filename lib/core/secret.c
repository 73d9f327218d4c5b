/* Names of secrets: see secret.h. */
#include "core/secret.h"

#include "base/alloc.h"
#include "base/limits.h"

#include <string.h>

int secret_name_check(const char *name, struct blix_error *err)
{
	size_t n = strnlen(name, LIMIT_SECRET_NAME + 1);

	if (n == 0 || n > LIMIT_SECRET_NAME)
		return blix_fail(err, BLIX_E_INVALID,
		                 "the name of a secret must have 1 to %d characters",
		                 LIMIT_SECRET_NAME);
	if (n >= 4 && strcmp(name + n - 4, ".tmp") == 0)
		return blix_fail(err, BLIX_E_INVALID,
		                 "the name of a secret does not end in .tmp: files are written so");
	for (size_t i = 0; i < n; i++) {
		char c = name[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		              (c >= '0' && c <= '9') || c == '_';

		if (!letter && (i == 0 || (c != '.' && c != '-')))
			return blix_fail(err, BLIX_E_INVALID,
			                 "the name of a secret is not valid: use letters, digits, "
			                 "'_', and inside '.' and '-'");
	}
	return 0;
}

/* Where `name` is, or belongs. */
static size_t find(const struct secrets *secrets, const char *name, bool *ret_found)
{
	size_t at = 0;

	while (at < secrets->n && strcmp(secrets->names[at], name) < 0)
		at++;
	*ret_found = at < secrets->n && strcmp(secrets->names[at], name) == 0;
	return at;
}

int secrets_add(struct secrets *secrets, const char *name, struct blix_error *err)
{
	bool found;
	size_t at = find(secrets, name, &found);
	int rc = secret_name_check(name, err);

	if (rc < 0)
		return rc;
	if (found)
		return blix_fail(err, BLIX_E_INVALID, "secret '%s' is named twice", name);
	if (secrets->n >= LIMIT_SECRETS)
		return blix_fail(err, BLIX_E_INVALID, "more than %d secrets", LIMIT_SECRETS);
	secrets->names =
		xreallocarray((void *)secrets->names, secrets->n + 1, sizeof(*secrets->names));
	memmove((void *)(secrets->names + at + 1), (void *)(secrets->names + at),
	        (secrets->n - at) * sizeof(*secrets->names));
	secrets->names[at] = xstrdup(name);
	secrets->n++;
	return 0;
}

bool secrets_has(const struct secrets *secrets, const char *name)
{
	bool found;

	(void)find(secrets, name, &found);
	return found;
}

void secrets_copy(struct secrets *to, const struct secrets *from)
{
	*to = (struct secrets){NULL, 0};
	for (size_t i = 0; i < from->n; i++)
		(void)secrets_add(to, from->names[i], NULL);
}

void secrets_done(struct secrets *secrets)
{
	for (size_t i = 0; i < secrets->n; i++)
		free(secrets->names[i]);
	free((void *)secrets->names);
	*secrets = (struct secrets){NULL, 0};
}
