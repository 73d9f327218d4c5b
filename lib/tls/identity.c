/* Who a certificate says somebody is, and whether that holds: see authority.h.
 *
 * Happy path: the issuer's name is this cluster's CA -> its signature holds -> the dates hold ->
 * organization, common name, unit and DNS name are those of one of the forms that we sign.
 *
 * Only this CA's own signature counts: no chain, no system store. What the CA would never have
 * signed is refused all the same, by its form.
 */
#include "base/parse.h"
#include "sys/sha256.h"
#include "tls/internal.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const kinds[] = {
	[TLS_SERVER] = "server",
	[TLS_WORKER] = "worker",
	[TLS_USER] = "user",
};

static const char *const organizations[] = {
	[TLS_SERVER] = "blix:server",
	[TLS_WORKER] = "blix:worker",
	[TLS_USER] = "blix:user",
};

static const char *const roles[] = {
	[TLS_NO_ROLE] = "",
	[TLS_VIEWER] = "viewer",
	[TLS_OPERATOR] = "operator",
	[TLS_ADMIN] = "admin",
};

const char *tls_kind_text(enum tls_kind kind)
{
	return kinds[kind];
}

const char *tls_kind_organization(enum tls_kind kind)
{
	return organizations[kind];
}

const char *tls_role_text(enum tls_role role)
{
	return roles[role];
}

bool tls_role_find(const char *text, enum tls_role *ret)
{
	for (size_t i = TLS_VIEWER; i < array_size(roles); i++) {
		if (strcmp(text, roles[i]) != 0)
			continue;
		*ret = (enum tls_role)i;
		return true;
	}
	return false;
}

void tls_dns_name(uint64_t node, const char *cluster, char ret[TLS_DNS])
{
	(void)snprintf(ret, TLS_DNS, "n%" PRIu64 ".%.32s.blix", node, cluster);
}

bool tls_cluster_valid(const char *cluster)
{
	return strspn(cluster, "0123456789abcdef") == TLS_CLUSTER - 1 &&
	       cluster[TLS_CLUSTER - 1] == '\0';
}

int tls_fail(struct blix_error *err, enum blix_code code, int gnutls, const char *what)
{
	return blix_fail(err, code, "%s: %s", what, gnutls_strerror(gnutls));
}

static int denied(struct blix_error *err, const char *reason, const char *text)
{
	int rc = blix_fail(err, BLIX_E_DENIED, "%s", text);

	blix_reason(err, reason);
	return rc;
}

static int bad_form(struct blix_error *err, const char *what)
{
	int rc = blix_fail(err, BLIX_E_DENIED, "certificate with %s", what);

	blix_reason(err, "certificate-form");
	return rc;
}

typedef int (*dn_get)(gnutls_x509_crt_t crt, const char *oid, unsigned index, unsigned raw,
                      void *out, size_t *n);

/* The only value of `oid`, "" when there is none; false: several, or one that does not fit. */
static bool name_part(gnutls_x509_crt_t crt, dn_get get, const char *oid, char *out, size_t size)
{
	char second[8];
	size_t n = size;
	size_t n_second = sizeof(second);
	int rc = get(crt, oid, 0, 0, out, &n);

	if (rc == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
		out[0] = '\0';
		return true;
	}
	return rc == 0 && n < size && strlen(out) == n &&
	       get(crt, oid, 1, 0, second, &n_second) == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE;
}

/* The cluster in a CA's name, as subject or issuer. */
static bool ca_name(gnutls_x509_crt_t crt, dn_get get, char ret[TLS_CLUSTER])
{
	char organization[16];
	char cluster[TLS_CLUSTER + 1];

	if (!name_part(crt, get, GNUTLS_OID_X520_ORGANIZATION_NAME, organization,
	               sizeof(organization)) ||
	    !name_part(crt, get, GNUTLS_OID_X520_COMMON_NAME, cluster, sizeof(cluster)) ||
	    strcmp(organization, ORGANIZATION_CA) != 0 || !tls_cluster_valid(cluster))
		return false;
	memcpy(ret, cluster, TLS_CLUSTER);
	return true;
}

int tls_ca_cluster(gnutls_x509_crt_t ca, char ret[TLS_CLUSTER], struct blix_error *err)
{
	unsigned critical;
	unsigned is_ca = 0;
	int path_length;

	if (gnutls_x509_crt_get_basic_constraints(ca, &critical, &is_ca, &path_length) < 0 ||
	    is_ca == 0 || !ca_name(ca, gnutls_x509_crt_get_dn_by_oid, ret))
		return blix_fail(err, BLIX_E_INVALID, "not the certificate of a blix cluster's CA");
	return 0;
}

int tls_crt_hash(gnutls_x509_crt_t crt, char ret[TLS_HASH], struct blix_error *err)
{
	gnutls_datum_t der;
	int rc = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_DER, &der);

	_Static_assert(TLS_HASH == SHA256_HEX, "one hash");
	if (rc < 0)
		return tls_fail(err, BLIX_E_INTERNAL, rc, "encode a certificate");
	sha256_hex(der.data, der.size, ret);
	gnutls_free(der.data);
	return 0;
}

static int read_serial(gnutls_x509_crt_t cert, char ret[TLS_SERIAL], struct blix_error *err)
{
	unsigned char serial[(TLS_SERIAL - 1) / 2];
	size_t n = sizeof(serial);

	if (gnutls_x509_crt_get_serial(cert, serial, &n) < 0 || n != sizeof(serial))
		return bad_form(err, "a foreign serial number");
	for (size_t i = 0; i < n; i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", serial[i]);
	return 0;
}

/* The node in a DNS name of this cluster. */
static bool read_dns_name(const char *dns, const char *cluster, uint64_t *ret)
{
	char again[TLS_DNS];
	const char *dot = strchr(dns, '.');
	cleanup(freep) char *digits = NULL;

	if (dns[0] != 'n' || dot == NULL)
		return false;
	digits = xstrndup(dns + 1, (size_t)(dot - dns - 1));
	if (parse_u64(digits, ret, NULL) < 0 || *ret == 0 || *ret > TLS_NODE)
		return false;
	tls_dns_name(*ret, cluster, again);
	return strcmp(dns, again) == 0;
}

static int read_node(gnutls_x509_crt_t cert, struct tls_identity *who, struct blix_error *err)
{
	char dns[TLS_DNS];
	char second[8];
	size_t n = sizeof(dns);
	size_t n_second = sizeof(second);
	int type = gnutls_x509_crt_get_subject_alt_name(cert, 0, dns, &n, NULL);

	if (type != GNUTLS_SAN_DNSNAME || n >= sizeof(dns) || strlen(dns) != n ||
	    gnutls_x509_crt_get_subject_alt_name(cert, 1, second, &n_second, NULL) !=
	            GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE ||
	    !read_dns_name(dns, who->cluster, &who->node))
		return bad_form(err, "another DNS name than a node's of this cluster");
	return 0;
}

static int read_kind(const char *organization, enum tls_kind *ret, struct blix_error *err)
{
	for (size_t i = 0; i < array_size(organizations); i++) {
		if (strcmp(organization, organizations[i]) != 0)
			continue;
		*ret = (enum tls_kind)i;
		return 0;
	}
	return bad_form(err, "an organization that is no kind of blix");
}

static int read_subject(gnutls_x509_crt_t cert, struct tls_identity *who, struct blix_error *err)
{
	char organization[32];
	char unit[16];
	int rc;

	if (!name_part(cert, gnutls_x509_crt_get_dn_by_oid, GNUTLS_OID_X520_ORGANIZATION_NAME,
	               organization, sizeof(organization)) ||
	    !name_part(cert, gnutls_x509_crt_get_dn_by_oid, GNUTLS_OID_X520_COMMON_NAME, who->name,
	               sizeof(who->name)) ||
	    !name_part(cert, gnutls_x509_crt_get_dn_by_oid,
	               GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME, unit, sizeof(unit)) ||
	    parse_name("name", who->name, NULL) < 0)
		return bad_form(err, "a foreign subject");
	rc = read_kind(organization, &who->kind, err);
	if (rc < 0)
		return rc;
	if (who->kind == TLS_USER)
		return tls_role_find(unit, &who->role) ? 0 : bad_form(err, "an unknown role");
	return unit[0] == '\0' ? read_node(cert, who, err) : bad_form(err, "a node's role");
}

static int check_dates(gnutls_x509_crt_t cert, uint64_t now_ms, uint64_t *ret_not_after_ms,
                       struct blix_error *err)
{
	time_t from = gnutls_x509_crt_get_activation_time(cert);
	time_t until = gnutls_x509_crt_get_expiration_time(cert);
	uint64_t now = now_ms / 1000;

	if (from < 0 || until < 0)
		return bad_form(err, "dates that cannot be read");
	if (now > (uint64_t)until)
		return denied(err, "certificate-expired", "the certificate has expired");
	if (now < (uint64_t)from)
		return denied(err, "certificate-early", "the certificate is not valid yet");
	*ret_not_after_ms = (uint64_t)until * 1000;
	return 0;
}

static int check_issuer(gnutls_x509_crt_t ca, gnutls_x509_crt_t cert, char cluster[TLS_CLUSTER],
                        struct blix_error *err)
{
	char issuer[TLS_CLUSTER];
	unsigned status = 0;
	int rc = tls_ca_cluster(ca, cluster, err);

	if (rc < 0)
		return rc;
	if (!ca_name(cert, gnutls_x509_crt_get_issuer_dn_by_oid, issuer))
		return denied(err, "other-ca", "the certificate is of no blix cluster");
	if (strcmp(issuer, cluster) != 0)
		return denied(err, "other-cluster", "the certificate is of another cluster");
	/* The dates are looked at by check_dates(), against the caller's clock. */
	rc = gnutls_x509_crt_verify(cert, &ca, 1, GNUTLS_VERIFY_DISABLE_TIME_CHECKS, &status);
	if (rc < 0 || status != 0)
		return denied(err, "other-ca", "the certificate is not signed by the cluster's CA");
	return 0;
}

int tls_judge(gnutls_x509_crt_t ca, gnutls_x509_crt_t cert, uint64_t now_ms,
              struct tls_identity *ret, struct blix_error *err)
{
	struct tls_identity who = {.role = TLS_NO_ROLE};
	int rc = check_issuer(ca, cert, who.cluster, err);

	if (rc == 0)
		rc = read_subject(cert, &who, err);
	if (rc == 0)
		rc = read_serial(cert, who.serial, err);
	if (rc == 0)
		rc = check_dates(cert, now_ms, &who.not_after_ms, err);
	if (rc == 0)
		*ret = who;
	return rc;
}
