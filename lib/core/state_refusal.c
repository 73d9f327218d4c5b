/* The words for refusals: the state itself knows numbers alone. */
#include "core/state.h"

#include "base/alloc.h"

#include <assert.h>

static const struct {
	const char *reason, *text, *hint;
} words[REFUSAL_COUNT] = {
	[REFUSAL_NONE] = {"", "done", ""},
	[REFUSAL_SESSION_FORGOTTEN] = {"outcome-forgotten",
                                       "the outcome of this request is no longer known",
                                       "look at the object before you try again"},
	[REFUSAL_SESSION_GAP] = {"session-gap", "request numbers must be consecutive", ""},
	[REFUSAL_FULL] = {"cluster-full", "the cluster holds no more of these", ""},
	[REFUSAL_BAD_SPEC] = {"bad-spec", "name or spec is not valid", ""},
	[REFUSAL_VM_EXISTS] = {"vm-exists", "a VM of this name exists",
                               "choose another name, or see it with 'blix vm show'"},
	[REFUSAL_VM_MISSING] = {"vm-missing", "no such VM", "'blix vm list' shows those there are"},
	[REFUSAL_VM_DELETING] = {"vm-deleting", "it is being deleted", ""},
	[REFUSAL_VM_VERSION] = {"version-conflict", "it was changed by somebody else",
                                "read it again and retry with its new version"},
	[REFUSAL_STALE] = {"stale", "it has moved on", ""},
	[REFUSAL_NODE_MISSING] = {"node-missing", "no such node",
                                  "'blix node list' shows those there are"},
	[REFUSAL_NO_ROOM] = {"no-room", "the node has no room", ""},
	[REFUSAL_VM_NOT_UP] = {"not-running", "it does not run", "'blix vm start' starts it"},
	[REFUSAL_NODE_NAME] = {"node-name-taken", "the name belongs to another node",
                               "give this node another name in its configuration"},
	[REFUSAL_UPDATING] = {"update-under-way", "an update of it is under way",
                              "see how it goes with 'blix vm show'"},
	[REFUSAL_UNRESOLVED] = {"not-resolved", "its first system is not known yet",
                                "wait until it runs"},
	[REFUSAL_GENERATION_MISSING] = {"generation-missing", "no such generation is kept",
                                        "'blix vm history' shows those there are"},
	[REFUSAL_NO_EARLIER] = {"no-earlier-generation",
                                "no generation before the present one is kept",
                                "'blix vm history' shows those there are"},
	[REFUSAL_UNKNOWN_COMMAND] = {"unknown-command", "unknown command", ""},
	[REFUSAL_SESSION_OTHER] = {"request-reused",
                                   "this request number stood for another request",
                                   "use a new session, or a new idempotency key"},
	[REFUSAL_VERSION] = {"version-conflict", "it was changed by somebody else",
                             "read it again and retry with its new version"},
	[REFUSAL_FEATURE] = {"feature-level", "a server of the cluster is too old for this",
                             "upgrade every server: 'blix node list -o wide' shows them"},
	[REFUSAL_FEATURE_OLD] = {"node-too-old", "its blixd is older than the cluster",
                                 "upgrade blixd on the node that joins"},
	[REFUSAL_NOT_YOURS] = {"not-yours", "a node may speak for itself only", ""},
	[REFUSAL_NO_CLUSTER] = {"no-membership",
                                "the servers of this cluster are those of its configuration",
                                "a cluster made by 'blix node init' has members"},
	[REFUSAL_OTHER_CLUSTER] = {"other-cluster", "it is another cluster already", ""},
	[REFUSAL_BAD_MEMBER] = {"bad-member", "a name, number, hash or address is not valid", ""},
	[REFUSAL_TOKEN_MISSING] = {"token-unknown", "no such token: it may have expired",
                                   "make another with 'blix node token'"},
	[REFUSAL_TOKEN_USED] = {"token-used", "the token was used by another node",
                                "make another with 'blix node token'"},
	[REFUSAL_TOKEN_EXPIRED] = {"token-expired", "the token has expired",
                                   "make another with 'blix node token'"},
	[REFUSAL_TOKEN_NAME] = {"token-name", "the token is for a node of another name", ""},
	[REFUSAL_NODE_LEFT] = {"node-left", "this node has left, or is denied",
                               "join it anew: ids are never used again"},
	[REFUSAL_NODE_ID] = {"node-id-taken", "the id belongs to another node", ""},
	[REFUSAL_NODE_USED] = {"node-in-use", "there are VMs on it",
                               "delete or move them first; --dead says that it is lost"},
	[REFUSAL_NODE_ALIVE] = {"node-alive", "it answers, with VMs on it: it is not dead",
                                "delete or move its VMs first"},
	[REFUSAL_LAST_SERVER] = {"last-server", "it is the only server that is left", ""},
	[REFUSAL_NOT_SERVER] = {"not-a-server", "a worker has no vote", ""},
	[REFUSAL_USER_EXISTS] = {"user-exists", "a user of this name exists", ""},
	[REFUSAL_USER_MISSING] = {"user-missing", "no such user", ""},
};

int refusal_error(const struct command_result *result, const char *subject, struct blix_error *err)
{
	assert(result->why < array_size(words) && words[result->why].text != NULL);
	(void)blix_fail(err, result->code, "%s: %s", subject, words[result->why].text);
	blix_reason(err, words[result->why].reason);
	blix_hint(err, "%s", words[result->why].hint);
	return -(int)result->code;
}
