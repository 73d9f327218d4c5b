/* The shim stands by one VM where there is no systemd to do it, and outlives the daemon that asked.
 *
 * Start: lock RUN/alive, enter a control group, fork a child that waits at a gate, put it into the
 * group below and on record in status.json, open the gate, learn by a close-on-exec pipe that exec
 * succeeded, tell the caller. A shim that dies before the gate opens takes the child with it, so
 * nothing ever runs that is not on record. Then it sleeps in poll until there is output, a client,
 * a SIGTERM to pass on, or the program's end: all that is left in the group is killed, and when the
 * last of it is gone the end goes to exit.json, the group away, and the lock by exiting.
 *
 * The lock, the record and the group together keep a VM from running twice: the lock refuses a
 * second shim, the other two a new shim whose predecessor was killed and left its program alive.
 *
 * With --hold the program is a unit of systemd, which opens its terminal by RUN/terminal, a link:
 * then there is nobody to wait for but a SIGTERM, when the unit has ended.
 *
 * The program's standard streams are one raw terminal, since some hypervisors take no input from
 * anything else. It is nobody's controlling terminal: the program outlives the shim. */
#include "shim.h"

#include "base/alloc.h"
#include "sys/cgroup.h"
#include "sys/crash.h"
#include "sys/file.h"
#include "sys/process.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#define EXIT_CANNOT_RUN   126 /* as shells do */
#define EXIT_NO_PROGRAM   127
#define OUTPUT_AFTER_EXIT (64u << 10) /* a left-over writer could add for ever */
#define LEFT_OVERS_MS     20          /* between looks at a group whose processes are dying */

struct shim {
	const struct shim_options *options;
	int run;
	int alive;
	int signals;
	int terminal; /* master side */
	int slave;    /* kept open: a program that closes its own leaves nothing to wake up for */
	struct halves_writer console;
	struct serve serve;
	struct record program;
	char *inner;   /* the group of the program alone, NULL: none */
	int exit_code; /* of a start that failed */
	bool ended;
	bool signaled;
	int status;
};

/* What the child tells through the pipe when it cannot become the program. */
struct exec_failure {
	int sys;
	bool in_chdir;
};

static int open_run(struct shim *s, struct blix_error *err)
{
	if (mkdir(s->options->run, 0755) < 0 && errno != EEXIST)
		return blix_fail_sys(err, errno, "create %s", s->options->run);
	s->run = open(s->options->run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->run < 0)
		return blix_fail_sys(err, errno, "open %s", s->options->run);
	return 0;
}

static int lock_run(struct shim *s, struct blix_error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	pid_t orphan;

	s->alive = openat(s->run, "alive", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (s->alive < 0)
		return blix_fail_sys(err, errno, "open %s/alive", s->options->run);
	if (fcntl(s->alive, F_OFD_SETLK, &lock) < 0) {
		if (errno == EAGAIN || errno == EACCES)
			return blix_fail(err, BLIX_E_BUSY, "busy: another shim stands by %s",
			                 s->options->run);
		return blix_fail_sys(err, errno, "lock %s/alive", s->options->run);
	}
	if (record_orphan(s->run, &orphan))
		return blix_fail(err, BLIX_E_BUSY, "busy: process %d of %s outlived its shim",
		                 (int)orphan, s->options->run);
	if (s->options->cgroup != NULL && cgroup_populated(s->options->cgroup))
		return blix_fail(err, BLIX_E_BUSY, "busy: processes of an earlier run live in %s",
		                 s->options->cgroup);
	crash_point("shim.locked");
	return 0;
}

/* Where the hierarchy is missing or may not be written, the shim goes on without, and says so. */
static void enter_group(struct shim *s)
{
	const char *dir = s->options->cgroup;
	struct blix_error err = {.text = "none was asked for"};

	s->program.cgroup_error = xstrdup(err.text);
	if (dir == NULL)
		return;
	s->inner = xasprintf("%s/program", dir);
	if (cgroup_make(s->inner, &err) == 0 && cgroup_can_kill(s->inner, &err) == 0 &&
	    cgroup_enter(dir, 0, &err) == 0) {
		s->program.cgroup = dir;
	} else {
		xreplace(&s->program.cgroup_error, err.text);
		(void)cgroup_remove(dir, NULL);
		free(take(s->inner));
	}
	crash_point("shim.grouped");
}

/* The death of what stands in a group is seen by its being empty. */
static bool is_empty(const struct shim *s)
{
	return s->inner == NULL || !cgroup_populated(s->inner);
}

/* Nothing can be removed while the shim itself stands in it. */
static void leave_group(struct shim *s)
{
	if (s->program.cgroup == NULL)
		return;
	(void)cgroup_enter(cgroup_root(), 0, NULL);
	(void)cgroup_remove(s->program.cgroup, NULL);
	crash_point("shim.group-removed");
}

static int open_terminal(struct shim *s, struct blix_error *err)
{
	struct termios raw;

	s->terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (s->terminal < 0 || unlockpt(s->terminal) < 0)
		return blix_fail_sys(err, errno, "open a terminal");
	s->slave = ioctl(s->terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (s->slave < 0 || tcgetattr(s->slave, &raw) < 0)
		return blix_fail_sys(err, errno, "open a terminal");
	cfmakeraw(&raw);
	raw.c_oflag = 0; /* QEMU turns OPOST on again: lines must stay as they are then, too */
	if (tcsetattr(s->slave, TCSANOW, &raw) < 0)
		return blix_fail_sys(err, errno, "set up a terminal");
	return 0;
}

static int take_signals(struct shim *s, struct blix_error *err)
{
	static const int ignored[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGPIPE,
	                              SIGXFSZ, SIGTSTP, SIGTTIN, SIGTTOU};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigset_t set;

	for (size_t i = 0; i < array_size(ignored); i++)
		(void)sigaction(ignored[i], &ignore, NULL);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGTERM);
	(void)sigprocmask(SIG_SETMASK, &set, NULL);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signals >= 0 ? 0 : blix_fail_sys(err, errno, "signalfd");
}

/* In the child: becomes the program, or says why not. */
static _Noreturn void child_run(const struct shim_options *options, int gate, int failure_fd)
{
	struct sigaction standard = {.sa_handler = SIG_DFL};
	struct exec_failure failure = {0};
	sigset_t none;
	char byte;

	(void)setpgid(0, 0);
	if (read(gate, &byte, 1) != 1)
		_exit(EXIT_CANNOT_RUN);
	for (int sig = 1; sig < NSIG; sig++)
		(void)sigaction(sig, &standard, NULL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	if (options->chdir != NULL && chdir(options->chdir) < 0) {
		failure = (struct exec_failure){.sys = errno, .in_chdir = true};
	} else {
		(void)execvp(options->argv[0], options->argv);
		failure.sys = errno;
	}
	(void)!write(failure_fd, &failure, sizeof(failure));
	_exit(EXIT_CANNOT_RUN);
}

static int child_failed(struct shim *s, const struct exec_failure *failure, struct blix_error *err)
{
	int rc;

	record_clear(s->run);
	rc = blix_fail_sys(err, failure->sys, "%s %s", failure->in_chdir ? "enter" : "run",
	                   failure->in_chdir ? s->options->chdir : s->options->argv[0]);
	s->exit_code =
		!failure->in_chdir && failure->sys == ENOENT ? EXIT_NO_PROGRAM : EXIT_CANNOT_RUN;
	return rc;
}

/* The child exists and waits: record it, open the gate and learn how exec went. */
static int child_release(struct shim *s, int gate, int failure_fd, struct blix_error *err)
{
	struct exec_failure failure;
	int rc;

	s->serve.pidfd = pidfd_open(s->program.pid, 0);
	if (s->serve.pidfd < 0)
		return blix_fail_sys(err, errno, "pidfd_open");
	rc = process_start_time(s->program.pid, &s->program.start_time, err);
	if (rc == 0 && s->inner != NULL)
		rc = cgroup_enter(s->inner, s->program.pid, err);
	if (rc == 0)
		rc = record_status(s->run, s->options, &s->program, err);
	if (rc < 0)
		return rc;
	crash_point("shim.recorded");
	(void)!write(gate, "", 1);
	crash_point("shim.released");
	if (read(failure_fd, &failure, sizeof(failure)) == (ssize_t)sizeof(failure))
		return child_failed(s, &failure, err);
	return 0;
}

static int start_program(struct shim *s, struct blix_error *err)
{
	enum { READ, WRITE };
	int gate[2], failure[2];
	int rc;

	if (pipe2(gate, O_CLOEXEC) < 0 || pipe2(failure, O_CLOEXEC) < 0)
		return blix_fail_sys(err, errno, "pipe");
	s->program.pid = fork();
	if (s->program.pid < 0)
		return blix_fail_sys(err, errno, "fork");
	if (s->program.pid == 0) {
		(void)close(gate[WRITE]);
		for (int fd = 0; fd <= 2; fd++) {
			if (dup2(s->slave, fd) < 0)
				_exit(EXIT_CANNOT_RUN);
		}
		child_run(s->options, gate[READ], failure[WRITE]);
	}
	crash_point("shim.forked");
	(void)close(gate[READ]);
	(void)close(failure[WRITE]);
	rc = child_release(s, gate[WRITE], failure[READ], err);
	(void)close(gate[WRITE]);
	(void)close(failure[READ]);
	if (rc < 0) /* it could not become the program, or found the gate closed */
		(void)waitpid(s->program.pid, NULL, 0);
	return rc;
}

/* What systemd opens for the unit: this terminal, and at other times what is always there, so that
 * no ExecStopPost of it fails. */
static int lead_to(const struct shim *s, const char *target, struct blix_error *err)
{
	char path[48];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d/terminal", s->run);
	return file_link(target, path, err);
}

static int hold_terminal(struct shim *s, struct blix_error *err)
{
	char name[32];

	s->serve.pidfd = -1;
	if (ptsname_r(s->terminal, name, sizeof(name)) != 0)
		return blix_fail_sys(err, errno, "name a terminal");
	return lead_to(s, name, err);
}

/* Lets go of everything of the caller: its directory, and pipes that it reads to their end. */
static void detach(int ready)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)!chdir("/");
	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		(void)dup2(null, fd);
	if (null > 2)
		(void)close(null);
	(void)!write(ready, "", 1);
	(void)close(ready);
}

/* What the start needed of the program's own file is given back: the wait needs little of it. */
static int give_back(struct dl_phdr_info *info, size_t n, void *data)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	(void)n;
	(void)data;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];
		uintptr_t from = (info->dlpi_addr + part->p_vaddr) & ~(page - 1);
		uintptr_t to = info->dlpi_addr + part->p_vaddr + part->p_memsz;

		if (part->p_type == PT_LOAD && (part->p_flags & PF_W) == 0)
			(void)madvise((void *)from, to - from, MADV_DONTNEED);
	}
	return 1; /* the program alone, no library */
}

/* One read; returns the number of bytes, 0 when there are none now. */
static size_t copy_output(struct shim *s)
{
	static char data[4096]; /* a terminal gives no more at once */
	ssize_t n = read(s->terminal, data, sizeof(data));

	if (n <= 0)
		return 0;
	halves_writer_write(&s->console, data, (size_t)n);
	serve_output(&s->serve, data, (size_t)n);
	return (size_t)n;
}

/* Looks before it reaps: until the program is reaped, nobody else can get the number of its process
 * group, and what it left in that group is killed with it. */
static void reap(struct shim *s)
{
	for (;;) {
		siginfo_t info = {0};

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
			return;
		if (info.si_pid == s->program.pid) {
			(void)kill(-s->program.pid, SIGKILL);
			s->ended = true;
			s->signaled = info.si_code != CLD_EXITED;
			s->status = info.si_status;
			crash_point("shim.program-ended");
		}
		(void)waitpid(info.si_pid, NULL, 0);
	}
}

static void pass_on_term(struct shim *s)
{
	(void)process_signal(s->serve.pidfd, SIGTERM, NULL);
	crash_point("shim.term-passed");
}

static void read_signals(struct shim *s)
{
	struct signalfd_siginfo info;

	while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGTERM && s->options->hold)
			s->ended = true;
		else if (info.ssi_signo == SIGTERM)
			pass_on_term(s);
		else if (info.ssi_signo == SIGCHLD)
			reap(s);
	}
}

/* A VM has not ended while something of it can still write to its disks. */
static void stand_by(struct shim *s)
{
	while (!s->ended || !is_empty(s)) {
		struct pollfd fds[SERVE_POLLS + 1];

		if (s->ended)
			serve_kill(&s->serve);
		serve_polls(&s->serve, fds);
		fds[SERVE_POLLS] = (struct pollfd){.fd = s->signals, .events = POLLIN};
		if (poll(fds, array_size(fds), s->ended ? LEFT_OVERS_MS : -1) < 0)
			continue;
		if ((fds[0].revents & POLLIN) != 0)
			(void)copy_output(s);
		serve_polled(&s->serve, fds);
		if (fds[SERVE_POLLS].revents != 0)
			read_signals(s);
	}
}

static void end(struct shim *s)
{
	cleanup(buf_done) struct buf text;
	size_t left = OUTPUT_AFTER_EXIT, n;

	while (left > 0 && (n = copy_output(s)) > 0)
		left = n < left ? left - n : 0;
	buf_init(&text, 256);
	crash_point("shim.ended");
	if (s->options->hold)
		(void)lead_to(s, "/dev/null", NULL);
	else
		(void)record_exit(s->run, s->signaled, s->status, &text, NULL);
	crash_point("shim.exit-recorded");
	serve_done(&s->serve, text.data, text.len);
	halves_writer_done(&s->console);
	leave_group(s);
}

static int start(struct shim *s, struct blix_error *err)
{
	bool hold = s->options->hold;
	int rc = open_run(s, err);

	if (rc == 0 && !hold)
		rc = lock_run(s, err);
	if (rc < 0)
		return rc;
	if (!hold)
		record_clear(s->run);
	rc = halves_writer_open(&s->console, s->options->console, s->options->console_max, err);
	if (rc == 0)
		rc = take_signals(s, err);
	if (rc == 0)
		rc = open_terminal(s, err);
	if (rc < 0)
		return rc;
	enter_group(s);
	s->serve.run = s->run;
	s->serve.terminal = s->terminal;
	s->serve.cgroup = s->inner;
	s->serve.console = &s->console;
	rc = serve_open(&s->serve, err);
	if (rc == 0)
		rc = hold ? hold_terminal(s, err) : start_program(s, err);
	if (rc < 0) {
		(void)unlinkat(s->run, "shim.sock", 0);
		leave_group(s);
	}
	return rc;
}

int shim_run(const struct shim_options *options, int ready)
{
	struct shim s = {.options = options,
	                 .run = -1,
	                 .alive = -1,
	                 .signals = -1,
	                 .terminal = -1,
	                 .slave = -1,
	                 .console = {.dirfd = -1, .fd = -1}};
	struct blix_error err;

	(void)setsid();
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (start(&s, &err) < 0) {
		(void)fprintf(stderr, "blix-shim: %s\n", err.text);
		return s.exit_code != 0 ? s.exit_code : blix_code_info(err.code)->exit;
	}
	detach(ready);
	(void)dl_iterate_phdr(give_back, NULL);
	stand_by(&s);
	end(&s);
	return 0;
}
