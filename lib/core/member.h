/* Who may act in a cluster, and what it knows of itself: its own record, the tokens by which nodes
 * join, people, and what is denied.
 *
 * Values of fixed size in sorted arrays that belong to the state; they change only through
 * state_apply(). A secret is never here: of a token's there is the SHA-256 alone.
 */
#ifndef BLIX_CORE_MEMBER_H
#define BLIX_CORE_MEMBER_H

#include "core/node.h"

#define CLUSTER_ID_LENGTH 32 /* lower-case hex */

struct cluster {
	char id[CLUSTER_ID_LENGTH + 1]; /* "": its servers are those of the configuration */
	char ca[DIGEST_LENGTH + 1];     /* fingerprint of its CA */
	uint64_t incarnation;           /* raised when an older state was put back (restore) */
	uint32_t level;                 /* the feature level: newer commands are refused */
	uint32_t voters;                /* wanted: 1, 3, 5 or 7 */
	uint64_t version, revision, created_ms;
};

/* Lets one node join, once. Kept until it expires, so that the same joiner gets the same answer
 * again. */
struct token {
	char name[LIMIT_NAME + 1]; /* of the node; one token a name */
	enum node_role role;
	char hash[DIGEST_LENGTH + 1]; /* SHA-256 of the secret */
	uint64_t uid;
	uint64_t created_ms, expires_ms; /* cluster clock */
	uint64_t node;                   /* that joined by it; 0: it is unused */
	char by[LIMIT_PRINCIPAL + 1];
};

enum user_role { USER_VIEWER, USER_OPERATOR, USER_ADMIN, USER_ROLE_COUNT };

/* A person or a pipeline with a certificate; its serial is the only one that is good for the name.
 */
struct user {
	char name[LIMIT_NAME + 1];
	enum user_role role;
	char serial[SERIAL_LENGTH + 1];
	uint64_t uid, version, revision, created_ms;
	char by[LIMIT_PRINCIPAL + 1];
};

struct serial {
	char text[SERIAL_LENGTH + 1];
};

/* Sorted, each once. */
struct ids {
	uint64_t *items;
	size_t n;
};
struct serials {
	struct serial *items;
	size_t n;
};

struct members {
	struct cluster cluster;
	struct token *tokens; /* by name */
	size_t n_tokens;
	struct user *users; /* by name */
	size_t n_users;
	struct serials denied;   /* certificates that are good for nothing */
	struct ids denied_nodes; /* nodes whose certificates are not, whichever */
	struct ids left;         /* nodes that are gone: never given again, and denied */
};

void members_init(struct members *members);
void members_done(struct members *members);
void members_copy(struct members *to, const struct members *from); /* `to` fresh */

bool ids_has(const struct ids *ids, uint64_t id);
void ids_add(struct ids *ids, uint64_t id);
bool serials_has(const struct serials *serials, const char *serial);
void serials_add(struct serials *serials, const char *serial);

const struct token *members_token(const struct members *members, const char *name);
const struct token *members_token_hash(const struct members *members, const char *hash);
const struct user *members_user(const struct members *members, const char *name);
/* Replaces one of the same name. */
void members_put_token(struct members *members, const struct token *token);
void members_put_user(struct members *members, const struct user *user);
void members_remove_token(struct members *members, const char *name);
void members_remove_user(struct members *members, const char *name);

const char *user_role_name(enum user_role role);
int user_role_parse(const char *text, enum user_role *ret, struct blix_error *err);
/* Exactly n lower-case hex digits. */
bool hex_is(const char *text, size_t n);
/* 1, 3, 5 or 7 */
bool voters_are(uint32_t voters);

#endif
