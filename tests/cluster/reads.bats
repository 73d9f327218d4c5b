#!/usr/bin/env bats
# What a read shows: everything that was acknowledged, where it asks for that; else how old it may be.
# shellcheck disable=SC2034,SC2154 # PIDS is of helpers.bash, stderr of run

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
}

teardown() { servers_teardown; }

ask() { # N METHOD PATH [HEADER]...: status code and body
	"$BATS_TEST_DIRNAME/request" "$T/n$1/sock" "${@:2}"
}

head_of() { # N PATH: the answer's headers
	curl -sS -D - -o /dev/null --unix-socket "$T/n$1/sock" "http://blix$2"
}

header() { # NAME N PATH: its value
	head_of "$2" "$3" | tr -d '\r' | sed -nE "s/^$1: //p"
}

# One VM is edited through one server and read through another; leaders are killed meanwhile.
@test "200 linearizable reads through another server show the write before them, with leaders killed" {
	local i writer reader label leader kills=0
	cluster_up 3
	on 1 vm create web --flake "$BASE#demo" --stopped >/dev/null
	for ((i = 1; i <= 200; i++)); do
		writer=$((i % 3 + 1)) reader=$(((i + 1) % 3 + 1))
		if ((i % 50 == 25)); then
			until_true agree 1 2 3
			leader=$(leader_of 1)
			server_kill "$leader"
			server_start "$leader"
			kills=$((kills + 1))
		fi
		blix --endpoint "unix:$T/n$writer/sock,unix:$T/n$reader/sock" vm set web --label "i=$i" --timeout 30s >/dev/null
		label=$(on "$reader" vm list --consistency linearizable -o json --timeout 30s | jq -r '.items[0].metadata.labels.i')
		[ "$label" = "$i" ] || { echo "read $label after the write of $i" >&2; return 1; }
	done
	[ "$kills" = 4 ]
}

# A follower that hears nobody still answers what it knows, and knows that it may be old.
@test "without a quorum local reads are answered and marked, linearizable ones are refused" {
	local leader other
	cluster_up 3
	on 1 vm create web --flake "$BASE#demo" --stopped >/dev/null
	until_true agree 1 2 3
	leader=$(leader_of 1)
	other=$(follower "$leader")
	run --separate-stderr on "$other" vm show web
	[[ $stderr != *stale* ]]
	run on "$other" vm show web -o json
	[ "$(jq 'has("stale")' <<<"$output")" = false ]
	for n in 1 2 3; do [ "$n" = "$other" ] || server_kill "$n"; done
	until_true is_stale "$other"
	for verb in 'vm show web' 'vm list' 'vm why web' 'vm history web' 'node list' "node show n$other"; do
		# shellcheck disable=SC2086 # words
		run --separate-stderr on "$other" $verb
		[ "$status" = 0 ]
		[[ $stderr == *"note: stale, as n$other knew it "*' ms ago'* ]] || { echo "$verb: $stderr" >&2; return 1; }
		# shellcheck disable=SC2086 # words
		on "$other" $verb -o json 2>/dev/null | jq -e '.stale == true and .stalenessMs > 0' >/dev/null
	done
	[ "$(header Blix-Staleness-Ms "$other" /v1/vms/web)" -gt 500 ]
	[ "$(header Blix-Revision "$other" /v1/vms/web)" -gt 0 ]
	run ask "$other" GET '/v1/vms/web?consistency=linearizable'
	[ "${lines[0]}" = 503 ]
	[ "$(jq -r .code <<<"${lines[1]}")" = no-leader ]
	run on "$other" vm show web --consistency linearizable --timeout 1s
	[ "$status" = 69 ]
}

is_stale() { on "$1" vm list -o json 2>/dev/null | jq -e .stale >/dev/null; }

@test "a read waits for the revision that it asks for, and says when this server does not get there" {
	local leader other revision answer
	cluster_up 3
	leader=$(leader_of 1)
	other=$(follower "$leader")
	# What an answer says of its revision can be asked for at any other server.
	for i in {1..20}; do
		on "$leader" vm create "w$i" --flake "$BASE#demo" --stopped --no-wait >/dev/null
		revision=$(header Blix-Revision "$leader" "/v1/vms/w$i")
		ask "$other" GET "/v1/vms/w$i?minRevision=$revision" >"$T/answer"
		[ "$(head -n 1 "$T/answer")" = 200 ]
	done
	run ask "$other" GET '/v1/vms?minRevision=1000000&wait=50ms'
	[ "${lines[0]}" = 503 ]
	[ "$(jq -r '.code + " " + .reason' <<<"${lines[1]}")" = 'unavailable behind' ]
	# It is answered as soon as the state is there.
	revision=$(header Blix-Revision "$other" /v1/vms)
	ask "$other" GET "/v1/vms/w1?minRevision=$((revision + 1))&wait=60s" >"$T/answer" 3>&- &
	answer=$!
	on "$leader" vm set w1 --label a=b >/dev/null
	wait "$answer"
	[ "$(head -n 1 "$T/answer")" = 200 ]
	[ "$(tail -n +2 "$T/answer" | jq -r .metadata.labels.a)" = b ]
}

@test "what a read may ask is checked on every route" {
	local path
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" --stopped >/dev/null
	for path in vms vms/web vms/web/why vms/web/generations events nodes nodes/n1 cluster status; do
		run ask 1 GET "/v1/$path?consistency=linearizable"
		[ "${lines[0]}" = 200 ] || { echo "$path: $output" >&2; return 1; }
		run ask 1 GET "/v1/$path?consistency=strong"
		[ "${lines[0]}" = 400 ]
		run ask 1 GET "/v1/$path?minRevision=-1"
		[ "${lines[0]}" = 400 ]
	done
	run on 1 vm list --consistency sometimes
	[ "$status" = 64 ]
}

# Readers that wait share one barrier: 64 at once cost a few log entries, not 64.
@test "linearizable reads at once share their barrier" {
	local leader other before after i readers=()
	cluster_up 3
	leader=$(leader_of 1)
	other=$(follower "$leader")
	until_true agree 1 2 3
	before=$(cluster "$leader" .commitIndex)
	for i in {1..64}; do
		ask "$other" GET '/v1/status?consistency=linearizable' >"$T/answer.$i" 3>&- &
		readers+=($!)
	done
	wait "${readers[@]}"
	[ "$(head -qn 1 "$T"/answer.* | sort | uniq -c | sed 's/^ *//')" = '64 200' ]
	after=$(cluster "$leader" .commitIndex)
	echo "$((after - before)) entries"
	[ $((after - before)) -ge 1 ]
	[ $((after - before)) -lt 64 ]
}
