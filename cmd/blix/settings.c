/* Where the settings come from: flags, then the environment, then the user's config.json, then the
 * socket in the daemon's own configuration, then the built-in socket. A file that is there but is
 * not valid is an error that names it and the key (exit 78). */
#include "cli.h"

#include "base/parse.h"
#include "sys/file.h"

#include <stdlib.h>
#include <string.h>

#define SOCKET_DEFAULT "/run/blix/blix.sock"
#define DAEMON_CONFIG  "/etc/blix/blix.json"
#define CALL_MS        30000  /* an answer that takes longer will not come */
#define WAIT_MS        600000 /* a first build on a slow machine takes minutes */

static int output_find(const char *name, enum output *ret, struct blix_error *err)
{
	static const char *const names[] = {"table", "wide", "json", "jsonl", "name"};

	for (size_t i = 0; i < array_size(names); i++) {
		if (strcmp(names[i], name) == 0) {
			*ret = (enum output)i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_INVALID,
	                 "'%.64s' is none of table, wide, json, jsonl and name", name);
}

/* *ret_tree stays NULL when the file is absent, or is the daemon's and not for us. */
static int read_config(const char *path, bool ours, cJSON **ret_tree, struct blix_error *err)
{
	cleanup(buf_done) struct buf text;
	int rc;

	buf_init(&text, LIMIT_FILE);
	rc = file_read(path, &text, err);
	if (rc == -(int)BLIX_E_NOTFOUND || (!ours && rc == -(int)BLIX_E_DENIED))
		return 0;
	if (rc == 0) {
		rc = json_parse(text.data != NULL ? text.data : "", text.len, &json_limits_request,
		                ret_tree, err);
		if (rc < 0)
			(void)blix_wrap(err, "%s", path);
	}
	if (rc < 0) {
		err->code = BLIX_E_SPEC;
		return -(int)BLIX_E_SPEC;
	}
	return 0;
}

struct file_settings {
	const char *endpoint, *output, *timeout;
	const char *ca, *cert, *key;
};

static char *user_config_path(void)
{
	const char *base = getenv("XDG_CONFIG_HOME");
	const char *home = getenv("HOME");

	if (base != NULL && base[0] == '/')
		return xasprintf("%s/blix/config.json", base);
	if (home != NULL && home[0] == '/')
		return xasprintf("%s/.config/blix/config.json", home);
	return NULL;
}

static int read_user(const char *path, cJSON **ret_tree, struct file_settings *settings,
                     struct blix_error *err)
{
	static const char *const keys[] = {"endpoint", "output", "timeout", "ca",
	                                   "cert",     "key",    NULL};
	const struct {
		const char *key;
		const char **slot;
	} texts[] = {{"endpoint", &settings->endpoint}, {"output", &settings->output},
	             {"timeout", &settings->timeout},   {"ca", &settings->ca},
	             {"cert", &settings->cert},         {"key", &settings->key}};
	int rc;

	if (path == NULL)
		return 0;
	rc = read_config(path, true, ret_tree, err);
	if (rc < 0 || *ret_tree == NULL)
		return rc;
	rc = json_only_keys(*ret_tree, keys, err);
	for (size_t i = 0; i < array_size(texts) && rc == 0; i++)
		rc = json_get_string(*ret_tree, texts[i].key, texts[i].slot, err);
	if (rc < 0) {
		(void)blix_wrap(err, "%s", path);
		err->code = BLIX_E_SPEC;
		return -(int)BLIX_E_SPEC;
	}
	return 0;
}

static const char *environment(const char *name)
{
	const char *value = getenv(name);

	return value != NULL && value[0] != '\0' ? value : NULL;
}

/* The first that is set, and what to call it in an error. */
static const char *first_set(const char *flag, const char *flag_name, const char *variable,
                             const char *in_file, const char *path, const char **ret_origin)
{
	const char *value = environment(variable);

	*ret_origin = flag_name;
	if (flag != NULL)
		return flag;
	*ret_origin = variable;
	if (value != NULL)
		return value;
	*ret_origin = path;
	return in_file;
}

static int wrap_origin(const char *origin, struct blix_error *err)
{
	/* A flag is a mistake of usage, everything else one of configuration. */
	if (origin[0] != '-')
		err->code = BLIX_E_SPEC;
	else
		err->code = BLIX_E_INVALID;
	return blix_wrap(err, "%s", origin);
}

static int load_timeout(struct settings *settings, const struct verb *verb, const char *text,
                        const char *origin, struct blix_error *err)
{
	if (text == NULL) {
		settings->timeout_ms = verb->patience == PATIENCE_CALL   ? CALL_MS
		                       : verb->patience == PATIENCE_WAIT ? WAIT_MS
		                                                         : CLIENT_TIMEOUT_NONE;
		return 0;
	}
	if (parse_duration(text, &settings->timeout_ms, err) < 0)
		return wrap_origin(origin, err);
	if (settings->timeout_ms == 0)
		settings->timeout_ms = CLIENT_TIMEOUT_NONE;
	return 0;
}

static int load_endpoints(struct settings *settings, const char *text, struct blix_error *err)
{
	cleanup(json_freep) cJSON *daemon = NULL;
	const char *path = NULL;
	int rc;

	if (text != NULL) {
		xreplace(&settings->endpoints, text);
		return 0;
	}
	rc = read_config(DAEMON_CONFIG, false, &daemon, err);
	if (rc == 0 && daemon != NULL)
		rc = json_get_string(daemon, "socket", &path, err);
	if (rc < 0)
		return wrap_origin(DAEMON_CONFIG, err);
	xreplace(&settings->endpoints, path != NULL ? path : SOCKET_DEFAULT);
	return 0;
}

/* Files have no flags: they go with the user, not with the call. */
static void load_files(struct settings *settings, const struct file_settings *file)
{
	const struct {
		char **slot;
		const char *variable, *in_file;
	} files[] = {{&settings->ca, "BLIX_CA", file->ca},
	             {&settings->cert, "BLIX_CERT", file->cert},
	             {&settings->key, "BLIX_KEY", file->key}};
	const char *value;

	for (size_t i = 0; i < array_size(files); i++) {
		value = environment(files[i].variable);
		if (value == NULL)
			value = files[i].in_file;
		if (value != NULL)
			xreplace(files[i].slot, value);
	}
}

int settings_load(struct settings *settings, const struct arguments *arguments,
                  const struct verb *verb, struct blix_error *err)
{
	cleanup(freep) char *path = user_config_path();
	cleanup(json_freep) cJSON *tree = NULL;
	struct file_settings file = {0};
	const char *origin = NULL, *value;
	int rc = read_user(path, &tree, &file, err);

	if (rc < 0)
		return rc;
	load_files(settings, &file);
	value = first_set(arguments->values[OPTION_OUTPUT], "--output", "BLIX_OUTPUT", file.output,
	                  path, &origin);
	if (value != NULL && output_find(value, &settings->output, err) < 0)
		return wrap_origin(origin, err);
	value = first_set(arguments->values[OPTION_TIMEOUT], "--timeout", "BLIX_TIMEOUT",
	                  file.timeout, path, &origin);
	rc = load_timeout(settings, verb, value, origin, err);
	if (rc < 0)
		return rc;
	value = first_set(arguments->values[OPTION_ENDPOINT], "--endpoint", "BLIX_ENDPOINT",
	                  file.endpoint, path, &origin);
	return load_endpoints(settings, value, err);
}

void settings_done(struct settings *settings)
{
	free(settings->endpoints);
	free(settings->ca);
	free(settings->cert);
	free(settings->key);
}
