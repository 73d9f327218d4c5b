/* Who asks, and what that may: see api_internal.h.
 *
 * Happy path: the peer of the connection gives rights and a principal; a server that hands a
 * request on names its client in the header Blix-For, whose rights and principal count then. Each
 * route names the least role that it takes; who has less, and any route that names none, is denied.
 * Nothing is believed of whoever is no server. */
#include "node/api_internal.h"

#include "base/alloc.h"
#include "base/parse.h"
#include "sys/clock.h"

#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#define FOR_HEADER "Blix-For"

static bool in_group(uid_t uid, gid_t primary, gid_t wanted)
{
	gid_t groups[64];
	struct passwd entry, *found = NULL;
	int n = (int)array_size(groups);
	char text[4096];

	if (primary == wanted)
		return true;
	if (getpwuid_r(uid, &entry, text, sizeof(text), &found) != 0 || found == NULL)
		return false;
	if (getgrouplist(found->pw_name, found->pw_gid, groups, &n) < 0)
		return false;
	for (int i = 0; i < n; i++) {
		if (groups[i] == wanted)
			return true;
	}
	return false;
}

static bool in_socket_group(const struct config *config, const struct http_peer *peer)
{
	struct group group, *found = NULL;
	char text[4096];

	return config->group[0] != '\0' &&
	       getgrnam_r(config->group, &group, text, sizeof(text), &found) == 0 &&
	       found != NULL && in_group(peer->uid, peer->gid, found->gr_gid);
}

/* Root and the daemon's own user may do everything; the socket's group is an operator. The socket's
 * mode keeps others out; this holds when somebody changed the mode. */
static void who_unix(const struct config *config, const struct http_peer *peer, struct api_who *who)
{
	if (peer->uid == 0 || peer->uid == geteuid()) {
		who->role = TLS_ADMIN;
		who->is_server = true;
	} else if (in_socket_group(config, peer)) {
		who->role = TLS_OPERATOR;
	}
}

/* A connection may last longer than its certificate is good for. */
static int who_certificate(const struct daemon *d, const struct tls_identity *identity,
                           struct api_who *who, struct blix_error *err)
{
	if (identity->not_after_ms <= clock_wall_ms() ||
	    strcmp(identity->cluster, d->config->cluster) != 0) {
		(void)blix_fail(err, BLIX_E_DENIED, "the certificate of %s holds no longer",
		                who->principal);
		blix_reason(err, "certificate-expired");
		return -(int)BLIX_E_DENIED;
	}
	if (state_denied(d->state, identity->node, identity->serial)) {
		(void)blix_fail(err, BLIX_E_DENIED, "the certificate of %s was withdrawn",
		                who->principal);
		blix_reason(err, "certificate-denied");
		return -(int)BLIX_E_DENIED;
	}
	who->role = identity->role;
	who->node = identity->node;
	who->is_server = identity->kind == TLS_SERVER;
	return 0;
}

static bool principal_valid(const char *text)
{
	uint64_t number;

	if (strncmp(text, "user:", 5) == 0)
		return parse_name("user", text + 5, NULL) == 0;
	return (strncmp(text, "uid:", 4) == 0 && parse_u64(text + 4, &number, NULL) == 0) ||
	       (strncmp(text, "node:", 5) == 0 && parse_u64(text + 5, &number, NULL) == 0);
}

/* "operator user:ann" */
static int who_named(const char *text, struct api_who *who, struct blix_error *err)
{
	const char *space = strchr(text, ' ');
	char role[16] = "";

	if (!who->is_server)
		return blix_fail(err, BLIX_E_DENIED, "only a server asks for others");
	if (space != NULL && (size_t)(space - text) < sizeof(role))
		memcpy(role, text, (size_t)(space - text));
	memset(who, 0, sizeof(*who));
	if (space == NULL || !tls_role_find(role, &who->role) || !principal_valid(space + 1) ||
	    strlen(space + 1) >= sizeof(who->principal))
		return blix_fail(err, BLIX_E_INVALID, "header " FOR_HEADER ": '%.80s'", text);
	memcpy(who->principal, space + 1, strlen(space + 1) + 1);
	return 0;
}

int api_who(const struct daemon *d, const struct http_request *request, struct api_who *ret,
            struct blix_error *err)
{
	const struct http_peer *peer = http_peer(request);
	const char *named = http_header(request, FOR_HEADER);
	struct api_who who = {0};
	int rc = 0;

	http_peer_text(peer, who.principal);
	if (peer->kind == HTTP_PEER_UNIX)
		who_unix(d->config, peer, &who);
	else if (peer->kind == HTTP_PEER_CERTIFICATE)
		rc = who_certificate(d, &peer->identity, &who, err);
	if (rc == 0 && named != NULL)
		rc = who_named(named, &who, err);
	if (rc == 0)
		*ret = who;
	return rc;
}

bool api_may(const struct api_who *who, unsigned flags)
{
	switch (flags & API_ROLES) {
	case API_ANYONE:
		return true;
	case API_VIEWER:
		return who->role >= TLS_VIEWER;
	case API_OPERATOR:
		return who->role >= TLS_OPERATOR;
	case API_ADMIN:
		return who->role >= TLS_ADMIN;
	case API_NODE:
		return who->is_server || who->node != 0;
	case API_SERVER:
		return who->is_server;
	default:
		return false;
	}
}

static int denied(const struct daemon *d, const struct http_request *request,
                  const struct api_who *who, struct blix_error *err)
{
	const struct http_peer *peer = http_peer(request);

	(void)blix_fail(err, BLIX_E_DENIED, "%s may not do this", who->principal);
	if (peer->kind == HTTP_PEER_STRANGER) {
		blix_reason(err, "certificate-needed");
		blix_hint(err, "show a certificate of this cluster");
	} else if (peer->kind == HTTP_PEER_UNIX && who->role == TLS_NO_ROLE) {
		blix_hint(err, "be root, or a member of the group '%s'", d->config->group);
	}
	return -(int)BLIX_E_DENIED;
}

int api_allow(void *data, const struct http_request *request, const struct http_route *route,
              struct blix_error *err)
{
	const struct daemon *d = data;
	struct api_who who;
	int rc = api_who(d, request, &who, err);

	if (rc < 0)
		return rc;
	return api_may(&who, route->flags) ? 0 : denied(d, request, &who, err);
}

char *api_principal(const struct daemon *d, const struct http_request *request)
{
	struct api_who who;

	/* api_allow() has let it pass, a moment ago. */
	return xstrdup(api_who(d, request, &who, NULL) == 0 ? who.principal : "");
}

void api_hop(const struct daemon *d, const struct http_request *request,
             const struct config_server *server, struct api_hop *ret)
{
	struct api_who who = {0};

	memset(ret, 0, sizeof(*ret));
	ret->address = server->api;
	tls_dns_name(server->id, d->config->cluster, ret->server_name);
	if (request == NULL || api_who(d, request, &who, NULL) < 0)
		return;
	(void)snprintf(ret->line, sizeof(ret->line), FOR_HEADER ": %s %s", tls_role_text(who.role),
	               who.principal);
	ret->headers[0] = ret->line;
}
