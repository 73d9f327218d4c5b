/* Completion scripts, written from the verb table. Names are asked from the daemon as one types. */
#include "cli.h"

#include <string.h>

static bool noun_is_first(size_t i)
{
	for (size_t k = 0; k < i; k++) {
		if (strcmp(verbs[k].noun, verbs[i].noun) == 0)
			return false;
	}
	return verbs[i].noun[0] != '\0';
}

/* All nouns and the verbs that need none, or the verbs of one noun. */
static void print_words(const char *noun)
{
	bool first = true;

	for (size_t i = 0; i < n_verbs; i++) {
		const char *word = verbs[i].verb;

		if (noun[0] == '\0' && verbs[i].noun[0] != '\0')
			word = noun_is_first(i) ? verbs[i].noun : NULL;
		else if (strcmp(verbs[i].noun, noun) != 0)
			word = NULL;
		if (word == NULL)
			continue;
		(void)printf("%s%s", first ? "" : " ", word);
		first = false;
	}
}

static void print_options(const struct verb *verb)
{
	bool first = true;

	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if ((verb->options >> i & 1) == 0)
			continue;
		(void)printf("%s--%s", first ? "" : " ", option_rows[i].name);
		first = false;
	}
}

/* A shell command that prints what may stand as operand; "" when anything may. */
static const char *operand_command(enum operand operand)
{
	switch (operand) {
	case OPERAND_VM:
	case OPERAND_VM_COMMAND:
	case OPERAND_VM_SSH:
		return "blix vm list -o name 2>/dev/null";
	case OPERAND_NODE:
		return "blix node list -o name 2>/dev/null";
	case OPERAND_CONDITION_VM:
		return "blix vm list -o name 2>/dev/null | sed s,^,vm/,";
	case OPERAND_SHELL:
		return "echo bash zsh fish";
	case OPERAND_TOPIC:
		return "echo exit-codes config output vm node cluster";
	case OPERAND_NONE:
	case OPERAND_NEW_VM:
	case OPERAND_COPY:
	case OPERAND_RUN:
		break;
	}
	return "";
}

static void print_case(const struct verb *verb)
{
	const char *command = operand_command(verb->operand);
	bool noun = verb->noun[0] != '\0';

	if (noun && verb->alias != NULL)
		(void)printf("\t'%s %s' | '%s %s')\n", verb->noun, verb->verb, verb->noun,
		             verb->alias);
	else
		(void)printf("\t'%s%s%s'%s)\n", verb->noun, noun ? " " : "", verb->verb,
		             noun ? "" : "*");
	(void)printf("\t\toptions='");
	print_options(verb);
	if (command[0] != '\0')
		(void)printf("'\n\t\t[[ $word == -* ]] || names=$(%s)\n\t\t;;\n", command);
	else
		(void)printf("'\n\t\t;;\n");
}

/* The part that bash and zsh share: sets `options` and `names` from "$key" and "$word". */
static void print_cases(void)
{
	(void)printf("\tcase $key in\n");
	for (size_t i = 0; i < n_verbs; i++)
		print_case(&verbs[i]);
	for (size_t i = 0; i < n_verbs; i++) {
		if (!noun_is_first(i))
			continue;
		(void)printf("\t'%s '*)\n\t\tnames='", verbs[i].noun);
		print_words(verbs[i].noun);
		(void)printf("'\n\t\t;;\n");
	}
	(void)printf("\t*)\n\t\tnames='");
	print_words("");
	(void)printf("'\n\t\t;;\n\tesac\n");
	(void)printf("\tcase $before in\n"
	             "\t--output | -o) options='' names='table wide json jsonl name' ;;\n"
	             "\t--for) options='' names='running ready stopped updated deleted' ;;\n"
	             "\t--node) options='' names=$(blix node list -o name 2>/dev/null) ;;\n"
	             "\tesac\n");
}

static void print_bash(void)
{
	(void)printf("# bash completion of blix\n"
	             "_blix()\n{\n"
	             "\tlocal word=$2 before=$3 key='' options='' names=''\n"
	             "\t((COMP_CWORD > 1)) && key=${COMP_WORDS[1]}' '\n"
	             "\t((COMP_CWORD > 2)) && key+=${COMP_WORDS[2]}\n");
	print_cases();
	(void)printf("\tmapfile -t COMPREPLY < <(compgen -W \"$options $names\" -- \"$word\")\n"
	             "\t[[ $word == -* || $before != --flake ]] || compopt -o default\n"
	             "}\ncomplete -F _blix blix\n");
}

static void print_zsh(void)
{
	(void)printf(
		"#compdef blix\n"
		"# zsh completion of blix\n"
		"_blix()\n{\n"
		"\tlocal word=$words[CURRENT] before=$words[CURRENT-1] key='' options='' names=''\n"
		"\t((CURRENT > 2)) && key=\"$words[2] \"\n"
		"\t((CURRENT > 3)) && key+=$words[3]\n");
	print_cases();
	(void)printf("\t[[ $word == -* ]] && compadd -- ${=options}\n"
	             "\tcompadd -- ${=names}\n"
	             "\t[[ $before == --flake ]] && _files -/\n"
	             "}\ncompdef _blix blix\n");
}

static void print_fish_verb(const struct verb *verb)
{
	const char *command = operand_command(verb->operand);
	const char *noun = verb->noun;
	cleanup(freep) char *seen =
		noun[0] != '\0' ? xasprintf("__fish_seen_subcommand_from %s; and "
	                                    "__fish_seen_subcommand_from %s",
	                                    noun, verb->verb)
				: xasprintf("__fish_seen_subcommand_from %s", verb->verb);

	if (noun[0] != '\0')
		(void)printf("complete -c blix -n '__fish_seen_subcommand_from %s' -a %s -d '%s'\n",
		             noun, verb->verb, verb->summary);
	else
		(void)printf("complete -c blix -n __fish_use_subcommand -a %s -d '%s'\n",
		             verb->verb, verb->summary);
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if ((verb->options >> i & 1) == 0)
			continue;
		(void)printf("complete -c blix -n '%s' -l %s%s -d '%s'\n", seen,
		             option_rows[i].name, option_rows[i].value != NULL ? " -r" : "",
		             option_rows[i].text);
	}
	if (command[0] != '\0')
		(void)printf("complete -c blix -n '%s' -a '(%s)'\n", seen, command);
}

static void print_fish(void)
{
	(void)printf("# fish completion of blix\ncomplete -c blix -f\n");
	for (size_t i = 0; i < n_verbs; i++) {
		if (noun_is_first(i))
			(void)printf("complete -c blix -n __fish_use_subcommand -a %s\n",
			             verbs[i].noun);
		print_fish_verb(&verbs[i]);
	}
}

int completion_run(struct cli *cli)
{
	static const struct {
		const char *shell;
		void (*print)(void);
	} shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
	struct blix_error err;

	for (size_t i = 0; i < array_size(shells); i++) {
		if (strcmp(shells[i].shell, cli->arguments.names[0]) == 0) {
			shells[i].print();
			return cli_flush(cli);
		}
	}
	(void)blix_fail(&err, BLIX_E_INVALID, "'%.64s' is none of bash, zsh and fish",
	                cli->arguments.names[0]);
	return talk_error(cli, NULL, NULL, &err);
}
