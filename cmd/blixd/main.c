/* blixd: flags, configuration, signals, then the loop. See blixd(8).
 *
 * Happy path: read the configuration (or --dev), start the daemon, tell the service manager, run
 * until SIGTERM or SIGINT, close in order, exit 0. SIGHUP: the node's certificate was renewed.
 * Whatever fails before is printed once, with the exit code of its error. */
#include "base/alloc.h"
#include "base/version.h"
#include "doctor.h"
#include "node/daemon.h"
#include "node/lobby.h"
#include "sys/log.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONFIG_FILE "/etc/blix/blix.json" /* without it: the standard places */

struct arguments {
	const char *config;
	const char *state_dir;
	const char *name;
	bool dev;
	bool check;
	bool doctor, json;
	const char *endpoint;
};

enum {
	OPT_DEV = 256,
	OPT_STATE_DIR,
	OPT_CHECK,
	OPT_DOCTOR,
	OPT_JSON,
	OPT_ENDPOINT,
	OPT_NAME,
	OPT_DEBUG
};

static const struct argp_option options[] = {
	{"config", 'c', "FILE", 0, "read FILE instead of " CONFIG_FILE, 0},
	{"dev", OPT_DEV, NULL, 0, "a cluster of one under --state-dir, without configuration", 0},
	{"state-dir", OPT_STATE_DIR, "DIR", 0, "keep everything under DIR (with --dev)", 0},
	{"name", OPT_NAME, "NAME", 0, "this node's name (with --dev; default: the host's)", 0},
	{"check", OPT_CHECK, NULL, 0, "check the configuration, then exit", 0},
	{"doctor", OPT_DOCTOR, NULL, 0, "say what is wrong on this host, then exit", 0},
	{"json", OPT_JSON, NULL, 0, "with --doctor: as JSON", 0},
	{"endpoint", OPT_ENDPOINT, "SOCKET", 0, "with --doctor: the daemon to ask", 0},
	{"debug", OPT_DEBUG, NULL, 0, "log more", 0},
	{0},
};

static error_t parse_option(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'c':
		arguments->config = value;
		break;
	case OPT_DEV:
		arguments->dev = true;
		break;
	case OPT_STATE_DIR:
		arguments->state_dir = value;
		break;
	case OPT_NAME:
		arguments->name = value;
		break;
	case OPT_CHECK:
		arguments->check = true;
		break;
	case OPT_DOCTOR:
		arguments->doctor = true;
		break;
	case OPT_JSON:
		arguments->json = true;
		break;
	case OPT_ENDPOINT:
		arguments->endpoint = value;
		break;
	case OPT_DEBUG:
		log_level(LOG_DEBUG);
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", value);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int fail(const struct blix_error *err)
{
	(void)fprintf(stderr, "blixd: %s\n", err->text);
	if (err->hint[0] != '\0')
		(void)fprintf(stderr, "hint: %s\n", err->hint);
	return blix_code_info(err->code)->exit;
}

static int absolute_path(const char *path, char **ret, struct blix_error *err)
{
	cleanup(freep) char *here = path[0] != '/' ? get_current_dir_name() : xstrdup("");

	if (here == NULL)
		return blix_fail_sys(err, errno, "name the current directory");
	*ret = path[0] != '/' ? xasprintf("%s/%s", here, path) : xstrdup(path);
	return 0;
}

static int configure(const struct arguments *arguments, struct config *config, const char *program,
                     struct blix_error *err)
{
	int rc = 0;

	if (arguments->dev) {
		cleanup(freep) char *dir = NULL;

		if (arguments->state_dir == NULL)
			return blix_fail(err, BLIX_E_INVALID, "--dev needs --state-dir DIR");
		if (absolute_path(arguments->state_dir, &dir, err) < 0)
			return -(int)err->code;
		config_dev(config, dir);
		if (arguments->name != NULL)
			xreplace(&config->name, arguments->name);
		if (arguments->config != NULL)
			rc = config_load(config, arguments->config, err);
	} else if (arguments->state_dir != NULL || arguments->name != NULL) {
		return blix_fail(err, BLIX_E_INVALID,
		                 "--state-dir and --name go with --dev; else they are set in the "
		                 "configuration");
	} else if (arguments->config != NULL || access(CONFIG_FILE, F_OK) == 0) {
		rc = config_load(config,
		                 arguments->config != NULL ? arguments->config : CONFIG_FILE, err);
	}
	if (rc < 0)
		return rc;
	return arguments->doctor ? config_settle(config, program, err)
	                         : config_finish(config, program, err);
}

/* The notification protocol of sd_notify(3): one datagram to the socket in $NOTIFY_SOCKET. */
static void notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET"); /* NOLINT(concurrency-mt-unsafe) */
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t n = path != NULL ? strlen(path) : 0;
	int fd;

	if (n == 0 || n >= sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, n);
	if (address.sun_path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&address,
	             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
	(void)close(fd);
}

struct program {
	uv_loop_t loop;
	uv_signal_t term, intr, hup;
	struct config *config;
	struct lobby *lobby;   /* while the node is of no cluster */
	struct daemon *daemon; /* afterwards */
	bool closing;
	int rc;
};

static void closed(void *data)
{
	struct program *program = data;

	uv_close((uv_handle_t *)&program->term, NULL);
	uv_close((uv_handle_t *)&program->intr, NULL);
	uv_close((uv_handle_t *)&program->hup, NULL);
}

static void shut(struct program *program)
{
	program->closing = true;
	if (program->lobby != NULL)
		lobby_close(program->lobby, closed, program);
	else if (program->daemon != NULL)
		daemon_close(program->daemon, closed, program);
	else
		closed(program);
}

static void on_signal(uv_signal_t *handle, int number)
{
	struct program *program = handle->data;

	(void)number;
	if (program->closing)
		return;
	notify("STOPPING=1");
	shut(program);
}

static void on_hangup(uv_signal_t *handle, int number)
{
	const struct program *program = handle->data;

	(void)number;
	if (!program->closing && program->daemon != NULL)
		daemon_reload(program->daemon);
}

/* Not exit(): threads of the pool may still write a snapshot. */
static void fatal(const struct blix_error *err)
{
	_exit(blix_code_info(err->code)->exit);
}

static int start_daemon(struct program *program, struct blix_error *err)
{
	program->daemon = daemon_open(&program->loop, program->config, fatal);
	return daemon_start(program->daemon, err);
}

static void lobby_left(void *data)
{
	struct program *program = data;
	struct blix_error err;

	program->lobby = NULL;
	if (program->closing) {
		closed(program);
		return;
	}
	if (config_enter(program->config, &err) == 0 && start_daemon(program, &err) == 0)
		return;
	program->rc = fail(&err);
	shut(program);
}

/* The node has a cluster now. */
static void on_joined(void *data)
{
	struct program *program = data;

	lobby_close(program->lobby, lobby_left, program);
}

static int start(struct program *program, struct blix_error *err)
{
	if (program->config->waits)
		return lobby_open(&program->loop, program->config, on_joined, program,
		                  &program->lobby, err);
	return start_daemon(program, err);
}

static int run(struct config *config)
{
	struct program program = {.config = config};
	struct blix_error err;

	(void)uv_loop_init(&program.loop);
	(void)uv_signal_init(&program.loop, &program.term);
	(void)uv_signal_init(&program.loop, &program.intr);
	(void)uv_signal_init(&program.loop, &program.hup);
	program.term.data = program.intr.data = program.hup.data = &program;
	(void)uv_signal_start(&program.term, on_signal, SIGTERM);
	(void)uv_signal_start(&program.intr, on_signal, SIGINT);
	(void)uv_signal_start(&program.hup, on_hangup, SIGHUP);
	if (start(&program, &err) < 0) {
		program.rc = fail(&err);
		shut(&program);
	} else {
		notify("READY=1");
	}
	(void)uv_run(&program.loop, UV_RUN_DEFAULT);
	if (uv_loop_close(&program.loop) != 0)
		log_event(LOG_ERR, "loop.leak", "pid=%d", (int)getpid());
	return program.rc;
}

int main(int argc, char **argv)
{
	static const struct argp parser = {
		.options = options,
		.parser = parse_option,
		.doc = "Run this host as a node of a blix cluster.\v"
		       "Exit status: 0 ended by a signal, 1 --doctor found what fails, 64 usage, "
		       "75 already running, "
		       "77 not permitted, 78 bad configuration.",
	};
	struct arguments arguments = {0};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct config config;
	struct blix_error err;
	int rc;

	argp_program_version = "blixd " BLIX_VERSION;
	argp_err_exit_status = 64;
	(void)argp_parse(&parser, argc, argv, 0, NULL, &arguments);
	(void)sigaction(SIGPIPE, &ignore, NULL);
	(void)umask(0022);
	config_init(&config);
	rc = configure(&arguments, &config, argv[0], &err);
	if (rc < 0)
		rc = fail(&err);
	else if (arguments.doctor)
		rc = doctor_print(&config, arguments.endpoint, arguments.json);
	else if (!arguments.check)
		rc = run(&config);
	config_done(&config);
	return rc;
}
