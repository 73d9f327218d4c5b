/* The address book: see book.h. A node has several addresses, of which the first is used. */
#include "node/book.h"

#include "base/alloc.h"

void book_clear(struct config_server *found)
{
	free(found->name);
	free(found->raft);
	free(found->api);
	memset(found, 0, sizeof(*found));
}

static const struct config_server *listed(const struct daemon *d, uint64_t id)
{
	for (size_t i = 0; i < d->config->n_servers; i++) {
		if (d->config->servers[i].id == id)
			return &d->config->servers[i];
	}
	return NULL;
}

const struct config_server *daemon_server(const struct daemon *d, uint64_t id)
{
	const struct node *node = state_node(d->state, id);
	struct config_server *found = d->found;
	size_t n;

	if (d->config->identity == NULL)
		return listed(d, id);
	if (node == NULL || node->facts.addresses[0] == '\0')
		return NULL;
	n = strcspn(node->facts.addresses, " ");
	book_clear(found);
	found->id = id;
	found->name = xstrdup(node->name);
	found->raft = xstrdup(node->facts.raft);
	found->api = xstrndup(node->facts.addresses, n);
	return found;
}

size_t daemon_servers(const struct daemon *d, uint64_t *ret, size_t n)
{
	struct consensus_peer peers[LIMIT_SERVERS];
	size_t n_peers;

	if (d->config->identity == NULL) {
		for (size_t i = 0; i < d->config->n_servers && i < n; i++)
			ret[i] = d->config->servers[i].id;
		return d->config->n_servers;
	}
	n_peers = consensus_members(d->consensus, peers, array_size(peers));
	for (size_t i = 0; i < n_peers && i < n && i < array_size(peers); i++)
		ret[i] = peers[i].id;
	return n_peers;
}

const char *book_raft(void *data, uint64_t id)
{
	const struct daemon *d = data;
	const struct node *node = state_node(d->state, id);

	return node != NULL && node->facts.raft[0] != '\0' ? node->facts.raft : NULL;
}

bool book_denied(void *data, const struct tls_identity *peer)
{
	const struct daemon *d = data;

	return state_denied(d->state, peer->node, peer->serial);
}
