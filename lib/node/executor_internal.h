/* Shared by the parts of the node's executor:
 *   executor.c         opening, stepping the machine, reports, closing
 *   executor_local.c   the VMs that concern this node, scanning the state
 *   executor_job.c     one action under way: its children, its end
 *   executor_host.c    paths, ownership of directories, what was seen
 *   executor_steps.c   the journal around each effect, probes after a crash
 *   executor_source.c  packed flakes, brought into Nix's store
 *   executor_resolve.c executor_build.c executor_run.c executor_remove.c   the actions
 *   executor_secret.c  secrets, sealed, and given to the guest
 *   executor_identity.c  hostname and machine id of a guest
 *   executor_usage.c   what each VM uses
 *   executor_control.c the control socket of a hypervisor
 *   executor_image.c   what is looked at before a start
 *   executor_adopt.c   a directory that blix did not make
 *   executor_generation.c roots of generations
 *   executor_watch.c   the end of a runner, the ready line of a guest
 *   executor_setup.c   what stands around a run: taps, virtiofsd
 *   executor_adopt.c   directories that blix did not make
 *   supervisor*.c      who stands by a VM's process (supervisor.h)
 */
#ifndef BLIX_NODE_EXECUTOR_INTERNAL_H
#define BLIX_NODE_EXECUTOR_INTERNAL_H

#include "core/executor.h"
#include "exec/child.h"
#include "microvm/command_line.h"
#include "microvm/status.h"
#include "node/executor.h"
#include "node/journal.h"
#include "node/supervisor.h"
#include "node/usage.h"
#include "sys/source.h"
#include "vmm/vmm.h"

struct agent;
struct agent_program;
struct naming;
struct watch;
struct guest;
struct giving;
struct usage_vm;
struct ready;
struct job;
struct inspection;
struct source_wait;

/* A process as it was identified. */
struct identity {
	uint64_t pid, start_time;
	uint64_t shim_pid, shim_start_time;
	char boot_id[40];
};

/* What was seen of a VM, with the strings it owns. */
struct sight {
	struct executor_seen seen;
	char *runner, *booted, *message;
	struct identity identity;
};

/* A VM of the state that concerns this node. */
struct local {
	struct node_executor *e;
	uint64_t uid;
	struct vm *vm; /* a reference: as the state said last */
	bool unseen;   /* its directory was not looked at yet: nothing is done about it */
	bool adopting; /* its directory is being taken over: nothing is done about it either */
	bool gone;     /* no longer of concern; waits for the end of its jobs */
	unsigned jobs;
	struct job *acting; /* the machine's action */
	struct identity identity;
	uint64_t started_ms;    /* wall clock of its last start */
	uint64_t start_ms;      /* boot clock of the same, 0: before this process */
	unsigned starts;        /* counts them */
	bool whole_checked;     /* its closure was looked at since it crashed */
	struct watch *watch;    /* of its process */
	struct ready *ready;    /* of its console */
	struct guest *guest;    /* its agent, while it runs */
	uint64_t kept;          /* a sum of the generations whose roots were looked at; 0: never */
	struct usage_vm *usage; /* of its process; NULL: not sampled yet */
};

TAILQ_HEAD(job_list, job);
LIST_HEAD(answer_list, answer);

#define EXECUTOR_BROUGHT 64 /* sources whose being there is not asked of Nix again and again */

struct node_executor {
	struct node_executor_config config;
	struct microvm_host host;
	const struct supervisor *supervisor;
	char *status, *shim, *home, *tmp; /* paths */
	char *cgroups;        /* how the control groups of VMs begin, NULL: no cgroup v2 here */
	char *systemctl, *rm; /* paths, NULL where there are none */
	struct agent_program *agent;
	struct executor machine;
	struct executor_actions actions;
	uv_idle_t idle;
	uv_timer_t timer;
	uv_timer_t usage_timer;
	uint64_t usage_asked;  /* uid of the VM whose hypervisor was asked last in turn */
	struct local **locals; /* by uid */
	size_t n_locals, size_locals;
	uint64_t scanned; /* revision of the state that was scanned */
	bool stepping;    /* ends wait in `ended` */
	bool acting;      /* the log knows of this boot: the machine may act */
	bool looking;     /* a look at unseen VMs is under way */
	uint64_t look_ms; /* not before */
	struct job_list ended;
	struct child *reload; /* systemd's daemon-reload under way */
	struct job_list reload_waiting, reload_served;
	bool draining;
	struct answer_list answers; /* proposals under way */
	struct answer_list told;    /* and those answered, which the machine has not heard of */
	unsigned nix_version;       /* 0: not asked yet */
	struct source_name brought[EXECUTOR_BROUGHT]; /* Nix had these: a ring */
	size_t n_brought;
	unsigned jobs;    /* under way */
	unsigned handles; /* not closed yet */
	struct node_journal *journal;
	uint64_t recovered; /* the last serial that was there when it was opened */
	bool closing;
	void (*close_cb)(void *data);
	void *close_data;
};

#define JOB_STEPS 8 /* of one action */

/* A look at what a START would run. */
struct image {
	bool checking;
	bool whole;    /* its closure too */
	bool known;    /* to Nix: it can be repaired from what Nix remembers */
	bool repaired; /* it was tried; `words` is what that said */
	const char *reason;
	char *words;
	void (*then)(struct job *job);
};

/* The base, when it is one that a client sent. */
struct bringing {
	struct source_name name;
	struct source_wait *wait; /* NULL: nothing is waited for */
	void (*then)(struct job *job);
};

struct job {
	struct node_executor *e;
	struct local *local; /* NULL: about several VMs */
	struct vm *vm;       /* a reference: as the state said when it began */
	enum executor_action_kind kind;
	bool own; /* not the machine's: a look at something */
	enum executor_stop stop;
	uint64_t began_ms;
	unsigned starts; /* of the VM when it began */
	struct child *child;
	void (*next)(struct job *job, struct child_result *result);
	void (*end)(struct job *job); /* of a job of its own */
	void (*reloaded)(struct job *job);
	void (*forgotten)(struct job *job);
	void (*taken)(struct job *job);
	char invocation[40];    /* of the unit that is taken over */
	struct blix_error kept; /* why it is not, while that is undone */
	int signal;             /* to send when systemd is ready for it */
	bool cancelled;
	char *tmp; /* its private directory, "" none */
	uv_work_t work;
	struct identity identity;
	struct blix_error err; /* code BLIX_OK: it went well */
	bool final;
	bool host; /* the failure is the node's: tried until it goes away */
	struct journal_intent intents[JOB_STEPS];
	size_t n_intents;
	void (*intended)(struct job *job);
	bool sighted;
	struct sight sight;
	struct command found; /* kind 0: nothing */
	char *base_url;
	struct bringing source;
	struct inspection *inspection; /* of a foreign directory */
	size_t setup_at;               /* executor_setup.c: which step */
	bool setup_asked;
	uint64_t setup_ms; /* a deadline */
	void (*setup_end)(struct job *job);
	struct image image;
	char *repaired; /* what was, NULL: nothing */
	TAILQ_ENTRY(job) entry;
};

/* executor.c */
/* One step of the machine and the actions it yields; what ends meanwhile waits for the drain. */
void node_executor_step(struct node_executor *e, const struct executor_event *event);
void node_executor_drain(struct node_executor *e);
/* Both. */
void node_executor_event(struct node_executor *e, const struct executor_event *event);
void node_executor_ended(struct job *job);
void node_executor_handle_closed(struct node_executor *e);

/* executor_local.c */
struct local *local_find(const struct node_executor *e, uint64_t uid);
/* Out of the table at once, freed when its last job ended. */
void local_remove(struct node_executor *e, struct local *local);
void local_free(struct local *local);
/* Shows the machine what the state says of it; seen when it was just looked at. */
void node_executor_show(struct local *local, const struct executor_seen *seen);
/* What changed in the state since the last scan. */
void locals_scan(struct node_executor *e);

/* executor_job.c */
struct job *job_new(struct node_executor *e, struct local *local, enum executor_action_kind kind);
void job_free(struct job *job);
/* Ends the job: well, or with job->err. The machine hears of it once the step under way is over. */
void job_end(struct job *job);
void job_fail(struct job *job, bool final);
/* Makes job->tmp, once. */
int job_make_tmp(struct job *job);
/* Starts a child; `next` gets its result. argv is taken. On failure the job ends. */
void job_spawn(struct job *job, struct argv *argv, uint64_t deadline_ms,
               void (*next)(struct job *job, struct child_result *result));
/* The same with `input`, which is taken, as its stdin. */
void job_spawn_input(struct job *job, struct argv *argv, int input, uint64_t deadline_ms,
                     void (*next)(struct job *job, struct child_result *result));
/* The same for a shim: what it leaves running is to outlive us. All others are ended by the next
 * blixd when this one is killed. */
void job_spawn_keeper(struct job *job, struct argv *argv, uint64_t deadline_ms,
                      void (*next)(struct job *job, struct child_result *result));
void job_cancel(struct job *job);
/* Fills job->err from a child that failed. Returns true when it makes sense to try again. */
bool job_explain(struct job *job, const struct child_result *result, const char *what);

/* executor_steps.c */
/* Adds a step to what the action is about to do; `what` it brings about, NULL: its name says all.
 */
void job_step(struct job *job, enum journal_step step, const char *what);
/* Adds those that the supervisor has beside. */
void job_announce(struct job *job);
/* Goes on with `next` when all steps are in the journal. If they cannot be, the job ends with the
 * reason journal-failed and nothing was done. */
void job_intend(struct job *job, void (*next)(struct job *job));
void job_did(const struct job *job, enum journal_step step);
/* The job is over: what it did not say of its steps, its error says. */
void job_settle(struct job *job);
/* Did a crash cut something off for this VM? */
bool steps_open(const struct node_executor *e, uint64_t uid);
/* Asks the host about it and closes it, or makes the sight Unknown. */
void steps_probe(const struct local *local, struct sight *sight);
/* Closes what is about VMs that no longer are. */
void steps_forget(const struct node_executor *e);

/* executor_host.c: paths are the caller's to free */
char *host_dir(const struct node_executor *e, const char *name);     /* upstream's directory */
char *host_own_dir(const struct node_executor *e, const char *name); /* state_dir/vms/NAME */
char *host_run_dir(const struct node_executor *e, const char *name);
/* The control group of this VM in this epoch; NULL: no cgroup v2 here. */
char *host_cgroup(const struct node_executor *e, const struct vm *vm);
char *host_gcroot(const struct node_executor *e, const char *prefix, const char *name);
/* Whose is the directory? A claim without a marker is what a crash leaves: it is healed. */
enum executor_directory host_owner(const struct node_executor *e, const struct vm *vm,
                                   uint64_t *ret_epoch);
bool host_is_claimed(const struct node_executor *e, const struct vm *vm);
int host_claim(const struct node_executor *e, const struct vm *vm, struct blix_error *err);
int host_mark(const struct node_executor *e, const struct vm *vm, struct blix_error *err);
/* True when there is anything on the host that bears this name. */
bool host_has_trace(const struct node_executor *e, const char *name);
/* The end of a VM's console, the caller's to free. */
char *host_console_end(const struct node_executor *e, const char *name);
/* item NULL: microvm-status knows nothing of it. */
void sight_take(struct sight *sight, const struct local *local, const struct status_vm *item);
void sight_done(struct sight *sight);

/* executor_control.c: of the VM in upstream's directory `dir`; NULL: no socket there */
char *host_control_socket(const char *dir, const char *name);
enum vmm_kind host_hypervisor(const char *dir);

/* executor_usage.c */
void usage_start(struct node_executor *e);
void usage_close(struct node_executor *e);
void usage_forget(struct local *local);
/* executor_adopt.c */
void inspection_free(struct inspection *inspection);
/* Makes the directory the VM's, if that is due. local->adopting says that this is under way. */
void adopt_follow(struct local *local);
/* The words of a `flake` that adoption keeps are there. */
bool adopt_is_kept(const struct node_executor *e, const char *name);
/* Whom an inspection or an adoption is about. */
const char *adopt_name(const struct job *job);
/* `flake` of an adopted directory leads to the wrapper from now on. */
int adopt_point(const struct node_executor *e, const struct vm *vm, const char *wrapper,
                struct blix_error *err);

/* executor_source.c */
/* Goes on with `then` when Nix has the base that `url` names, or when it is none that a client
 * sent; else the job ends. */
void source_bring(struct job *job, const char *url, void (*then)(struct job *job));
/* The job is to end: what it waits for is forgotten. */
void source_cancel(struct job *job);

/* executor_image.c */
/* Goes on with `then` when what a START would run is there and unaltered; else the job ends. */
void image_check(struct job *job, void (*then)(struct job *job));
/* executor_build.c: the wrapper flake, as it is to be built */
int build_render(struct job *job);

/* the actions */
void resolve_begin(struct job *job);
void build_begin(struct job *job);
void start_begin(struct job *job);
void status_begin(struct job *job);
void stop_begin(struct job *job);
void vmm_begin(struct job *job); /* PAUSE, RESUME, and asking the guest */
void remove_begin(struct job *job);
/* Looks at one VM and tells the machine. */
void look_at(struct local *local);
/* It was looked at for the first time: the machine may act on it. */
void look_took(struct local *local, const struct sight *sight);
/* Looks at all unseen ones and then lets the machine act on them. */
void look_at_unseen(struct node_executor *e);

/* executor_generation.c: what keeps the systems of a VM from Nix's garbage collector */
/* The system that the job built is rooted, with the base it is made of where that is local. */
void generation_keep(const struct job *job);
/* Roots of generations that the state no longer keeps go, in a job of its own. */
void generations_prune(struct local *local);
/* Such roots are there; negative: nobody can say. */
int generations_left(const struct node_executor *e, const struct vm *vm, struct blix_error *err);
/* All of them go. */
int generations_remove(const struct node_executor *e, const char *name, struct blix_error *err);
/* Links that `nix build -o` registered for results of ours which are gone. */
void auto_roots_prune(const struct node_executor *e);
/* What an update resolves instead of the spec: the caller's to free by vm_spec_done(). */
void update_spec(const struct vm *vm, struct vm_spec *ret);

/* executor_setup.c */
/* Adds SETUP to the steps of a START whose runner has such programs. */
void setup_announce(struct job *job);
/* Can it be told what was set up for VM `name`? */
int setup_probe(const struct node_executor *e, const char *name, struct blix_error *err);
/* What the runner needs around it is put up, then `then` is called; or the job fails. */
void setup_begin(struct job *job, void (*then)(struct job *job));
void teardown_begin(struct job *job);
/* Something of a run is to be taken down when its process is gone. */
bool setup_exists(const struct local *local);
/* Those of an earlier virtiofsd, which would be taken for the new one's. */
void setup_remove_sockets(const struct job *job);

/* executor_watch.c */
/* After it was seen: watches the process, and the console for the ready line. */
void watch_follow(struct local *local, const struct sight *sight);
/* Looks out for the ready line, where one is asked for; an adopted VM may be ready already. */
void watch_ready(struct local *local, bool adopted);
void watch_end(struct local *local);
bool watch_exists(const struct local *local);

/* executor_guest.c */
/* The connection to the agent lives as long as the watch of its process. */
void guest_follow(struct local *local);
void guest_forget(struct local *local);
/* Makes the VM ready as soon as its agent says so. */
void guest_await_ready(struct local *local);
/* Asks the agent to shut the guest down and calls done once, later; false: there is none to ask. */
bool guest_ask_shutdown(struct job *job, void (*done)(struct job *job, bool agreed));
/* Gives its secrets to a guest whose agent is there, from the first. */
void guest_give(struct local *local);

/* executor_secret.c */
/* 0: nothing of its secrets is in the way of a start; else why it waits. */
int secrets_look(const struct local *local, struct blix_error *err);
int secrets_remove(const struct node_executor *e, uint64_t uid, struct blix_error *err);
/* Those of VMs that are no more. */
void secrets_prune(const struct node_executor *e);
/* Gives them, one after the other, to the agent: `done` is called once, later, with NULL or why
 * not. NULL: nothing could be begun, err says why. */
struct giving *secrets_give(struct local *local, struct agent *agent,
                            void (*done)(void *data, const struct blix_error *err), void *data,
                            struct blix_error *err);
/* Without a word; NULL is nothing. */
void secrets_give_end(struct giving *giving);

/* executor_identity.c */
void identity_machine_id(const char *cluster, uint64_t uid, char out[33]);
/* Tells the guest who it is, if it was not told since it booted; `done` is called once, later.
 * NULL: there is nothing to wait for. */
struct naming *identity_give(const struct local *local, struct agent *agent,
                             void (*done)(void *data), void *data);
/* Without a word; NULL is nothing. */
void identity_give_end(struct naming *naming);

#endif
