/* The command line: the words that name the verb are found among the options first, then argp reads
 * the rest by the options that the verb has. It fails with INVALID (exit 64), naming the word. */
#include "cli.h"

#include "base/parse.h"

#include <argp.h>
#include <string.h>

#define OPTION_KEY 0x1000 /* argp keys: this + option_index, above all characters */

struct parsing {
	struct cli *cli;
	struct blix_error *err;
	bool failed;
	int at; /* where argp stopped */
};

static const struct option_row *row_of_word(const char *word)
{
	size_t n = strcspn(word + 2, "=");

	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if (word[1] == '-' && strlen(option_rows[i].name) == n &&
		    strncmp(option_rows[i].name, word + 2, n) == 0)
			return &option_rows[i];
		if (word[1] != '-' && option_rows[i].letter == word[1])
			return &option_rows[i];
	}
	return NULL;
}

/* True when the value of the option `word` is the next word. */
static bool takes_next(const char *word)
{
	const struct option_row *row = row_of_word(word);

	if (row == NULL || row->value == NULL)
		return false;
	return word[1] == '-' ? strchr(word, '=') == NULL : word[2] == '\0';
}

/* Positions in argv of the first words that are no options: at most two. */
static size_t first_words(int argc, char **argv, int positions[2])
{
	size_t n = 0;

	for (int i = 1; i < argc && n < 2; i++) {
		if (strcmp(argv[i], "--") == 0)
			break;
		if (argv[i][0] == '-' && argv[i][1] != '\0')
			i += takes_next(argv[i]);
		else
			positions[n++] = i;
	}
	return n;
}

static int parse_label(struct arguments *arguments, const char *text, struct blix_error *err)
{
	const char *equals = strchr(text, '=');
	cleanup(freep) char *key = NULL;

	if (equals == NULL)
		return blix_fail(err, BLIX_E_INVALID, "'%.64s' is not K=V", text);
	key = xstrndup(text, (size_t)(equals - text));
	return labels_set(&arguments->labels, key, equals + 1, err);
}

static int parse_cpus(struct arguments *arguments, const char *text, struct blix_error *err)
{
	uint64_t cpus = 0;
	int rc = parse_u64(text, &cpus, err);

	if (rc == 0 && (cpus == 0 || cpus > LIMIT_CPUS))
		rc = blix_fail(err, BLIX_E_INVALID, "must be 1 to %d", LIMIT_CPUS);
	if (rc == 0)
		arguments->cpus = (uint32_t)cpus;
	return rc;
}

static int parse_grace(struct arguments *arguments, const char *text, struct blix_error *err)
{
	int rc = parse_duration(text, &arguments->grace_ms, err);

	if (rc == 0 && arguments->grace_ms > UINT32_MAX)
		rc = blix_fail(err, BLIX_E_INVALID, "'%.64s' is too long", text);
	return rc;
}

/* A value does not stay where `ps` and /proc show it. */
static int take_env(struct arguments *arguments, char *text, struct blix_error *err)
{
	if (text[0] == '=' || text[0] == '\0')
		return blix_fail(err, BLIX_E_INVALID, "a variable is K=V or K");
	if (arguments->n_env == array_size(arguments->env))
		return blix_fail(err, BLIX_E_INVALID, "more than %d variables", ENV_MAX);
	arguments->env[arguments->n_env++] = xstrdup(text);
	text = strchr(text, '=');
	if (text != NULL)
		explicit_bzero(text + 1, strlen(text + 1));
	return 0;
}

static int take_copy(struct arguments *arguments, const char *text, bool in, struct blix_error *err)
{
	if (arguments->n_copies == array_size(arguments->copies))
		return blix_fail(err, BLIX_E_INVALID, "more than %d copies", COPIES_MAX);
	arguments->copies[arguments->n_copies].in = in;
	arguments->copies[arguments->n_copies++].text = text;
	return 0;
}

void arguments_done(struct arguments *arguments)
{
	for (size_t i = 0; i < arguments->n_env; i++) {
		explicit_bzero(arguments->env[i], strlen(arguments->env[i]));
		free(arguments->env[i]);
	}
	secrets_free(arguments);
	labels_done(&arguments->labels);
}

static bool needs_command(const struct verb *verb)
{
	return verb->operand == OPERAND_VM_COMMAND || verb->operand == OPERAND_RUN;
}

static bool takes_command(const struct verb *verb)
{
	return needs_command(verb) || verb->operand == OPERAND_VM_SSH;
}

/* A name is put behind it. */
static int check_key(const char *text, struct blix_error *err)
{
	int rc = parse_key(text, err);

	if (rc == 0 && strlen(text) + 1 + LIMIT_NAME > LIMIT_KEY)
		rc = blix_fail(err, BLIX_E_INVALID, "more than %u characters",
		               LIMIT_KEY - 1 - LIMIT_NAME);
	return rc;
}

static int parse_version(struct arguments *arguments, const char *text, struct blix_error *err)
{
	int rc = parse_u64(text, &arguments->if_version, err);

	if (rc == 0 && arguments->if_version == 0)
		rc = blix_fail(err, BLIX_E_INVALID, "versions begin at 1");
	return rc;
}

static int check_consistency(const char *text, struct blix_error *err)
{
	if (strcmp(text, "local") == 0 || strcmp(text, "linearizable") == 0)
		return 0;
	return blix_fail(err, BLIX_E_INVALID, "'%.64s' is neither local nor linearizable", text);
}

static int option_take(struct cli *cli, enum option_index option, char *text,
                       struct blix_error *err)
{
	struct arguments *arguments = &cli->arguments;
	const char *value = text != NULL ? text : "";
	int rc = 0;

	arguments->values[option] = value;
	if (option == OPTION_LABEL)
		rc = parse_label(arguments, value, err);
	else if (option == OPTION_CPUS)
		rc = parse_cpus(arguments, value, err);
	else if (option == OPTION_MEMORY)
		rc = parse_size(value, &arguments->memory_bytes, err);
	else if (option == OPTION_RESTART)
		rc = vm_restart_parse(value, &arguments->restart, err);
	else if (option == OPTION_GRACE)
		rc = parse_grace(arguments, value, err);
	else if (option == OPTION_DEADLINE)
		rc = parse_duration(value, &arguments->deadline_ms, err);
	else if (option == OPTION_TAIL)
		rc = parse_u64(value, &arguments->tail, err);
	else if (option == OPTION_COPY || option == OPTION_COPY_OUT)
		rc = take_copy(arguments, value, option == OPTION_COPY, err);
	else if (option == OPTION_ENV && text != NULL)
		rc = take_env(arguments, text, err);
	else if (option == OPTION_SECRET)
		rc = secret_take(arguments, value, err);
	else if (option == OPTION_NODE)
		rc = parse_name("node name", value, err);
	else if (option == OPTION_CONSISTENCY)
		rc = check_consistency(value, err);
	else if (option == OPTION_IF_VERSION)
		rc = parse_version(arguments, value, err);
	else if (option == OPTION_IDEMPOTENCY_KEY)
		rc = check_key(value, err);
	return rc < 0 ? blix_wrap(err, "--%s", option_rows[option].name) : 0;
}

static bool has_option(const struct verb *verb, size_t option)
{
	return (verb->options >> option & 1) != 0;
}

/* argp gave up on `word`: an unknown option, or one whose value is missing or not wanted. */
static void option_error(const struct verb *verb, const char *word, struct blix_error *err)
{
	const struct option_row *row = word[0] == '-' ? row_of_word(word) : NULL;
	const char *near = NULL;
	unsigned distance = 4;

	/* In a word of several letters the unknown one need not be the first. */
	if (row != NULL && (word[1] == '-' || row->value != NULL) &&
	    has_option(verb, (size_t)(row - option_rows))) {
		(void)blix_fail(err, BLIX_E_INVALID, "--%s %s", row->name,
		                row->value != NULL ? "needs a value" : "takes no value");
		return;
	}
	(void)blix_fail(err, BLIX_E_INVALID, "unknown option '%.64s'", word);
	blix_reason(err, "unknown-option");
	for (size_t i = 0; i < OPTION_COUNT && word[0] == '-' && word[1] == '-'; i++) {
		unsigned d = parse_distance(option_rows[i].name, word + 2);

		if (!has_option(verb, i) || d >= distance)
			continue;
		distance = d;
		near = option_rows[i].name;
	}
	if (near != NULL)
		blix_hint(err, "did you mean '--%s'?", near);
	else
		blix_hint(err, "'blix help%s%s %s' lists the options", verb->noun[0] ? " " : "",
		          verb->noun, verb->verb);
}

static error_t on_key(int key, char *text, struct argp_state *state)
{
	struct parsing *parsing = state->input;
	struct arguments *arguments = &parsing->cli->arguments;
	int rc = 0;

	if (key == ARGP_KEY_ARG) {
		if (arguments->n_names == array_size(arguments->names))
			rc = blix_fail(parsing->err, BLIX_E_INVALID, "too many names");
		else
			arguments->names[arguments->n_names++] = text;
	} else if (key >= OPTION_KEY && key < OPTION_KEY + OPTION_COUNT) {
		rc = option_take(parsing->cli, (enum option_index)(key - OPTION_KEY), text,
		                 parsing->err);
	} else {
		if (key == ARGP_KEY_ERROR)
			parsing->at = state->next;
		return ARGP_ERR_UNKNOWN;
	}
	parsing->failed = parsing->failed || rc < 0;
	return rc < 0 ? EINVAL : 0;
}

/* argp's key of an option is its letter where it has one; both forms then mean the same. */
static void fill_options(const struct verb *verb, struct argp_option *options)
{
	size_t n = 0;

	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if (!has_option(verb, i))
			continue;
		options[n].name = option_rows[i].name;
		options[n].arg = option_rows[i].value;
		options[n++].key = OPTION_KEY + (int)i;
		if (option_rows[i].letter == 0)
			continue;
		options[n].key = option_rows[i].letter;
		options[n].arg = option_rows[i].value;
		n++;
	}
}

static error_t on_letter_or_key(int key, char *text, struct argp_state *state)
{
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if (option_rows[i].letter != 0 && key == option_rows[i].letter)
			key = OPTION_KEY + (int)i;
	}
	return on_key(key, text, state);
}

/* A long option is passed already when argp gives up, a letter inside a word is not. */
static const char *word_at(int argc, char **argv, int next)
{
	if (next > 0 && argv[next - 1][0] == '-')
		return argv[next - 1];
	return next < argc ? argv[next] : "";
}

static int parse_rest(struct cli *cli, int argc, char **argv, struct blix_error *err)
{
	struct argp_option options[2 * OPTION_COUNT + 1];
	struct argp argp = {.options = options, .parser = on_letter_or_key};
	struct parsing parsing = {.cli = cli, .err = err};

	memset(options, 0, sizeof(options));
	fill_options(cli->verb, options);
	if (argp_parse(&argp, argc, argv, ARGP_NO_ERRS | ARGP_NO_HELP | ARGP_NO_EXIT, NULL,
	               &parsing) == 0)
		return 0;
	if (parsing.failed)
		return -(int)err->code;
	option_error(cli->verb, word_at(argc, argv, parsing.at), err);
	return -(int)BLIX_E_INVALID;
}

static int check_names(const struct cli *cli, struct blix_error *err)
{
	const struct verb *verb = cli->verb;
	const struct arguments *arguments = &cli->arguments;

	if (given(cli, OPTION_HELP))
		return 0;
	if (arguments->n_names < verb->names_min) {
		(void)blix_fail(err, BLIX_E_INVALID, "'blix %s%s%s' needs %s", verb->noun,
		                verb->noun[0] != '\0' ? " " : "", verb->verb, verb->arguments);
		blix_hint(err, "for example: %s", verb->example);
		return -(int)BLIX_E_INVALID;
	}
	if (arguments->n_names > verb->names_max)
		return blix_fail(err, BLIX_E_INVALID, "unexpected argument '%.64s'",
		                 arguments->names[verb->names_max]);
	for (size_t i = 0; i < arguments->n_names; i++) {
		bool vm = verb->operand == OPERAND_VM || verb->operand == OPERAND_NEW_VM ||
		          verb->operand == OPERAND_VM_COMMAND || verb->operand == OPERAND_VM_SSH;
		int rc = 0;

		if (vm || verb->operand == OPERAND_NODE)
			rc = parse_name(vm ? "VM name" : "node name", arguments->names[i], err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* What stands behind "--" is the guest's, whatever it looks like. */
static int take_command(struct cli *cli, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!takes_command(cli->verb) || strcmp(argv[i], "--") != 0)
			continue;
		cli->arguments.command = argv + i + 1;
		cli->arguments.n_command = (size_t)(argc - i - 1);
		return i;
	}
	return argc;
}

static int check_command(const struct cli *cli, struct blix_error *err)
{
	if (!needs_command(cli->verb) || given(cli, OPTION_HELP) || cli->arguments.n_command > 0)
		return 0;
	(void)blix_fail(err, BLIX_E_INVALID, "'blix %s%s%s' needs '--' and a command",
	                cli->verb->noun, cli->verb->noun[0] != '\0' ? " " : "", cli->verb->verb);
	blix_hint(err, "for example: %s", cli->verb->example);
	return -(int)BLIX_E_INVALID;
}

int arguments_parse(struct cli *cli, int argc, char **argv, struct blix_error *err)
{
	cleanup(freep) char **rest = xcalloc((size_t)argc + 1, sizeof(*rest));
	char *words[2];
	int positions[2] = {0, 0};
	int n_rest = 0;
	size_t taken = 0, n = first_words(argc, argv, positions);
	int rc;

	if (n == 0) {
		(void)blix_fail(err, BLIX_E_INVALID, "a command is missing");
		blix_hint(err, "'blix help' lists them");
		return -(int)BLIX_E_INVALID;
	}
	for (size_t i = 0; i < n; i++)
		words[i] = argv[positions[i]];
	cli->verb = verb_find(words, n, &taken, err);
	if (cli->verb == NULL)
		return -(int)BLIX_E_INVALID;
	argc = take_command(cli, argc, argv);
	for (int i = 0; i < argc; i++) {
		if (i == 0 || (i != positions[0] && (taken < 2 || i != positions[1])))
			rest[n_rest++] = argv[i];
	}
	rc = parse_rest(cli, n_rest, rest, err);
	if (rc == 0)
		rc = check_names(cli, err);
	return rc < 0 ? rc : check_command(cli, err);
}
