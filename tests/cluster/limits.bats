#!/usr/bin/env bats
# What one client can take of a server: beyond it he is told so, and the others go on.
# shellcheck disable=SC2034 # PIDS is of helpers.bash

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
	stopped=()
}

teardown() {
	local pid
	for pid in "${stopped[@]}"; do kill -CONT "$pid" 2>/dev/null || true; done
	servers_teardown
}

answered() { # FILE STATUS COUNT
	[ "$(grep -c "^$2" "$1")" = "$3" ]
}

# The followers are held, so nothing is committed and everything waits.
@test "one principal has 512 mutations under way; more are 429, and the 512 are done" {
	local leader n flood
	cluster_up 3 '.electionTimeoutMs = 5000'
	on 1 vm create web --flake "$BASE#demo" --stopped --timeout 60s >/dev/null
	until_true agree 1 2 3
	leader=$(leader_of 1)
	for n in 1 2 3; do
		[ "$n" != "$leader" ] || continue
		stopped+=("${PIDS[n]}")
		kill -STOP "${PIDS[n]}"
	done
	"$BATS_TEST_DIRNAME/flood" "$T/n$leader/sock" 600 POST /v1/vms/web/set '{"labels":{"a":"b"}}' >"$T/flood" 3>&- &
	flood=$!
	until_true answered "$T/flood" 429 88
	[ "$(sort -u "$T/flood")" = '429 1' ] # with a Retry-After, and nothing else was answered
	# Reads go on, and so does the cluster when the others are back.
	on "$leader" vm show web >/dev/null
	for n in "${stopped[@]}"; do kill -CONT "$n"; done
	wait "$flood"
	answered "$T/flood" 200 512
	answered "$T/flood" 429 88
	# What was taken is given back.
	on "$leader" vm set web --label c=d --timeout 30s >/dev/null
	"$BATS_TEST_DIRNAME/flood" "$T/n$leader/sock" 512 POST /v1/vms/web/set '{"labels":{"a":"b"}}' >"$T/flood"
	[ "$(sort -u "$T/flood")" = 200 ]
}

@test "a user has 64 connections; more are 429, and others go on" {
	cluster_up 1
	chmod 711 "$T" "$T/n1"
	chmod 666 "$T/n1/sock"
	nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups env HELD="$1" perl "$BATS_TEST_DIRNAME/flood" "$T/n1/sock" "$2" GET /v1/status ''; }
	# He may do nothing here; that he is told so, or that there are too many of him, is another matter.
	nobody 64 16 >"$T/flood"
	[ "$(sort "$T/flood" | uniq -c | sed 's/^ *//')" = $'64 403\n16 429 1' ]
	# They are his alone, and he has them again when they are closed.
	HELD=80 "$BATS_TEST_DIRNAME/flood" "$T/n1/sock" 16 GET /v1/status '' >"$T/flood"
	[ "$(sort -u "$T/flood")" = 200 ]
	until_true answers_nobody
}

answers_nobody() { [ "$(nobody 63 1 | sort -u)" = 403 ]; }

# Each is answered with what was done to it, and the next client is served.
@test "requests that are too large or too many headers: 413, 414, 431, 400, and nothing hangs" {
	local want name
	cluster_up 1
	head_line() { RAW=1 "$BATS_TEST_DIRNAME/request" "$T/n1/sock" POST /; }
	name=$(printf 'a%.0s' {1..20000})
	while IFS='|' read -r want raw; do
		run head_line <<<"$(printf '%b' "$raw")"
		[ "${lines[0]}" = "$want" ] || { echo "$want: ${raw:0:60}: ${lines[0]}" >&2; return 1; }
	done <<-END
		413|POST /v1/vms HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: 1048577\\r\\n\\r\\n
		400|GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: 1\\r\\n\\r\\nx
		414|GET /v1/$name HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n
		431|GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nX: $name\\r\\n\\r\\n
		400|GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n$(printf 'X-%d: 1\\r\\n' {1..64})\\r\\n
	END
	run ask 1 POST /v1/vms/web/console <<<"$(printf 'a%.0s' {1..65537})"
	[ "${lines[0]}" = 413 ]
	run ask 1 GET /v1/status
	[ "${lines[0]}" = 200 ]
}

ask() { "$BATS_TEST_DIRNAME/request" "$T/n$1/sock" "${@:2}"; }
