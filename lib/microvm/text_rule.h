/* A table that gives meaning to the words of a program without error codes: the first row whose
 * words stand in the text decides. */
#ifndef BLIX_MICROVM_TEXT_RULE_H
#define BLIX_MICROVM_TEXT_RULE_H

#include "base/error.h"

#include <stddef.h>
#include <string.h>

struct text_rule {
	const char *words;
	const char *also; /* NULL or words that must stand there too */
	enum blix_code code;
	const char *reason;
	const char *hint;
};

/* NULL: no row fits. */
static inline const struct text_rule *text_rule_find(const struct text_rule *rules, size_t n,
                                                     const char *text)
{
	for (size_t i = 0; i < n; i++) {
		if (strstr(text, rules[i].words) != NULL &&
		    (rules[i].also == NULL || strstr(text, rules[i].also) != NULL))
			return &rules[i];
	}
	return NULL;
}

#endif
