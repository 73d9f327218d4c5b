#!/usr/bin/env bats
# A mutation happens once, whatever is lost on the way; and one that is about a version happens to that version.
# shellcheck disable=SC2034,SC2154 # PIDS is of helpers.bash, stderr of run

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
}

teardown() { servers_teardown; }

ask() { # N METHOD PATH [HEADER]... <BODY: status code and body
	"$BATS_TEST_DIRNAME/request" "$T/n$1/sock" "${@:2}"
}

listens() { [ -S "$T/proxy" ]; }

count() { # N REASON: of events of VM web
	on "$1" vm events web --consistency linearizable -o json --timeout 30s | jq --arg r "$2" '[.items[] | select(.reason == $r)] | length'
}

# The leader commits, answers, and is dead before the client hears of it: the same number goes to another server.
@test "an answer that is lost with the leader: the client asks again, and it happened once" {
	local leader others=() proxy n
	cluster_up 3
	leader=$(leader_of 1)
	for n in 1 2 3; do [ "$n" = "$leader" ] || others+=("$n"); done
	"$BATS_TEST_DIRNAME/lose_answer" "$T/proxy" "$T/n$leader/sock" "${PIDS[leader]}" >"$T/lost" 3>&- &
	proxy=$!
	until_true listens
	blix --endpoint "unix:$T/proxy,unix:$T/n${others[0]}/sock,unix:$T/n${others[1]}/sock" \
		vm create web --flake "$BASE#demo" --stopped --no-wait --timeout 30s
	wait "$proxy"
	grep -q '^HTTP/1.1 201 ' "$T/lost" # it was done, by the one that died
	PIDS[leader]=''
	[ "$(count "${others[0]}" vm-created)" = 1 ]

	# The same for an edit, which would show by its version.
	server_start "$leader"
	until_true agree 1 2 3
	leader=$(leader_of 1)
	others=()
	for n in 1 2 3; do [ "$n" = "$leader" ] || others+=("$n"); done
	before=$(on "$leader" vm show web -o json | jq .metadata.version)
	"$BATS_TEST_DIRNAME/lose_answer" "$T/proxy" "$T/n$leader/sock" "${PIDS[leader]}" >"$T/lost" 3>&- &
	proxy=$!
	until_true listens
	blix --endpoint "unix:$T/proxy,unix:$T/n${others[0]}/sock,unix:$T/n${others[1]}/sock" vm set web --label a=b --timeout 30s
	wait "$proxy"
	PIDS[leader]=''
	[ "$(on "${others[1]}" vm show web --consistency linearizable --timeout 30s -o json | jq .metadata.version)" = $((before + 1)) ]
}

@test "an idempotency key: once on whatever server, refused for anything else, another VM is another request" {
	local n
	cluster_up 3
	for n in 1 2 3; do on "$n" vm create web --flake "$BASE#demo" --stopped --idempotency-key build-7 >/dev/null; done
	[ "$(count 1 vm-created)" = 1 ]
	run --separate-stderr on 2 vm create web --flake "$BASE#demo" --idempotency-key build-7
	[ "$status" = 5 ]
	[[ $stderr == *"stood for another request"* ]]
	run --separate-stderr on 2 vm create web --flake "$BASE#demo" --stopped
	[ "$status" = 4 ]
	on 1 vm create db --flake "$BASE#demo" --stopped --idempotency-key build-7 >/dev/null

	for n in 1 2 3; do on "$n" vm set web --label a=b --idempotency-key edit >/dev/null; done
	[ "$(on 1 vm show web -o json --consistency linearizable | jq .metadata.version)" = 2 ]
	run on 1 vm set web --label a=c --idempotency-key edit
	[ "$status" = 5 ]

	# A key outlives the servers.
	for n in 1 2 3; do server_kill "$n"; done
	server_start 1 2 3
	until_true agree 1 2 3
	on 3 vm set web --label a=b --idempotency-key edit --timeout 30s >/dev/null
	[ "$(on 1 vm show web -o json --consistency linearizable | jq .metadata.version)" = 2 ]

	# What became of it since is shown, never another of its name.
	on 1 vm delete web >/dev/null
	on 1 vm create web --flake "$BASE#demo" --stopped >/dev/null
	ask 1 POST /v1/vms/web/set 'Idempotency-Key: edit/web' <<<'{"labels":{"a":"b"}}' >"$T/answer"
	[ "$(cat "$T/answer")" = $'200\n{"deleted":true}' ]
}

@test "an idempotency key on every verb that changes a VM" {
	local verb
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" --idempotency-key k0 >/dev/null
	for verb in pause resume restart update stop start; do
		for _ in 1 2; do on 1 vm "$verb" web --idempotency-key "k-$verb" --no-wait >/dev/null; done
		until_true settled
	done
	for verb in pause-asked resume-asked; do [ "$(count 1 "vm-$verb")" = 1 ]; done
	[ "$(count 1 vm-stop-asked)" = 2 ] # of restart and stop
	[ "$(count 1 vm-start-asked)" = 1 ]
	on 1 vm update web --flake 'path:/nix/store/00000000000000000000000000000000-gen2-source?narHash=sha256-fake' >/dev/null
	on 1 vm rollback web --idempotency-key back >/dev/null
	run -0 --separate-stderr on 1 vm rollback web --idempotency-key back --no-wait
	until_true settled
	on 1 vm show web -o json | jq -e '.status.generation.desired' >"$T/generation"
	on 1 vm delete web --idempotency-key gone >/dev/null
	on 1 vm delete web --idempotency-key gone >/dev/null
	run on 1 vm delete web
	[ "$status" = 3 ]
}

# Nothing of it is under way.
settled() {
	on 1 vm show web -o json | jq -e '(.status.phase == "Running" or .status.phase == "Paused" or .status.phase == "Stopped")
		and (.status.update.step // "") == "" and (.status.phase == .spec.powerState)' >/dev/null
}

@test "an adoption by key is answered again, though its directory is no longer one to adopt" {
	local n
	cluster_up 3
	env -i PATH="$PATH" MICROVM_STATE_DIR="$T/n1/microvms" MICROVM_GCROOTS_DIR="$T/n1/gcroots/microvm" \
		"$FAKE/microvm" -f "$BASE" -c old
	for n in 2 1 3; do on "$n" vm adopt old --node n1 --idempotency-key take --timeout 30s >/dev/null; done
	run on 2 vm adopt old --node n1
	[ "$status" = 4 ]
}

@test "an edit of a version that is gone is refused on every verb, by parameter and by header" {
	local verb
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" >/dev/null
	on 1 vm set web --label a=b >/dev/null # version 2
	for verb in 'start web' 'stop web' 'restart web' 'pause web' 'resume web' 'set web --label c=d' 'update web' 'rollback web' 'delete web'; do
		# shellcheck disable=SC2086 # words
		run --separate-stderr on 1 vm $verb --if-version 1
		[ "$status" = 4 ] || { echo "$verb: $status $stderr" >&2; return 1; }
		[[ $stderr == *"changed by somebody else"* ]]
	done
	run on 1 vm set web --label c=d --if-version 0
	[ "$status" = 64 ]
	[ "$(curl -sS -D - -o /dev/null --unix-socket "$T/n1/sock" http://blix/v1/vms/web | tr -d '\r' | sed -n 's/^ETag: //p')" = '"2"' ]
	run ask 1 POST /v1/vms/web/set 'If-Match: "1"' <<<'{"labels":{"c":"d"}}'
	[ "${lines[0]}" = 409 ]
	for tag in '2' 'W/"2"' '""' '"x"' '"0"' '"2" , "3"' '*'; do
		run ask 1 POST /v1/vms/web/set "If-Match: $tag" <<<'{"labels":{"c":"d"}}'
		[ "${lines[0]}" = 400 ] || { echo "$tag: $output" >&2; return 1; }
	done
	run ask 1 POST '/v1/vms/web/set?ifVersion=1' 'If-Match: "2"' <<<'{"labels":{"c":"d"}}'
	[ "${lines[0]}" = 400 ]
	run ask 1 POST /v1/vms/web/set 'If-Match: "2"' <<<'{"labels":{"c":"d"}}'
	[ "${lines[0]}" = 200 ]
	on 1 vm set web --label c=e --if-version 3 >/dev/null
	on 1 vm delete web --if-version 4 >/dev/null
}

@test "keys and numbers that are none are refused, and a session is no one else's" {
	local key
	cluster_up 1
	for key in 'a b' "$(printf 'k%.0s' {1..201})" $'caf\xc3\xa9'; do
		run ask 1 POST /v1/vms "Idempotency-Key: $key" <<<'{"metadata":{"name":"x"},"spec":{"flake":"github:a/b","attr":"c"}}'
		[ "${lines[0]}" = 400 ] || { echo "$key: $output" >&2; return 1; }
	done
	run ask 1 POST /v1/vms 'Idempotency-Key: a' 'Blix-Session: 7' 'Blix-Request: 1' <<<'{"metadata":{"name":"x"},"spec":{"flake":"github:a/b","attr":"c"}}'
	[ "${lines[0]}" = 400 ]
	run ask 1 POST /v1/vms 'Blix-Session: 7' <<<'{"metadata":{"name":"x"},"spec":{"flake":"github:a/b","attr":"c"}}'
	[ "${lines[0]}" = 400 ]
	ask 1 POST /v1/vms 'Blix-Session: 7' 'Blix-Request: 1' <<<"{\"metadata\":{\"name\":\"x\"},\"spec\":{\"flake\":\"$BASE\",\"attr\":\"c\",\"powerState\":\"Stopped\"}}" >/dev/null
	run ask 1 POST /v1/vms 'Blix-Session: 7' 'Blix-Request: 1' <<<"{\"metadata\":{\"name\":\"y\"},\"spec\":{\"flake\":\"$BASE\",\"attr\":\"c\",\"powerState\":\"Stopped\"}}"
	[ "${lines[0]}" = 409 ]
	[ "$(jq -r .reason <<<"${lines[1]}")" = request-reused ]
	run ask 1 POST /v1/vms 'Blix-Session: 7' 'Blix-Request: 3' <<<"{\"metadata\":{\"name\":\"y\"},\"spec\":{\"flake\":\"$BASE\",\"attr\":\"c\"}}"
	[ "$(jq -r .reason <<<"${lines[1]}")" = session-gap ]
	run on 1 vm start x --idempotency-key 'a b'
	[ "$status" = 64 ]
	# What is refused before the log uses no number up: the next one of the same run goes through.
	run on 1 vm stop nope x --no-wait
	[ "$status" = 3 ]
	run on 1 vm pause x x --no-wait
	[ "$status" = 5 ]
}
