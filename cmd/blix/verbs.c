/* The one table of verbs: dispatch, help, completion and the check of the man pages read it. */
#include "cli.h"

#include "base/parse.h"

#include <string.h>

const struct option_row option_rows[OPTION_COUNT] = {
#define X(key, name_, letter_, value_, text_)                                                      \
	[OPTION_##key] = {.name = name_, .letter = letter_, .value = value_, .text = text_},
	CLI_OPTIONS(X)
#undef X
};

#define MANY        NAMES_MAX
#define WITH_CHOICE (WITH(SELECTOR) | WITH(ALL))

const struct verb verbs[] = {
	{"vm", "create", NULL, "create VMs and wait until they run", "NAME... --flake REF[#ATTR]",
         "blix vm create web --flake github:me/vms#web --memory 1GiB",
         WITH(FLAKE) | WITH(CPUS) | WITH(MEMORY) | WITH(HYPERVISOR) | WITH(LABEL) | WITH(READY) |
                 WITH(NODE) | WITH(RESTART) | WITH(STOPPED) | WITH(PLAIN) | WITH(SECRET) |
                 WITH(DRY_RUN) | WITH(NO_WAIT) | WITH_ONCE | WITH_COMMON,
         1, MANY, OPERAND_NEW_VM, PATIENCE_WAIT, vm_create_run},
	{"vm", "list", "ls", "list VMs", "", "blix vm list -l tier=web",
         WITH(SELECTOR) | WITH(WATCH) | WITH(CONSISTENCY) | WITH_TABLE | WITH_COMMON, 0, 0,
         OPERAND_NONE, PATIENCE_CALL, vm_list_run},
	{"vm", "show", NULL, "show VMs in full", "NAME...", "blix vm show web -o json",
         WITH(CONSISTENCY) | WITH_COMMON, 1, MANY, OPERAND_VM, PATIENCE_CALL, vm_show_run},
	{"vm", "start", NULL, "start VMs and wait until they run", "NAME...", "blix vm start web",
         WITH_CHOICE | WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON, 0, MANY, OPERAND_VM, PATIENCE_WAIT,
         vm_start_run},
	{"vm", "stop", NULL, "shut VMs down and wait until they have stopped", "NAME...",
         "blix vm stop web --grace 2m",
         WITH(GRACE) | WITH(FORCE) | WITH_CHOICE | WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON, 0, MANY,
         OPERAND_VM, PATIENCE_WAIT, vm_stop_run},
	{"vm", "restart", NULL, "stop and start VMs, and wait until they run", "NAME...",
         "blix vm restart -l tier=web",
         WITH(GRACE) | WITH(FORCE) | WITH_CHOICE | WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON, 0, MANY,
         OPERAND_VM, PATIENCE_WAIT, vm_restart_run},
	{"vm", "pause", NULL, "hold the CPUs of VMs, and wait until they are paused", "NAME...",
         "blix vm pause web", WITH_CHOICE | WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON, 0, MANY,
         OPERAND_VM, PATIENCE_WAIT, vm_pause_run},
	{"vm", "resume", NULL, "let paused VMs go on, and wait until they run", "NAME...",
         "blix vm resume web", WITH_CHOICE | WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON, 0, MANY,
         OPERAND_VM, PATIENCE_WAIT, vm_resume_run},
	{"vm", "delete", "rm", "stop and delete VMs, and wait until they are gone", "NAME...",
         "blix vm delete web",
         WITH(GRACE) | WITH(FORCE) | WITH(VOLUMES) | WITH_CHOICE | WITH(YES) | WITH(NO_WAIT) |
                 WITH_EDIT | WITH_COMMON,
         0, MANY, OPERAND_VM, PATIENCE_WAIT, vm_delete_run},
	{"vm", "adopt", NULL, "take over a microVM that is on a node already", "NAME --node N",
         "blix vm adopt web --node n1",
         WITH(NODE) | WITH(PLAIN) | WITH(NO_WAIT) | WITH_ONCE | WITH_COMMON, 1, 1, OPERAND_NEW_VM,
         PATIENCE_WAIT, vm_adopt_run},
	{"vm", "set", NULL, "change CPUs, memory, labels, restart policy or secrets of VMs",
         "NAME... [--cpus N] [--memory SIZE]", "blix vm set web --memory 2GiB",
         WITH(CPUS) | WITH(MEMORY) | WITH(LABEL) | WITH(RESTART) | WITH(SECRET) | WITH_CHOICE |
                 WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON,
         0, MANY, OPERAND_VM, PATIENCE_WAIT, vm_set_run},
	{"vm", "update", NULL, "lock and build VMs anew and boot that, where there is news",
         "NAME... [--flake REF[#ATTR]]", "blix vm update web --auto-rollback",
         WITH(FLAKE) | WITH(UPDATE_RESTART) | WITH(AUTO_ROLLBACK) | WITH(DEADLINE) | WITH(GRACE) |
                 WITH(FORCE) | WITH_CHOICE | WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON,
         0, MANY, OPERAND_VM, PATIENCE_WAIT, vm_update_run},
	{"vm", "history", NULL, "list the generations of a VM that are kept", "NAME",
         "blix vm history web", WITH(CONSISTENCY) | WITH_TABLE | WITH_COMMON, 1, 1, OPERAND_VM,
         PATIENCE_CALL, vm_history_run},
	{"vm", "rollback", NULL, "bring an older generation of a VM back", "NAME [GENERATION]",
         "blix vm rollback web 3",
         WITH(UPDATE_RESTART) | WITH(GRACE) | WITH(FORCE) | WITH(NO_WAIT) | WITH_EDIT | WITH_COMMON,
         1, 2, OPERAND_VM, PATIENCE_WAIT, vm_rollback_run},
	{"vm", "logs", NULL, "print the console of a VM", "NAME", "blix vm logs web -f --tail 20",
         WITH(FOLLOW) | WITH(TAIL) | WITH(ENDPOINT) | WITH(TIMEOUT) | WITH(QUIET) | WITH(HELP), 1,
         1, OPERAND_VM, PATIENCE_NONE, vm_logs_run},
	{"vm", "metrics", NULL, "what VMs use: CPU, memory, disk and network", "NAME...",
         "blix vm metrics web", WITH_TABLE | WITH_COMMON, 1, MANY, OPERAND_VM, PATIENCE_CALL,
         vm_metrics_run},
	{"vm", "console", NULL, "type at the console of a VM; Ctrl-] detaches", "NAME",
         "blix vm console web", WITH(ESCAPE) | WITH(ENDPOINT) | WITH(QUIET) | WITH(HELP), 1, 1,
         OPERAND_VM, PATIENCE_NONE, vm_console_run},
	{"vm", "exec", NULL, "run a command in a guest", "NAME -- COMMAND...",
         "blix vm exec web -- systemctl status nginx",
         WITH(INTERACTIVE) | WITH(TTY) | WITH(ENV) | WITH(ENDPOINT) | WITH(QUIET) | WITH(HELP), 1,
         1, OPERAND_VM_COMMAND, PATIENCE_NONE, vm_exec_run},
	{"vm", "ssh", NULL, "log in to a guest with ssh", "NAME [-- SSH-ARGUMENT...]",
         "blix vm ssh web -- -A uptime", WITH(ENDPOINT) | WITH(QUIET) | WITH(HELP), 1, 1,
         OPERAND_VM_SSH, PATIENCE_NONE, vm_ssh_run},
	{"vm", "cp", NULL, "copy files into a guest, or out of it", "SRC DST",
         "blix vm cp ./site web:/var/www", WITH(ENDPOINT) | WITH(QUIET) | WITH(HELP), 2, 2,
         OPERAND_COPY, PATIENCE_NONE, vm_cp_run},
	{"vm", "events", NULL, "what happened to VMs, or to one", "[NAME]", "blix vm events web -f",
         WITH(FOLLOW) | WITH(CONSISTENCY) | WITH_TABLE | WITH_COMMON, 0, 1, OPERAND_VM,
         PATIENCE_NONE, vm_events_run},
	{"vm", "why", NULL, "say why a VM is in its phase and where it fits", "NAME",
         "blix vm why web", WITH(CONSISTENCY) | WITH_COMMON, 1, 1, OPERAND_VM, PATIENCE_CALL,
         vm_why_run},
	{"", "run", NULL, "run a command in a fresh VM and delete it", "REF[#ATTR] -- COMMAND...",
         "blix run github:me/vms#test --copy ./suite:/suite -- /suite/run",
         WITH(NAME) | WITH(COPY) | WITH(COPY_OUT) | WITH(ENV) | WITH(SECRET) | WITH(KEEP) |
                 WITH(INTERACTIVE) | WITH(TTY) | WITH(CPUS) | WITH(MEMORY) | WITH(HYPERVISOR) |
                 WITH(LABEL) | WITH(NODE) | WITH(ENDPOINT) | WITH(TIMEOUT) | WITH(QUIET) |
                 WITH(HELP),
         1, 1, OPERAND_RUN, PATIENCE_WAIT, run_run},
	{"", "wait", NULL, "wait until a condition of a VM holds", "vm/NAME --for=CONDITION",
         "blix wait vm/web --for=ready --timeout 2m", WITH(FOR) | WITH_COMMON, 1, 1,
         OPERAND_CONDITION_VM, PATIENCE_WAIT, wait_run},
	{"node", "list", "ls", "list nodes", "", "blix node list",
         WITH(CONSISTENCY) | WITH_TABLE | WITH_COMMON, 0, 0, OPERAND_NONE, PATIENCE_CALL,
         node_list_run},
	{"node", "show", NULL, "show nodes in full", "NAME...", "blix node show n1",
         WITH(CONSISTENCY) | WITH_COMMON, 1, MANY, OPERAND_NODE, PATIENCE_CALL, node_show_run},
	{"node", "init", NULL, "make a cluster, with this node as its only member", "",
         "blix node init --name n1 --advertise 10.0.0.1:7443",
         WITH(NODE_NAME) | WITH(LISTEN) | WITH(ADVERTISE) | WITH(ZONE) | WITH_COMMON, 0, 0,
         OPERAND_NONE, PATIENCE_WAIT, node_init_run},
	{"node", "token", NULL, "print a token by which a node of this name may join, once", "NAME",
         "blix node token n2 --ttl 1h", WITH(TTL) | WITH_COMMON, 1, 1, OPERAND_NONE, PATIENCE_CALL,
         node_token_run},
	{"node", "join", NULL, "have the cluster of a token take this node in", "[HOST:PORT]",
         "blix node join 10.0.0.1:7443 --token-file -",
         WITH(TOKEN) | WITH(TOKEN_FILE) | WITH(LISTEN) | WITH(ADVERTISE) | WITH(ZONE) | WITH_COMMON,
         0, 1, OPERAND_NONE, PATIENCE_WAIT, node_join_run},
	{"node", "cordon", NULL, "place no new VMs on nodes", "NAME...", "blix node cordon n2",
         WITH_COMMON, 1, MANY, OPERAND_NODE, PATIENCE_CALL, node_cordon_run},
	{"node", "uncordon", NULL, "place VMs on nodes again", "NAME...", "blix node uncordon n2",
         WITH_COMMON, 1, MANY, OPERAND_NODE, PATIENCE_CALL, node_uncordon_run},
	{"node", "maintenance", NULL, "have a node get no VMs and no vote, or end that",
         "NAME on|off", "blix node maintenance n2 on", WITH_COMMON, 2, 2, OPERAND_NODE,
         PATIENCE_WAIT, node_maintenance_run},
	{"node", "promote", NULL, "have a server vote before others, and wait until it does",
         "NAME", "blix node promote n2", WITH(NO_WAIT) | WITH_COMMON, 1, 1, OPERAND_NODE,
         PATIENCE_WAIT, node_promote_run},
	{"node", "demote", NULL, "take the vote of a server, and wait until it has none", "NAME",
         "blix node demote n2", WITH(NO_WAIT) | WITH_COMMON, 1, 1, OPERAND_NODE, PATIENCE_WAIT,
         node_demote_run},
	{"node", "remove", NULL, "take a node out of the cluster for good, and wait for that",
         "NAME", "blix node remove n2", WITH(DEAD) | WITH(NO_WAIT) | WITH_COMMON, 1, 1,
         OPERAND_NODE, PATIENCE_WAIT, node_remove_run},
	{"node", "renew", NULL, "give this node a new certificate, without a restart", "",
         "blix node renew", WITH_COMMON, 0, 0, OPERAND_NONE, PATIENCE_CALL, node_renew_run},
	{"cluster", "transfer-leader", NULL, "have another server lead", "[NODE]",
         "blix cluster transfer-leader n2", WITH_COMMON, 0, 1, OPERAND_NODE, PATIENCE_CALL,
         cluster_transfer_run},
	{"cluster", "status", NULL, "show servers, leader and quorum", "", "blix cluster status",
         WITH_COMMON, 0, 0, OPERAND_NONE, PATIENCE_CALL, cluster_status_run},
	{"", "status", NULL, "cluster, nodes, VMs and problems on one screen", "", "blix status",
         WITH_COMMON, 0, 0, OPERAND_NONE, PATIENCE_CALL, status_run},
	{"", "doctor", NULL, "say what is wrong on this host, and what mends it", "", "blix doctor",
         WITH(CONFIG) | WITH(ENDPOINT) | WITH(OUTPUT) | WITH(HELP), 0, 0, OPERAND_NONE,
         PATIENCE_NONE, doctor_run},
	{"", "version", NULL, "print the versions of blix and blixd", "", "blix version",
         WITH_COMMON, 0, 0, OPERAND_NONE, PATIENCE_CALL, version_run},
	{"", "help", NULL, "explain a verb, exit-codes, config or output", "[TOPIC...]",
         "blix help vm create", WITH(ALL) | WITH(HELP), 0, 2, OPERAND_TOPIC, PATIENCE_CALL,
         help_run},
	{"", "completion", NULL, "print a completion script", "bash|zsh|fish",
         "blix completion bash > /etc/bash_completion.d/blix", WITH(HELP), 1, 1, OPERAND_SHELL,
         PATIENCE_CALL, completion_run},
};
const size_t n_verbs = array_size(verbs);

bool verb_is_noun(const char *word)
{
	for (size_t i = 0; i < n_verbs; i++) {
		if (word[0] != '\0' && strcmp(verbs[i].noun, word) == 0)
			return true;
	}
	return false;
}

static bool is_called(const struct verb *verb, const char *word)
{
	return strcmp(verb->verb, word) == 0 ||
	       (verb->alias != NULL && strcmp(verb->alias, word) == 0);
}

static void nearer(const char *candidate, const char *word, const char **near, unsigned *distance)
{
	unsigned d = parse_distance(candidate, word);

	if (candidate[0] == '\0' || d >= *distance)
		return;
	*near = candidate;
	*distance = d;
}

static void unknown_word(const char *noun, const char *word, struct blix_error *err)
{
	const char *near = NULL;
	unsigned distance = 3;

	for (size_t i = 0; i < n_verbs; i++) {
		if (noun[0] == '\0')
			nearer(verbs[i].noun, word, &near, &distance);
		if (strcmp(verbs[i].noun, noun) == 0)
			nearer(verbs[i].verb, word, &near, &distance);
	}
	(void)blix_fail(err, BLIX_E_INVALID, "unknown %s '%.64s'",
	                noun[0] == '\0' ? "command" : "verb", word);
	blix_reason(err, "unknown-verb");
	if (near != NULL)
		blix_hint(err, "did you mean 'blix %s%s%s'?", noun, noun[0] != '\0' ? " " : "",
		          near);
	else
		blix_hint(err, "'blix help%s%s' lists what there is", noun[0] != '\0' ? " " : "",
		          noun);
}

const struct verb *verb_find(char *const words[], size_t n, size_t *ret_words,
                             struct blix_error *err)
{
	bool noun = verb_is_noun(words[0]);

	if (noun && n < 2) {
		(void)blix_fail(err, BLIX_E_INVALID, "'%s' needs a verb", words[0]);
		blix_hint(err, "'blix help %s' lists them", words[0]);
		return NULL;
	}
	*ret_words = noun ? 2 : 1;
	for (size_t i = 0; i < n_verbs; i++) {
		if (strcmp(verbs[i].noun, noun ? words[0] : "") == 0 &&
		    is_called(&verbs[i], words[noun ? 1 : 0]))
			return &verbs[i];
	}
	unknown_word(noun ? words[0] : "", words[noun ? 1 : 0], err);
	return NULL;
}
