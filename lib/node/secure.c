/* This node among others, over TCP: its certificates, the addresses it listens on, and what its own
 * requests prove themselves by.
 *
 * Happy path: a node that has certificates (STATE/tls) loads them and listens on each address of
 * the configuration and of its identity; a renewed certificate is taken by daemon_reload(), for
 * connections that come after it, in both directions. A node without certificates has its Unix
 * socket only, and addresses to listen on are then an error. */
#include "node/daemon_internal.h"

#include "base/alloc.h"
#include "sys/log.h"
#include "tls/credentials.h"

static void fetch_by(struct daemon *d)
{
	const char *dir = d->config->state_dir;
	cleanup(freep) char *ca = tls_file_path(dir, TLS_FILE_CA);
	cleanup(freep) char *cert = tls_file_path(dir, TLS_FILE_NODE);
	cleanup(freep) char *key = tls_file_path(dir, TLS_FILE_NODE_KEY);

	fetch_pool_tls(d->fetch, &(struct fetch_tls){.ca = ca, .cert = cert, .key = key});
}

static int load(struct daemon *d, struct blix_error *err)
{
	int rc = credentials_load(d->config->state_dir, &d->credentials, err);

	if (rc == -(int)BLIX_E_NOTFOUND && d->config->n_listen == 0 && d->config->identity == NULL)
		return 0;
	if (rc == -(int)BLIX_E_NOTFOUND)
		blix_hint(err, "to listen on TCP needs the certificates of a node below %s/tls",
		          d->config->state_dir);
	return rc;
}

/* The certificate is the one of this node in this cluster, or others would take us for another. */
static int own_check(const struct daemon *d, struct blix_error *err)
{
	const struct tls_identity *own = credentials_own(d->credentials);

	if (own->node == d->config->id && strcmp(own->cluster, d->config->cluster) == 0)
		return 0;
	return blix_fail(
		err, BLIX_E_SPEC,
		"the certificate in %s/tls is of node %llu in cluster %s, this is node %llu "
		"in cluster %s",
		d->config->state_dir, (unsigned long long)own->node, own->cluster,
		(unsigned long long)d->config->id, d->config->cluster);
}

int daemon_credentials(struct daemon *d, struct blix_error *err)
{
	int rc = load(d, err);

	if (rc < 0 || d->credentials == NULL)
		return rc;
	rc = own_check(d, err);
	if (rc == 0)
		fetch_by(d);
	return rc;
}

static int listen_on(struct daemon *d, const char *address, struct blix_error *err)
{
	unsigned port;
	int rc = http_server_listen(d->http, address, d->credentials, &port, err);

	if (rc == 0)
		log_event(LOG_NOTICE, "node.listens", "node=%s address=%s port=%u", d->config->name,
		          address, port);
	return rc;
}

int daemon_secure(struct daemon *d, struct blix_error *err)
{
	int rc = 0;

	if (d->config->identity != NULL)
		rc = listen_on(d, d->config->identity->listen, err);
	for (size_t i = 0; i < d->config->n_listen && rc == 0; i++)
		rc = listen_on(d, d->config->listen[i], err);
	return rc;
}

void daemon_reload(struct daemon *d)
{
	struct blix_error err;

	if (d->credentials == NULL || d->closing)
		return;
	if (credentials_reload(d->credentials, d->config->state_dir, &err) < 0)
		log_error(LOG_ERR, "node.certificate.refused", &err, "node=%s", d->config->name);
	else
		log_event(LOG_NOTICE, "node.certificate.renewed", "node=%s serial=%s",
		          d->config->name, credentials_own(d->credentials)->serial);
}
