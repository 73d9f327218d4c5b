/* One table decides: the first row whose words stand in the text, from its first "error:" line on.
 * Nix has no error codes: its words are the interface, and newer words are rows of their own. */
#include "microvm/nix_error.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "microvm/text_rule.h"

#include <stdio.h>

static const struct text_rule rules[] = {
	{"No space left on device", NULL, BLIX_E_DISKFULL, "disk-full",
         "free space on the node: nix-collect-garbage"},
	{"Cannot allocate memory", NULL, BLIX_E_NOMEM, "out-of-memory",
         "the node has no memory left for a build: free some, or build fewer at once (buildsMax)"},
	{"std::bad_alloc", NULL, BLIX_E_NOMEM, "out-of-memory",
         "the node has no memory left for a build: free some, or build fewer at once (buildsMax)"},
	{"Too many open files", NULL, BLIX_E_BUSY, "out-of-fds",
         "raise LimitNOFILE of blixd or of the nix-daemon"},
	{"experimental Nix feature", "is disabled", BLIX_E_IMAGE, "nix-misconfigured",
         "enable the features nix-command and flakes in nixConfig"},
	{"requires lock file changes", NULL, BLIX_E_IMAGE, "lock-changed",
         "the base changed under its name: create the VM again to lock it anew"},
	{"NAR hash mismatch", NULL, BLIX_E_IMAGE, "flake-changed",
         "the base changed under its name: create the VM again to lock it anew"},
	{"builder for '", "failed", BLIX_E_IMAGE, "build-failed",
         "the lines above are the end of the build log"},
	{"Cannot build '", NULL, BLIX_E_IMAGE, "build-failed",
         "the lines above are the end of the build log"},
	{"unable to download", NULL, BLIX_E_IMAGE, "fetch-failed",
         "the node could not reach the source: check its network"},
	{"resolve host", NULL, BLIX_E_IMAGE, "fetch-failed",
         "the node could not reach the source: check its network"},
	{"program 'git' failed", NULL, BLIX_E_IMAGE, "fetch-failed",
         "check that the repository exists and that the node may read it"},
	{"is not a valid URL", NULL, BLIX_E_IMAGE, "flake-missing",
         "a flake reference looks like github:OWNER/REPO or path:/DIR"},
	{"syntax error", NULL, BLIX_E_IMAGE, "flake-eval-failed",
         "try: nix flake check on the flake"},
	{"attribute 'extendModules' missing", NULL, BLIX_E_IMAGE, "no-extend-modules",
         "this guest cannot be adjusted: use --plain, or see docs/guest-contract.md"},
	{"attribute 'declaredRunner' missing", NULL, BLIX_E_IMAGE, "not-a-microvm",
         "import microvm.nix's module in this configuration"},
	{"attribute 'microvm' missing", NULL, BLIX_E_IMAGE, "not-a-microvm",
         "import microvm.nix's module in this configuration"},
	{"attribute '", "base.nixosConfigurations", BLIX_E_IMAGE, "flake-attribute-missing",
         "name one of its nixosConfigurations: --flake REF#ATTR"},
	{"does not provide attribute", NULL, BLIX_E_IMAGE, "flake-attribute-missing",
         "name one of its nixosConfigurations: --flake REF#ATTR"},
	{"-source/flake.nix': No such file", NULL, BLIX_E_IMAGE, "flake-missing",
         "there is no flake.nix in that place"},
	{"/flake.nix' file", NULL, BLIX_E_IMAGE, "flake-missing",
         "there is no flake.nix in that place"},
	{"-source': No such file", NULL, BLIX_E_IMAGE, "flake-source-gone",
         "the locked source left the store: create the VM again to lock it anew"},
	{"getting status of '", "No such file", BLIX_E_IMAGE, "flake-missing",
         "a flake on this machine is named by its absolute path"},
	{"path '", "does not exist", BLIX_E_IMAGE, "flake-missing",
         "a flake on this machine is named by its absolute path"},
};
/* Not Nix but the command around it failed. */
static const struct text_rule no_error = {"", NULL, BLIX_E_IMAGE, "command-failed",
                                          "see the node's log"};
static const struct text_rule otherwise = {"", NULL, BLIX_E_IMAGE, "flake-eval-failed",
                                           "try: nix flake check on the flake"};

/* Colours and other terminal sequences, and control characters, leave the text. */
static char *strip(const char *text)
{
	char *out = xstrdup(text);
	size_t n = 0;

	for (const char *at = text; *at != '\0'; at++) {
		if (*at == '\033' && at[1] == '[') {
			at += 2 + strcspn(at + 2, "ABCDEFGHJKSTfhlmnsu");
			if (*at == '\0')
				break;
		} else if ((unsigned char)*at >= ' ' || *at == '\n' || *at == '\t') {
			out[n++] = *at;
		}
	}
	out[n] = '\0';
	return out;
}

static bool is_useful(const char *line, size_t n)
{
	static const char *const noise[] = {"(use '--show-trace'", "For full logs, run",
	                                    "warning: error: unable to download"};

	if (strspn(line, " \t|") >= n)
		return false;
	for (size_t i = 0; i < array_size(noise); i++) {
		if (memmem(line, n, noise[i], strlen(noise[i])) != NULL)
			return false;
	}
	return true;
}

/* Drops the noise, in place. */
static void keep_useful(char *text)
{
	char *to = text;

	for (const char *line = text; *line != '\0';) {
		size_t n = strcspn(line, "\n");
		size_t step = line[n] == '\n' ? n + 1 : n;

		if (is_useful(line, n)) {
			memmove(to, line, step);
			to += step;
		}
		line += step;
	}
	while (to > text && to[-1] == '\n')
		to--;
	*to = '\0';
}

static const char *first_error(const char *text)
{
	const char *at = text;

	while (at != NULL && strncmp(at, "error:", 6) != 0) {
		at = strchr(at, '\n');
		at = at != NULL ? at + 1 : NULL;
	}
	return at != NULL ? at : text;
}

/* Where the last `max` bytes begin, at the start of a line if there is one among them. */
static const char *last_bytes(const char *text, size_t max)
{
	size_t n = strlen(text);
	const char *at = text, *line;

	if (n <= max)
		return text;
	at = text + n - max;
	line = strchr(at, '\n');
	if (line != NULL && line[1] != '\0')
		return line + 1;
	while (((unsigned char)*at & 0xC0) == 0x80)
		at++;
	return at;
}

char *nix_error_tail(const char *text)
{
	cleanup(freep) char *clean = strip(text);

	json_clean(clean);
	keep_useful(clean);
	return xstrdup(last_bytes(clean, LIMIT_MESSAGE));
}

static const struct text_rule *find_rule(const char *text)
{
	const struct text_rule *rule = text_rule_find(rules, array_size(rules), text);

	if (rule != NULL)
		return rule;
	return strncmp(text, "error:", 6) == 0 ? &otherwise : &no_error;
}

/* May the same call succeed later? Space, memory and networks come back; an image is as it is. */
static bool may_pass(const struct text_rule *rule)
{
	return rule->code != BLIX_E_IMAGE || rule == &no_error ||
	       strcmp(rule->reason, "fetch-failed") == 0;
}

bool nix_error_explain(const char *text, struct blix_error *err)
{
	cleanup(freep) char *clean = strip(text);
	const struct text_rule *rule;
	const char *error, *tail;
	size_t head;

	json_clean(clean);
	error = first_error(clean);
	rule = find_rule(error);
	keep_useful(clean + (error - clean));
	/* The error's own line stays even when the log below it is long. */
	head = strcspn(error, "\n");
	head = head < LIMIT_MESSAGE / 4 ? head : LIMIT_MESSAGE / 4;
	tail = last_bytes(error, LIMIT_MESSAGE);
	if (tail == error)
		(void)blix_fail(err, rule->code, "%s", error);
	else
		(void)blix_fail(err, rule->code, "%.*s\n%s", (int)head, error,
		                last_bytes(error, LIMIT_MESSAGE - head - 1));
	blix_reason(err, rule->reason);
	blix_hint(err, "%s", rule->hint);
	return may_pass(rule);
}
