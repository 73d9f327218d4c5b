#!/usr/bin/env bats
# Watches: what changes, once, in order, whichever server tells it; and what they cost.
# shellcheck disable=SC2030,SC2031,SC2034 # WATCHERS is of one test; PIDS is of helpers.bash

bats_require_minimum_version 1.5.0

setup() {
	load helpers.bash
	servers_setup
	WATCHERS=()
}

teardown() {
	local pid
	for pid in "${WATCHERS[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	servers_teardown
}

# watch FILE N QUERY: lines go to the file
watch() {
	curl -sSN --unix-socket "$T/n$2/sock" "http://blix/v1/watch?$3" >"$1" 2>"$1.err" 3>&- &
	WATCHERS+=($!)
}

watch_many() { # FILE N BODY
	curl -sSN --unix-socket "$T/n$2/sock" -d "$3" "http://blix/v1/watch" >"$1" 2>"$1.err" 3>&- &
	WATCHERS+=($!)
}

ask() { # N METHOD PATH <BODY: status code and body
	"$BATS_TEST_DIRNAME/request" "$T/n$1/sock" "${@:2}"
}

has_line() { jq -es "[.[] | select($2)] | length > 0" "$1" >/dev/null 2>&1; } # FILE FILTER

endpoints() { local n list=''; for n; do list+="${list:+,}unix:$T/n$n/sock"; done; echo "$list"; }

# What was watched and what the servers remember is the same, one by one.
@test "events followed across kills of leaders and of the server that tells them: none missing, none twice" {
	local i leader n last
	cluster_up 3
	on 1 vm create web --flake "$BASE#demo" --stopped >/dev/null
	until_true agree 1 2 3
	blix --endpoint "$(endpoints 1 2 3)" vm events -f -o jsonl >"$T/seen" 2>"$T/seen.err" 3>&- &
	WATCHERS+=($!)
	until_true has_line "$T/seen" '.reason == "vm-created"'
	for ((i = 1; i <= 60; i++)); do
		if ((i % 15 == 0)); then
			until_true agree 1 2 3
			leader=$(leader_of 1)
			n=$leader
			((i % 30 != 0)) || n=$(((leader % 3) + 1)) # now the leader, now another
			server_kill "$n"
		fi
		blix --endpoint "$(endpoints $((i % 3 + 1)) 1 2 3)" vm set web --label "i=$i" --timeout 30s >/dev/null 2>&1
		if ((i % 15 == 0)); then server_start "$n"; fi
	done
	until_true agree 1 2 3
	last=$(on 1 vm events -o json | jq '[.items[].revision] | max')
	until_true has_line "$T/seen" ".revision == $last"
	diff <(on 1 vm events -o jsonl | jq -c '[.revision, .kind, .name, .reason]') <(jq -c '[.revision, .kind, .name, .reason]' "$T/seen")
	[ "$(jq -s '[.[] | select(.reason == "vm-set")] | length' "$T/seen")" = 60 ]
	[ ! -s "$T/seen.err" ]
}

# The position of a line at one server is one at every other.
@test "a watch goes on at another server from where it ended: each version once, in order, the last one whatever happens" {
	local n at=0 i
	cluster_up 3
	for i in a b c; do on 1 vm create "$i" --flake "$BASE#demo" --stopped >/dev/null; done
	(
		for i in {1..30}; do
			for n in a b c; do on $((i % 3 + 1)) vm set "$n" --label "i=$i" >/dev/null 2>&1; done
		done
		on 1 vm delete b >/dev/null 2>&1
		touch "$T/edited"
	) 3>&- &
	WATCHERS+=($!)
	: >"$T/lines"
	n=1
	until has_line "$T/lines" '.type == "deleted"'; do
		n=$((n % 3 + 1)) # each connection takes a few lines, the next one goes elsewhere
		(curl -sSN --max-time 5 --unix-socket "$T/n$n/sock" "http://blix/v1/watch?kind=vm&revision=$at" 2>/dev/null || true) |
			head -n 4 | grep -v '"type":"mark"' >"$T/piece" || true
		cat "$T/piece" >>"$T/lines"
		[ ! -s "$T/piece" ] || at=$(jq -s '[.[].revision] | max' "$T/piece")
		[ "$(wc -l <"$T/lines")" -lt 2000 ]
	done
	# In order, and none twice, over all connections.
	jq -es '[.[].revision] as $r | $r == ($r | sort | unique)' "$T/lines" >/dev/null
	jq -es 'map(select(.type == "object")) | all(.revision == .object.metadata.revision)' "$T/lines" >/dev/null
	# What came last of each is what there is.
	on 1 vm list -o json --consistency linearizable | jq -c '.items[] | [.metadata.name, .metadata.version]' >"$T/is"
	jq -cs 'map(select(.type == "object" and .object.metadata.name != "b")) | group_by(.object.metadata.name)[] |
		max_by(.revision).object.metadata | [.name, .version]' "$T/lines" | diff "$T/is" -
	[ -e "$T/edited" ] || until_true test -e "$T/edited"
}

@test "kinds, names and labels: each watch has its own lines, over one connection" {
	cluster_up 1
	watch_many "$T/w" 1 '{"watches":[{"kind":"vm","name":"web"},{"kind":"vm","labels":"tier=front"},{"kind":"node"},{"kind":"event","name":"db"}]}'
	until_true has_line "$T/w" '.type == "mark"'
	has_line "$T/w" '.watch == 2 and .object.metadata.name == "n1"'
	on 1 vm create web --flake "$BASE#demo" --stopped >/dev/null
	on 1 vm create db --flake "$BASE#demo" --stopped --label tier=front >/dev/null
	on 1 vm set db --label tier=back >/dev/null
	on 1 vm delete web >/dev/null
	until_true has_line "$T/w" '.watch == 0 and .type == "deleted" and .name == "web"'
	until_true has_line "$T/w" '.watch == 1 and .type == "left" and .name == "db"'
	until_true has_line "$T/w" '.watch == 3 and .type == "events" and .events[0].reason == "vm-set"'
	jq -es 'map(select(.watch == 0 and .type == "object")) | length > 0 and all(.object.metadata.name == "web")' "$T/w"
	jq -es 'map(select(.watch == 1 and .type == "object")) | length > 0 and all(.object.metadata.labels.tier == "front")' "$T/w"
	jq -es 'map(select(.watch == 3) | .events[]) | all(.name == "db")' "$T/w"
	server_stop 1
	until_true has_line "$T/w" '.type == "end" and .code == "unavailable"'
}

edits() { # FROM TO: as many events, over a few connections
	curl -sZ --parallel-max 16 --unix-socket "$T/n1/sock" -o /dev/null -d '{"labels":{"a":"b"}}' "http://blix/v1/vms/web/set#[$1-$2]" 2>/dev/null
}

@test "history that does not reach back is gone, said before the answer or in its last line" {
	local revision
	cluster_up 1
	on 1 vm create web --flake "$BASE#demo" --stopped >/dev/null
	revision=$(on 1 vm list -o json | jq .revision)
	# A reader that takes nothing, until the pipe and the socket are full and the ring of events has gone round.
	mkfifo "$T/slow"
	exec 7<>"$T/slow"
	curl -sSN --unix-socket "$T/n1/sock" "http://blix/v1/watch?kind=event&revision=$revision" >"$T/slow" 2>/dev/null 3>&- 7<&- &
	WATCHERS+=($!)
	edits 1 9000
	run ask 1 GET "/v1/watch?kind=event&revision=$revision"
	[ "${lines[0]}" = 410 ]
	[ "$(jq -r '.code + " " + (.retryable | tostring)' <<<"${lines[1]}")" = 'gone false' ]
	run ask 1 POST /v1/watch <<<'{"watches":[{"kind":"node","revision":1},{"kind":"vm","revision":'"$revision"'}]}'
	[ "${lines[0]}" = 410 ]
	[ "$(jq .details.watch <<<"${lines[1]}")" = 1 ]
	cat "$T/slow" >"$T/read" 3>&- 7<&- &
	WATCHERS+=($!)
	until_true test -s "$T/read" # before the pipe loses its other end
	exec 7>&-
	until_true has_line "$T/read" '.type == "end" and .code == "gone" and .watch == 0'
	jq -es '[.[] | select(.type == "events") | .revision] as $r | $r == ($r | sort | unique)' "$T/read" >/dev/null
	[ "$(tail -n 1 "$T/read" | jq -r .type)" = end ]
	# What a client does then: it begins with what there is.
	watch "$T/w" 1 kind=vm
	until_true has_line "$T/w" '.type == "mark"'
	has_line "$T/w" '.object.metadata.name == "web"'
}

@test "blix vm list --watch: the table, then what changes; a lost node's VMs are shown as that" {
	local leader other
	cluster_up 3
	leader=$(leader_of 1)
	other=$(follower "$leader")
	on 1 vm create web --flake "$BASE#demo" --node "n$other" >/dev/null
	on "$leader" vm list --watch --columns name,phase,node >"$T/table" 2>&1 3>&- &
	WATCHERS+=($!)
	on "$leader" vm list --watch -o jsonl -l tier=front >"$T/json" 2>&1 3>&- &
	WATCHERS+=($!)
	until_true grep -qE "^web +Running +n$other" "$T/table"
	grep -qE '^NAME +PHASE +NODE' "$T/table"
	on 1 vm create db --flake "$BASE#demo" --stopped --label tier=front >/dev/null
	on 1 vm set db --label tier=back >/dev/null
	until_true grep -qx 'db  Stopped  -' "$T/table"
	until_true has_line "$T/json" '.metadata.name == "db" and .status.phase == "Left"'
	jq -es 'map(select(.status.phase != "Left")) | length > 0 and all(.metadata.labels.tier == "front")' "$T/json"
	on 1 vm delete db >/dev/null
	until_true grep -qx 'db  Deleted  -' "$T/table"
	server_kill "$other"
	until_true grep -qx "web  Unknown  n$other" "$T/table"
	server_start "$other"
	until_true grep -qx "web  Running  n$other" "$T/table"
}

@test "what a watch may ask is checked, and how many there are" {
	local body
	cluster_up 1
	for body in '{}' '{"watches":[]}' '{"watches":[{}]}' '{"watches":[{"kind":"host"}]}' '{"watches":[7]}' '{"watches":{"kind":"vm"}}' \
		'{"watches":[{"kind":"node","labels":"a=b"}]}' '{"watches":[{"kind":"vm","name":"A"}]}' '{"watches":[{"kind":"vm","more":1}]}' \
		'{"watches":[{"kind":"vm","labels":"="}]}' '{"watches":[{"kind":"vm"}],"heartbeatMs":1}' '{"watches":[{"kind":"vm","revision":-1}]}'; do
		run ask 1 POST /v1/watch <<<"$body"
		[ "${lines[0]}" = 400 ] || { echo "$body: $output" >&2; return 1; }
	done
	for query in '' 'kind=x' 'kind=vm&name=A' 'kind=event&labels=a=b' 'kind=vm&heartbeat=1ms' 'kind=vm&revision=x' 'kind=vm&wait=1s'; do
		run ask 1 GET "/v1/watch?$query"
		[ "${lines[0]}" = 400 ] || { echo "$query: $output" >&2; return 1; }
	done
	run ask 1 POST /v1/watch <<<"{\"watches\":[$(printf '{"kind":"vm"},%.0s' {1..256}){\"kind\":\"vm\"}]}"
	[ "${lines[0]}" = 413 ]
	# 64 connections of 256 are as many as one server holds.
	body="{\"watches\":[$(printf '{"kind":"vm","name":"some-name"},%.0s' {1..255}){\"kind\":\"node\"}]}"
	for n in {1..64}; do watch_many "$T/w.$n" 1 "$body"; done
	for n in {1..64}; do until_true has_line "$T/w.$n" '.type == "mark"'; done
	run ask 1 GET '/v1/watch?kind=vm'
	[ "${lines[0]}" = 503 ]
	[ "$(jq -r .reason <<<"${lines[1]}")" = too-many-watches ]
	# They go with their connections.
	kill "${WATCHERS[0]}"
	until_true watch_is_taken
}

watch_is_taken() {
	(curl -sSN --max-time 1 --unix-socket "$T/n1/sock" 'http://blix/v1/watch?kind=vm' 2>/dev/null || true) | grep -q '"mark"'
}
