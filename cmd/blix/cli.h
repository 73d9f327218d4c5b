/* What the parts of the blix program share: the verb table, the options, and one struct cli per
 * run.
 *
 * main.c finds the verb and its options, opens nothing; a verb asks for the client by cli_client().
 * A verb returns the exit code of the program. Data goes to stdout, everything else to stderr.
 */
#ifndef BLIX_CMD_CLI_H
#define BLIX_CMD_CLI_H

#include "base/alloc.h"
#include "client/client.h"
#include "core/vm.h"

#include <stdio.h>

/* key, long name, letter or 0, value or NULL, text */
#define CLI_OPTIONS(X)                                                                             \
	X(FLAKE, "flake", 0, "REF[#ATTR]",                                                         \
	  "flake of the VM; ATTR of nixosConfigurations, or NAME")                                 \
	X(CPUS, "cpus", 0, "N", "virtual CPUs (else as the flake says)")                           \
	X(MEMORY, "memory", 0, "SIZE", "memory, such as 512MiB (else as the flake says)")          \
	X(HYPERVISOR, "hypervisor", 0, "H", "hypervisor (else as the flake says)")                 \
	X(LABEL, "label", 0, "K=V", "label; may be given several times")                           \
	X(READY, "ready", 0, "agent|console:TEXT",                                                 \
	  "ready once the agent says so or TEXT is on the console; wait for it")                   \
	X(NODE, "node", 0, "N", "the only node it may run on")                                     \
	X(RESTART, "restart", 0, "P", "always, on-failure (default) or never: after it ended")     \
	X(STOPPED, "stopped", 0, NULL, "create it, do not start it")                               \
	X(PLAIN, "plain", 0, NULL, "pass the flake untouched: nothing of it is overridden")        \
	X(DRY_RUN, "dry-run", 0, NULL, "let the server check and place it, change nothing")        \
	X(NO_WAIT, "no-wait", 0, NULL, "do not wait: print the operation id")                      \
	X(TIMEOUT, "timeout", 0, "D", "longest wait, such as 90s or 10m; 0: no limit")             \
	X(GRACE, "grace", 0, "D", "time a guest gets to shut down (default 30s)")                  \
	X(UPDATE_RESTART, "restart", 0, "WHEN", "now, if-needed (default) or no")                  \
	X(AUTO_ROLLBACK, "auto-rollback", 0, NULL,                                                 \
	  "bring the old system back when the new one does not become ready")                      \
	X(DEADLINE, "deadline", 0, "D", "time the new system gets to become ready (default 2m)")   \
	X(FORCE, "force", 0, NULL, "do not ask the guest: end it at once")                         \
	X(VOLUMES, "volumes", 0, NULL, "delete their volume images too: that data is gone then")   \
	X(YES, "yes", 'y', NULL, "delete what --all or a selector names without asking")           \
	X(SELECTOR, "selector", 'l', "K=V,...", "the VMs that have these labels")                  \
	X(ALL, "all", 0, NULL, "every VM of the cluster")                                          \
	X(OUTPUT, "output", 'o', "FORMAT", "table, wide, json, jsonl or name")                     \
	X(COLUMNS, "columns", 0, "A,B", "columns of the table, in this order")                     \
	X(NO_HEADERS, "no-headers", 0, NULL, "no header line")                                     \
	X(QUIET, "quiet", 'q', NULL, "no progress and no notes (list: names only)")                \
	X(WATCH, "watch", 'w', NULL, "go on: a line for each VM that changes")                     \
	X(FOLLOW, "follow", 'f', NULL, "go on as more comes")                                      \
	X(TAIL, "tail", 0, "N", "only the last N lines")                                           \
	X(FOR, "for", 0, "CONDITION", "running, ready, paused, stopped, updated or deleted")       \
	X(CONFIG, "config", 0, "FILE", "configuration of blixd (default /etc/blix/blix.json)")     \
	X(NAME, "name", 0, "N", "name of the VM (else a new one)")                                 \
	X(COPY, "copy", 0, "SRC:DST", "copy it into the guest before; may be given several times") \
	X(COPY_OUT, "copy-out", 0, "SRC:DST", "copy it out of the guest after; may be repeated")   \
	X(KEEP, "keep", 0, "WHEN", "never (default), on-failure or always: the VM, afterwards")    \
	X(INTERACTIVE, "interactive", 'i', NULL, "give the command standard input")                \
	X(TTY, "tty", 't', NULL, "give the command a terminal")                                    \
	X(ESCAPE, "escape", 0, "KEY",                                                              \
	  "the key that detaches: ctrl-] (default), ctrl-a .. or none")                            \
	X(ENV, "env", 0, "K[=V]", "variable of the command, else its own value here")              \
	X(SECRET, "secret", 0, "NAME=FILE", "secret of the VM; '-': standard input; repeatable")   \
	X(CONSISTENCY, "consistency", 0, "HOW",                                                    \
	  "local (default): what the server knows; linearizable: all that was acknowledged")       \
	X(IF_VERSION, "if-version", 0, "N",                                                        \
	  "only if its metadata.version is N: nobody else has changed it")                         \
	X(IDEMPOTENCY_KEY, "idempotency-key", 0, "KEY",                                            \
	  "do it once however often it is asked with this key")                                    \
	X(NODE_NAME, "name", 0, "N", "name of this node (else the host's)")                        \
	X(LISTEN, "listen", 0, "HOST:PORT", "where it listens (default :7443, and the next port)") \
	X(ADVERTISE, "advertise", 0, "HOST:PORT", "where others reach it (else where it listens)") \
	X(ZONE, "zone", 0, "Z", "what fails together with it, such as a rack")                     \
	X(TTL, "ttl", 0, "D", "how long the token may be used (default 15m)")                      \
	X(TOKEN, "token", 0, "T", "the token; others may see it: --token-file keeps it from them") \
	X(TOKEN_FILE, "token-file", 0, "FILE", "file that holds the token; '-': standard input")   \
	X(DEAD, "dead", 0, NULL, "its host is gone for good: what it ran may start elsewhere")     \
	X(ENDPOINT, "endpoint", 0, "SOCKET",                                                       \
	  "unix:PATH or https://HOST:PORT; several with commas")                                   \
	X(HELP, "help", 'h', NULL, "show this help")

enum option_index {
#define X(key, name, letter, value, text) OPTION_##key,
	CLI_OPTIONS(X)
#undef X
		OPTION_COUNT
};

struct option_row {
	const char *name;
	char letter;
	const char *value;
	const char *text;
};
extern const struct option_row option_rows[OPTION_COUNT];

#define WITH(key)   (1ULL << OPTION_##key)
#define WITH_COMMON (WITH(OUTPUT) | WITH(QUIET) | WITH(ENDPOINT) | WITH(TIMEOUT) | WITH(HELP))
#define WITH_ONCE   WITH(IDEMPOTENCY_KEY)
#define WITH_EDIT   (WITH(IF_VERSION) | WITH_ONCE)
#define WITH_TABLE  (WITH(COLUMNS) | WITH(NO_HEADERS))

enum output { OUTPUT_TABLE, OUTPUT_WIDE, OUTPUT_JSON, OUTPUT_JSONL, OUTPUT_NAME };

enum operand {
	OPERAND_NONE,
	OPERAND_VM,
	OPERAND_VM_COMMAND, /* a command follows behind "--" */
	OPERAND_VM_SSH,     /* what follows behind "--" is ssh's */
	OPERAND_COPY,
	OPERAND_RUN, /* a flake, and a command behind "--" */
	OPERAND_NEW_VM,
	OPERAND_NODE,
	OPERAND_CONDITION_VM,
	OPERAND_TOPIC,
	OPERAND_SHELL
};

/* How long a verb may take when nothing is said. */
enum patience { PATIENCE_CALL, PATIENCE_WAIT, PATIENCE_NONE };

struct cli;

struct verb {
	const char *noun; /* "" for a word of its own */
	const char *verb;
	const char *alias; /* NULL: none */
	const char *summary;
	const char *arguments; /* as in the usage line */
	const char *example;   /* a whole command */
	uint64_t options;      /* WITH() of each */
	unsigned names_min, names_max;
	enum operand operand;
	enum patience patience;
	int (*run)(struct cli *cli);
};
extern const struct verb verbs[];
extern const size_t n_verbs;

#define NAMES_MAX 4096 /* more are named by a selector */

#define COPIES_MAX 64  /* more is a directory */
#define ENV_MAX    256 /* more is a file to copy */

/* What --secret names, as read. */
struct secret_value {
	char *name;
	const char *file;
	struct buf bytes;
};

struct arguments {
	const char *names[NAMES_MAX];
	size_t n_names;
	char *env[ENV_MAX];
	size_t n_env;
	struct {
		const char *text;
		bool in;
	} copies[COPIES_MAX];
	size_t n_copies;
	char **command; /* behind "--" */
	size_t n_command;
	const char *values[OPTION_COUNT]; /* NULL: not given; "" for flags */
	struct labels labels;
	struct secrets secrets;                       /* names, sorted */
	struct secret_value values_of[LIMIT_SECRETS]; /* in the order given */
	enum vm_restart restart;
	uint32_t cpus;
	uint64_t memory_bytes, grace_ms, deadline_ms, tail, if_version;
};

struct settings {
	char *endpoints;
	char *ca, *cert, *key; /* files for https; NULL: not set */
	enum output output;
	uint64_t timeout_ms; /* CLIENT_TIMEOUT_NONE: no limit */
};

struct cli {
	const struct verb *verb;
	struct arguments arguments;
	struct settings settings;
	struct client *client;
	bool out_is_terminal, talk_is_terminal, colour;
	uint64_t started_ms;  /* boot clock */
	bool said_stale;      /* that an answer was */
	const char *watched;  /* VM being waited for, NULL: none */
	char phase[24];       /* and its phase */
	bool line_is_open;    /* a progress line stands on the terminal */
	uint64_t line_second; /* and the elapsed seconds that it shows */
};

static inline bool given(const struct cli *cli, enum option_index option)
{
	return cli->arguments.values[option] != NULL;
}

/* verbs.c */
/* The verb named by the first one or two words; *ret_words says how many it took. NULL: none, and
 * err says which word is wrong. */
const struct verb *verb_find(char *const words[], size_t n, size_t *ret_words,
                             struct blix_error *err);
bool verb_is_noun(const char *word);

/* options.c */
void arguments_done(struct arguments *arguments);
/* Takes noun and verb out of argv, wherever options stand. */
int arguments_parse(struct cli *cli, int argc, char **argv, struct blix_error *err);

/* settings.c */
int settings_load(struct settings *settings, const struct arguments *arguments,
                  const struct verb *verb, struct blix_error *err);
void settings_done(struct settings *settings);

/* talk.c: stderr */
/* Prints the error (or its JSON) and returns its exit code. name may be NULL. */
int talk_error(struct cli *cli, const char *kind, const char *name, const struct blix_error *err);
void talk_note(struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The progress of a VM that is waited for. */
void talk_phase(struct cli *cli, const char *name, const char *phase);
void talk_tick(struct cli *cli);
void talk_close(struct cli *cli);
/* Writes text with control characters, but for newline and tab, as \xNN. */
void print_clean(FILE *file, const char *text, size_t n);
char *clean_text(const char *text);
/* The same of a text that is given away. */
char *clean_take(char *text);

/* session.c: the client of this run, and getters over its answers */
/* Opens the client once; NULL on failure. */
struct client *cli_client(struct cli *cli, struct blix_error *err);
/* From here on Ctrl-C ends the call in progress, not the program. */
void cli_catch_interrupt(void);
/* The same for SIGTERM and SIGHUP too. */
void cli_catch_end(void);
bool cli_interrupted(void);
int cli_interrupted_by(void); /* the signal's number, 0 none */
void cli_forget_interrupt(void);
/* GET of a formatted path. */
int cli_get(struct cli *cli, cJSON **ret, struct blix_error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* A mutation of the VM `name`, by --idempotency-key if there is one: that key holds for one VM. */
int cli_mutate(struct cli *cli, const char *method, const char *name, const char *path,
               const cJSON *body, cJSON **ret, struct blix_error *err);
/* The value at "a.b.c", NULL when absent. */
const cJSON *at(const cJSON *object, const char *path);
const char *text_at(const cJSON *object, const char *path); /* "" when absent */
uint64_t u64_at(const cJSON *object, const char *path);     /* 0 when absent */
bool true_at(const cJSON *object, const char *path);
/* Milliseconds since 1970 of an RFC 3339 UTC stamp, 0 when it is none. */
uint64_t stamp_ms(const char *text);
/* Flushes stdout: 0, or 1 with a message when it could not be written. */
int cli_flush(struct cli *cli);

/* watch.c */
enum condition {
	CONDITION_RUNNING,
	CONDITION_READY,
	CONDITION_PAUSED,
	CONDITION_STOPPED,
	CONDITION_UPDATED, /* the update that the object tells of is over, and well */
	CONDITION_DELETED,
	CONDITION_COUNT,
	CONDITION_NONE = CONDITION_COUNT /* there is nothing to wait for */
};
const char *condition_name(enum condition condition);
int condition_find(const char *name, enum condition *ret, struct blix_error *err);
struct watch {
	const char *name;
	enum condition condition;
	bool begun;    /* this command set it going: an end before the condition is a failure */
	bool gives_up; /* what does not come in time is not waited for again, but undone */
	cJSON *object; /* the last one seen; NULL: not yet, or gone */
	char operation[24];  /* UPDATED: of the update that is waited for */
	uint64_t sent_epoch; /* the placement that was sent its secrets */
};
/* Waits until the condition holds; 0, or why it cannot. */
int watch_run(struct cli *cli, struct watch *watch, struct blix_error *err);

/* secret.c */
int secret_take(struct arguments *arguments, const char *text, struct blix_error *err);
/* Reads what --secret names. */
int secrets_read(struct cli *cli, struct blix_error *err);
/* To the node of the VM, which is an object of the API. */
int secrets_send(struct cli *cli, const cJSON *vm, struct blix_error *err);
/* While a VM is waited for: sends them as soon as it has a node, and again when it has another. */
int secrets_follow(struct cli *cli, struct watch *watch, struct blix_error *err);
void secrets_free(struct arguments *arguments);

/* node_wait.c: asks for the node about ten times a second until done() says so of it, or of NULL
 * when there is no such node. While it is `patient`, a daemon that does not answer is waited for,
 * too. *ret, the last one seen, is the caller's. */
int node_wait(struct cli *cli, const char *name, bool (*done)(const cJSON *node), bool patient,
              cJSON **ret, struct blix_error *err);
bool node_is_ready(const cJSON *node);

/* action.c: a mutation of several VMs */
struct action {
	const char *method;
	const char *path; /* after /v1/vms/NAME, with its query */
	const cJSON *body;
	enum condition condition;
	bool as_wanted; /* wait for Running where the answer says that it is to run */
};
/* Sends it for each VM that the command line names, then waits for all. */
int action_run(struct cli *cli, const struct action *action);
/* Waits for and prints the n objects that mutations gave; `code` is the exit code so far. */
int action_finish(struct cli *cli, cJSON **objects, size_t n, enum condition condition, int code);
uint64_t action_grace_ms(const struct cli *cli);

/* vm_create.c: the flake of --flake, which is sent first when it is on this disk, and its
 * attribute ("" none). */
int flake_take(struct cli *cli, struct vm_spec *spec, struct blix_error *err);

/* verbs, one file each */
int vm_create_run(struct cli *cli);
int vm_adopt_run(struct cli *cli);
int vm_update_run(struct cli *cli);
int vm_rollback_run(struct cli *cli);
int vm_set_run(struct cli *cli);
int vm_history_run(struct cli *cli);
int vm_list_run(struct cli *cli);
/* vm_watch.c: the list, then a line for each change, without end. */
struct table;
int vm_watch(struct cli *cli, const struct table *table);
int vm_show_run(struct cli *cli);
int vm_start_run(struct cli *cli);
int vm_stop_run(struct cli *cli);
int vm_restart_run(struct cli *cli);
int vm_pause_run(struct cli *cli);
int vm_resume_run(struct cli *cli);
int vm_delete_run(struct cli *cli);
int vm_logs_run(struct cli *cli);
int vm_metrics_run(struct cli *cli);
int vm_console_run(struct cli *cli);
int vm_exec_run(struct cli *cli);
int vm_ssh_run(struct cli *cli);
int vm_cp_run(struct cli *cli);
int vm_events_run(struct cli *cli);
int vm_why_run(struct cli *cli);
/* vm_create.c: what the options say, and one creation. */
int create_spec(struct cli *cli, struct vm_spec *spec, struct blix_error *err);
int create_one(struct cli *cli, const struct vm_spec *common, const char *name, cJSON **ret,
               struct blix_error *err);
int run_run(struct cli *cli);
int wait_run(struct cli *cli);
int node_list_run(struct cli *cli);
int node_show_run(struct cli *cli);
int node_init_run(struct cli *cli);
int node_token_run(struct cli *cli);
int node_join_run(struct cli *cli);
int node_renew_run(struct cli *cli);
int node_promote_run(struct cli *cli);
int node_demote_run(struct cli *cli);
int node_cordon_run(struct cli *cli);
int node_uncordon_run(struct cli *cli);
int node_maintenance_run(struct cli *cli);
int node_remove_run(struct cli *cli);
int cluster_transfer_run(struct cli *cli);
int cluster_status_run(struct cli *cli);
int status_run(struct cli *cli);
int doctor_run(struct cli *cli);
int version_run(struct cli *cli);
int help_run(struct cli *cli);
int completion_run(struct cli *cli);
/* Usage and options of one verb, on stdout. */
void help_verb(const struct verb *verb);
void help_overview(FILE *file);

#endif
