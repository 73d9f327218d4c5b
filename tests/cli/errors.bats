#!/usr/bin/env bats
# Bad input on the real blix and blixd: each has its exit code and one message that helps; the daemon goes on.
# Where Nix has to say something, it is the real one with the example guest; else the stand-ins of tests/fake.
# shellcheck disable=SC2034 # PIDS is of helpers.bash

bats_require_minimum_version 1.5.0

setup_file() {
	# Staged once: 15 MB, of which one file may be changed at a time.
	export GUEST
	GUEST=$(mktemp -d /tmp/blix.XXXXXX)
	"$BATS_TEST_DIRNAME/../../examples/debian/stage" "$GUEST/g" || rm -rf "$GUEST/g"
}

teardown_file() {
	rm -rf "$GUEST"
}

setup() {
	load ../cluster/helpers.bash
	servers_setup
	request=$BATS_TEST_DIRNAME/../cluster/request
	REAL=''
}

teardown() {
	servers_teardown
	[ -z "$REAL" ] || rm -rf "/nix/var/nix/gcroots/${T##*/}"
}

# dev [JQ-FILTER]: one daemon by --dev; n1 is its directory.
dev() {
	configure 1
	jq "del(.id, .servers, .cluster, .stateDir, .runDir, .socket, .microvmsDir, .group) | ${1:-.}" "$T/n1/blix.json" >"$T/dev.json"
	blixd --dev --state-dir "$T/n1" --name n1 --config "$T/dev.json" </dev/null >>"$T/n1/log" 2>&1 3>&- &
	PIDS[1]=$!
	export BLIX_ENDPOINT=$T/n1/blix.sock
	until_true eval '[ "$(blix node list -o json 2>/dev/null | jq "[.items[] | select(.status.phase == \"Ready\")] | length")" = 1 ]'
}

# With the machine's own Nix and our microvm command.
dev_real() {
	[ -d "$GUEST/g" ] || skip "the example guest could not be staged"
	REAL=yes
	dev "del(.microvm, .path) | .gcrootsDir = \"/nix/var/nix/gcroots/${T##*/}\" | .nix = {extraConfig: \"sandbox = false\nsubstituters =\"}"
}

# fails CODE TEXT ARGUMENT...: blix ends with CODE, prints nothing on stdout, and says TEXT on a line of its own error.
fails() {
	local code=$1 text=$2
	shift 2
	run --separate-stderr blix "$@"
	echo "$status: $stderr"
	[ "$status" -eq "$code" ]
	[ -z "$output" ]
	[[ $stderr == *"blix: "*"$text"* ]]
	[ "$(grep -c '^blix: ' <<<"$stderr")" -eq 1 ]
}

hints() { # TEXT
	[[ $stderr == *"hint: "*"$1"* ]]
}

nothing_left() {
	[ -z "$(vm_processes_alive)" ]
	[ -z "$(find "$T"/n1/microvms "$T"/n1/run/vms "$T"/n1/vms "$T"/n1/tmp -mindepth 1 ! -path '*/.fake*' 2>/dev/null)" ]
}

@test "unknown verbs and flags: 64, with a near one" {
	fails 64 "unknown verb 'craete'" vm craete web
	hints "did you mean 'blix vm create'?"
	fails 64 "unknown command 'vn'" vn list
	hints "did you mean 'blix vm'?"
	fails 64 "unknown option '--memry'" vm create web --flake github:a/b --memry 1GiB
	hints "did you mean '--memory'?"
	fails 64 "needs --flake" vm create web
	hints "for example: blix vm create"
	run --separate-stderr blixd --dev
	[ "$status" -eq 64 ]
	[[ $stderr == *"--dev needs --state-dir"* ]]
	run --separate-stderr blixd --nonsense
	[ "$status" -eq 64 ]
}

@test "no daemon: 69 at once, and how to look" {
	local began=$SECONDS
	export BLIX_ENDPOINT=$T/none
	fails 69 "no daemon answers at $T/none" vm list
	hints "is blixd running?"
	fails 69 "no daemon answers at $T/none" vm create web --flake github:a/b
	[ $((SECONDS - began)) -le 5 ]
}

@test "bad configuration: 78, names the key" {
	echo '{"electionTimeout": 5}' >"$T/bad.json"
	run --separate-stderr blixd --config "$T/bad.json"
	[ "$status" -eq 78 ]
	[[ $stderr == "blixd: $T/bad.json: unknown key 'electionTimeout'"* ]]
	echo '{' >"$T/bad.json"
	run --separate-stderr blixd --config "$T/bad.json"
	[ "$status" -eq 78 ]
	run --separate-stderr blixd --config "$T/none.json"
	[ "$status" -ne 0 ]
	[[ $stderr == *"$T/none.json"* ]]
}

@test "a second daemon on the same directory: 75, says why; the first goes on" {
	dev
	run --separate-stderr blixd --dev --state-dir "$T/n1" --config "$T/dev.json"
	[ "$status" -eq 75 ]
	[[ $stderr == *"hint: another blixd uses this state directory"* ]]
	blix vm list
	server_stop 1
}

@test "bad and duplicate names: 64 and 4, and nothing is created" {
	dev
	for name in Web -web web- a_b 'a b' 'a;b' ../x "$(printf 'a%.0s' {1..64})" ''; do
		fails 64 "" vm create --flake "$BASE#demo" -- "$name"
	done
	[ -z "$(blix vm list -o name)" ]
	blix vm create web --flake "$BASE#demo" --timeout 30s
	fails 4 "vm web: " vm create web --flake "$BASE#demo"
	fails 3 "no such VM" vm show nobody
	fails 3 "no such VM" vm stop nobody
	fails 3 "no such VM" vm delete nobody
	fails 3 "no such VM" vm why nobody
	fails 3 "no such node" node show nobody
	blix vm delete web --timeout 30s
	nothing_left
	server_stop 1
}

@test "bad values: 64, naming the flag and what is wrong" {
	dev
	fails 64 "--cpus" vm create web --flake "$BASE#demo" --cpus 0
	fails 64 "--memory" vm create web --flake "$BASE#demo" --memory lots
	fails 64 "ready" vm create web --flake "$BASE#demo" --ready maybe
	fails 64 "hypervisor" vm create web --flake "$BASE#demo" --hypervisor 'q;emu'
	fails 64 "--node" vm create web --flake "$BASE#demo" --node 'N 1'
	fails 64 "--label" vm create web --flake "$BASE#demo" --label 'a;b=c'
	fails 64 "--flake" vm create web --flake 'git+file:///x${y}#z'
	fails 64 "" vm create web --flake "$BASE#a.b;c"
	fails 64 "unknown column 'colour'" vm list --columns name,colour
	[ -z "$(blix vm list -o name)" ]
	server_stop 1
}

@test "a foreign directory is refused and never written to" {
	dev
	mkdir -p "$T/n1/microvms/web"
	echo precious >"$T/n1/microvms/web/disk.img"
	find "$T/n1/microvms/web" -printf '%p %T@ %s\n' | sort >"$T/before"
	run --separate-stderr blix vm create web --flake "$BASE#demo" --timeout 30s
	[ "$status" -eq 4 ]
	[[ $stderr == *"that blix did not make is on the node"* ]]
	hints "choose another name"
	[[ $(blix vm why web) == *foreign-directory* ]]
	blix vm delete web --timeout 30s
	find "$T/n1/microvms/web" -printf '%p %T@ %s\n' | sort | diff "$T/before" -
	[ "$(cat "$T/n1/microvms/web/disk.img")" = precious ]
	server_stop 1
}

@test "no room: 6, and why lists each node" {
	dev '.capacity = {cpus: 2, memoryBytes: 536870912}'
	run --separate-stderr blix vm create big --flake "$BASE#demo" --memory 4GiB --timeout 30s
	[ "$status" -eq 6 ]
	[[ $stderr == *"blix: vm big: "*memory* ]]
	hints "blix vm why big"
	run blix vm why big
	[[ $output == *"n1"*"no"*"memory"* ]]
	run --separate-stderr blix vm create many --flake "$BASE#demo" --cpus 9 --timeout 30s
	[ "$status" -eq 6 ]
	run --separate-stderr blix vm create there --flake "$BASE#demo" --node n7 --timeout 30s
	[ "$status" -eq 6 ]
	blix vm delete big many there --timeout 30s
	nothing_left
	server_stop 1
}

@test "a runner that exits at once, or fails: 9, with the last words of its console" {
	dev
	echo exit1 >"$T/n1/microvms/.fake/web"
	run --separate-stderr blix vm create web --flake "$BASE#demo" --timeout 30s
	[ "$status" -eq 9 ]
	[[ $stderr == *"fake: cannot start"* ]]
	hints "blix vm logs web"
	[[ $(blix vm logs web) == *"fake: cannot start"* ]]
	[[ $(blix vm why web) == *runner-exited*start:* ]]
	# Mended, it starts by the verb that the hint names.
	rm "$T/n1/microvms/.fake/web"
	blix vm start web --timeout 30s
	blix vm delete web --timeout 30s
	nothing_left
	server_stop 1
}

@test "a guest that never becomes ready: 10 when the time is up; the VM runs on" {
	dev
	echo silent >"$T/n1/microvms/.fake/web"
	run --separate-stderr blix vm create web --flake "$BASE#demo" --ready console:ready --timeout 3s
	[ "$status" -eq 10 ]
	[[ $stderr == *"blix: vm web: it runs but is not ready in time"* ]]
	[ "$(blix vm show web -o json | jq -r .status.phase)" = Running ]
	run --separate-stderr blix wait vm/web --for=stopped --timeout 1s
	[ "$status" -eq 124 ]
	hints "blix wait vm/web --for=stopped"
	blix vm delete web --timeout 30s
	nothing_left
	server_stop 1
}

@test "a microvm command that fails, dies, lies or says nothing: judged by what it left" {
	dev
	for mode in fail nothing; do
		echo $mode >"$T/n1/microvms/.fake/$mode"
		run --separate-stderr blix vm create "$mode" --flake "$BASE#demo" --timeout 60s
		echo "$mode $status $stderr"
		[ "$status" -eq 8 ]
		blix vm delete "$mode" --timeout 30s
	done
	for mode in fail-once die-once lie flood; do
		echo $mode >"$T/n1/microvms/.fake/$mode"
		blix vm create "$mode" --flake "$BASE#demo" --timeout 60s
		blix vm delete "$mode" --timeout 30s
	done
	rm -f "$T/n1/microvms/.fake"/*.once
	nothing_left
	server_stop 1
}

@test "a flake that is missing, does not evaluate or lacks the attribute: 8, in Nix's words" {
	dev_real
	fails 8 "there is no such directory" vm create web --flake "$T/nowhere#demo"
	mkdir "$T/empty"
	fails 8 "no readable flake.nix" vm create web --flake "$T/empty#demo"
	mkdir "$T/syntax"
	echo '{ outputs = { self }: { nixosConfigurations = ; }; }' >"$T/syntax/flake.nix"
	run --separate-stderr blix vm create web --flake "$T/syntax#demo" --timeout 60s
	[ "$status" -eq 8 ]
	[[ $stderr == *"syntax error"* ]]
	# It is found out by the client or by the node; what the node took is deleted.
	blix vm delete --all --yes --timeout 30s
	run --separate-stderr blix vm create web --flake "$GUEST/g#nobody" --timeout 60s
	echo "$status: $stderr"
	[ "$status" -eq 8 ]
	[[ $stderr == *"nobody"* ]]
	[ "$(blix vm show web -o json | jq -r .status.phase)" = Failed ]
	blix vm delete web --timeout 30s
	mkdir "$T/throws"
	echo '{ outputs = { self }: { nixosConfigurations.demo = throw "not on a Monday"; }; }' >"$T/throws/flake.nix"
	run --separate-stderr blix vm create web --flake "$T/throws#demo" --timeout 60s
	[ "$status" -eq 8 ]
	[[ $stderr == *"not on a Monday"* ]]
	blix vm delete web --timeout 30s
	nothing_left
	server_stop 1
}

@test "a build that fails: 8, with the last lines of its log; nothing is left of it" {
	dev_real
	run --separate-stderr blix vm create web --flake "$GUEST/g#broken" --timeout 60s
	echo "$status: $stderr"
	[ "$status" -eq 8 ]
	[[ $stderr == *"guest.c:7: error: this guest is broken on purpose"* ]]
	[[ $(blix vm why web) == *"broken on purpose"* ]]
	blix vm delete web --timeout 30s
	nothing_left
	[ -z "$(find "/nix/var/nix/gcroots/${T##*/}" -mindepth 1 2>/dev/null)" ]
	server_stop 1
}

@test "a real runner that exits at once: 9, with what it said" {
	dev_real
	run --separate-stderr blix vm create web --flake "$GUEST/g#exits" --timeout 60s
	echo "$status: $stderr"
	[ "$status" -eq 9 ]
	blix vm delete web --timeout 30s
	nothing_left
	server_stop 1
}

@test "a real guest that never says that it is ready: 10" {
	dev_real
	run --separate-stderr blix vm create web --flake "$GUEST/g#mute" --ready 'console:blix: ready' --timeout 6s
	echo "$status: $stderr"
	[ "$status" -eq 10 ]
	blix vm delete web --force --timeout 30s
	nothing_left
	server_stop 1
}

# refuses STATUS CODE: the answer that is in $output
refuses() {
	echo "$output"
	[ "${lines[0]}" = "$1" ]
	[ "$(sed 1d <<<"$output" | jq -r .code)" = "$2" ]
	[ -n "$(sed 1d <<<"$output" | jq -r .message)" ]
}

@test "malformed, deep, huge and truncated JSON: an error object each, and the daemon goes on" {
	local socket deep wide
	dev
	socket=$BLIX_ENDPOINT
	for body in '{' '' 'nul' '[]' '"x"' '{"a":1}x' '{"a":}' '{"metadata":{"name":"web"},"metadata":{"name":"web"}}' $'{"a":"\x01"}' $'\xff\xfe' '{"a":1e999}'; do
		run "$request" "$socket" POST /v1/vms < <(printf %s "$body")
		refuses 400 invalid
	done
	run "$request" "$socket" POST /v1/vms < <(printf '{"metadata":{"name":"web"},"spec":{"flake":"%s","attr":"demo","colour":"red"}}' "$BASE")
	refuses 400 invalid
	[[ $output == *"colour"* ]]
	deep=$(printf '[%.0s' {1..5000})
	run "$request" "$socket" POST /v1/vms <<<"$deep"
	refuses 400 invalid
	run "$request" "$socket" POST /v1/vms < <(printf '{"a":'; printf '[%.0s' {1..100}; printf ']%.0s' {1..100}; printf '}')
	refuses 400 invalid
	wide=$(seq -s, 1 20000)
	run "$request" "$socket" POST /v1/vms <<<"[$wide]"
	refuses 413 too-big
	run "$request" "$socket" POST /v1/vms < <(head -c 3000000 /dev/zero | tr '\0' ' ')
	refuses 413 too-big
	# Announced, but never sent.
	CUT=10 run "$request" "$socket" POST /v1/vms <<<'{"metadata":{"name":"cut"},"spec":{}}'
	[ "${lines[0]}" = none ]
	RAW=1 run "$request" "$socket" POST / < <(printf 'garbage\r\n\r\n')
	[[ ${lines[0]} == 400 || ${lines[0]} == none ]]
	run "$request" "$socket" GET /v2/nothing
	refuses 404 not-found
	run "$request" "$socket" PUT /v1/vms <<<'{}'
	[[ ${lines[0]} == 40[45] ]]
	run "$request" "$socket" GET '/v1/vms?view=x'
	refuses 400 invalid
	run "$request" "$socket" POST /v1/vms 'Blix-Session: 5' <<<'{}'
	[ "${lines[0]}" = 400 ]
	[ -z "$(blix vm list -o name)" ]
	server_stop 1
}

@test "with -o json an error is one object with the same code" {
	dev
	run --separate-stderr blix vm show nobody -o json
	[ "$status" -eq 3 ]
	[ "$(jq -r '[.code, .reason, .retryable, .definite] | @csv' <<<"$stderr")" = '"not-found","vm-missing",false,true' ]
	server_stop 1
}
