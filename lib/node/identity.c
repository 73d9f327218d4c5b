/* The node's identity on disk: see identity.h.
 *
 * Founding writes the CA with its key, the node's key and certificate, and then the identity; a
 * crash before that leaves files that the next try replaces. Reading is strict: a file that says
 * less or more than this binary knows is an error, never a guess. */
#include "node/identity.h"

#include "base/alloc.h"
#include "base/json.h"
#include "sys/clock.h"
#include "sys/file.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <uv.h>

static const char *const logs[] = {
	[IDENTITY_LOG_FIRST] = "first",
	[IDENTITY_LOG_NONE] = "none",
	[IDENTITY_LOG_KEPT] = "kept",
};

static char *identity_path(const char *state_dir)
{
	return xasprintf("%s/identity.json", state_dir);
}

static int take_text(const cJSON *root, const char *key, bool needed, char *ret, size_t size,
                     struct blix_error *err)
{
	const char *text = NULL;
	int rc = json_get_string(root, key, &text, err);

	if (rc < 0)
		return rc;
	if ((text == NULL && needed) || (text != NULL && strlen(text) >= size))
		return blix_fail(err, BLIX_E_CORRUPT, "key '%s' is missing or too long", key);
	(void)snprintf(ret, size, "%s", text != NULL ? text : "");
	return 0;
}

static int take_kind(const cJSON *root, struct node_identity *identity, struct blix_error *err)
{
	char text[16];
	int rc = take_text(root, "role", true, text, sizeof(text), err);

	if (rc < 0)
		return rc;
	for (unsigned kind = TLS_SERVER; kind <= TLS_WORKER; kind++) {
		if (strcmp(text, tls_kind_text((enum tls_kind)kind)) == 0) {
			identity->kind = (enum tls_kind)kind;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_CORRUPT, "key 'role' is neither server nor worker");
}

static int take_log(const cJSON *root, struct node_identity *identity, struct blix_error *err)
{
	char text[16];
	int rc = take_text(root, "log", true, text, sizeof(text), err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < array_size(logs); i++) {
		if (strcmp(text, logs[i]) == 0) {
			identity->log = (enum node_identity_log)i;
			return 0;
		}
	}
	return blix_fail(err, BLIX_E_CORRUPT, "key 'log' is not first, none or kept");
}

static int identity_check(const struct node_identity *identity, struct blix_error *err)
{
	char raft[JOIN_ADDRESS];
	int rc;

	if (!tls_cluster_valid(identity->cluster) || identity->node == 0 ||
	    identity->node > TLS_NODE || identity->incarnation == 0)
		return blix_fail(err, BLIX_E_CORRUPT,
		                 "cluster, node or incarnation is missing or not valid");
	if ((rc = parse_name("name", identity->name, err)) < 0 ||
	    (rc = node_identity_raft_address(identity->listen, raft, err)) < 0 ||
	    (rc = node_identity_raft_address(identity->advertise, raft, err)) < 0)
		return rc;
	return identity->zone[0] != '\0' ? parse_name("zone", identity->zone, err) : 0;
}

static int identity_parse(const cJSON *root, struct node_identity *identity, struct blix_error *err)
{
	static const char *const keys[] = {"cluster", "node",   "name",      "role", "incarnation",
	                                   "log",     "listen", "advertise", "zone", NULL};
	int rc;

	if ((rc = json_only_keys(root, keys, err)) < 0 ||
	    (rc = take_text(root, "cluster", true, identity->cluster, sizeof(identity->cluster),
	                    err)) < 0 ||
	    (rc = json_get_u64(root, "node", &identity->node, err)) < 0 ||
	    (rc = take_text(root, "name", true, identity->name, sizeof(identity->name), err)) < 0 ||
	    (rc = take_kind(root, identity, err)) < 0 ||
	    (rc = json_get_u64(root, "incarnation", &identity->incarnation, err)) < 0 ||
	    (rc = take_log(root, identity, err)) < 0 ||
	    (rc = take_text(root, "listen", true, identity->listen, sizeof(identity->listen),
	                    err)) < 0 ||
	    (rc = take_text(root, "advertise", true, identity->advertise,
	                    sizeof(identity->advertise), err)) < 0 ||
	    (rc = take_text(root, "zone", false, identity->zone, sizeof(identity->zone), err)) < 0)
		return rc;
	return identity_check(identity, err);
}

int node_identity_read(const char *state_dir, struct node_identity *ret, struct blix_error *err)
{
	cleanup(freep) char *path = identity_path(state_dir);
	cleanup(buf_done) struct buf text;
	cleanup(json_freep) cJSON *root = NULL;
	struct node_identity identity = {0};
	int rc;

	buf_init(&text, LIMIT_FILE);
	rc = file_read(path, &text, err);
	if (rc == -(int)BLIX_E_NOTFOUND)
		return rc;
	if (rc == 0)
		rc = json_parse(text.data != NULL ? text.data : "", text.len, &json_limits_request,
		                &root, err);
	if (rc == 0)
		rc = identity_parse(root, &identity, err);
	if (rc < 0)
		return blix_wrap(err, "%s", path);
	*ret = identity;
	return 0;
}

int node_identity_write(const char *state_dir, const struct node_identity *identity,
                        struct blix_error *err)
{
	cleanup(freep) char *path = identity_path(state_dir);
	cleanup(json_freep) cJSON *root = json_object();
	cleanup(freep) char *text = NULL;
	cleanup(freep) char *line = NULL;

	json_add_string(root, "cluster", identity->cluster);
	json_add_u64(root, "node", identity->node);
	json_add_string(root, "name", identity->name);
	json_add_string(root, "role", tls_kind_text(identity->kind));
	json_add_u64(root, "incarnation", identity->incarnation);
	json_add_string(root, "log", logs[identity->log]);
	json_add_string(root, "listen", identity->listen);
	json_add_string(root, "advertise", identity->advertise);
	json_add_string(root, "zone", identity->zone);
	text = json_text(root);
	line = xasprintf("%s\n", text);
	return file_write(path, line, strlen(line), 0600, err);
}

int node_identity_keep_log(const char *state_dir, struct node_identity *identity,
                           struct blix_error *err)
{
	if (identity->log == IDENTITY_LOG_KEPT)
		return 0;
	identity->log = IDENTITY_LOG_KEPT;
	return node_identity_write(state_dir, identity, err);
}

static int address_write(const char *host, unsigned port, char ret[JOIN_ADDRESS],
                         struct blix_error *err)
{
	bool v6 = strchr(host, ':') != NULL;
	int n = snprintf(ret, JOIN_ADDRESS, "%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "", port);

	return n > 0 && n < (int)JOIN_ADDRESS
	               ? 0
	               : blix_fail(err, BLIX_E_INVALID, "the address is too long");
}

int node_identity_raft_address(const char *address, char ret[JOIN_ADDRESS], struct blix_error *err)
{
	char host[PARSE_HOST];
	uint16_t port;
	int rc = parse_address(address, host, &port, err);

	if (rc < 0)
		return rc;
	if (port == 0 || port == UINT16_MAX)
		return blix_fail(err, BLIX_E_INVALID,
		                 "'%s': the port must be from 1 to 65534, since servers hear each "
		                 "other on the next one",
		                 address);
	return address_write(host, port + 1U, ret, err);
}

/* The first address that others may reach; loopback where the host has no other. */
static int own_host(char ret[PARSE_HOST], struct blix_error *err)
{
	uv_interface_address_t *all = NULL;
	int n = 0;
	int rc = uv_interface_addresses(&all, &n);

	if (rc < 0)
		return blix_fail(err, BLIX_E_IO, "look for addresses: %s", uv_strerror(rc));
	(void)snprintf(ret, PARSE_HOST, "127.0.0.1");
	for (int i = 0; i < n; i++) {
		if (all[i].is_internal != 0 || all[i].address.address4.sin_family != AF_INET)
			continue;
		rc = uv_ip4_name(&all[i].address.address4, ret, PARSE_HOST);
		break;
	}
	uv_free_interface_addresses(all, n);
	return rc < 0 ? blix_fail(err, BLIX_E_IO, "look for addresses: %s", uv_strerror(rc)) : 0;
}

int node_identity_addresses(struct node_identity *identity, const char *listen,
                            const char *advertise, struct blix_error *err)
{
	char host[PARSE_HOST] = "", raft[JOIN_ADDRESS];
	uint16_t port = IDENTITY_PORT;
	int rc = 0;

	if (listen[0] != '\0' && (rc = parse_address(listen, host, &port, err)) < 0)
		return blix_wrap(err, "listen");
	if ((rc = address_write(host, port, identity->listen, err)) < 0 ||
	    (rc = node_identity_raft_address(identity->listen, raft, err)) < 0)
		return blix_wrap(err, "listen");
	if (advertise[0] != '\0')
		rc = parse_address(advertise, host, &port, err);
	else if (host[0] == '\0' || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
		rc = own_host(host, err);
	if (rc == 0 && host[0] == '\0')
		rc = blix_fail(err, BLIX_E_INVALID, "a host is needed, as in 10.0.0.1:7443");
	if (rc < 0 || (rc = address_write(host, port, identity->advertise, err)) < 0 ||
	    (rc = node_identity_raft_address(identity->advertise, raft, err)) < 0)
		return blix_wrap(err, "advertise");
	return 0;
}

static int found_certificates(const char *state_dir, const struct node_identity *identity,
                              struct blix_error *err)
{
	cleanup(tls_pem_done) struct tls_pem ca;
	cleanup(tls_pem_done) struct tls_pem own;
	cleanup(buf_done) struct buf request = {0};
	struct tls_identity who = {.kind = identity->kind, .node = identity->node};
	uint64_t now_ms = clock_wall_ms();
	int rc;

	tls_pem_init(&ca);
	tls_pem_init(&own);
	(void)snprintf(who.name, sizeof(who.name), "%s", identity->name);
	if ((rc = authority_make(identity->cluster, now_ms, &ca, err)) < 0 ||
	    (rc = tls_key_make(&own.key, err)) < 0 ||
	    (rc = tls_request_make(&own.key, &request, err)) < 0 ||
	    (rc = authority_issue(&ca, &request, now_ms, &who, &own.cert, err)) < 0)
		return rc;
	if ((rc = tls_file_write(state_dir, TLS_FILE_CA_KEY, &ca.key, err)) < 0 ||
	    (rc = tls_file_write(state_dir, TLS_FILE_CA, &ca.cert, err)) < 0 ||
	    (rc = tls_file_write(state_dir, TLS_FILE_NODE_KEY, &own.key, err)) < 0)
		return rc;
	return tls_file_write(state_dir, TLS_FILE_NODE, &own.cert, err);
}

int node_identity_found(const char *state_dir, struct node_identity *identity,
                        struct blix_error *err)
{
	int rc = tls_cluster_make(identity->cluster, err);

	if (rc < 0)
		return rc;
	identity->node = random_id() % TLS_NODE + 1;
	identity->kind = TLS_SERVER;
	identity->incarnation = 1;
	identity->log = IDENTITY_LOG_FIRST;
	rc = found_certificates(state_dir, identity, err);
	return rc < 0 ? rc : node_identity_write(state_dir, identity, err);
}
