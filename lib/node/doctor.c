/* The table of checks, and their findings: see doctor.h. */
#include "node/doctor_internal.h"

#include "base/alloc.h"

#include <stdarg.h>
#include <stdio.h>

/* In the order in which they are shown. */
static const struct {
	const char *name;
	void (*run)(struct doctor *d);
} checks[] = {{"acceleration", doctor_acceleration}, {"nix", doctor_nix},
              {"microvm", doctor_microvm},           {"cgroups", doctor_cgroups},
              {"systemd", doctor_systemd},           {"disk", doctor_disk},
              {"permissions", doctor_permissions},   {"daemon", doctor_daemon},
              {"runners", doctor_runners},           {"clock", doctor_clock},
              {"leftovers", doctor_leftovers}};

void doctor_add(struct doctor *d, enum finding_level level, const char *fix, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (d->n == d->size) {
		d->size = d->size < 16 ? 16 : d->size * 2;
		d->findings = xreallocarray(d->findings, d->size, sizeof(*d->findings));
	}
	json_clean(text);
	d->findings[d->n++] = (struct finding){.check = d->check,
	                                       .level = level,
	                                       .message = xstrdup(text),
	                                       .fix = xstrdup(fix != NULL ? fix : "")};
}

void doctor_run(struct doctor *d, struct config *config, const char *endpoint)
{
	*d = (struct doctor){.config = config,
	                     .endpoint = endpoint != NULL ? endpoint : config->socket};
	doctor_ask(d);
	for (size_t i = 0; i < array_size(checks); i++) {
		d->check = checks[i].name;
		checks[i].run(d);
	}
}

void doctor_done(struct doctor *d)
{
	for (size_t i = 0; i < d->n; i++) {
		free(d->findings[i].message);
		free(d->findings[i].fix);
	}
	free(d->findings);
	cJSON_Delete(d->vms);
	cJSON_Delete(d->cluster);
	cJSON_Delete(d->version);
}

const char *finding_level_name(enum finding_level level)
{
	static const char *const names[] = {"ok", "warn", "fail"};

	return names[level];
}

cJSON *doctor_json(const struct doctor *d)
{
	uint64_t counts[FINDING_LEVEL_COUNT] = {0};
	cJSON *object = json_object(), *findings = json_array();

	json_add_string(object, "kind", "Doctor");
	json_add_string(object, "apiVersion", "blix/v1");
	for (size_t i = 0; i < d->n; i++) {
		const struct finding *finding = &d->findings[i];
		cJSON *one = json_object();

		counts[finding->level]++;
		json_add_string(one, "check", finding->check);
		json_add_string(one, "level", finding_level_name(finding->level));
		json_add_text(one, "message", finding->message);
		json_add_text(one, "fix", finding->fix);
		json_push(findings, one);
	}
	json_add(object, "findings", findings);
	for (unsigned i = 0; i < FINDING_LEVEL_COUNT; i++)
		json_add_u64(object, finding_level_name((enum finding_level)i), counts[i]);
	return object;
}
