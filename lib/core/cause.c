/* One table, reason -> class: see cause.h. docs/operations.md prints it, make check-api compares. A
 * reason that is not here falls to the class of its error code, so a new reason is never lost. */
#include "core/cause.h"

#include "base/alloc.h"

static const struct {
	const char *reason;
	enum cause_class class;
} causes[] = {
	/* clang-format off */
	{"unplaceable", CAUSE_RESOURCES},
	{"out-of-memory", CAUSE_RESOURCES},
	{"out-of-fds", CAUSE_RESOURCES},
	{"disk-full", CAUSE_RESOURCES},
	{"sources-full", CAUSE_RESOURCES},
	{"waits-for-build", CAUSE_RESOURCES},
	{"fetch-failed", CAUSE_NETWORK},
	{"runner-exited", CAUSE_START},
	{"runner-killed", CAUSE_START},
	{"runner-crashed", CAUSE_START},
	{"runner-bad", CAUSE_START},
	{"start-failed", CAUSE_START},
	{"not-ready", CAUSE_START},
	{"not-running", CAUSE_START},
	{"waits-for-secrets", CAUSE_START},
	{"secrets-not-taken", CAUSE_START},
	{"disk-locked", CAUSE_START},
	{"disk-missing", CAUSE_START},
	{"no-kvm", CAUSE_START},
	{"tap-failed", CAUSE_START},
	{"tap-up-failed", CAUSE_START},
	{"macvtap-up-failed", CAUSE_START},
	{"pci-setup-failed", CAUSE_START},
	{"virtiofsd-failed", CAUSE_START},
	{"teardown-failed", CAUSE_START},
	{"port-taken", CAUSE_START},
	{"socket-failed", CAUSE_START},
	{"build-failed", CAUSE_IMAGE},
	{"build-timeout", CAUSE_IMAGE},
	{"build-killed", CAUSE_IMAGE},
	{"command-failed", CAUSE_IMAGE},
	{"flake-missing", CAUSE_IMAGE},
	{"flake-eval-failed", CAUSE_IMAGE},
	{"flake-attribute-missing", CAUSE_IMAGE},
	{"flake-changed", CAUSE_IMAGE},
	{"flake-source-gone", CAUSE_IMAGE},
	{"lock-changed", CAUSE_IMAGE},
	{"source-missing", CAUSE_IMAGE},
	{"source-corrupt", CAUSE_IMAGE},
	{"no-extend-modules", CAUSE_IMAGE},
	{"not-a-microvm", CAUSE_IMAGE},
	{"runner-mismatch", CAUSE_IMAGE},
	{"runner-missing", CAUSE_IMAGE},
	{"image-missing", CAUSE_IMAGE},
	{"image-corrupt", CAUSE_IMAGE},
	{"journal-failed", CAUSE_NODE},
	{"node-offline", CAUSE_NODE},
	{"node-removed", CAUSE_NODE},
	{"runner-lost", CAUSE_NODE},
	{"process-unknown", CAUSE_NODE},
	{"step-unknown", CAUSE_NODE},
	{"program-missing", CAUSE_NODE},
	{"foreign-running", CAUSE_NODE},
	{"foreign-unit", CAUSE_NODE},
	{"unit-missing", CAUSE_NODE},
	{"unit-busy", CAUSE_NODE},
	{"drop-in-failed", CAUSE_NODE},
	{"drop-in-ignored", CAUSE_NODE},
	{"systemd-silent", CAUSE_NODE},
	{"systemd-failed", CAUSE_NODE},
	{"systemd-garbled", CAUSE_NODE},
	{"source-import-failed", CAUSE_NODE},
	{"nix-misconfigured", CAUSE_NODE},
	{"nix-too-old", CAUSE_NODE},
	{"status-failed", CAUSE_NODE},
	{"secret-unreadable", CAUSE_NODE},
	{"foreign-directory", CAUSE_NODE},
	/* clang-format on */
};

const char *cause_class_name(enum cause_class class)
{
	static const char *const names[] = {
#define X(name, text) [CAUSE_##name] = (text),
		CAUSE_CLASSES(X)
#undef X
	};

	return names[class];
}

static enum cause_class of_code(enum blix_code code)
{
	static const enum cause_class classes[BLIX_CODE_COUNT] = {
		[BLIX_E_NOROOM] = CAUSE_RESOURCES, [BLIX_E_DISKFULL] = CAUSE_RESOURCES,
		[BLIX_E_NOMEM] = CAUSE_RESOURCES,  [BLIX_E_BUSY] = CAUSE_RESOURCES,
		[BLIX_E_START] = CAUSE_START,      [BLIX_E_NOTREADY] = CAUSE_START,
		[BLIX_E_IMAGE] = CAUSE_IMAGE,      [BLIX_E_CORRUPT] = CAUSE_NODE,
		[BLIX_E_IO] = CAUSE_NODE,          [BLIX_E_INTERNAL] = CAUSE_NODE,
		[BLIX_E_DENIED] = CAUSE_NODE,      [BLIX_E_EXISTS] = CAUSE_NODE,
	};

	return (unsigned)code < BLIX_CODE_COUNT ? classes[code] : CAUSE_NONE;
}

enum cause_class cause_of(const char *reason, enum blix_code code)
{
	for (size_t i = 0; i < array_size(causes); i++) {
		if (strcmp(causes[i].reason, reason) == 0)
			return causes[i].class;
	}
	return of_code(code);
}
