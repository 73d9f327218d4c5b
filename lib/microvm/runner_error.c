/* Hypervisors have no error codes: what they print before they end is the interface. The table
 * holds what QEMU says (7.2 and later, read off the real program); a runner that says nothing known
 * has exited, or was killed. */
#include "microvm/runner_error.h"

#include "base/alloc.h"
#include "microvm/nix_error.h"
#include "microvm/text_rule.h"

#include <signal.h>
#include <stdio.h>

#define WORDS 1000 /* bytes of them in a message, which has a hint too */

static const struct text_rule rules[] = {
	{"Cannot allocate memory", "qemu", BLIX_E_NOMEM, "out-of-memory",
         "the node has less memory than the VM asks for: free some, or lower --memory"},
	{"Too many open files", "qemu", BLIX_E_BUSY, "out-of-fds",
         "raise LimitNOFILE of blixd on the node"},
	{"No space left on device", "qemu", BLIX_E_DISKFULL, "disk-full",
         "free space on the node: nix-collect-garbage, or old images in orphans/"},
	{"Failed to get \"write\" lock", NULL, BLIX_E_START, "disk-locked",
         "another process uses the image: end it, or give this VM an image of its own"},
	{"Could not open '", "No such file or directory", BLIX_E_START, "disk-missing",
         "the image is created by the runner unless autoCreate is off: make it, or turn it on"},
	{"could not open kernel file", NULL, BLIX_E_IMAGE, "image-missing",
         "the store path of the kernel is gone: it is built again at the next start"},
	{"Could not access KVM kernel module", NULL, BLIX_E_START, "no-kvm",
         "load kvm_intel or kvm_amd on the node, or use a runner with microvm.cpu set (TCG)"},
	{"failed to initialize kvm", NULL, BLIX_E_START, "no-kvm",
         "load kvm_intel or kvm_amd on the node, or use a runner with microvm.cpu set (TCG)"},
	{"failed to set MSR", NULL, BLIX_E_START, "no-kvm",
         "this host's KVM cannot run '-cpu host': use a runner with microvm.cpu set (TCG)"},
	{"could not configure /dev/net/tun", NULL, BLIX_E_START, "tap-failed",
         "the tap is in use or was not made: see 'ip link' on the node"},
	{"Could not set up host forwarding rule", NULL, BLIX_E_START, "port-taken",
         "another process has that port of the node: forward another one"},
	{"Failed to bind socket", "qemu", BLIX_E_START, "socket-failed",
         "the runner cannot make its control socket: see the line above"},
	{"unsupported machine type", NULL, BLIX_E_START, "runner-bad",
         "the runner was made for another version of its hypervisor"},
	{": exec format error", NULL, BLIX_E_START, "runner-bad",
         "the runner was built for another kind of machine"},
};

/* No words that are known: the exit code says a little. 126 and 127 as shells use them. */
static const struct {
	int32_t exit_code;
	const char *reason, *hint;
} codes[] = {
	{126, "runner-bad", "bin/microvm-run of the runner cannot be executed"},
	{127, "runner-missing", "bin/microvm-run of the runner, or a program it needs, is missing"},
	{128 + SIGKILL, "runner-killed",
         "somebody killed it: the kernel does when memory is out (see dmesg)"},
	{128 + SIGABRT, "runner-crashed", "the hypervisor gave up on itself: see its last words"},
	{128 + SIGSEGV, "runner-crashed", "the hypervisor crashed: see its last words"},
};

static void explain_code(int32_t exit_code, struct blix_error *err)
{
	blix_reason(err, "runner-exited");
	for (size_t i = 0; i < array_size(codes); i++) {
		if (codes[i].exit_code != exit_code)
			continue;
		blix_reason(err, codes[i].reason);
		blix_hint(err, "%s", codes[i].hint);
	}
}

void runner_error_explain(const char *console, int32_t exit_code, struct blix_error *err)
{
	size_t n = strlen(console);
	cleanup(freep) char *tail = nix_error_tail(n > WORDS ? console + n - WORDS : console);
	const struct text_rule *rule = text_rule_find(rules, array_size(rules), tail);
	char how[40];

	if (exit_code > 128)
		(void)snprintf(how, sizeof(how), "killed by signal %d", exit_code - 128);
	else
		(void)snprintf(how, sizeof(how), "exit code %d", exit_code);
	if (tail[0] != '\0')
		(void)blix_fail(err, rule != NULL ? rule->code : BLIX_E_START,
		                "the runner ended (%s); its last words:\n%s", how, tail);
	else
		(void)blix_fail(err, BLIX_E_START, "the runner ended without a word (%s)", how);
	if (rule == NULL) {
		explain_code(exit_code, err);
		return;
	}
	blix_reason(err, rule->reason);
	blix_hint(err, "%s", rule->hint);
}
