/* TLS without a loop: see direct.h. */
#include "tls/direct.h"

#include "tls/internal.h"

#include <errno.h>
#include <poll.h>

struct tls_direct {
	gnutls_session_t session;
	const struct tls_credentials *credentials;
	struct tls_set *set;
};

int tls_direct_judge(const struct tls_credentials *credentials, struct gnutls_session_int *session,
                     struct blix_error *err)
{
	struct tls_identity peer;
	int rc = credentials_peer(credentials, session, &peer, err);

	if (rc == 0 && peer.kind == TLS_USER) {
		rc = blix_fail(err, BLIX_E_DENIED, "it shows the certificate of the user %s",
		               peer.name);
		blix_reason(err, "other-node");
	}
	return rc == -(int)BLIX_E_NOTFOUND
	               ? blix_fail(err, BLIX_E_DENIED, "it shows no certificate")
	               : rc;
}

int tls_direct_open(const struct tls_credentials *credentials, int fd, struct tls_direct **ret,
                    struct blix_error *err)
{
	struct tls_direct *tls = xcalloc(1, sizeof(*tls));
	int rc = gnutls_init(&tls->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);

	if (rc < 0) {
		free(tls);
		return tls_fail(err, BLIX_E_NOMEM, rc, "begin a TLS session");
	}
	tls->credentials = credentials;
	tls->set = tls_set_hold(credentials);
	rc = gnutls_priority_set_direct(tls->session, TLS_PRIORITIES, NULL);
	if (rc == 0)
		rc = gnutls_credentials_set(tls->session, GNUTLS_CRD_CERTIFICATE, tls->set->gnutls);
	if (rc < 0) {
		tls_direct_free(tls);
		return tls_fail(err, BLIX_E_INTERNAL, rc, "begin a TLS session");
	}
	gnutls_transport_set_int(tls->session, fd);
	*ret = tls;
	return 0;
}

void tls_direct_free(struct tls_direct *tls)
{
	if (tls == NULL)
		return;
	(void)gnutls_bye(tls->session, GNUTLS_SHUT_WR);
	gnutls_deinit(tls->session);
	tls_set_drop(tls->set);
	free(tls);
}

int tls_direct_shake(struct tls_direct *tls, struct blix_error *err)
{
	int rc = gnutls_handshake(tls->session);

	if (rc < 0 && !gnutls_error_is_fatal(rc))
		return 0;
	if (rc < 0)
		return tls_fail(err, BLIX_E_UNAVAILABLE, rc, "TLS");
	rc = tls_direct_judge(tls->credentials, tls->session, err);
	return rc < 0 ? rc : 1;
}

short tls_direct_events(const struct tls_direct *tls)
{
	return gnutls_record_get_direction(tls->session) == 1 ? POLLOUT : POLLIN;
}

static ssize_t moved(ssize_t n)
{
	if (n >= 0)
		return n;
	/* One that is killed says no goodbye: the connection has ended all the same. */
	if (n == GNUTLS_E_PREMATURE_TERMINATION)
		return 0;
	errno = gnutls_error_is_fatal((int)n) ? ECONNRESET : EAGAIN;
	return -1;
}

ssize_t tls_direct_read(struct tls_direct *tls, void *bytes, size_t n)
{
	return moved(gnutls_record_recv(tls->session, bytes, n));
}

ssize_t tls_direct_write(struct tls_direct *tls, const void *bytes, size_t n)
{
	ssize_t done = moved(gnutls_record_send(tls->session, bytes, n));

	if (done != 0 || n == 0)
		return done;
	errno = ECONNRESET;
	return -1;
}
