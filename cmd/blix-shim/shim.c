/* The shim stands by one VM where there is no systemd to do it, and outlives the daemon that asked.
 *
 * Start: lock RUN/alive, fork a child that waits at a gate, put the child on record in status.json,
 * open the gate, learn by a close-on-exec pipe that exec succeeded, tell the caller. A shim that
 * dies before the gate opens takes the child with it, so nothing ever runs that is not on record.
 * Then it sleeps in poll until there is output, a SIGTERM to pass on, or the program's end, which
 * it writes to exit.json before it lets go of the lock by exiting.
 *
 * The lock and the record together keep a VM from running twice: the lock refuses a second shim,
 * the record a new shim whose predecessor was killed and left its program alive. */
#include "shim.h"

#include "base/alloc.h"
#include "sys/file.h"
#include "sys/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define EXIT_CANNOT_RUN 126 /* as shells do */
#define EXIT_NO_PROGRAM 127
#define OUTPUT_AFTER_EXIT                                                                          \
	(64u << 10) /* what a pipe holds; a left-over writer could add for ever                    \
	             */

struct shim {
	const struct shim_options *options;
	int run;
	int alive;
	int signals;
	int output; /* read end of the program's stdout and stderr; -1 at its end */
	int input;  /* write end: while open, the guest's serial port sees no end of file */
	struct console console;
	struct record program;
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

static int lock_run(struct shim *s, struct blix_error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	pid_t orphan;

	if (mkdir(s->options->run, 0755) < 0 && errno != EEXIST)
		return blix_fail_sys(err, errno, "create %s", s->options->run);
	s->run = open(s->options->run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->run < 0)
		return blix_fail_sys(err, errno, "open %s", s->options->run);
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

	(void)waitpid(s->program.pid, NULL, 0);
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
	int rc = process_start_time(s->program.pid, &s->program.start_time, err);

	if (rc == 0)
		rc = record_status(s->run, s->options, &s->program, err);
	if (rc < 0) {
		(void)kill(s->program.pid, SIGKILL);
		(void)waitpid(s->program.pid, NULL, 0);
		return rc;
	}
	(void)!write(gate, "", 1);
	if (read(failure_fd, &failure, sizeof(failure)) == (ssize_t)sizeof(failure))
		return child_failed(s, &failure, err);
	return 0;
}

static int start_program(struct shim *s, struct blix_error *err)
{
	enum { READ, WRITE };
	int in[2], out[2], gate[2], failure[2];
	int rc;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(gate, O_CLOEXEC) < 0 ||
	    pipe2(failure, O_CLOEXEC) < 0)
		return blix_fail_sys(err, errno, "pipe");
	s->program.pid = fork();
	if (s->program.pid < 0)
		return blix_fail_sys(err, errno, "fork");
	if (s->program.pid == 0) {
		(void)close(gate[WRITE]);
		if (dup2(in[READ], 0) < 0 || dup2(out[WRITE], 1) < 0 || dup2(out[WRITE], 2) < 0)
			_exit(EXIT_CANNOT_RUN);
		child_run(s->options, gate[READ], failure[WRITE]);
	}
	(void)close(in[READ]);
	(void)close(out[WRITE]);
	(void)close(gate[READ]);
	(void)close(failure[WRITE]);
	s->input = in[WRITE];
	s->output = out[READ];
	(void)fcntl(s->output, F_SETFL, O_NONBLOCK);
	rc = child_release(s, gate[WRITE], failure[READ], err);
	(void)close(gate[WRITE]);
	(void)close(failure[READ]);
	return rc;
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

/* One read; returns the number of bytes, 0 when there are none now or none will come. */
static size_t copy_output(struct shim *s)
{
	static char data[16384];
	ssize_t n;

	if (s->output < 0)
		return 0;
	n = read(s->output, data, sizeof(data));
	if (n > 0) {
		console_write(&s->console, data, (size_t)n);
		return (size_t)n;
	}
	if (n == 0) {
		(void)close(s->output);
		s->output = -1;
	}
	return 0;
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
		}
		(void)waitpid(info.si_pid, NULL, 0);
	}
}

static void read_signals(struct shim *s)
{
	struct signalfd_siginfo info;

	while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGTERM && !s->ended)
			(void)kill(s->program.pid, SIGTERM);
		else if (info.ssi_signo == SIGCHLD)
			reap(s);
	}
}

static void stand_by(struct shim *s)
{
	size_t left = OUTPUT_AFTER_EXIT;

	while (!s->ended) {
		struct pollfd fds[] = {{.fd = s->signals, .events = POLLIN},
		                       {.fd = s->output, .events = POLLIN}};

		if (poll(fds, array_size(fds), -1) < 0)
			continue;
		if (fds[1].revents != 0)
			(void)copy_output(s);
		if (fds[0].revents != 0)
			read_signals(s);
	}
	while (left > 0) {
		size_t n = copy_output(s);

		if (n == 0)
			break;
		left = n < left ? left - n : 0;
	}
	(void)record_exit(s->run, s->signaled, s->status, NULL);
}

static int start(struct shim *s, struct blix_error *err)
{
	int rc = lock_run(s, err);

	if (rc < 0)
		return rc;
	record_clear(s->run);
	rc = console_open(&s->console, s->options->console, s->options->console_max, err);
	if (rc == 0)
		rc = take_signals(s, err);
	return rc < 0 ? rc : start_program(s, err);
}

int shim_run(const struct shim_options *options, int ready)
{
	struct shim s = {.options = options,
	                 .run = -1,
	                 .alive = -1,
	                 .signals = -1,
	                 .output = -1,
	                 .input = -1,
	                 .console = {.dirfd = -1, .fd = -1}};
	struct blix_error err;

	(void)setsid();
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (start(&s, &err) < 0) {
		(void)fprintf(stderr, "blix-shim: %s\n", err.text);
		return s.exit_code != 0 ? s.exit_code : blix_code_info(err.code)->exit;
	}
	detach(ready);
	stand_by(&s);
	console_done(&s.console);
	return 0;
}
