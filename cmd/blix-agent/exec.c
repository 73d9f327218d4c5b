/* exec: a command of its own session, on pipes or a pty.
 *
 * Start: fork, and the child tells by a close-on-exec pipe why it could not become the command.
 * Then input goes in as the command takes it, output comes out as the window allows. Its end is
 * seen by pidfd; what is in the pipes by then still goes out, what others hold open is not waited
 * for. A host that lets go hangs the command up, and kills it when that takes longer than a second.
 */
#include "agent.h"
#include "user.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOT_FOUND    127 /* as shells have it */
#define NOT_RUNNABLE 126
#define ARGUMENTS    1024
#define DEFAULT_PATH                                                                               \
	"/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:"   \
	"/usr/bin:/sbin:/bin"

enum { INPUT, OUTPUT, ERRORS, PIPES };

struct command {
	pid_t pid;
	int pidfd;      /* -1: it was waited for */
	int fds[PIPES]; /* ours; with a tty INPUT and OUTPUT are both the master */
	bool tty;
	bool input_ends; /* after what is in `input` */
	bool deserted;   /* nobody has the terminal open, but the command lives */
	struct buf input;
	int status;
};

/* What the child needs, put together before the fork. */
struct launch {
	char **argv, **env;
	const char *cwd;
	struct user user;
	int theirs[PIPES];
	int failure;
	bool tty;
};

struct exec_failure {
	int sys;
	bool in_chdir;
};

static void strings_free(char ***strings)
{
	for (char **one = *strings; one != NULL && *one != NULL; one++)
		free(*one);
	free(*strings);
}

static int read_argv(const json_t *list, char ***ret, struct blix_error *err)
{
	size_t n = json_array_size(list);

	if (n == 0 || n > ARGUMENTS)
		return blix_fail(err, BLIX_E_INVALID, "exec needs argv of 1 to %u words",
		                 ARGUMENTS);
	*ret = xcalloc(n + 1, sizeof(**ret));
	for (size_t i = 0; i < n; i++) {
		const char *word = json_string_value(json_array_get(list, i));

		if (word == NULL || (i == 0 && word[0] == '\0'))
			return blix_fail(err, BLIX_E_INVALID, "argv[%zu] is no word", i);
		(*ret)[i] = xstrdup(word);
	}
	return 0;
}

/* What the request names wins over what every command gets. */
static int read_env(json_t *asked, const struct user *user, bool tty, char ***ret,
                    struct blix_error *err)
{
	json_t *all =
		json_pack("{s:s, s:s, s:s, s:s, s:s}", "PATH", DEFAULT_PATH, "HOME", user->home,
	                  "USER", user->name, "LOGNAME", user->name, "SHELL", user->shell);
	const char *name;
	json_t *value;
	size_t n = 0;
	int rc = 0;

	if (tty)
		(void)json_object_set_new(all, "TERM", json_string("xterm"));
	(void)json_object_update(all, asked);
	*ret = xcalloc(json_object_size(all) + 1, sizeof(**ret));
	json_object_foreach(all, name, value)
	{
		if (!json_is_string(value) || name[0] == '\0' || strchr(name, '=') != NULL)
			rc = blix_fail(err, BLIX_E_INVALID, "env '%.64s' is no variable", name);
		else
			(*ret)[n++] = xasprintf("%s=%s", name, json_string_value(value));
	}
	json_decref(all);
	return rc;
}

static int open_pty(int *ret_master, int *ret_slave, uint16_t rows, uint16_t cols,
                    struct blix_error *err)
{
	struct winsize size = {.ws_row = rows, .ws_col = cols};
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int slave = -1;
	int unlock = 0;

	if (master < 0)
		return blix_fail_sys(err, errno, "open a terminal");
	if (ioctl(master, TIOCSPTLCK, &unlock) == 0)
		slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0) {
		int rc = blix_fail_sys(err, errno, "open a terminal");

		closep(&master);
		return rc;
	}
	(void)ioctl(slave, TIOCSWINSZ, &size);
	*ret_master = master;
	*ret_slave = slave;
	return 0;
}

static int open_pipes(struct command *c, struct launch *l, struct blix_error *err)
{
	for (unsigned i = 0; i < PIPES; i++) {
		int both[2];

		if (pipe2(both, O_CLOEXEC) < 0)
			return blix_fail_sys(err, errno, "pipe");
		c->fds[i] = both[i == INPUT ? 1 : 0];
		l->theirs[i] = both[i == INPUT ? 0 : 1];
	}
	return 0;
}

static int open_terminal(struct command *c, struct launch *l, uint16_t rows, uint16_t cols,
                         struct blix_error *err)
{
	int master = -1;
	int slave = -1;
	int rc = open_pty(&master, &slave, rows, cols, err);

	if (rc < 0)
		return rc;
	c->fds[OUTPUT] = master;
	c->fds[INPUT] = fcntl(master, F_DUPFD_CLOEXEC, 3);
	for (unsigned i = 0; i < PIPES; i++)
		l->theirs[i] = i == 0 ? slave : fcntl(slave, F_DUPFD_CLOEXEC, 3);
	return 0;
}

static int become(const struct launch *l)
{
	if (geteuid() != 0)
		return 0; /* in a test */
	if (setgroups(l->user.n_groups, l->user.groups) < 0 || setgid(l->user.gid) < 0 ||
	    setuid(l->user.uid) < 0)
		return -1;
	return 0;
}

/* In the child: becomes the command, or says why not. */
static _Noreturn void child_run(const struct launch *l)
{
	struct sigaction standard = {.sa_handler = SIG_DFL};
	struct exec_failure failure = {0};
	sigset_t none;

	(void)setsid();
	for (int sig = 1; sig < NSIG; sig++)
		(void)sigaction(sig, &standard, NULL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (l->tty)
		(void)ioctl(l->theirs[0], TIOCSCTTY, 0);
	for (int i = 0; i < PIPES; i++)
		(void)dup2(l->theirs[i], i);
	(void)syscall(SYS_close_range, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */);
	if (become(l) < 0) {
		failure.sys = errno;
	} else if (chdir(l->cwd) < 0) {
		failure = (struct exec_failure){.sys = errno, .in_chdir = true};
	} else {
		environ = l->env;
		(void)execvp(l->argv[0], l->argv);
		failure.sys = errno;
	}
	(void)!write(l->failure, &failure, sizeof(failure));
	_exit(NOT_RUNNABLE);
}

/* The command could not be run: that is an exit code of the guest, with words. */
static void say_failure(struct stream *s, const struct launch *l, const struct exec_failure *f)
{
	bool missing = f->sys == ENOENT && !f->in_chdir;
	cleanup(freep) char *words =
		xasprintf("%s: %s", f->in_chdir ? l->cwd : l->argv[0], strerror(f->sys));

	stream_opened(s, json_object());
	stream_exit(s, json_pack("{s:i, s:s, s:s}", "exitCode", missing ? NOT_FOUND : NOT_RUNNABLE,
	                         "reason", missing ? "not-found" : "not-executable", "message",
	                         words));
}

static int launch_run(struct stream *s, struct command *c, struct launch *l, struct blix_error *err)
{
	struct exec_failure failure;
	int told[2];
	ssize_t n;

	if (pipe2(told, O_CLOEXEC) < 0)
		return blix_fail_sys(err, errno, "pipe");
	l->failure = told[1];
	c->pid = fork();
	if (c->pid == 0)
		child_run(l);
	(void)close(told[1]);
	if (c->pid < 0) {
		(void)close(told[0]);
		return blix_fail_sys(err, errno, "fork");
	}
	n = TEMP_FAILURE_RETRY(read(told[0], &failure, sizeof(failure)));
	(void)close(told[0]);
	if (n == (ssize_t)sizeof(failure)) {
		(void)waitpid(c->pid, NULL, 0);
		say_failure(s, l, &failure);
		return 0;
	}
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (c->pidfd < 0) {
		(void)kill(-c->pid, SIGKILL);
		(void)waitpid(c->pid, NULL, 0);
		return blix_fail_sys(err, errno, "pidfd_open");
	}
	(void)fcntl(c->pidfd, F_SETFD, FD_CLOEXEC);
	for (unsigned i = 0; i < PIPES; i++)
		(void)fcntl(c->fds[i], F_SETFL, O_NONBLOCK);
	stream_opened(s, json_pack("{s:i}", "pid", (int)c->pid));
	return 0;
}

struct request {
	json_t *argv, *env;
	const char *cwd, *user;
	int tty, rows, cols;
};

static int launch_prepare(const struct request *r, struct command *c, struct launch *l,
                          struct blix_error *err)
{
	int rc = read_argv(r->argv, &l->argv, err);

	if (rc == 0)
		rc = user_find(r->user, &l->user, err);
	if (rc == 0)
		rc = read_env(r->env, &l->user, r->tty != 0, &l->env, err);
	if (rc < 0)
		return rc;
	l->tty = c->tty = r->tty != 0;
	l->cwd = r->cwd != NULL ? r->cwd : l->user.home;
	if (l->tty)
		return open_terminal(c, l, (uint16_t)r->rows, (uint16_t)r->cols, err);
	return open_pipes(c, l, err);
}

static int exec_open(struct stream *s, json_t *json, struct blix_error *err)
{
	struct request r = {.user = "root", .rows = 24, .cols = 80};
	struct launch l = {.theirs = {-1, -1, -1}};
	struct command *c = xcalloc(1, sizeof(*c));
	const char *kind;
	int rc;

	c->pidfd = -1;
	for (unsigned i = 0; i < PIPES; i++)
		c->fds[i] = -1;
	buf_init(&c->input, LIMIT_FRAME_WINDOW);
	s->data = c;
	s->idle = true;
	if (json_unpack(json, "{s:s, s:o, s?o, s?s, s?s, s?b, s?i, s?i !}", "kind", &kind, "argv",
	                &r.argv, "env", &r.env, "cwd", &r.cwd, "user", &r.user, "tty", &r.tty,
	                "rows", &r.rows, "cols", &r.cols) < 0)
		return blix_fail(err, BLIX_E_INVALID,
		                 "exec needs argv and may have env, cwd, user, tty, rows and cols");
	rc = launch_prepare(&r, c, &l, err);
	if (rc == 0)
		rc = launch_run(s, c, &l, err);
	for (unsigned i = 0; i < PIPES; i++)
		closep(&l.theirs[i]);
	strings_free(&l.argv);
	strings_free(&l.env);
	return rc;
}

static void fd_close(struct command *c, unsigned which)
{
	closep(&c->fds[which]);
	c->fds[which] = -1;
}

/* Nothing more goes in: a terminal's end of file is a character. */
static void input_end(struct command *c)
{
	if (c->fds[INPUT] < 0 || c->input.len > 0)
		return;
	if (c->tty && c->pidfd >= 0)
		(void)!write(c->fds[INPUT], "\4", 1);
	fd_close(c, INPUT);
}

static void exec_frame(struct stream *s, const struct frame *f)
{
	struct command *c = s->data;
	struct winsize size = {0};

	if (f->type == FRAME_STDIN && (c->fds[INPUT] < 0 || c->input_ends)) {
		stream_consumed(s, f->len); /* nobody reads it */
	} else if (f->type == FRAME_STDIN) {
		(void)buf_add(&c->input, f->data, f->len);
	} else if (f->type == FRAME_EOF) {
		c->input_ends = true;
		input_end(c);
	} else if (f->type == FRAME_RESIZE && c->tty && c->fds[OUTPUT] >= 0) {
		frame_size(f, &size.ws_row, &size.ws_col);
		(void)ioctl(c->fds[OUTPUT], TIOCSWINSZ, &size);
	} else if (f->type == FRAME_SIGNAL && c->pidfd >= 0) {
		(void)kill(-c->pid, frame_byte(f));
	}
}

static bool may_read(const struct stream *s, const struct command *c)
{
	if (c->deserted && c->pidfd >= 0)
		return false;
	return s->id == 0 || (s->window.may_send > 0 && session_has_room(s->agent));
}

/* Always PIPES + 1 entries, so that each has its place; a negative fd is skipped by poll(). */
static unsigned exec_poll(struct stream *s, struct pollfd *fds)
{
	const struct command *c = s->data;
	bool take = may_read(s, c);

	for (unsigned i = 0; i < PIPES; i++) {
		fds[i].fd =
			i == INPUT ? (c->input.len > 0 ? c->fds[i] : -1) : (take ? c->fds[i] : -1);
		fds[i].events = i == INPUT ? POLLOUT : POLLIN;
	}
	fds[PIPES].fd = c->pidfd;
	fds[PIPES].events = POLLIN;
	return PIPES + 1;
}

static void work_input(struct stream *s, struct command *c)
{
	while (c->input.len > 0 && c->fds[INPUT] >= 0) {
		ssize_t n = write(c->fds[INPUT], c->input.data, c->input.len);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) { /* the command reads no more */
			n = (ssize_t)c->input.len;
			fd_close(c, INPUT);
		}
		buf_consume(&c->input, (size_t)n);
		stream_consumed(s, (size_t)n);
	}
	if (c->input_ends)
		input_end(c);
}

/* Reads what there is; once the command has ended, an empty pipe is a closed one. */
static void work_output(struct stream *s, struct command *c, unsigned which)
{
	char data[16384];

	while (c->fds[which] >= 0 && may_read(s, c)) {
		size_t most = s->id == 0 || sizeof(data) < s->window.may_send ? sizeof(data)
		                                                              : s->window.may_send;
		ssize_t n = read(c->fds[which], data, most);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && c->pidfd >= 0)
			return;
		if (n <= 0 && c->tty && c->pidfd >= 0) {
			/* Closing the terminal would hang up a command that is just ending. */
			c->deserted = true;
			return;
		}
		if (n <= 0) {
			fd_close(c, which);
			stream_eof(s, (uint8_t)which);
		} else {
			stream_put(s, which == OUTPUT ? FRAME_STDOUT : FRAME_STDERR, data,
			           (size_t)n);
		}
	}
}

static void exec_exit(struct stream *s, const struct command *c)
{
	if (WIFSIGNALED(c->status))
		stream_exit(s, json_pack("{s:i}", "signal", WTERMSIG(c->status)));
	else
		stream_exit(s, json_pack("{s:i}", "exitCode", WEXITSTATUS(c->status)));
}

static void exec_work(struct stream *s, const struct pollfd *fds, unsigned n)
{
	struct command *c = s->data;

	if (c->pidfd >= 0 && n > PIPES && (fds[PIPES].revents & POLLIN) != 0 &&
	    waitpid(c->pid, &c->status, WNOHANG) == c->pid) {
		closep(&c->pidfd);
		c->pidfd = -1;
		fd_close(c, INPUT);
		stream_consumed(s, c->input.len);
		buf_clear(&c->input);
	}
	if (c->pidfd >= 0 && s->deadline_ms != 0 && now_ms() >= s->deadline_ms) {
		(void)kill(-c->pid, SIGKILL);
		s->deadline_ms = 0;
	}
	work_input(s, c);
	work_output(s, c, OUTPUT);
	work_output(s, c, ERRORS);
	if (c->pidfd < 0 && c->fds[OUTPUT] < 0 && c->fds[ERRORS] < 0)
		exec_exit(s, c);
}

static void exec_hangup(struct stream *s)
{
	struct command *c = s->data;

	if (c->pidfd < 0) {
		stream_end(s);
		return;
	}
	(void)kill(-c->pid, SIGHUP);
	(void)kill(-c->pid, SIGCONT); /* a stopped one hears it too */
	for (unsigned i = 0; i < PIPES; i++)
		fd_close(c, i);
	s->deadline_ms = now_ms() + HANGUP_MS;
}

static void exec_free(struct stream *s)
{
	struct command *c = s->data;

	for (unsigned i = 0; i < PIPES; i++)
		fd_close(c, i);
	closep(&c->pidfd);
	buf_done(&c->input);
	free(c);
}

const struct stream_kind exec_kind = {
	.name = "exec",
	.open = exec_open,
	.frame = exec_frame,
	.poll = exec_poll,
	.work = exec_work,
	.hangup = exec_hangup,
	.free = exec_free,
};
