/* The client of this run, Ctrl-C, and short getters over what the daemon answers. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	interrupted = number;
}

void cli_catch_interrupt(void)
{
	struct sigaction action = {.sa_handler =
	                                   on_interrupt}; /* no SA_RESTART: poll must return */

	(void)sigaction(SIGINT, &action, NULL);
}

void cli_catch_end(void)
{
	struct sigaction action = {.sa_handler = on_interrupt};

	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGHUP, &action, NULL);
	cli_catch_interrupt();
}

int cli_interrupted_by(void)
{
	return interrupted;
}

void cli_forget_interrupt(void)
{
	interrupted = 0;
}

bool cli_interrupted(void)
{
	return interrupted != 0;
}

static bool on_tick(void *context)
{
	talk_tick(context);
	return interrupted != 0;
}

struct client *cli_client(struct cli *cli, struct blix_error *err)
{
	struct client_options options = {.endpoints = cli->settings.endpoints,
	                                 .ca = cli->settings.ca,
	                                 .cert = cli->settings.cert,
	                                 .key = cli->settings.key,
	                                 .timeout_ms = cli->settings.timeout_ms,
	                                 .tick = on_tick,
	                                 .context = cli};

	if (cli->client == NULL)
		(void)client_open(&options, &cli->client, err);
	return cli->client;
}

/* Who asked for something as it is now is told when it may not be. */
static void note_stale(struct cli *cli, const cJSON *answer)
{
	if (cli->said_stale || cli->verb->patience != PATIENCE_CALL || !true_at(answer, "stale"))
		return;
	cli->said_stale = true;
	talk_note(cli, "note: stale, as %s knew it %" PRIu64 " ms ago", text_at(answer, "server"),
	          u64_at(answer, "stalenessMs"));
}

int cli_get(struct cli *cli, cJSON **ret, struct blix_error *err, const char *fmt, ...)
{
	const char *consistency = cli->arguments.values[OPTION_CONSISTENCY];
	cleanup(freep) char *path = NULL;
	cleanup(freep) char *whole = NULL;
	struct client *client = cli_client(cli, err);
	va_list args;
	int rc;

	if (client == NULL)
		return -(int)err->code;
	va_start(args, fmt);
	if (vasprintf(&path, fmt, args) < 0)
		abort();
	va_end(args);
	if (consistency != NULL)
		whole = xasprintf("%s%cconsistency=%s", path, strchr(path, '?') != NULL ? '&' : '?',
		                  consistency);
	rc = client_call(client, "GET", whole != NULL ? whole : path, NULL, ret, err);
	if (rc == 0)
		note_stale(cli, *ret);
	return rc;
}

int cli_mutate(struct cli *cli, const char *method, const char *name, const char *path,
               const cJSON *body, cJSON **ret, struct blix_error *err)
{
	const char *key = cli->arguments.values[OPTION_IDEMPOTENCY_KEY];
	cleanup(freep) char *own = key != NULL ? xasprintf("%s/%s", key, name) : NULL;
	struct client *client = cli_client(cli, err);
	int rc;

	if (client == NULL)
		return -(int)err->code;
	client_key(client, own);
	rc = client_call(client, method, path, body, ret, err);
	client_key(client, NULL);
	return rc;
}

const cJSON *at(const cJSON *object, const char *path)
{
	char key[64];

	while (object != NULL) {
		size_t n = strcspn(path, ".");

		if (n >= sizeof(key))
			return NULL;
		memcpy(key, path, n);
		key[n] = '\0';
		object = cJSON_GetObjectItemCaseSensitive(object, key);
		if (path[n] == '\0')
			break;
		path += n + 1;
	}
	return object;
}

const char *text_at(const cJSON *object, const char *path)
{
	const cJSON *item = at(object, path);

	return cJSON_IsString(item) ? item->valuestring : "";
}

uint64_t u64_at(const cJSON *object, const char *path)
{
	const cJSON *item = at(object, path);

	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > 9e15)
		return 0;
	return (uint64_t)item->valuedouble;
}

bool true_at(const cJSON *object, const char *path)
{
	return cJSON_IsTrue(at(object, path));
}

uint64_t stamp_ms(const char *text)
{
	struct tm tm;
	const char *end;
	time_t seconds;

	memset(&tm, 0, sizeof(tm));
	end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	if (end == NULL)
		return 0;
	seconds = timegm(&tm);
	return seconds > 0 ? (uint64_t)seconds * 1000 : 0;
}

int cli_flush(struct cli *cli)
{
	struct blix_error err;

	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	(void)blix_fail_sys(&err, errno, "write to standard output");
	return talk_error(cli, NULL, NULL, &err);
}
