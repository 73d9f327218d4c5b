/* Joining a cluster: see joining.h.
 *
 * Happy path: address -> resolved -> connected -> session, pinned -> request written -> answer read
 * to its end -> checked against the pin -> files.
 *
 * Failure: whatever keeps an address from answering leads to the next one; since the same key may
 * ask again, that holds after the secret was sent too. What a server answers for good (used,
 * expired, another name) ends it. A session that is refused says why: the CA is another, and the
 * secret has not left. */
#include "node/joining.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/upgrade.h"
#include "base/version.h"
#include "core/command.h"
#include "core/object_json.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/seal.h"
#include "sys/wire.h"
#include "tls/session.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

#define TRY_MS                                                                                     \
	15000 /* one address, from its name to its answer: a follower may wait for its leader */

struct joining {
	uv_loop_t *loop;
	const char *state_dir;
	struct join_token token;
	struct node_identity identity;
	char addresses[LIMIT_TOKEN_ADDRESSES + 1][JOIN_ADDRESS];
	size_t n_addresses, next;
	struct buf key, request; /* PEM */

	/* Of the address that is asked. */
	uv_getaddrinfo_t resolve;
	uv_timer_t timer;
	struct tls_session *session;
	struct wire *wire;
	struct buf answer;
	bool resolving, wire_closing, over;
	int status;
	struct blix_error err;

	joining_cb cb; /* NULL: cancelled */
	void *data;
	void (*gone)(void *data);
	void *gone_data;
};

static void joining_next(struct joining *j);

static void joining_free(uv_handle_t *handle)
{
	struct joining *j = handle->data;

	if (j->cb != NULL)
		j->cb(j->data, j->status, &j->identity, j->status < 0 ? &j->err : NULL);
	if (j->gone != NULL)
		j->gone(j->gone_data);
	join_token_wipe(&j->token);
	seal_wipe(&j->key);
	seal_wipe(&j->answer);
	buf_done(&j->request);
	free(j);
}

/* Goes on when nothing of the last address is left. */
static void settle(struct joining *j)
{
	if (j->resolving || j->session != NULL || j->wire != NULL || j->wire_closing)
		return;
	if (j->over)
		uv_close((uv_handle_t *)&j->timer, joining_free);
	else
		joining_next(j);
}

static void wire_gone(void *data)
{
	struct joining *j = data;

	j->wire_closing = false;
	settle(j);
}

/* Ends what is under way with this address. */
static void leave(struct joining *j)
{
	(void)uv_timer_stop(&j->timer);
	if (j->wire != NULL) {
		j->wire_closing = true;
		wire_close(take(j->wire), wire_gone, j);
	}
	if (j->session != NULL)
		tls_session_close(j->session); /* its closed() comes */
	if (j->resolving)
		(void)uv_cancel((uv_req_t *)&j->resolve);
}

static void finish(struct joining *j, int status)
{
	j->over = true;
	j->status = status;
	leave(j);
}

/* One address could not be asked, for the reason in j->err. */
static void pass(struct joining *j)
{
	if (j->next >= j->n_addresses)
		finish(j, -(int)j->err.code);
	else
		leave(j);
}

static int read_pem(const cJSON *root, const char *key, struct buf *ret, struct blix_error *err)
{
	const char *text = NULL;
	int rc = json_get_string(root, key, &text, err);

	if (rc < 0 || text == NULL)
		return rc;
	buf_init(ret, LIMIT_PEM);
	return buf_add_string(ret, text);
}

/* The certificate must be ours: for this name and kind, of the CA that was pinned, and of the key
 * that asked for it. */
static int check_answer(const struct joining *j, const cJSON *root, const struct tls_pem *ca,
                        const struct tls_pem *own, struct tls_identity *ret, struct blix_error *err)
{
	struct tls_credentials *credentials = NULL;
	char fingerprint[TLS_HASH];
	const char *cluster = "";
	uint64_t node = 0;
	int rc;

	if ((rc = authority_fingerprint(&ca->cert, fingerprint, err)) < 0)
		return rc;
	if (strcmp(fingerprint, j->token.ca_fingerprint) != 0)
		return blix_fail(err, BLIX_E_DENIED, "the CA in the answer is not the token's");
	if ((rc = authority_check(&ca->cert, &own->cert, clock_wall_ms(), ret, err)) < 0 ||
	    (rc = json_get_string(root, "cluster", &cluster, err)) < 0 ||
	    (rc = json_get_u64(root, "node", &node, err)) < 0 ||
	    (rc = credentials_open(&ca->cert, own, &credentials, err)) < 0)
		return rc;
	credentials_free(credentials);
	if (ret->kind != j->token.kind || strcmp(ret->name, j->token.name) != 0 ||
	    ret->node != node || strcmp(ret->cluster, cluster) != 0)
		return blix_fail(err, BLIX_E_DENIED, "the certificate is not for this node");
	if (ret->kind == TLS_SERVER && ca->key.len == 0)
		return blix_fail(err, BLIX_E_DENIED, "the key of the CA is missing");
	return 0;
}

static int write_files(struct joining *j, const struct tls_pem *ca, const struct buf *cert,
                       struct blix_error *err)
{
	int rc = 0;

	if (ca->key.len > 0)
		rc = tls_file_write(j->state_dir, TLS_FILE_CA_KEY, &ca->key, err);
	if (rc < 0 || (rc = tls_file_write(j->state_dir, TLS_FILE_CA, &ca->cert, err)) < 0 ||
	    (rc = tls_file_write(j->state_dir, TLS_FILE_NODE, cert, err)) < 0)
		return rc;
	return node_identity_write(j->state_dir, &j->identity, err);
}

static int take_answer(struct joining *j, const cJSON *root, struct blix_error *err)
{
	cleanup(tls_pem_done) struct tls_pem ca;
	cleanup(buf_done) struct buf cert = {0};
	struct tls_identity who;
	uint64_t incarnation = 0;
	int rc;

	tls_pem_init(&ca);
	if ((rc = read_pem(root, "ca", &ca.cert, err)) < 0 ||
	    (rc = read_pem(root, "caKey", &ca.key, err)) < 0 ||
	    (rc = read_pem(root, "certificate", &cert, err)) < 0 ||
	    (rc = json_get_u64(root, "incarnation", &incarnation, err)) < 0)
		return rc;
	rc = check_answer(j, root, &ca, &(struct tls_pem){.cert = cert, .key = j->key}, &who, err);
	if (rc < 0)
		return rc;
	(void)snprintf(j->identity.cluster, sizeof(j->identity.cluster), "%s", who.cluster);
	(void)snprintf(j->identity.name, sizeof(j->identity.name), "%s", who.name);
	j->identity.node = who.node;
	j->identity.kind = who.kind;
	j->identity.incarnation = incarnation;
	j->identity.log = IDENTITY_LOG_NONE;
	return write_files(j, &ca, &cert, err);
}

static bool settles(const struct blix_error *err)
{
	return err->code != BLIX_E_NOLEADER && err->code != BLIX_E_UNAVAILABLE &&
	       err->code != BLIX_E_UNKNOWN && err->code != BLIX_E_TIMEOUT;
}

static void answered(struct joining *j, const struct upgrade_head *head)
{
	cleanup(json_freep) cJSON *root = NULL;
	int rc = json_parse(j->answer.data + head->n, head->content_length, &json_limits_request,
	                    &root, &j->err);

	if (rc < 0) {
		pass(j);
	} else if (head->status != 200) {
		error_parse(root, head->status, &j->err);
		if (settles(&j->err))
			finish(j, -(int)j->err.code);
		else
			pass(j);
	} else {
		finish(j, take_answer(j, root, &j->err));
	}
}

static void on_read(void *data, const char *bytes, size_t n)
{
	struct joining *j = data;
	struct upgrade_head head;
	int rc = buf_add(&j->answer, bytes, n);

	if (rc < 0)
		rc = blix_fail(&j->err, BLIX_E_UNKNOWN, "%s: its answer is too large",
		               j->addresses[j->next - 1]);
	else
		rc = upgrade_read(j->answer.data, j->answer.len, &head, &j->err);
	if (rc < 0)
		pass(j);
	else if (rc > 0 && j->answer.len >= head.n + head.content_length)
		answered(j, &head);
}

static void on_ended(void *data, int status)
{
	struct joining *j = data;

	(void)status;
	(void)blix_fail(&j->err, BLIX_E_UNKNOWN, "%s: it ended the connection without an answer",
	                j->addresses[j->next - 1]);
	pass(j);
}

static int write_request(struct joining *j, struct buf *out)
{
	cleanup(json_freep) cJSON *root = json_object();
	char secret[2 * JOIN_SECRET + 1], raft[JOIN_ADDRESS];
	char *text;
	int rc;

	for (size_t i = 0; i < JOIN_SECRET; i++)
		(void)snprintf(secret + 2 * i, 3, "%02x", j->token.secret[i]);
	(void)node_identity_raft_address(j->identity.advertise, raft, NULL); /* it was checked */
	json_add_string(root, "secret", secret);
	json_add_string(root, "name", j->token.name);
	json_add_string(root, "request", j->request.data);
	json_add_string(root, "address", j->identity.advertise);
	json_add_string(root, "raft", j->token.kind == TLS_SERVER ? raft : "");
	json_add_string(root, "zone", j->identity.zone);
	json_add_string(root, "version", BLIX_VERSION);
	json_add_u64(root, "features", FEATURE_LEVEL);
	text = json_text(root);
	rc = buf_printf(out,
	                "POST /v1/join HTTP/1.1\r\nHost: blix\r\nContent-Type: application/json\r\n"
	                "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
	                strlen(text), text);
	explicit_bzero(text, strlen(text));
	explicit_bzero(secret, sizeof(secret));
	free(text);
	return rc;
}

/* The other end has proved that it is of the token's CA: only now the secret leaves. */
static void on_opened(void *data, int fd, const struct tls_identity *peer)
{
	static const struct wire_events events = {.read = on_read, .ended = on_ended};
	struct joining *j = data;
	struct buf out;
	int rc;

	buf_init(&out, LIMIT_BODY);
	rc = wire_open(j->loop, fd, &events, j, &j->wire, &j->err);
	if (rc == 0 && (peer == NULL || peer->kind != TLS_SERVER))
		rc = blix_fail(&j->err, BLIX_E_DENIED, "%s is no server of the cluster",
		               j->addresses[j->next - 1]);
	if (rc == 0)
		rc = write_request(j, &out);
	if (rc == 0)
		rc = wire_write(j->wire, out.data, out.len, &j->err);
	if (rc < 0)
		pass(j);
	else
		wire_resume(j->wire);
	seal_wipe(&out);
}

static void on_closed(void *data, int status, const struct blix_error *err)
{
	struct joining *j = data;
	bool unasked = j->wire == NULL && !j->wire_closing && !j->over;

	j->session = NULL;
	if (unasked && status < 0) {
		j->err = *err;
		(void)blix_wrap(&j->err, "%s", j->addresses[j->next - 1]);
		if (status == -(int)BLIX_E_DENIED)
			blix_hint(&j->err, "nothing of the token was sent: is this the address of "
			                   "the token's cluster?");
		if (j->next >= j->n_addresses) {
			j->over = true;
			j->status = status;
		}
	}
	settle(j);
}

static int shake_hands(struct joining *j, const struct sockaddr *address, socklen_t n)
{
	static const struct tls_session_events events = {.opened = on_opened, .closed = on_closed};
	struct tls_session_config config = {
		.loop = j->loop,
		.pin = j->token.ca_fingerprint,
	};
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return blix_fail_sys(&j->err, errno, "make a socket");
	if (connect(fd, address, n) < 0 && errno != EINPROGRESS) {
		int rc = blix_fail_sys(&j->err, errno, "connect to %s", j->addresses[j->next - 1]);

		(void)close(fd);
		return rc;
	}
	return tls_session_open(&config, fd, &events, j, &j->session, &j->err);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
	struct joining *j = request->data;
	int rc = -1;

	j->resolving = false;
	if (j->over) {
		settle(j);
	} else if (status < 0) {
		if (status != UV_ECANCELED)
			(void)blix_fail(&j->err, BLIX_E_UNAVAILABLE, "%s: %s",
			                j->addresses[j->next - 1], uv_strerror(status));
	} else {
		rc = shake_hands(j, found->ai_addr, found->ai_addrlen);
	}
	uv_freeaddrinfo(found);
	if (rc < 0 && !j->over) {
		pass(j);
		settle(j);
	}
}

static void on_timeout(uv_timer_t *timer)
{
	struct joining *j = timer->data;

	(void)blix_fail(&j->err, BLIX_E_TIMEOUT, "%s does not answer", j->addresses[j->next - 1]);
	pass(j);
}

static void joining_next(struct joining *j)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	const char *address = j->addresses[j->next++];
	char host[PARSE_HOST], service[8];
	uint16_t port = 0;
	int rc = parse_address(address, host, &port, &j->err);

	buf_clear(&j->answer);
	(void)snprintf(service, sizeof(service), "%u", port);
	if (rc == 0) {
		j->resolve.data = j;
		rc = uv_getaddrinfo(j->loop, &j->resolve, on_resolved, host, service, &hints);
		if (rc < 0)
			(void)blix_fail(&j->err, BLIX_E_UNAVAILABLE, "%s: %s", address,
			                uv_strerror(rc));
	}
	if (rc < 0) {
		finish(j, -(int)j->err.code); /* it was checked before: nothing is to be had here */
		settle(j);
		return;
	}
	j->resolving = true;
	(void)uv_timer_start(&j->timer, on_timeout, TRY_MS, 0);
}

/* The key of an earlier try, or a new one. */
static int own_key(struct joining *j, struct blix_error *err)
{
	int rc;

	buf_init(&j->key, LIMIT_PEM);
	rc = tls_file_read(j->state_dir, TLS_FILE_NODE_KEY, &j->key, err);
	if (rc != -(int)BLIX_E_NOTFOUND)
		return rc;
	buf_done(&j->key);
	rc = tls_key_make(&j->key, err);
	return rc < 0 ? rc : tls_file_write(j->state_dir, TLS_FILE_NODE_KEY, &j->key, err);
}

static int add_address(struct joining *j, const char *address, struct blix_error *err)
{
	char host[PARSE_HOST];
	uint16_t port;
	int rc = parse_address(address, host, &port, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < j->n_addresses; i++) {
		if (strcmp(j->addresses[i], address) == 0)
			return 0;
	}
	if (strlen(address) >= JOIN_ADDRESS)
		return blix_fail(err, BLIX_E_INVALID, "'%.64s' is too long", address);
	memcpy(j->addresses[j->n_addresses++], address, strlen(address) + 1);
	return 0;
}

int joining_start(const struct joining_options *options, joining_cb cb, void *data,
                  struct joining **ret, struct blix_error *err)
{
	struct joining *j = xcalloc(1, sizeof(*j));
	int rc = 0;

	*j = (struct joining){.loop = options->loop,
	                      .state_dir = options->state_dir,
	                      .token = *options->token,
	                      .identity = *options->identity,
	                      .cb = cb,
	                      .data = data};
	buf_init(&j->answer, LIMIT_BODY);
	if (options->address[0] != '\0')
		rc = add_address(j, options->address, err);
	for (size_t i = 0; i < j->token.n_addresses && rc == 0; i++)
		rc = add_address(j, j->token.addresses[i], err);
	if (rc == 0)
		rc = own_key(j, err);
	if (rc == 0)
		rc = tls_request_make(&j->key, &j->request, err);
	if (rc < 0) {
		join_token_wipe(&j->token);
		seal_wipe(&j->key);
		free(j);
		return rc;
	}
	(void)uv_timer_init(j->loop, &j->timer);
	j->timer.data = j;
	*ret = j;
	joining_next(j);
	return 0;
}

void joining_cancel(struct joining *j, void (*gone)(void *data), void *data)
{
	j->cb = NULL;
	j->gone = gone;
	j->gone_data = data;
	if (!j->over)
		finish(j, -(int)BLIX_E_UNAVAILABLE);
}
