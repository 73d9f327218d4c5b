/* Every route of the API by everybody: the real table and the real judge, over real connections;
 * only the handlers are replaced. What is expected stands here once more, so that a new route
 * without a role, or a role that means something else, fails. */
#include "curl/fetch.h"
#include "node/api_internal.h"
#include "tls/credentials.h"

#include "certificates.h"

#include <grp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define GUARD_MS    30000
#define SERVER_NAME "n1." CLUSTER ".blix"
#define ROUTES_MAX  256

/* One who asks: by a certificate (NULL: by the Unix socket, as the daemon's own user), in the name
 * of whom. `may` are the roles in the order of api_internal.h. */
static const struct asker {
	const char *name;
	const char *in_name_of;
	const char *may; /* viewer operator admin node server anyone */
} askers[] = {
	{NULL, NULL, "111111"},
	{"admin", NULL, "111001"},
	{"operator", NULL, "110001"},
	{"viewer", NULL, "100001"},
	{"server", NULL, "000111"},
	{"worker", NULL, "000101"},
	{"stranger", NULL, "000001"},
	{NULL, "Blix-For: admin uid:0", "111001"},
	{NULL, "Blix-For: viewer user:ann", "100001"},
	{"server", "Blix-For: admin uid:0", "111001"},
	{"server", "Blix-For: operator user:ann", "110001"},
	{"server", "Blix-For: viewer user:ann", "100001"},
	{"worker", "Blix-For: admin user:ann", "000000"},
	{"admin", "Blix-For: admin user:ann", "000000"},
	{"stranger", "Blix-For: admin user:ann", "000000"},
	/* No such role, no principal: 400, whatever the route. */
	{"server", "Blix-For: root user:ann", "------"},
	{"server", "Blix-For: admin", "------"},
	{"server", "Blix-For: admin user:", "------"},
	{"server", "Blix-For: admin nobody:1", "------"},
	{"server", "Blix-For:  user:ann", "------"},
};

static struct fixture {
	uv_loop_t loop;
	uv_timer_t guard;
	char dir[64], path[96], address[32];
	struct config config;
	struct daemon daemon;
	struct tls_pem ca, own;
	struct tls_credentials *credentials;
	struct http_server *server;
	struct fetch_pool *pool;
	bool server_closed, pool_closed;
	struct http_route routes[ROUTES_MAX];
	char principal[HTTP_PEER_TEXT];
} fixture;

static void handle(struct http_request *request, void *data)
{
	cleanup(freep) char *principal = api_principal(data, request);

	(void)snprintf(fixture.principal, sizeof(fixture.principal), "%s", principal);
	http_answer(request, 204, NULL, NULL, 0);
}

static void on_guard(uv_timer_t *guard)
{
	(void)guard;
	fail_msg("nothing happened for %d ms", GUARD_MS);
}

static void issue(struct fixture *f, const char *name, struct tls_identity who)
{
	struct tls_pem pem;

	certificate(&f->ca, who, &pem);
	write_files(f->dir, name, &f->ca, &pem);
	tls_pem_done(&pem);
}

static void files_make(struct fixture *f)
{
	struct tls_pem nothing;

	authority(CLUSTER, &f->ca);
	certificate(&f->ca, a_node(TLS_SERVER, 1), &f->own);
	issue(f, "admin", a_user("adam", TLS_ADMIN));
	issue(f, "operator", a_user("olga", TLS_OPERATOR));
	issue(f, "viewer", a_user("vera", TLS_VIEWER));
	issue(f, "server", a_node(TLS_SERVER, 2));
	issue(f, "worker", a_node(TLS_WORKER, 3));
	tls_pem_init(&nothing);
	write_files(f->dir, "stranger", &f->ca, &nothing);
}

static int set_up(void **state)
{
	struct fixture *f = &fixture;
	struct http_config http = {.socket_path = f->path,
	                           .mode = 0666,
	                           .group = (gid_t)-1,
	                           .routes = f->routes,
	                           .n = api_n_routes,
	                           .data = &f->daemon,
	                           .allow = api_allow};
	unsigned port;

	(void)state;
	assert_true(api_n_routes <= ROUTES_MAX);
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/blix-roles-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(chmod(f->dir, 0755), 0);
	(void)snprintf(f->path, sizeof(f->path), "%.63s/sock", f->dir);
	config_init(&f->config);
	xreplace(&f->config.cluster, CLUSTER);
	f->daemon.config = &f->config;
	f->daemon.state = state_new();
	files_make(f);
	memcpy(f->routes, api_routes, api_n_routes * sizeof(*api_routes));
	for (size_t i = 0; i < api_n_routes; i++) {
		f->routes[i].handler = handle;
		if (f->routes[i].body_max > LIMIT_BODY)
			f->routes[i].body_max = LIMIT_BODY; /* those that go to files */
	}
	assert_int_equal(uv_loop_init(&f->loop), 0);
	(void)uv_timer_init(&f->loop, &f->guard);
	(void)uv_timer_start(&f->guard, on_guard, GUARD_MS, 0);
	assert_int_equal(credentials_open(&f->ca.cert, &f->own, &f->credentials, NULL), 0);
	assert_int_equal(http_server_open(&f->loop, &http, &f->server, NULL), 0);
	assert_int_equal(http_server_listen(f->server, "127.0.0.1:0", f->credentials, &port, NULL),
	                 0);
	(void)snprintf(f->address, sizeof(f->address), "127.0.0.1:%u", port);
	assert_int_equal(fetch_pool_open(&f->loop, &f->pool, NULL), 0);
	return 0;
}

static void is_closed(void *data)
{
	*(bool *)data = true;
}

static int take_down(void **state)
{
	static const char *const names[] = {"admin",  "operator", "viewer",
	                                    "server", "worker",   "stranger"};
	struct fixture *f = &fixture;

	(void)state;
	http_server_close(f->server, is_closed, &f->server_closed);
	fetch_pool_close(f->pool, is_closed, &f->pool_closed);
	while (!f->server_closed || !f->pool_closed)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&f->guard, NULL);
	(void)uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	credentials_free(f->credentials);
	state_free(f->daemon.state);
	tls_pem_done(&f->ca);
	tls_pem_done(&f->own);
	config_done(&f->config);
	for (size_t i = 0; i < array_size(names); i++)
		remove_files(f->dir, names[i]);
	assert_int_equal(rmdir(f->dir), 0);
	return 0;
}

/* "/v1/vms/{name}" with something in the braces. */
static void path_fill(const char *template, char *ret, size_t n)
{
	size_t at = 0;

	for (const char *p = template; *p != '\0' && at + 1 < n; p++) {
		ret[at++] = *p == '{' ? 'x' : *p;
		if (*p == '{')
			p = strchr(p, '}');
	}
	ret[at] = '\0';
}

static void on_answer(void *data, int status, int http_status, struct buf *body, const char *type)
{
	(void)body;
	(void)type;
	*(int *)data = status == 0 ? http_status : status;
}

/* The HTTP status that the asker gets. */
static int ask(struct fixture *f, const struct asker *asker, const char *method,
               const char *template)
{
	const char *headers[] = {asker->in_name_of, NULL};
	struct fetch_options options = {.address = asker->name != NULL ? f->address : f->path,
	                                .server_name = SERVER_NAME,
	                                .method = method,
	                                .headers = headers};
	cleanup(freep) char *ca = xasprintf("%s/%s.ca", f->dir, asker->name);
	cleanup(freep) char *cert = xasprintf("%s/%s.cert", f->dir, asker->name);
	cleanup(freep) char *key = xasprintf("%s/%s.key", f->dir, asker->name);
	bool stranger = asker->name != NULL && strcmp(asker->name, "stranger") == 0;
	char path[256];
	int result = 0;

	path_fill(template, path, sizeof(path));
	options.path = path;
	fetch_pool_tls(f->pool, &(struct fetch_tls){ca, stranger ? NULL : cert, key});
	assert_int_equal(fetch_start(f->pool, &options, on_answer, &result, NULL, NULL), 0);
	while (result == 0)
		(void)uv_run(&f->loop, UV_RUN_ONCE);
	return result;
}

static void everybody_everywhere(void **state)
{
	struct fixture *f = &fixture;

	(void)state;
	for (size_t i = 0; i < array_size(askers); i++) {
		for (size_t k = 0; k < api_n_routes; k++) {
			const struct http_route *route = &api_routes[k];
			unsigned role = route->flags & API_ROLES;
			int wanted, got;

			if (role < API_VIEWER || role > API_ANYONE)
				fail_msg("%s %s has no role", route->method, route->path);
			wanted = askers[i].may[role - 1] == '1'   ? 204
			         : askers[i].may[role - 1] == '0' ? 403
			                                          : 400;
			got = ask(f, &askers[i], route->method, route->path);
			if (got != wanted)
				fail_msg("%s (%s): %s %s: %d, not %d",
				         askers[i].name ? askers[i].name : "own user",
				         askers[i].in_name_of ? askers[i].in_name_of : "itself",
				         route->method, route->path, got, wanted);
		}
	}
}

/* Also of roles that no route has yet, and of numbers that are none. */
static void every_role(void **state)
{
	static const struct {
		struct api_who who;
		const char *may;
	} cases[] = {
		{{.role = TLS_ADMIN, .is_server = true}, "111111"},
		{{.role = TLS_ADMIN}, "111001"},
		{{.role = TLS_OPERATOR}, "110001"},
		{{.role = TLS_VIEWER}, "100001"},
		{{.is_server = true, .node = 2}, "000111"},
		{{.node = 3}, "000101"},
		{{.role = TLS_NO_ROLE}, "000001"},
	};

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		for (unsigned role = 0; role <= API_ROLES; role++) {
			bool wanted = role >= API_VIEWER && role <= API_ANYONE &&
			              cases[i].may[role - 1] == '1';

			assert_int_equal(api_may(&cases[i].who, role), wanted);
			assert_int_equal(api_may(&cases[i].who, role | API_MUTATION), wanted);
		}
	}
}

/* What the routes themselves promise. */
static void sensible(void **state)
{
	(void)state;
	for (size_t i = 0; i < api_n_routes; i++) {
		const struct http_route *route = &api_routes[i];
		unsigned role = route->flags & API_ROLES;
		bool reads = strcmp(route->method, "GET") == 0;

		if (strncmp(route->path, "/v1/internal/", 13) == 0)
			assert_true(role == API_SERVER || role == API_NODE);
		else if (reads)
			assert_true(role != API_ANYONE && (route->flags & API_MUTATION) == 0);
		if ((route->flags & API_MUTATION) != 0)
			assert_true(role != API_VIEWER);
	}
}

static void principals(void **state)
{
	static const struct {
		struct asker asker;
		const char *principal;
	} cases[] = {
		{{"viewer", NULL, NULL}, "user:vera"},
		{{"server", "Blix-For: viewer user:ann", NULL}, "user:ann"},
		{{"server", "Blix-For: operator uid:1000", NULL}, "uid:1000"},
		{{NULL, "Blix-For: admin node:7", NULL}, "node:7"},
	};
	cleanup(freep) char *own = xasprintf("uid:%u", (unsigned)geteuid());
	struct fixture *f = &fixture;

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		assert_int_equal(ask(f, &cases[i].asker, "GET", "/v1/status"), 204);
		assert_string_equal(f->principal, cases[i].principal);
	}
	assert_int_equal(ask(f, &askers[0], "GET", "/v1/status"), 204);
	assert_string_equal(f->principal, own);
}

static void apply(struct command *command)
{
	struct command_result result;

	state_begin(fixture.daemon.state, 1, 1000000);
	state_apply(fixture.daemon.state, command, &result);
	assert_int_equal(result.code, BLIX_OK);
	command_done(command);
}

/* A certificate that is withdrawn under an open connection, and a node, whatever it shows. */
static void denials(void **state)
{
	struct fixture *f = &fixture;
	cleanup(freep) char *path = xasprintf("%s/viewer.cert", f->dir);
	cleanup(buf_done) struct buf cert = {0};
	struct tls_identity vera;
	struct command command;

	(void)state;
	buf_init(&cert, LIMIT_FILE);
	assert_int_equal(file_read(path, &cert, NULL), 0);
	assert_int_equal(authority_check(&f->ca.cert, &cert, clock_wall_ms(), &vera, NULL), 0);
	command_init(&command, COMMAND_CLUSTER_INIT);
	memcpy(command.cluster_init.id, CLUSTER, sizeof(CLUSTER));
	memset(command.cluster_init.ca, 'a', sizeof(command.cluster_init.ca) - 1);
	command.cluster_init.level = FEATURE_LEVEL;
	command.cluster_init.voters = 1;
	command.cluster_init.node = 1;
	(void)snprintf(command.cluster_init.name, sizeof(command.cluster_init.name), "n1");
	memset(command.cluster_init.serial, '1', sizeof(command.cluster_init.serial) - 1);
	apply(&command);
	assert_int_equal(ask(f, &askers[3], "GET", "/v1/status"), 204);
	assert_int_equal(ask(f, &askers[4], "POST", "/v1/internal/propose"), 204);
	command_init(&command, COMMAND_DENY);
	memcpy(command.deny.serial, vera.serial, sizeof(command.deny.serial));
	apply(&command);
	command_init(&command, COMMAND_DENY);
	command.deny.node = 2;
	apply(&command);
	assert_int_equal(ask(f, &askers[3], "GET", "/v1/status"), 403);
	assert_int_equal(ask(f, &askers[4], "POST", "/v1/internal/propose"), 403);
	assert_int_equal(ask(f, &askers[2], "GET", "/v1/status"), 204);
}

/* In a child, which becomes somebody else: the status of `request` as an exit status of 0 to 9. */
static void ask_as(uid_t uid, gid_t gid, const char *request)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char answer[4096] = "";
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, fixture.path, strlen(fixture.path));
	if (fd < 0 || setgroups(0, NULL) < 0 || setgid(gid) < 0 || setuid(uid) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    send(fd, request, strlen(request), MSG_NOSIGNAL) < 0 ||
	    recv(fd, answer, sizeof(answer) - 1, 0) <= 0)
		_exit(9);
	_exit(strncmp(answer, "HTTP/1.1 204 ", 13) == 0   ? 0
	      : strncmp(answer, "HTTP/1.1 403 ", 13) == 0 ? 1
	                                                  : 8);
}

static int status_as(uid_t uid, gid_t gid, const char *request)
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		ask_as(uid, gid, request);
	while (waitpid(pid, &status, WNOHANG) == 0)
		(void)uv_run(&fixture.loop, UV_RUN_NOWAIT);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void unix_users(void **state)
{
	static const char read[] = "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n";
	static const char change[] = "DELETE /v1/vms/x HTTP/1.1\r\nHost: x\r\n\r\n";
	static const char internal[] = "POST /v1/internal/propose HTTP/1.1\r\nHost: x\r\n"
				       "Content-Length: 0\r\n\r\n";
	static const char named[] = "GET /v1/status HTTP/1.1\r\nHost: x\r\n"
				    "Blix-For: admin uid:0\r\n\r\n";
	const struct group *group = getgrgid(1);

	(void)state;
	if (geteuid() != 0 || group == NULL) {
		skip();
		return;
	}
	xreplace(&fixture.config.group, group->gr_name);
	assert_int_equal(status_as(54321, 1, read), 0);
	assert_int_equal(status_as(54321, 1, change), 0);
	assert_int_equal(status_as(54321, 1, internal), 1);
	assert_int_equal(status_as(54321, 1, named), 1);
	assert_int_equal(status_as(54321, 54321, read), 1);
	assert_int_equal(status_as(54321, 54321, change), 1);
	assert_int_equal(status_as(0, 54321, internal), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everybody_everywhere),
		cmocka_unit_test(every_role),
		cmocka_unit_test(sensible),
		cmocka_unit_test(principals),
		cmocka_unit_test(unix_users),
		cmocka_unit_test(denials),
	};

	return cmocka_run_group_tests_name("roles", tests, set_up, take_down);
}
