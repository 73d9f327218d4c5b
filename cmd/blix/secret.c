/* --secret NAME=FILE: values are read when the command begins, so that a missing file is found
 * before anything is made, and go to the VM's node alone: the specification has their names. */
#include "cli.h"

#include "base/limits.h"
#include "sys/file.h"

#include <string.h>

static void wipe(struct buf *b)
{
	if (b->data != NULL)
		explicit_bzero(b->data, b->size);
	buf_done(b);
}

int secret_take(struct arguments *arguments, const char *text, struct blix_error *err)
{
	const char *equals = strchr(text, '=');
	cleanup(freep) char *name = NULL;
	struct secret_value *value;
	int rc;

	if (equals == NULL || equals[1] == '\0')
		return blix_fail(err, BLIX_E_INVALID, "'%.64s' is not NAME=FILE", text);
	name = xstrndup(text, (size_t)(equals - text));
	rc = secrets_add(&arguments->secrets, name, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i + 1 < arguments->secrets.n; i++) {
		if (strcmp(equals, "=-") == 0 && strcmp(arguments->values_of[i].file, "-") == 0)
			return blix_fail(err, BLIX_E_INVALID,
			                 "standard input can be one secret only");
	}
	value = &arguments->values_of[arguments->secrets.n - 1];
	value->name = take(name);
	value->file = equals + 1;
	return 0;
}

static int read_one(struct secret_value *value, struct blix_error *err)
{
	int rc;

	wipe(&value->bytes);
	buf_init(&value->bytes, LIMIT_SECRET);
	rc = file_read(strcmp(value->file, "-") == 0 ? "/dev/stdin" : value->file, &value->bytes,
	               err);
	if (rc == -(int)BLIX_E_TOOBIG)
		(void)blix_fail(err, BLIX_E_INVALID, "it is larger than %u bytes", LIMIT_SECRET);
	else if (rc == 0 && value->bytes.len == 0)
		rc = blix_fail(err, BLIX_E_INVALID, "it is empty");
	return rc < 0 ? blix_wrap(err, "--secret %s", value->name) : 0;
}

int secrets_read(struct cli *cli, struct blix_error *err)
{
	struct arguments *arguments = &cli->arguments;
	int rc = 0;

	for (size_t i = 0; i < arguments->secrets.n && rc == 0; i++)
		rc = read_one(&arguments->values_of[i], err);
	return rc;
}

void secrets_free(struct arguments *arguments)
{
	for (size_t i = 0; i < arguments->secrets.n; i++) {
		free(arguments->values_of[i].name);
		wipe(&arguments->values_of[i].bytes);
	}
	secrets_done(&arguments->secrets);
}

int secrets_send(struct cli *cli, const cJSON *vm, struct blix_error *err)
{
	const struct arguments *arguments = &cli->arguments;
	struct client *client = cli_client(cli, err);

	for (size_t i = 0; i < arguments->secrets.n && client != NULL; i++) {
		const struct secret_value *value = &arguments->values_of[i];
		cleanup(freep) char *path =
			xasprintf("/v1/vms/%s/secrets/%s?uid=%s", text_at(vm, "metadata.name"),
		                  value->name, text_at(vm, "metadata.uid"));
		int rc = client_put(client, path, value->bytes.data, value->bytes.len, err);

		if (rc < 0)
			return blix_wrap(err, "secret %s", value->name);
	}
	return client == NULL ? -(int)err->code : 0;
}

int secrets_follow(struct cli *cli, struct watch *watch, struct blix_error *err)
{
	const char *phase = text_at(watch->object, "status.phase");
	uint64_t epoch = u64_at(watch->object, "status.epoch");
	int rc;

	if (cli->arguments.secrets.n == 0 || epoch == 0 || epoch == watch->sent_epoch ||
	    (watch->condition != CONDITION_RUNNING && watch->condition != CONDITION_READY) ||
	    strcmp(phase, "Pending") == 0 || strcmp(phase, "Deleting") == 0)
		return 0;
	rc = secrets_send(cli, watch->object, err);
	if (rc == 0)
		watch->sent_epoch = epoch;
	/* It moved on meanwhile: the next look says where to. */
	return rc < 0 && strcmp(err->reason, "not-placed") != 0 ? rc : 0;
}
