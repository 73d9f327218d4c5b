/* Raw mode and signals: see terminal.h. What a handler touches is set before it is installed. */
#include "terminal.h"

#include "base/alloc.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios before;
static volatile sig_atomic_t is_raw;

/* Those that a guest's command can be told of, and the size. */
static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
static volatile sig_atomic_t pending[array_size(caught)];

void terminal_restore(void)
{
	if (!is_raw)
		return;
	is_raw = 0;
	(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
}

static void on_crash(int number)
{
	terminal_restore();
	(void)raise(number); /* SA_RESETHAND: as if we had not been here */
}

int terminal_raw(struct blix_error *err)
{
	static const int crashes[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
	struct sigaction action = {.sa_handler = on_crash,
	                           .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &before) < 0)
		return blix_fail_sys(err, errno, "standard input");
	raw = before;
	cfmakeraw(&raw);
	for (size_t i = 0; i < array_size(crashes); i++)
		(void)sigaction(crashes[i], &action, NULL);
	if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
		return blix_fail_sys(err, errno, "make the terminal raw");
	is_raw = 1;
	(void)atexit(terminal_restore);
	return 0;
}

bool terminal_size(uint16_t *ret_rows, uint16_t *ret_columns)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 &&
	    ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
		return false;
	*ret_rows = size.ws_row;
	*ret_columns = size.ws_col;
	return size.ws_row > 0 && size.ws_col > 0;
}

static void on_signal(int number)
{
	for (size_t i = 0; i < array_size(caught); i++) {
		if (caught[i] == number)
			pending[i] = 1;
	}
}

void signals_catch(sigset_t *ret_mask)
{
	struct sigaction action = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
	sigset_t block;

	(void)sigemptyset(&block);
	for (size_t i = 0; i < array_size(caught); i++) {
		(void)sigaddset(&block, caught[i]);
		(void)sigaction(caught[i], &action, NULL);
	}
	(void)sigaction(SIGPIPE, &ignore, NULL);
	(void)sigprocmask(SIG_BLOCK, &block, ret_mask);
}

int signals_next(void)
{
	for (size_t i = 0; i < array_size(caught); i++) {
		if (pending[i]) {
			pending[i] = 0;
			return caught[i];
		}
	}
	return 0;
}

int signals_ended(void)
{
	int number = signals_next();

	return number != SIGWINCH ? number : 0;
}
