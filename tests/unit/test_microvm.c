/* lib/microvm: command lines byte for byte, the wrapper's text, and what is made of the words of
 * others. */
#include "base/alloc.h"
#include "base/limits.h"
#include "microvm/command_line.h"
#include "microvm/nix_error.h"
#include "microvm/nix_json.h"
#include "microvm/runner_links.h"
#include "microvm/status.h"
#include "microvm/unit.h"
#include "microvm/wrapper.h"
#include "sys/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const struct microvm_host host = {.microvm = "/l/microvm",
                                         .status = "/l/microvm-status",
                                         .shim = "/l/blix-shim",
                                         .path = "/usr/bin:/bin",
                                         .home = "/s/home",
                                         .nix_config = "substituters =\n",
                                         .microvms_dir = "/m",
                                         .gcroots_dir = "/g",
                                         .run_dir = "/r",
                                         .state_dir = "/s",
                                         .cgroups = "/c/vm-x",
                                         .systemd_dir = "/u",
                                         .single_user = true};

static void expect_words(struct argv *argv, const char *const *words, size_t n)
{
	assert_int_equal(argv->n, n);
	for (size_t i = 0; i < n; i++)
		assert_string_equal(argv->items[i], words[i]);
	assert_null(argv->items[n]);
	argv_done(argv);
}

static void command_lines(void **state)
{
	static const char *const create[] = {"/l/microvm", "-f", "path:/s/vms/web/flake", "-c",
	                                     "web"};
	static const char *const update[] = {"/l/microvm", "-u", "web"};
	static const char *const start[] = {
		"/l/blix-shim", "--run",   "/r/vms/web", "--console", "/s/vms/web/console.log",
		"--uid",        "7",       "--epoch",    "9",         "--cgroup",
		"/c/vm-x-7-9",  "--chdir", "/m/web",     "--",        "/l/microvm",
		"-r",           "web"};
	static const char *const env[] = {
		"PATH=/usr/bin:/bin",
		"HOME=/s/home",
		"LANG=C.UTF-8",
		("NIX_CONFIG=experimental-features = nix-command flakes\n"
	         "build-users-group =\nsandbox = false\nsubstituters =\n"),
		"MICROVM_STATE_DIR=/m",
		"MICROVM_GCROOTS_DIR=/g",
		"TMPDIR=/t",
		"BLIX_ACCEL=tcg"};
	struct argv argv = ARGV_EMPTY;

	(void)state;
	microvm_argv_create(&host, "/s/vms/web/flake", "web", &argv);
	expect_words(&argv, create, array_size(create));
	microvm_argv_update(&host, "web", &argv);
	expect_words(&argv, update, array_size(update));
	microvm_argv_start(&host, "web", 7, 9, &argv);
	expect_words(&argv, start, array_size(start));
	microvm_env(&host, "/t", "tcg", &argv);
	expect_words(&argv, env, array_size(env));
}

static void wrapper_urls(void **state)
{
	static const char *const bad[] = {"",           "-x",         "path:/a\"b", "path:/a${b}",
	                                  "path:/a\\b", "path:/a\nb", "path:/a#b",  "path:/a b",
	                                  "path:/a;b"};

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(wrapper_url_check(bad[i], NULL), -BLIX_E_SPEC);
	assert_int_equal(wrapper_url_check("github:me/vms/0123?narHash=sha256-a%2Fb%3D", NULL), 0);
	assert_true(wrapper_url_is_locked("path:/nix/store/x-source?narHash=sha256-a"));
	assert_true(wrapper_url_is_locked("git+https://h/r?ref=main&rev=0123"));
	assert_false(wrapper_url_is_locked("path:/srv/narHash="));
	assert_false(wrapper_url_is_locked("github:me/vms"));
}

static char *read_whole(const char *dir, const char *name)
{
	cleanup(freep) char *path = xasprintf("%s/%s", dir, name);
	struct buf text;

	buf_init(&text, LIMIT_FILE);
	assert_int_equal(file_read(path, &text, NULL), 0);
	return buf_take(&text);
}

static void wrapper_files(void **state)
{
	char dir[] = "/tmp/blix-test-XXXXXX";
	struct vm_spec spec = {.attr = (char[]){"demo"}, .hypervisor = (char[]){""}, .cpus = 2};
	char *text;

	(void)state;
	assert_non_null(mkdtemp(dir));
	spec.memory_bytes = 256ULL << 20;
	assert_int_equal(wrapper_write(dir, "web", &spec, "path:/b?narHash=x", "{}\n", NULL), 0);
	text = read_whole(dir, "spec.json");
	assert_string_equal(text, "{\"name\":\"web\",\"attr\":\"demo\",\"plain\":false,"
	                          "\"microvm\":{\"vcpu\":2,\"mem\":256}}");
	free(text);
	text = read_whole(dir, "flake.nix");
	assert_non_null(strstr(text, "\n  inputs.base.url = \"path:/b?narHash=x\";\n"));
	free(text);
	text = read_whole(dir, "flake.lock");
	assert_string_equal(text, "{}\n");
	free(text);
	spec.cpus = 0;
	spec.memory_bytes = 0;
	spec.plain = true;
	assert_int_equal(wrapper_write(dir, "web", &spec, "path:/b?narHash=x", "", NULL), 0);
	text = read_whole(dir, "spec.json");
	assert_string_equal(text, "{\"name\":\"web\",\"attr\":\"demo\",\"plain\":true,"
	                          "\"microvm\":{}}");
	free(text);
	text = xasprintf("%s/flake.lock", dir);
	assert_false(file_exists(text));
	free(text);
	assert_int_equal(wrapper_write(dir, "web", &spec, "path:/b\";x", "", NULL), -BLIX_E_SPEC);
	assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void versions(void **state)
{
	(void)state;
	assert_int_equal(nix_version_parse("nix (Nix) 2.8.0\n"), 2008);
	assert_int_equal(nix_version_parse("nix (Nix) 2.18.1"), 2018);
	assert_int_equal(nix_version_parse("nix (Determinate Nix 3.1) 2.26"), 3001);
	assert_int_equal(nix_version_parse("what"), 0);
	assert_int_equal(nix_version_parse(""), 0);
	assert_true(nix_version_parse("nix (Nix) 2.3pre1") < NIX_VERSION_INPUTS);
}

static void metadata(void **state)
{
	static const char path_old[] =
		"{\"locked\":{\"lastModified\":1,\"narHash\":\"sha256-5/h+x=\",\"path\":\"/src\","
		"\"type\":\"path\"},\"locks\":{\"nodes\":{\"root\":{}},\"root\":\"root\","
		"\"version\":7},\"path\":\"/nix/store/a-source\",\"url\":\"path:/src?narHash=..\"}";
	static const char github_old[] =
		"{\"locked\":{\"type\":\"github\",\"rev\":\"01\"},\"locks\":{\"nodes\":{\"root\":{}"
		","
		"\"nixpkgs\":{},\"microvm\":{}}},\"path\":\"/nix/store/a-source\","
		"\"url\":\"github:me/vms/01\"}";
	static const char github_new[] =
		"{\"locked\":{\"type\":\"github\"},\"lockedUrl\":\"github:me/vms/02?narHash=x\","
		"\"url\":\"github:me/vms\"}";
	char *url = NULL;
	unsigned inputs = 9;

	(void)state;
	assert_int_equal(nix_metadata_parse(path_old, strlen(path_old), &url, &inputs, NULL), 0);
	assert_string_equal(url, "path:/nix/store/a-source?narHash=sha256-5%2Fh%2Bx%3D");
	assert_int_equal(wrapper_url_check(url, NULL), 0);
	assert_true(wrapper_url_is_locked(url));
	assert_int_equal(inputs, 0);
	free(url);
	assert_int_equal(nix_metadata_parse(github_old, strlen(github_old), &url, &inputs, NULL),
	                 0);
	assert_string_equal(url, "github:me/vms/01");
	assert_int_equal(inputs, 2);
	free(url);
	assert_int_equal(nix_metadata_parse(github_new, strlen(github_new), &url, &inputs, NULL),
	                 0);
	assert_string_equal(url, "github:me/vms/02?narHash=x");
	assert_int_equal(inputs, 0);
	free(url);
	assert_true(nix_metadata_parse("{}", 2, &url, &inputs, NULL) < 0);
	assert_true(nix_metadata_parse("{\"locked\":3}", 12, &url, &inputs, NULL) < 0);
	assert_true(nix_metadata_parse("{\"lock", 6, &url, &inputs, NULL) < 0);
}

static void resolved(void **state)
{
	static const char text[] =
		"{\"canShutdown\":true,\"devices\":[{\"bus\":\"pci\",\"path\":\"0000:00\"}],"
		"\"hostName\":\"demo\",\"hypervisor\":\"qemu\",\"interfaces\":[],\"mem\":256,"
		"\"runner\":\"/nix/store/k-microvm-qemu-demo\",\"shares\":[{\"tag\":\"ro\","
		"\"source\":\"/nix/store\",\"readOnly\":false},{\"tag\":\"a\",\"source\":\"/srv\","
		"\"readOnly\":true},{\"tag\":\"b\",\"source\":\"/srv\",\"readOnly\":false}],"
		"\"socket\":null,\"vcpu\":2,\"volumes\":[{\"image\":\"var.img\"},"
		"{\"image\":\"/dev/vg/x\"}]}";
	static const char *const bad[] = {
		"{}",
		"{\"vcpu\":0,\"mem\":1,\"hypervisor\":\"q\",\"runner\":\"/x\"}",
		"{\"vcpu\":1,\"mem\":0,\"hypervisor\":\"q\",\"runner\":\"/x\"}",
		"{\"vcpu\":1,\"mem\":99999999999,\"hypervisor\":\"q\",\"runner\":\"/x\"}",
		"{\"vcpu\":1,\"mem\":1,\"hypervisor\":3,\"runner\":\"/x\"}",
		"{\"vcpu\":1,\"mem\":1,\"hypervisor\":\"q\",\"runner\":\"x\"}",
		"{\"vcpu\":1,\"mem\":1,\"hypervisor\":\"q\",\"runner\":\"/x\",\"shares\":{}}",
		"{\"link\":}"};
	struct vm_resolved found;

	(void)state;
	assert_int_equal(nix_resolved_parse(text, strlen(text), &found, NULL), 0);
	assert_int_equal(found.cpus, 2);
	assert_int_equal(found.memory_bytes, 256ULL << 20);
	assert_string_equal(found.hypervisor, "qemu");
	assert_string_equal(found.out_path, "/nix/store/k-microvm-qemu-demo");
	assert_int_equal(found.n_volumes, 1);
	assert_int_equal(found.n_shares, 1);
	assert_int_equal(found.n_devices, 1);
	free(found.hypervisor);
	free(found.out_path);
	free(found.base_url);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_true(nix_resolved_parse(bad[i], strlen(bad[i]), &found, NULL) < 0);
}

static const struct {
	const char *text, *reason, *shows;
	enum blix_code code;
	bool retry;
} failures[] = {
	{"error: getting status of '/srv/nodir': No such file or directory\n"
         "(use '--show-trace' to show detailed location information)\n",
         "flake-missing", "getting status of '/srv/nodir'", BLIX_E_IMAGE, false},
	{"error: getting status of '/nix/store/0c-source/flake.nix': No such file or directory\n",
         "flake-missing", "flake.nix", BLIX_E_IMAGE, false},
	{"error: getting status of '/nix/store/00-source': No such file or directory\n",
         "flake-source-gone", "/nix/store/00-source", BLIX_E_IMAGE, false},
	{"\033[31;1merror:\033[0m syntax error, unexpected '}', expecting end of file\n\n"
         "       at /nix/store/0i-source/flake.nix:13:1:\n\n           13| }}\n             | ^\n",
         "flake-eval-failed", "flake.nix:13:1", BLIX_E_IMAGE, false},
	{"error: this guest is not for you\n", "flake-eval-failed", "not for you", BLIX_E_IMAGE,
         false},
	{"error: attribute 'demo' missing\n\n       at /nix/store/i8-source/flake.nix:7:16:\n\n"
         "            7|       system = base.nixosConfigurations.${spec.attr};\n",
         "flake-attribute-missing", "attribute 'demo' missing", BLIX_E_IMAGE, false},
	{"error: flake 'path:/x' does not provide attribute 'packages.x86_64-linux.a'\n",
         "flake-attribute-missing", "does not provide", BLIX_E_IMAGE, false},
	{"error: attribute 'extendModules' missing\n", "no-extend-modules", "extendModules",
         BLIX_E_IMAGE, false},
	{"error: attribute 'declaredRunner' missing\n", "not-a-microvm", "declaredRunner",
         BLIX_E_IMAGE, false},
	{"building '/nix/store/md-x.drv'...\n"
         "error: builder for '/nix/store/md-x.drv' failed with exit code 3;\n"
         "       last 2 log lines:\n       > compiling\n       > cc: fatal error: no input files\n"
         "       For full logs, run 'nix log /nix/store/md-x.drv'.\n",
         "build-failed", "> cc: fatal error: no input files", BLIX_E_IMAGE, false},
	{"error: Cannot build '/nix/store/md-x.drv'.\n       Reason: builder failed with exit code "
         "3.\n       > oops\n",
         "build-failed", "> oops", BLIX_E_IMAGE, false},
	{"error: builder for '/nix/store/md-x.drv' failed with exit code 1;\n"
         "       > write: No space left on device\n",
         "disk-full", "No space left", BLIX_E_DISKFULL, true},
	{"warning: error: unable to download 'https://a': Couldn't resolve host name (6); "
         "retrying\nerror: unable to download 'https://a': Couldn't resolve host name (6)\n",
         "fetch-failed", "unable to download", BLIX_E_IMAGE, true},
	{"fatal: '/nowhere' does not appear to be a git repository\n"
         "error: program 'git' failed with exit code 128\n",
         "fetch-failed", "program 'git' failed", BLIX_E_IMAGE, true},
	{"error: NAR hash mismatch in input 'path:/x'\n", "flake-changed", "NAR hash", BLIX_E_IMAGE,
         false},
	{"error: experimental Nix feature 'nix-command' is disabled; use\n", "nix-misconfigured",
         "nix-command", BLIX_E_IMAGE, false},
	{"mv: cannot move\n", "command-failed", "cannot move", BLIX_E_IMAGE, true},
};

static void explained(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_size(failures); i++) {
		struct blix_error err = {0};
		bool retry = nix_error_explain(failures[i].text, &err);

		assert_string_equal(blix_error_reason(&err), failures[i].reason);
		assert_int_equal(err.code, failures[i].code);
		assert_int_equal(retry, failures[i].retry);
		assert_non_null(strstr(err.text, failures[i].shows));
		assert_null(strstr(err.text, "show-trace"));
		assert_null(strchr(err.text, '\033'));
		assert_null(strstr(err.text, "warning:"));
		assert_true(err.hint[0] != '\0');
	}
}

static void long_logs(void **state)
{
	struct buf text;
	struct blix_error err = {0};
	char *tail;

	(void)state;
	buf_init(&text, 1u << 20);
	(void)buf_add_string(&text, "error: builder for '/nix/store/a.drv' failed with code 1;\n");
	for (unsigned i = 0; i < 2000; i++)
		(void)buf_printf(&text, "       > line %u \xff\xc3\xa9\n", i);
	(void)nix_error_explain(text.data, &err);
	assert_true(strncmp(err.text, "error: builder for", 18) == 0);
	assert_non_null(strstr(err.text, "> line 1999 ?\xc3\xa9"));
	assert_true(strlen(err.text) <= LIMIT_MESSAGE);
	assert_true(strlen(err.text) > LIMIT_MESSAGE / 2);
	tail = nix_error_tail(text.data);
	assert_true(strlen(tail) <= LIMIT_MESSAGE);
	assert_true(strncmp(tail, "       > line ", 14) == 0);
	free(tail);
	buf_done(&text);
}

static void statuses(void **state)
{
	static const char text[] =
		"{\"items\":[{\"name\":\"web\",\"ours\":{\"cluster\":\"c1\",\"uid\":7,\"epoch\":9},"
		"\"runner\":\"/nix/store/r\",\"booted\":\"/nix/store/r\",\"state\":\"running\","
		"\"process\":{\"pid\":100,\"startTime\":5,\"bootId\":\"b\",\"shimPid\":99,"
		"\"shimStartTime\":4,\"startedAt\":\"2026-11-23T18:30:00.123Z\"}},"
		"{\"name\":\"old\",\"foreign\":true,\"state\":\"stopped\",\"exit\":{\"signal\":9,"
		"\"endedAt\":\"1970-01-01T00:00:01Z\"}},"
		"{\"name\":\"odd\",\"error\":\"current dangles\"}]}";
	static const char *const bad[] = {
		"",
		"{}",
		"{\"items\":{}}",
		"{\"items\":[{}]}",
		"{\"items\":[{\"name\":\"a\",\"process\":{\"pid\":-1}}]}",
		"{\"items\":[{\"name\":\"a\",\"process\":{\"startedAt\":\"now\"}}]}",
		"{\"items\":[{\"name\":\"a\",\"exit\":{\"exitCode\":256}}]}"};
	struct status status;
	const struct status_vm *vm;

	(void)state;
	assert_int_equal(status_parse(text, strlen(text), &status, NULL), 0);
	assert_int_equal(status.n, 3);
	vm = status_find(&status, "web");
	assert_true(vm->ours);
	assert_int_equal(vm->uid, 7);
	assert_int_equal(vm->epoch, 9);
	assert_int_equal(vm->state, STATUS_RUNNING);
	assert_int_equal(vm->shim_pid, 99);
	assert_int_equal(vm->started_ms, 1795458600123ULL);
	assert_false(vm->exited);
	vm = status_find(&status, "old");
	assert_false(vm->ours);
	assert_int_equal(vm->exit_code, 137);
	assert_int_equal(vm->ended_ms, 1000);
	vm = status_find(&status, "odd");
	assert_int_equal(vm->state, STATUS_UNKNOWN);
	assert_string_equal(vm->error, "current dangles");
	assert_null(status_find(&status, "none"));
	status_done(&status);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_true(status_parse(bad[i], strlen(bad[i]), &status, NULL) < 0);
}

static void unit_words(void **state)
{
	static const char *const show[] = {
		"systemctl",
		"show",
		"--no-pager",
		("--property=LoadState,ActiveState,SubState,FragmentPath,DropInPaths,Environment,"
	         "WorkingDirectory,NeedDaemonReload,MainPID,InvocationID"),
		"--",
		"microvm@web.service"};
	static const char *const stop[] = {"systemctl", "stop", "--", "microvm@web.service",
	                                   "microvm-*@web.service"};
	const struct unit_run run = {.name = "web",
	                             .uid = 7,
	                             .epoch = 2,
	                             .steps = UNIT_TAP | UNIT_VIRTIOFSD,
	                             .accel = "tcg",
	                             .systemctl = "/b/systemctl",
	                             .rm = "/b/rm"};
	struct argv argv = ARGV_EMPTY;
	size_t tap_up = 0, tap_down = 0, shim = 0;
	char *text;

	(void)state;
	unit_argv_show(UNIT_HOST, "web", &argv);
	expect_words(&argv, show, array_size(show));
	unit_argv_stop("web", &argv);
	expect_words(&argv, stop, array_size(stop));
	text = unit_drop_in(&host, "web", 7, 2, "tcg", "/b/systemctl");
	assert_non_null(strstr(text, "\nRestart=no\n"));
	assert_non_null(strstr(text, "\nAfter=microvm-blix-console@web.service\n"));
	assert_non_null(strstr(text, "\nStandardInput=file:/r/vms/web/terminal\n"));
	free(text);
	text = unit_console(&host);
	assert_non_null(strstr(text, "\nExecStart=/l/blix-shim --hold --run /r/vms/%i --console "
	                             "/s/vms/%i/console.log\n"));
	free(text);
	unit_argv_run(&host, &run, &argv);
	for (size_t i = 0; i < argv.n; i++) {
		if (strcmp(argv.items[i], "--property=ExecStartPre=/m/web/booted/bin/tap-up") == 0)
			tap_up = i;
		if (strcmp(argv.items[i], "--property=ExecStopPost=-/m/web/booted/bin/tap-down") ==
		    0)
			tap_down = i;
		if (strcmp(argv.items[i], "--") == 0 && shim == 0)
			shim = i + 1;
		assert_null(strstr(argv.items[i], "macvtap"));
		assert_null(strstr(argv.items[i], "--cgroup"));
		assert_null(strstr(argv.items[i], "NIX_CONFIG"));
	}
	assert_true(tap_up > 0 && tap_down > tap_up && shim > tap_down);
	assert_string_equal(argv.items[shim], "/l/blix-shim");
	assert_string_equal(argv.items[argv.n - 1], "web");
	argv_done(&argv);
}

static void unit_answers(void **state)
{
	static const char good[] =
		"MainPID=12\nLoadState=loaded\nActiveState=active\n"
		"SubState=running\nWorkingDirectory=!/m/web\n"
		"Environment=A=1 BLIX_UID=70 BLIX_EPOCH=1\nNeedDaemonReload=yes\n"
		"DropInPaths=/u/microvm@web.service.d/50-blix.conf\n"
		"FragmentPath=/e/microvm@.service\n";
	static const char *const bad[] = {
		"",
		"nonsense\n",
		"LoadState=loaded\nActiveState=active\n",
		"LoadState=loaded\nLoadState=loaded\nActiveState=active\nSubState=x\n",
		"LoadState=loaded\nActiveState=active\nSubState=x\nMainPID=-1\n",
		"LoadState=loaded\nActiveState=active\nSubState=x\nNeedDaemonReload=maybe\n",
		"LoadState=loaded\nActiveState=active\nSubState=x\nId=web\n",
		("LoadState=loaded\nActiveState=active\nSubState=x\nInvocationID=1\n"
	         "InvocationID=1\n")};
	struct unit_state unit;
	struct blix_error err;
	bool other;

	(void)state;
	assert_int_equal(unit_parse(good, strlen(good), &unit, &err), 0);
	assert_int_equal(unit.main_pid, 12);
	assert_true(unit.stale);
	assert_string_equal(unit.directory, "/m/web");
	assert_true(unit_is_at_work(&unit));
	assert_true(unit_is_of(&unit, 70, &other));
	assert_false(other);
	assert_false(unit_is_of(&unit, 7, &other));
	assert_true(other);
	unit_state_done(&unit);
	for (size_t i = 0; i < array_size(bad); i++)
		assert_true(unit_parse(bad[i], strlen(bad[i]), &unit, &err) < 0);
	assert_true(unit_path_is_plain("/var/lib/blix"));
	assert_false(unit_path_is_plain("/var/lib/b lix"));
	assert_false(unit_path_is_plain("/var/lib/$HOME"));
	assert_false(unit_path_is_plain("relative"));
}

/* The lists are of a guest's author, and the names become paths. */
static void links(void **state)
{
	static const char taps[] = "t0\n\n../../etc\n.\na/b\n  t1\nt2",
			  macvtaps[] = "m0 02:00:00:00:00:01 eth0 bridge\n";
	char dir[] = "/tmp/blix.XXXXXX";
	cleanup(freep) char *share = NULL, *tap = NULL, *macvtap = NULL;
	cleanup(buf_done) struct buf names;

	(void)state;
	assert_non_null(mkdtemp(dir));
	share = xasprintf("%s/share/microvm", dir);
	tap = xasprintf("%s/tap-interfaces", share);
	macvtap = xasprintf("%s/macvtap-interfaces", share);
	buf_init(&names, 256);
	assert_false(runner_links(dir, RUNNER_TAPS, &names));
	assert_int_equal(file_make_dirs(share, 0755, NULL), 0);
	assert_int_equal(file_put(tap, taps, strlen(taps), 0644, NULL), 0);
	assert_int_equal(file_put(macvtap, macvtaps, strlen(macvtaps), 0644, NULL), 0);
	assert_true(runner_links(dir, RUNNER_TAPS, &names));
	assert_true(runner_links(dir, RUNNER_MACVTAPS, &names));
	assert_string_equal(names.data, "t0\nt2\nm0\n");
	assert_int_equal(file_remove_tree(dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(command_lines), cmocka_unit_test(unit_words),
		cmocka_unit_test(unit_answers),  cmocka_unit_test(wrapper_urls),
		cmocka_unit_test(wrapper_files), cmocka_unit_test(versions),
		cmocka_unit_test(metadata),      cmocka_unit_test(resolved),
		cmocka_unit_test(explained),     cmocka_unit_test(long_logs),
		cmocka_unit_test(statuses),      cmocka_unit_test(links),
	};

	return cmocka_run_group_tests_name("microvm", tests, NULL, NULL);
}
