/* Sessions of other libraries: see hosted.h.
 *
 * Happy path: open holds the credentials of this moment and gives them to the session; GnuTLS calls
 * on_certificate in the handshake, which judges and remembers the client's; free lets go of them.
 */
#include "tls/hosted.h"

#include "sys/clock.h"
#include "tls/internal.h"

#include <errno.h>
#include <sys/socket.h>

/* 0 lets the handshake go on. */
static int on_certificate(gnutls_session_t session)
{
	struct tls_hosted *hosted = gnutls_session_get_ptr(session);
	int rc = tls_set_peer(hosted->set, session, &hosted->identity, NULL);

	hosted->known = rc == 0;
	return rc == 0 || rc == -(int)BLIX_E_NOTFOUND ? 0 : GNUTLS_E_CERTIFICATE_ERROR;
}

/* The client's Finished is the last message that a server waits for. */
static int on_finished(gnutls_session_t session, unsigned message, unsigned when, unsigned incoming,
                       const gnutls_datum_t *bytes)
{
	struct tls_hosted *hosted = gnutls_session_get_ptr(session);

	(void)message;
	(void)when;
	(void)bytes;
	hosted->shaken = hosted->shaken || incoming != 0;
	return 0;
}

static ssize_t on_pull(gnutls_transport_ptr_t data, void *bytes, size_t n)
{
	struct tls_hosted *hosted = data;
	ssize_t got = -1;
	int sys = EAGAIN;

	if (!hosted->taken || hosted->reading) {
		got = recv(hosted->fd, bytes, n, MSG_DONTWAIT);
		sys = errno;
	}

	if (got < 0 && sys == EAGAIN && !hosted->shaken)
		hosted->waits(hosted->data);
	gnutls_transport_set_errno(hosted->session, sys);
	return got;
}

struct tls_hosted *tls_hosted_open(const struct tls_credentials *credentials,
                                   struct gnutls_session_int *session, int fd,
                                   void (*waits)(void *data), void *data)
{
	struct tls_hosted *hosted = xcalloc(1, sizeof(*hosted));

	hosted->session = session;
	hosted->fd = fd;
	hosted->waits = waits;
	hosted->data = data;
	hosted->set = tls_set_hold(credentials);
	gnutls_session_set_ptr(session, hosted);
	gnutls_transport_set_ptr2(session, hosted, (gnutls_transport_ptr_t)(intptr_t)fd);
	gnutls_transport_set_pull_function(session, on_pull);
	gnutls_session_set_verify_function(session, on_certificate);
	gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_FINISHED, GNUTLS_HOOK_POST,
	                                   on_finished);
	gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
	/* Without its credentials the session shows nothing, and its handshake fails. */
	(void)gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, hosted->set->gnutls);
	return hosted;
}

void tls_hosted_free(struct tls_hosted *hosted)
{
	if (hosted == NULL)
		return;
	tls_set_drop(hosted->set);
	free(hosted);
}

bool tls_hosted_identity(const struct tls_hosted *hosted, struct tls_identity *ret)
{
	if (hosted->known)
		*ret = hosted->identity;
	return hosted->known;
}

size_t tls_hosted_pending(const struct tls_hosted *hosted)
{
	return gnutls_record_check_pending(hosted->session);
}

ssize_t tls_hosted_read(struct tls_hosted *hosted, void *bytes, size_t n)
{
	ssize_t got;

	hosted->reading = true;
	got = gnutls_record_recv(hosted->session, bytes, n);
	hosted->reading = false;
	return got;
}

static int retrieve_nothing(gnutls_session_t session, const gnutls_datum_t *authorities, int n,
                            const gnutls_pk_algorithm_t *algorithms, int n_algorithms,
                            gnutls_pcert_st **ret_certs, unsigned *ret_n, gnutls_privkey_t *ret_key)
{
	(void)session;
	(void)authorities;
	(void)n;
	(void)algorithms;
	(void)n_algorithms;
	(void)ret_certs;
	(void)ret_n;
	(void)ret_key;
	return -1;
}

void *tls_hosted_retrieve(void)
{
	return (void *)retrieve_nothing;
}
