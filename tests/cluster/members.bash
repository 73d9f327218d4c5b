# Clusters made by 'blix node init' and joined over loopback TCP. Server N of a test listens on 127.0.0.1, port $((PORT + 2 * N)), and hears
# the other servers on the next one; everything else is as in helpers.bash.
# shellcheck disable=SC2034,SC2154 # used by the tests; T, PIDS and SERVERS are of helpers.bash

# Ports that nobody listens on now, below those that the kernel gives to clients.
members_setup() {
	local tries
	for tries in {1..50}; do
		PORT=$((20000 + RANDOM % 400 * 32))
		[ -n "$(ss -Hltn "sport >= :$PORT and sport < :$((PORT + 32))")" ] || return 0
	done
	echo "no free ports after $tries tries" >&2
	return 1
}

address() { echo "127.0.0.1:$((PORT + 2 * $1))"; } # N

# hosts COUNT [JQ-FILTER]: configured without servers, and started: each waits to be told its cluster.
hosts() {
	local all n
	configure "$1" "del(.servers, .cluster, .id) | ${2:-.}"
	mapfile -t all < <(seq "$1")
	server_start "${all[@]}"
	for n in "${all[@]}"; do until_true waits "$n"; done
}

waits() { # N: it is of no cluster
	local rc=0
	on "$1" node list >/dev/null 2>&1 || rc=$?
	[ "$rc" = 5 ]
}

init() { # N
	on "$1" node init --name "n$1" --listen "$(address "$1")" --timeout 60s
}

join() { # N BY: server BY makes the token
	on "$2" node token "n$1" >"$T/token.$1"
	on "$1" node join "$(address "$2")" --token-file "$T/token.$1" --listen "$(address "$1")" --timeout 60s
}

# members_up COUNT: server 1 makes the cluster, the others join it; all vote in the end.
members_up() {
	local all n
	hosts "$@"
	init 1
	for ((n = 2; n <= $1; n++)); do join "$n" 1; done
	mapfile -t all < <(seq "$1")
	until_true voters_are 1 "$(($1 - ($1 + 1) % 2))"
	until_true agree "${all[@]}"
}

# The 32 bytes behind version, kind, expiry and fingerprint, in hex.
secret_of() { # FILE
	local line
	line=$(tr '_-' '/+' <"$1")
	while [ $((${#line} % 4)) != 0 ]; do line+==; done
	base64 -d <<<"$line" | tail -c +43 | head -c 32 | od -An -v -tx1 | tr -d ' \n'
}

node_of() { # N NAME FILTER
	on "$1" node show "$2" -o json 2>/dev/null | jq -er "$3"
}

voters_are() { # N COUNT
	[ "$(on "$1" node list -o json 2>/dev/null | jq '[.items[] | select(.status.raft.vote == "voter")] | length')" = "$2" ]
}

node_id() { jq -r .node "$T/n$1/state/identity.json"; }       # N
cluster_id() { jq -r .cluster "$T/n$1/state/identity.json"; } # N

# ask N CREDENTIALS-DIR|none METHOD PATH [CURL-ARGUMENT...]: asks server N over TLS, as whoever the certificate says. Prints the status code, or
# 000 and curl's own code when there was none; the answer is in $T/answer.
ask() {
	local n=$1 who=() rc=0
	[ "$2" = none ] || who=(--cert "$2/node.pem" --key "$2/node.key")
	curl -sS --noproxy '*' --tlsv1.3 --cacert "$T/n$n/state/tls/ca.pem" "${who[@]}" -X "$3" --max-time 20 \
		--connect-to "::$(address "$n")" -o "$T/answer" -w '%{http_code}' "${@:5}" \
		"https://n$(node_id "$n").$(cluster_id "$n").blix:$((PORT + 2 * n))$4" 2>>"$T/curl.log" || rc=$?
	[ "$rc" = 0 ] || echo " $rc"
}

# forget N: the host is new again, but for its microVMs.
forget() {
	rm -rf "$T/n$1/state/identity.json" "$T/n$1/state/tls" "$T/n$1/state/raft"
}
