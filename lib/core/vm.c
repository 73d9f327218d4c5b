/* VMs: lifecycle table, ownership, and the checks of a spec that need no cluster. */
#include "core/vm.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "core/generation.h"

#include <assert.h>
#include <inttypes.h>

static const char *const phase_names[VM_PHASE_COUNT] = {
#define X(name, text) [VM_##name] = text,
	VM_PHASES(X)
#undef X
};

#define BIT(phase) (1u << VM_##phase)

/* The lifecycle. Deleting is reached from everywhere and left only by leaving the state. */
static const uint32_t phase_next[VM_PHASE_COUNT] = {
	[VM_PENDING] = BIT(RESOLVING) | BIT(SCHEDULED) | BIT(STOPPED) | BIT(FAILED) | BIT(DELETING),
	[VM_RESOLVING] = BIT(PENDING) | BIT(STOPPED) | BIT(FAILED) | BIT(DELETING),
	[VM_SCHEDULED] = BIT(BUILDING) | BIT(STARTING) | BIT(RUNNING) | BIT(STOPPING) |
                         BIT(PENDING) | BIT(FAILED) | BIT(UNKNOWN) | BIT(DELETING),
	[VM_BUILDING] = BIT(SCHEDULED) | BIT(STARTING) | BIT(RUNNING) | BIT(STOPPING) |
                        BIT(PENDING) | BIT(FAILED) | BIT(UNKNOWN) | BIT(DELETING),
	[VM_STARTING] = BIT(SCHEDULED) | BIT(RUNNING) | BIT(STOPPING) | BIT(PENDING) | BIT(FAILED) |
                        BIT(CRASHLOOP) | BIT(UNKNOWN) | BIT(DELETING),
	[VM_RUNNING] = BIT(SCHEDULED) | BIT(STARTING) | BIT(STOPPING) | BIT(STOPPED) |
                       BIT(PENDING) | BIT(FAILED) | BIT(CRASHLOOP) | BIT(UNKNOWN) | BIT(PAUSED) |
                       BIT(DELETING),
	[VM_PAUSED] = BIT(SCHEDULED) | BIT(RUNNING) | BIT(STOPPING) | BIT(STOPPED) | BIT(PENDING) |
                      BIT(FAILED) | BIT(CRASHLOOP) | BIT(UNKNOWN) | BIT(DELETING),
	[VM_STOPPING] = BIT(STOPPED) | BIT(PENDING) | BIT(FAILED) | BIT(UNKNOWN) | BIT(DELETING),
	[VM_STOPPED] = BIT(PENDING) | BIT(FAILED) | BIT(DELETING),
	[VM_FAILED] = BIT(PENDING) | BIT(STOPPED) | BIT(STOPPING) | BIT(DELETING),
	[VM_CRASHLOOP] = BIT(SCHEDULED) | BIT(BUILDING) | BIT(STARTING) | BIT(RUNNING) |
                         BIT(STOPPING) | BIT(PENDING) | BIT(FAILED) | BIT(UNKNOWN) | BIT(DELETING),
	[VM_UNKNOWN] = BIT(RUNNING) | BIT(STOPPING) | BIT(STOPPED) | BIT(PENDING) | BIT(FAILED) |
                       BIT(CRASHLOOP) | BIT(SCHEDULED) | BIT(DELETING),
	[VM_DELETING] = 0,
};

#define COMMITTED_PHASES                                                                           \
	(BIT(SCHEDULED) | BIT(BUILDING) | BIT(STARTING) | BIT(RUNNING) | BIT(STOPPING) |           \
	 BIT(PAUSED) | BIT(CRASHLOOP) | BIT(UNKNOWN))

static const char *const restart_names[VM_RESTART_COUNT] = {
#define X(name, text) [VM_RESTART_##name] = text,
	VM_RESTARTS(X)
#undef X
};

const char *vm_power_name(enum vm_power power)
{
	static const char *const names[VM_POWER_COUNT] = {"Running", "Stopped", "Paused"};

	assert((unsigned)power < VM_POWER_COUNT);
	return names[power];
}

const char *vm_restart_name(enum vm_restart restart)
{
	assert((unsigned)restart < VM_RESTART_COUNT);
	return restart_names[restart];
}

int vm_restart_parse(const char *text, enum vm_restart *ret, struct blix_error *err)
{
	for (unsigned i = 0; i < VM_RESTART_COUNT; i++) {
		if (strcmp(restart_names[i], text) == 0) {
			*ret = (enum vm_restart)i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_INVALID,
	                 "restart policy '%.64s' is none of always, on-failure and never", text);
}

bool vm_restarts(const struct vm_spec *spec, bool clean)
{
	return spec->restart == VM_RESTART_ALWAYS ||
	       (spec->restart == VM_RESTART_ON_FAILURE && !clean);
}

const char *vm_phase_name(enum vm_phase phase)
{
	assert((unsigned)phase < VM_PHASE_COUNT);
	return phase_names[phase];
}

bool vm_may_move(enum vm_phase from, enum vm_phase to)
{
	assert((unsigned)from < VM_PHASE_COUNT);
	assert((unsigned)to < VM_PHASE_COUNT);
	return (phase_next[from] & (1u << to)) != 0;
}

void vm_move(struct vm *vm, enum vm_phase to, uint64_t clock_ms)
{
	if (vm->phase == to)
		return;
	assert(vm_may_move(vm->phase, to));
	vm->phase = to;
	vm->phase_ms = clock_ms;
}

bool vm_is_committed(const struct vm *vm)
{
	/* A VM that is being deleted keeps its share until its node confirmed that it is gone. */
	return vm->node != 0 &&
	       ((COMMITTED_PHASES & (1u << vm->phase)) != 0 ||
	        (vm->phase == VM_DELETING && vm->ending && vm_held_by(vm, vm->node)));
}

struct vm_held vm_commits(const struct vm *vm)
{
	struct vm_held held = {vm->resolved.cpus,
	                       vm->resolved.memory_bytes +
	                               vm_overhead_bytes(vm->resolved.hypervisor)};

	if (held.cpus < vm->held.cpus)
		held.cpus = vm->held.cpus;
	if (held.bytes < vm->held.bytes)
		held.bytes = vm->held.bytes;
	return held;
}

bool vm_is_pinned(const struct vm *vm)
{
	if (vm->adopt != 0 && vm->started_ms == 0) /* it may run there, under its old keeper */
		return true;
	return vm->resolved_set && (vm->resolved.n_volumes > 0 || vm->resolved.n_shares > 0) &&
	       vm->node != 0 && vm_held_by(vm, vm->node);
}

static bool id_find(const uint64_t *ids, uint32_t n, uint64_t id, uint32_t *ret)
{
	for (uint32_t i = 0; i < n; i++) {
		if (ids[i] == id) {
			*ret = i;
			return true;
		}
	}
	return false;
}

bool vm_held_by(const struct vm *vm, uint64_t node)
{
	uint32_t i;

	return id_find(vm->holders, vm->n_holders, node, &i);
}

void vm_hold(struct vm *vm, uint64_t node)
{
	if (vm_held_by(vm, node))
		return;
	assert(vm->n_holders < VM_HOLDERS_MAX);
	vm->holders[vm->n_holders++] = node;
}

void vm_release(struct vm *vm, uint64_t node)
{
	uint32_t i;

	if (!id_find(vm->holders, vm->n_holders, node, &i))
		return;
	vm->n_holders--;
	for (; i < vm->n_holders; i++)
		vm->holders[i] = vm->holders[i + 1];
	vm->holders[vm->n_holders] = 0;
}

uint64_t vm_overhead_bytes(const char *hypervisor)
{
	static const struct {
		const char *name;
		uint64_t mib;
	} overheads[] = {{"qemu", 64}, {"cloud-hypervisor", 32}, {"firecracker", 8}};

	for (size_t i = 0; i < array_size(overheads); i++) {
		if (strcmp(overheads[i].name, hypervisor) == 0)
			return overheads[i].mib << 20;
	}
	return 32ULL << 20;
}

void vm_spec_init(struct vm_spec *spec)
{
	memset(spec, 0, sizeof(*spec));
	spec->flake = xstrdup("");
	spec->attr = xstrdup("");
	spec->hypervisor = xstrdup("");
	spec->ready = xstrdup("");
	spec->node = xstrdup("");
}

void vm_spec_done(struct vm_spec *spec)
{
	free(spec->flake);
	free(spec->attr);
	free(spec->hypervisor);
	free(spec->ready);
	free(spec->node);
	labels_done(&spec->labels);
	secrets_done(&spec->secrets);
	memset(spec, 0, sizeof(*spec));
}

void vm_spec_copy(struct vm_spec *to, const struct vm_spec *from)
{
	*to = *from;
	to->flake = xstrdup(from->flake);
	to->attr = xstrdup(from->attr);
	to->hypervisor = xstrdup(from->hypervisor);
	to->ready = xstrdup(from->ready);
	to->node = xstrdup(from->node);
	to->labels = (struct labels){0};
	for (size_t i = 0; i < from->labels.n; i++)
		(void)labels_set(&to->labels, from->labels.items[i].key,
		                 from->labels.items[i].value, NULL);
	secrets_copy(&to->secrets, &from->secrets);
}

void vm_resolved_done(struct vm_resolved *resolved)
{
	free(resolved->hypervisor);
	free(resolved->out_path);
	free(resolved->base_url);
	memset(resolved, 0, sizeof(*resolved));
}

void vm_resolved_copy(struct vm_resolved *to, const struct vm_resolved *from)
{
	*to = *from;
	to->hypervisor = xstrdup(from->hypervisor != NULL ? from->hypervisor : "");
	to->out_path = xstrdup(from->out_path != NULL ? from->out_path : "");
	to->base_url = xstrdup(from->base_url != NULL ? from->base_url : "");
}

struct vm *vm_new(void)
{
	struct vm *vm = xcalloc(1, sizeof(*vm));

	vm->refs = 1;
	vm->exit_code = -1;
	vm_spec_init(&vm->spec);
	vm_resolved_copy(&vm->resolved, &(const struct vm_resolved){0});
	vm_resolved_copy(&vm->before.resolved, &(const struct vm_resolved){0});
	vm_update_init(&vm->update);
	vm->reason = xstrdup("");
	vm->message = xstrdup("");
	vm->runner = xstrdup("");
	vm->operation_verb = xstrdup("");
	return vm;
}

struct vm *vm_ref(struct vm *vm)
{
	vm->refs++;
	return vm;
}

void vm_unref(struct vm *vm)
{
	if (vm == NULL || --vm->refs > 0)
		return;
	vm_spec_done(&vm->spec);
	vm_resolved_done(&vm->resolved);
	vm_resolved_done(&vm->before.resolved);
	generations_done(vm);
	vm_update_done(&vm->update);
	free(vm->reason);
	free(vm->message);
	free(vm->runner);
	free(vm->operation_verb);
	free(vm);
}

struct vm *vm_own(struct vm **slot)
{
	struct vm *old = *slot, *copy;

	if (old->refs == 1)
		return old;
	copy = xcalloc(1, sizeof(*copy));
	*copy = *old;
	copy->refs = 1;
	vm_spec_copy(&copy->spec, &old->spec);
	vm_resolved_copy(&copy->resolved, &old->resolved);
	vm_resolved_copy(&copy->before.resolved, &old->before.resolved);
	copy->generations = NULL;
	copy->n_generations = 0;
	generations_copy(copy, old);
	vm_update_copy(&copy->update, &old->update);
	copy->reason = xstrdup(old->reason);
	copy->message = xstrdup(old->message);
	copy->runner = xstrdup(old->runner);
	copy->operation_verb = xstrdup(old->operation_verb);
	vm_unref(old);
	*slot = copy;
	return copy;
}

static bool flake_scheme_ok(const char *flake)
{
	static const char *const schemes[] = {"path:/",     "github:",      "gitlab:",
	                                      "sourcehut:", "git+https://", "git+ssh://",
	                                      "https://",   "git+file:///"};

	for (size_t i = 0; i < array_size(schemes); i++) {
		if (strncmp(flake, schemes[i], strlen(schemes[i])) == 0 &&
		    flake[strlen(schemes[i])] != '\0')
			return true;
	}
	return false;
}

int vm_flake_check(const char *flake, struct blix_error *err)
{
	size_t n = strnlen(flake, LIMIT_FLAKE + 1);

	if (n == 0)
		return blix_fail(err, BLIX_E_INVALID, "flake is empty");
	if (n > LIMIT_FLAKE)
		return blix_fail(err, BLIX_E_INVALID, "flake is longer than %d bytes", LIMIT_FLAKE);
	/* The URL characters of RFC 3986 without '#', quotes and brackets: what is left means
	 * nothing to a shell, to Nix strings, or to a terminal. */
	for (size_t i = 0; i < n; i++) {
		char c = flake[i];
		bool plain =
			(c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		if (!plain && strchr("-._~:/?@&=+,%", c) == NULL)
			return blix_fail(err, BLIX_E_INVALID,
			                 "flake has the character 0x%02x at offset %zu, which no "
			                 "flake URL needs",
			                 (unsigned)(unsigned char)c, i);
	}
	if (!flake_scheme_ok(flake)) {
		(void)blix_fail(err, BLIX_E_INVALID, "flake '%s' is of no accepted kind", flake);
		blix_hint(err, "accepted: github:, gitlab:, sourcehut:, git+https:, git+ssh:, "
		               "git+file:, https:, path:/absolute");
		return -(int)BLIX_E_INVALID;
	}
	if (strstr(flake, "/../") != NULL || strstr(flake, "dir=..") != NULL ||
	    strstr(flake, "dir=/") != NULL)
		return blix_fail(err, BLIX_E_INVALID, "flake '%s' leaves its own tree", flake);
	return 0;
}

static int attr_check(const char *attr, struct blix_error *err)
{
	size_t n = strnlen(attr, LIMIT_ATTR + 1);

	if (n == 0 || n > LIMIT_ATTR)
		return blix_fail(err, BLIX_E_INVALID, "attribute must have 1 to %d characters",
		                 LIMIT_ATTR);
	for (size_t i = 0; i < n; i++) {
		char c = attr[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';

		if (!letter && (i == 0 || !((c >= '0' && c <= '9') || c == '-')))
			return blix_fail(err, BLIX_E_INVALID,
			                 "attribute '%s' is not valid: use letters, digits, '-' "
			                 "and '_'",
			                 attr);
	}
	return 0;
}

static int ready_check(const char *ready, struct blix_error *err)
{
	if (ready[0] == '\0')
		return 0;
	if (strcmp(ready, "agent") == 0)
		return 0;
	if (strncmp(ready, "console:", 8) != 0 || ready[8] == '\0')
		return blix_fail(err, BLIX_E_INVALID,
		                 "ready '%.64s' is neither agent nor console:TEXT", ready);
	if (strnlen(ready, LIMIT_READY + 1) > LIMIT_READY)
		return blix_fail(err, BLIX_E_INVALID, "ready is longer than %d bytes", LIMIT_READY);
	for (const char *p = ready; *p != '\0'; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return blix_fail(err, BLIX_E_INVALID, "ready has a control character");
	}
	return 0;
}

static int hypervisor_check(const char *hypervisor, struct blix_error *err)
{
	static const char *const known[] = {"",       "qemu",      "cloud-hypervisor",
	                                    "crosvm", "kvmtool",   "firecracker",
	                                    "alioth", "stratovirt"};

	for (size_t i = 0; i < array_size(known); i++) {
		if (strcmp(known[i], hypervisor) == 0)
			return 0;
	}
	(void)blix_fail(err, BLIX_E_INVALID, "unknown hypervisor '%.64s'", hypervisor);
	blix_hint(err, "known: qemu cloud-hypervisor firecracker crosvm kvmtool stratovirt alioth");
	return -(int)BLIX_E_INVALID;
}

static int resources_check(const struct vm_spec *spec, struct blix_error *err)
{
	if (spec->cpus > LIMIT_CPUS)
		return blix_fail(err, BLIX_E_INVALID, "cpus %" PRIu32 " is more than %d",
		                 spec->cpus, LIMIT_CPUS);
	if (spec->memory_bytes > LIMIT_MEMORY)
		return blix_fail(err, BLIX_E_INVALID, "memory is more than 16 TiB");
	if ((spec->memory_bytes & ((1u << 20) - 1)) != 0)
		return blix_fail(err, BLIX_E_INVALID, "memory must be a whole number of MiB");
	if (spec->memory_bytes == 2048ULL << 20) {
		/* microvm.nix: QEMU hangs with mem = 2048 exactly; its own module only warns. */
		(void)blix_fail(err, BLIX_E_INVALID, "memory of exactly 2048MiB makes QEMU hang");
		blix_hint(err, "use 2047MiB or 2049MiB");
		return -(int)BLIX_E_INVALID;
	}
	if (spec->plain &&
	    (spec->cpus != 0 || spec->memory_bytes != 0 || spec->hypervisor[0] != '\0'))
		return blix_fail(err, BLIX_E_INVALID,
		                 "cpus, memory and hypervisor cannot be set on a plain VM");
	return 0;
}

int vm_spec_check(const struct vm_spec *spec, struct blix_error *err)
{
	int rc;

	if ((rc = vm_flake_check(spec->flake, err)) < 0 || (rc = attr_check(spec->attr, err)) < 0 ||
	    (rc = hypervisor_check(spec->hypervisor, err)) < 0 ||
	    (rc = ready_check(spec->ready, err)) < 0 || (rc = resources_check(spec, err)) < 0)
		return rc;
	if (spec->plain && spec->secrets.n > 0) {
		(void)blix_fail(err, BLIX_E_INVALID, "a plain VM cannot have secrets");
		blix_hint(err, "they reach the guest through its agent, which --plain leaves out");
		return -(int)BLIX_E_INVALID;
	}
	if (spec->node[0] != '\0')
		return parse_name("node", spec->node, err);
	return 0;
}

void labels_done(struct labels *labels)
{
	for (size_t i = 0; i < labels->n; i++) {
		free(labels->items[i].key);
		free(labels->items[i].value);
	}
	free(labels->items);
	memset(labels, 0, sizeof(*labels));
}

static int label_check(const char *text, const char *what, bool may_be_empty,
                       struct blix_error *err)
{
	size_t n = strnlen(text, LIMIT_LABEL_VALUE + 1);

	if ((n == 0 && !may_be_empty) || n > LIMIT_LABEL_VALUE)
		return blix_fail(err, BLIX_E_INVALID, "label %s must have 1 to %d characters", what,
		                 LIMIT_LABEL_VALUE);
	for (size_t i = 0; i < n; i++) {
		char c = text[i];
		bool plain =
			(c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		if (!plain && (strchr("-._/", c) == NULL || (i == 0 && !may_be_empty)))
			return blix_fail(err, BLIX_E_INVALID,
			                 "label %s '%s' is not valid: use letters, digits and -._/",
			                 what, text);
	}
	return 0;
}

int labels_set(struct labels *labels, const char *key, const char *value, struct blix_error *err)
{
	size_t at = 0;
	int rc;

	if ((rc = label_check(key, "key", false, err)) < 0 ||
	    (rc = label_check(value, "value", true, err)) < 0)
		return rc;
	while (at < labels->n && strcmp(labels->items[at].key, key) < 0)
		at++;
	if (at < labels->n && strcmp(labels->items[at].key, key) == 0) {
		xreplace(&labels->items[at].value, value);
		return 0;
	}
	if (labels->n >= LIMIT_LABELS)
		return blix_fail(err, BLIX_E_INVALID, "more than %d labels", LIMIT_LABELS);
	labels->items = xreallocarray(labels->items, labels->n + 1, sizeof(*labels->items));
	memmove(labels->items + at + 1, labels->items + at,
	        (labels->n - at) * sizeof(*labels->items));
	labels->items[at] = (struct label){xstrdup(key), xstrdup(value)};
	labels->n++;
	return 0;
}

const char *labels_get(const struct labels *labels, const char *key)
{
	for (size_t i = 0; i < labels->n; i++) {
		if (strcmp(labels->items[i].key, key) == 0)
			return labels->items[i].value;
	}
	return NULL;
}

int labels_match(const struct labels *labels, const char *selector, bool *ret,
                 struct blix_error *err)
{
	const char *p = selector;
	bool match = true;

	while (*p != '\0') {
		size_t n = strcspn(p, ",");
		const char *equals = memchr(p, '=', n);
		cleanup(freep) char *key = NULL;
		const char *value;

		if (equals == NULL || equals == p)
			return blix_fail(err, BLIX_E_INVALID,
			                 "'%.64s' is not a selector like key=value,key=value",
			                 selector);
		key = xstrndup(p, (size_t)(equals - p));
		value = labels_get(labels, key);
		if (value == NULL || strlen(value) != n - (size_t)(equals + 1 - p) ||
		    strncmp(value, equals + 1, strlen(value)) != 0)
			match = false;
		p += n;
		if (*p == ',')
			p++;
	}
	*ret = match;
	return 0;
}
