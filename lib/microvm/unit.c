/* Words for systemd and what it answers: see unit.h. `show` is read strictly: an answer that lacks
 * a property, or has one twice, is no answer. */
#include "microvm/unit.h"

#include "base/alloc.h"
#include "base/parse.h"

#include <assert.h>

/* What is before it is stopped after it: when the host goes down, nobody is left who would take the
 * end of a VM for the wish of its guest, or start it again. */
#define DAEMON "blixd.service"

static const char properties[] =
	"LoadState,ActiveState,SubState,FragmentPath,DropInPaths,"
	"Environment,WorkingDirectory,NeedDaemonReload,MainPID,InvocationID";

bool unit_path_is_plain(const char *path)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789/._@:+-";

	return path[0] == '/' && path[strspn(path, plain)] == '\0';
}

char *unit_name(enum unit_kind kind, const char *name)
{
	return kind == UNIT_HOST ? xasprintf("microvm@%s.service", name)
	                         : xasprintf("blix-vm-%s.service", name);
}

char *unit_drop_in_dir(const struct microvm_host *host, const char *name)
{
	return xasprintf("%s/microvm@%s.service.d", host->systemd_dir, name);
}

char *unit_drop_in_path(const struct microvm_host *host, const char *name)
{
	return xasprintf("%s/microvm@%s.service.d/50-blix.conf", host->systemd_dir, name);
}

char *unit_drop_in(const struct microvm_host *host, const char *name, uint64_t uid, uint64_t epoch,
                   const char *accel, const char *systemctl)
{
	cleanup(freep) char *unit = unit_name(UNIT_HOST, name);

	return xasprintf("# Made by blixd, which starts, restarts and deletes this microVM.\n"
	                 "[Unit]\n"
	                 "Description=blix VM %s (uid %ju)\n"
	                 "Requires=microvm-blix-console@%s.service\n"
	                 "After=microvm-blix-console@%s.service\n"
	                 "Before=" DAEMON "\n"
	                 "[Service]\n"
	                 "Type=exec\n"
	                 "Restart=no\n"
	                 "Environment=BLIX_UID=%ju BLIX_EPOCH=%ju BLIX_ACCEL=%s\n"
	                 "StandardInput=file:%s/vms/%s/terminal\n"
	                 "StandardOutput=file:%s/vms/%s/terminal\n"
	                 "StandardError=inherit\n"
	                 "ExecStopPost=-+%s --ended --run %s/vms/%s\n"
	                 "ExecStopPost=-+%s stop --no-block %s\n",
	                 name, (uintmax_t)uid, name, name, (uintmax_t)uid, (uintmax_t)epoch, accel,
	                 host->run_dir, name, host->run_dir, name, host->shim, host->run_dir, name,
	                 systemctl, unit);
}

char *unit_console_path(const struct microvm_host *host)
{
	return xasprintf("%s/microvm-blix-console@.service", host->systemd_dir);
}

/* Its name is among those of the host's helpers, which are stopped with the VM. */
char *unit_console(const struct microvm_host *host)
{
	return xasprintf("# Made by blixd.\n"
	                 "[Unit]\n"
	                 "Description=Console of the blix VM %%i\n"
	                 "PartOf=microvm@%%i.service\n"
	                 "StopWhenUnneeded=yes\n"
	                 "[Service]\n"
	                 "Type=forking\n"
	                 "ExecStart=%s --hold --run %s/vms/%%i --console %s/vms/%%i/console.log\n",
	                 host->shim, host->run_dir, host->state_dir);
}

void unit_argv_show(enum unit_kind kind, const char *name, struct argv *argv)
{
	cleanup(freep) char *unit = unit_name(kind, name);

	argv_push(argv, "systemctl");
	argv_push(argv, "show");
	argv_push(argv, "--no-pager");
	argv_pushf(argv, "--property=%s", properties);
	argv_push(argv, "--");
	argv_push(argv, unit);
}

static int take_text(char **slot, const char *key, const char *value, struct blix_error *err)
{
	if (*slot != NULL)
		return blix_fail(err, BLIX_E_INVALID, "%s is there twice", key);
	*slot = xstrdup(value);
	return 0;
}

struct answer {
	struct unit_state state;
	char *stale, *main_pid;
};

static int take_line(struct answer *a, char *line, struct blix_error *err)
{
	const struct {
		const char *key;
		char **slot;
	} table[] = {{"LoadState", &a->state.load},
	             {"ActiveState", &a->state.active},
	             {"SubState", &a->state.sub},
	             {"FragmentPath", &a->state.fragment},
	             {"DropInPaths", &a->state.drop_ins},
	             {"Environment", &a->state.environment},
	             {"WorkingDirectory", &a->state.directory},
	             {"InvocationID", &a->state.invocation},
	             {"NeedDaemonReload", &a->stale},
	             {"MainPID", &a->main_pid}};
	char *equals = strchr(line, '=');

	if (equals == NULL)
		return blix_fail(err, BLIX_E_INVALID, "'%.60s' is no property", line);
	*equals = '\0';
	for (size_t i = 0; i < array_size(table); i++) {
		if (strcmp(line, table[i].key) == 0)
			return take_text(table[i].slot, line, equals + 1, err);
	}
	return blix_fail(err, BLIX_E_INVALID, "nobody asked for '%.60s'", line);
}

/* A unit that could not be loaded has no properties but these. */
static int answer_check(struct answer *a, struct blix_error *err)
{
	struct unit_state *s = &a->state;
	char **optional[] = {&s->fragment, &s->drop_ins, &s->environment, &s->directory,
	                     &s->invocation};

	if (s->load == NULL || s->active == NULL || s->sub == NULL)
		return blix_fail(err, BLIX_E_INVALID, "the state is missing");
	for (size_t i = 0; i < array_size(optional); i++) {
		if (*optional[i] == NULL)
			*optional[i] = xstrdup("");
	}
	if (s->directory[0] == '!' || s->directory[0] == '-') /* it may be missing */
		memmove(s->directory, s->directory + 1, strlen(s->directory));
	if (a->stale != NULL && strcmp(a->stale, "yes") != 0 && strcmp(a->stale, "no") != 0)
		return blix_fail(err, BLIX_E_INVALID, "NeedDaemonReload is '%.20s'", a->stale);
	s->stale = a->stale != NULL && strcmp(a->stale, "yes") == 0;
	if (a->main_pid != NULL && parse_u64(a->main_pid, &s->main_pid, NULL) < 0)
		return blix_fail(err, BLIX_E_INVALID, "MainPID is no number");
	return 0;
}

int unit_parse(const char *text, size_t n, struct unit_state *ret, struct blix_error *err)
{
	cleanup(freep) char *copy = xstrndup(text, n);
	struct answer answer = {0};
	char *rest = copy, *line;
	int rc = 0;

	while (rc == 0 && (line = strsep(&rest, "\n")) != NULL) {
		if (line[0] != '\0')
			rc = take_line(&answer, line, err);
	}
	if (rc == 0)
		rc = answer_check(&answer, err);
	free(answer.stale);
	free(answer.main_pid);
	if (rc < 0)
		unit_state_done(&answer.state);
	else
		*ret = answer.state;
	return rc < 0 ? blix_wrap(err, "systemctl show") : 0;
}

void unit_state_done(struct unit_state *state)
{
	free(state->load);
	free(state->active);
	free(state->sub);
	free(state->fragment);
	free(state->drop_ins);
	free(state->environment);
	free(state->directory);
	free(state->invocation);
	memset(state, 0, sizeof(*state));
}

bool unit_is_at_work(const struct unit_state *state)
{
	return strcmp(state->active, "inactive") != 0 && strcmp(state->active, "failed") != 0;
}

bool unit_is_of(const struct unit_state *state, uint64_t uid, bool *ret_other)
{
	static const char key[] = "BLIX_UID=";
	const char *at = state->environment;
	uint64_t found = 0;

	*ret_other = false;
	while (at != NULL && strncmp(at, key, strlen(key)) != 0) {
		at = strchr(at, ' ');
		at = at != NULL ? at + 1 : NULL;
	}
	if (at == NULL)
		return false;
	for (at += strlen(key); *at >= '0' && *at <= '9'; at++)
		found = found * 10 + (uint64_t)(*at - '0');
	*ret_other = found != uid;
	return found == uid;
}

void unit_argv_reload(struct argv *argv)
{
	argv_push(argv, "systemctl");
	argv_push(argv, "daemon-reload");
}

/* A pattern is of loaded units, and none is no error; systemctl waits for all of them. */
static void push_host_units(const char *verb, const char *name, struct argv *argv)
{
	argv_push(argv, "systemctl");
	argv_push(argv, verb);
	argv_push(argv, "--");
	argv_pushf(argv, "microvm@%s.service", name);
	argv_pushf(argv, "microvm-*@%s.service", name);
}

void unit_argv_stop(const char *name, struct argv *argv)
{
	push_host_units("stop", name, argv);
}

void unit_argv_forget(const char *name, struct argv *argv)
{
	push_host_units("reset-failed", name, argv);
}

void unit_argv_start(enum unit_kind kind, const char *name, struct argv *argv)
{
	cleanup(freep) char *unit = unit_name(kind, name);

	argv_push(argv, "systemctl");
	argv_push(argv, "start");
	argv_push(argv, "--");
	argv_push(argv, unit);
}

static void push_end(const char *unit, struct argv *argv)
{
	argv_push(argv, "systemctl");
	argv_push(argv, "stop");
	argv_push(argv, "--");
	argv_push(argv, unit);
}

void unit_argv_end(const char *name, struct argv *argv)
{
	cleanup(freep) char *unit = unit_name(UNIT_TRANSIENT, name);

	push_end(unit, argv);
}

void unit_argv_end_virtiofsd(const char *name, struct argv *argv)
{
	cleanup(freep) char *unit = xasprintf("blix-virtiofsd-%s.service", name);

	push_end(unit, argv);
}

static void begin_run(const struct microvm_host *host, const struct unit_run *run, const char *unit,
                      struct argv *argv)
{
	assert(parse_name("name", run->name, NULL) == 0);
	argv_push(argv, "systemd-run");
	argv_push(argv, "--quiet");
	argv_push(argv, "--collect"); /* nothing of it stays when it has ended */
	argv_push(argv, "--slice=blix.slice");
	argv_pushf(argv, "--unit=%s", unit);
	argv_pushf(argv, "--property=WorkingDirectory=%s/%s", host->microvms_dir, run->name);
	argv_push(argv, "--property=LimitNOFILE=1048576");
	argv_push(argv, "--property=LimitMEMLOCK=infinity");
	argv_push(argv, "--property=LimitCORE=0");
	argv_pushf(argv, "--setenv=BLIX_UID=%ju", (uintmax_t)run->uid);
	argv_pushf(argv, "--setenv=BLIX_EPOCH=%ju", (uintmax_t)run->epoch);
	argv_pushf(argv, "--setenv=PATH=%s", host->path);
	argv_pushf(argv, "--setenv=HOME=%s", host->home);
	argv_push(argv, "--setenv=LANG=C.UTF-8");
	argv_pushf(argv, "--setenv=MICROVM_STATE_DIR=%s", host->microvms_dir);
	if (run->accel[0] != '\0')
		argv_pushf(argv, "--setenv=BLIX_ACCEL=%s", run->accel);
}

/* Before and after, by the scripts of the runner that was booted. */
static void push_script(const struct microvm_host *host, const struct unit_run *run,
                        const char *property, const char *script, struct argv *argv)
{
	argv_pushf(argv, "--property=%s%s/%s/booted/bin/%s", property, host->microvms_dir,
	           run->name, script);
}

static void push_steps(const struct microvm_host *host, const struct unit_run *run,
                       struct argv *argv)
{
	static const struct {
		enum unit_step step;
		const char *property, *script;
	} table[] = {{UNIT_TAP, "ExecStartPre=", "tap-up"},
	             {UNIT_MACVTAP, "ExecStartPre=", "macvtap-up"},
	             {UNIT_PCI, "ExecStartPre=", "pci-setup"},
	             {UNIT_SHUTDOWN, "ExecStop=-", "microvm-shutdown"},
	             {UNIT_MACVTAP, "ExecStopPost=-", "macvtap-down"},
	             {UNIT_TAP, "ExecStopPost=-", "tap-down"}};

	for (size_t i = 0; i < array_size(table); i++) {
		if ((run->steps & table[i].step) != 0)
			push_script(host, run, table[i].property, table[i].script, argv);
	}
	if ((run->steps & UNIT_VIRTIOFSD) != 0) {
		argv_pushf(argv, "--property=Requires=blix-virtiofsd-%s.service", run->name);
		argv_pushf(argv, "--property=After=blix-virtiofsd-%s.service", run->name);
		argv_pushf(argv,
		           "--property=ExecStopPost=-%s stop --no-block "
		           "blix-virtiofsd-%s.service",
		           run->systemctl, run->name);
	}
	argv_pushf(argv, "--property=ExecStopPost=-%s -f %s/%s/booted", run->rm, host->microvms_dir,
	           run->name);
}

void unit_argv_virtiofsd(const struct microvm_host *host, const struct unit_run *run,
                         struct argv *argv)
{
	cleanup(freep) char *unit = xasprintf("blix-virtiofsd-%s.service", run->name);

	begin_run(host, run, unit, argv);
	argv_pushf(argv, "--description=blix VM %s: virtiofsd", run->name);
	argv_push(argv, "--service-type=notify");
	argv_push(argv, "--property=NotifyAccess=all");
	argv_push(argv, "--property=KillMode=mixed");
	argv_push(argv, "--property=TimeoutStopSec=10");
	argv_push(argv, "--");
	argv_pushf(argv, "%s/%s/booted/bin/virtiofsd-run", host->microvms_dir, run->name);
}

void unit_argv_run(const struct microvm_host *host, const struct unit_run *run, struct argv *argv)
{
	cleanup(freep) char *unit = unit_name(UNIT_TRANSIENT, run->name);
	struct microvm_host inside = *host;

	inside.cgroups = NULL; /* the unit has one */
	begin_run(host, run, unit, argv);
	argv_pushf(argv, "--description=blix VM %s (uid %ju)", run->name, (uintmax_t)run->uid);
	argv_pushf(argv, "--property=StandardOutput=append:%s/vms/%s/console.log", host->state_dir,
	           run->name);
	argv_push(argv, "--property=StandardError=inherit");
	argv_push(argv, "--property=Before=" DAEMON);
	argv_push(argv, "--service-type=forking"); /* the shim says so when the runner runs */
	argv_push(argv, "--property=TimeoutStartSec=90");
	argv_push(argv, "--property=TimeoutStopSec=30");
	argv_push(argv, "--property=OOMPolicy=continue");
	argv_push(argv, "--property=TasksMax=infinity");
	push_steps(host, run, argv);
	argv_push(argv, "--");
	microvm_argv_start(&inside, run->name, run->uid, run->epoch, argv);
}
